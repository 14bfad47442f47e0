"""Windows that a student was not sure of, never saw the like of or got wrong, kept until somebody labels them.

A ring of files in the interchange form that `mmkd-data import` reads, a few windows each, the oldest given up first.
Owns the choice of windows and the files. Writing has a thread of its own: no answer waits for the disk.
"""

from __future__ import annotations

import io
import logging
import math
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge import ModalitySpec, Prediction, TaskSpec
from mmkd_edge.errors import UsageError, fault_of
from mmkd_edge.frames import bytes_of, missing_frames
from mmkd_station.sinks.file_names import readable, told_apart

logger = logging.getLogger(__name__)

LEAST_BYTES = 1_000_000
_TOGETHER, _WITHIN_S = 32, 60.0
_MOST_WAITING = 256
# In memory: of windows that speak for an alarm, until somebody says that it was false; of one file; of what waits.
_MOST_HELD_BYTES = 16_000_000
_MOST_WAITING_BYTES = 64_000_000
_LEAST_WINDOWS = 4
_FILE = re.compile(r"-\d{8,}\Z")


class RingRule(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept, and how much of it.

    Attributes:
        folder: of the files; made where it is absent.
        most_bytes: of all files of one station.
        below: a window is uncertain where its answer's probability is lower, or its label set has several labels.
    """

    folder: Path
    most_bytes: int
    below: float


class _Kept(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    window: NDArray[Any]
    time_s: float
    label: str
    probability: float
    reason: str
    labels: tuple[str, ...]


class RingFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How a ring is doing.

    Attributes:
        kept: windows that were written.
        dropped: windows that were given up because the disk was too slow, or did not take them.
        removed: files that made room.
    """

    kept: int
    dropped: int
    removed: int


def kept_in_all(facts: Sequence[RingFacts]) -> RingFacts | None:
    """What several rings kept together; None of none."""
    names = RingFacts.__struct_fields__
    return RingFacts(**{name: sum(getattr(one, name) for one in facts) for name in names}) if facts else None


class UncertainRing:
    """Keeps uncertain windows of one station, at most one in each window's length of time.

    Args:
        rule: what is kept.
        station: whose; the files begin with its name.
        modality: of the windows.
        task: of the answers.
        among: of the station's sensors: where it has several, each has files of its own, and its share of the bytes.
        alarms: labels of episodes; windows that name one are held in memory, the last 16 MB of them, for `contradict`.

    Raises:
        UsageError: the folder cannot be made, or a few windows are larger than all that is kept.
    """

    def __init__(
        self,
        rule: RingRule,
        *,
        station: str,
        modality: ModalitySpec,
        task: TaskSpec,
        among: int = 1,
        alarms: Collection[str] = (),
    ) -> None:
        window_bytes = math.prod(modality.shape) * np.dtype(modality.dtype).itemsize
        self._most_bytes = rule.most_bytes // among
        least_bytes = _LEAST_WINDOWS * window_bytes
        if self._most_bytes < least_bytes:
            raise UsageError(
                f"--keep-uncertain {rule.most_bytes:,}: expected {among * least_bytes:,} bytes or more: "
                f"a window of {modality.name!r} has {window_bytes:,}; keep more"
            )
        self._rule = rule
        self._station = station
        self._modality = modality
        self._task = task
        name = station if among == 1 else f"{station}.{modality.name}"
        self._stem = name if readable(name) == name else told_apart(name, by=name)
        self._together = max(
            1, min(_TOGETHER, min(_MOST_HELD_BYTES, self._most_bytes // _LEAST_WINDOWS) // window_bytes)
        )
        waiting = max(1, min(_MOST_WAITING, _MOST_WAITING_BYTES // window_bytes))
        self._waiting: queue.Queue[_Kept | None] = queue.Queue(maxsize=waiting)
        self._last_s = self._last_held_s = -float("inf")
        self._alarms = frozenset(alarms)
        self._held: deque[_Kept] = deque(maxlen=max(1, _MOST_HELD_BYTES // window_bytes))
        self._lock = threading.Lock()  # of what is held
        self._kept = self._dropped = self._removed = 0
        try:
            rule.folder.mkdir(parents=True, exist_ok=True)
            numbers = [int(path.stem.rpartition("-")[2]) for path in self._files()]
        except OSError as error:
            raise UsageError(f"{rule.folder}: expected a folder for uncertain windows: {fault_of(error)}") from error
        self._number = max(numbers, default=0)
        self._thread = threading.Thread(target=self._write, name=f"uncertain {station}", daemon=True)
        self._thread.start()

    def see(self, window: NDArray[Any], prediction: Prediction, *, time_s: float) -> None:
        """Keep a window whose answer is uncertain, hold one whose answer names an alarm; returns at once.

        Args:
            window: raw values (T, C), NaN = missing; of video (T, H, W, C), missing frames masked.
            prediction: its answer.
            time_s: of its newest sample.
        """
        reason, labels = self._why(prediction), (prediction.label, *prediction.labels)
        last_s = self._last_s if reason else self._last_held_s
        if not (reason or self._alarms.intersection(labels)) or not self._is_apart(time_s, last_s):
            return
        kept = _Kept(
            window=window,
            time_s=time_s,
            label=prediction.label,
            probability=prediction.probability,
            reason=reason,
            labels=labels,
        )
        if reason:
            self._last_s = time_s
            self._put(kept)
            return
        self._last_held_s = time_s
        with self._lock:
            self._held.append(kept)

    def contradict(self, label: str, *, since_s: float, until_s: float) -> None:
        """Keep what was held of an episode that somebody called a false alarm.

        Args:
            label: of the episode.
            since_s: newest sample of its first window.
            until_s: of its last.
        """

        def is_of_it(one: _Kept) -> bool:
            return label in one.labels and since_s <= one.time_s <= until_s

        with self._lock:
            wrong = [one for one in self._held if is_of_it(one)]
            left = [one for one in self._held if not is_of_it(one)]
            self._held.clear()
            self._held.extend(left)
        for one in wrong:
            self._put(msgspec.structs.replace(one, reason="contradicted"))

    def _is_apart(self, time_s: float, last_s: float) -> bool:
        return not 0 <= time_s - last_s < self._modality.duration_s

    def _put(self, kept: _Kept) -> None:
        try:
            self._waiting.put_nowait(kept)
        except queue.Full:
            self._dropped += 1

    def facts(self) -> RingFacts:
        """How it is doing."""
        return RingFacts(kept=self._kept, dropped=self._dropped, removed=self._removed)

    def close(self) -> None:
        """Write what waits."""
        try:
            self._waiting.put(None, timeout=1.0)
        except queue.Full:
            return
        self._thread.join(5.0)

    def _why(self, prediction: Prediction) -> str:
        if prediction.index >= 0 and prediction.status == "unknown":
            return "unknown"
        if prediction.index < 0 or prediction.status not in ("ok", "degraded") or self._task.kind == "regression":
            return ""
        if len(prediction.label_set) > 1:
            return "several labels"
        return "low probability" if prediction.probability < self._rule.below else ""

    # ---- the thread that writes

    def _write(self) -> None:
        held: list[_Kept] = []
        began_s = time.monotonic()
        while True:
            try:
                kept = self._waiting.get(timeout=1.0)
            except queue.Empty:
                kept = None
                ending = False
            else:
                ending = kept is None
            began_s = began_s if held else time.monotonic()
            held += [kept] if kept is not None else []
            if held and (ending or len(held) >= self._together or time.monotonic() - began_s >= _WITHIN_S):
                self._write_file(held)
                held = []
            if ending:
                return

    def _write_file(self, held: list[_Kept]) -> None:
        data = io.BytesIO()
        np.savez(data, **self._arrays(held))
        self._number += 1
        path = self._rule.folder / f"{self._stem}-{self._number:08d}.npz"
        try:
            self._make_room(len(data.getvalue()))
            partial = path.with_suffix(".part")
            partial.write_bytes(data.getvalue())
            partial.replace(path)
        except (OSError, UsageError) as error:
            logger.warning("uncertain windows of %s: %s", self._station, error)
            self._dropped += len(held)
            return
        self._kept += len(held)

    def _arrays(self, held: list[_Kept]) -> dict[str, Any]:
        name, count = self._modality.name, len(held)
        start_s = np.array([one.time_s for one in held]) - (self._modality.samples - 1) / self._modality.rate_hz
        windows, kind = [one.window for one in held], self._modality.kind
        of_kind: dict[str, Any] = {f"kind_{name}": np.array(kind)} if kind == "audio" else {}
        if kind == "video":
            of_kind[f"frames_{name}"] = np.stack([~missing_frames(window) for window in windows]).astype(np.uint8)
        return {
            **of_kind,
            f"x_{name}": np.stack([bytes_of(window) for window in windows]),
            f"rate_{name}": np.float64(self._modality.rate_hz),
            f"channels_{name}": np.array(self._modality.channels),
            f"unit_{name}": np.array(self._modality.unit),
            "y": np.full(count, -1, dtype=np.int64),
            "classes": np.array(self._task.labels),
            "split": np.zeros(count, dtype=np.int64),
            "group": np.array([self._station] * count),
            "time": start_s,
            "column_answer": np.array([one.label for one in held]),
            "column_probability": np.array([one.probability for one in held]),
            "column_reason": np.array([one.reason for one in held]),
        }

    def _files(self) -> list[Path]:
        files = self._rule.folder.glob(f"{self._stem}-*.npz")
        return sorted(path for path in files if _FILE.match(path.stem.removeprefix(self._stem)))

    def _make_room(self, size_bytes: int) -> None:
        files = self._files()
        used = sum(path.stat().st_size for path in files)
        while files and used + size_bytes > self._most_bytes:
            oldest = files.pop(0)
            used -= oldest.stat().st_size
            oldest.unlink()
            self._removed += 1
