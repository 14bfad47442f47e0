"""What a machine is told of the records: the last result, and how many episodes are open. Nothing else reaches one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mmkd_station.records import AlarmRecord, Record, ResultRecord

STATUS_CODES = {"ok": 0, "degraded": 1, "stale": 2, "warming_up": 3, "invalid": 4, "unknown": 5}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What is known last.

    Attributes:
        result: the last one.
        episodes: how many are open.
    """

    result: ResultRecord
    episodes: int


class LastKnown:
    """Follows the records of one station, or of all. Used by one thread.

    Args:
        station: whose; None takes all.
    """

    def __init__(self, station: str | None) -> None:
        self._station = station
        self._open: set[tuple[str, int]] = set()

    def after(self, records: Sequence[Record]) -> Told | None:
        """What a machine is to be told after these records; None where no result is among them."""
        last = None
        for record in records:
            if self._station not in (None, record.station):
                continue
            if isinstance(record, AlarmRecord):
                self._follow(record)
            elif isinstance(record, ResultRecord):
                last = record
        return None if last is None else Told(result=last, episodes=len(self._open))

    def _follow(self, alarm: AlarmRecord) -> None:
        if alarm.event in ("raised", "continued"):
            self._open.add((alarm.station, alarm.episode))
        elif alarm.event == "cleared":
            self._open.discard((alarm.station, alarm.episode))
