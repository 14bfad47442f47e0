"""Label sets and novelty: what an artifact's calibration windows say of one window, at the levels that they support.

Label sets are the classes that remain possible at the application's error level: split conformal prediction with the
probability of the true label as score (Sadinle, Lei and Wasserman, "Least Ambiguous Set-Valued Classifiers with Bounded
Error Levels", JASA 114, 2019). The threshold is the j-th smallest of n calibration scores, j = floor((n + 1) *
error_level); a set has every label that reaches it (Angelopoulos and Bates, arXiv:2107.07511, section 1).

Novelty is how unlike the training windows a window is. A wrong unit or gain changes its magnitude, which has limits in
the bundle. A graph with the output `novelty` returns the distance of its embedding from the training windows. If r of n
validation windows are at least as far, the conformal p-value is (1 + r) / (n + 1) (Vovk, Gammerman and Shafer,
"Algorithmic Learning in a Random World", 2005, ch. 2; Bates, Candes, Lei, Romano, Sesia, "Testing for Outliers with
Conformal p-Values", Annals of Statistics 51, 2023, equation 2).

Both hold for windows exchangeable with those, so not for another person, machine or place.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.manifest import MAX_NOVELTY_WINDOWS, Artifact, Confidence, ModelEntry, Normal, Novelty
from mmkd_edge.bundle.statistics import MagnitudeLimits
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.sensors import WindowFault

# (n + 1) * error_level is a whole number in decimal that float64 may miss by its last bits.
_ROUNDING = 1e-9


def describe_subject(entry: ModelEntry, artifact: Artifact | None, *, where: str) -> str:
    """Return an error's subject: the artifact, or without a bundle the student."""
    what = f"model {entry.name!r}" if artifact is None else repr(artifact.file)
    return f"{where}: {what}" if where else what


def check_level(level: Any, *, name: str) -> float | None:
    """Return a level above 0 and below 1, or None, else raise UsageError."""
    if level is None:
        return None
    is_number = isinstance(level, int | float) and not isinstance(level, bool)
    if not (is_number and 0 < level < 1):
        raise UsageError(f"{name}: expected a fraction above 0 and below 1, or None; got {level!r}")
    return float(level)


def smallest_level(windows: int) -> float:
    """Return the smallest level that this many windows support, rounded up to four digits."""
    return math.ceil(10_000 / (windows + 1)) / 10_000


def least_probability(confidence: Confidence, error_level: float) -> float | None:
    """Return the probability that a label in the set needs; None with too few calibration windows.

    >>> confidence = Confidence(temperature=1.0, true_probabilities=(0.2, 0.5, 0.7, 0.9))
    >>> least_probability(confidence, 0.4), least_probability(confidence, 0.1)
    (0.5, None)
    """
    windows = len(confidence.true_probabilities)
    rank = math.floor((windows + 1) * error_level + _ROUNDING)
    return confidence.true_probabilities[rank - 1] if rank >= 1 else None


def label_set(probabilities: Sequence[float], labels: Sequence[str], *, least: float) -> tuple[str, ...]:
    """Return the labels of at least probability `least`, most probable first, at least one."""
    reached = [index for index, probability in enumerate(probabilities) if probability >= least]
    if len(reached) < 2:
        return (labels[probabilities.index(max(probabilities))],)
    reached.sort(key=lambda index: -probabilities[index])
    return tuple(labels[index] for index in reached)


def find_threshold(
    entry: ModelEntry, artifact: Artifact | None, error_level: float | None, *, where: str = ""
) -> float | None:
    """Return an artifact's label set threshold; UsageError without calibration for this level."""
    if error_level is None:
        return None
    if entry.task.kind != "classification":
        raise UsageError(f"error_level={error_level:g}: expected a classifier, got {entry.task.kind}; open without it")
    what = describe_subject(entry, artifact, where=where)
    confidence = None if artifact is None else artifact.confidence
    if confidence is None:
        raise UsageError(
            f"{what}: error_level={error_level:g}: expected an artifact that was calibrated, got one that was "
            "exported without labelled windows; export the checkpoint again (with --calib DATA if it carries no "
            "windows), or open without error_level"
        )
    least = least_probability(confidence, error_level)
    if least is None:
        windows = len(confidence.true_probabilities)
        raise UsageError(
            f"{what}: error_level={error_level:g}: expected {smallest_level(windows):g} or more, because "
            f"{windows} windows calibrated it; choose a higher level, or export with more windows (--calib DATA)"
        )
    return least


def channel_magnitudes(values: NDArray[np.float32], present: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the root mean square (N, C) of windows and presence (N, T, C) from `prepare`; NaN without values."""
    exact = values.astype(np.float64)
    sums, counts = np.einsum("ntc,ntc->nc", exact, exact), present.sum(axis=1)
    return np.asarray(np.sqrt(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)))


def magnitude(sizes: Iterable[float], usual: Iterable[float]) -> float:
    """Return the root mean square over channels of `channel_magnitudes` / `usual`; NaN without values.

    One number per sensor: a wrong unit changes all channels, and one axis may be near 0.
    """
    ratios = [size / expected for size, expected in zip(sizes, usual, strict=True) if size == size]
    return math.sqrt(sum(ratio * ratio for ratio in ratios) / len(ratios)) if ratios else math.nan


def magnitude_fault(
    limits: MagnitudeLimits | None, values: NDArray[np.float32], gaps: NDArray[np.float32] | None, *, modality: str
) -> WindowFault | None:
    """Judge the magnitude of one window (1, T, C); an empty one has none. `gaps` is its presence if incomplete."""
    if limits is None:
        return None
    if gaps is None:  # the same number, in a third of the time
        scaled = (values / np.array(limits.usual)).ravel()
        size = math.sqrt(np.einsum("i,i->", scaled, scaled) / scaled.size)
    else:
        size = magnitude(channel_magnitudes(values, gaps)[0].tolist(), limits.usual)
    if not (size < limits.lowest or size > limits.highest):
        return None
    reason = (
        f"{modality} has {size:.3g} times its usual size in training, expected {limits.lowest:.2g} to "
        f"{limits.highest:.2g} times; check its unit and scale"
    )
    return WindowFault(status="unknown", reason=reason)


class NoveltyRule(msgspec.Struct, frozen=True, kw_only=True):
    """A p-value of at most `unknown_level` is `unknown`; None for never."""

    calibration: Novelty | Normal
    unknown_level: float | None = None

    def p_value(self, score: float) -> float:
        """Return a score's p-value, above 0 and at most 1; the smallest for NaN.

        >>> rule = NoveltyRule(calibration=Novelty(scores=(0.5, 0.8, 1.0), max_error=0.0, tolerance=1e-4))
        >>> rule.p_value(0.1), rule.p_value(0.9), rule.p_value(7.0)
        (1.0, 0.5, 0.25)
        """
        scores = self.calibration.scores
        larger = len(scores) - bisect_left(scores, score) if score <= scores[-1] else 0
        return (1 + larger) / (1 + len(scores))

    def judge(self, outputs: Sequence[NDArray[np.float32]]) -> float | None:
        """Return a window's p-value from a graph's outputs, if one is a score."""
        scores = outputs[1:2] if isinstance(self.calibration, Normal) else outputs[2:]
        return self.p_value(scores[0].item()) if scores else None


def novelty_text(novelty: Novelty) -> str:
    """Describe the levels that an artifact's novelty supports."""
    return f"unknown from a level of {smallest_level(len(novelty.scores)):g} on, by {len(novelty.scores)} windows"


def magnitude_text(limits: MagnitudeLimits) -> str:
    """Describe magnitude limits and their error rate."""
    return (
        f"unknown below {limits.lowest:.2g} and above {limits.highest:.2g} times the usual size, as "
        f"{limits.outside_rate:.1%} of healthy windows of groups that were left out"
    )


def novelty_rule(
    entry: ModelEntry, artifact: Artifact | None, unknown_level: float | None, *, where: str = ""
) -> NoveltyRule | None:
    """Return a student's rule, if any. Raise UsageError if a requested level lacks novelty or calibration windows."""
    if entry.normal:
        return _normal_rule(entry.normal, unknown_level, what=describe_subject(entry, artifact, where=where))
    calibration = None if artifact is None or not artifact.novelty else artifact.novelty
    if unknown_level is None:
        return None if calibration is None else NoveltyRule(calibration=calibration)
    what = f"{describe_subject(entry, artifact, where=where)}: unknown_level={unknown_level:g}"
    if calibration is None:
        why = "expected a student with novelty, got one without; train and export it again"
        if entry.has_novelty:
            why = "expected calibrated novelty, got an artifact without; export it with recorded windows (--calib DATA)"
        raise UsageError(f"{what}: {why}, or open without unknown_level")
    least = smallest_level(len(calibration.scores))
    if unknown_level < least:
        raise UsageError(
            f"{what}: expected {least:g} or more, because {len(calibration.scores)} windows calibrated it; "
            "choose a higher level, or validate on more windows"
        )
    return NoveltyRule(calibration=calibration, unknown_level=unknown_level)


def _normal_rule(normal: Normal, unknown_level: float | None, *, what: str) -> NoveltyRule:
    least = smallest_level(normal.groups or len(normal.scores))
    if unknown_level is not None and unknown_level < least:
        count = f"{normal.groups} groups of" if normal.groups else len(normal.scores)
        raise UsageError(
            f"{what}: unknown_level={unknown_level:g}: expected {least:g} or more, because {count} normal windows "
            "calibrated it; choose a higher level, or record more machines or days"
        )
    return NoveltyRule(calibration=normal, unknown_level=unknown_level or normal.level)


def score_limit(normal: Normal) -> float:
    """Return the largest score of a normal window; infinite if the level needs more windows.

    >>> facts = {"windows": 3, "groups": 1, "hours": 1.0, "window_rate": 0.0, "groups_above": 0.0}
    >>> score_limit(Normal(scores=(0.5, 1.0, 3.0), level=0.5, **facts))
    1.0
    """
    return largest_normal(normal.scores, normal.level)


def largest_normal(rising: Sequence[float] | NDArray[np.float64], level: float) -> float:
    """Return the largest score whose p-value among `rising` ones is above `level`; infinite if none is at most that."""
    larger = math.floor(level * (len(rising) + 1) + 1e-9) - 1  # scores as large as one that is unknown
    return float(rising[-1 - larger]) if larger >= 0 else math.inf


def alarm_rates(scores: NDArray[np.float64], groups: NDArray[Any], level: float) -> NDArray[np.float64]:
    """Return each group's fraction (G,) of windows (N,) with a p-value of at most `level` among the other groups'."""
    own = [groups == group for group in np.unique(groups)]
    return np.array([(scores[here] > largest_normal(np.sort(scores[~here]), level)).mean() for here in own])


def calibration_scores(scores: NDArray[np.float64]) -> tuple[float, ...]:
    """Return scores (N,) rising, of more than a bundle stores those of evenly spread ranks."""
    places = np.linspace(0, len(scores) - 1, min(len(scores), MAX_NOVELTY_WINDOWS)).round().astype(np.intp)
    return tuple(np.sort(scores)[places].tolist())


def normal_text(normal: Normal, *, part: Literal["group", "block"] = "group") -> str:
    """Describe the false-alarm rate of a student of normal data; blocks are those of one machine's time."""
    level = f"unknown at a p-value of at most {normal.level:g}, a score above {score_limit(normal):.4g}"
    if not normal.groups:
        return (
            f"{level}: {normal.window_rate:.1%} of the normal windows of a block of time that was left out; on another "
            "machine or day nobody knows"
        )
    return (
        f"{level}: {normal.window_rate:.1%} of the normal windows of a {part} "
        f"that was left out; {normal.groups_above:.0%} of {normal.groups} {part}s have more than "
        f"{2 * normal.level:.0%}; {normal.windows:,} windows, {normal.hours:.3g} h"
    )
