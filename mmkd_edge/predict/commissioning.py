"""Fit a student of normal data to one machine: the scores of its own normal running take the place of the bundle's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.manifest import ModelEntry, Normal
from mmkd_edge.bundle.reference import Commissioned, Reference
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.novelty import alarm_rates, calibration_scores, normal_text
from mmkd_edge.spec import task_text

LEVEL, BLOCKS, MIN_WINDOWS = 0.05, 20, 100
"""20 blocks, of 5 windows or more each, support a level of 1 / 21."""


def check_normal(entry: ModelEntry, *, where: str) -> None:
    """Raise UsageError unless the student is one of normal data."""
    if not entry.normal:
        raise UsageError(
            f"{where}: expected a student of normal data, got one of {task_text(entry.task)}; only scores of normal "
            "running can be fitted to a machine"
        )


def machine_reference(
    entry: ModelEntry,
    scores: Sequence[float],
    *,
    period_s: float,  # between two scores
    commissioned: Commissioned,
    statistics: Reference | None = None,  # of a modality that is normalised per group
) -> Reference:
    """Return the reference of a machine whose normal windows have these scores, in their order; UsageError if few."""
    if len(scores) < MIN_WINDOWS:
        raise UsageError(
            f"{commissioned.source}: expected {MIN_WINDOWS} windows of normal running with an answer, or more, got "
            f"{len(scores)} in {commissioned.minutes:.3g} minutes; record longer (--minutes), or mend the sensor"
        )
    channels, rates = len(entry.modality.channels), block_rates(np.array(scores))
    return Reference(
        modality=entry.modality.name,
        mean=(0.0,) * channels if statistics is None else statistics.mean,
        std=(1.0,) * channels if statistics is None else statistics.std,
        normal=Normal(
            scores=calibration_scores(np.array(scores)),
            windows=len(scores),
            groups=BLOCKS,
            hours=len(scores) * period_s / 3600,
            level=LEVEL,
            window_rate=float(rates.mean()),
            groups_above=float((rates > 2 * LEVEL).mean()),
        ),
        commissioned=commissioned,
    )


def machine_facts(reference: Reference) -> dict[str, str]:
    """Describe what was fitted to a machine; empty if the reference has no scores."""
    facts = reference.commissioned
    if not (reference.normal and facts):
        return {}
    return {
        "student": f"{facts.model_id}, modality {reference.modality}",
        "recorded": f"from {facts.source}, {facts.minutes:.3g} minutes until {facts.ended_utc}",
        "normal": normal_text(reference.normal, part="block"),
        "unlike": f"{facts.unlike:.0%} of these windows are unknown by the bundle's own scores",
        "undo": "open the bundle without this file: it answers as before",
    }


def block_rates(scores: NDArray[np.float64], *, blocks: int = BLOCKS, level: float = LEVEL) -> NDArray[np.float64]:
    """Return each block's fraction of windows with a p-value of at most `level` among those of the other blocks."""
    sizes = [len(part) for part in np.array_split(scores, blocks)]
    return alarm_rates(scores, np.repeat(np.arange(blocks), sizes), level)
