"""Options that `mmkd-train`, `mmkd-distill` and `mmkd-study` share, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import msgspec
import typer

from mmkd_edge.spec import TaskKind
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.dataset import open_dataset
from mmkd_models.data.folds import fold_indices
from mmkd_models.metrics.scores import AnyMetric, default_metric, metrics_of
from mmkd_models.networks.config import choice
from mmkd_models.train_config import Precision, TrainConfig

if TYPE_CHECKING:
    from mmkd_models.training.trainings import TrainingData

Data = Annotated[Path, typer.Argument(metavar="DATA", help="Dataset directory; see mmkd-data.")]
Output = Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Checkpoint to write.")]
Modality = Annotated[str, typer.Option(metavar="NAME", help="The one modality that the student sees.")]
Share = Annotated[float, typer.Option(help="Share of the training labels to use; 0.1 is a tenth.")]
Fold = Annotated[int | None, typer.Option(help="Use grouped fold N of all windows, not the dataset's split.", min=0)]
Steps = Annotated[int, typer.Option(help="Optimisation steps.", min=1)]
Batch = Annotated[int, typer.Option(help="Windows per step.", min=2)]
Rate = Annotated[float, typer.Option(help="Peak learning rate.", min=0.0)]
Patience = Annotated[int, typer.Option(help="Validations without progress before stopping; 0 never stops.", min=0)]
MetricOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What validation maximises. Classes: accuracy, balanced_accuracy, macro_f1; several labels: macro_f1, "
        "mean_average_precision, subset_accuracy; a number: r2, pearson.",
        show_default=", ".join(default_metric(kind) for kind in get_args(TaskKind)),
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
Practise = Annotated[
    bool,
    typer.Option(
        "--practise-missing/--no-practise-missing",
        help="Hide channels, spans and (from a teacher) modalities in training, as sensors fail.",
    ),
]
PrecisionOption = Annotated[str, typer.Option(help="Arithmetic: 32-true, bf16-mixed or 16-mixed.")]
Devices = Annotated[int, typer.Option(help="Devices (or CPU processes) that share each batch.", min=1)]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted training of the same options.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace a file that is no checkpoint, or one of other data or other settings."),
]
Causal = Annotated[
    bool,
    typer.Option("--causal", help="Let no token see what comes after it: a stream then computes only the new samples."),
]
Embed = Annotated[bool, typer.Option("--embed-windows/--no-embed-windows", help="Carry up to 256 validation windows.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]


def train_config(
    steps: int, batch: int, learning_rate: float, patience: int, seed: int, precision: str, devices: int
) -> TrainConfig:
    """Gives how to train, as the options say; what validation maximises follows from the data."""
    return TrainConfig(
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        patience=patience,
        seed=seed,
        precision=choice(precision, get_args(Precision), option="--precision"),
        devices=devices,
    )


def chosen_metric(metric: str | None, kind: TaskKind) -> AnyMetric:
    """Gives what validation maximises: what was named, or what is usual for a task of this kind."""
    if metric is None:
        return default_metric(kind)
    chosen: AnyMetric = choice(metric, metrics_of(kind), option="--metric")
    return chosen


def with_metric(train: TrainConfig, metric: str | None, training: TrainingData) -> TrainConfig:
    """Gives how to train on these windows: `chosen_metric` is what validation maximises."""
    return msgspec.structs.replace(train, metric=chosen_metric(metric, training.train.spec.task.kind))


def training_data(
    path: Path, *, label_share: float, fold: int | None, seed: int, modalities: Sequence[str] | None
) -> TrainingData:
    """Gives the windows of the dataset's split, or of one grouped fold, with the labels that training may see."""
    from mmkd_models.training.trainings import TrainingData, visible_labels

    dataset = open_dataset(path)
    if fold is None:
        train, valid = dataset.split("train"), dataset.split("valid")
    else:
        windows = dataset.everything()
        rows = fold_indices(windows, fold=fold, seed=0)
        train, valid = windows.subset(rows.train), windows.subset(rows.valid)
    train = train.with_labels(visible_labels(train, share=label_share, seed=seed))
    training = TrainingData(train=train, valid=valid, sha256=dataset.sha256, fold=fold)
    return training.with_modalities(modalities) if modalities else training


def same_windows(*, label_share: float, fold: int | None, seed: int) -> str:
    """Gives the options with which another command sees the same windows and labels, where they are not the defaults.

    A student that is distilled from the teacher of one fold on another fold is judged on windows that its teacher knew.
    """
    options = [] if label_share == 1 else [f"--label-share {label_share:g}"]
    options += [] if fold is None else [f"--fold {fold}"]
    options += [] if seed == 0 else [f"--seed {seed}"]
    return "".join(f" {option}" for option in options)


def chosen_augment(*, practise_missing: bool) -> AugmentConfig:
    """Gives the augmentation, in which sensors fail or do not."""
    return AugmentConfig() if practise_missing else AugmentConfig(channel_dropout=0.0, span_dropout=0.0)
