"""Spectra as constant matmuls, and how the spectrum of a long window is taken apart so that they stay small."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor


def spectrum_matrices(samples: int, bands: int) -> tuple[Tensor, Tensor]:
    """A Hann-windowed discrete Fourier transform as a matmul, and the bands that pool its bins.

    Bins 1 .. T/2 (the mean is in the statistics; a window of one sample keeps one bin, so that no tensor is empty).
    Band edges are geometric, so low frequencies keep their resolution. Power is divided by the window's energy, so that
    white noise of variance 1 has power 1 in every bin (Harris, "On the use of windows for harmonic analysis", 1978).

    Returns:
        basis (T, 2 F) and pooling matrix (F, bands); fewer bands when there are fewer bins.
    """
    bins = np.arange(1, max(1, samples // 2) + 1)
    window = np.hanning(samples + 2)[1:-1]
    angle = 2 * np.pi * np.outer(np.arange(samples), bins) / samples
    scale = window[:, None] / math.sqrt(float((window**2).sum()))
    basis = np.concatenate([np.cos(angle) * scale, np.sin(angle) * scale], axis=1)
    edges = np.unique(np.round(np.geomspace(1, len(bins) + 1, min(bands, len(bins)) + 1)).astype(int))
    pooling = np.zeros((len(bins), len(edges) - 1))
    for band, (start, stop) in enumerate(itertools.pairwise(edges)):
        pooling[start - 1 : stop - 1, band] = 1.0 / (stop - start)
    return torch.from_numpy(basis.astype(np.float32)), torch.from_numpy(pooling.astype(np.float32))


def is_long(samples: int, frame: int | None) -> bool:
    """Whether a window has more than four frames; none is long where there is no frame."""
    return frame is not None and samples > 4 * frame


def spectrum_cuts(samples: int, frame: int) -> tuple[tuple[int, int], ...]:
    """How a signal is cut, level by level: how many frames, and of how many samples.

    Frames hear what is faster than they are long (Welch, "The use of fast Fourier transform for the estimation of power
    spectra", IEEE Trans. Audio Electroacoust. 15, 1967). The means of half frames hear what is slower, and are cut
    alike until at most two frames of them are left, which are taken whole.

    Example:
        >>> spectrum_cuts(10_000, 256), spectrum_cuts(100_000, 256)
        (((40, 250), (1, 80)), ((391, 256), (4, 196), (1, 8)))
    """
    cuts: list[tuple[int, int]] = []
    while samples > 2 * frame:
        count = -(-samples // frame)
        cuts.append((count, -(-samples // count)))
        samples = 2 * count
    return (*cuts, (1, samples))
