"""What trees see of a window: statistics of each channel, of the samples that are there."""

from __future__ import annotations

import torch
from torch import Tensor

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
SPECTRUM_BINS = 32


def window_statistics(values: Tensor, present: Tensor) -> Tensor:
    """Gives per channel mean, standard deviation, quantiles, mean absolute step and log power of the lowest bins.

    Args:
        values: (B, T, C), anything finite where missing.
        present: (B, T, C), above 0 where there is a sample.

    Returns:
        float32 (B, features), finite; of a channel without samples 0, and of its spectrum log(1e-6).
    """
    known = present > 0
    x = torch.where(known, values.double(), 0.0)
    count = known.sum(1)  # (B, C)
    mean = x.sum(1) / count.clamp(min=1)
    centred = torch.where(known, x - mean[:, None], 0.0)
    std = (centred.square().sum(1) / count.clamp(min=1)).sqrt()
    pairs = known[:, 1:] & known[:, :-1]
    mean_step = torch.where(pairs, x.diff(dim=1).abs(), 0.0).sum(1) / pairs.sum(1).clamp(min=1)
    power = torch.fft.rfft(centred, dim=1)[:, 1 : SPECTRUM_BINS + 1].abs().square()
    parts = [mean, std, *_quantiles(x, known, count), mean_step, torch.log(power + 1e-6).flatten(1)]
    return torch.cat(parts, dim=1).float()


def statistics_count(samples: int, channels: int) -> int:
    """Gives how many statistics a window (samples, channels) has."""
    return channels * (3 + len(QUANTILES) + min(SPECTRUM_BINS, samples // 2))


def _quantiles(x: Tensor, known: Tensor, count: Tensor) -> list[Tensor]:
    """(B, C) each, of the samples that are there, between neighbours in proportion; 0 where there are none."""
    ordered = torch.where(known, x, torch.inf).sort(dim=1).values
    found = []
    for quantile in QUANTILES:
        place = quantile * (count.double() - 1).clamp(min=0)  # (B, C)
        low, high = place.floor().long()[:, None], place.ceil().long()[:, None]  # (B, 1, C)
        below, above = ordered.gather(1, low)[:, 0], ordered.gather(1, high)[:, 0]
        found.append(torch.where(count > 0, torch.lerp(below, above, place - place.floor()), 0.0))
    return found
