"""How long things take: a histogram of seconds whose size never grows."""

from __future__ import annotations

import math
from bisect import bisect_left

import msgspec

# Edges in seconds: 12 in each decade, so that a figure is within a tenth of the truth.
_PER_DECADE = 12
_FROM, _TO = -5, 4
_EDGES_APART = 4  # of the buckets that are shown: all would be a hundred
EDGES = tuple(10 ** (_FROM + step / _PER_DECADE) for step in range((_TO - _FROM) * _PER_DECADE + 1))
# Then the recent counts are halved: what is long past fades.
_MOST_RECENT = 65536


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, measured many times.

    Attributes:
        p50_s: median of the recent ones; percentiles are within a tenth of the truth.
        sum_s: of all since the beginning, as are count, max_s and counts.
        counts: how many took at most as long as each of `EDGES`.
    """

    count: int
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float
    sum_s: float
    counts: tuple[int, ...]

    @property
    def buckets(self) -> list[tuple[float, int]]:
        """Upper edges, three in each decade and infinity, each with how many took at most as long."""
        return [*list(zip(EDGES, self.counts, strict=True))[::_EDGES_APART], (math.inf, self.count)]


class SecondsHistogram:
    """Counts seconds. Not for several threads at once: whoever shares it holds a lock."""

    def __init__(self) -> None:
        self._all = [0] * (len(EDGES) + 1)
        self._recent = [0.0] * (len(EDGES) + 1)
        self._weight = 0.0
        self._sum_s = 0.0
        self._max_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one measurement; one below 0, of clocks that disagree, counts as 0."""
        seconds = max(seconds, 0.0)
        place = bisect_left(EDGES, seconds)
        self._all[place] += 1
        self._recent[place] += 1
        self._weight += 1
        self._sum_s += seconds
        self._max_s = max(self._max_s, seconds)
        if self._weight >= _MOST_RECENT:
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
        """The middle, on a logarithmic scale, of the bin that contains it; never above the longest."""
        rank, below, place = fraction * self._weight, 0.0, 0
        for place, count in enumerate(self._recent):  # noqa: B007 # the last one where rounding leaves none
            below += count
            if count and below >= rank:
                break
        if place == 0:
            return min(EDGES[0], self._max_s)
        return self._max_s if place == len(EDGES) else min(math.sqrt(EDGES[place - 1] * EDGES[place]), self._max_s)
