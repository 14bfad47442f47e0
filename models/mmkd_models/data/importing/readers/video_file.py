"""Video files frame by frame, decoded by OpenCV, with the time that the container gives each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_edge.frames import opencv

# Containers without an index estimate the number of frames from their length.
_LEAST_SHARE, _SPARE_FRAMES = 0.98, 2


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What a container says of its first video: frames a second, and their size in pixels."""

    rate_hz: float
    height: int
    width: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One decoded frame: uint8 (H, W, 3) blue, green, red; and its time in the container."""

    pixels: npt.NDArray[np.uint8]
    time_s: float


def video_facts(file: Path) -> VideoFacts:
    """Look at the container. Raise DatasetError if it is no video that OpenCV can decode."""
    cv2 = opencv("video files need")
    video = _opened(cv2, file)
    try:
        rate_hz = float(video.get(cv2.CAP_PROP_FPS))
        if not video.grab():
            raise DatasetError(f"{file}: expected video, got a file without frames; remove it, or copy it again")
        height, width = int(video.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(video.get(cv2.CAP_PROP_FRAME_WIDTH))
    finally:
        video.release()
    return VideoFacts(rate_hz=rate_hz, height=height, width=width)


def video_frames(file: Path) -> Iterator[Frame]:
    """Yield the frames in their order.

    Raise DatasetError if fewer can be decoded than the container says, or their size changes.
    """
    cv2 = opencv("video files need")
    video = _opened(cv2, file)
    try:
        expected, shape, count = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), None, 0
        while video.grab():
            # After grab() this is the time of the frame that was grabbed: so since OpenCV 4.1.2 (opencv#16705).
            time_s = float(video.get(cv2.CAP_PROP_POS_MSEC)) / 1000
            decoded, pixels = video.retrieve()
            if not decoded:
                break
            shape = shape or pixels.shape
            if pixels.shape != shape:
                told = " and ".join(f"{one[1]}x{one[0]}" for one in (shape, pixels.shape))
                raise DatasetError(f"{file}: frame {count}: expected frames of one size, got {told}; split the file")
            count += 1
            yield Frame(pixels=pixels, time_s=time_s)
    finally:
        video.release()
    if count < expected * _LEAST_SHARE - _SPARE_FRAMES:
        raise DatasetError(f"{file}: expected {expected} frames as its container says, got {count}; copy it again")


def _opened(cv2: Any, file: Path) -> Any:
    video = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
    if not video.isOpened():
        raise DatasetError(
            f"{file}: expected video that OpenCV can decode, got another format or a damaged file; copy it again, or"
            f" encode it anew (ffmpeg -i {file.name} -c:v libx264 {file.stem}-new.mp4)"
        )
    return video
