"""Whether a load is carried, and the most that is: judged by several launches, whatever offers the load.

A machine pauses now and then for longer than a short deadline: the system has work of its own, a neighbour takes the
core. A pause that outlasts the deadline by d makes all windows of d / (1 - load) late, since its backlog has to be
worked off as well: in a launch of a few seconds one pause decides alone. So one launch tells whether a pause fell into
it, and only several tell what the machine carries. Most of them decide, for the answer and for a load that is asked for
alike: else the two would answer different questions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mmkd_bench.load.offering import MAX_STREAMS, Offered
from mmkd_bench.measuring.percentiles import summarise
from mmkd_report.schema.bench_others import Level

LAUNCHES = 5
"""Launches that judge one load, unless most of them agree before."""

STEP = 0.05
"""The answer was carried, and a load that is larger by at most this share, or by one stream, was not."""


@dataclass(frozen=True, kw_only=True)
class LoadVerdict:
    """One load, judged.

    Attributes:
        streams: how many there were.
        carried: most launches carried it.
        launches: each by itself.
        together: all launches as one load.
    """

    streams: int
    carried: bool
    launches: tuple[Level, ...]
    together: Level


Offer = Callable[[int], Offered]
"""Offers a load of so many streams in a launch of its own."""


def judge_load(offer: Offer, streams: int, *, launches: int = LAUNCHES) -> LoadVerdict:
    """Offer a load again and again until most of the launches, an odd number, agree."""
    needed = launches // 2 + 1
    offered: list[Offered] = []
    while True:
        offered.append(offer(streams))
        votes = sum(one.level.carried for one in offered)
        if votes >= needed or len(offered) - votes > launches - needed:
            return verdict_of(offered, carried=votes >= needed)


def verdict_of(offered: Sequence[Offered], *, carried: bool) -> LoadVerdict:
    """Launches of one load, at least one, as a verdict."""
    return LoadVerdict(
        streams=offered[0].level.streams,
        carried=carried,
        launches=tuple(one.level for one in offered),
        together=_together(offered, carried=carried),
    )


def settle(first_guess: int, judge: Callable[[int], LoadVerdict]) -> tuple[LoadVerdict | None, LoadVerdict | None]:
    """The largest load that is judged to be carried, and the smallest that is judged not to be.

    Goes down from the guess in growing steps until a load is carried, or up until one is not, and then halves the gap.

    Returns:
        The two verdicts, their streams at most `STEP` apart; the first is None where not even one stream is carried,
        the second where `MAX_STREAMS` are.
    """
    best: LoadVerdict | None = None
    worst: LoadVerdict | None = None
    guess, step = min(max(1, first_guess), MAX_STREAMS), STEP
    while True:
        verdict = judge(guess)
        best, worst = (verdict, worst) if verdict.carried else (best, verdict)
        low, high = best.streams if best else 0, worst.streams if worst else MAX_STREAMS + 1
        if high - low <= max(1.0, STEP * low):
            return best, worst
        if worst is None:
            guess = min(MAX_STREAMS, low + max(1, math.floor(step * low)))
        elif best is None:
            guess = max(1, math.floor(high * (1 - min(step, 0.5))))
        else:
            guess = (low + high) // 2
            continue
        step *= 2


def _together(offered: Sequence[Offered], *, carried: bool) -> Level:
    levels = [one.level for one in offered]
    return Level(
        streams=levels[0].streams,
        offered_hz=levels[0].offered_hz,
        due=sum(level.due for level in levels),
        answered=sum(level.answered for level in levels),
        response=summarise(np.concatenate([one.response_ns for one in offered])),
        service=summarise(np.concatenate([one.service_ns for one in offered])),
        missed=sum(level.missed for level in levels),
        cpu_share=float(np.median([level.cpu_share for level in levels])),
        carried=carried,
    )
