"""Numbered video frames: clocks and grids order the numbers, and a window fetches the frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import InputError
from mmkd_edge.frames import frame_bytes, mask_missing, missing_frames
from mmkd_edge.spec import ModalitySpec

_PENDING = 8  # frames that a clock and a grid hold
_NUMBERS = 1 << 23  # exact in float32
_MAX_WINDOWS = 64  # bound, for a camera that is faster than the student


class FrameNumbers:
    """A stream's last frames by number, in constant memory."""

    def __init__(self, modality: ModalitySpec) -> None:
        self.most = modality.samples
        self._shape = modality.shape[1:]
        self._bound = _MAX_WINDOWS * modality.samples + _PENDING
        self._frames: dict[int, NDArray[np.uint8]] = {}  # in the order in which they came
        self._next = 0

    def put(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Copy at most `most` frames (n, H, W, C); return their numbers, float32 (n, 1), NaN = missing."""
        numbers = np.full(len(frames), np.nan, dtype=np.float32)
        for row, (frame, is_missing) in enumerate(zip(frame_bytes(frames), missing_frames(frames), strict=True)):
            if not is_missing:
                numbers[row] = self._next
                self._frames[self._next] = frame.copy()
                self._next = (self._next + 1) % _NUMBERS
        self._drop(len(self._frames) - self._bound)
        return numbers[:, None]

    def forget_before(self, numbers: NDArray[np.float32]) -> None:
        """Drop frames older than all these numbers (T, 1), except those that may still wait."""
        needed = {int(number) for number in numbers[:, 0] if not np.isnan(number)}
        first = next((place for place, number in enumerate(self._frames) if number in needed), 0)
        self._drop(first - _PENDING)

    def window(self, numbers: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return a new array (T, H, W, C) of these numbers' frames (T, 1), masked where missing."""
        frames = np.zeros((len(numbers), *self._shape), dtype=np.uint8)
        missing = np.ones(len(numbers), dtype=bool)
        for row, number in enumerate(numbers[:, 0].tolist()):
            frame = None if np.isnan(number) else self._frames.get(int(number))
            if frame is not None:
                frames[row], missing[row] = frame, False
        return mask_missing(frames, missing)

    def _drop(self, count: int) -> None:
        for _ in range(count):
            del self._frames[next(iter(self._frames))]


def as_frames(values: object, modality: ModalitySpec) -> NDArray[np.uint8]:
    """Return uint8 (n, H, W, C), masked where missing, or raise InputError.

    Accepts one frame (H, W, C), gray frames without C, and a list with None for missing ones.
    """
    if isinstance(values, list | tuple):
        return _stack_frames(list(values), modality)
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


def _stack_frames(frames: list[object], modality: ModalitySpec) -> NDArray[np.uint8]:
    out = np.zeros((len(frames), *modality.shape[1:]), dtype=np.uint8)
    for number, frame in enumerate(frames):
        if frame is not None:
            out[number] = frame_bytes(as_frames(frame, modality)[0])
    return mask_missing(out, np.array([frame is None for frame in frames]))
