"""Windows of a dataset, read by index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_documents.figures import Split
from mmkd_edge.derive import derive_batch
from mmkd_edge.errors import DatasetError, UsageError
from mmkd_edge.predict.preprocess import join_parts, standardise, within_float32
from mmkd_edge.spec import ModalitySpec
from mmkd_models.arrays import ArraysError, check_whole, let_go
from mmkd_models.data.files import AnyArray
from mmkd_models.data.labels import Labels, block_length, is_labelled
from mmkd_models.data.spec import DatasetSpec, Values, decode_samples, window_bytes, windows_at_once, with_present

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Seconds = npt.NDArray[np.float64]

_COPY = 1 << 40  # a row and k times this is the row without the k-th part of a joined sensor
LARGE_BYTES = 1 << 28
"""A mapped file from which on pages that were read are let go: smaller ones are no burden."""

_NO_GROUPS = "no groups: may be of groups that trained"
OF_GROUPS = Split(by="groups", judged_on="groups never seen", resampled="whole groups")


class WindowSource(Protocol):
    """Raw windows by row number."""

    @property
    def max_shift_s(self) -> float:
        """Seconds that a window may be moved either way."""

    def gather(self, modality: ModalitySpec, rows: Rows, *, shift_s: Seconds | None) -> Values:
        """Return new float32 (B, T, C) in raw units, NaN and Inf as stored; video uint8 (B, T, H, W, C)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Views:
    """Joined windows, and derived ones, computed once where they fit: by modality whether (N,), values (N, T, ...)."""

    stored: dict[ModalitySpec, tuple[npt.NDArray[np.bool_], Values]] = field(default_factory=dict)

    def gather(self, source: WindowSource, modality: ModalitySpec, rows: Rows, *, shift_s: Seconds | None) -> Values:
        if modality.parts:
            missing, rows = np.divmod(rows, _COPY)
            whole = join_parts([source.gather(part, rows, shift_s=shift_s) for part in modality.parts], modality)
            return np.where(presence_without(modality, missing - 1), whole, np.float32(np.nan))
        assert modality.derived
        recorded = modality.derived.source

        def compute(rows: Rows, shift_s: Seconds | None) -> Values:
            values = source.gather(recorded, rows, shift_s=shift_s)
            valid = values if modality.kind == "video" else valid_values(values, modality=recorded)
            return derive_batch(valid, modality)

        count = int(rows.max(initial=0)) + 1
        known, views = self.stored.get(modality, (np.zeros(0, dtype=np.bool_), np.zeros((0, *modality.shape))))
        moves = shift_s is not None and source.max_shift_s > 0
        if moves or modality.kind == "video" or max(count, len(known)) * window_bytes(modality) > LARGE_BYTES:
            return compute(rows, shift_s)
        if count > len(known):
            count = max(count, 2 * len(known))
            grown = np.zeros(count, dtype=np.bool_), np.empty((count, *modality.shape), dtype=np.float32)
            grown[0][: len(known)], grown[1][: len(known)] = known, views
            known, views = self.stored[modality] = grown
        missing = np.unique(rows[~known[rows]])
        if len(missing):
            views[missing], known[missing] = compute(missing, None), True
        return views[rows]


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredWindows:
    """Windows in arrays (N_i, T, C), of video (N_i, T, H, W, C), concatenated at `offsets`."""

    parts: Mapping[str, Sequence[AnyArray]]
    offsets: Rows
    present: Mapping[str, Sequence[AnyArray | None]] = field(default_factory=dict)
    views: _Views = field(default_factory=_Views)

    @property
    def max_shift_s(self) -> float:
        """Always 0: samples around a stored window are unknown."""
        return 0.0

    def gather(self, modality: ModalitySpec, rows: Rows, *, shift_s: Seconds | None) -> Values:
        """Return new windows; `shift_s` is ignored."""
        if modality.sources and modality.name not in self.parts:
            return self.views.gather(self, modality, rows, shift_s=None)
        parts = self.parts[modality.name]
        _check_whole(parts)
        part_numbers = np.searchsorted(self.offsets, rows, side="right") - 1
        used = np.unique(part_numbers).tolist()
        if len(used) == 1:
            values = decode_samples(np.asarray(parts[used[0]][rows - self.offsets[used[0]]]), kind=modality.kind)
        else:
            values = np.empty((len(rows), *modality.shape), dtype=modality.dtype)
            for part in used:
                here = part_numbers == part
                values[here] = decode_samples(parts[part][rows[here] - self.offsets[part]], kind=modality.kind)
        for part in used:
            let_go(parts[part], least_bytes=LARGE_BYTES)
        return with_present(values, self._present(modality, rows, part_numbers)) if modality.kind == "video" else values

    def _present(self, modality: ModalitySpec, rows: Rows, part_numbers: Rows) -> AnyArray:
        present = np.ones((len(rows), modality.samples), dtype=np.uint8)
        for part, stored in enumerate(self.present.get(modality.name, ())):
            here = part_numbers == part
            if stored is not None:
                present[here] = stored[rows[here] - self.offsets[part]]
        return present


@dataclass(frozen=True, kw_only=True, eq=False)
class CutWindows:
    """Windows cut from recordings when they are read, at any offset."""

    # By modality, recordings end to end: float32 or int16 (L, C), video uint8 (L, H, W, C)
    samples: Mapping[str, AnyArray]
    scale: Mapping[str, Floats]  # (C,) by int16 modality: the value of one count
    offsets: Mapping[str, Rows]  # by modality (R,): start of each recording in `samples`
    lengths: Mapping[str, Rows]
    recording: Rows
    start_s: Seconds  # (N,) in its recording; `latest_start_s` (R,) limits moved windows
    latest_start_s: Seconds
    hop_s: float
    # For video uint8 (L,), 1 if the frame is present; absent if all are
    present: Mapping[str, AnyArray] = field(default_factory=dict)
    views: _Views = field(default_factory=_Views)

    @property
    def max_shift_s(self) -> float:
        """Half a hop: further away a window is its neighbour."""
        return self.hop_s / 2

    def gather(self, modality: ModalitySpec, rows: Rows, *, shift_s: Seconds | None) -> Values:
        """Return new windows, moved by `shift_s` as far as the recording reaches."""
        if modality.sources:
            return self.views.gather(self, modality, rows, shift_s=shift_s)
        recording = self.recording[rows]
        start_s = self.start_s[rows]
        if shift_s is not None:
            start_s = np.clip(start_s + shift_s, 0.0, np.maximum(self.latest_start_s[recording], start_s))
        first = first_sample(start_s, modality.rate_hz)
        first = np.minimum(first, self.lengths[modality.name][recording] - modality.samples)
        first = first + self.offsets[modality.name][recording]
        _check_whole([self.samples[modality.name]])
        present = self.present.get(modality.name)
        stored = _windows_at(self.samples[modality.name], first, modality.samples)
        let_go(self.samples[modality.name], least_bytes=LARGE_BYTES)
        values = decode_samples(stored, kind=modality.kind, scale=self.scale.get(modality.name))
        return values if present is None else with_present(values, _windows_at(present, first, modality.samples))


def _windows_at(flat: AnyArray, first: Rows, samples: int) -> AnyArray:
    width = int(np.prod(flat.shape[1:]))
    # (L - T + 1, T * width): row i is the window that starts at sample i, without a copy
    views = np.lib.stride_tricks.sliding_window_view(np.asarray(flat).reshape(-1), samples * width)[::width]
    return np.asarray(views[first].reshape(len(first), samples, *flat.shape[1:]))


def _check_whole(arrays: Sequence[AnyArray]) -> None:
    for array in arrays:
        try:
            check_whole(array)
        except ArraysError as error:
            cure = "copy the dataset again, and replace its files, never write into them"
            raise DatasetError(f"{error}; {cure}") from error


def first_sample(start_s: Seconds, rate_hz: float) -> Rows:
    """Return the sample nearest to each start; halves go to even."""
    return np.rint(start_s * rate_hz).astype(np.int64)


def window_starts_s(lengths: Sequence[int], modalities: Sequence[ModalitySpec], *, hop_s: float) -> list[float]:
    """Return the starts k * hop_s of a recording's windows that fit every modality."""
    # Rounding may start a window half a sample late.
    latest_s = latest_start_s(lengths, modalities) + max(0.5 / modality.rate_hz for modality in modalities)
    starts: npt.NDArray[np.float64] = np.arange(max(int(latest_s / hop_s) + 2, 0), dtype=np.float64) * hop_s
    fits = np.ones(len(starts), dtype=bool)
    for length, modality in zip(lengths, modalities, strict=True):
        fits &= first_sample(starts, modality.rate_hz) + modality.samples <= length
    found: list[float] = starts[fits].tolist()
    return found


def latest_start_s(lengths: Sequence[int], modalities: Sequence[ModalitySpec]) -> float:
    """Return the latest start that fits every modality; negative if none does."""
    return min(
        (length - modality.samples) / modality.rate_hz for length, modality in zip(lengths, modalities, strict=True)
    )


Groups = npt.NDArray[Any]
"""int64 or text (N,): the person, machine or session of each window."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupStatistics:
    """Mean and std of each group's raw values in `windows`, the whole dataset, measured when they are first needed."""

    windows: Windows
    groups: Groups
    measured: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = field(default_factory=dict)

    def measure(self, modality: ModalitySpec, groups: Groups) -> list[npt.NDArray[np.float64]]:
        """Return mean and std (above 0), (B, 1, C) each: one for all samples of a window of these groups (B,)."""
        whole = self.windows
        if modality.name not in self.measured:
            rows = (whole.rows[whole.groups == name] for name in self.groups)
            pairs = (mean_and_std(raw_values(whole, modality=modality, rows=numbers)) for numbers in rows)
            means, stds = zip(*pairs, strict=True)
            self.measured[modality.name] = np.stack(means), np.stack(stds)
        return [values[np.searchsorted(self.groups, groups)][:, None] for values in self.measured[modality.name]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """Windows with labels and groups, without values: `take` reads them.

    Attributes:
        labels: (N, ...), see `labels.py`.
        groups: (N,); without groups the number of the recording, or of a block of consecutive windows.
        splits: (N,) 0 train, 1 valid, 2 test.
        metadata: (N,) each.
        times: float64 (N,), UTC seconds at the start.
        starts: float64 (N,), seconds at the start by a clock that does not count from 1970.
        episodes: (N,), equal for windows of one run of a recording.
        rows: (N,), window numbers in the source.
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
    times: Seconds | None = None
    starts: Seconds | None = None
    episodes: Rows | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Windows({len(self)} of {self.spec.name!r}: {self.spec.shapes_text})"

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """Whether each window has a label (N,)."""
        return is_labelled(self.labels)

    @property
    def group_count(self) -> int:
        """Number of groups; 0 without groups."""
        return len(np.unique(self.groups)) if self.has_groups else 0

    @property
    def clock_s(self) -> Seconds | None:
        """Seconds (N,) at the start of each window by its clock, UTC or not; None if they are unknown."""
        return self.starts if self.times is None else self.times

    @property
    def max_shift_s(self) -> float:
        """Half a hop for windows cut from recordings, else 0."""
        return self.source.max_shift_s

    def take(self, index: npt.ArrayLike, *, shift_s: npt.ArrayLike | None = None) -> dict[str, Values]:
        """Return windows by modality: new float32 (B, T, C), NaN = missing; video uint8 (B, T, H, W, C) or masked.

        Infinite values and those outside `range` become NaN. `normalise: per_group` z-scores with the statistics of the
        window's group over the whole dataset (no label is used). `shift_s` (B,) moves windows inside their recordings.
        """
        shift = None if shift_s is None else np.asarray(shift_s, dtype=np.float64)
        numbers = np.asarray(index)
        return {modality.name: self._take_one(modality, numbers, shift_s=shift) for modality in self.spec.modalities}

    def _take_one(self, modality: ModalitySpec, index: npt.NDArray[Any], *, shift_s: Seconds | None) -> Values:
        values = self.source.gather(modality, self.rows[index], shift_s=shift_s)
        if modality.kind == "video":
            return values
        if modality.normalise == "none" or self.statistics is None:
            return valid_values(values, modality=modality)
        mean, std = self.statistics.measure(modality, self.groups[index])
        return standardise(values, modality, mean=mean, std=std)

    def subset(self, index: npt.NDArray[Any]) -> Windows:
        """Return the windows of these numbers or bool mask (N,)."""
        names = ("labels", "groups", "splits", "folds", "times", "starts", "episodes", "rows")
        arrays = {name: array[index] for name in names if (array := getattr(self, name)) is not None}
        metadata = {name: values[index] for name, values in self.metadata.items()}
        return replace(self, metadata=metadata, **arrays)

    def only_labelled(self) -> Windows:
        """Return the labelled windows."""
        return self.subset(np.flatnonzero(self.labelled))

    def with_labels(self, labels: npt.NDArray[Any]) -> Windows:
        """Return the windows with other labels. Raise UsageError if the shape differs."""
        if labels.shape != self.labels.shape:
            letters = "(N, K)" if self.labels.ndim == 2 else "(N,)"
            raise UsageError(
                f"labels: expected shape {letters}={self.labels.shape}, got {labels.shape}; give one for each window"
            )
        return replace(self, labels=labels.astype(self.labels.dtype))

    def with_modalities(self, names: Sequence[str]) -> Windows:
        """Return the windows with these modalities. Raise UsageError if a name is unknown, twice or missing."""
        if not names:
            raise UsageError("modalities: expected one or more names, got none; name a modality of the dataset")
        modalities = tuple(self.spec.modality(name) for name in names)
        if len({modality.name for modality in modalities}) < len(names):
            raise UsageError(f"modalities: expected each name once, got {', '.join(names)}; name each once")
        return replace(self, spec=msgspec.structs.replace(self.spec, modalities=modalities))


def presence_without(modality: ModalitySpec, missing: Rows) -> npt.NDArray[np.bool_]:
    """Return presence (B, 1, C), False in the channels of a joined modality's part of this number (B,)."""
    present = np.ones((len(missing), 1, len(modality.channels)), dtype=bool)
    for number, channels in enumerate(modality.part_channels):
        present[missing == number, :, channels] = False
    return present


def without_each(windows: Windows, modality: str) -> Windows:
    """Return the windows of one modality and, of a joined one, copies without each part."""
    own = windows.with_modalities([modality])
    copies = len(own.spec.modalities[0].parts or ()) + 1
    copied = own.subset(np.tile(np.arange(len(own)), copies))
    return replace(copied, rows=copied.rows + _COPY * np.repeat(np.arange(copies), len(own)))


def without_in_turn(values: Values, modality: ModalitySpec) -> Values:
    """Return windows (N, T, C) of which one in turn is complete and, of a joined modality, one lacks each part."""
    if not modality.parts:
        return values
    missing = np.arange(-1, len(values) - 1) % (len(modality.parts) + 1)
    return np.where(presence_without(modality, missing), values, np.float32(np.nan))


def valid_values(values: Floats, *, modality: ModalitySpec) -> Floats:
    """Return the values, NaN if infinite or outside the modality's range."""
    if modality.range is None:
        invalid = np.isinf(values)
    else:
        low, high = within_float32(*modality.range)
        invalid = (values < low) | (values > high)
    return np.where(invalid, np.float32(np.nan), values) if invalid.any() else values


def mean_and_std(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and population std (C,) of known values (n, C); mean 0 without values, std 1 without change."""
    present = ~np.isnan(values)
    count = np.maximum(present.sum(axis=0), 1)
    known = np.where(present, values, 0.0).astype(np.float64)
    mean = known.sum(axis=0) / count
    deviation = np.where(present, known - mean, 0.0)
    std = np.sqrt(np.square(deviation).sum(axis=0) / count)
    constant = std <= 1e-12 * np.abs(mean)  # rounding in the mean leaves a few float64 steps
    return mean, np.where(constant, 1.0, std)


def raw_blocks(windows: Windows, modality: ModalitySpec) -> Iterator[Values]:
    """Yield windows (B, ...) in raw units, in order, as many at a time as memory takes."""
    block = windows_at_once(modality)
    for start in range(0, len(windows), block):
        yield windows.source.gather(modality, windows.rows[start : start + block], shift_s=None)


def raw_values(windows: Windows, *, modality: ModalitySpec, rows: Rows) -> Floats:
    """Return valid raw values, float32 (n, C)."""
    values = valid_values(windows.source.gather(modality, rows, shift_s=None), modality=modality)
    return values.reshape(-1, len(modality.channels))


def split_facts(windows: Windows, *, part: str = "test") -> Split:
    """Return how judging and training windows differ, and what an interval resamples."""
    if windows.has_groups:
        return OF_GROUPS
    has_folds = windows.folds is not None
    length = "" if has_folds else f"{block_length(windows.spec.splits[part])} "
    resampled = "whole recordings" if windows.max_shift_s > 0 else f"blocks of {length}consecutive windows"
    judged_on = "the dataset's own folds" if has_folds else f"windows of the dataset's own {part} split"
    by: Literal["own folds", "own split"] = "own folds" if has_folds else "own split"
    return Split(by=by, judged_on=f"{judged_on}; {_NO_GROUPS}", resampled=resampled)
