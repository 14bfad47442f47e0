"""`cam:N` and `video:FILE`: frames of a camera or a file, read by OpenCV.

Frames are cropped to `#region=X,Y,WIDTH,HEIGHT` and scaled as for the training (`mmkd_edge.frames.cut_out`).
"""

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
from mmkd_station.protocols.base import Source, SourceRequest, paced, reconnect, url_with_credentials

# For network cameras, below `DRAIN_S`; OpenCV's default is half a minute.
_TIMEOUT_MS = 4000


class CameraSource(Source):
    """Frames of a camera, with their time of arrival.

    `place` is its number, device file, or address, such as `rtsp://HOST/PATH?credentials=FILE`, or a GStreamer pipeline
    that ends in `appsink`, as cameras of a Jetson need.
    """

    live = True

    def __init__(self, text: str, place: str, request: SourceRequest) -> None:
        self._cv2 = _quiet_opencv(text)
        self._place, self._region = _split_region(text, place)
        self._is_pipeline = "!" in self._place
        self._is_local = self._is_pipeline or self._place.isdecimal() or self._place.startswith("/dev/")
        if not (self._is_local or "://" in self._place):
            raise UsageError(
                f"--source {text}: expected a camera's number, its device file or an address, got {self._place!r}; "
                "read a film with video:FILE"
            )
        self._shown, self._url = (self._place, "") if self._is_local else url_with_credentials(text, self._place)
        self._request = request
        # UTC at the start, then monotonic: setting the clock does not move the frames.
        self._utc_s = time.time() - time.monotonic()
        try:
            camera = self._open()
        except OSError as error:
            cure = "see that OpenCV was built with GStreamer, and gst-launch-1.0 runs it" if self._is_pipeline else ""
            raise UnavailableError(
                f"--source {text}: expected a camera, got none that OpenCV opens; "
                f"{cure or 'plug one in, or name another'}"
            ) from error
        try:
            came, first = camera.capture.read()
            if not came:
                raise UnavailableError(
                    f"--source {text}: expected frames, got none; see whether another program has the camera"
                )
            _check_inside(text, self._region, first)
        finally:
            camera.close()

    def deliveries(self, intake: Intake) -> Iterator[Delivery]:
        """Yield one frame at a time."""
        yield from reconnect(
            self._open, lambda camera: self._frames(camera.capture, intake), name=self._shown, intake=intake
        )

    def _open(self) -> _Camera:
        cv2 = self._cv2
        if self._is_pipeline:  # its caps set the rate
            capture = cv2.VideoCapture(self._place, cv2.CAP_GSTREAMER)
        elif self._is_local:
            capture = cv2.VideoCapture(int(self._place) if self._place.isdecimal() else self._place)
            capture.set(cv2.CAP_PROP_FPS, self._request.rate_hz)
        else:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
            capture = cv2.VideoCapture(self._url, cv2.CAP_FFMPEG, limits)
        if not capture.isOpened():
            capture.release()
            raise ConnectionError("no camera answers")
        return _Camera(capture)

    def _frames(self, capture: Any, intake: Intake) -> Iterator[Delivery]:
        while not intake.stop.is_set():
            came, pixels = capture.read()
            arrived_s = time.monotonic()
            if not came:
                raise ConnectionError("the camera gives no frames")
            if not is_inside(self._region, pixels):  # it may have reconnected in another mode
                height, width = pixels.shape[:2]
                raise ConnectionError(f"the camera gives frames of {width}x{height}, which the region is not inside of")
            rows = _cut(pixels, self._region, self._request)
            yield Delivery(rows=rows, times=np.array([self._utc_s + arrived_s]), arrived_s=arrived_s)


class _Camera:
    def __init__(self, capture: Any) -> None:
        self.capture = capture

    def close(self) -> None:
        self.capture.release()


class VideoFileSource(Source):
    """Frames of a file, with the times of its container."""

    live = False

    def __init__(self, text: str, place: str, request: SourceRequest) -> None:
        cv2 = self._cv2 = _quiet_opencv(text)
        path, self._region = _split_region(text, place)
        self._capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
        self._request = request
        came, self._first = self._capture.read()
        self._first_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if not came:
            self._capture.release()
            what = "a file of another kind, or a damaged one" if Path(path).is_file() else "no such file"
            raise UsageError(f"{path}: expected video that OpenCV can decode, got {what}; check the path")
        _check_inside(text, self._region, self._first)

    def deliveries(self, intake: Intake) -> Iterator[Delivery]:
        """Yield one frame at a time, with times from 0."""
        yield from paced(self._frames(), self._request, intake.stop)

    def _frames(self) -> Iterator[Delivery]:
        pixels, time_s = self._first, 0.0
        while True:
            rows = _cut(pixels, self._region, self._request)
            yield Delivery(rows=rows, times=np.array([time_s]), arrived_s=time.monotonic())
            came, pixels = self._capture.read()
            if not came:
                return
            read_s = self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1000 - self._first_s
            # A container without times returns 0 for every frame.
            time_s = read_s if read_s > time_s else time_s + 1 / self._request.rate_hz

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


def _quiet_opencv(text: str) -> Any:
    """Return OpenCV with its log on stderr switched off."""
    cv2 = opencv(f"--source {text} needs")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def _cut(pixels: NDArray[np.uint8], region: Region | None, request: SourceRequest) -> NDArray[np.uint8]:
    """Return a frame (H, W, 3) as the student's input: (1, H, W, C)."""
    assert request.frame is not None  # the table opens these sources for video alone
    height, width, channels = request.frame
    return cut_out(pixels, region, height=height, width=width, is_gray=channels == 1)[None]


def _split_region(text: str, place: str) -> tuple[str, Region | None]:
    """Return the text before `#region=`, and the region."""
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
