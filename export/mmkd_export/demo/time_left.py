"""How long the parts of a demo will still take: from the time that parts have taken so far, spread over workers.

Measures nothing: what it is told has times in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Costs of a part in those of its other stages, measured on the shipped dataset with one thread; only for stages that no
# part has begun yet.
STAGE_COSTS: Mapping[str, float] = {
    "teacher": 1.0,
    "baseline": 0.25,
    "rivals": 0.03,
    "taught": 0.05,
    "answers": 0.32,
    "student": 0.3,
}
"""Of a stage's part on one fold, in those of a teacher's two generations; `answers` of all blocks together."""


@dataclass(frozen=True, kw_only=True)
class PartTime:
    """How far a part is.

    Attributes:
        cost: its share of the stage's cost, as for `STAGE_COSTS`.
        measured: how much of it was done in `elapsed_s`; less than `done` where it goes on from an earlier run.
        elapsed_s: that it has been worked on.
    """

    stage: str
    cost: float = 1.0
    done: float = 0.0
    measured: float = 0.0
    elapsed_s: float = 0.0


def seconds_left(phases: Sequence[Sequence[PartTime]], *, workers: int) -> float | None:
    """Gives the seconds until all phases are over, one after the other; None before anything was measured.

    Args:
        phases: their parts in the order in which workers take them; those not begun come last.
        workers: that take parts.
    """
    parts = [part for phase in phases for part in phase]
    if not any(part.measured > 0 for part in parts):
        return None
    total = 0.0
    for phase in phases:
        free_at = [0.0] * workers
        for part in phase:
            first = min(range(workers), key=free_at.__getitem__)
            free_at[first] += (1 - part.done) * _whole_s(part, parts)
        total += max(free_at)
    return total


def _whole_s(part: PartTime, parts: Sequence[PartTime]) -> float:
    """What the whole part takes, by its own pace, else that of its stage, else that of all."""
    if part.measured > 0:
        return part.elapsed_s / part.measured
    begun = [other for other in parts if other.measured > 0]
    alike = [other for other in begun if other.stage == part.stage] or begun
    per_cost = sum(other.elapsed_s for other in alike) / sum(_cost(other) * other.measured for other in alike)
    return _cost(part) * per_cost


def _cost(part: PartTime) -> float:
    return STAGE_COSTS[part.stage] * part.cost
