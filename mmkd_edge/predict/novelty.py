"""Novelty: how unlike everything in training a window is, and when nobody should believe the answer.

A wrong unit or gain changes the magnitude of a window's values, which is compared with limits in the bundle. And a
graph with the output `novelty` returns a distance of the window's embedding from the training windows. Among n
validation windows let r have a distance as large or larger: the p-value is (1 + r) / (n + 1), the conformal p-value
(Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005, ch. 2; Bates, Candes, Lei, Romano, Sesia,
"Testing for Outliers with Conformal p-Values", Annals of Statistics 51, 2023, equation 2). If a window is exchangeable
with the validation windows, its p-value is at most `unknown_level` with a probability of at most that. Another person,
machine or place is not exchangeable with them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.manifest import Artifact, ModelEntry, Novelty
from mmkd_edge.drift.features import MagnitudeLimits, channel_magnitudes, magnitude
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.confidence import named, smallest_level
from mmkd_edge.predict.sensors import WindowFault, worse


class NoveltyRule(msgspec.Struct, frozen=True, kw_only=True):
    """How an opened student judges its novelty scores.

    Attributes:
        unknown_level: down from this p-value an answer is `unknown`; None for never.
    """

    calibration: Novelty
    unknown_level: float | None = None

    def p_value(self, score: float) -> float:
        """The p-value of a score, above 0 and at most 1; the smallest for NaN.

        Example:
            >>> rule = NoveltyRule(calibration=Novelty(scores=(0.5, 0.8, 1.0), max_error=0.0, tolerance=1e-4))
            >>> rule.p_value(0.1), rule.p_value(0.9), rule.p_value(7.0)
            (1.0, 0.5, 0.25)
        """
        scores = self.calibration.scores
        larger = len(scores) - bisect_left(scores, score) if score <= scores[-1] else 0
        return (1 + larger) / (1 + len(scores))

    def fault(self, p_value: float) -> WindowFault | None:
        """Judge a p-value."""
        if self.unknown_level is None or p_value > self.unknown_level:
            return None
        reason = f"unlike what training saw: p-value {p_value:.2g}, at most {self.unknown_level:g} is unknown"
        return WindowFault(status="unknown", reason=reason)


def magnitude_fault(
    limits: MagnitudeLimits, values: NDArray[np.float32], present: NDArray[np.float32], *, modality: str
) -> WindowFault | None:
    """Judge the magnitude of one window, (1, T, C) as `prepare` returns it; an empty one has none."""
    size = magnitude(channel_magnitudes(values, present)[0].tolist(), limits.usual)
    if not (size < limits.lowest or size > limits.highest):
        return None
    reason = (
        f"{modality} has {size:.3g} times its usual size in training, expected {limits.lowest:.2g} to "
        f"{limits.highest:.2g} times; check its unit and scale"
    )
    return WindowFault(status="unknown", reason=reason)


def judged_novelty(
    rule: NoveltyRule, scores: Sequence[NDArray[np.float32]], fault: WindowFault | None
) -> tuple[float | None, WindowFault | None]:
    """Return the p-value of a window, and its fault with that; None and the same fault without a score.

    Args:
        scores: the graph's outputs beyond logits and probabilities: (1, 1), or nothing.
    """
    if not scores:
        return None, fault
    p_value = rule.p_value(scores[0].item())
    found = rule.fault(p_value)
    return p_value, fault if found is None else worse(found, fault)


def novelty_text(novelty: Novelty) -> str:
    """What an artifact's novelty supports, in a few words."""
    return f"unknown from a level of {smallest_level(len(novelty.scores)):g} on, by {len(novelty.scores)} windows"


def magnitude_text(limits: MagnitudeLimits) -> str:
    """Limits of the magnitude, in a few words, with how often they were wrong."""
    return (
        f"unknown below {limits.lowest:.2g} and above {limits.highest:.2g} times the usual size, as "
        f"{limits.outside_rate:.1%} of healthy windows of groups that were left out"
    )


def novelty_rule(
    entry: ModelEntry, artifact: Artifact | None, unknown_level: float | None, *, where: str = "", is_bf16: bool = False
) -> NoveltyRule | None:
    """The rule of a student; None if nothing calibrated its novelty and no level is requested.

    Args:
        artifact: None without a bundle.
        where: the bundle, for the error message.
        is_bf16: it computes in bfloat16, for which no scores are known.

    Raises:
        UsageError: a level is requested, and the student has no novelty, or too few windows calibrated it.
    """
    calibration = None if artifact is None or not artifact.novelty or is_bf16 else artifact.novelty
    if unknown_level is None:
        return None if calibration is None else NoveltyRule(calibration=calibration)
    what = named(entry, artifact, where=where)
    if calibration is None:
        why = _why_none(entry, is_bf16=is_bf16 and artifact is not None and bool(artifact.novelty))
        raise UsageError(f"{what}: unknown_level={unknown_level:g}: {why}, or open without unknown_level")
    least = smallest_level(len(calibration.scores))
    if unknown_level < least:
        raise UsageError(
            f"{what}: unknown_level={unknown_level:g}: expected {least:g} or more, because {len(calibration.scores)} "
            "windows calibrated it; choose a higher level, or validate on more windows"
        )
    return NoveltyRule(calibration=calibration, unknown_level=unknown_level)


def _why_none(entry: ModelEntry, *, is_bf16: bool) -> str:
    if is_bf16:
        return "expected the precision that calibrated it, got bf16; open with precision='fp32'"
    if entry.has_novelty:
        return "expected calibrated novelty, got an artifact without; export it with recorded windows (--calib DATA)"
    return "expected a student with novelty, got one that was trained by an earlier version; train and export it again"
