"""What a sink is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mmkd_station.records import Record


class RefusedError(Exception):
    """The other side will never take these records; they are dropped and counted."""


class GoneError(Exception):
    """Nobody will ever read there again, and the run has no sense without it."""


class Sink(Protocol):
    """Takes records in the order in which they were made. Used by one thread."""

    def write(self, records: Sequence[Record]) -> None:
        """Take all of them, or raise: then they are offered again. What was taken before may come twice."""
        ...

    def close(self) -> None:
        """Say goodbye; more than once is fine."""
        ...
