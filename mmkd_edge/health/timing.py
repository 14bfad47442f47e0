"""A histogram of seconds, of constant size."""

from __future__ import annotations

import math
from bisect import bisect_left

import msgspec

# Edges in seconds, 12 per decade: percentiles are within a tenth of the truth.
_PER_DECADE = 12
_FROM, _TO = -5, 4
_EDGES_APART = 4  # per bucket in reports
EDGES = tuple(10 ** (_FROM + step / _PER_DECADE) for step in range((_TO - _FROM) * _PER_DECADE + 1))
# Recent counts are halved here, so that old calls fade.
_MAX_RECENT = 65536


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements in seconds; percentiles are of recent ones, `counts` cumulative, per edge of `EDGES`."""

    count: int
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float
    sum_s: float
    counts: tuple[int, ...]

    @property
    def buckets(self) -> list[tuple[float, int]]:
        """Upper edges, three per decade and infinity, with cumulative counts."""
        return [*list(zip(EDGES, self.counts, strict=True))[::_EDGES_APART], (math.inf, self.count)]


class SecondsHistogram:
    """Counts seconds. Not thread-safe."""

    def __init__(self) -> None:
        self._all = [0] * (len(EDGES) + 1)
        self._recent = [0.0] * (len(EDGES) + 1)
        self._weight = 0.0
        self._sum_s = 0.0
        self._max_s = 0.0

    def add(self, seconds: float) -> None:
        """Count a measurement; a negative one, of clocks that disagree, as 0."""
        seconds = max(seconds, 0.0)
        place = bisect_left(EDGES, seconds)
        self._all[place] += 1
        self._recent[place] += 1
        self._weight += 1
        self._sum_s += seconds
        self._max_s = max(self._max_s, seconds)
        if self._weight >= _MAX_RECENT:
            self._recent = [count / 2 for count in self._recent]
            self._weight /= 2

    def timing(self) -> Timing | None:
        """Summarise the measurements; None without any."""
        count = sum(self._all)
        if count == 0:
            return None
        below, counts = 0, []
        for bucket in self._all[:-1]:
            below += bucket
            counts.append(below)
        return Timing(
            count=count,
            p50_s=self._quantile(0.5),
            p90_s=self._quantile(0.9),
            p99_s=self._quantile(0.99),
            max_s=self._max_s,
            sum_s=self._sum_s,
            counts=tuple(counts),
        )

    def _quantile(self, fraction: float) -> float:
        rank, below, place = fraction * self._weight, 0.0, 0
        for place, count in enumerate(self._recent):  # noqa: B007 # used below
            below += count
            if count and below >= rank:
                break
        if place == 0:
            return min(EDGES[0], self._max_s)
        return self._max_s if place == len(EDGES) else min(math.sqrt(EDGES[place - 1] * EDGES[place]), self._max_s)
