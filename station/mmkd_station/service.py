"""Several stations in one process: started, watched, given another bundle, and stopped in order.

Owns the loop of the main thread. Prints nothing and takes no signals: who calls it says when to stop and to reload.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmkd_edge import EdgePredictor, read_slots
from mmkd_edge.errors import MmkdError, first_line
from mmkd_station.notify import notify, watchdog_s
from mmkd_station.sinks.outlet import Outlet, OutletFacts
from mmkd_station.station import DRAIN_S, Station, StationFacts

logger = logging.getLogger(__name__)

_TICK_S = 0.25
_LOOKS_S = 1.0
# Of whether students should be adapted: what is asked changes within hours.
_LOOKS_AT_HEALTH_S = 60.0
# A call that takes longer than this hangs, where nobody says otherwise.
_HANGS_S = 30.0


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a run did, from its start to now.

    Attributes:
        seconds: since the start.
        stations: one after the other.
        sinks: one after the other.
    """

    seconds: float
    stations: tuple[StationFacts, ...]
    sinks: tuple[OutletFacts, ...]


class Service:
    """Runs stations until their sources end or it is told to stop.

    Args:
        stations: not started yet; closed at the end.
        outlets: that they share; closed at the end.
        predictors: path of the bundle and who answers with it; they stay yours to close.
        watch_bundle: whether a bundle that changes takes over.
    """

    def __init__(
        self,
        *,
        stations: Sequence[Station],
        outlets: Sequence[Outlet],
        predictors: Sequence[tuple[Path, EdgePredictor]],
        watch_bundle: bool = False,
    ) -> None:
        self.stations = tuple(stations)
        self.outlets = tuple(outlets)
        self._predictors = tuple(predictors)
        self._watch_bundle = watch_bundle
        self._began_s = time.monotonic()
        self._swapping: threading.Thread | None = None
        self._seen = {path: _stamp(path) for path, _ in self._predictors}
        self._taken = dict(self._seen)

    def run(self, *, stop: threading.Event, reload: threading.Event) -> RunFacts:
        """Start, and go on until every source has ended or `stop` is set; then answer what waits, and close.

        Args:
            stop: ends the run.
            reload: has every bundle opened again, under load.
        """
        for station in self.stations:
            station.start()
        notify("READY=1")
        limit_s = watchdog_s()
        tick_s = _TICK_S if limit_s is None else min(_TICK_S, limit_s / 4)
        looked_s = judged_s = time.monotonic()
        while not self._is_over() and not stop.wait(tick_s):
            if reload.is_set() and not self._is_swapping:  # else it waits for the end of that swap
                reload.clear()
                self.swap([path for path, _ in self._predictors])
            if self._watch_bundle and time.monotonic() - looked_s >= _LOOKS_S:
                looked_s = time.monotonic()
                self.swap(self._changed())
            if time.monotonic() - judged_s >= _LOOKS_AT_HEALTH_S:
                judged_s = time.monotonic()
                for station in self.stations:
                    station.look()
            self._tell_watchdog(limit_s)
        return self._close()

    def facts(self) -> RunFacts:
        """What was done so far."""
        return RunFacts(
            seconds=time.monotonic() - self._began_s,
            stations=tuple(station.facts() for station in self.stations),
            sinks=tuple(outlet.facts() for outlet in self.outlets),
        )

    @property
    def is_well(self) -> bool:
        """Whether no station hangs and every engine answers."""
        limit_s = watchdog_s()
        return all(one.is_well(within_s=_HANGS_S if limit_s is None else limit_s / 2) for one in self.stations)

    def swap(self, paths: Sequence[Path]) -> None:
        """Let what is in these files take over, in a thread of its own; one that is refused changes nothing."""
        if not paths or self._is_swapping:
            return
        self._swapping = threading.Thread(target=self._swap, args=(list(paths),), name="swap", daemon=True)
        self._swapping.start()

    @property
    def _is_swapping(self) -> bool:
        return self._swapping is not None and self._swapping.is_alive()

    def _swap(self, paths: Sequence[Path]) -> None:
        for path, predictor in self._predictors:
            if path not in paths:
                continue
            self._taken[path] = _stamp(path)
            concerned = [station for station in self.stations if station.predictor is predictor]
            try:
                info = predictor.swap(path)
            except Exception as error:  # whatever a new bundle or a library raises, the earlier one answers on
                for station in concerned:
                    station.say("refused", first_line(error))
            else:
                for station in concerned:
                    station.say("swapped", f"{info.model_id}, {info.bundle_sha256[:12]}")

    def _changed(self) -> list[Path]:
        """Bundles that are other files than those in use, and have not changed since the last look."""
        now = {path: _stamp(path) for path in self._seen}
        for path, predictor in self._predictors:
            if isinstance(now[path], str) and now[path] == predictor.info().bundle_sha256:
                self._taken[path] = now[path]
        changed = [
            path for path, stamp in now.items() if stamp and stamp == self._seen[path] and stamp != self._taken[path]
        ]
        self._seen = now
        return changed

    def _is_over(self) -> bool:
        return all(station.is_over for station in self.stations) or any(outlet.is_gone for outlet in self.outlets)

    def _tell_watchdog(self, limit_s: float | None) -> None:
        if self.is_well:
            answers = sum(sum(station.facts().results.values()) for station in self.stations) if limit_s else 0
            notify(f"WATCHDOG=1\nSTATUS={answers} results of {len(self.stations)} stations")

    def _close(self) -> RunFacts:
        notify("STOPPING=1")
        for station in self.stations:
            station.look()
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


def _stamp(path: Path) -> tuple[int, int, int] | str | None:
    """What changes when a file is replaced, or another bundle is installed in a state folder; None where there is none.

    Of a state folder the hash of the bundle: a start changes its files, and it stays the same bundle.
    """
    try:
        if path.is_dir():
            return read_slots(path).current.sha256
        found = path.stat()
    except (MmkdError, OSError):
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
