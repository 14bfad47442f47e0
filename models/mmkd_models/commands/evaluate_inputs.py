"""The options of `mmkd-evaluate`, and the windows, models, rivals and trainings that they name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import msgspec

from mmkd_edge.cli.options import Option
from mmkd_edge.cli.run import require_modules
from mmkd_edge.cli.show import say
from mmkd_edge.errors import UsageError
from mmkd_models.commands import options as shared
from mmkd_models.data.dataset import Dataset, open_dataset
from mmkd_models.data.folds import LeftOutDomains, fold_indices
from mmkd_models.data.labelled import Labelled
from mmkd_models.data.spec import SplitName
from mmkd_models.data.windows import Windows
from mmkd_models.defaults import AUGMENT, BASELINE_LEARNING_RATES, STUDENT_PRESET, default_trainings
from mmkd_models.evaluation.seen import check_seen, split_judged
from mmkd_models.evaluation.suites.cost_model import TEMPLATE
from mmkd_models.evaluation.suites.inputs import ModelUnderTest, SuiteInputs
from mmkd_models.evaluation.suites.models import (
    check_rivals,
    fit_rivals,
    model_from_checkpoint,
    models_from_bundle,
    with_unique_names,
)
from mmkd_models.evaluation.suites.table import SUITES
from mmkd_models.metrics.scores import default_metric, metrics_of
from mmkd_models.networks.config import Preset, choice, preset_named
from mmkd_report.schema.evaluation import DataFacts
from mmkd_report.schema.judging import ShiftFacts

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.evaluation.rivals import RivalName
    from mmkd_models.experiments.domains import ShiftOrder

_NEEDS = ("torch", "safetensors", "lightning_fabric")  # what reads a checkpoint
_EVERY_MODEL = "scores"  # the suite that runs unless another is named


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """The windows to judge with."""

    split: Annotated[str, Option("Split to judge with: train, valid or test.", metavar="NAME")] = "test"
    fold: Annotated[int | None, Option("Judge with the test windows of fold N instead of a split.", min=0)] = None
    training_windows: Annotated[
        bool, Option("Also judge with windows that trained the model, and say so.", ("--training-windows",))
    ] = False


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """Suites and their options."""

    suite: Annotated[
        list[str] | None,
        Option(f"Suite: {', '.join(SUITES)}, or all. Repeatable.", metavar="NAME", shown=_EVERY_MODEL),
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
        bool,
        Option("Print a file of cost assumptions to fill in, and stop.", ("--print-cost",), says=TEMPLATE.strip),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ShiftOptions:
    """Training for the suite `shift`."""

    out: Annotated[
        Path | None,
        Option("Suite shift: folder; the same command resumes.", ("-o", "--out"), "DIR", shown=False),
    ] = None
    workers: Annotated[int, Option("Suite shift: processes, one thread each.", min=1, metavar="N")] = 1
    time: Annotated[
        bool, Option("Suite shift: also train on the campaign's first part and judge on its last.", ("--time",))
    ] = False
    teacher: Annotated[
        str, Option("Suite shift: size of the teacher: tiny, small, medium or base.", metavar="NAME")
    ] = "tiny"
    label_fraction: Annotated[
        float, Option("Suite shift: fraction of the training labels to use.", metavar="FRACTION")
    ] = 1.0
    steps: Annotated[
        int | None, Option("Suite shift: training steps of every network.", min=1, metavar="N", shown="as shipped")
    ] = None


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """A command line."""

    paths: tuple[Path, ...]
    data: Path
    windows: WindowOptions
    options: SuiteOptions
    shift: ShiftOptions
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        """The suites; `all` includes shift only if -o stores its trainings."""
        names = self.options.suite or [_EVERY_MODEL]
        if "all" in names:
            return tuple(name for name in SUITES if name != "shift" or "shift" in names or self.shift.out is not None)
        chosen = {choice(name, (*SUITES, "all"), option="--suite") for name in names}
        return tuple(name for name in SUITES if name in chosen)


def check_options(request: EvaluateRequest) -> None:
    """Raise UsageError if an option lacks its suite, or a suite its option."""
    names, options, shift = set(request.names), request.options, request.shift
    given = [key for key, value in shift.__dict__.items() if value != getattr(ShiftOptions, key)]
    needs: dict[str, tuple[str, ...]] = {f"--{key.replace('_', '-')}": ("shift",) for key in given}
    needs |= {"--by": ("groups", "shift")} if options.by is not None else {}
    needs |= {"--cost": ("cost",)} if options.cost is not None else {}
    for option, suites in needs.items():
        if not names & set(suites):
            raise UsageError(f"{option} needs --suite {' or '.join(suites)}; add it, or leave {option} out")
    if options.cost is None and "cost" in (options.suite or ()):
        raise UsageError("--suite cost needs --cost FILE.toml; --print-cost prints such a file")
    if names == {"shift"} and request.windows != WindowOptions():
        raise UsageError(
            "--split, --fold and --training-windows have no effect on --suite shift, which judges on each domain; "
            "leave them out"
        )
    for number, path in enumerate(request.paths):
        if path.resolve() in [other.resolve() for other in request.paths[:number]]:
            raise UsageError(f"--against {path}: this file is already named; name each once")


@dataclass(frozen=True, kw_only=True)
class JudgingWindows:
    """Labelled windows to judge with; `part` is their name in texts."""

    dataset: Dataset
    windows: Windows
    part: str
    options: WindowOptions

    def other(self, part: Literal["train", "valid"]) -> Windows:
        """Return the training windows, or the labelled validation windows, of the same split or fold."""
        if self.options.fold is None:
            windows = self.dataset.split(part)
        else:
            everything = self.dataset.everything()
            windows = everything.subset(getattr(fold_indices(everything, fold=self.options.fold, seed=0), part))
        return windows if part == "train" else windows.only_labelled()

    def facts(self, models: Sequence[ModelUnderTest]) -> DataFacts:
        """Describe the windows for a document."""
        split = "test" if self.options.fold is not None else self.options.split
        return DataFacts(
            name=self.dataset.spec.name,
            sha256=self.dataset.sha256,
            part=self.part,
            windows=len(self.windows),
            groups=self.windows.group_count,
            split=split_judged(self.dataset, [model.seen for model in models], split=split, part=self.part),
            labels=self.dataset.spec.task.labels,
        )


def judging_windows(dataset: Dataset, options: WindowOptions) -> JudgingWindows:
    """Return the labelled windows of a split or fold. Raise UsageError if there are none."""
    if options.fold is not None:
        everything = dataset.everything()
        windows = everything.subset(fold_indices(everything, fold=options.fold, seed=0).test)
        return JudgingWindows(
            dataset=dataset, windows=windows, part=f"test windows of fold {options.fold}", options=options
        )
    name: SplitName = choice(options.split, get_args(SplitName), option="--split")
    split = dataset.split(name)
    windows = split.only_labelled()
    if len(windows) == 0:
        raise UsageError(f"{dataset.path}: split {name}: expected labelled windows, got none; name another --split")
    return JudgingWindows(dataset=dataset, windows=windows, part=f"{name} windows", options=options)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Models and windows of a request."""

    inputs: SuiteInputs
    data: DataFacts


def open_models(stack: ExitStack, request: EvaluateRequest) -> Opened:
    """Open windows and models; `stack` closes them. Raise UsageError if a model cannot be judged or trained on them."""
    from mmkd_export.plan import is_bundle

    options = request.options
    if not all(map(is_bundle, request.paths)):
        require_modules(_NEEDS, by="mmkd-evaluate of a checkpoint", extra="train")
    judged = judging_windows(open_dataset(request.data), request.windows)
    windows, sha256 = judged.windows, judged.dataset.sha256
    knows = request.windows.training_windows or request.names == ("shift",)  # judges others, which it trains
    check = partial(
        check_seen,
        dataset=judged.dataset,
        windows=windows,
        part=None if knows else judged.part,
        costs=options.cost is not None and "cost" in request.names,
    )
    models: list[ModelUnderTest] = []
    for path in map(str, request.paths):
        if is_bundle(Path(path)):
            models += models_from_bundle(stack, path, windows, sha256, check_seen=check)
        else:
            models.append(model_from_checkpoint(path, windows, sha256, check_seen=check))
    data = judged.facts(models)
    inputs = SuiteInputs(
        models=tuple(with_unique_names(models)),
        windows=windows,
        train=judged.other("train"),
        calibration=judged.other("valid"),
        by=options.by,
        cost=options.cost,
        seed=request.seed,
        on_part=say,
    )
    if "shift" in request.names:
        inputs = replace(inputs, shift=partial(_shift, _shift_order(request, inputs, judged.dataset)))
    return Opened(inputs=inputs, data=data)


def chosen_rivals(request: EvaluateRequest, inputs: SuiteInputs) -> list[RivalName]:
    """Return the requested rivals. Raise UsageError if they cannot learn or be judged."""
    names = request.options.rival
    if not names:
        return []
    require_modules(("torch", "sklearn"), by="mmkd-evaluate --rival", extra="train")
    from mmkd_models.evaluation.rivals import RIVALS

    known = tuple(name for name in RIVALS if name != "distilled_rocket")
    chosen = [choice(name, known, option="--rival") for name in dict.fromkeys(names)]
    if set(chosen) != {"extra_trees"}:
        require_modules(("aeon",), by="--rival with convolutional features", extra="rivals")
    check_rivals(inputs.first, inputs.windows, train=inputs.train, valid=inputs.calibration)
    return chosen


def with_rivals(opened: Opened, names: Sequence[RivalName]) -> Opened:
    """Add rivals, fitted with the labels that the first checkpoint's training saw; with all labels for a bundle."""
    if not names:
        return opened
    from mmkd_models.training.inputs import visible_labels

    inputs, train, checkpoint = opened.inputs, opened.inputs.train, opened.inputs.models[0].checkpoint
    metric = default_metric(train.spec.task.kind)
    if checkpoint is not None:
        facts = checkpoint.facts
        metric = choice(facts.metric, metrics_of(train.spec.task.kind), option="--rival")
        if facts.labelled is not msgspec.UNSET and facts.dataset_sha256 == opened.data.sha256:
            share, groups = facts.labelled.share, facts.labelled.groups
            train = train.with_labels(visible_labels(train, share=share, groups=groups, seed=facts.training.seed))
    say(f"rivals learn from {int(train.labelled.sum())} labelled windows: {', '.join(names)}")
    rivals = fit_rivals(names, inputs.first, train=train, valid=inputs.calibration, metric=metric, seed=inputs.seed)
    return replace(opened, inputs=replace(inputs, models=(*inputs.models, *rivals)))


def _shift(order: ShiftOrder, on_part: Callable[[str], None]) -> ShiftFacts:
    from mmkd_models.experiments.domains import judge_shift
    from mmkd_models.experiments.progress import Progress, progress_lines

    with progress_lines() as show:
        return judge_shift(order, progress=Progress(show=show), say=on_part)


def _shift_order(request: EvaluateRequest, inputs: SuiteInputs, dataset: Dataset) -> ShiftOrder:
    """Return what is trained: for the sensor of the first model, a student of its size."""
    options, modalities, checkpoint = request.shift, inputs.first.modalities, inputs.models[0].checkpoint
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
    require_modules(shared.NEEDS, by="--suite shift", extra="train")
    from mmkd_models.distillation.recipe import default_recipe
    from mmkd_models.experiments.comparison import ComparisonConfig
    from mmkd_models.experiments.domains import ShiftOrder, check_shift
    from mmkd_models.training.committee import default_members

    name = "" if checkpoint is None else checkpoint.config.preset
    teacher_train, student_train = default_trainings(default_metric(dataset.spec.task.kind), options.steps)
    config = ComparisonConfig(
        labelled=Labelled(share=label_fraction),
        modalities=modalities,
        teacher=preset_named(options.teacher, option="--teacher"),
        student=preset_named(name, option="MODEL") if name in get_args(Preset) else STUDENT_PRESET,
        teacher_train=teacher_train,
        student_train=student_train,
        baseline_learning_rates=BASELINE_LEARNING_RATES,
        augment=AUGMENT,
        recipe=default_recipe(dataset.spec.task),
        members=default_members(dataset.spec.modalities),
        left_out=LeftOutDomains(by=request.options.by or "group"),
    )
    order = ShiftOrder(dataset=dataset, config=config, out=out / "shift", in_time=options.time, workers=options.workers)
    check_shift(order)
    return order
