"""Video frames from camera to student. In a masked array a frame with any masked value is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import UnavailableError

Region = tuple[int, int, int, int]
"""Of a frame, in pixels: x, y, width, height."""


def opencv(needed_by: str) -> Any:
    """Import OpenCV; UnavailableError, beginning with `needed_by`, if absent."""
    try:
        import cv2
    except ImportError as error:
        raise UnavailableError(
            f"{needed_by} OpenCV, which this Python lacks; run: pip install 'mmkd-edge[video]'"
        ) from error
    return cv2


def cut_out(
    pixels: NDArray[np.uint8], region: Region | None, *, height: int, width: int, is_gray: bool
) -> NDArray[np.uint8]:
    """Cut a region from a blue, green, red frame (H, W, 3): uint8 (height, width, C), gray or red to blue.

    Pixels are averaged if the frame shrinks (INTER_AREA), else interpolated linearly.
    """
    import cv2

    if region is not None:
        x, y, wide, tall = region
        pixels = pixels[y : y + tall, x : x + wide]
    coloured = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY if is_gray else cv2.COLOR_BGR2RGB))
    if coloured.shape[:2] != (height, width):
        shrinks = coloured.shape[0] >= height and coloured.shape[1] >= width
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        coloured = np.asarray(cv2.resize(coloured, (width, height), interpolation=how))
    return coloured.astype(np.uint8).reshape(height, width, 1 if is_gray else 3)


def is_inside(region: Region | None, pixels: NDArray[np.uint8]) -> bool:
    """Return whether a region of at least one pixel is inside the frame (H, W, C); None is the whole frame."""
    if region is None:
        return True
    x, y, wide, tall = region
    return min(x, y) >= 0 and min(wide, tall) > 0 and x + wide <= pixels.shape[1] and y + tall <= pixels.shape[0]


def parse_region(text: str) -> Region | None:
    """Return the region of `X,Y,WIDTH,HEIGHT`; None for other texts."""
    numbers = text.split(",")
    if len(numbers) != 4 or not all(map(str.isdecimal, numbers)):
        return None
    x, y, width, height = map(int, numbers)
    return x, y, width, height


def missing_frames(array: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return (..., T) whether each frame of (..., T, H, W, C) is missing."""
    if not isinstance(array, np.ma.MaskedArray) or array.mask is np.ma.nomask:
        return np.zeros(array.shape[:-3], dtype=bool)
    mask: NDArray[np.bool_] = np.asarray(array.mask)
    missing: NDArray[np.bool_] = np.logical_or.reduce(mask.reshape(*array.shape[:-3], -1), axis=-1)
    return missing


def frame_bytes(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the bytes of frames, masked or not."""
    return np.asarray(array.data) if isinstance(array, np.ma.MaskedArray) else array


def mask_missing(array: NDArray[np.uint8], missing: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Mask the `missing` frames of (..., T, H, W, C); return `array` itself if there are none."""
    if not missing.any():
        return array
    mask = np.broadcast_to(missing[..., None, None, None], array.shape)
    return np.ma.array(array, mask=mask)  # type: ignore[no-any-return, no-untyped-call]


def join_samples(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate samples or frames; masked ones stay masked."""
    if any(isinstance(part, np.ma.MaskedArray) for part in parts):
        return np.ma.concatenate(parts)  # type: ignore[no-any-return, no-untyped-call]
    return np.concatenate(parts)
