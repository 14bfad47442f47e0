"""Video frames: bytes, which the graph turns into numbers, and presence; any masked value masks its frame."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import InputError, UnavailableError
from mmkd_edge.spec import ModalitySpec

Region = tuple[int, int, int, int]
"""A part of a frame, in pixels: x, y, width, height."""


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
    return np.asarray(np.logical_or.reduce(mask.reshape(*array.shape[:-3], -1), axis=-1))


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


def as_frames(values: object, modality: ModalitySpec) -> NDArray[np.uint8]:
    """Return uint8 (n, H, W, C), masked where missing, or raise InputError.

    Accepts one frame (H, W, C), gray frames without C, a masked array (any masked value makes a frame missing), and a
    list of frames with None for missing ones.
    """
    shape = modality.shape[1:]
    if isinstance(values, list | tuple):
        out = np.zeros((len(values), *shape), dtype=np.uint8)
        for number, frame in enumerate(values):
            if frame is not None:
                out[number] = frame_bytes(as_frames(frame, modality)[0])
        return mask_missing(out, np.array([frame is None for frame in values], dtype=bool))
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    if array.dtype == np.uint8:
        if shape[2] == 1 and array.shape[-2:] == shape[:2] and array.ndim in (2, 3) and array.shape != shape:
            array = array[..., None]
        array = array[None] if array.shape == shape else array
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != shape:
        sides = ", ".join(map(str, shape))
        raise InputError(
            f"modality {modality.name!r}: expected frames of uint8 (n, H, W, C)=(n, {sides}), got {array.dtype} "
            f"{array.shape}; resize each frame and pass its bytes as they are"
        )
    return array


def check_frames(values: object, modality: ModalitySpec) -> NDArray[np.uint8]:
    """Return one window (T, H, W, C) of what `as_frames` takes; InputError for another number of frames."""
    frames = as_frames(values, modality)
    if len(frames) != modality.samples:
        raise InputError(
            f"modality {modality.name!r}: expected {modality.samples} frames, {modality.duration_s:g} s at "
            f"{modality.rate_hz:g} Hz, got {len(frames)}; pass None for a missing frame"
        )
    return frames


def prepare_frame_batch(array: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Prepare many windows: (B, T, H, W, C) and (B, T, 1)."""
    missing = missing_frames(array)
    present = np.logical_not(missing).astype(np.float32)[..., None]
    values = frame_bytes(array)
    if missing.any():
        values = np.where(missing[..., None, None, None], np.uint8(0), values)
    return values, present


@lru_cache(maxsize=64)
def all_present(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the presence of a complete window: read-only float32 ones (1, T, C), video (1, T, 1), cached per shape."""
    present = np.ones((1, *shape), dtype=np.float32)
    present.flags.writeable = False
    return present
