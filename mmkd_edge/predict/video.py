"""Video frames for the graph: bytes, which the graph turns into numbers, and presence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import InputError
from mmkd_edge.frames import frame_bytes, mask_missing, missing_frames
from mmkd_edge.spec import ModalitySpec


def check_frames(values: object, modality: ModalitySpec) -> NDArray[np.uint8]:
    """Check one window of video; return uint8 (T, H, W, C), masked where missing; InputError for other types or shapes.

    `values` is uint8 (T, H, W, C), gray also (T, H, W): a masked array (any masked value makes a frame missing), or a
    list of frames with None for missing ones.
    """
    array = _stack(values, modality) if isinstance(values, list | tuple) else values
    if not isinstance(array, np.ndarray):
        array = np.asarray(array)
    if array.dtype != np.uint8:
        raise InputError(
            f"modality {modality.name!r}: expected frames of uint8, got {type(values).__name__} of dtype "
            f"{array.dtype}; pass the camera's bytes as they are, with None for a missing frame"
        )
    if len(modality.channels) == 1 and array.shape == modality.shape[:3]:
        array = array[..., None]
    if array.shape != modality.shape:
        raise InputError(
            f"modality {modality.name!r}: expected shape (T, H, W, C)={modality.shape}, got {array.shape}; "
            f"{_advice(array, modality)}"
        )
    return array


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


def _stack(frames: Sequence[object], modality: ModalitySpec) -> NDArray[np.uint8]:
    shape = modality.shape[1:]
    if len(frames) != modality.samples:
        raise InputError(
            f"modality {modality.name!r}: expected {modality.samples} frames, got {len(frames)}; "
            "pass None for a missing frame"
        )
    out = np.zeros(modality.shape, dtype=np.uint8)
    missing = np.array([frame is None for frame in frames])
    for number, frame in enumerate(frames):
        if frame is None:
            continue
        array = np.asarray(frame)
        if array.dtype != np.uint8 or array.shape not in (shape, shape[:2] if shape[2] == 1 else shape):
            raise InputError(
                f"modality {modality.name!r}: frame {number}: expected uint8 (H, W, C)={shape}, got {array.dtype} "
                f"{array.shape}; resize it and pass the bytes as they are"
            )
        out[number] = array.reshape(shape)
    return mask_missing(out, missing)


def _advice(array: NDArray[Any], modality: ModalitySpec) -> str:
    samples, height, width, channels = modality.shape
    if array.ndim == 5 and array.shape[1:] == modality.shape:
        return "pass one window, or all of them to predict_batch"
    if array.shape == (samples, channels, height, width):
        return "put the channels last"
    if array.ndim == 4 and array.shape[1:] == modality.shape[1:]:
        return f"a window is {samples} frames, {modality.duration_s:g} s at {modality.rate_hz:g} Hz"
    if array.ndim == 4 and array.shape[0] == samples and array.shape[3] == channels:
        return f"resize each frame to {height} rows of {width} pixels"
    return f"{samples} frames of {height} rows, {width} columns and the channels {', '.join(modality.channels)}"
