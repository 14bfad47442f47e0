"""The reference of a per-group modality, measured on the first windows of one group."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mmkd_edge.bundle.reference import Reference
from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.windows import mean_and_std, raw_values


@dataclass(frozen=True, kw_only=True)
class MeasuredReference:
    """A reference and what it was measured on.

    Attributes:
        windows: how many of its windows were used, of `windows_in_group`.
    """

    reference: Reference
    group: int | str
    windows: int
    windows_in_group: int


def measure_reference(
    dataset: Dataset,
    *,
    modality: str,
    group: int | str | None = None,
    windows: int | None = None,
    seconds: float | None = None,
) -> MeasuredReference:
    """Measure mean and standard deviation over the first windows of a group, in the order of the dataset.

    Args:
        modality: its name; it must be normalised per group.
        group: whose windows, a number also as text; None if the dataset has one group only.
        windows: how many of them; None for all.
        seconds: instead of `windows`: as many as cover this time. Ready windows are counted as if they did not overlap.

    Raise UsageError if the modality takes raw values, the group is not there or not named, or has no valid value.
    """
    spec = dataset.spec.modality(modality)
    if spec.normalise != "per_group":
        raise UsageError(
            f"modality {modality!r}: expected one that is normalised per group, got one that takes raw values;"
            " it needs no reference"
        )
    everything = dataset.everything()
    chosen = _group(dataset, group)
    rows = everything.rows[everything.groups == chosen]
    count = _count(dataset, modality=modality, windows=windows, seconds=seconds, available=len(rows))
    values = raw_values(everything, modality=spec, rows=rows[:count])
    if np.isnan(values).all(axis=0).any():
        raise UsageError(
            f"modality {modality!r}: a channel has no valid value in the first {count} windows of group {chosen};"
            " take more windows or another group"
        )
    mean, std = mean_and_std(values)
    reference = Reference(modality=modality, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    return MeasuredReference(reference=reference, group=chosen, windows=count, windows_in_group=len(rows))


def _group(dataset: Dataset, group: int | str | None) -> int | str:
    names: list[int | str] = np.unique(dataset.everything().groups).tolist()
    shown = ", ".join(str(name) for name in names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    if group is None and len(names) == 1:
        return names[0]
    if group is None:
        raise UsageError(f"group: expected one, got none and the dataset has {len(names)}; choose one of {shown}")
    for name in names:
        if str(name) == str(group):
            return name
    raise UsageError(f"group {group}: the dataset has no such group; choose one of {shown}")


def _count(dataset: Dataset, *, modality: str, windows: int | None, seconds: float | None, available: int) -> int:
    if windows is not None and seconds is not None:
        raise UsageError(f"expected a number of windows or of seconds, got both ({windows}, {seconds:g}); give one")
    if windows is None and seconds is None:
        return available
    if windows is not None:
        wanted = windows
    else:
        assert seconds is not None  # the two cases above
        length_s = dataset.spec.modality(modality).duration_s
        hop_s = 2 * dataset.everything().max_shift_s or length_s
        wanted = 1 + math.ceil(max(0.0, seconds - length_s) / hop_s) if seconds > 0 else 0
    if wanted < 1:
        raise UsageError(f"reference: expected one window or more, got {wanted}; ask for more windows or seconds")
    return min(wanted, available)
