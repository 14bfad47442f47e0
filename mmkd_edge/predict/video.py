"""Video frames for the graph: bytes, which the graph turns into numbers, and presence."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import InputError
from mmkd_edge.frames import frame_bytes, mask_missing, missing_frames
from mmkd_edge.spec import ModalitySpec


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


def prepare_frames(array: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return bytes (1, T, H, W, C), black where missing, and presence (1, T, 1) of a checked window."""
    if isinstance(array, np.ma.MaskedArray):
        return prepare_frame_batch(array[None])
    return array[None], all_frames_present(len(array))


def prepare_frame_batch(array: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Prepare many windows: (B, T, H, W, C) and (B, T, 1)."""
    missing = missing_frames(array)
    present = np.logical_not(missing).astype(np.float32)[..., None]
    values = frame_bytes(array)
    if missing.any():
        values = np.where(missing[..., None, None, None], np.uint8(0), values)
    return values, present


@lru_cache(maxsize=64)
def all_frames_present(frames: int) -> NDArray[np.float32]:
    """Return read-only float32 ones (1, T, 1)."""
    present = np.ones((1, frames, 1), dtype=np.float32)
    present.flags.writeable = False
    return present
