"""`cam:N` and `video:FILE`: frames of a camera or a file, read by OpenCV."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import UnavailableError, UsageError
from mmkd_edge.frames import Region, cut_out, is_inside, opencv, parse_region
from mmkd_station.intake import Delivery, Intake
from mmkd_station.protocols.base import Source, SourceRequest, live_source, paced_source, url_with_credentials

# For network cameras: below `DRAIN_S`, not OpenCV's half a minute.
_TIMEOUT_MS = 4000


def camera_source(text: str, place: str, request: SourceRequest) -> Source:
    """Open a camera (number, device file, address or GStreamer pipeline); frames get their time of arrival."""
    cv2 = _quiet_opencv(text)
    place, region = _split_region(text, place)
    is_pipeline = "!" in place
    is_local = is_pipeline or place.isdecimal() or place.startswith("/dev/")
    if not (is_local or "://" in place):
        raise UsageError(
            f"--source {text}: expected a camera's number, its device file or an address, got {place!r}; "
            "read a film with video:FILE"
        )
    shown, url = (place, "") if is_local else url_with_credentials(text, place)
    # UTC at the start, then monotonic: a set clock does not move frames.
    utc_s = time.time() - time.monotonic()

    def connect() -> _Camera:
        if is_pipeline:  # its caps set the rate
            capture = cv2.VideoCapture(place, cv2.CAP_GSTREAMER)
        elif is_local:
            capture = cv2.VideoCapture(int(place) if place.isdecimal() else place)
            capture.set(cv2.CAP_PROP_FPS, request.rate_hz)
        else:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
            capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits)
        if not capture.isOpened():
            capture.release()
            raise ConnectionError("no camera answers")
        return _Camera(capture)

    def read(camera: _Camera, intake: Intake) -> Iterator[Delivery]:
        while not intake.stop.is_set():
            pixels = camera.frame()
            arrived_s = time.monotonic()
            if not is_inside(region, pixels):  # it may have reconnected in another mode
                height, width = pixels.shape[:2]
                raise ConnectionError(f"the camera gives frames of {width}x{height}, which the region is not inside of")
            rows = _cut(pixels, region, request)
            yield Delivery(rows=rows, times=np.array([utc_s + arrived_s]), arrived_s=arrived_s)

    try:
        camera = connect()
    except OSError as error:
        cure = "see that OpenCV was built with GStreamer, and gst-launch-1.0 runs it" if is_pipeline else ""
        raise UnavailableError(
            f"--source {text}: expected a camera, got none that OpenCV opens; {cure or 'plug one in, or name another'}"
        ) from error
    try:
        _check_inside(text, region, camera.frame())
    except OSError as error:
        raise UnavailableError(
            f"--source {text}: expected frames, got none; see whether another program has the camera"
        ) from error
    finally:
        camera.close()
    return live_source(connect, read, name=shown)


class _Camera:
    def __init__(self, capture: Any) -> None:
        self._capture = capture

    def frame(self) -> NDArray[np.uint8]:
        came, pixels = self._capture.read()
        if not came:
            raise ConnectionError("the camera gives no frames")
        frame: NDArray[np.uint8] = pixels
        return frame

    def close(self) -> None:
        self._capture.release()


def video_source(text: str, place: str, request: SourceRequest) -> Source:
    """Open a file; frames get its container's times, from 0."""
    cv2 = _quiet_opencv(text)
    path, region = _split_region(text, place)
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    came, first = capture.read()
    first_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    if not came:
        capture.release()
        what = "a file of another kind, or a damaged one" if Path(path).is_file() else "no such file"
        raise UsageError(f"{path}: expected video that OpenCV can decode, got {what}; check the path")
    _check_inside(text, region, first)

    def frames() -> Iterator[Delivery]:
        came, pixels, time_s = True, first, 0.0
        while came:
            rows = _cut(pixels, region, request)
            yield Delivery(rows=rows, times=np.array([time_s]), arrived_s=time.monotonic())
            came, pixels = capture.read()
            read_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 - first_s
            # A container without times returns 0 for every frame.
            time_s = read_s if read_s > time_s else time_s + 1 / request.rate_hz

    return paced_source(frames(), request, close=capture.release)


def _quiet_opencv(text: str) -> Any:
    cv2 = opencv(f"--source {text} needs")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def _cut(pixels: NDArray[np.uint8], region: Region | None, request: SourceRequest) -> NDArray[np.uint8]:
    """Convert a frame (H, W, 3) to the student's input (1, H, W, C)."""
    assert request.frame is not None  # the table opens these sources for video alone
    height, width, channels = request.frame
    return cut_out(pixels, region, height=height, width=width, is_gray=channels == 1)[None]


def _split_region(text: str, place: str) -> tuple[str, Region | None]:
    place, mark, rest = place.partition("#")
    if not mark:
        return place, None
    region = parse_region(rest.removeprefix("region="))
    if not rest.startswith("region=") or region is None:
        raise UsageError(f"--source {text}: expected #region=X,Y,WIDTH,HEIGHT in pixels, got #{rest}; write it so")
    return place, region


def _check_inside(text: str, region: Region | None, pixels: NDArray[np.uint8]) -> None:
    if not is_inside(region, pixels):
        height, width = pixels.shape[:2]
        raise UsageError(f"--source {text}: expected a region inside frames of {width}x{height}; correct it")
