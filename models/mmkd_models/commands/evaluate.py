"""`mmkd-evaluate`: how good a teacher or a student is on a dataset, and what is left of it when sensors drop out."""

from __future__ import annotations

from mmkd_edge.cli.interrupts import loading

with loading("mmkd-evaluate"):
    from collections.abc import Mapping, Sequence
    from dataclasses import dataclass
    from functools import partial
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, get_args

    import msgspec
    import numpy as np

    from mmkd_edge.bundle.bundle import Bundle
    from mmkd_edge.cli.options import Argument, Command, Option, run_line
    from mmkd_edge.cli.run import check_page, require_modules, run_command, shell_line
    from mmkd_edge.cli.show import json_text, say
    from mmkd_edge.errors import UsageError
    from mmkd_models.commands.evaluation import show_bundle, show_evaluation, show_kind
    from mmkd_models.commands.options import Data
    from mmkd_models.commands.shift import ShiftOptions
    from mmkd_models.commands.suites import Judging, SuiteOptions, ask_share, chosen_suites, makes_shift, run_suites
    from mmkd_models.data.dataset import Dataset, open_dataset
    from mmkd_models.data.folds import fold_indices
    from mmkd_models.data.spec import SplitName
    from mmkd_models.data.windows import Windows
    from mmkd_models.evaluation.bundle import evaluate_bundle
    from mmkd_models.evaluation.confidence import ERROR_LEVELS
    from mmkd_models.evaluation.seen import check_seen, split_judged
    from mmkd_models.metrics.classes import Metric
    from mmkd_models.networks.config import choice
    from mmkd_report.schema.evaluation import DataFacts, SeenWindows

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.evaluation.report import Contestant
    from mmkd_report.schema.evaluation import EvaluationDocument

_ABOUT = "Judge a teacher or a student on a dataset, also with sensors, samples and whole spans missing."
_NEEDS = ("torch", "safetensors", "lightning_fabric")


def main() -> NoReturn:
    """Runs `mmkd-evaluate`."""
    run_command("mmkd-evaluate", run_evaluate, needs=("typer", "rich"), extra="train", about=_ABOUT)


def run_evaluate(arguments: Sequence[str]) -> None:
    """Runs `mmkd-evaluate` with these arguments."""
    asked = next((one for one in arguments if one.partition("=")[0] == "--sensors"), None)
    if asked is not None:
        from mmkd_export.commands.sensors import run_sensors

        data = [asked.partition("=")[2]] if "=" in asked else []
        run_sensors([*data, *(one for one in arguments if one != asked)])
        return
    epilog = (
        "Example: mmkd-evaluate student.ckpt mydata --missing --against baseline.ckpt --page page.html. Before there "
        "is a model, mmkd-evaluate --sensors mydata asks which sensor is enough; mmkd-evaluate --sensors --help."
    )
    run_line("mmkd-evaluate", arguments, [Command(function=evaluate, epilog=epilog)])


@dataclass(frozen=True, kw_only=True)
class JudgedOptions:
    """With which windows."""

    split: Annotated[str, Option("Windows to judge with: train, valid or test.", metavar="NAME")] = "test"
    fold: Annotated[int | None, Option("Judge with the test windows of fold N, not with a split.", min=0)] = None
    training_windows: Annotated[
        bool, Option("Score windows that trained the model all the same, and say so.", ("--training-windows",))
    ] = False

    @property
    def given(self) -> dict[str, bool]:
        """Gives by option whether it was given, and says something."""
        return {
            "--split": self.split != "test",
            "--fold": self.fold is not None,
            "--training-windows": self.training_windows,
        }


def evaluate(
    *,
    model: Annotated[Path, Argument("MODEL", "Checkpoint of a teacher or a student, or a bundle.")],
    data: Data,
    missing: Annotated[
        bool,
        Option(
            "Also hide sensors: every subset of a teacher's modalities, 0 to 90 % of the samples, and bursts.",
            ("--missing",),
        ),
    ] = False,
    against: Annotated[
        list[Path] | None,
        Option(
            "Another checkpoint, judged on the same windows with the same gaps. With --suite also bundles, repeatable.",
            metavar="OTHER",
        ),
    ] = None,
    suites: SuiteOptions,
    anew: ShiftOptions,
    judged: JudgedOptions,
    metric: Annotated[
        str | None,
        Option("What gains are of: accuracy, balanced_accuracy or macro_f1; default the model's own.", metavar="NAME"),
    ] = None,
    seed: Annotated[int, Option("Which samples go missing; seed of the intervals.", min=0)] = 0,
    error_levels: Annotated[
        list[float] | None,
        Option("Of a bundle: check its label sets at it. Repeatable.", ("--error-level",), "SHARE"),
    ] = None,
    page: Annotated[
        Path | None, Option("Also write the curves as one self-contained page.", metavar="FILE.html")
    ] = None,
    as_json: Annotated[bool, Option("Print one JSON document instead of tables.", ("--json",))] = False,
) -> None:
    """Judge a teacher or a student on a dataset, also with sensors, samples and whole spans missing.

    Of a bundle: every artifact as a device runs it, and whether its probabilities and label sets hold.
    """
    from mmkd_export.plan import is_bundle

    if page is not None:
        check_page(page, extra="train")
    of_classes = {"--missing": missing, "--metric": metric}
    if suites.suite:
        _refuse(
            {**of_classes, "--error-level": error_levels},
            "expected no --suite beside it, whose figures are its own; leave one of them out",
        )
        paths = (model, *(against or ()))
        line = _Line(paths=paths, data=data, judged=judged, suites=suites, anew=anew, seed=seed)
        _judge_by_suites(line, page=page, as_json=as_json)
        return
    _refuse_without_suite(suites, anew)
    if is_bundle(model):
        _refuse(
            {**of_classes, "--page": page, "--against": against},
            "expected a checkpoint, got a bundle; judge the checkpoint it was exported from",
        )
        _evaluate_bundle(model, data, judged, error_levels=error_levels, as_json=as_json)
        return
    if error_levels:
        raise UsageError(f"{model}: --error-level: expected a bundle, whose label sets it checks; export one first")
    asked = _Scores(model=model, data=data, others=tuple(against or ()), judged=judged, missing=missing, seed=seed)
    _evaluate_checkpoint(asked, metric=metric, page=page, as_json=as_json)


def _refuse_without_suite(suites: SuiteOptions, anew: ShiftOptions) -> None:
    _refuse({"--by": suites.by}, "expected --suite groups or shift beside it, whose column it is; add it")
    _refuse({"--out": anew.out}, "expected --suite beside it, whose work it keeps; add one")
    _refuse({"--workers": anew.workers > 1}, "expected --suite beside it, whose work is shared; add one")
    _refuse(anew.of_shift, "expected --suite shift beside it; add it")
    _refuse({"--cost": suites.cost}, "expected --suite cost beside it; add it")
    _refuse({"--rival": suites.rival}, "expected --suite beside it, by which it is judged; add one")


@dataclass(frozen=True, kw_only=True)
class _Scores:
    """Of which checkpoints scores are asked for, and on what."""

    model: Path
    data: Path
    others: tuple[Path, ...]
    judged: JudgedOptions
    missing: bool
    seed: int


def _evaluate_checkpoint(asked: _Scores, *, metric: str | None, page: Path | None, as_json: bool) -> None:
    require_modules(_NEEDS, by="mmkd-evaluate of a checkpoint", extra="train")
    from mmkd_models.evaluation import report as reports

    model, others, judged = asked.model, asked.others, asked.judged
    if len(others) > 1:
        raise UsageError(
            f"--against {others[1]}: expected one model beside {model}, got {len(others)}; give --suite to have more"
        )
    dataset = open_dataset(asked.data)
    windows, part = _windows(dataset, judged)
    known = None if judged.training_windows else part
    contestants = [_contestant(path, dataset, windows, known) for path in (model, *others)]
    facts = _data_facts(dataset, windows, part, judged, seen=[one.seen for one in contestants])
    kind = dataset.spec.task.kind
    if kind != "classification":
        _refuse(
            {"--missing": asked.missing, "--metric": metric, "--page": page},
            f"expected a dataset of classes, got one of the kind {kind}, for which there are scores of a checkpoint "
            "and of --against alone; leave it out",
        )
        show_kind(contestants, windows, data=facts, as_json=as_json, seed=asked.seed)
        return
    wanted = contestants[0].checkpoint.facts.metric if metric is None else metric
    chosen: Metric = choice(wanted, get_args(Metric), option="--metric")
    report = reports.evaluate(
        contestants[0],
        windows,
        against=contestants[1] if others else None,
        data=facts,
        metric=chosen,
        missing=asked.missing,
        seed=asked.seed,
        on_part=say,
    )
    _show_report(report, asked.data, page=page, as_json=as_json)


def _show_report(report: EvaluationDocument, data: Path, *, page: Path | None, as_json: bool) -> None:
    if page is not None:
        from mmkd_report import render_evaluation, write_page

        write_page(page, render_evaluation(msgspec.to_builtins(report)))
    if as_json:
        print(json_text(report))
        return
    show_evaluation(report)
    print(f"{'' if page is None else f'wrote {page}; '}next: {_next_command(report, data)}")


@dataclass(frozen=True, kw_only=True)
class _Line:
    """What was asked for by suites; it can be pickled."""

    paths: tuple[Path, ...]
    data: Path
    judged: JudgedOptions
    suites: SuiteOptions
    anew: ShiftOptions
    seed: int


def _judge_by_suites(line: _Line, *, page: Path | None, as_json: bool) -> None:
    suites = chosen_suites(line.suites.suite or ())
    if not makes_shift(line.suites, line.anew):
        _refuse(line.anew.of_shift, "expected --suite shift beside it; add it")
    if suites == ("shift",):
        _refuse(
            line.judged.given,
            "expected another --suite beside shift, which judges on each domain in turn; leave it out",
        )
    if line.anew.out is None and line.anew.workers > 1:
        raise UsageError("--workers: expected -o DIR, by which workers share their work, got none; name a folder")
    side_by_side = None if line.anew.workers == 1 else partial(_ask_share, line)
    run_suites(_asked(line), side_by_side=side_by_side, page=page, as_json=as_json)


def _ask_share(line: _Line, number: int, on_step: object) -> None:
    """Asks the models the portions of one worker."""
    ask_share(_asked(line), number)


def _asked(line: _Line) -> Judging:
    """Opens what the line names."""
    from mmkd_export.plan import is_bundle

    _refuse_twice(line.paths)
    checkpoints = [path for path in line.paths if not is_bundle(path)]
    if checkpoints or line.anew.workers > 1:
        require_modules(_NEEDS, by="mmkd-evaluate of a checkpoint", extra="train")
    dataset, judged = open_dataset(line.data), line.judged
    windows, part = _windows(dataset, judged)
    knows = judged.training_windows or chosen_suites(line.suites.suite or ()) == ("shift",)  # judges others, made anew
    known = None if knows else part
    costs = line.suites.cost is not None and "cost" in chosen_suites(line.suites.suite or ())
    contestants = {path: _contestant(path, dataset, windows, known, costs=costs) for path in checkpoints}
    bundles = {
        path: _seen_by_bundle(path, dataset, windows, known, costs=costs)
        for path in line.paths
        if path not in contestants
    }
    seen = [one.seen for one in contestants.values()]
    seen += [one for students in bundles.values() for one in students.values()]
    return Judging(
        judged=[contestants.get(path, path) for path in line.paths],
        windows=windows,
        train=_other_windows(dataset, judged, "train"),
        calibration=_other_windows(dataset, judged, "valid"),
        bundles=bundles,
        data=_data_facts(dataset, windows, part, judged, seen=seen),
        options=line.suites,
        dataset=dataset,
        anew=line.anew,
        seed=line.seed,
    )


def _refuse_twice(paths: Sequence[Path]) -> None:
    """Raises UsageError where a file is there twice: its models could not be told apart."""
    for number, path in enumerate(paths):
        if path.resolve() in [one.resolve() for one in paths[:number]]:
            raise UsageError(
                f"--against {path}: expected other models, got a file that is named before; name each once"
            )


def _other_windows(dataset: Dataset, judged: JudgedOptions, part: Literal["train", "valid"]) -> Windows:
    """The windows that trained, or the labelled ones that chose, of the same split or fold."""
    if judged.fold is None:
        windows = dataset.split(part)
    else:
        everything = dataset.everything()
        windows = everything.subset(getattr(fold_indices(everything, fold=judged.fold, seed=0), part))
    return windows if part == "train" else windows.subset(np.flatnonzero(windows.labelled))


def _refuse(given: Mapping[str, object], why: str) -> None:
    """Raises UsageError where one of the options was given, and does not fit."""
    for name, value in given.items():
        if value:
            raise UsageError(f"{name}: {why}")


def _evaluate_bundle(
    path: Path, data: Path, judged: JudgedOptions, *, error_levels: Sequence[float] | None, as_json: bool
) -> None:
    levels = tuple(dict.fromkeys(error_levels or ERROR_LEVELS))
    for level in levels:
        if not 0 < level < 1:
            raise UsageError(f"--error-level {level:g}: expected a share above 0 and below 1")
    dataset = open_dataset(data)
    kind = dataset.spec.task.kind
    if kind != "classification":
        raise UsageError(f"{path}: expected a dataset of classes, got one of {kind}; judge the bundle's checkpoint")
    windows, part = _windows(dataset, judged)
    seen = _seen_by_bundle(path, dataset, windows, None if judged.training_windows else part)
    facts = _data_facts(dataset, windows, part, judged, seen=list(seen.values()))
    report = evaluate_bundle(path, windows, data=facts, seen=seen, error_levels=levels, on_part=say)
    if as_json:
        print(json_text(report))
        return
    show_bundle(report)
    print(f"next: {shell_line('mmkd-bench', 'run', path)}")


def _windows(dataset: Dataset, judged: JudgedOptions) -> tuple[Windows, str]:
    """The labelled windows to judge with, and what they are called."""
    if judged.fold is not None:
        everything = dataset.everything()
        rows = fold_indices(everything, fold=judged.fold, seed=0).test
        return everything.subset(rows), f"test windows of fold {judged.fold}"
    name: SplitName = choice(judged.split, get_args(SplitName), option="--split")
    windows = dataset.split(name)
    known = windows.subset(np.flatnonzero(windows.labelled))
    if len(known) == 0:
        raise UsageError(f"{dataset.path}: split {name}: expected labelled windows, got none; name another --split")
    return known, f"{name} windows"


def _contestant(path: Path, dataset: Dataset, windows: Windows, part: str | None, *, costs: bool = False) -> Contestant:
    """Reads a checkpoint; refuses one that was trained on these windows, unless there is no `part` to name them by."""
    from mmkd_models.evaluation.report import Contestant
    from mmkd_models.tensors import kind_of
    from mmkd_models.training.checkpoint import TeacherCheckpoint, file_sha256, read_student, read_teacher

    kind = kind_of(path)
    if kind == "teacher-set":
        raise UsageError(
            f"{path}: expected one teacher or student, got out-of-fold teachers, which answer for the windows they "
            "were cross-fitted on alone; mmkd-inspect shows their out-of-fold score, mmkd-train teacher trains one to "
            "judge"
        )
    checkpoint = read_teacher(path) if kind == "teacher" else read_student(path)
    modality = checkpoint.modalities[0] if isinstance(checkpoint, TeacherCheckpoint) else checkpoint.modality
    seen = check_seen(str(path), checkpoint.facts, modality.name, dataset, windows, part=part, costs=costs)
    return Contestant(path=str(path), sha256=file_sha256(path), checkpoint=checkpoint, seen=seen)


def _seen_by_bundle(
    path: Path, dataset: Dataset, windows: Windows, part: str | None, *, costs: bool = False
) -> dict[str, SeenWindows | None]:
    """What each student of a bundle knows of the windows, by its name; refuses as `_contestant`."""
    with Bundle.open(path) as bundle:
        return {
            entry.name: check_seen(str(path), entry, entry.modality.name, dataset, windows, part=part, costs=costs)
            for entry in bundle.manifest.models
        }


def _data_facts(
    dataset: Dataset, windows: Windows, part: str, judged: JudgedOptions, *, seen: Sequence[SeenWindows | None]
) -> DataFacts:
    """What is reported of the windows, which the models know this much of."""
    return DataFacts(
        name=dataset.spec.name,
        sha256=dataset.sha256,
        part=part,
        windows=len(windows),
        groups=windows.group_count,
        split=split_judged(dataset, seen, split="test" if judged.fold is not None else judged.split, part=part),
        labels=dataset.spec.task.labels,
    )


def _next_command(report: EvaluationDocument, data: Path) -> str:
    name = report.model.path
    if not (report.samples or report.subsets):
        return shell_line("mmkd-evaluate", name, data, "--missing")
    if report.model.kind == "teacher":
        return shell_line("mmkd-distill", name, data, "--modality", report.model.modalities[0], "-o", "student.ckpt")
    return shell_line("mmkd-export", name)
