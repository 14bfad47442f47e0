"""`mmkd-evaluate`: how good a teacher or a student is on a dataset, and what is left of it when sensors drop out."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from mmkd_edge.command.help import command_app, command_class
from mmkd_edge.command.run import check_page, require_modules, shell_line
from mmkd_edge.command.tables import WholeWords
from mmkd_edge.errors import UsageError
from mmkd_models.commands.evaluate_bundle import show_bundle
from mmkd_models.commands.evaluate_kinds import evaluate_kind, refuse_options
from mmkd_models.data.dataset import Dataset, open_dataset
from mmkd_models.data.folds import fold_indices
from mmkd_models.data.spec import SplitName
from mmkd_models.data.split import OF_GROUPS
from mmkd_models.data.windows import Windows
from mmkd_models.evaluate.bundle import evaluate_bundle
from mmkd_models.evaluate.confidence import ERROR_LEVELS
from mmkd_models.evaluate.gains import interval_needs
from mmkd_models.evaluate.seen import refuse_seen, split_judged, windows_seen
from mmkd_models.metrics.classes import Metric
from mmkd_models.metrics.measures import measure_named
from mmkd_models.networks.config import choice
from mmkd_report.documents.evaluation import DataFacts, Seen

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.evaluate.report import Contestant
    from mmkd_report.documents.evaluation import EvaluationDocument, Judgement

_WIDTH_WITHOUT_TERMINAL = 160

_NEEDS = ("torch", "safetensors", "lightning_fabric")

_evaluate = command_app()


def run_evaluate(arguments: Sequence[str]) -> None:
    """Runs `mmkd-evaluate` with these arguments."""
    _evaluate(args=list(arguments), prog_name="mmkd-evaluate")


@_evaluate.command(
    cls=command_class(),
    epilog="Example: mmkd-evaluate student.ckpt mydata --missing --against baseline.ckpt --page page.html",
)
def evaluate_(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Checkpoint of a teacher or a student, or a bundle.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Dataset directory; see mmkd-data.")],
    missing: Annotated[
        bool,
        typer.Option(
            "--missing",
            help="Also hide sensors: every subset of a teacher's modalities, 0 to 90 % of the samples, and bursts.",
        ),
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(metavar="OTHER.ckpt", help="Another checkpoint, judged on the same windows with the same gaps."),
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Windows to judge with: train, valid or test.")] = "test",
    fold: Annotated[
        int | None,
        typer.Option(help="Judge with the test windows of fold N, not with a split.", min=0),
    ] = None,
    training_windows: Annotated[
        bool,
        typer.Option("--training-windows", help="Score windows that trained the model all the same, and say so."),
    ] = False,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What gains are of: accuracy, balanced_accuracy or macro_f1; default the model's own.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Which samples go missing; seed of the intervals.", min=0)] = 0,
    error_levels: Annotated[
        list[float] | None,
        typer.Option("--error-level", metavar="SHARE", help="Of a bundle: check its label sets at it. Repeatable."),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Also write the curves as one self-contained page.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Judge a teacher or a student on a dataset, also with sensors, samples and whole spans missing.

    Of a bundle: every artifact as a device runs it, and whether its probabilities and label sets hold.
    """
    from mmkd_export.plan import is_bundle

    if is_bundle(model):
        _check_bundle_options(
            {
                "--missing": missing,
                "--against": against,
                "--training-windows": training_windows,
                "--metric": metric,
                "--page": page,
            }
        )
        _evaluate_bundle(model, data, split=split, fold=fold, error_levels=error_levels, as_json=as_json)
        return
    require_modules(_NEEDS, by="mmkd-evaluate of a checkpoint", extra="train")
    from mmkd_models.evaluate.report import evaluate

    if error_levels:
        raise UsageError(f"{model}: --error-level: expected a bundle, whose label sets it checks; export one first")
    if page is not None:
        check_page(page, extra="train")
    dataset = open_dataset(data)
    windows, part = _windows(dataset, split=split, fold=fold)
    judged = [
        _contestant(path, dataset, windows, None if training_windows else part)
        for path in (model, against)
        if path is not None
    ]
    subject, other = judged[0], judged[1] if len(judged) > 1 else None
    seen = [one.seen for one in judged]
    facts = _data_facts(dataset, windows, part, seen, split="test" if fold is not None else split)
    kind = dataset.spec.task.kind
    if kind != "classification":
        refuse_options({"--missing": missing, "--metric": metric, "--page": page}, kind=kind)
        evaluate_kind(judged, windows, data=facts, as_json=as_json, console=_console(), seed=seed)
        return
    wanted = subject.checkpoint.facts.metric if metric is None else metric
    chosen: Metric = choice(wanted, get_args(Metric), option="--metric")
    report = evaluate(
        subject,
        windows,
        against=other,
        data=facts,
        metric=chosen,
        missing=missing,
        seed=seed,
        on_part=_say,
    )
    if page is not None:
        from mmkd_report import render_evaluation, write_page

        write_page(page, render_evaluation(msgspec.to_builtins(report)))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
        return
    _show(report)
    print(f"{'' if page is None else f'wrote {page}; '}next: {_next_command(report, data)}")


def _check_bundle_options(given: Mapping[str, object]) -> None:
    """Raises UsageError where an option was given that is of checkpoints alone."""
    for name, value in given.items():
        if value:
            raise UsageError(f"{name}: expected a checkpoint, got a bundle; judge the checkpoint it was exported from")


def _evaluate_bundle(
    path: Path, data: Path, *, split: str, fold: int | None, error_levels: Sequence[float] | None, as_json: bool
) -> None:
    levels = tuple(dict.fromkeys(error_levels or ERROR_LEVELS))
    for level in levels:
        if not 0 < level < 1:
            raise UsageError(f"--error-level {level:g}: expected a share above 0 and below 1")
    dataset = open_dataset(data)
    kind = dataset.spec.task.kind
    if kind != "classification":
        raise UsageError(f"{path}: expected a dataset of classes, got one of {kind}; judge the bundle's checkpoint")
    windows, part = _windows(dataset, split=split, fold=fold)
    facts = _data_facts(dataset, windows, part, [None], split="test" if fold is not None else split)
    report = evaluate_bundle(path, windows, data=facts, error_levels=levels, on_part=_say)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
        return
    show_bundle(report, _console())
    print(f"next: {shell_line('mmkd-bench', 'run', path)}")


def _windows(dataset: Dataset, *, split: str, fold: int | None) -> tuple[Windows, str]:
    """The labelled windows to judge with, and what they are called."""
    if fold is not None:
        everything = dataset.everything()
        return everything.subset(fold_indices(everything, fold=fold, seed=0).test), f"test windows of fold {fold}"
    name: SplitName = choice(split, get_args(SplitName), option="--split")
    windows = dataset.split(name)
    known = windows.subset(np.flatnonzero(windows.labelled))
    if len(known) == 0:
        raise UsageError(f"{dataset.path}: split {name}: expected labelled windows, got none; name another --split")
    return known, f"{name} windows"


def _contestant(path: Path, dataset: Dataset, windows: Windows, part: str | None) -> Contestant:
    """Reads a checkpoint; refuses one that was trained on these windows, unless there is no `part` to name them by."""
    from mmkd_models.evaluate.report import Contestant
    from mmkd_models.tensors import kind_of
    from mmkd_models.training.checkpoint import file_sha256, read_student, read_teacher

    kind = kind_of(path)
    if kind == "teacher-set":
        raise UsageError(
            f"{path}: expected one teacher or student, got out-of-fold teachers, which answer for the windows they "
            "were cross-fitted on alone; mmkd-inspect shows their out-of-fold score, mmkd-train teacher trains one to "
            "judge"
        )
    checkpoint = read_teacher(path) if kind == "teacher" else read_student(path)
    seen = windows_seen(checkpoint.facts, dataset, windows)
    if part is not None:
        refuse_seen(str(path), seen, len(windows), part=part)
    return Contestant(path=str(path), sha256=file_sha256(path), checkpoint=checkpoint, seen=seen)


def _data_facts(dataset: Dataset, windows: Windows, part: str, seen: Sequence[Seen | None], *, split: str) -> DataFacts:
    """What is told of the windows, which the models know this much of."""
    return DataFacts(
        name=dataset.spec.name,
        sha256=dataset.sha256,
        part=part,
        windows=len(windows),
        groups=windows.group_count,
        split=split_judged(dataset, seen, split=split, part=part),
        labels=dataset.spec.task.labels,
    )


def _say(part: str) -> None:
    print(part, file=sys.stderr, flush=True)


def _next_command(report: EvaluationDocument, data: Path) -> str:
    name = report.model.path
    if not (report.samples or report.subsets):
        return shell_line("mmkd-evaluate", name, data, "--missing")
    if report.model.kind == "teacher":
        return shell_line("mmkd-distill", name, data, "--modality", report.model.modalities[0], "-o", "student.ckpt")
    return shell_line("mmkd-export", name)


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=_WIDTH_WITHOUT_TERMINAL)


def _show(report: EvaluationDocument) -> None:
    from mmkd_report.words.terminal import guessing_line

    console = _console()
    model, data = report.model, report.data
    console.print(
        f"{model.path}: {model.kind} of {', '.join(model.modalities)}, {model.parameters:,} parameters, on "
        f"{data.windows} {data.part} of {data.name} ({data.apart})",
        soft_wrap=True,
    )
    if report.against is not None:
        gaps = " with the same gaps" if report.samples or report.subsets else ""
        console.print(f"against {report.against.path}, on the same windows{gaps}", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    headings = ["accuracy", "balanced accuracy", "macro-F1"]
    if report.against is not None:
        headings += [f"other's {report.metric.replace('_', ' ')}", "gain, points", "95 % interval"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, judgement in _rows(report):
        table.add_row(name, *_cells(judgement, report))
    console.print(WholeWords(table))
    measure = measure_named(report.metric)
    console.print(guessing_line(report.complete.guessing, measure), soft_wrap=True)
    if report.complete.gain is not None and report.complete.gain.low is None:
        console.print(interval_needs(data.split or OF_GROUPS))
    for caution in report.cautions:
        console.print(f"caution: {caution}", soft_wrap=True)


def _rows(report: EvaluationDocument) -> Iterator[tuple[str, Judgement]]:
    """Every condition once, by its name."""
    yield "everything there", report.complete
    for subset in report.subsets:
        if len(subset.modalities) < len(report.model.modalities):
            yield f"only {' + '.join(subset.modalities)}", subset
    for one in report.samples:
        if one.share > 0:
            yield f"{one.share:.0%} of the samples missing", one
    for one in report.bursts:
        if one.share > 0:
            yield f"a burst of {one.share:.0%} missing", one


def _cells(judgement: Judgement, report: EvaluationDocument) -> Iterator[str]:
    scores = judgement.scores
    yield from (f"{100 * value:.1f}" for value in (scores.accuracy, scores.balanced_accuracy, scores.macro_f1))
    if report.against is None:
        return
    if judgement.against is None or judgement.gain is None:
        yield from ("-", "-", "-")
        return
    gain = judgement.gain
    yield f"{100 * getattr(judgement.against, report.metric):.1f}"
    yield f"{gain.points:+.1f}"
    yield "-" if gain.low is None or gain.high is None else f"{gain.low:+.1f} to {gain.high:+.1f}"
