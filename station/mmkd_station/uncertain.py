"""Save uncertain, unknown and contradicted windows for labelling, as a ring of files for `mmkd-data import`."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge import ModalitySpec, Prediction, TaskSpec
from mmkd_edge.errors import UsageError, os_reason
from mmkd_edge.frames import frame_bytes, missing_frames

logger = logging.getLogger(__name__)

MIN_BYTES = 1_000_000
_TOGETHER, _WITHIN_S = 32, 60.0
_MAX_WAITING = 256
# Memory limits: held windows and one file; waiting windows.
_MAX_HELD_BYTES = 16_000_000
_MAX_WAITING_BYTES = 64_000_000
_MIN_WINDOWS = 4
_FILE = re.compile(r"-\d{8,}\Z")
# File names have at most 255 bytes, characters up to four.
_MAX_NAME = 40


class _Window(msgspec.Struct, frozen=True, eq=False):
    """Without a reason it stays in memory."""

    window: NDArray[Any]
    time_s: float
    label: str
    probability: float
    reason: str
    labels: tuple[str, ...]


class RingFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Windows written, windows lost to a slow or full disk, files deleted to make room."""

    kept: int
    dropped: int
    removed: int


class UncertainRing:
    """Saves uncertain windows of one sensor, at most one per window length. Raises UsageError."""

    def __init__(
        self,
        folder: Path,
        *,
        most_bytes: int,  # for all files of the station, shared by its `sensors`
        below: float,  # a window is uncertain if its probability is lower, or its label set has several labels
        station: str,
        modality: ModalitySpec,
        task: TaskSpec,
        sensors: int = 1,
        alarms: Collection[str] = (),  # labels whose windows stay in memory (the last 16 MB) for `contradict`
    ) -> None:
        window_bytes = math.prod(modality.shape) * np.dtype(modality.dtype).itemsize
        self._most_bytes = most_bytes // sensors
        if self._most_bytes < _MIN_WINDOWS * window_bytes:
            raise UsageError(
                f"--keep-uncertain {most_bytes:,}: expected {sensors * _MIN_WINDOWS * window_bytes:,} bytes or more: "
                f"a window of {modality.name!r} has {window_bytes:,}; keep more"
            )
        self._folder = folder
        self._below = below
        self._station = station
        self._modality = modality
        self._task = task
        self._stem = file_name(station if sensors == 1 else f"{station}.{modality.name}")
        file_bytes = min(_MAX_HELD_BYTES, self._most_bytes // _MIN_WINDOWS)
        self._together = max(1, min(_TOGETHER, file_bytes // window_bytes))
        waiting = max(1, min(_MAX_WAITING, _MAX_WAITING_BYTES // window_bytes))
        self._waiting: queue.Queue[_Window | None] = queue.Queue(maxsize=waiting)
        self._last_s = {True: -math.inf, False: -math.inf}  # by whether the window is uncertain or held
        self._alarms = frozenset(alarms)
        self._held: deque[_Window] = deque(maxlen=max(1, _MAX_HELD_BYTES // window_bytes))
        self._lock = threading.Lock()
        self._kept = self._dropped = self._removed = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            numbers = [int(path.stem.rpartition("-")[2]) for path in self._files()]
        except OSError as error:
            raise UsageError(f"{folder}: expected a folder for uncertain windows: {os_reason(error)}") from error
        self._number = max(numbers, default=0)
        self._thread = threading.Thread(target=self._write, name=f"uncertain {station}", daemon=True)
        self._thread.start()

    def see(self, window: NDArray[Any], prediction: Prediction, *, time_s: float) -> None:
        """Save an uncertain window, hold one that names an alarm; do not wait.

        `window` has raw values (T, C), NaN = missing; video (T, H, W, C) with missing frames masked.
        """
        reason, labels = "", (prediction.label or prediction.status, *prediction.labels)
        if (prediction.index >= 0 or prediction.p_value is not None) and prediction.status == "unknown":
            reason = "unknown"
        elif prediction.index >= 0 and prediction.status in ("ok", "degraded") and not self._task.is_number:
            reason = "low probability" if prediction.probability < self._below else ""
            reason = "several labels" if len(prediction.label_set) > 1 else reason
        if not (reason or self._alarms.intersection(labels)):
            return
        if 0 <= time_s - self._last_s[bool(reason)] < self._modality.duration_s:
            return
        self._last_s[bool(reason)] = time_s
        answered = _Window(window, time_s, prediction.label, prediction.probability, reason, labels)
        if reason:
            self._put(answered)
        else:
            with self._lock:
                self._held.append(answered)

    def contradict(self, label: str, *, since_s: float, until_s: float) -> None:
        """Save the held windows of a false alarm; times are of a window's newest sample."""
        with self._lock:
            wrong = [held for held in self._held if label in held.labels and since_s <= held.time_s <= until_s]
            for held in wrong:
                self._held.remove(held)
        for held in wrong:
            self._put(msgspec.structs.replace(held, reason="contradicted"))

    def _put(self, window: _Window) -> None:
        try:
            self._waiting.put_nowait(window)
        except queue.Full:
            self._dropped += 1

    def facts(self) -> RingFacts:
        """Return the current counters."""
        return RingFacts(kept=self._kept, dropped=self._dropped, removed=self._removed)

    def close(self) -> None:
        """Write windows that wait."""
        try:
            self._waiting.put(None, timeout=1.0)
        except queue.Full:
            return
        self._thread.join(5.0)

    # ---- the thread that writes

    def _write(self) -> None:
        batch: list[_Window] = []
        began_s, is_ending = time.monotonic(), False
        while not is_ending:
            began_s = began_s if batch else time.monotonic()
            with contextlib.suppress(queue.Empty):
                window = self._waiting.get(timeout=1.0)
                is_ending = window is None
                batch += [] if window is None else [window]
            is_due = is_ending or len(batch) >= self._together or time.monotonic() - began_s >= _WITHIN_S
            if batch and is_due:
                self._write_file(batch)
                batch = []

    def _write_file(self, batch: list[_Window]) -> None:
        name, kind, count = self._modality.name, self._modality.kind, len(batch)
        start_s = np.array([each.time_s for each in batch]) - (self._modality.samples - 1) / self._modality.rate_hz
        windows = [each.window for each in batch]
        arrays: dict[str, Any] = {
            f"x_{name}": np.stack([frame_bytes(window) for window in windows]),
            f"rate_{name}": np.float64(self._modality.rate_hz),
            f"channels_{name}": np.array(self._modality.channels),
            f"unit_{name}": np.array(self._modality.unit),
            "y": np.full(count, -1, dtype=np.int64),
            "classes": np.array(self._task.labels),
            "split": np.zeros(count, dtype=np.int64),
            "group": np.array([self._station] * count),
            "time": start_s,
            "column_answer": np.array([each.label for each in batch]),
            "column_probability": np.array([each.probability for each in batch]),
            "column_reason": np.array([each.reason for each in batch]),
        }
        if kind == "audio":
            arrays[f"kind_{name}"] = np.array(kind)
        if kind == "video":
            arrays[f"frames_{name}"] = np.stack([~missing_frames(window) for window in windows]).astype(np.uint8)
        data = io.BytesIO()
        np.savez(data, **arrays)
        self._number += 1
        path = self._folder / f"{self._stem}-{self._number:08d}.npz"
        try:
            files = self._files()
            used = len(data.getvalue()) + sum(path.stat().st_size for path in files)
            while files and used > self._most_bytes:
                oldest = files.pop(0)
                used -= oldest.stat().st_size
                oldest.unlink()
                self._removed += 1
            partial = path.with_suffix(".part")
            partial.write_bytes(data.getvalue())
            partial.replace(path)
        except OSError as error:
            logger.warning("uncertain windows of %s: %s: %s", self._station, path, os_reason(error))
            self._dropped += len(batch)
            return
        self._kept += len(batch)

    def _files(self) -> list[Path]:
        files = self._folder.glob(f"{self._stem}-*.npz")
        return sorted(path for path in files if _FILE.match(path.stem.removeprefix(self._stem)))


def file_name(text: str) -> str:
    """Return a name for a file, unique for a text."""
    readable = "".join(char if char.isalnum() else "_" for char in text)[:_MAX_NAME]
    return readable if readable == text else f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
