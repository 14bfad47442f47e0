"""Frames of video of which some are missing: a masked array in which each frame is there or missing as a whole.

A frame of which any value is masked is missing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def missing_frames(array: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(..., T) whether each frame of (..., T, H, W, C) is missing."""
    if not isinstance(array, np.ma.MaskedArray) or array.mask is np.ma.nomask:
        return np.zeros(array.shape[:-3], dtype=bool)
    mask: NDArray[np.bool_] = np.asarray(array.mask)
    missing: NDArray[np.bool_] = np.logical_or.reduce(mask.reshape(*array.shape[:-3], -1), axis=-1)
    return missing


def bytes_of(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bytes of frames, whatever is masked."""
    return np.asarray(array.data) if isinstance(array, np.ma.MaskedArray) else array


def with_missing(array: NDArray[np.uint8], missing: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Frames (..., T, H, W, C) of which those in `missing` (..., T) are masked; `array` itself where none is."""
    if not missing.any():
        return array
    mask = np.broadcast_to(missing[..., None, None, None], array.shape)
    return np.ma.array(array, mask=mask)  # type: ignore[no-any-return, no-untyped-call]
