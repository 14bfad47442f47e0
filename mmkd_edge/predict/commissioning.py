"""Fit a student of normal data to one machine: the scores of its own normal running take the place of the bundle's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.manifest import ModelEntry, Normal
from mmkd_edge.bundle.reference import Commissioned, Reference
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.novelty import alarm_rates, calibration_scores, magnitude_fault, normal_text
from mmkd_edge.spec import task_text

LEVEL, BLOCKS, MIN_WINDOWS = 0.05, 20, 100
"""20 blocks, of 5 windows or more each, support a level of 1 / 21."""
_MOST_LOST = 0.1  # of the time without an answer, and of samples without a plausible time
# Of samples at a channel's lowest or highest value; the deciles of training are nine numbers only if fewer are at each.
_MOST_AT_LIMITS, _DECILES = 0.2, 9
_QUIETEST = 0.02  # of a channel's usual deviation, as in mmkd_edge.health.drift
_MOST_UNLIKE = 0.5  # of the windows
_LEAST_SPREAD = 0.25  # of training's


class MachineRun(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A machine's running as it was recorded.

    Attributes:
        scores: of the windows with an answer, in their order.
        unlike: fraction of them that the bundle's own level calls unknown.
        without_answer: fraction of the time.
        left_out: fraction of the samples, because of their times.
        jumps: new time lines, since the clock was set or the sensor was silent for longer than a window.
        lowest, highest, mean, std: (C,) of the channels' values, NaN without any.
        at_limits: fraction (C,) of the values that are the lowest or the highest one.
    """

    scores: NDArray[np.float64]
    unlike: float
    without_answer: float
    left_out: float
    jumps: int
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    at_limits: NDArray[np.float64]


def run_faults(entry: ModelEntry, run: MachineRun, statistics: Reference | None) -> Iterator[str]:
    """Yield why a machine's running cannot be fitted; `statistics` are those of a per-group modality."""
    if run.without_answer > _MOST_LOST:
        yield (
            f"{run.without_answer:.0%} of the time is without a sound answer, expected {_MOST_LOST:.0%} at most; mend "
            "the sensor or its connection, and record without pauses"
        )
    if run.left_out > _MOST_LOST:
        yield (
            f"{run.left_out:.0%} of the samples were left out because of their times, expected {_MOST_LOST:.0%} at "
            "most; mend the sensor's clock, which stands still, goes back or jumps"
        )
    mean, std = (0.0, 1.0) if statistics is None else (np.array(statistics.mean), np.array(statistics.std))
    channel_faults = list(_channel_faults(entry, run, np.broadcast_to(std, run.std.shape)))
    yield from channel_faults
    reference = entry.group_reference
    if reference is not None and reference.magnitude and entry.modality.kind != "video" and not channel_faults:
        size = np.hypot(run.std, run.mean - mean) / std  # the root mean square of the student's values
        window = size[None, None].astype(np.float32)
        if fault := magnitude_fault(reference.magnitude, window, None, modality=entry.modality.name):
            yield f"{fault.reason}; with this file too, windows like these stay unknown"


def _channel_faults(entry: ModelEntry, run: MachineRun, units: NDArray[np.float64]) -> Iterator[str]:
    dead, saturated, training, reference = [], [], entry.statistics, entry.group_reference
    constant = run.lowest == run.highest
    for c, channel in enumerate(entry.modality.channels):
        # A switch or a coarse thermometer, whose deciles are no nine numbers, may rest on one value.
        is_fine = training is not None and len(training.channels[c].edges) == _DECILES
        usual_std = 0.0 if reference is None else reference.scales[c] * units[c]
        if constant.all() or (constant[c] and is_fine):
            dead.append(f"{channel!r} is constant at {run.lowest[c] + 0.0:g}")  # never -0
        elif is_fine and run.std[c] < _QUIETEST * usual_std:
            dead.append(f"{channel!r} has a standard deviation of {run.std[c]:.2g}, in training {usual_std:.2g}")
        elif is_fine and run.at_limits[c] > _MOST_AT_LIMITS:
            limits = f"{run.lowest[c]:g} or {run.highest[c]:g}"
            saturated.append(f"{channel!r} is at {limits}, its limits, in {run.at_limits[c]:.0%} of the samples")
    if dead:
        yield f"channel {', '.join(dead)}; check the sensor and its cable"
    if saturated:
        yield f"channel {', '.join(saturated)}; choose a larger range of the sensor"


def run_warnings(entry: ModelEntry, run: MachineRun) -> Iterator[str]:
    """Yield what is odd about a machine's running that can be fitted."""
    if run.unlike > _MOST_UNLIKE:
        advice = "of the windows are unlike the normal ones of training: does the machine run normally?"
        yield f"{run.unlike:.0%} {advice}"
    if run.jumps:
        yield f"jumps of the times, or silences longer than a window: {run.jumps}; check the sensor's clock"
    if not entry.normal or len(run.scores) < MIN_WINDOWS:
        return
    spread, usual = _log_spread(run.scores), _log_spread(np.array(entry.normal.scores))
    if spread < _LEAST_SPREAD * usual:
        yield (
            f"scores vary by {np.exp(spread) - 1:.0%}, and by {np.exp(usual) - 1:.0%} in training: did the machine run "
            "in all of its states?"
        )


def _log_spread(scores: NDArray[np.float64]) -> float:
    """Return the logarithm of the 90th over the 10th percentile."""
    low, high = np.log(np.maximum(np.quantile(scores, (0.1, 0.9)), 1e-9))
    return float(high - low)


def check_normal(entry: ModelEntry, *, where: str) -> None:
    """Raise UsageError unless the student is one of normal data."""
    if not entry.normal:
        raise UsageError(
            f"{where}: expected a student of normal data, got one of {task_text(entry.task)}; only scores of normal "
            "running can be fitted to a machine"
        )


def machine_reference(
    entry: ModelEntry,
    scores: Sequence[float] | NDArray[np.float64],
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
        "judgement": facts.judgement or "none: recorded by an earlier version",
        "undo": "open the bundle without this file: it answers as before",
    }


def block_rates(scores: NDArray[np.float64], *, blocks: int = BLOCKS, level: float = LEVEL) -> NDArray[np.float64]:
    """Return each block's fraction of windows with a p-value of at most `level` among those of the other blocks."""
    sizes = [len(part) for part in np.array_split(scores, blocks)]
    return alarm_rates(scores, np.repeat(np.arange(blocks), sizes), level)
