"""Statistics of a window's dyadic intervals, for a ridge and for extra-trees; exact in every engine up to rounding.

Intervals: A. Dempster, D. F. Schmidt, G. I. Webb, "QUANT", 2023 (arXiv 2308.00928). Their statistics: H. Deng et al.,
"A time series forest", Information Sciences 239, 2013.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.convolutions import as_series
from mmkd_models.networks.fronts.as_series import series_view

MIN_SAMPLES = 8  # of an interval, and so of a student's window
_MAX_DEPTH = 2  # deeper intervals gained nothing on three sets
_MAX_FEATURES = 4096  # unless undivided windows have more
_MAX_BINS = 32
_FLOOR = 1e-6  # of a bin's power: an amplitude of a thousandth of the training's standard deviation
_STATISTICS = 8  # mean, standard deviation, slope, minimum, quartiles, maximum
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_CLIP = 8.0  # standard deviations
_CONSTANT = 1e-6
_CHUNK_VALUES = 2**19


def interval_sizes(modality: ModalitySpec) -> tuple[int, int, int]:
    """Return the halvings of a window, the bins of its spectrum and the number of features.

    Example:
        >>> interval_sizes(ModalitySpec(name="imu", channels=("x", "y", "z"), rate_hz=50.0, samples=200))
        (2, 32, 432)
    """
    samples, channels = series_view(modality).spec.shape
    bins = min(samples // 2, _MAX_BINS)

    def features(depth: int) -> int:
        halves: int = 2**depth
        return channels * (min(samples, 2) * _STATISTICS * (2 * halves - 1) + bins)

    depth = _MAX_DEPTH
    while depth and (samples >> depth < MIN_SAMPLES or features(depth) > _MAX_FEATURES):
        depth -= 1
    return depth, bins, features(depth)


def fits_intervals(modality: ModalitySpec) -> bool:
    """Return whether windows, as series, are long enough for a student."""
    return series_view(modality).spec.samples >= MIN_SAMPLES


class IntervalFeatures(nn.Module):
    """Raw values and presence of a window -> statistics of its intervals, series and differences, and a spectrum.

    Missing samples have the window's mean.
    """

    mean: Tensor
    scale: Tensor  # 1 / std: a product rounds alike in every engine
    raw_mean: Tensor
    raw_std: Tensor
    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, modality: ModalitySpec) -> None:
        super().__init__()
        self.view, self.is_series = series_view(modality), modality.kind == "series"
        samples, channels = self.view.spec.shape
        self.depth, self.bins, self.features = interval_sizes(modality)
        sizes = {"mean": channels, "scale": channels, "feature_mean": self.features, "feature_scale": self.features}
        sizes |= {} if self.is_series else dict.fromkeys(("raw_mean", "raw_std"), len(modality.channels))
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size) if name.endswith("mean") else torch.ones(size))
        turns = torch.outer(torch.arange(samples), torch.arange(1, self.bins + 1)).double() * (2 * torch.pi / samples)
        basis = torch.cat([turns.cos(), turns.sin()], dim=1) / samples**0.5
        self.basis = nn.Buffer(basis.float(), persistent=False)  # (T, 2 bins) cosines and sines
        lengths = (samples, samples - 1)[:samples]  # a single sample has no difference
        interval_samples = [length >> self.depth << self.depth >> d for length in lengths for d in self._depths]
        for number, size in enumerate(interval_samples):
            times = torch.arange(size).double() - (size - 1) / 2
            slope = times / times.square().sum().clamp(min=0.5)  # two samples have 0.5
            self.register_buffer(f"slope{number}", slope.float()[:, None], persistent=False)
            self.register_buffer(f"order{number}", _quantile_weights(size), persistent=False)

    @property
    def _depths(self) -> range:
        return range(self.depth + 1)

    def forward(self, values: Tensor, present: Tensor) -> Tensor:
        """(B, T, C), (B, T, C) -> (B, F) raw features."""
        if not self.is_series:
            values, present = self.view((values.to(present.dtype) - self.raw_mean) / self.raw_std, present)
        scaled = ((values - self.mean) * self.scale).clamp(-_CLIP, _CLIP) * present
        middle = scaled.sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp(min=1.0)
        series = (scaled + middle * (1 - present)).transpose(1, 2)
        difference = series[:, :, 1:] - series[:, :, :-1]
        parts = [
            self._statistics(part, depth, number * len(self._depths) + depth)
            for number, part in enumerate((series, difference)[: series.shape[2]])
            for depth in self._depths
        ]
        waves = (series - series.mean(2, keepdim=True)) @ self.basis
        cosine, sine = waves[:, :, : self.bins], waves[:, :, self.bins :]
        parts.append((cosine * cosine + sine * sine + _FLOOR).log())
        return torch.cat(parts, dim=2).flatten(1)

    def standardised(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, F), in standard deviations of the training features, at most 8: a glitch must not decide."""
        return ((features - self.feature_mean) * self.feature_scale).clamp(-_CLIP, _CLIP)

    def _statistics(self, part: Tensor, depth: int, number: int) -> Tensor:
        """(B, C, L) -> (B, C, 8 2^depth)."""
        samples = part.shape[2] >> self.depth << self.depth
        shape = (len(part), part.shape[1], 2**depth, samples >> depth)
        intervals = part[:, :, part.shape[2] - samples :].reshape(shape)
        mean = intervals.mean(3, keepdim=True)
        apart = intervals - mean
        std = (apart * apart).mean(3, keepdim=True).sqrt()
        ordered = intervals.sort(dim=3).values @ self.get_buffer(f"order{number}")
        return torch.cat([mean, std, apart @ self.get_buffer(f"slope{number}"), ordered], dim=3).flatten(2)


def _quantile_weights(samples: int) -> Tensor:
    """(n, 5) weights of sorted samples: linear between two."""
    weights = torch.zeros(samples, len(_QUANTILES), dtype=torch.float64)
    for column, quantile in enumerate(_QUANTILES):
        place = quantile * (samples - 1)
        low = int(place)
        weights[low, column] = 1 - (place - low)
        weights[min(low + 1, samples - 1), column] += place - low
    return weights.float()


def fit_intervals(
    modality: ModalitySpec,
    values: NDArray[Any],
    present: NDArray[np.float32],
    *,
    scale: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> IntervalFeatures:
    """Measure mean and standard deviation of the features on training windows; arguments as `fit_convolutions`."""
    network = IntervalFeatures(modality).eval()
    _, _, mean, std = as_series(modality, values, present, scale)
    network.mean.copy_(mean)
    network.scale.copy_(1 / std)
    if not network.is_series:
        for name, part in zip(("raw_mean", "raw_std"), scale, strict=True):
            network.get_buffer(name).copy_(torch.from_numpy(part))
    features = apply_intervals(network, values, present).astype(np.float64)
    spread = features.std(axis=0)
    network.feature_mean.copy_(torch.from_numpy(features.mean(axis=0)))
    network.feature_scale.copy_(torch.from_numpy(1 / np.where(spread > _CONSTANT, spread, 1.0)))
    return network


def apply_intervals(
    network: IntervalFeatures, values: NDArray[Any], present: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(N, T, C), (N, T, C) -> (N, F) raw features."""
    count = max(1, _CHUNK_VALUES // math.prod(network.view.spec.shape))
    chunks = [slice(start, start + count) for start in range(0, len(values), count)]
    with torch.no_grad():
        parts = [network(torch.from_numpy(values[own]), torch.from_numpy(present[own])).numpy() for own in chunks]
    return np.concatenate(parts) if parts else np.zeros((0, network.features), dtype=np.float32)
