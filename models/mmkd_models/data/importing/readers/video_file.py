"""Video frames, decoded by OpenCV, with container times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_edge.frames import opencv

# Containers without an index estimate the number of frames from their length.
_MIN_FRACTION, _SPARE_FRAMES = 0.98, 2


def video_facts(file: Path) -> tuple[float, int, int]:
    """Return frames per second, height and width. Raise DatasetError if OpenCV cannot decode the file."""
    with _open(file) as (cv2, video):
        if not video.grab():
            raise DatasetError(f"{file}: expected video, got a file without frames; remove it, or copy it again")
        size = (int(video.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(video.get(cv2.CAP_PROP_FRAME_WIDTH)))
        return float(video.get(cv2.CAP_PROP_FPS)), *size


def video_frames(file: Path) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
    """Yield time in seconds and pixels uint8 (H, W, 3), BGR. Raise DatasetError if frames lack or change size."""
    with _open(file) as (cv2, video):
        expected, shape, count = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), None, 0
        while video.grab():
            # After grab() this is the time of the frame that was grabbed: so since OpenCV 4.1.2 (opencv#16705).
            time_s = float(video.get(cv2.CAP_PROP_POS_MSEC)) / 1000
            is_decoded, pixels = video.retrieve()
            if not is_decoded:
                break
            shape = shape or pixels.shape
            if pixels.shape != shape:
                sizes = " and ".join(f"{width}x{height}" for height, width, _ in (shape, pixels.shape))
                raise DatasetError(f"{file}: frame {count}: expected frames of one size, got {sizes}; split the file")
            count += 1
            yield time_s, pixels
    if count < expected * _MIN_FRACTION - _SPARE_FRAMES:
        raise DatasetError(f"{file}: expected {expected} frames as its container says, got {count}; copy it again")


@contextmanager
def _open(file: Path) -> Iterator[tuple[Any, Any]]:
    cv2 = opencv("video files need")
    video = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
    try:
        if not video.isOpened():
            raise DatasetError(
                f"{file}: expected video that OpenCV can decode, got another format or a damaged file; copy it again,"
                f" or encode it anew (ffmpeg -i {file.name} -c:v libx264 {file.stem}-new.mp4)"
            )
        yield cv2, video
    finally:
        video.release()
