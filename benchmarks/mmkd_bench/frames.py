"""What a film costs beside a camera's student: a frame decoded, a frame cut and scaled, a window answered, each apart.

Owns the loop of `mmkd-bench frames`. Frames are cut as training and `mmkd-run` cut them (`mmkd_edge.frames.cut_out`);
the front-end is in the graph, so it is part of what `predict` takes. Everything is in this process, on one thread of
the engine; OpenCV decodes with as many threads as it chooses.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_bench.machine.facts import read_machine
from mmkd_bench.measuring.process import Interrupted, Progress, unheard
from mmkd_bench.pair import REPEATS, check_pairing, spread_of
from mmkd_edge.backends.base import check_backend
from mmkd_edge.errors import UsageError
from mmkd_edge.frames import Region, cut_out, is_inside, opencv
from mmkd_edge.predictor import EdgePredictor
from mmkd_report.schema.bench_others import FramesReport

Times = dict[str, list[int]]
"""Nanoseconds of every `decode`, `scale` and `predict` of a stretch."""


def measure_frames(
    bundle: Path,
    film: Path,
    *,
    region: Region | None = None,
    backend: str = "auto",
    duration_s: float = 6.0,
    progress: Progress = unheard,
) -> FramesReport:
    """What decoding and scaling the frames of a film take, and one window of them.

    Args:
        bundle: of a camera; of several students the first.
        film: begun anew where it ends.
        region: what is kept of the film's frames; None keeps all of them.
        backend: what executes the student.
        duration_s: measured time, of stretches that have a median each.
        progress: gets one line when it begins.

    Raises:
        UsageError: an argument makes no sense, the first student is of no camera, or the film cannot be decoded.
        UnavailableError: OpenCV or the backend is not installed.
        MmkdError: the bundle cannot be opened.
        KeyboardInterrupt: Ctrl-C; an `Interrupted` with a report where a stretch was over.
    """
    check_pairing(threads=1, launches=1, duration_s=duration_s)
    machine = read_machine()
    found: list[Times] = []
    with EdgePredictor.open(bundle, backend=check_backend(backend), threads=1) as predictor:
        modality = predictor.modality
        if modality.kind != "video":
            raise UsageError(
                f"{bundle}: expected the student of a camera, got one of {modality.name!r}, of the kind "
                f"{modality.kind}; name a bundle whose first student sees"
            )
        with _Film(film, region) as frames:
            progress(f"{film} for {duration_s:.3g} s")
            try:
                found.extend(_stretch(predictor, frames, duration_s / REPEATS) for _ in range(REPEATS))
            except KeyboardInterrupt:
                if not found:
                    raise
    spreads = {
        name: spread_of([float(np.median(one[name])) / 1e3 for one in found]) for name in ("decode", "scale", "predict")
    }
    report = FramesReport(
        complete=len(found) == REPEATS,
        bundle=str(bundle),
        film=str(film),
        count=sum(len(one["decode"]) for one in found),
        recorded=frames.size,
        region=region,
        kept=(modality.shape[2], modality.shape[1]),
        samples=modality.samples,
        decode_us=spreads["decode"],
        scale_us=spreads["scale"],
        predict_us=spreads["predict"],
        machine=machine,
    )
    if not report.complete:
        raise Interrupted(report)
    return report


class _Film:
    """Frames of a file, over and over."""

    def __init__(self, path: Path, region: Region | None) -> None:
        self._cv2 = opencv("mmkd-bench frames needs")
        self._path, self.region = path, region
        self._opened = self._open()
        came, first = self._opened.read()
        if not came:
            what = "a file of another kind, or a damaged one" if path.is_file() else "no such file"
            raise UsageError(f"{path}: expected video that OpenCV can decode, got {what}; check the path")
        height, width = first.shape[:2]
        self.size = (width, height)
        if not is_inside(region, first):
            raise UsageError(f"--region: expected a box inside frames of {width}x{height}, got {region}; correct it")

    def _open(self) -> Any:
        return self._cv2.VideoCapture(str(self._path), self._cv2.CAP_FFMPEG)

    def __enter__(self) -> _Film:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.release()

    def read(self) -> tuple[NDArray[np.uint8], int]:
        """The next frame, and the nanoseconds that it took; opening the file anew is not timed."""
        begin = time.perf_counter_ns()
        came, pixels = self._opened.read()
        took = time.perf_counter_ns() - begin
        if came:
            return pixels, took
        self._opened.release()
        self._opened = self._open()
        begin = time.perf_counter_ns()
        _, pixels = self._opened.read()
        return pixels, time.perf_counter_ns() - begin


def _stretch(predictor: EdgePredictor, film: _Film, duration_s: float) -> Times:
    """Frame after frame until the time is over and a window was answered; every half window is."""
    _, height, width, channels = predictor.modality.shape
    window: deque[NDArray[np.uint8]] = deque(maxlen=predictor.modality.samples)
    hop, end = max(1, predictor.modality.samples // 2), time.perf_counter() + duration_s
    found: Times = {"decode": [], "scale": [], "predict": []}
    while time.perf_counter() < end or not found["predict"]:
        pixels, took = film.read()
        found["decode"].append(took)
        begin = time.perf_counter_ns()
        window.append(cut_out(pixels, film.region, height=height, width=width, is_gray=channels == 1))
        found["scale"].append(time.perf_counter_ns() - begin)
        if len(window) == window.maxlen and len(found["decode"]) % hop == 0:
            frames = np.stack(window)
            begin = time.perf_counter_ns()
            predictor.predict(frames)
            found["predict"].append(time.perf_counter_ns() - begin)
    return found
