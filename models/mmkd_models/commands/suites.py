"""`mmkd-evaluate --suite`: models judged side by side."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import msgspec

from mmkd_edge.cli.options import Option
from mmkd_edge.cli.outputs import held
from mmkd_edge.cli.run import require_modules, shell_line
from mmkd_edge.cli.show import json_text, plain_table, say, saying_how_to_go_on, show_table
from mmkd_edge.errors import UsageError
from mmkd_models.commands import options as shared
from mmkd_models.commands.evaluated import NEEDS, JudgingWindows, WindowOptions, judging_windows
from mmkd_models.data.dataset import open_dataset
from mmkd_models.data.labelled import Labelled
from mmkd_models.data.left_out import LeftOutDomains
from mmkd_models.defaults import AUGMENT, BASELINE_LEARNING_RATES, STUDENT_PRESET, trains_of
from mmkd_models.evaluation.suites.inputs import ModelUnderTest, SuiteInputs
from mmkd_models.evaluation.suites.table import SUITES
from mmkd_models.metrics.scores import default_metric, metrics_of
from mmkd_models.networks.config import Preset, choice, preset_named
from mmkd_report.schema.evaluation import DataFacts
from mmkd_report.schema.judging import JudgingDocument, ShiftFacts

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.evaluation.report import Contestant
    from mmkd_models.evaluation.rivals import RivalName
    from mmkd_models.experiments.domains import ShiftOrder


def cost_template() -> str:
    """Return what `--print-cost` prints."""
    from mmkd_models.evaluation.suites.cost_model import TEMPLATE

    return TEMPLATE.rstrip("\n")


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """Suites and their options."""

    suite: Annotated[
        list[str] | None, Option(f"Judge by a suite: {', '.join(SUITES)}, or all. Repeatable.", metavar="NAME")
    ] = None
    rival: Annotated[
        list[str] | None,
        Option("Add extra_trees, mini_rocket, rocket_and_trees or multi_rocket_hydra. Repeatable.", metavar="NAME"),
    ] = None
    by: Annotated[
        str | None,
        Option("Metadata whose values the suites groups and shift compare.", metavar="NAME", shown="group"),
    ] = None
    cost: Annotated[Path | None, Option("Assumptions of the suite cost; see --print-cost.", metavar="FILE.toml")] = None
    print_cost: Annotated[
        bool, Option("Print a file of cost assumptions to fill in, and stop.", ("--print-cost",), says=cost_template)
    ] = False
    out: Annotated[
        Path | None,
        Option("Folder for trainings and answers; the same command resumes.", ("-o", "--out"), "DIR", shown=False),
    ] = None
    workers: Annotated[int, Option("Processes that share the work of -o, one thread each.", min=1, metavar="N")] = 1


@dataclass(frozen=True, kw_only=True)
class ShiftOptions:
    """Training for the suite `shift`."""

    time: Annotated[
        bool, Option("Suite shift: also train on the campaign's first part and judge on its last.", ("--time",))
    ] = False
    teacher: Annotated[
        str, Option("Suite shift: size of the teacher: tiny, small, medium or base.", metavar="NAME")
    ] = "tiny"
    label_share: Annotated[
        float, Option("Suite shift: fraction of the training labels to use.", metavar="FRACTION")
    ] = 1.0
    steps: Annotated[
        int | None, Option("Suite shift: training steps of every network.", min=1, metavar="N", shown="as shipped")
    ] = None

    @property
    def given(self) -> dict[str, bool]:
        """Whether each option differs from its default."""
        return {
            "--time": self.time,
            "--teacher": self.teacher != ShiftOptions.teacher,
            "--label-share": self.label_share != ShiftOptions.label_share,
            "--steps": self.steps is not None,
        }


@dataclass(frozen=True, kw_only=True)
class SuiteRequest:
    """A command line with suites; it can be pickled."""

    paths: tuple[Path, ...]
    data: Path
    windows: WindowOptions
    options: SuiteOptions
    shift: ShiftOptions
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        """The suites; `all` includes shift only if -o stores its trainings."""
        names = self.options.suite or []
        if "all" in names:
            return tuple(name for name in SUITES if name != "shift" or "shift" in names or self.options.out is not None)
        chosen = {choice(name, (*SUITES, "all"), option="--suite") for name in names}
        return tuple(name for name in SUITES if name in chosen)


def check_options(request: SuiteRequest) -> None:
    """Raise UsageError if an option lacks its suite, or a suite its option."""
    names, options = set(request.names), request.options
    for option, is_given, suites in (
        ("--by", options.by is not None, ("groups", "shift")),
        *((name, is_given, ("shift",)) for name, is_given in request.shift.given.items()),
        ("--cost", options.cost is not None, ("cost",)),
        ("--rival", bool(options.rival), ()),
        ("--out", options.out is not None, ()),
        ("--workers", options.workers > 1, ()),
    ):
        if is_given and not (names & set(suites) if suites else names):
            needed = f"--suite {' or '.join(suites)}" if suites else "--suite"
            raise UsageError(f"{option} needs {needed}; add it, or leave {option} out")
    if options.cost is None and "cost" in (options.suite or ()):
        raise UsageError("--suite cost needs --cost FILE.toml; --print-cost prints such a file")
    if names == {"shift"}:
        for option, is_given in request.windows.given.items():
            if is_given:
                raise UsageError(f"{option} has no effect on --suite shift, which judges on each domain; leave it out")
    if options.out is None and options.workers > 1:
        raise UsageError("--workers needs -o DIR, the folder that workers share; add it")
    for number, path in enumerate(request.paths if names else ()):
        if path.resolve() in [other.resolve() for other in request.paths[:number]]:
            raise UsageError(f"--against {path}: this file is already named; name each once")


def run_suites(request: SuiteRequest, *, page: Path | None, as_json: bool) -> None:
    """Judge models side by side and show the results."""
    document = _judge(request)
    if page is not None:
        from mmkd_report import render_judging, write_page

        write_page(page, render_judging(msgspec.to_builtins(document)))
    if as_json:
        print(json_text(document))
        return
    show_judging(document)
    wrote, first = "" if page is None else f"wrote {page}; ", document.models[0]
    following = ["mmkd-inspect" if first.role == "teacher" else "mmkd-export"]
    print(f"{wrote}next: {shell_line(*(['mmkd-bench', 'run'] if first.artifact else following), first.path)}")


def show_judging(document: JudgingDocument) -> None:
    """Print the verdict, and the tables and notes of each suite."""
    data = document.data
    names = ", ".join(model.name for model in document.models)
    print(f"{names} on {data.windows} {data.part} of {data.name} ({data.apart})")
    for sentence in document.verdict:
        print(f"{sentence}.")
    for result in document.suites.values():
        for one in result.tables:
            print(f"{one.caption}:")
            table = plain_table(one.heads)
            for row in one.rows:
                table.add_row(*row)
            show_table(table)
        for note in result.notes:
            print(note)
    for caution in document.cautions:
        print(f"caution: {caution}")


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """What a request names; the first model's checkpoint is None for a bundle."""

    inputs: SuiteInputs
    windows: JudgingWindows
    data: DataFacts
    checkpoint: Contestant | None


def _open(stack: ExitStack, request: SuiteRequest) -> _Opened:
    from mmkd_export.plan import is_bundle
    from mmkd_models.evaluation.suites.models import model_from_checkpoint, models_from_bundle, with_unique_names

    options = request.options
    if options.workers > 1 or not all(map(is_bundle, request.paths)):
        require_modules(NEEDS, by="mmkd-evaluate of a checkpoint", extra="train")
    windows = judging_windows(open_dataset(request.data), request.windows)
    knows = request.windows.training_windows or request.names == ("shift",)  # judges others, which it trains
    costs = options.cost is not None and "cost" in request.names
    checkpoints = {
        path: windows.read_checkpoint(path, knows=knows, costs=costs) for path in request.paths if not is_bundle(path)
    }
    bundles = {
        path: windows.seen_by_bundle(path, knows=knows, costs=costs)
        for path in request.paths
        if path not in checkpoints
    }
    seen = [one.seen for one in checkpoints.values()]
    data = windows.facts([*seen, *(one for students in bundles.values() for one in students.values())])
    models: list[ModelUnderTest] = []
    for path in request.paths:
        if path in checkpoints:
            models.append(model_from_checkpoint(checkpoints[path], windows.windows, data))
        else:
            models += models_from_bundle(stack, str(path), windows.windows, data, seen=bundles[path])
    inputs = SuiteInputs(
        models=tuple(with_unique_names(models)),
        windows=windows.windows,
        train=windows.other("train"),
        calibration=windows.other("valid"),
        by=options.by,
        cost=options.cost,
        seed=request.seed,
        on_part=say,
    )
    return _Opened(inputs=inputs, windows=windows, data=data, checkpoint=checkpoints.get(request.paths[0]))


def _judge(request: SuiteRequest) -> JudgingDocument:
    """Refuse what is impossible before anything is trained, then judge."""
    from mmkd_models.evaluation.suites.table import check_suites, judge

    out, workers = request.options.out, request.options.workers
    with ExitStack() as stack:
        opened = _open(stack, request)
        inputs = opened.inputs
        if "shift" in request.names:
            inputs = replace(inputs, shift=partial(_shift, _shift_order(request, opened)))
        check_suites(inputs, request.names)
        rivals = _chosen_rivals(request, inputs)
        if out is not None:
            stack.enter_context(held(out, is_folder=True))
            stack.enter_context(saying_how_to_go_on())
            if opened.checkpoint is not None:
                from mmkd_models.experiments.workers import torch_threads

                stack.enter_context(torch_threads())
        inputs = replace(inputs, models=(*inputs.models, *_fit_rivals(rivals, opened)))
        inputs = _with_stored_answers(inputs, request, opened.data)
        if workers > 1:
            from mmkd_models.experiments.workers import Workers

            with Workers(workers) as pool:
                pool.run(partial(_answer_share, request), range(workers))
        return judge(inputs, request.names, data=opened.data)


def _with_stored_answers(inputs: SuiteInputs, request: SuiteRequest, data: DataFacts) -> SuiteInputs:
    from mmkd_models.evaluation.suites.inputs import with_stored_answers

    if request.options.out is None:
        return inputs
    folder = request.options.out / "answers"
    return replace(inputs, models=tuple(with_stored_answers(inputs.models, folder, data.sha256)))


def _answer_share(request: SuiteRequest, number: int, on_step: object) -> None:
    """Let the models answer every n-th condition, so that the answers are stored; in any process."""
    from mmkd_models.evaluation.suites.table import conditions

    with ExitStack() as stack:
        opened = _open(stack, request)
        inputs = _with_stored_answers(opened.inputs, request, opened.data)
        pairs = [(model, windows) for windows in conditions(inputs, request.names) for model in inputs.models]
        for model, windows in pairs[number :: request.options.workers]:
            model.answers(windows)


def _chosen_rivals(request: SuiteRequest, inputs: SuiteInputs) -> list[RivalName]:
    """Return the requested rivals. Raise UsageError if they cannot learn or be judged."""
    names = request.options.rival
    if not names:
        return []
    require_modules(("torch", "sklearn"), by="mmkd-evaluate --rival", extra="train")
    from mmkd_models.evaluation.rivals import RIVALS
    from mmkd_models.evaluation.suites.models import check_rivals

    known = tuple(name for name in RIVALS if name != "taught_rocket")
    chosen = [choice(name, known, option="--rival") for name in dict.fromkeys(names)]
    if set(chosen) != {"extra_trees"}:
        require_modules(("aeon",), by="--rival with convolutional features", extra="rivals")
    check_rivals(inputs.first, inputs.windows, train=inputs.train, valid=inputs.calibration)
    return chosen


def _fit_rivals(chosen: list[RivalName], opened: _Opened) -> list[ModelUnderTest]:
    """Fit rivals with the labels that the first checkpoint's training saw; with all labels for a bundle."""
    if not chosen:
        return []
    from mmkd_models.evaluation.suites.models import fit_rivals
    from mmkd_models.training.inputs import visible_labels

    inputs, train = opened.inputs, opened.inputs.train
    metric = default_metric(train.spec.task.kind)
    if opened.checkpoint is not None:
        facts = opened.checkpoint.checkpoint.facts
        metric = choice(facts.metric, metrics_of(train.spec.task.kind), option="--rival")
        if facts.labelled is not msgspec.UNSET and facts.dataset_sha256 == opened.data.sha256:
            share, groups = facts.labelled.share, facts.labelled.groups
            train = train.with_labels(visible_labels(train, share=share, groups=groups, seed=facts.training.seed))
    say(f"rivals learn from {int(train.labelled.sum())} labelled windows: {', '.join(chosen)}")
    return list(
        fit_rivals(
            chosen, inputs.first, inputs.windows, train=train, valid=inputs.calibration, metric=metric, seed=inputs.seed
        )
    )


def _shift(order: ShiftOrder, on_part: Callable[[str], None]) -> ShiftFacts:
    from mmkd_models.experiments.domains import judge_shift
    from mmkd_models.experiments.progress import Progress, progress_lines

    with progress_lines() as show:
        return judge_shift(order, progress=Progress(show=show, workers=order.workers), say=on_part)


def _shift_order(request: SuiteRequest, opened: _Opened) -> ShiftOrder:
    """Return what is trained: for the sensor of the first model, a student of its size.

    Raises:
        UsageError: there is no folder, the first model is a teacher, or a fold is impossible.
        UnavailableError: a library that trains is not installed.
    """
    options, dataset, modalities = request.shift, opened.windows.dataset, opened.inputs.first.modalities
    out, label_share = request.options.out, options.label_share
    if out is None:
        raise UsageError("--suite shift needs -o DIR, the folder for its trainings; add it")
    if len(modalities) > 1:
        raise UsageError(
            f"--suite shift: expected a student or a bundle first, got a teacher of {' and '.join(modalities)}; name "
            "the teacher by --against"
        )
    if not 0 < label_share <= 1:
        raise UsageError(f"--label-share {label_share:g}: expected above 0 and up to 1; 0.1 uses a tenth of the labels")
    require_modules(shared.NEEDS, by="--suite shift", extra="train")
    from mmkd_models.distillation.methods import default_recipe
    from mmkd_models.experiments.comparison import ComparisonConfig
    from mmkd_models.experiments.domains import ShiftOrder, check_shift
    from mmkd_models.training.committee import default_members

    name = "" if opened.checkpoint is None else opened.checkpoint.checkpoint.config.preset
    teacher_train, student_train = trains_of(default_metric(dataset.spec.task.kind), options.steps)
    config = ComparisonConfig(
        labelled=Labelled(share=label_share),
        modalities=modalities,
        teacher=preset_named(options.teacher, option="--teacher"),
        student=preset_named(name, option="MODEL") if name in get_args(Preset) else STUDENT_PRESET,
        self_training=False,
        teacher_train=teacher_train,
        student_train=student_train,
        baseline_learning_rates=BASELINE_LEARNING_RATES,
        augment=AUGMENT,
        recipe=default_recipe(dataset.spec.task),
        members=default_members(dataset.spec.modalities),
        left_out=LeftOutDomains(by=request.options.by or "group"),
    )
    workers = request.options.workers
    order = ShiftOrder(dataset=dataset, config=config, out=out / "shift", in_time=options.time, workers=workers)
    check_shift(order)
    return order
