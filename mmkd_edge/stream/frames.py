"""Frames of a stream under numbers: clocks and grids order the numbers, and only a window fetches the frames.

Owns the frames that a window may still need, in memory that does not grow, and what a caller may push.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import InputError
from mmkd_edge.frames import bytes_of, missing_frames, with_missing
from mmkd_edge.spec import ModalitySpec

_PENDING = 8  # frames that a clock and a grid may hold beside the reordered ones


class FrameNumbers:
    """The last frames of a stream, each under its number.

    Args:
        modality: of video.
        reorder: frames that the clock holds back.

    Attributes:
        most: frames that may be put at a time, so that none is overwritten before its window was answered.
    """

    def __init__(self, modality: ModalitySpec, *, reorder: int) -> None:
        self._modality = modality
        self.most = modality.samples
        # Those of a window, those put with the newest of it, and those that wait for their place.
        self._kept = np.zeros((2 * modality.samples + reorder + _PENDING, *modality.shape[1:]), dtype=np.uint8)
        self._next = 0

    def put(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Keep a copy of at most `most` frames (n, H, W, C); gives their numbers, float32 (n, 1), NaN where missing."""
        places = (self._next + np.arange(len(frames))) % len(self._kept)
        self._kept[places] = bytes_of(frames)
        self._next = int(self._next + len(frames)) % len(self._kept)
        numbers = np.where(missing_frames(frames), np.nan, places).astype(np.float32)
        return numbers[:, None]

    def window(self, numbers: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The frames of these numbers (T, 1): a new array (T, H, W, C), masked where a number is NaN."""
        missing = np.isnan(numbers[:, 0])
        frames = self._kept[np.where(missing, 0, numbers[:, 0]).astype(np.intp)]
        return with_missing(frames, missing)


def frames_pushed(values: object, modality: ModalitySpec) -> NDArray[np.uint8]:
    """Frames as a stream takes them: uint8 (n, H, W, C), a masked array where some are missing.

    Args:
        values: uint8 (n, H, W, C), a single frame (H, W, C), the same without C where the frames are gray, a masked
            array, or a list of frames with None for missing ones.
        modality: of video.

    Raises:
        InputError: they are something else.
    """
    if isinstance(values, list | tuple):
        return _one_by_one(list(values), modality)
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    shape = modality.shape[1:]
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


def _one_by_one(frames: list[object], modality: ModalitySpec) -> NDArray[np.uint8]:
    out = np.zeros((len(frames), *modality.shape[1:]), dtype=np.uint8)
    for number, frame in enumerate(frames):
        if frame is not None:
            out[number] = bytes_of(frames_pushed(frame, modality)[0])
    return with_missing(out, np.array([frame is None for frame in frames]))
