"""The verdict on a student's last windows: as those of the training, shifted, or drifting, and by what.

Owns the features of the last windows and the explanation of a difference. The limits come from the bundle: see
`drift.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from mmkd_edge.drift.features import (
    QUIETEST,
    GroupReference,
    KindFit,
    Kinds,
    Tolerance,
    kinds_of,
    level_changes,
    pairs_of,
    rearrangements,
    window_features,
    without,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Verdict = Literal["no_reference", "too_few_windows", "as_trained", "shifted", "drifting"]
Cause = Literal["dead", "axes", "offset", "gain", "pattern"]

# Rearrangements whose fit differs by less, in nats a window, are equally likely explanations.
_ALIKE = 0.25


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """What the inputs of one student look like, lately.

    Attributes:
        verdict: `as_trained` inside the spread between the training's groups; `shifted` outside of it, by a size that
            the student was measured to bear; `drifting` outside, and that was not measured or does harm; or why there
            is no verdict yet.
        reason: in words, with names and sizes.
        causes: what explains it best.
        channels: that it concerns.
        windows: how many the verdict rests on, the last ones.
        distance: from 1 on it is outside; None without a verdict.
        false_alarm_rate: share of new people or machines that are outside although nothing is wrong; None without a
            reference.
    """

    verdict: Verdict
    reason: str
    causes: tuple[Cause, ...] = ()
    channels: tuple[str, ...] = ()
    windows: int = 0
    distance: float | None = None
    false_alarm_rate: float | None = None


class DriftWatch:
    """The last windows of one student against its training; holds a few features of each, and no window.

    Args:
        reference: what they are compared with; None gives no verdict.
        names: of the channels.
        unit: of the channels; may be empty.
    """

    def __init__(self, reference: GroupReference | None, *, names: Sequence[str], unit: str) -> None:
        self._reference = reference
        self._names = tuple(names)
        self._unit = f" {unit}" if unit else ""
        self._added = self._judged_at = 0
        self._verdict: Drift | None = None
        most = 2 * reference.fewest_windows if reference else 0
        self._features = np.zeros((most, 2 * len(self._names) + len(pairs_of(len(self._names))[0])))

    def add(self, rows: NDArray[np.float32], there: NDArray[np.bool_]) -> None:
        """Look at a window: some of its rows, and which of their values are there, both (R, C)."""
        if len(self._features):
            self._features[self._added % len(self._features)] = window_features(rows, there)
            self._added += 1

    def due(self) -> NDArray[np.float64] | None:
        """What `last` gives where enough is new for another verdict, else None: one takes some milliseconds."""
        fewest = self._reference.fewest_windows if self._reference else 0
        soon = self._judged_at + (fewest // 10 if self._added > fewest else 1)
        if self._verdict is not None and self._added < soon:
            return None
        self._judged_at = self._added
        return self.last()

    def verdict(self, due: NDArray[np.float64] | None) -> Drift:
        """Judge what `due` gave, which may happen beside `add`; None gives the last verdict again."""
        if due is not None or self._verdict is None:
            self._verdict = self.judge(self.last() if due is None else due)
        return self._verdict

    def last(self) -> NDArray[np.float64]:
        """(N, F) copies of the features of the last windows, in no order."""
        features: NDArray[np.float64] = self._features[: self._added].copy()
        return features

    def judge(self, features: NDArray[np.float64]) -> Drift:
        """Judge the features (N, F) of windows. Reads nothing that `add` changes."""
        reference = self._reference
        if reference is None:
            return Drift(
                verdict="no_reference",
                reason="the bundle says nothing of the spread between people or machines; train and export the "
                "student again, or export the bundle with --drift-reference",
            )
        if len(features) < reference.fewest_windows:
            reason = f"{len(features)} of at least {reference.fewest_windows} windows observed"
            judged = Drift(verdict="too_few_windows", reason=reason)
        else:
            judged = self._judged(features, reference)
        rate = reference.false_alarm_rate
        return msgspec.structs.replace(judged, windows=len(features), false_alarm_rate=rate)

    def _judged(self, features: NDArray[np.float64], reference: GroupReference) -> Drift:
        kinds = kinds_of(reference)
        measured = kinds.measure(features)
        distance = distance_of(measured, reference)
        channels = slice(len(self._names), 2 * len(self._names))
        silent = (features[:, channels] < np.log(QUIETEST * kinds.scales)).mean(axis=0) > 0.5
        if silent.any():
            reason = f"{' and '.join(self._names[c] for c in np.flatnonzero(silent))}: no signal, or next to none"
            explained = self._drifting(("dead",), np.flatnonzero(silent), reason)
        elif distance <= 1:
            reason = f"inside the spread between the training's {reference.groups} {reference.between}"
            explained = Drift(verdict="as_trained", reason=reason)
        else:
            explained = self._explained(features, kinds, measured, reference)
        return msgspec.structs.replace(explained, distance=distance)

    def _explained(
        self, features: NDArray[np.float64], kinds: Kinds, measured: KindFit, reference: GroupReference
    ) -> Drift:
        """What explains best that the windows are outside: what they fit best without."""
        misfit, axes, levels = measured.scores
        excess = axes / reference.largest_axes, levels / reference.largest_levels
        if excess[0] > 1 and axes >= levels:
            return self._axes(_simplest(measured.axes, len(self._names)))
        best, tried = int(measured.levels.argmax()), level_changes(len(self._names))
        offset, gain = tried.offsets[best] * kinds.deviations, tried.gains[best]
        left = kinds.left(without(features, offset, gain))
        # What is tried is coarse: what is left of it belongs to it.
        moved = np.where(offset == 0, 0.0, offset + left[: len(offset)])
        grown = np.where(gain == 0, 0.0, gain + left[len(gain) : 2 * len(gain)])
        rest = min(misfit - levels, kinds.misfit(without(features, moved, grown)))
        if excess[1] <= 1 or rest > reference.largest_misfit:
            reason = "windows unlike any of the training, and no offset, gain or order of the channels explains it"
            return self._drifting(("pattern",), np.arange(len(self._names)), reason)
        drift = self._levels(moved, np.exp(grown), reference.tolerance)
        if excess[0] <= 1:
            return drift
        turned = self._axes(_simplest(measured.axes, len(self._names)))
        return msgspec.structs.replace(drift, verdict="drifting", reason=f"{drift.reason}; or {turned.reason}")

    def _levels(self, moved: NDArray[np.float64], grown: NDArray[np.float64], tolerance: Tolerance | None) -> Drift:
        """An offset or a gain: harmless where the student was measured to bear it."""
        concerned = np.flatnonzero((moved != 0) | (grown != 1))
        cause: Cause = "offset" if moved.any() else "gain"
        said = [
            f"{self._names[c]} {moved[c]:+.2g}{self._unit}" if moved[c] else f"{self._names[c]} times {grown[c]:.2g}"
            for c in concerned
        ]
        text = ", ".join(said)
        if tolerance is None:
            return self._drifting((cause,), concerned, f"{text}; what the student bears was not measured")
        if not _borne(moved, grown, tolerance, alone=len(concerned) == 1):
            return self._drifting((cause,), concerned, f"{text}; more than the student was measured to bear")
        reason = f"{text}; the student was measured to bear this with at most {100 * tolerance.loss:g} points less"
        return msgspec.structs.replace(self._drifting((cause,), concerned, reason), verdict="shifted")

    def _axes(self, number: int) -> Drift:
        orders, signs = (array[number] for array in rearrangements(len(self._names)))
        concerned = np.flatnonzero((orders != np.arange(len(orders))) | (signs < 0))
        fits = [f"{self._names[c]} = {'-' if signs[c] < 0 else ''}{self._names[orders[c]]}" for c in concerned]
        return self._drifting(("axes",), concerned, f"axes look swapped or turned: {', '.join(fits)} would fit")

    def _drifting(self, causes: Sequence[Cause], concerned: NDArray[np.intp], reason: str) -> Drift:
        names = tuple(self._names[c] for c in concerned)
        return Drift(verdict="drifting", causes=tuple(causes), channels=names, reason=reason)


def distance_of(measured: KindFit, reference: GroupReference) -> float:
    """From 1 on some measure is beyond its limit."""
    misfit, axes, levels = measured.scores
    # A misfit has no zero: nats beyond the limit count.
    beyond = 1.0 + (misfit - reference.largest_misfit)
    return float(max(beyond, axes / reference.largest_axes, levels / reference.largest_levels, 0.0))


def _simplest(improvements: NDArray[np.float64], channels: int) -> int:
    """The rearrangement that changes least among those that fit about as well as the best."""
    orders, signs = rearrangements(channels)
    changes = ((orders != np.arange(channels)) | (signs < 0)).sum(axis=1)
    return int(np.where(improvements >= improvements.max() - _ALIKE, changes, channels + 1).argmin())


def _borne(moved: NDArray[np.float64], grown: NDArray[np.float64], tolerance: Tolerance, *, alone: bool) -> bool:
    """Whether no offset and no factor is larger than what the student bears."""
    offsets = np.array(tolerance.offsets if alone else tolerance.offsets_together)
    factors = np.array(tolerance.gains if alone else [tolerance.gain_together] * len(grown))
    return bool((np.abs(moved) <= offsets).all() and (np.abs(np.log(grown)) <= np.log(factors)).all())
