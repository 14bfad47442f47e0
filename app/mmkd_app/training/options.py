"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import msgspec

from mmkd_app.cli.options import Argument, Option
from mmkd_app.training.tracking import Mlflow
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind
from mmkd_models.data.dataset import open_dataset
from mmkd_models.data.folds import ALL, Labelled, fold_indices, label_option, labelled_from_options, with_visible_labels
from mmkd_models.data.spec import refuse_normal
from mmkd_models.defaults import AUGMENT, COMMITTEE, STUDENT_PRESET, STUDENT_TRAIN
from mmkd_models.metrics.scores import DEFAULT_METRIC, METRICS, AnyMetric
from mmkd_models.networks.config import (
    MEMBERS,
    StudentConfig,
    choice,
    preset_named,
    student_config,
    student_members,
)
from mmkd_models.train_config import TrainConfig, TrainingPrecision

if TYPE_CHECKING:
    import typer

    from mmkd_models.training.inputs import TrainingData, TrainingRun

NEEDS = ("typer", "rich", "torch", "safetensors", "lightning_fabric", "tensorboard")
"""Modules that every training imports."""

Data = Annotated[Path, Argument("DATA", "Dataset directory; see mmkd-data.")]
Output = Annotated[Path, Option("Checkpoint to write.", ("-o", "--out"), "FILE")]
Modality = Annotated[str, Option("The one modality that the student sees.", metavar="NAME")]
Metric = Annotated[
    str | None,
    Option(
        "Metric that validation maximises; docs/training.md lists those of each kind of task.",
        metavar="NAME",
        shown=", ".join(DEFAULT_METRIC[kind] for kind in get_args(TaskKind)),
    ),
]
LabelShare = Annotated[float | None, Option("Fraction of the training labels to use; 0.1 is a tenth.", shown="1, all")]
LabelledGroups = Annotated[
    int | None,
    Option("Use the labels of N whole groups of the training windows, not of a fraction.", metavar="N", shown=False),
]
MaxLatency = Annotated[
    float | None, Option("Longest estimated latency of a chosen student in the native engine.", min=0.0)
]
Embed = Annotated[bool, Option("Carry up to 256 validation windows.", ("--embed-windows/--no-embed-windows",))]
Json = Annotated[bool, Option("Print one JSON document instead of a table.", ("--json",))]
Page = Annotated[Path | None, Option("Also write the results as one self-contained page.", metavar="FILE.html")]
Members = Annotated[
    str | None,
    Option(
        "Members of the teacher, with commas: transformer, convolutions, trees.",
        metavar="NAMES",
        shown=",".join(COMMITTEE),
    ),
]
AllCores = Annotated[int | None, Option("Trainings at a time, one thread each; default one a core.", min=1)]
ExecutorName = Annotated[str, Option("Where trainings run: local, or ray (the cluster of RAY_ADDRESS).")]
Latency = Annotated[bool, Option("Export students and measure their latency.", ("--latency/--no-latency",))]
Duration = Annotated[float, Option("Measured seconds of each latency.", ("--duration-s",), min=0.1, max=600.0)]


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a network is trained."""

    label_fraction: LabelShare = None
    labelled_groups: LabelledGroups = None
    fold: Annotated[int | None, Option("Use grouped fold N of all windows, not the dataset's split.", min=0)] = None
    steps: Annotated[int | None, Option("Optimisation steps.", min=1)] = STUDENT_TRAIN.steps
    batch: Annotated[int, Option("Windows per step.", min=2)] = STUDENT_TRAIN.batch
    learning_rate: Annotated[float | None, Option("Peak learning rate.", min=0.0)] = STUDENT_TRAIN.learning_rate
    patience: Annotated[int, Option("Validations without progress before stopping; 0 never stops.", min=0)] = (
        STUDENT_TRAIN.patience
    )
    metric: Metric = None
    seed: Annotated[int, Option("Seed of everything random.", min=0)] = 0
    precision: Annotated[str, Option("Arithmetic: 32-true or bf16-mixed.")] = STUDENT_TRAIN.precision
    devices: Annotated[int, Option("Devices (or CPU processes) that share each batch.", min=1)] = 1
    resume: Annotated[bool, Option("Continue an interrupted training of the same options.", ("--resume",))] = False
    mlflow: Mlflow = None
    force: Annotated[
        bool, Option("Replace a file that is no checkpoint, or one of other data or other settings.", ("--force",))
    ] = False


@dataclass(frozen=True, kw_only=True)
class StudentOptions:
    """Which student is trained."""

    preset: Annotated[str, Option("Size: tiny, small, medium or base.")] = STUDENT_PRESET
    members: Annotated[
        str | None,
        Option(
            "Members to choose among: transformer, convolutions, intervals, trees.",
            metavar="NAMES",
            shown="all; with --no-choose transformer",
        ),
    ] = None
    choose: Annotated[
        bool,
        Option(
            "Train every member and write what validation prefers; --no-choose trains one transformer.",
            ("--choose/--no-choose",),
        ),
    ] = True
    max_latency_ms: MaxLatency = None
    causal: Annotated[
        bool, Option("Let tokens attend to the past only, so that a stream computes only new samples.", ("--causal",))
    ] = False
    clock_error: Annotated[
        float,
        Option("Seconds by which the sensor's clock may be off: its windows move by up to this.", min=0.0),
    ] = 0.0

    def config(self) -> StudentConfig:
        """Return the student. Raise UsageError if the options do not fit together."""
        if self.max_latency_ms is not None and not self.choose:
            raise UsageError("--max-latency-ms limits what a choice may take; leave out --no-choose")
        usual = MEMBERS if self.choose and not self.causal else ("transformer",)
        members = usual if self.members is None else student_members(self.members)
        return student_config(preset_named(self.preset, option="--preset"), causal=self.causal, members=members)


def check_checkpoints(paths: Sequence[Path]) -> None:
    """Raise OSError for a file that cannot be read, before anything is imported to read it."""
    for path in paths:
        with path.open("rb"):
            pass


def refuse_without_effect(context: typer.Context, allowed: Sequence[str], what: str) -> None:
    """Raise UsageError for an option of the line that is not `allowed`."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in allowed and source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"{parameter.opts[-1]}: has no effect {what}; leave it out")


def new_run(
    output: Path,
    training: TrainingData,
    options: TrainingOptions,
    usual: TrainConfig,
    *,
    embed_windows: bool = True,
    clock_error_s: float = 0.0,
) -> TrainingRun:
    """Return a run with logs and resume state next to the checkpoint."""
    from mmkd_models.training.inputs import TrainingRun

    return TrainingRun(
        train=TrainConfig(
            steps=usual.steps if options.steps is None else options.steps,
            batch=options.batch,
            learning_rate=usual.learning_rate if options.learning_rate is None else options.learning_rate,
            patience=options.patience,
            metric=chosen_metric(options.metric, training.train.spec.task.kind),
            seed=options.seed,
            precision=choice(options.precision, get_args(TrainingPrecision), option="--precision"),
            devices=options.devices,
        ),
        augment=msgspec.structs.replace(AUGMENT, clock_error_s=clock_error_s),
        run_dir=run_dir_of(output),
        resume=options.resume,
        embed_windows=embed_windows,
    )


def chosen_metric(metric: str | None, kind: TaskKind) -> AnyMetric:
    """Return the metric that validation maximises."""
    if metric is None:
        return DEFAULT_METRIC[kind]
    chosen: AnyMetric = choice(metric, METRICS[kind], option="--metric")
    return chosen


def training_data(
    path: Path, options: TrainingOptions, *, modalities: Sequence[str] | None, normal: bool = False
) -> TrainingData:
    """Return a dataset's split, or a grouped fold, with the visible labels."""
    from mmkd_models.training.inputs import TrainingData

    labelled = _choose_labelled(options)
    dataset = open_dataset(path)
    if not normal:
        refuse_normal(dataset.spec, "training")
    if options.fold is None:
        train, valid = dataset.split("train"), dataset.split("valid")
        if not valid.labelled.any():
            raise UsageError(
                f"{path}: expected labelled windows of valid to choose by, got none; label some,"
                " or import with labels.task = 'normal' if all is normal running"
            )
    else:
        windows = dataset.everything()
        rows = fold_indices(windows, fold=options.fold, seed=0)
        train, valid = windows.subset(rows.train), windows.subset(rows.valid)
    train = with_visible_labels(train, labelled, seed=options.seed)
    training = TrainingData(train=train, valid=valid, sha256=dataset.sha256, fold=options.fold, labelled=labelled)
    return training.with_modalities(modalities) if modalities else training


def same_windows(options: TrainingOptions) -> str:
    """Return options that show another command the same windows and labels."""
    words = [word for word in [label_option(_choose_labelled(options))] if word]
    words += [] if options.fold is None else [f"--fold {options.fold}"]
    words += [] if options.seed == 0 else [f"--seed {options.seed}"]
    return "".join(f" {word}" for word in words)


def _choose_labelled(options: TrainingOptions) -> Labelled:
    return labelled_from_options(options.label_fraction, options.labelled_groups, otherwise=ALL)


def run_dir_of(output: Path) -> Path:
    """Return the folder of the training's logs and resume state."""
    return output.with_name(output.name + ".run")
