"""One pass over every value of a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.frames import frame_bytes, missing_frames
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.spec import Values, windows_at_once
from mmkd_models.data.windows import Floats, Rows, Windows, WindowSource, valid_values

Figures = NDArray[np.float64]

_RUN = 3  # samples in a row at one value: a single sample at the limit is usual
_CELLS = 3  # per side of a frame
_FIGURES = ("missing", "infinite", "low", "high", "level", "power", "at_low", "at_high")
_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_SPECTRUM_BINS = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class ModalityScan:
    """Figures of a modality's valid values by window and channel, (N, C) each; NaN without values.

    Attributes:
        missing: fraction of samples that are NaN, infinite or out of range.
        level: mean; `power` is the mean square.
        at_low: fraction of samples in runs of at least three at the window's smallest value.
    """

    modality: ModalitySpec
    missing: Figures
    infinite: Figures
    low: Figures
    high: Figures
    level: Figures
    power: Figures
    at_low: Figures
    at_high: Figures

    @property
    def lowest(self) -> Figures:
        """Smallest value (C,); NaN without values."""
        return np.asarray(np.fmin.reduce(self.low))

    @property
    def highest(self) -> Figures:
        """Largest value (C,); NaN without values."""
        return np.asarray(np.fmax.reduce(self.high))

    @property
    def absent(self) -> NDArray[np.bool_]:
        """Whether a window has no value (N,)."""
        return np.asarray((self.missing == 1).all(axis=1))

    @property
    def flat(self) -> NDArray[np.bool_]:
        """Whether all samples, at least two, are equal (N, C)."""
        return np.asarray((self.low == self.high) & (self.modality.samples * (1 - self.missing) > 1.5))

    @property
    def at_limit(self) -> Figures:
        """Fraction (N, C) of samples in runs at the channel's extremes."""
        low = np.where(self.low == self.lowest, self.at_low, 0)
        return np.asarray(np.minimum(low + np.where(self.high == self.highest, self.at_high, 0), 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """Figures by modality; `digests` (N,) are equal for equal windows, empty without movement."""

    windows: Windows
    cameras: tuple[str, ...]
    modalities: dict[str, ModalityScan]
    digests: list[bytes]


def scan_windows(windows: Windows) -> Scan:
    """Read every window once, not normalised."""
    cameras = tuple(modality.name for modality in windows.spec.modalities if modality.kind == "video")
    windows = with_brightness(windows)
    modalities = windows.spec.modalities
    parts: dict[str, list[ModalityScan]] = {modality.name: [] for modality in modalities}
    digests: list[bytes] = []
    block_windows = min(map(windows_at_once, modalities))
    for start in range(0, len(windows), block_windows):
        rows = windows.rows[start : start + block_windows]
        block = {modality.name: windows.source.gather(modality, rows, shift_s=None) for modality in modalities}
        for modality in modalities:
            parts[modality.name].append(_scan_block(block[modality.name], modality))
        for number in range(len(rows)):
            samples = [np.ascontiguousarray(values[number]) for values in block.values()]
            moves = any(not np.array_equal(part[1:], part[:-1], equal_nan=True) for part in samples)
            content = hashlib.blake2b(b"".join(part.tobytes() for part in samples), digest_size=16)
            digests.append(content.digest() if moves else b"")
    return Scan(
        windows=windows,
        cameras=cameras,
        modalities={
            name: replace(scans[0], **{key: np.concatenate([getattr(scan, key) for scan in scans]) for key in _FIGURES})
            for name, scans in parts.items()
        },
        digests=digests,
    )


def _scan_block(raw: Floats, modality: ModalitySpec) -> ModalityScan:
    values = valid_values(raw, modality=modality)
    valid = ~np.isnan(values)
    count = valid.sum(axis=1)
    low = np.where(valid, values, np.inf).min(axis=1)
    high = np.where(valid, values, -np.inf).max(axis=1)
    filled = np.where(valid, values, 0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        level, power = filled.sum(axis=1) / count, (filled**2).sum(axis=1) / count
    return ModalityScan(
        modality=modality,
        missing=1 - count / values.shape[1],
        infinite=np.isinf(raw).sum(axis=1).astype(np.float64),
        low=np.where(count > 0, low, np.nan),
        high=np.where(count > 0, high, np.nan),
        level=level,
        power=power,
        at_low=_run_fraction(values == low[:, None]),
        at_high=_run_fraction(values == high[:, None]),
    )


def _run_fraction(hits: NDArray[np.bool_]) -> Figures:
    in_run = np.zeros_like(hits)
    places = hits.shape[1] - _RUN + 1
    if places > 0:
        whole = np.lib.stride_tricks.sliding_window_view(hits, _RUN, axis=1).all(axis=-1)
        for offset in range(_RUN):
            in_run[:, offset : offset + places] |= whole
    return np.asarray(in_run.mean(axis=1))


@dataclass(frozen=True, kw_only=True, eq=False)
class BrightnessSource:
    """Windows with cameras as series of brightness."""

    source: WindowSource
    cameras: Mapping[str, ModalitySpec]

    @property
    def max_shift_s(self) -> float:
        """As the source."""
        return self.source.max_shift_s

    def gather(self, modality: ModalitySpec, rows: Rows, *, shift_s: NDArray[np.float64] | None) -> Values:
        """Return new float32 (B, T, cells x C) of a camera; others as the source."""
        camera = self.cameras.get(modality.name)
        if camera is None:
            return self.source.gather(modality, rows, shift_s=shift_s)
        block = windows_at_once(camera)
        parts = [slice(start, start + block) for start in range(0, len(rows), block)]
        shifts = [None if shift_s is None else shift_s[part] for part in parts]
        frames = (self.source.gather(camera, rows[p], shift_s=shift) for p, shift in zip(parts, shifts, strict=True))
        return np.concatenate([brightness(block_frames) for block_frames in frames])


def with_brightness(windows: Windows) -> Windows:
    """Replace cameras by series: the brightness of nine parts of each frame."""
    cameras = {modality.name: modality for modality in windows.spec.modalities if modality.kind == "video"}
    if not cameras:
        return windows
    modalities = []
    for modality in windows.spec.modalities:
        if modality.kind == "video":
            down, across = (range(1, 1 + min(_CELLS, side)) for side in modality.shape[1:3])
            cells = product(down, across)
            channels = tuple(f"{name} {row}.{column}" for row, column in cells for name in modality.channels)
            modality = ModalitySpec(
                name=modality.name, channels=channels, rate_hz=modality.rate_hz, samples=modality.samples
            )
        modalities.append(modality)
    return replace(
        windows,
        spec=msgspec.structs.replace(windows.spec, modalities=tuple(modalities)),
        source=BrightnessSource(source=windows.source, cameras=cameras),
    )


def brightness(frames: Values) -> Floats:
    """Return part means (B, T, parts x C) of frames (B, T, H, W, C), NaN if masked."""
    values = frame_bytes(frames)
    down, across = (np.array_split(np.arange(side), min(_CELLS, side)) for side in values.shape[2:4])
    parts = [values[:, :, rows][:, :, :, columns].mean(axis=(2, 3)) for rows, columns in product(down, across)]
    means = np.concatenate(parts, axis=2, dtype=np.float32)  # each (B, T, C)
    means[missing_frames(frames)] = np.nan
    return means


def window_statistics(values: NDArray[np.float32]) -> Figures:
    """Return mean, std, quantiles, mean step and log power (N, features) of windows (N, T, C), NaN = missing."""
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
    features: Figures = np.concatenate(parts, axis=1)
    return features
