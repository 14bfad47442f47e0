"""`mmkd-evaluate`: judge teachers, students and bundles on a dataset, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args

from mmkd_app.cli.options import Argument, Command, Option, run_line
from mmkd_app.cli.run import check_page, run_command, sensor_choice, shell_line
from mmkd_app.cli.show import hint_at_resuming, json_text, plain_table, say, show_table
from mmkd_app.training.options import NEEDS, Data, Page
from mmkd_documents.judging import DataFacts, JudgingDocument, ShiftFacts
from mmkd_edge.errors import UsageError
from mmkd_edge.machine import require_modules
from mmkd_edge.outputs import lock_output
from mmkd_models.data.dataset import Dataset, locate_dataset, open_dataset
from mmkd_models.data.folds import Labelled, LeftOutDomains, fold_indices, with_visible_labels
from mmkd_models.data.spec import SplitName, read_dataset_spec
from mmkd_models.data.windows import Windows
from mmkd_models.defaults import AUGMENT, BASELINE_LEARNING_RATES, STUDENT_PRESET, default_trainings
from mmkd_models.evaluation.known_windows import check_known_windows, split_judged
from mmkd_models.evaluation.suites.cost_model import cost_template
from mmkd_models.evaluation.suites.inputs import ModelUnderTest, SuiteInputs
from mmkd_models.evaluation.suites.models import (
    check_rivals,
    fit_normal_rivals,
    fit_rivals,
    model_from_checkpoint,
    models_from_bundle,
    with_unique_names,
)
from mmkd_models.evaluation.suites.table import SUITES, check_suites, judge
from mmkd_models.metrics.scores import DEFAULT_METRIC, METRICS
from mmkd_models.networks.config import Preset, choice, preset_named

_READS_CHECKPOINTS = ("torch", "safetensors", "lightning_fabric")
_DEFAULT_SUITE, _NORMAL = "scores", "normal"
_OF_SHIFT = ("out", "workers", "label_fraction", "steps")  # options


def main() -> NoReturn:
    """Run `mmkd-evaluate`."""
    run_command("mmkd-evaluate", run_evaluate, needs=("typer", "rich"), extra="train")


def run_evaluate(arguments: Sequence[str]) -> None:
    """Run `mmkd-evaluate`."""
    sensors = next((word for word in arguments if word.partition("=")[0] == "--sensors"), None)
    if sensors is not None:
        from mmkd_app.commands.sensors import run_sensors

        data = [sensors.partition("=")[2]] if "=" in sensors else []
        run_sensors([*data, *(word for word in arguments if word != sensors)])
        return
    epilog = (
        "Example: mmkd-evaluate student.ckpt mydata --against baseline.ckpt --suite faults --page page.html. Without a "
        "model, mmkd-evaluate --sensors mydata shows which sensor is enough; see mmkd-evaluate --sensors --help."
    )
    run_line("mmkd-evaluate", arguments, [Command(function=evaluate, epilog=epilog)])


@dataclass(frozen=True, kw_only=True)
class _Options:
    suite: Annotated[
        list[str] | None,
        Option(f"Suite: {', '.join(SUITES)}, or all. Repeatable.", metavar="NAME", shown="scores, or normal"),
    ] = None
    rival: Annotated[
        list[str] | None,
        Option("Add extra_trees, mini_rocket, rocket_and_trees; normal: rockad, average_of_six.", metavar="NAME"),
    ] = None
    by: Annotated[
        str | None,
        Option("Metadata whose values the suites groups, shift and normal compare.", metavar="NAME", shown="group"),
    ] = None
    cost: Annotated[Path | None, Option("Assumptions of the suite cost; see --print-cost.", metavar="FILE.toml")] = None
    print_cost: Annotated[
        bool, Option("Print a file of cost assumptions to fill in, and stop.", ("--print-cost",), says=cost_template)
    ] = False
    out: Annotated[
        Path | None, Option("Suite shift: folder; the same command resumes.", ("-o", "--out"), "DIR", shown=False)
    ] = None
    workers: Annotated[int, Option("Suite shift: processes, one thread each.", min=1, metavar="N")] = 1
    label_fraction: Annotated[
        float, Option("Suite shift: fraction of the training labels to use.", metavar="FRACTION")
    ] = 1.0
    steps: Annotated[
        int | None, Option("Suite shift: training steps of every network.", min=1, metavar="N", shown="as shipped")
    ] = None
    split: Annotated[str, Option("Split to judge with: train, valid or test.", metavar="NAME")] = "test"
    fold: Annotated[int | None, Option("Judge with the test windows of fold N instead of a split.", min=0)] = None
    seed: Annotated[int, Option("Seed of faults, missing samples and intervals.", min=0)] = 0


def evaluate(
    *,
    model: Annotated[Path, Argument("MODEL", "Checkpoint of a teacher or a student, or a bundle.")],
    data: Data,
    against: Annotated[
        list[Path] | None, Option("Checkpoint or bundle to compare with. Repeatable.", metavar="OTHER")
    ] = None,
    options: _Options,
    page: Page = None,
    as_json: Annotated[bool, Option("Print one JSON document instead of tables.", ("--json",))] = False,
) -> None:
    """Judge a teacher, a student or a bundle on a dataset.

    A bundle is judged artifact by artifact, as a device runs it.
    """
    if page is not None:
        check_page(page, extra="train")
    request = _Request(paths=(model, *(against or ())), data=data, options=options)
    _check_options(request)
    with ExitStack() as stack:
        inputs, facts = _open_inputs(stack, request)
        check_suites(inputs, request.names)
        rivals = _chosen_rivals(request, inputs)
        if options.out is not None:
            stack.enter_context(lock_output(options.out, is_folder=True))
            stack.enter_context(hint_at_resuming())
        if rivals:
            inputs = _with_rivals(inputs, rivals, facts.sha256)
        document = judge(inputs, request.names, data=facts)
    if page is not None:
        from mmkd_app.pages.judging import render_judging
        from mmkd_app.pages.page import write_page

        write_page(page, render_judging(document))
    if as_json:
        print(json_text(document))
        return
    show_judging(document)
    first = document.models[0]
    following = shell_line(*(("mmkd-bench", "run") if first.artifact else ("mmkd-export",)), first.path)
    if first.role == "teacher":
        sensor, hint = sensor_choice(first.modalities, data)
        following = shell_line("mmkd-distill", first.path, data, "--modality", sensor, "-o", "student.ckpt") + hint
    print(f"{'' if page is None else f'wrote {page}; '}next: {following}")


@dataclass(frozen=True, kw_only=True)
class _Request:
    paths: tuple[Path, ...]
    data: Path
    options: _Options

    @cached_property
    def is_normal(self) -> bool:
        return read_dataset_spec(locate_dataset(self.data)).task.kind == "normal"

    @property
    def names(self) -> tuple[str, ...]:
        names = self.options.suite or [_NORMAL if self.is_normal else _DEFAULT_SUITE]
        if "all" in names:
            every = (_NORMAL,) if self.is_normal else tuple(name for name in SUITES if name != _NORMAL)
            return tuple(name for name in every if name != "shift" or "shift" in names or self.options.out is not None)
        chosen = {choice(name, (*SUITES, "all"), option="--suite") for name in names}
        return tuple(name for name in SUITES if name in chosen)


def _check_options(request: _Request) -> None:
    names, options = set(request.names), request.options
    given = [key for key in _OF_SHIFT if getattr(options, key) != getattr(_Options, key)]
    needs: dict[str, tuple[str, ...]] = {f"--{key.replace('_', '-')}": ("shift",) for key in given}
    needs |= {"--by": ("groups", "shift", _NORMAL)} if options.by is not None else {}
    needs |= {"--cost": ("cost",)} if options.cost is not None else {}
    for option, suites in needs.items():
        if not names & set(suites):
            raise UsageError(f"{option} needs --suite {' or '.join(suites)}; add it, or leave {option} out")
    if options.cost is None and "cost" in (options.suite or ()):
        raise UsageError("--suite cost needs --cost FILE.toml; --print-cost prints such a file")
    if names == {"shift"} and (options.split, options.fold) != (_Options.split, _Options.fold):
        raise UsageError(
            "--split and --fold have no effect on --suite shift, which judges on each domain; leave them out"
        )
    for number, path in enumerate(request.paths):
        if path.resolve() in [other.resolve() for other in request.paths[:number]]:
            raise UsageError(f"--against {path}: this file is already named; name each once")


def _open_inputs(stack: ExitStack, request: _Request) -> tuple[SuiteInputs, DataFacts]:
    from mmkd_export.plan import is_bundle

    options = request.options
    if not all(map(is_bundle, request.paths)):
        require_modules(_READS_CHECKPOINTS, by="mmkd-evaluate of a checkpoint", extra="train")
    dataset = open_dataset(request.data)
    train, valid, windows, part = _parts(dataset, options)
    check = partial(
        check_known_windows,
        dataset=dataset,
        windows=windows,
        part=None if request.names == ("shift",) else part,  # judges others, which it trains
        costs=options.cost is not None and "cost" in request.names,
    )
    models: list[ModelUnderTest] = []
    for path in map(str, request.paths):
        if is_bundle(Path(path)):
            models += models_from_bundle(stack, path, windows, dataset.sha256, check=check)
        else:
            models.append(model_from_checkpoint(path, windows, dataset.sha256, check=check))
    split = "test" if options.fold is not None else options.split
    data = DataFacts(
        name=dataset.spec.name,
        sha256=dataset.sha256,
        part=part,
        windows=len(windows),
        groups=windows.group_count,
        split=split_judged(dataset, [model.known for model in models], split=split, part=part),
        labels=dataset.spec.task.labels,
    )
    inputs = SuiteInputs(
        models=tuple(with_unique_names(models)),
        windows=windows,
        train=train,
        calibration=valid,
        by=options.by,
        cost=options.cost,
        seed=options.seed,
        on_part=say,
    )
    if "combined" in (options.suite or ()) and inputs.several_labels is None:
        raise UsageError(
            f"--suite combined: expected windows with two labels or more, got none of {part} of {dataset.spec.name!r} "
            f"(kind {dataset.spec.task.kind}); leave the suite out, or name another --split"
        )
    if "shift" in request.names:
        inputs = replace(inputs, shift=_plan_shift(request, inputs, dataset))
    return inputs, data


def _parts(dataset: Dataset, options: _Options) -> tuple[Windows, Windows, Windows, str]:
    if options.fold is not None:
        everything = dataset.everything()
        fold = fold_indices(everything, fold=options.fold, seed=0)
        train, valid, test = map(everything.subset, (fold.train, fold.valid, fold.test))
        return train, valid.only_labelled(), test, f"test windows of fold {options.fold}"
    name: SplitName = choice(options.split, get_args(SplitName), option="--split")
    judging = dataset.split(name).only_labelled()
    if len(judging) == 0:
        raise UsageError(f"{dataset.path}: split {name}: expected labelled windows, got none; name another --split")
    return dataset.split("train"), dataset.split("valid").only_labelled(), judging, f"{name} windows"


def _chosen_rivals(request: _Request, inputs: SuiteInputs) -> list[Any]:
    names = request.options.rival
    if not names:
        return []
    require_modules(("torch", "sklearn"), by="mmkd-evaluate --rival", extra="train")
    from mmkd_models.evaluation.normal_rivals import NORMAL_RIVALS
    from mmkd_models.evaluation.rivals import RIVALS

    known: tuple[str, ...] = tuple(name for name in RIVALS if name != "distilled_rocket")
    known = NORMAL_RIVALS if request.is_normal else known
    chosen = [choice(name, known, option="--rival") for name in dict.fromkeys(names)]
    if not set(chosen) <= {"extra_trees", "average_of_six"}:
        require_modules(("aeon",), by="--rival with convolutional features", extra="rivals")
    check_rivals(inputs.first, inputs.windows, train=inputs.train, valid=inputs.calibration)
    return chosen


def _with_rivals(inputs: SuiteInputs, names: Sequence[Any], dataset_sha256: str) -> SuiteInputs:
    if inputs.windows.spec.task.kind == "normal":
        normal_rivals = fit_normal_rivals(names, inputs)
        say(f"rivals learn from {int((inputs.train.labels == 0).sum())} normal windows: {', '.join(names)}")
        return replace(inputs, models=(*inputs.models, *normal_rivals))
    train, checkpoint = inputs.train, inputs.models[0].checkpoint
    metric = DEFAULT_METRIC[train.spec.task.kind]
    if checkpoint is not None:
        facts = checkpoint.facts
        metric = choice(facts.metric, METRICS[train.spec.task.kind], option="--rival")
        if facts.labelled is not None and facts.dataset_sha256 == dataset_sha256:
            train = with_visible_labels(train, facts.labelled, seed=facts.training.seed)
    say(f"rivals learn from {int(train.labelled.sum())} labelled windows: {', '.join(names)}")
    rivals = fit_rivals(names, inputs.first, train=train, valid=inputs.calibration, metric=metric, seed=inputs.seed)
    return replace(inputs, models=(*inputs.models, *rivals))


def _plan_shift(
    request: _Request, inputs: SuiteInputs, dataset: Dataset
) -> Callable[[Callable[[str], None]], ShiftFacts]:
    options, modalities, checkpoint = request.options, inputs.first.modalities, inputs.models[0].checkpoint
    out, label_fraction = options.out, options.label_fraction
    if out is None:
        raise UsageError("--suite shift needs -o DIR, the folder for its trainings; add it")
    if len(modalities) > 1:
        raise UsageError(
            f"--suite shift: expected a student or a bundle first, got a teacher of {' and '.join(modalities)}; name "
            "the teacher by --against"
        )
    if not 0 < label_fraction <= 1:
        raise UsageError(
            f"--label-fraction {label_fraction:g}: expected above 0 and up to 1; 0.1 uses a tenth of the labels"
        )
    require_modules(NEEDS, by="--suite shift", extra="train")
    from mmkd_app.cli.progress import progress_lines
    from mmkd_models.distillation.recipe import default_recipe
    from mmkd_models.experiments.domains import judge_shift, shift_seeds
    from mmkd_models.experiments.experiment import Experiment
    from mmkd_models.experiments.plan import Conditions, comparison_plan, teacher_choice
    from mmkd_models.experiments.runs import Progress
    from mmkd_models.training.committee import default_members

    name = "" if checkpoint is None else checkpoint.config.preset
    teacher_train, student_train = default_trainings(DEFAULT_METRIC[dataset.spec.task.kind], options.steps)
    conditions = Conditions(
        labelled=Labelled(fraction=label_fraction),
        teacher_train=teacher_train,
        student_train=student_train,
        augment=AUGMENT,
        left_out=LeftOutDomains(by=options.by or "group"),
    )
    plan = comparison_plan(
        conditions,
        sensors=modalities,
        teacher=teacher_choice(dataset.spec, "tiny", default_members(dataset.spec.modalities)),
        student=preset_named(name, option="MODEL") if name in get_args(Preset) else STUDENT_PRESET,
        recipe=default_recipe(dataset.spec.task),
        baseline_learning_rates=BASELINE_LEARNING_RATES,
        seeds=shift_seeds(dataset, conditions),
        workers=options.workers,
    )
    experiment = Experiment(dataset=dataset, plan=plan, out=out / "shift")

    def train_and_judge(on_part: Callable[[str], None]) -> ShiftFacts:
        with progress_lines() as show:
            return judge_shift(experiment, progress=Progress(show=show), say=on_part)

    return train_and_judge


def show_judging(document: JudgingDocument) -> None:
    """Print the verdict, and each suite's tables and notes."""
    data = document.data
    names = ", ".join(model.name for model in document.models)
    print(f"{names} on {data.windows} {data.part} of {data.name} ({data.apart})")
    for sentence in document.verdict:
        print(f"{sentence}.")
    for result in document.suites.values():
        for rows in result.tables:
            print(f"{rows.caption}:")
            table = plain_table(rows.heads)
            for row in rows.rows:
                table.add_row(*row)
            show_table(table)
        for note in result.notes:
            print(note)
    for caution in document.cautions:
        print(f"caution: {caution}")
