"""What a fault is told: the channels that it hits, how hard, and its chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
"""(T, c), NaN where missing; of video (T, H, W, C) from 0 to 255, whole frames NaN where missing."""


@dataclass(frozen=True, kw_only=True)
class FaultedChannels:
    """What a fault knows of the channels that it hits, (c,) each, in raw units of the training windows.

    Nothing is measured of video, whose faults are told in shares of the picture.
    """

    mean: Samples
    std: Samples
    rate_hz: float


Apply = Callable[[NDArray[Any], FaultedChannels, float, np.random.Generator], NDArray[Any]]
"""From samples of the channels that are hit, the sensor, the severity above 0 and up to 1, and a generator."""
