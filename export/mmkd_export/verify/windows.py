"""Windows that judge an export, and ranges of values; without recorded windows only fp32 is judged, on drawn ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import (
    MAX_FLOAT32,
    STANDARD_DEVIATIONS,
    ModalitySpec,
    TaskSpec,
    label_dtype,
    plausible_span,
    task_text,
)
from mmkd_models.data.labels import Labels, find_strata, hide_labels
from mmkd_models.data.windows import without_in_turn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmkd_models.carried import CarriedWindows
    from mmkd_models.training.checkpoint import StudentCheckpoint


MAX_WINDOWS = 256  # as many as a checkpoint carries
_SYNTHETIC_WINDOWS = 64
_SEED = 20211116  # every draw: the same export writes the same bundle
RULE = (
    f"no range was declared: the training's mean and {STANDARD_DEVIATIONS:g} standard deviations either way, of the "
    "widest channel, and all that its windows have"
)
NAMED = "given at export with --range"


@dataclass(frozen=True, kw_only=True)
class RealWindows:
    """Recorded windows with labels, or `synthetic` ones without."""

    # float32 (N, T, C), NaN = missing, raw or z-scores per group; video uint8 (N, T, H, W, C), masked
    windows: NDArray[Any]
    labels: Labels  # int64 (N,), -1 = unknown; of other tasks as in a dataset
    judge: NDArray[np.bool_]  # bool (N,): True only judge, others may calibrate
    source: str
    synthetic: bool = False
    groups: NDArray[Any] | None = None  # (N,), None if unknown

    def rows(self, chosen: NDArray[np.bool_]) -> RealWindows:
        """Select windows by mask (N,)."""
        groups = None if self.groups is None else self.groups[chosen]
        values = {name: getattr(self, name)[chosen] for name in ("windows", "labels", "judge")}
        return replace(self, **values, groups=groups)


def windows_from_checkpoint(carried: CarriedWindows | None, *, checkpoint: Path) -> RealWindows:
    """Return the validation windows; raise UsageError without any."""
    if carried is None or len(carried.windows) == 0:
        raise UsageError(
            f"{checkpoint}: expected recorded windows to calibrate and judge lower precision with, got a checkpoint "
            "without any; name some with --calib DATA, or train again without --no-embed-windows"
        )
    real = _real(carried.windows, carried.labels, source="validation windows carried by the checkpoint")
    return replace(real, groups=carried.groups)


def windows_from_statistics(
    modality: ModalitySpec, task: TaskSpec, *, mean: Sequence[float], std: Sequence[float]
) -> RealWindows:
    """Draw normal values per channel, clipped to the range."""
    rng = np.random.default_rng(_SEED)
    values = np.asarray(mean) + np.asarray(std) * rng.standard_normal((_SYNTHETIC_WINDOWS, *modality.shape))
    if modality.range is not None and modality.normalise == "none":
        values = np.clip(values, *modality.range)
    if modality.dtype == "uint8":
        values = np.clip(np.rint(values), 0, 255)
    shape = (_SYNTHETIC_WINDOWS, len(task.labels)) if task.kind == "multi_label" else (_SYNTHETIC_WINDOWS,)
    blank: Labels = np.zeros(shape, dtype=label_dtype(task.kind))
    labels = hide_labels(blank, np.zeros(_SYNTHETIC_WINDOWS, dtype=bool))
    source = "synthetic windows drawn from the channel statistics of the training data"
    windows = without_in_turn(values.astype(modality.dtype), modality)
    return replace(_real(windows, labels, source=source), synthetic=True)


def judging_half(labels: Labels) -> NDArray[np.bool_]:
    """Draw the judging half of each class; a single window judges."""
    shuffled = np.random.default_rng(_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(find_strata(labels)[shuffled], kind="stable")]
    judge = np.zeros(len(labels), dtype=bool)
    judge[by_class[::2]] = True
    return judge


def _real(windows: NDArray[Any], labels: Labels, *, source: str) -> RealWindows:
    return RealWindows(windows=windows, labels=labels, judge=judging_half(labels), source=source)


def windows_from_dataset(
    path: Path, *, modality: ModalitySpec, task: TaskSpec, most: int | None = MAX_WINDOWS
) -> RealWindows:
    """Read at most `most` windows of a dataset's validation split; raise UsageError unless it fits the student."""
    from mmkd_models.data.dataset import open_dataset

    dataset = open_dataset(path)
    check_fit(dataset.spec.modality(modality.name), modality, where=str(path))
    if dataset.spec.task.kind != task.kind:
        raise UsageError(
            f"{path}: expected the {task_text(task)}, got {task_text(dataset.spec.task)}; use windows of the same task"
        )
    if dataset.spec.task.labels != task.labels:
        raise UsageError(
            f"{path}: expected the classes {', '.join(task.labels)} in this order, got "
            f"{', '.join(dataset.spec.task.labels)}; use windows of the same task"
        )
    valid = dataset.split("valid")
    rows = np.sort(np.random.default_rng(_SEED).permutation(len(valid))[:most])
    windows = valid.with_modalities([modality.name]).take(rows)[modality.name]
    real = _real(
        windows
        if modality.kind == "video"
        else np.ascontiguousarray(without_in_turn(windows, modality), dtype=np.float32),
        np.ascontiguousarray(valid.labels[rows]),
        source=f"windows of the validation split of dataset {dataset.spec.name!r}",
    )
    return replace(real, groups=valid.groups[rows])


def check_fit(modality: ModalitySpec, expected: ModalitySpec, *, where: str) -> None:
    """Raise UsageError unless windows fit the student; ranges may differ."""
    for name in ("kind", "channels", "unit", "rate_hz", "samples", "height", "width", "normalise"):
        got, needed = getattr(modality, name), getattr(expected, name)
        if got != needed:
            raise UsageError(
                f"{where}: modality {expected.name!r}: expected {name} {needed!r} as in the checkpoint, got {got!r}; "
                "use the dataset the student was trained on, or one recorded alike"
            )


RangeChoice = tuple[float, float] | Literal["auto", "none"]


def with_range(checkpoint: StudentCheckpoint, windows: NDArray[Any], choice: RangeChoice) -> StudentCheckpoint:
    """Return a student with a range, for `auto` the dataset's or the rule's; UsageError for video or per group."""
    modality = checkpoint.modality
    if modality.kind == "video" and choice in ("auto", "none"):
        return checkpoint
    if modality.kind == "video":
        raise UsageError(f"--range: modality {modality.name!r} is video, whose values are bytes; leave it out")
    if choice == "auto":
        if modality.range is not None or modality.normalise == "per_group":
            return checkpoint
        choice = plausible_range(windows, **checkpoint.normalisation) or "none"
    elif modality.normalise == "per_group":
        raise UsageError(
            f"--range: modality {modality.name!r} is normalised per group, and its range is that of the dataset; "
            'write "range": [LOW, HIGH] into dataset.json and train again'
        )
    modality = msgspec.structs.replace(modality, range=None if choice == "none" else choice)
    return replace(checkpoint, modality=modality)


def plausible_range(
    windows: NDArray[Any], *, mean: Sequence[float], std: Sequence[float]
) -> tuple[float, float] | None:
    """Compute the range by the rule; None if it would be all of float32."""
    finite = windows[np.isfinite(windows)]
    return plausible_span(mean, std, seen=(float(finite.min()), float(finite.max())) if finite.size else ())


def range_choice(text: str | None) -> RangeChoice:
    """Parse `--range`: `LOW:HIGH` or `none`; default is the rule."""
    if text is None or text == "none":
        return "auto" if text is None else "none"
    low, _, high = text.partition(":")
    try:
        limits = float(low), float(high)
    except ValueError:
        limits = (math.nan, math.nan)
    if not -MAX_FLOAT32 <= limits[0] < limits[1] <= MAX_FLOAT32:
        raise UsageError(f"--range {text!r}: expected LOW:HIGH with LOW below HIGH, or none; write --range=-16:16")
    return limits
