"""Which values a sensor can plausibly give, by what is known of it: the one rule, at export and on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence

STANDARD_DEVIATIONS = 1000.0
"""From the mean. A rare event lies far out where a channel rests otherwise: one that fills a share p of the samples
1 / sqrt(p) standard deviations (a Bernoulli variable, whose variance is p (1 - p)), 1000 for one in a million."""

MAX_FLOAT32 = 3.4028235e38


def plausible_span(
    mean: Sequence[float], std: Sequence[float], *, seen: Sequence[float] = ()
) -> tuple[float, float] | None:
    """The range of a sensor's values: that of its widest channel, in two digits, rounded outwards.

    Args:
        mean: (C,) of each channel.
        std: (C,) of each channel.
        seen: values that must be inside.

    Returns:
        The smallest and the largest value; None where they would leave nothing of float32 out.
    """
    reaches = [STANDARD_DEVIATIONS * deviation for deviation in std]
    low = min([centre - reach for centre, reach in zip(mean, reaches, strict=True)] + list(seen))
    high = max([centre + reach for centre, reach in zip(mean, reaches, strict=True)] + list(seen))
    low, high = -_outwards(-low), _outwards(high)
    return (low, high) if -MAX_FLOAT32 < low < high < MAX_FLOAT32 else None


def _outwards(value: float) -> float:
    """The next number upwards that has two digits."""
    if value == 0 or not math.isfinite(value):
        return value
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float(f"{math.ceil(value / step - 1e-9) * step:.2g}")
