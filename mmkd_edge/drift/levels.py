"""Windows of any kind as rows of numbers: what checks and statistics look at.

Of video they look at the mean brightness of each frame's channels: it tells a lamp that failed, a camera that was
covered or turned, and a picture that stands still; what is in the picture is the network's business.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def rows_of(values: NDArray[Any], present: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Values and presence (B, T, C) of windows.

    Args:
        values: what `prepare` gave: (B, T, C), which is given back, or of video (B, T, H, W, C).
        present: (B, T, C), or of video (B, T, 1).

    Returns:
        Of video the mean (0 to 255) of each channel of each frame, and the frame's presence for each channel.
    """
    if values.ndim != 5:
        return values, present
    means = values.mean(axis=(2, 3), dtype=np.float64).astype(np.float32)
    return means, np.broadcast_to(present, means.shape)
