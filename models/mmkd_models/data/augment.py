"""Augmentation of training windows, and a sensor whose clock is a little early or late against the others'."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalityKind, ModalitySpec
from mmkd_models.data.spec import Values
from mmkd_models.data.windows import Rows, Windows, WindowSource

Floats = NDArray[np.float32]

_SNR_REACH = 4.0  # largest factor between the noise of a window of sound and `noise`
_SOUND_DB = 60.0  # largest change of level, divided by `gain`
_WIDEST_BAND = 0.25  # fraction of the spectrum
_BRIGHTNESS = 2.0  # largest change of contrast and brightness, divided by `gain`
_LARGEST_BYTE = 255.0
_PICTURE = 1 / 16  # largest shift and change of size, as a fraction of a side


class AugmentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Numbers are probabilities or fractions.

    Audio and video scale them by the constants above; frames are dropped instead of channels.

    Attributes:
        shift: move windows cut from recordings by up to half a hop.
        mixup: fraction of batches mixed in pairs, lambda ~ U(0, 1) (Zhang et al., "mixup", ICLR 2018; uniform as in
            Beyer et al., CVPR 2022).
        noise: std, in medians of the windows' std about their mean.
        gain: largest relative change of scale about a window's mean.
        span_dropout: probability of hiding a span of up to half a window.
        clock_error_s: largest error of a student's clock against labels and other sensors; 0 moves nothing.
    """

    shift: bool = True
    mixup: float = 0.8
    noise: float = 0.05
    gain: float = 0.1
    channel_dropout: float = 0.05
    span_dropout: float = 0.2
    clock_error_s: float = 0.0


def augment_batch(
    values: NDArray[Any],
    present: Floats,
    *,
    kind: ModalityKind,
    movement: Floats | None,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Vary windows (B, T, C) or (B, T, H, W, C); `movement` (C,) is the median std of series."""
    if kind != "series":
        return (_augment_audio if kind == "audio" else _augment_video)(values, present, config, rng)
    assert movement is not None
    mean = values.sum(1, keepdims=True) / np.maximum(present.sum(1, keepdims=True), 1)
    gain = rng.uniform(1 - config.gain, 1 + config.gain, (len(values), 1, 1)).astype(np.float32)
    noise = rng.standard_normal(values.shape, dtype=np.float32) * (movement * config.noise)
    present = present * _draw_mask(present.shape, config, rng)
    return (mean + (values - mean) * gain + noise) * present, present


def _augment_audio(
    values: Floats, present: Floats, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    batch = len(values)
    count = np.maximum(present.sum(1, keepdims=True), 1)
    level = np.sqrt(np.square(values).sum(1, keepdims=True) / count)  # (B, 1, C)
    louder = _SNR_REACH ** rng.uniform(-1, 1, (batch, 1, 1))
    noise = rng.standard_normal(values.shape, dtype=np.float32) * (level * louder * config.noise).astype(np.float32)
    gain = 10 ** (rng.uniform(-1, 1, (batch, 1, 1)) * config.gain * _SOUND_DB / 20)
    silenced = rng.uniform(size=batch) < config.span_dropout
    low, width = rng.uniform(0, 1, batch), rng.uniform(0, _WIDEST_BAND, batch)
    values = values.copy()
    if silenced.any():  # a band of the spectrum, in fractions of the Nyquist frequency, is removed
        spectrum = np.fft.rfft(values[silenced], axis=1)
        place = np.linspace(0, 1, spectrum.shape[1])[None, :, None]
        inside = (place >= low[silenced, None, None]) & (place < (low + width)[silenced, None, None])
        values[silenced] = np.fft.irfft(np.where(inside, 0, spectrum), n=values.shape[1], axis=1)
    present = present * _draw_mask(present.shape, config, rng)
    return ((values + noise) * gain.astype(np.float32)) * present, present


def _augment_video(
    values: NDArray[Any], present: Floats, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    batch, frames, height, width, _ = values.shape
    reach = config.gain * _BRIGHTNESS
    contrast = rng.uniform(1 - reach, 1 + reach, (batch, 1, 1, 1, 1)).astype(np.float32)
    brightness = rng.uniform(-reach, reach, (batch, 1, 1, 1, 1)).astype(np.float32) * (_LARGEST_BYTE / 2)
    grain = rng.uniform(0, config.noise * _LARGEST_BYTE, (batch, 1, 1, 1, 1)).astype(np.float32)
    size, down, right = rng.uniform(-_PICTURE, _PICTURE, (3, batch))
    pictures = values.astype(np.float32)
    if config.shift:
        for number in range(batch):  # a window has one camera: all of its frames move alike
            rows, columns = (
                _move_side(height, size[number], down[number]),
                _move_side(width, size[number], right[number]),
            )
            pictures[number] = pictures[number][:, rows][:, :, columns]
    middle = np.float32(_LARGEST_BYTE / 2)
    pictures = (pictures - middle) * contrast + middle + brightness
    pictures += rng.standard_normal(pictures.shape, dtype=np.float32) * grain
    dropped = rng.uniform(size=(batch, frames, 1)) < config.channel_dropout
    present = present * ~dropped * _draw_mask(present.shape, config, rng)
    return np.clip(pictures, 0, _LARGEST_BYTE) * present[..., None, None], present


def _move_side(pixels: int, size: float, shift: float) -> NDArray[np.int64]:
    """Return the old pixel of each new one."""
    middle = (pixels - 1) / 2
    places = (np.arange(pixels) - middle) * (1 + size) + middle + shift * pixels
    nearest: NDArray[np.int64] = np.clip(np.rint(places), 0, pixels - 1).astype(np.int64)
    return nearest


def _draw_mask(shape: tuple[int, ...], config: AugmentConfig, rng: np.random.Generator) -> Floats:
    batch, samples, channels = shape
    keep = np.ones(shape, dtype=np.float32)
    if channels > 1:
        keep *= rng.uniform(size=(batch, 1, channels)) >= config.channel_dropout
    start = rng.integers(0, samples, (batch, 1))
    length = rng.integers(1, max(2, samples // 2), (batch, 1)) * (rng.uniform(size=(batch, 1)) < config.span_dropout)
    time = np.arange(samples)
    keep *= ~((time >= start) & (time < start + length))[:, :, None]
    return keep


@dataclass(frozen=True, kw_only=True, eq=False)
class _OffClock:
    source: WindowSource
    modality: str
    largest_s: float
    seed: int

    @property
    def max_shift_s(self) -> float:
        return self.source.max_shift_s

    def gather(self, modality: ModalitySpec, rows: Rows, *, shift_s: NDArray[np.float64] | None) -> Values:
        if modality.name == self.modality:
            moved = np.zeros(len(rows)) if shift_s is None else shift_s
            # A new position of the same window, as in every epoch, has a new error.
            seeds = zip(rows.tolist(), np.abs(moved * 1e9).astype(np.int64).tolist(), strict=True)
            errors = [np.random.default_rng([self.seed, *seed]).uniform(-1, 1) for seed in seeds]
            shift_s = moved + self.largest_s * np.array(errors)
        return self.source.gather(modality, rows, shift_s=shift_s)


def with_clock_error(windows: Windows, modality: str, largest_s: float, *, seed: int) -> Windows:
    """Move a sensor's windows by up to `largest_s` seconds either way, as far as recordings reach; 0 moves none.

    Raise UsageError for cut windows, and for more than half a window.
    """
    if not largest_s:
        return windows
    half_s = windows.spec.modality(modality).duration_s / 2
    if windows.max_shift_s == 0:
        raise UsageError(
            "--clock-error: expected a dataset of recordings, in which a window can be moved, got one of cut windows; "
            "import the recordings (mmkd-data import), or leave the option out"
        )
    if largest_s > half_s:
        raise UsageError(
            f"--clock-error: expected at most half a window, {half_s:g} s, got {largest_s:g} s; name a smaller one, or "
            "cut longer windows"
        )
    source = _OffClock(source=windows.source, modality=modality, largest_s=largest_s, seed=seed)
    return replace(windows, source=source)
