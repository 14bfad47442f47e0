"""Sound files, whose channels count from 1 and whose full scale is 1, and video frames, decoded by OpenCV."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError, UnavailableError
from mmkd_edge.frames import opencv
from mmkd_models.data.importing.readers.table import BLOCK_ROWS, RowBlock, reading, refuse_pointer, row_block

# libsndfile's note on a WAV file that ends early.
_SHORT_DATA = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
# Containers without an index estimate the number of frames from their length.
_MIN_FRACTION, _SPARE_FRAMES = 0.98, 2


def sound_facts(file: Path) -> tuple[tuple[str, ...], float]:
    """Return channels and rate in Hz. Raise DatasetError if the file is no sound."""
    soundfile = _soundfile()
    with reading(file, "a sound file"):
        facts = soundfile.info(str(file), verbose=True)
    cut_off = _SHORT_DATA.search(facts.extra_info)
    if cut_off is not None:
        raise DatasetError(
            f"{file}: expected {cut_off[1]} bytes of sound as its header says, got {cut_off[2]}; copy it again"
        )
    if not facts.frames:
        raise DatasetError(f"{file}: expected sound, got a file without samples; remove it, or copy it again")
    return tuple(str(number + 1) for number in range(facts.channels)), float(facts.samplerate)


def sound_rows(file: Path, columns: Sequence[str]) -> int:
    """Return the samples of each channel by a sound file's head."""
    with reading(file, "a sound file"):
        return int(_soundfile().info(str(file)).frames)


def sound_blocks(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield channels in blocks."""
    soundfile = _soundfile()
    expected, first = soundfile.info(str(file)).frames, 0
    with reading(file, "sound"):
        for values in soundfile.blocks(str(file), blocksize=BLOCK_ROWS, dtype="float32", always_2d=True):
            yield row_block(file, {name: values[:, int(name) - 1] for name in columns}, first, called="sample")
            first += len(values)
    if first < expected:
        raise DatasetError(f"{file}: expected {expected} samples as its header says, got {first}; copy it again")


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise UnavailableError(
            "sound files need soundfile, which this Python lacks; run: pip install 'mmkd-edge[audio]'"
        ) from error
    return soundfile


def video_facts(file: Path) -> tuple[float, int, int]:
    """Return frames per second, height and width. Raise DatasetError if OpenCV cannot decode the file."""
    with _open_video(file) as (cv2, video):
        if not video.grab():
            raise DatasetError(f"{file}: expected video, got a file without frames; remove it, or copy it again")
        size = (int(video.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(video.get(cv2.CAP_PROP_FRAME_WIDTH)))
        return float(video.get(cv2.CAP_PROP_FPS)), *size


def video_frames(file: Path) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
    """Yield time in seconds and pixels uint8 (H, W, 3), BGR. Raise DatasetError if frames lack or change size."""
    with _open_video(file) as (cv2, video):
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
def _open_video(file: Path) -> Iterator[tuple[Any, Any]]:
    cv2 = opencv("video files need")
    video = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
    try:
        if not video.isOpened():
            refuse_pointer(file, "video")
            raise DatasetError(
                f"{file}: expected video that OpenCV can decode, got another format or a damaged file; copy it again,"
                f" or encode it anew (ffmpeg -i {file.name} -c:v libx264 {file.stem}-new.mp4)"
            )
        yield cv2, video
    finally:
        video.release()
