"""Energy of a prediction: a log of power readings beside the measured processes, cut to the times they measured.

The log runs in the parent, so the measured process does nothing but predict. The monotonic clock is the same in both.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from mmkd_bench.machine.power import PowerSensor
from mmkd_edge.errors import UnavailableError
from mmkd_report.schema.bench import Energy

INTERVAL_S = 0.1
IDLE_S = 3.0
"""How long the machine is watched before the first launch, to know what it draws without the work."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of time on the monotonic clock, in seconds."""

    begin_s: float
    end_s: float


class PowerLog:
    """Reads a sensor in a thread, from `__enter__` to `__exit__`.

    Attributes:
        sensor: what is read; whoever opened it closes it.
        fault: why it stopped answering; empty while it answers.
    """

    def __init__(self, sensor: PowerSensor, *, interval_s: float = INTERVAL_S) -> None:
        self.sensor = sensor
        self.fault = ""
        self._interval_s = interval_s
        self._readings: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="power log", daemon=True)

    def __enter__(self) -> PowerLog:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def mean_mw(self, spans: Sequence[Span]) -> tuple[float, int] | None:
        """Mean power over spans of time and the number of readings in them; None without a reading."""
        inside = [power for at, power in list(self._readings) if any(one.begin_s <= at <= one.end_s for one in spans)]
        return (float(np.mean(inside)), len(inside)) if inside else None

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                power_mw = self.sensor.read_mw()
            except UnavailableError as error:
                self.fault = str(error)
                return
            self._readings.append((time.monotonic(), power_mw))


def watch_idle(seconds: float) -> Span:
    """Wait, and say from when to when."""
    begin_s = time.monotonic()
    time.sleep(seconds)
    return Span(begin_s=begin_s, end_s=time.monotonic())


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Energy of a run.

    Attributes:
        energy: over all launches; None where it is not known.
        note: why it is not known; empty where it is.
        launches_mj: of one prediction above idle, launch by launch; None for one without a reading.
    """

    energy: Energy | None
    note: str
    launches_mj: tuple[float | None, ...]


def energy_of(log: PowerLog, *, idle: Span, loaded: Sequence[Span], predictions: Sequence[int]) -> Spent:
    """Energy of one prediction above idle, or why it is not known."""
    at_rest, under_load = log.mean_mw([idle]), log.mean_mw(loaded)
    if log.fault:
        return nothing_spent(log.fault, launches=len(loaded))
    if at_rest is None or under_load is None:
        return nothing_spent(
            f"{log.sensor.name}: no reading in the measured time; measure longer", launches=len(loaded)
        )

    def above_idle_mj(mean_mw: float, spans: Sequence[Span], count: int) -> float:
        return (mean_mw - at_rest[0]) * sum(span.end_s - span.begin_s for span in spans) / count

    by_launch = [(log.mean_mw([span]), span, count) for span, count in zip(loaded, predictions, strict=True)]
    energy = Energy(
        sensor=log.sensor.name,
        idle_mw=at_rest[0],
        load_mw=under_load[0],
        above_idle_mj=above_idle_mj(under_load[0], loaded, sum(predictions)),
        readings=under_load[1],
    )
    launches_mj = tuple(None if mean is None else above_idle_mj(mean[0], [span], n) for mean, span, n in by_launch)
    return Spent(energy=energy, note="", launches_mj=launches_mj)


def nothing_spent(note: str, *, launches: int) -> Spent:
    """Energy that is not known, and why."""
    return Spent(energy=None, note=note, launches_mj=(None,) * launches)
