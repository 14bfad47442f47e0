"""The drift verdict on a student's last windows, its cause, and whether to adapt the student.

The change of accuracy is estimated without labels by a difference of confidences (Guillory et al., "Predicting with
Confidence on Unseen Distributions", ICCV 2021): the mean of sum(p^2) over calibrated probabilities p, less the mean p
of the true label in calibration windows. It misses faults that make a student confident; input drift shows those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from mmkd_edge.bundle.statistics import GroupReference, Tolerance
from mmkd_edge.health.features import (
    QUIETEST,
    KindFit,
    Kinds,
    channel_pairs,
    level_changes,
    make_kinds,
    rearrangements,
    window_features,
    without,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Verdict = Literal["no_reference", "too_few_windows", "as_trained", "shifted", "drifting"]
Cause = Literal["dead", "axes", "offset", "gain", "pattern"]

DUE_CHANGE = -0.10
"""Adapting is due below this change of accuracy, just beyond the difference between healthy people."""
# Fits that differ by less, in nats per window, are equally likely.
_ALIKE = 0.25
_MIN_ANSWERS = 200
# Sums are halved here, so that old answers fade.
_MAX_ANSWERS = 2048


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """How one student's recent inputs compare with its training.

    Attributes:
        verdict: `as_trained`, within the differences between training groups; `shifted`, outside but tolerable;
            `drifting`, outside and not known to be tolerable; or why there is none yet.
        distance: above 1 is outside.
        false_alarm_rate: expected fraction of healthy new groups outside.
    """

    verdict: Verdict
    reason: str
    causes: tuple[Cause, ...] = ()
    channels: tuple[str, ...] = ()
    windows: int = 0
    distance: float | None = None
    false_alarm_rate: float | None = None


class DriftWatch:
    """Compares the features of a student's last windows with its training."""

    def __init__(self, reference: GroupReference | None, *, names: Sequence[str], unit: str) -> None:
        self._reference = reference
        self._names = tuple(names)
        self._unit = f" {unit}" if unit else ""
        self._added = self._judged_at = 0
        self._verdict: Drift | None = None
        most = 2 * reference.fewest_windows if reference else 0
        self._features = np.zeros((most, 2 * len(self._names) + len(channel_pairs(len(self._names))[0])))

    def add(self, rows: NDArray[np.float32], there: NDArray[np.bool_]) -> None:
        """Add a window: some rows, and which values are present, both (R, C)."""
        if len(self._features):
            self._features[self._added % len(self._features)] = window_features(rows, there)
            self._added += 1

    def due(self) -> NDArray[np.float64] | None:
        """Return the last features if a new verdict is due, which takes milliseconds; else None."""
        fewest = self._reference.fewest_windows if self._reference else 0
        soon = self._judged_at + (fewest // 10 if self._added > fewest else 1)
        if self._verdict is not None and self._added < soon:
            return None
        self._judged_at = self._added
        return self.last()

    def verdict(self, due: NDArray[np.float64] | None) -> Drift:
        """Judge what `due` returned, even during `add`; None returns the last verdict."""
        if due is not None or self._verdict is None:
            self._verdict = self.judge(self.last() if due is None else due)
        return self._verdict

    def last(self) -> NDArray[np.float64]:
        """Return (N, F) copies of the last windows' features, unordered."""
        features: NDArray[np.float64] = self._features[: self._added].copy()
        return features

    def judge(self, features: NDArray[np.float64]) -> Drift:
        """Judge features (N, F); reads nothing that `add` changes."""
        reference = self._reference
        if reference is None:
            return Drift(
                verdict="no_reference",
                reason="the bundle says nothing of the spread between people or machines; train the student "
                "again, or export its checkpoint with --drift-reference",
            )
        if len(features) < reference.fewest_windows:
            reason = f"{len(features)} of at least {reference.fewest_windows} windows observed"
            drift = Drift(verdict="too_few_windows", reason=reason)
        else:
            drift = self._judge_enough(features, reference)
        return msgspec.structs.replace(drift, windows=len(features), false_alarm_rate=reference.false_alarm_rate)

    def _judge_enough(self, features: NDArray[np.float64], reference: GroupReference) -> Drift:
        kinds = make_kinds(reference)
        fit = kinds.measure(features)
        distance = measure_distance(fit, reference)
        channels = slice(len(self._names), 2 * len(self._names))
        silent = (features[:, channels] < np.log(QUIETEST * kinds.scales)).mean(axis=0) > 0.5
        if silent.any():
            reason = f"{' and '.join(self._names[c] for c in np.flatnonzero(silent))}: no signal, or next to none"
            drift = self._drifting("dead", np.flatnonzero(silent), reason)
        elif distance <= 1:
            reason = f"inside the spread between the training's {reference.groups} {reference.between}"
            drift = Drift(verdict="as_trained", reason=reason)
        else:
            drift = self._explain(features, kinds, fit, reference)
        return msgspec.structs.replace(drift, distance=distance)

    def _explain(self, features: NDArray[np.float64], kinds: Kinds, fit: KindFit, reference: GroupReference) -> Drift:
        misfit, axes, levels = fit.scores
        axes_excess, levels_excess = axes / reference.largest_axes, levels / reference.largest_levels
        if axes_excess > 1 and axes >= levels:
            return self._explain_axes(fit)
        best, (offsets, gains) = int(fit.levels.argmax()), level_changes(len(self._names))
        offset, gain = offsets[best] * kinds.deviations, gains[best]
        remainder = kinds.remainder(without(features, offset, gain))
        # The tried steps are coarse.
        moved = np.where(offset == 0, 0.0, offset + remainder[: len(offset)])
        grown = np.where(gain == 0, 0.0, gain + remainder[len(gain) : 2 * len(gain)])
        rest = min(misfit - levels, kinds.misfit(without(features, moved, grown)))
        if levels_excess <= 1 or rest > reference.largest_misfit:
            reason = "windows unlike any of the training, and no offset, gain or order of the channels explains it"
            return self._drifting("pattern", np.arange(len(self._names)), reason)
        drift = self._explain_levels(moved, np.exp(grown), reference.tolerance)
        if axes_excess <= 1:
            return drift
        turned = self._explain_axes(fit)
        return msgspec.structs.replace(drift, verdict="drifting", reason=f"{drift.reason}; or {turned.reason}")

    def _explain_levels(
        self, moved: NDArray[np.float64], grown: NDArray[np.float64], tolerance: Tolerance | None
    ) -> Drift:
        concerned = np.flatnonzero((moved != 0) | (grown != 1))
        cause: Cause = "offset" if moved.any() else "gain"
        text = ", ".join(
            f"{self._names[c]} {moved[c]:+.2g}{self._unit}" if moved[c] else f"{self._names[c]} times {grown[c]:.2g}"
            for c in concerned
        )
        if tolerance is None:
            return self._drifting(cause, concerned, f"{text}; what the student bears was not measured")
        alone = len(concerned) == 1
        offsets = np.array(tolerance.offsets if alone else tolerance.offsets_together)
        factors = np.array(tolerance.gains if alone else [tolerance.gain_together] * len(grown))
        if not ((np.abs(moved) <= offsets).all() and (np.abs(np.log(grown)) <= np.log(factors)).all()):
            return self._drifting(cause, concerned, f"{text}; more than the student was measured to bear")
        reason = f"{text}; the student was measured to bear this with at most {100 * tolerance.loss:g} points less"
        return msgspec.structs.replace(self._drifting(cause, concerned, reason), verdict="shifted")

    def _explain_axes(self, fit: KindFit) -> Drift:
        channels = len(self._names)
        orders, signs = rearrangements(channels)
        changes = ((orders != np.arange(channels)) | (signs < 0)).sum(axis=1)
        chosen = int(np.where(fit.axes >= fit.axes.max() - _ALIKE, changes, channels + 1).argmin())
        order, sign = orders[chosen], signs[chosen]
        concerned = np.flatnonzero((order != np.arange(channels)) | (sign < 0))
        fits = [f"{self._names[c]} = {'-' if sign[c] < 0 else ''}{self._names[order[c]]}" for c in concerned]
        return self._drifting("axes", concerned, f"axes look swapped or turned: {', '.join(fits)} would fit")

    def _drifting(self, cause: Cause, concerned: NDArray[np.intp], reason: str) -> Drift:
        names = tuple(self._names[c] for c in concerned)
        return Drift(verdict="drifting", causes=(cause,), channels=names, reason=reason)


def measure_distance(fit: KindFit, reference: GroupReference) -> float:
    """Return the largest score relative to its limit; above 1 is beyond."""
    misfit, axes, levels = fit.scores
    # A misfit has no zero.
    beyond = 1.0 + (misfit - reference.largest_misfit)
    return float(max(beyond, axes / reference.largest_axes, levels / reference.largest_levels, 0.0))


class AdaptationAdvice(msgspec.Struct, frozen=True, kw_only=True):
    """Whether to adapt a student, and its estimated change of accuracy (a fraction)."""

    due: bool
    reason: str
    accuracy_change: float | None


class AnswerConfidence:
    """The recent expected probability of the true label, against the calibration windows' `expected`."""

    def __init__(self, expected: float | None) -> None:
        self._expected = expected
        self._sum = self._count = 0.0

    def add(self, probabilities: NDArray[np.float32]) -> None:
        """Count an answer, (K,)."""
        self._sum += float(probabilities @ probabilities)
        self._count += 1
        if self._count >= _MAX_ANSWERS:
            self._sum, self._count = self._sum / 2, self._count / 2

    def change(self) -> float | None:
        """Return the estimated change of accuracy; None with too few answers or no calibration."""
        if self._expected is None or self._count < _MIN_ANSWERS:
            return None
        return self._sum / self._count - self._expected


def advise_adaptation(drift: Drift, change: float | None) -> AdaptationAdvice:
    """Advise to adapt if accuracy fell, or inputs drift without a faulty sensor."""
    due, reason = False, ""
    if drift.verdict == "drifting" and set(drift.causes) & {"dead", "axes"}:
        reason = f"mend the sensor first: {drift.reason}"
    elif drift.verdict == "drifting":
        due, reason = True, f"inputs drift: {drift.reason}"
    elif change is not None and change <= DUE_CHANGE:
        due, reason = True, f"accuracy is estimated {-100 * change:.0f} points below that of the calibration windows"
    return AdaptationAdvice(due=due, reason=reason, accuracy_change=change)
