"""Novelty: how unlike everything that training saw a window is, and from when on nobody should believe the answer.

Two things tell. A wrong unit or gain changes the magnitude of a window's values: it is looked at wherever the bundle
has limits for it. And a graph with the output `novelty` gives a distance of the window's embedding from what training
saw. What a distance means is told by the distances of n validation windows: of those let r be as large as the window's
or larger, and its p-value is (1 + r) / (n + 1), the conformal p-value (Vovk, Gammerman and Shafer, "Algorithmic
Learning in a Random World", 2005, ch. 2; S. Bates, E. Candes, L. Lei, Y. Romano, M. Sesia, "Testing for Outliers with
Conformal p-Values", Annals of Statistics 51, 2023, equation 2). Where a window is exchangeable with the validation
windows, its p-value is at most `unknown_level` with a probability of at most that. Another person, machine or place is
not exchangeable with them.

Owns the rules. What both were at export is in the manifest; nothing in here runs an engine.
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
    """What an opened student makes of its novelty scores.

    Attributes:
        calibration: of its artifact.
        unknown_level: from this p-value down an answer is `unknown`; None for never.
    """

    calibration: Novelty
    unknown_level: float | None = None

    def p_value(self, score: float) -> float:
        """The p-value of a score, above 0 and at most 1; of one that is no number the smallest.

        Example:
            >>> rule = NoveltyRule(calibration=Novelty(scores=(0.5, 0.8, 1.0), max_error=0.0, tolerance=1e-4))
            >>> rule.p_value(0.1), rule.p_value(0.9), rule.p_value(7.0)
            (1.0, 0.5, 0.25)
        """
        scores = self.calibration.scores
        larger = len(scores) - bisect_left(scores, score) if score <= scores[-1] else 0
        return (1 + larger) / (1 + len(scores))

    def fault(self, p_value: float) -> WindowFault | None:
        """What a p-value says against a window."""
        if self.unknown_level is None or p_value > self.unknown_level:
            return None
        reason = f"unlike what training saw: p-value {p_value:.2g}, at most {self.unknown_level:g} is unknown"
        return WindowFault(status="unknown", reason=reason)


def magnitude_fault(
    limits: MagnitudeLimits, values: NDArray[np.float32], present: NDArray[np.float32], *, modality: str
) -> WindowFault | None:
    """What the magnitude of one window, (1, T, C) as `prepare` gives it, says against it; nothing of an empty one."""
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
    """The p-value of a window, and what is known against it with that; None and the same without a score.

    Args:
        rule: of the student.
        scores: what its graph gave beyond logits and probabilities: (1, 1), or nothing.
        fault: what was known before.
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
    """What limits of the magnitude say, in a few words, with how often they were wrong."""
    return (
        f"unknown below {limits.lowest:.2g} and above {limits.highest:.2g} times the usual size, as "
        f"{limits.outside_rate:.1%} of healthy windows of groups that were left out"
    )


def novelty_rule(
    entry: ModelEntry,
    artifact: Artifact | None,
    unknown_level: float | None,
    *,
    where: str = "",
    is_bf16: bool = False,
) -> NoveltyRule | None:
    """The rule of a student; None where nothing calibrated its novelty and no level is asked for.

    Args:
        entry: the student.
        artifact: what executes it; None without a bundle.
        unknown_level: that was asked for.
        where: the bundle, for the error message.
        is_bf16: whether it computes in bfloat16: of such scores the artifact has none to compare with.

    Raises:
        UsageError: a level is asked for, and the student has no novelty, or too few windows calibrated it.
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
