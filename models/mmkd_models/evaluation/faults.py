"""Faults: effects, and one table.

They act on samples (T, c), on audio from -1 to 1, on frames (T, H, W, C) to 255; NaN stays missing.
Maxima are those of SensorFault-Bench (arXiv 2605.10822), if it has the fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.spec import ModalityKind, ModalitySpec

Samples = NDArray[np.float64]
"""(T, c), NaN where missing; of video (T, H, W, C) from 0 to 255, whole frames NaN where missing."""

_MAX_SNR_DB = 30.0  # at severity 0; 0 dB at severity 1
_MIN_BAND = 0.25  # fraction of half the sampling rate
_MIN_LIGHT = 0.1
_MAX_BLUR = 0.1  # standard deviation, fraction of the shorter side
_MAX_SHIFT = 0.25  # fraction of a side
_MAX_DROPPED = 0.5  # fraction of frames, as a gap of a series
_MAINS_HZ = (50.0, 60.0)
_RATE_ERROR = 0.1
_MAX_BITS, _MIN_BITS = 10, 2
_FULL_SCALE = 3.0  # standard deviations either way of the mean
SEVERITIES = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Fractions of the maximum, as in SensorFault-Bench."""
_SERIES: tuple[ModalityKind, ...] = ("series",)
_BOTH: tuple[ModalityKind, ...] = ("series", "audio")
_SOUND: tuple[ModalityKind, ...] = ("audio",)
_VIDEO: tuple[ModalityKind, ...] = ("video",)


@dataclass(frozen=True, kw_only=True)
class FaultedChannels:
    """Mean and standard deviation (c,) of the affected channels, in raw units; NaN for video."""

    mean: Samples
    std: Samples
    rate_hz: float


Apply = Callable[[NDArray[Any], FaultedChannels, float, np.random.Generator], NDArray[Any]]
"""Takes the hit channels' samples, the sensor, a severity above 0 and up to 1, and a generator."""


def noise(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Add white noise of up to one standard deviation."""
    return x + severity * sensor.std * rng.standard_normal(x.shape)


def offset(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Add up to 0.75 standard deviations, up or down."""
    return x + severity * 0.75 * sensor.std * _signs(x, rng)


def drift(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Add a ramp of up to one standard deviation."""
    ramp = np.linspace(0, 1, len(x))[:, None]
    return x + severity * sensor.std * _signs(x, rng) * ramp


def gain_up(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Amplify up to twice, from the mean."""
    return sensor.mean + (x - sensor.mean) * (1 + severity)


def gain_down(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Attenuate down to a quarter, from the mean."""
    return sensor.mean + (x - sensor.mean) * (1 - 0.75 * severity)


def spike(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Move one sample in fifty, at least one, by up to 7.5 standard deviations."""
    count = max(1, len(x) // 50)
    at = rng.permutation(len(x))[:count]
    result: Samples = x.copy()
    result[at] += severity * 7.5 * sensor.std * rng.choice((-1.0, 1.0), (count, x.shape[1]))
    return result


def stuck(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Hold the last value, up to the whole window."""
    start = len(x) - _part(x, severity)
    result: Samples = x.copy()
    result[start:] = x[max(0, start - 1)]
    return result


def gap(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Lose one span, up to half the window."""
    length = _part(x, 0.5 * severity)
    start = int(rng.uniform() * (len(x) - length + 1))
    result: Samples = x.copy()
    result[start : start + length] = np.nan
    return result


def clipping(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Clip at 3 standard deviations from the mean, at worst 1."""
    reach = (3 - 2 * severity) * sensor.std
    return np.asarray(np.clip(x, sensor.mean - reach, sensor.mean + reach))


def time_stretch(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Slow down up to five times around the middle."""
    return _resample(x, 1 / (1 + 4 * severity))


def sample_rate(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Run the sensor's clock up to 10 % fast or slow."""
    return _resample(x, 1 + _RATE_ERROR * severity * float(rng.choice((-1.0, 1.0))))


def time_shift(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Delay by up to half the window; values before are missing."""
    late = _part(x, 0.5 * severity)
    result: Samples = np.full_like(x, np.nan)
    result[late:] = x[: len(x) - late]
    return result


def quantisation(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Convert with 10 bits over three standard deviations either way, at worst 2 bits."""
    bits = round(_MAX_BITS - (_MAX_BITS - _MIN_BITS) * severity)
    step = 2 * _FULL_SCALE * sensor.std / 2**bits
    reach = _FULL_SCALE * sensor.std
    return np.asarray(sensor.mean + np.round(np.clip(x - sensor.mean, -reach, reach) / step) * step)


def hum(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Add mains hum of up to one standard deviation, aliased at low sampling rates."""
    seconds = np.arange(len(x))[:, None] / sensor.rate_hz
    phase = rng.uniform(0, 2 * np.pi)
    wave: Samples = np.sin(2 * np.pi * float(rng.choice(_MAINS_HZ)) * seconds + phase)
    return x + severity * sensor.std * wave


def channel_swap(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Swap two channels, in up to every window."""
    return np.asarray(x[:, ::-1].copy() if rng.uniform() < severity else x)


def lost_channel(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Lose the end of the window, at worst all."""
    result: Samples = x.copy()
    result[len(x) - _part(x, severity) :] = np.nan
    return result


def unchanged(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Return the samples of a window whose place in the recording is the fault."""
    return x


def _signs(x: Samples, rng: np.random.Generator) -> Samples:
    return np.asarray(rng.choice((-1.0, 1.0), x.shape[1]))


def _part(x: Samples, fraction: float) -> int:
    return max(1, round(fraction * len(x)))


def _resample(x: Samples, speed: float) -> Samples:
    middle = (len(x) - 1) / 2
    at = middle + (np.arange(len(x)) - middle) * speed
    low = np.clip(np.floor(at).astype(np.int64), 0, len(x) - 1)
    high = np.clip(low + 1, 0, len(x) - 1)
    weight = (at - low)[:, None]
    result: Samples = np.where(weight == 0, x[low], (1 - weight) * x[low] + weight * x[high])
    result[(at < 0) | (at > len(x) - 1)] = np.nan
    return result


def added_noise(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Add white noise of 24 dB to 0 dB below the window's own power."""
    power = np.square(np.nan_to_num(x)).sum(axis=0) / np.maximum((~np.isnan(x)).sum(axis=0), 1)
    signal_to_noise_db = _MAX_SNR_DB * (1 - severity)
    level = np.sqrt(power / 10 ** (signal_to_noise_db / 10))
    return np.asarray(x + level * rng.standard_normal(x.shape))


def treble_lost(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Cut above a limit that falls to a quarter of the band."""
    return _within(x, 0.0, 1 - (1 - _MIN_BAND) * severity)


def bass_lost(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Cut below a limit that rises to a quarter of the band."""
    return _within(x, _MIN_BAND * severity, 1.0)


def _within(x: Samples, low: float, high: float) -> Samples:
    spectrum = np.fft.rfft(np.nan_to_num(x), axis=0)
    place = np.linspace(0, 1, len(spectrum))[:, None]
    band = np.fft.irfft(np.where((place >= low) & (place <= high), spectrum, 0), n=len(x), axis=0)
    result: Samples = np.where(np.isnan(x), np.nan, band)
    return result


def dark(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Dim to a tenth of the light."""
    return np.asarray(x * (1 - (1 - _MIN_LIGHT) * severity))


def blur(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Blur by a Gaussian of up to a tenth of the shorter side, repeating edges."""
    std = severity * _MAX_BLUR * min(x.shape[1:3])
    reach = max(1, int(np.ceil(3 * std)))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / std) ** 2)
    for axis in (1, 2):
        x = _smooth(x, weights / weights.sum(), axis)
    return x


def dropped_frames(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Lose up to half of the frames, at least one."""
    count = max(1, round(_MAX_DROPPED * severity * len(x)))
    result: Samples = x.copy()
    result[rng.permutation(len(x))[:count]] = np.nan
    return result


def shifted_camera(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Move the picture by up to a quarter of its sides, repeating edges."""
    angle = rng.uniform(0, 2 * np.pi)
    for axis, direction in ((1, np.sin(angle)), (2, np.cos(angle))):
        pixels = x.shape[axis]
        from_ = np.arange(pixels) + round(severity * _MAX_SHIFT * pixels * direction)
        x = x.take(np.clip(from_, 0, pixels - 1), axis=axis)
    return x


def _smooth(x: Samples, weights: NDArray[np.float64], axis: int) -> Samples:
    reach, pixels = len(weights) // 2, x.shape[axis]
    padded = x.take(np.clip(np.arange(-reach, pixels + reach), 0, pixels - 1), axis=axis)
    parts = (padded.take(np.arange(n, n + pixels), axis=axis) * float(weights[n]) for n in range(len(weights)))
    return np.asarray(sum(parts), dtype=x.dtype)


FaultName = str


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A table row; `channels` is the minimum."""

    apply: Apply
    what: str
    kinds: tuple[ModalityKind, ...] = _BOTH
    channels: Literal[1, 2] = 1
    moves: float = 0.0  # fraction of the window by which the recording is read early or late; none of stored windows

    def can_hit(self, modality: ModalitySpec) -> bool:
        """Return whether a sensor can have it."""
        return modality.kind in self.kinds and len(modality.channels) >= self.channels


FAULTS: dict[FaultName, Fault] = {  # the order is part of what decides a window's fault: new ones come last
    "noise": Fault(apply=noise, what="noise of one standard deviation", kinds=_SERIES),
    "offset": Fault(apply=offset, what="a constant of 0.75 standard deviations", kinds=_SERIES),
    "drift": Fault(apply=drift, what="a ramp to one standard deviation", kinds=_SERIES),
    "gain up": Fault(apply=gain_up, what="twice the amplitude"),
    "gain down": Fault(apply=gain_down, what="a quarter of the amplitude"),
    "spike": Fault(apply=spike, what="one sample in fifty off by 7.5 standard deviations"),
    "stuck": Fault(apply=stuck, what="one value throughout the window"),
    "gap": Fault(apply=gap, what="half of the window missing"),
    "clipping": Fault(apply=clipping, what="nothing beyond one standard deviation"),
    "time stretch": Fault(apply=time_stretch, what="five times as slow", kinds=_SERIES),
    "time shift": Fault(apply=time_shift, what="late by half the window"),
    "sample rate": Fault(apply=sample_rate, what="a clock that is ten per cent off"),
    "quantisation": Fault(apply=quantisation, what="a converter of two bits"),
    "hum": Fault(apply=hum, what="50 or 60 Hz of one standard deviation"),
    "channel swap": Fault(apply=channel_swap, what="two channels the wrong way round", channels=2),
    "lost channel": Fault(apply=lost_channel, what="channels missing throughout"),
    "added noise": Fault(apply=added_noise, what="noise as loud as the sound", kinds=_SOUND),
    "treble lost": Fault(apply=treble_lost, what="the lowest quarter of the band alone", kinds=_SOUND),
    "bass lost": Fault(apply=bass_lost, what="without the lowest quarter of the band", kinds=_SOUND),
    "dark": Fault(apply=dark, what="a tenth of the light", kinds=_VIDEO),
    "blur": Fault(apply=blur, what="out of focus by a tenth of the picture", kinds=_VIDEO),
    "dropped frames": Fault(apply=dropped_frames, what="half of the frames missing", kinds=_VIDEO),
    "shifted camera": Fault(apply=shifted_camera, what="a picture off by a quarter of its sides", kinds=_VIDEO),
    "clock error": Fault(apply=unchanged, what="early or late by half the window", kinds=(*_BOTH, "video"), moves=0.5),
}


NAMES = tuple(FAULTS)


def faults_for(modalities: Iterable[ModalitySpec], *, cut: bool = False) -> tuple[FaultName, ...]:
    """Return the faults that a modality or more can have, all of them if windows are `cut` from recordings."""
    sensors, names = tuple(modalities), [name for name in NAMES if cut or not FAULTS[name].moves]
    return tuple(name for name in names if any(FAULTS[name].can_hit(sensor) for sensor in sensors))


def hit_channels(fault: Fault, channels: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the affected channels: half of them, at least one, or a pair."""
    count = 2 if fault.channels == 2 else max(1, channels // 2)
    return np.sort(rng.permutation(channels)[:count])
