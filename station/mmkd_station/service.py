"""Run several stations in one process, and reload their bundles. The caller handles signals."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmkd_edge import EdgePredictor
from mmkd_edge.errors import first_line
from mmkd_station.outlet import Outlet, OutletFacts
from mmkd_station.records import StationState
from mmkd_station.station import DRAIN_S, Station, StationFacts

logger = logging.getLogger(__name__)

_TICK_S = 0.25
_STATION_CHECK_S = 60.0
_HANGS_S = 30.0  # without a limit of systemd


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of a run so far."""

    seconds: float
    stations: tuple[StationFacts, ...]
    sinks: tuple[OutletFacts, ...]


class Service:
    """Runs stations, with predictors by path, until sources end, `for_s` is over or it is stopped; closes all."""

    def __init__(
        self,
        *,
        stations: Sequence[Station],
        outlets: Sequence[Outlet],
        predictors: Sequence[tuple[Path, EdgePredictor]],
        for_s: float | None = None,
    ) -> None:
        self.stations = tuple(stations)
        self.outlets = tuple(outlets)
        self._predictors = tuple(predictors)
        self._for_s = float("inf") if for_s is None else for_s
        self._began_s = time.monotonic()
        self._swapping: threading.Thread | None = None

    def run(self, *, stop: threading.Event, reload: threading.Event) -> RunFacts:
        """Run to the end, or until `stop` is set; `reload` opens bundles again."""
        end_s = time.monotonic() + self._for_s
        for station in self.stations:
            station.start()
        notify("READY=1")
        limit_s = _watchdog_s()
        tick_s = _TICK_S if limit_s is None else min(_TICK_S, limit_s / 4)
        stations_s = time.monotonic()
        while not self._is_over() and time.monotonic() < end_s and not stop.wait(tick_s):
            if reload.is_set() and not (self._swapping is not None and self._swapping.is_alive()):
                reload.clear()
                self._swapping = threading.Thread(target=self._swap, name="swap", daemon=True)
                self._swapping.start()
            if time.monotonic() - stations_s >= _STATION_CHECK_S:
                stations_s = time.monotonic()
                for station in self.stations:
                    station.check()
            if self.is_well:
                results = sum(sum(station.facts().results.values()) for station in self.stations) if limit_s else 0
                notify(f"WATCHDOG=1\nSTATUS={results} results of {len(self.stations)} stations")
        return self._close()

    def facts(self) -> RunFacts:
        """Return the current counters."""
        return RunFacts(
            seconds=time.monotonic() - self._began_s,
            stations=tuple(station.facts() for station in self.stations),
            sinks=tuple(outlet.facts() for outlet in self.outlets),
        )

    @property
    def is_well(self) -> bool:
        """Whether no station hangs and every engine answers."""
        limit_s = _watchdog_s()
        within_s = _HANGS_S if limit_s is None else limit_s / 2
        return all(station.is_well(within_s=within_s) for station in self.stations)

    def _swap(self) -> None:
        """Open every bundle again; a refused one changes nothing."""
        for path, predictor in self._predictors:
            state: StationState = "swapped"
            try:
                info = predictor.swap(path)
                reason = f"{info.model_id}, {info.bundle_sha256[:12]}"
                if returned := predictor.health().returned:
                    state, reason = "refused", returned
            except Exception as error:  # whatever a new bundle raises, the earlier one answers on
                state, reason = "refused", first_line(error)
            for station in self.stations:
                if station.predictor is predictor:
                    station.report(state, reason)

    def _is_over(self) -> bool:
        return all(station.is_over for station in self.stations) or any(outlet.is_gone for outlet in self.outlets)

    def _close(self) -> RunFacts:
        notify("STOPPING=1")
        for station in self.stations:
            station.check()
            station.stop()
        until_s = time.monotonic() + DRAIN_S
        for station in self.stations:
            station.close(until_s=until_s)
        closing = [threading.Thread(target=outlet.close, daemon=True) for outlet in self.outlets]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        return self.facts()


def notify(state: str) -> None:
    """Send a state such as `READY=1` to systemd (sd_notify(3)), if it is there."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    # systemd may be busy: the next message repeats it.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, flags) as channel:
        # @ marks the abstract name space.
        channel.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def _watchdog_s() -> float | None:
    limit_us = os.environ.get("WATCHDOG_USEC", "")
    is_for_this = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(limit_us) / 1e6 if limit_us.isdigit() and int(limit_us) > 0 and is_for_this else None
