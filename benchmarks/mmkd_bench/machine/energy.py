"""Energy of a prediction, from power readings in the parent while its processes measure."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmkd_bench.machine.power import PowerSensor
from mmkd_edge.errors import UnavailableError
from mmkd_report.schema.bench import Energy

INTERVAL_S = 0.1
IDLE_S = 3.0
"""Time before the first launch for idle power."""

Span = tuple[float, float]
"""Begin and end on the monotonic clock."""


class PowerLog:
    """Reads a sensor in a thread while its `with` block runs; `fault` is why it stopped answering."""

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

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def mean_mw(self, spans: Sequence[Span]) -> tuple[float, int] | None:
        """Return mean power over spans of time and the number of readings; None without a reading."""
        inside = [power for at, power in list(self._readings) if any(begin <= at <= end for begin, end in spans)]
        return (float(np.mean(inside)), len(inside)) if inside else None

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                power_mw = self.sensor.read_mw()
            except UnavailableError as error:
                self.fault = str(error)
                return
            self._readings.append((time.monotonic(), power_mw))


@dataclass(frozen=True, kw_only=True)
class MeasuredEnergy:
    """Energy of a run, or why it is not known; `launches_mj` is per prediction above idle."""

    energy: Energy | None
    note: str
    launches_mj: tuple[float | None, ...]


def energy_of(log: PowerLog, *, idle: Span, loaded: Sequence[Span], predictions: Sequence[int]) -> MeasuredEnergy:
    """Compute the energy per prediction above idle; `loaded` and `predictions` are per launch."""
    at_rest, under_load = log.mean_mw([idle]), log.mean_mw(loaded)
    if log.fault or at_rest is None or under_load is None:
        reason = log.fault or f"{log.sensor.name}: no reading in the measured time; measure longer"
        return no_energy(reason, launches=len(loaded))

    def above_idle_mj(mean_mw: float, spans: Sequence[Span], count: int) -> float:
        return (mean_mw - at_rest[0]) * sum(end - begin for begin, end in spans) / count

    energy = Energy(
        sensor=log.sensor.name,
        idle_mw=at_rest[0],
        load_mw=under_load[0],
        above_idle_mj=above_idle_mj(under_load[0], loaded, sum(predictions)),
        readings=under_load[1],
    )
    launches_mj = tuple(
        None if (mean := log.mean_mw([span])) is None else above_idle_mj(mean[0], [span], count)
        for span, count in zip(loaded, predictions, strict=True)
    )
    return MeasuredEnergy(energy=energy, note="", launches_mj=launches_mj)


def no_energy(note: str, *, launches: int) -> MeasuredEnergy:
    """Return unknown energy, and why."""
    return MeasuredEnergy(energy=None, note=note, launches_mj=(None,) * launches)
