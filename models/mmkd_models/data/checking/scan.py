"""One pass over every value of a dataset: what is missing, infinite or out of range, and which windows are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from mmkd_edge.predict.preprocess import within_float32
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.kinds import Values, present_of, windows_at_once
from mmkd_models.data.sources import Floats, Rows
from mmkd_models.data.windows import Windows


@dataclass(frozen=True, kw_only=True, eq=False)
class ModalityScan:
    """Counts of one modality, each int64 (N,): one number per window.

    Attributes:
        outside: finite values outside the modality's range; 0 without a range.
        values: how many values a window has; of video how many frames.
        low: the smallest finite value of each channel (C,), in the modality's unit; NaN where there is none.
        level: the mean of each channel in each window (N, C); NaN where there is none, and for video.
    """

    missing: Rows
    infinite: Rows
    outside: Rows
    values: int
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    level: npt.NDArray[np.float64]
    power: npt.NDArray[np.float64]

    @property
    def unusable(self) -> Rows:
        """Values of each window that count as missing, whatever the reason."""
        return self.missing + self.infinite + self.outside


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """What one pass over the windows found.

    Attributes:
        digests: bytes (N,), equal where two windows hold the same values in every modality. Empty where nothing moves
            in any modality: two windows of silence are no copy of each other.
    """

    modalities: dict[str, ModalityScan]
    digests: list[bytes]


def scan_windows(windows: Windows) -> Scan:
    """Read every window once, in blocks, raw."""
    modalities = windows.spec.modalities
    parts: dict[str, list[ModalityScan]] = {modality.name: [] for modality in modalities}
    digests: list[bytes] = []
    block_windows = min(map(windows_at_once, modalities), default=1)
    for start in range(0, len(windows), block_windows):
        rows = windows.rows[start : start + block_windows]
        block = {modality.name: windows.source.gather(modality, rows, shift_s=None) for modality in modalities}
        for modality in modalities:
            parts[modality.name].append(_scan_block(block[modality.name], modality))
        digests += _digests(list(block.values()))
    return Scan(modalities={name: _joined(scans) for name, scans in parts.items()}, digests=digests)


def _scan_block(values: Values, modality: ModalitySpec) -> ModalityScan:
    return _scan_frames(values, modality) if modality.kind == "video" else _scan_values(values, modality)


def _scan_frames(values: Values, modality: ModalitySpec) -> ModalityScan:
    present = present_of(values)
    count, channels = len(values), len(modality.channels)
    none = np.zeros(count, dtype=np.int64)
    frames = values if present is None else values.view(np.ndarray)[present == 1]
    flat = frames.reshape(-1, channels)
    unknown = np.full(channels, np.nan)
    return ModalityScan(
        missing=none if present is None else (present == 0).sum(axis=1),
        infinite=none,
        outside=none,
        values=modality.samples,
        low=flat.min(axis=0).astype(np.float64) if len(flat) else unknown,
        high=flat.max(axis=0).astype(np.float64) if len(flat) else unknown,
        level=np.full((count, channels), np.nan),
        power=np.full((count, channels), np.nan),
    )


def _scan_values(values: Floats, modality: ModalitySpec) -> ModalityScan:
    finite = np.isfinite(values)
    missing = np.isnan(values)
    outside = np.zeros_like(finite)
    if modality.range is not None:
        low, high = within_float32(*modality.range)
        outside = finite & ((values < low) | (values > high))
    lowest = np.where(finite, values, np.inf).min(axis=(0, 1)).astype(np.float64)
    highest = np.where(finite, values, -np.inf).max(axis=(0, 1)).astype(np.float64)
    usable = finite & ~outside
    count = usable.sum(axis=1)  # (B, C)
    filled = np.where(usable, values, 0.0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        level, power = filled.sum(axis=1) / count, (filled**2).sum(axis=1) / count
    return ModalityScan(
        missing=missing.sum(axis=(1, 2)),
        infinite=(~finite & ~missing).sum(axis=(1, 2)),
        outside=outside.sum(axis=(1, 2)),
        values=modality.samples * len(modality.channels),
        low=np.where(np.isposinf(lowest), np.nan, lowest),
        high=np.where(np.isneginf(highest), np.nan, highest),
        level=level,
        power=power,
    )


def _joined(scans: list[ModalityScan]) -> ModalityScan:
    return ModalityScan(
        missing=np.concatenate([scan.missing for scan in scans]),
        infinite=np.concatenate([scan.infinite for scan in scans]),
        outside=np.concatenate([scan.outside for scan in scans]),
        values=scans[0].values,
        low=np.fmin.reduce([scan.low for scan in scans]),
        high=np.fmax.reduce([scan.high for scan in scans]),
        level=np.concatenate([scan.level for scan in scans]),
        power=np.concatenate([scan.power for scan in scans]),
    )


def _digests(block: list[Values]) -> Iterator[bytes]:
    moves = np.zeros(len(block[0]), dtype=bool)
    for values in block:
        moves |= _moves(values)
    for number, moving in enumerate(moves):
        digest = hashlib.blake2b(digest_size=16)
        for values in block:
            one = values[number]
            digest.update(np.ascontiguousarray(np.ma.filled(one, 0)).tobytes())
        yield digest.digest() if moving else b""


def _moves(values: Values) -> npt.NDArray[np.bool_]:
    """(B,) whether any sample differs from the first."""
    first = values[:, :1]  # (B, 1, ...)
    differs = np.ma.filled(values != first, False)
    if values.dtype.kind == "f":
        differs &= ~(np.isnan(values) & np.isnan(first))
    return np.asarray(differs.reshape(len(values), -1).any(axis=1))


_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_SPECTRUM_BINS = 32


def window_statistics(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return per channel mean, standard deviation, quantiles, mean absolute step and log power of the lowest bins.

    Args:
        values: (N, T, C); NaN = missing, ignored by the statistics and 0 in the spectrum.

    Returns:
        (N, features), finite.
    """
    x = values.astype(np.float64)
    known = np.isfinite(x)
    filled = np.where(known, x, 0.0)
    count = np.maximum(known.sum(1), 1)
    mean = filled.sum(1) / count
    centred = np.where(known, x - mean[:, None], 0.0)
    std = np.sqrt((centred**2).sum(1) / count)
    ordered = np.sort(np.where(known, x, np.inf), axis=1)
    ordered[np.isinf(ordered)] = 0.0  # a channel without a value counts as 0
    places = np.array(_QUANTILES)[:, None] * (count[:, None] - 1)  # (N, quantiles, C)
    low = np.floor(places).astype(np.int64)
    below, above = (np.take_along_axis(ordered, rows, axis=1) for rows in (low, np.ceil(places).astype(np.int64)))
    quantiles = (below + (above - below) * (places - low)).reshape(len(x), -1)
    step = np.abs(np.diff(filled, axis=1))
    pairs = known[:, 1:] & known[:, :-1]
    mean_step = np.where(pairs, step, 0.0).sum(1) / np.maximum(pairs.sum(1), 1)
    power = np.abs(np.fft.rfft(centred, axis=1)[:, 1 : _SPECTRUM_BINS + 1]) ** 2
    parts = [mean, std, quantiles, mean_step, np.log(power + 1e-6).reshape(len(x), -1)]
    features: NDArray[np.float64] = np.concatenate(parts, axis=1)
    return features
