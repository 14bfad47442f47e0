"""What a window is in figures: statistics of each channel, for trees and for comparing windows. NumPy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
    some = np.where(known.any(1, keepdims=True), x, 0.0)  # a channel without a value counts as 0
    quantiles = np.nanquantile(some, _QUANTILES, axis=1).transpose(1, 0, 2).reshape(len(x), -1)
    step = np.abs(np.diff(filled, axis=1))
    pairs = known[:, 1:] & known[:, :-1]
    mean_step = np.where(pairs, step, 0.0).sum(1) / np.maximum(pairs.sum(1), 1)
    power = np.abs(np.fft.rfft(centred, axis=1)[:, 1 : _SPECTRUM_BINS + 1]) ** 2
    parts = [mean, std, quantiles, mean_step, np.log(power + 1e-6).reshape(len(x), -1)]
    features: NDArray[np.float64] = np.concatenate(parts, axis=1)
    return features
