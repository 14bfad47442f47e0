"""Windows of a dataset, read by index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import UsageError
from mmkd_edge.predict.preprocess import standardise, within_float32
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.kinds import Values
from mmkd_models.data.labels import Labels, block_length, is_labelled
from mmkd_models.data.sources import Floats, Rows, WindowSource
from mmkd_models.data.spec import DatasetSpec
from mmkd_report.schema.figures import Split

Groups = npt.NDArray[Any]
"""int64 or text (N,): the person, machine or session of each window."""

_NO_GROUPS = "no groups: may share people and machines with training"
OF_GROUPS = Split(by="groups", judged_on="people and machines never seen", resampled="whole groups")


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupStatistics:
    """Mean and std (above 0) of the raw values of each group, (G, C) by modality that is normalised per group."""

    groups: Groups
    mean: dict[str, npt.NDArray[np.float64]]
    std: dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """Windows with labels and groups, without values: `take` reads them.

    Attributes:
        labels: (N, ...), see `labels.py`.
        groups: (N,); without groups the number of the recording, or of a block of consecutive windows.
        splits: (N,) 0 train, 1 valid, 2 test.
        metadata: (N,) each.
        times: float64 (N,), UTC seconds at the window's start.
        episodes: (N,), equal for windows of one run of a recording.
        rows: (N,), numbers of the windows in the source.
    """

    spec: DatasetSpec
    labels: Labels
    groups: Groups
    has_groups: bool
    splits: Rows
    folds: Rows | None
    source: WindowSource
    rows: Rows
    statistics: GroupStatistics | None = None
    metadata: Mapping[str, Groups] = field(default_factory=dict)
    times: npt.NDArray[np.float64] | None = None
    episodes: Rows | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Windows({len(self)} of {self.spec.name!r}: {self.spec.shapes_text})"

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """(N,) whether each window has a label."""
        return is_labelled(self.labels)

    @property
    def group_count(self) -> int:
        """Number of groups; 0 without groups."""
        return len(np.unique(self.groups)) if self.has_groups else 0

    @property
    def max_shift_s(self) -> float:
        """Half a hop if windows are cut from recordings, else 0."""
        return self.source.max_shift_s

    def take(self, index: npt.ArrayLike, *, shift_s: npt.ArrayLike | None = None) -> dict[str, Values]:
        """Return windows by modality: new float32 (B, T, C), NaN = missing; of video uint8 (B, T, H, W, C) or masked.

        Values outside a modality's `range` and infinite values become NaN. A modality with `normalise: per_group` is
        z-scored with the statistics of the window's group over the whole dataset (no label is used).

        Args:
            shift_s: (B,), moves each window inside its recording; ignored for stored windows.
        """
        shift = None if shift_s is None else np.asarray(shift_s, dtype=np.float64)
        numbers = np.asarray(index)
        return {modality.name: self._take_one(modality, numbers, shift_s=shift) for modality in self.spec.modalities}

    def _take_one(
        self, modality: ModalitySpec, index: npt.NDArray[Any], *, shift_s: npt.NDArray[np.float64] | None
    ) -> Values:
        values = self.source.gather(modality, self.rows[index], shift_s=shift_s)
        if modality.kind == "video":
            return values
        if modality.normalise == "none" or self.statistics is None:
            return valid_values(values, modality=modality)
        group = np.searchsorted(self.statistics.groups, self.groups[index])
        # (B, 1, C) each: one mean and one std for all samples of a window
        mean = self.statistics.mean[modality.name][group][:, None, :]
        std = self.statistics.std[modality.name][group][:, None, :]
        return standardise(values, modality, mean=mean, std=std)

    def subset(self, index: npt.NDArray[Any]) -> Windows:
        """Return the windows of these numbers, or of a bool mask (N,)."""
        names = ("labels", "groups", "splits", "folds", "times", "episodes", "rows")
        arrays = {name: array[index] for name in names if (array := getattr(self, name)) is not None}
        metadata = {name: values[index] for name, values in self.metadata.items()}
        return replace(self, metadata=metadata, **arrays)

    def with_labels(self, labels: npt.NDArray[Any]) -> Windows:
        """Return the same windows with other labels. Raise UsageError if the shape differs."""
        if labels.shape != self.labels.shape:
            letters = "(N, K)" if self.labels.ndim == 2 else "(N,)"
            raise UsageError(
                f"labels: expected shape {letters}={self.labels.shape}, got {labels.shape}; give one for each window"
            )
        return replace(self, labels=labels.astype(self.labels.dtype))

    def with_modalities(self, names: Sequence[str]) -> Windows:
        """Return the same windows with these modalities. Raise UsageError if a name is unknown, twice or missing."""
        if not names:
            raise UsageError("modalities: expected one or more names, got none; name a modality of the dataset")
        if len(set(names)) < len(names):
            raise UsageError(f"modalities: expected each name once, got {', '.join(names)}; name each once")
        modalities = tuple(self.spec.modality(name) for name in names)
        return replace(self, spec=msgspec.structs.replace(self.spec, modalities=modalities))


def valid_values(values: Floats, *, modality: ModalitySpec) -> Floats:
    """Return the values, NaN where they are infinite or outside the modality's range."""
    if modality.range is None:
        invalid = np.isinf(values)
    else:
        low, high = within_float32(*modality.range)
        invalid = (values < low) | (values > high)
    return np.where(invalid, np.float32(np.nan), values) if invalid.any() else values


def mean_and_std(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and population standard deviation (C,) of the known values (n, C).

    A channel without values has mean 0; one that never changes has std 1.
    """
    present = ~np.isnan(values)
    count = np.maximum(present.sum(axis=0), 1)
    known = np.where(present, values, 0.0).astype(np.float64)
    mean = known.sum(axis=0) / count
    deviation = np.where(present, known - mean, 0.0)
    std = np.sqrt(np.square(deviation).sum(axis=0) / count)
    constant = std <= 1e-12 * np.abs(mean)  # rounding in the mean leaves a few float64 steps
    return mean, np.where(constant, 1.0, std)


def group_statistics(windows: Windows) -> GroupStatistics | None:
    """Compute the statistics of every group; None if no modality is normalised per group."""
    modalities = [modality for modality in windows.spec.modalities if modality.normalise == "per_group"]
    if not modalities:
        return None
    names, group = np.unique(windows.groups, return_inverse=True)
    pairs = {
        modality.name: [
            mean_and_std(raw_values(windows, modality=modality, rows=windows.rows[group == number]))
            for number in range(len(names))
        ]
        for modality in modalities
    }
    mean, std = (
        {name: np.stack([pair[place] for pair in by_group]) for name, by_group in pairs.items()} for place in (0, 1)
    )
    return GroupStatistics(groups=names, mean=mean, std=std)


def raw_values(windows: Windows, *, modality: ModalitySpec, rows: Rows) -> Floats:
    """Return the valid raw values of these rows, float32 (n, C)."""
    values = valid_values(windows.source.gather(modality, rows, shift_s=None), modality=modality)
    return values.reshape(-1, len(modality.channels))


def split_facts(windows: Windows, *, part: str = "test") -> Split:
    """Return how judging windows differ from training windows, and what an interval resamples."""
    if windows.has_groups:
        return OF_GROUPS
    has_folds = windows.folds is not None
    length = "" if has_folds else f"{block_length(windows.spec.splits[part])} "
    resampled = "whole recordings" if windows.max_shift_s > 0 else f"blocks of {length}consecutive windows"
    judged_on = "the dataset's own folds" if has_folds else f"windows of the dataset's own {part} split"
    by: Literal["own folds", "own split"] = "own folds" if has_folds else "own split"
    return Split(by=by, judged_on=f"{judged_on}; {_NO_GROUPS}", resampled=resampled)
