"""Faults of microphones: noise from around them, and what of the spectrum a membrane, a case or a line lets through.

How far they reach is chosen here. What a converter holds runs from -1 to 1, and all faults of sound end there.
"""

from __future__ import annotations

import numpy as np

from mmkd_models.evaluation.faults.series import FaultedChannels, Samples

_QUIETEST_DB = 30.0  # signal to noise towards which severity 0 goes; 0 dB at severity 1
_LEAST_BAND = 0.25  # of half the sampling rate


def added_noise(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """White noise with a signal to noise of 24 dB to 0 dB, by the power of the window's own channels."""
    power = np.square(np.nan_to_num(x)).sum(axis=0) / np.maximum((~np.isnan(x)).sum(axis=0), 1)
    signal_to_noise_db = _QUIETEST_DB * (1 - severity)
    level = np.sqrt(power / 10 ** (signal_to_noise_db / 10))
    return np.asarray(x + level * rng.standard_normal(x.shape))


def treble_lost(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Nothing above a limit that comes down to a quarter of half the sampling rate."""
    return _within(x, 0.0, 1 - (1 - _LEAST_BAND) * severity)


def bass_lost(x: Samples, sensor: FaultedChannels, severity: float, rng: np.random.Generator) -> Samples:
    """Nothing below a limit that comes up to a quarter of half the sampling rate."""
    return _within(x, _LEAST_BAND * severity, 1.0)


def _within(x: Samples, low: float, high: float) -> Samples:
    """The part of the spectrum from `low` to `high`, shares of half the sampling rate; what is missing stays so."""
    spectrum = np.fft.rfft(np.nan_to_num(x), axis=0)
    place = np.linspace(0, 1, len(spectrum))[:, None]
    kept = np.fft.irfft(np.where((place >= low) & (place <= high), spectrum, 0), n=len(x), axis=0)
    found: Samples = np.where(np.isnan(x), np.nan, kept)
    return found
