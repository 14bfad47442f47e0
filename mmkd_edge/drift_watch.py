"""The verdict on a student's last windows: as those of the training, shifted, or drifting, and by what.

Owns the last windows' sums and the explanation of a difference. The limits come from the bundle: see `drift.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from mmkd_edge.drift import Frame, GroupReference, Moments, Tolerance, misfits, pairs_of, rearrangements

if TYPE_CHECKING:
    from numpy.typing import NDArray

Verdict = Literal["no_reference", "too_few_windows", "as_trained", "shifted", "drifting"]
Cause = Literal["dead", "axes", "offset", "gain", "pattern"]

# A channel this much quieter than in the training is dead.
_DEAD_RATIO = 0.02
# What a channel's level, or its scale, may cost when it is explained by an offset or a gain of its own.
_FREED = 2.0
# Rearrangements whose fit differs by less are equally likely explanations.
_ALIKE = 2.0


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
    """The last windows of one student against the groups of its training; holds two blocks of sums and no window.

    Args:
        reference: what they are compared with; None gives no verdict.
        names: of the channels.
        unit: of the channels; may be empty.
    """

    def __init__(self, reference: GroupReference | None, *, names: Sequence[str], unit: str) -> None:
        self._reference = reference
        self._names = tuple(names)
        self._unit = f" {unit}" if unit else ""
        self._earlier, self._current = Moments(len(self._names)), Moments(len(self._names))

    def add(self, rows: NDArray[np.float32], there: NDArray[np.bool_]) -> None:
        """Look at a window: some of its rows, and which of their values are there, both (R, C)."""
        if self._reference is None:
            return
        if self._current.windows >= self._reference.fewest_windows:
            self._earlier, self._current = self._current, Moments(len(self._names))
        self._current.add(rows, there)

    def verdict(self) -> Drift:
        """Judge the last windows."""
        reference = self._reference
        if reference is None:
            return Drift(
                verdict="no_reference",
                reason="the bundle says nothing of the spread between people or machines; train and export the "
                "student again, or export the bundle with --drift-reference",
            )
        found = self._earlier.joined(self._current)
        if found.windows < reference.fewest_windows:
            reason = f"{found.windows} of at least {reference.fewest_windows} windows observed"
            judged = Drift(verdict="too_few_windows", reason=reason)
        else:
            judged = self._judged(found.features(), reference)
        rate = reference.false_alarm_rate
        return msgspec.structs.replace(judged, windows=found.windows, false_alarm_rate=rate)

    def _judged(self, features: NDArray[np.float64], reference: GroupReference) -> Drift:
        frame = Frame(centre=np.array(reference.centre), spread=np.array(reference.spread), channels=len(self._names))
        far, improvement = frame.scores(features)
        distance = max(far / reference.largest_distance, improvement / reference.largest_improvement)
        if distance <= 1:
            reason = f"inside the spread between the training's {reference.groups} {reference.between}"
            return Drift(verdict="as_trained", reason=reason, distance=distance)
        return msgspec.structs.replace(self._explained(features, frame, reference), distance=distance)

    def _explained(self, features: NDArray[np.float64], frame: Frame, reference: GroupReference) -> Drift:
        """What explains best that the features are outside: what leaves the least misfit."""
        channels, limit = len(self._names), reference.largest_distance
        levels, logs, pairs = slice(channels), slice(channels, 2 * channels), slice(2 * channels, None)
        plain = frame.scaled(features)
        dead = np.flatnonzero((features[logs] - frame.centre[logs] < math.log(_DEAD_RATIO)) & (plain[logs] < -limit))
        if len(dead):
            return self._drifting(("dead",), dead, f"{self._listed(dead)}: no signal, or next to none")
        gains = np.where(np.abs(plain[logs]) > _FREED, np.exp(np.nan_to_num(features[logs] - frame.centre[logs])), 1.0)
        moved = _moved(features[levels], frame.centre[levels], gains)
        moved_scaled = moved / frame.spread[levels]
        freed = np.minimum(np.square([moved_scaled, plain[logs]]), _FREED**2).sum() + misfits(plain[pairs])
        orders = misfits(frame.rearranged(features))
        if len(orders) and orders.min() < min(freed, misfits(plain) - reference.largest_improvement):
            return self._axes(_simplest(orders, channels))
        if len(plain[pairs]) and np.abs(plain[pairs]).max() > limit:
            worst = np.abs(plain[pairs]).argmax()
            pair = np.array([one[worst] for one in pairs_of(channels)])
            return self._drifting(("pattern",), pair, f"{self._listed(pair)} no longer move together as they did")
        offsets = np.abs(moved_scaled) > _FREED
        if not offsets.any() and (gains == 1).all():
            # Only together are they outside; the farthest level stands for all.
            offsets = np.arange(channels) == np.abs(moved_scaled).argmax()
        return self._levels(np.where(offsets, moved, 0.0), gains, reference.tolerance)

    def _levels(self, moved: NDArray[np.float64], gains: NDArray[np.float64], tolerance: Tolerance | None) -> Drift:
        """Offsets and gains: harmless where the student was measured to bear them."""
        kinds: tuple[tuple[Cause, bool], ...] = (("offset", bool(moved.any())), ("gain", bool((gains != 1).any())))
        causes = [cause for cause, there in kinds if there]
        concerned = np.flatnonzero((moved != 0) | (gains != 1))
        said = [f"{self._names[c]} {moved[c]:+.2g}{self._unit}" for c in np.flatnonzero(moved)]
        said += [f"{self._names[c]} times {gains[c]:.2g}" for c in np.flatnonzero(gains != 1)]
        text = ", ".join(said)
        if tolerance is None:
            return self._drifting(causes, concerned, f"{text}; what the student bears was not measured")
        if _used(moved, gains, tolerance, concerned) > 1:
            return self._drifting(causes, concerned, f"{text}; more than the student was measured to bear")
        reason = f"{text}; the student was measured to bear this with at most {100 * tolerance.loss:g} points less"
        return msgspec.structs.replace(self._drifting(causes, concerned, reason), verdict="shifted")

    def _axes(self, number: int) -> Drift:
        orders, signs = (array[number] for array in rearrangements(len(self._names)))
        concerned = np.flatnonzero((orders != np.arange(len(orders))) | (signs < 0))
        fits = [f"{self._names[c]} = {'-' if signs[c] < 0 else ''}{self._names[orders[c]]}" for c in concerned]
        return self._drifting(("axes",), concerned, f"axes look swapped or turned: {', '.join(fits)} would fit")

    def _drifting(self, causes: Sequence[Cause], concerned: NDArray[np.intp], reason: str) -> Drift:
        names = tuple(self._names[c] for c in concerned)
        return Drift(verdict="drifting", causes=tuple(causes), channels=names, reason=reason)

    def _listed(self, channels: NDArray[np.intp]) -> str:
        return " and ".join(self._names[c] for c in channels)


def _simplest(orders_misfits: NDArray[np.float64], channels: int) -> int:
    """The rearrangement that changes least among those that fit about as well as the best."""
    orders, signs = rearrangements(channels)
    changes = ((orders != np.arange(channels)) | (signs < 0)).sum(axis=1)
    return int(np.where(orders_misfits <= orders_misfits.min() + _ALIKE, changes, channels + 1).argmin())


def _moved(levels: NDArray[np.float64], centre: NDArray[np.float64], gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """(C,) by what each level differs; without its channel's gain where that brings it nearer."""
    plain, undone = np.nan_to_num(levels - centre), np.nan_to_num(levels / gains - centre)
    return np.where(np.abs(undone) < np.abs(plain), undone, plain)


def _used(
    moved: NDArray[np.float64], gains: NDArray[np.float64], tolerance: Tolerance, concerned: NDArray[np.intp]
) -> float:
    """Share of the tolerance that is used up: of the offsets and of the gains, added."""
    alone = len(concerned) == 1
    offsets = np.array(tolerance.offsets if alone else tolerance.offsets_together)
    factors = np.array(tolerance.gains if alone else [tolerance.gain_together] * len(gains))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.nan_to_num(np.abs(moved) / offsets, posinf=np.inf)
        shares_of_gains = np.nan_to_num(np.abs(np.log(gains)) / np.log(factors), posinf=np.inf)
    return float(shares.max() + shares_of_gains.max())
