"""The drift verdict on a student's last windows, and its likely cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from mmkd_edge.bundle.statistics import GroupReference
from mmkd_edge.health.features import (
    QUIETEST,
    KindFit,
    Kinds,
    channel_pairs,
    level_changes,
    rearrangements,
    window_features,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Verdict = Literal["no_reference", "too_few_windows", "as_trained", "drifting"]
Cause = Literal["", "dead", "axes", "offset", "gain", "pattern"]

# Fits that differ by less, in nats per window, are equally likely.
_ALIKE = 0.25


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """How one student's recent inputs compare with its training.

    Attributes:
        verdict: `as_trained`, within the differences between training groups; `drifting`, outside; or why there is
            none yet.
        distance: above 1 is outside.
        false_alarm_rate: expected fraction of healthy new groups outside.
    """

    verdict: Verdict
    reason: str
    cause: Cause = ""
    channels: tuple[str, ...] = ()
    windows: int = 0
    distance: float | None = None
    false_alarm_rate: float | None = None

    @property
    def adaptation_reason(self) -> str:
        """Why the student should be adapted: inputs drift without a faulty sensor. Else empty."""
        is_due = self.verdict == "drifting" and self.cause not in ("dead", "axes")
        return f"inputs drift: {self.reason}" if is_due else ""


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
        """Return copies (N, F) of the last features if a new verdict is due, which takes milliseconds; else None."""
        fewest = self._reference.fewest_windows if self._reference else 0
        soon = self._judged_at + (fewest // 10 if self._added > fewest else 1)
        if self._verdict is not None and self._added < soon:
            return None
        self._judged_at = self._added
        features: NDArray[np.float64] = self._features[: self._added].copy()
        return features

    def verdict(self, due: NDArray[np.float64] | None) -> Drift:
        """Judge what `due` returned, even during `add`; None returns the last verdict."""
        if due is not None or self._verdict is None:
            self._verdict = self.judge(self._features[: self._added] if due is None else due)
        return self._verdict

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
        kinds = Kinds(
            centres=np.array(reference.centres), spreads=np.array(reference.spreads), scales=np.array(reference.scales)
        )
        fit, channels = kinds.measure(features), len(self._names)
        misfit, axes, levels = fit.scores.tolist()
        axes_excess, levels_excess = axes / reference.largest_axes, levels / reference.largest_levels
        distance = max(1.0 + (misfit - reference.largest_misfit), axes_excess, levels_excess, 0.0)
        silent = (features[:, channels : 2 * channels] < np.log(QUIETEST * kinds.scales)).mean(axis=0) > 0.5
        cause: Cause = "pattern"
        concerned = np.arange(channels)
        reason = "windows unlike any of the training, and no offset, gain or order of the channels explains it"
        if silent.any():
            cause, concerned = "dead", np.flatnonzero(silent)
            reason = f"{' and '.join(self._names[c] for c in concerned)}: no signal, or next to none"
        elif distance <= 1:
            reason = f"inside the spread between the training's {reference.groups} {reference.between}"
            return Drift(verdict="as_trained", reason=reason, distance=distance)
        elif axes_excess > 1 and axes >= levels:
            cause, (concerned, reason) = "axes", self._explain_axes(fit)
        elif levels_excess > 1:
            best, (offsets, gains) = int(fit.levels.argmax()), level_changes(channels)
            moved, factors = offsets[best] * kinds.deviations, np.exp(gains[best])
            cause = "offset" if moved.any() else "gain"
            concerned = np.flatnonzero((moved != 0) | (factors != 1))
            changes = (f"{moved[c]:+.2g}{self._unit}" if moved[c] else f"times {factors[c]:.2g}" for c in concerned)
            texts = [f"{self._names[c]} {change}" for c, change in zip(concerned, changes, strict=True)]
            reason = f"about {', '.join(texts)}"
        names = tuple(self._names[c] for c in concerned)
        return Drift(verdict="drifting", cause=cause, channels=names, reason=reason, distance=distance)

    def _explain_axes(self, fit: KindFit) -> tuple[NDArray[np.intp], str]:
        channels = len(self._names)
        orders, signs = rearrangements(channels)
        changes = ((orders != np.arange(channels)) | (signs < 0)).sum(axis=1)
        chosen = int(np.where(fit.axes >= fit.axes.max() - _ALIKE, changes, channels + 1).argmin())
        order, sign = orders[chosen], signs[chosen]
        concerned = np.flatnonzero((order != np.arange(channels)) | (sign < 0))
        fits = [f"{self._names[c]} = {'-' if sign[c] < 0 else ''}{self._names[order[c]]}" for c in concerned]
        return concerned, f"axes look swapped or turned: {', '.join(fits)} would fit"
