"""How the groups of a training differ from each other: what a device later holds its inputs against.

Owns the limits: a group never seen shall be outside of them with a stated probability. They are the larger of two. One
is distribution-free: every group in turn is held against the others, and of G groups the largest such score is exceeded
by one more group with probability 1 / (G + 1) (Vovk et al., Algorithmic Learning in a Random World, 2005, ch. 2; here
with one group left out at a time, so approximately). The other supposes that groups are normally distributed: where
they are few, it is the wider one. Spreads of single features from a few groups are shrunk towards the mean of their
kind (Smyth, Stat. Appl. Genet. Mol. Biol. 3, 2004, eq. 3, with a prior of fixed weight).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.drift import ROWS, Frame, GroupReference, Moments
from mmkd_edge.preprocess import prepare_batch
from mmkd_models.data.sources import CutWindows
from mmkd_models.data.windows import Windows

FALSE_ALARM_RATE = 0.05
"""Aimed at, for one new group; fewer than 19 groups cannot show it, and the rate is then 1 / (G + 1)."""

FEWEST_GROUPS = 5
MOST_GROUPS = 256
MOST_WINDOWS_OF_GROUP = 256
FEWEST_WINDOWS_OF_GROUP = 5
FEWEST_WINDOWS = 100
"""A device's verdict rests on at least so many windows, so that what differs is the person and not the moment."""

_BLOCKS = 10
_PRIOR_GROUPS = 4.0
_DRAWS = 200
_SEED = 20211116
# One group whose channel was dead shall not make the device blind for it.
_MOST_LOG = 3.0
# What no group has is never outside.
_BOUNDLESS = 1e30


def group_reference(train: Windows, valid: Windows, modality: str) -> GroupReference | None:
    """Measures the spread between the groups of the training and of the validation.

    Where there are no groups, or too few with enough windows, ten blocks of neighbouring windows take their place: they
    tell how moments differ and nothing about people or machines.

    Args:
        train: windows that were learned from.
        valid: windows that were chosen by.
        modality: the student's.

    Returns:
        None where there are fewer windows than ten blocks need.
    """
    groups = [part.subset(rows) for part in (train, valid) for rows in _rows_of_groups(part)]
    between: Literal["groups", "recordings", "blocks"] = "recordings" if _are_recordings(train) else "groups"
    if len(groups) < FEWEST_GROUPS:
        between, both = "blocks", (train, valid)
        if len(train) + len(valid) < _BLOCKS * FEWEST_WINDOWS_OF_GROUP:
            return None
        parts = [max(1, round(_BLOCKS * len(part) / (len(train) + len(valid)))) for part in both]
        groups = [
            part.subset(rows)
            for part, count in zip(both, parts, strict=True)
            for rows in np.array_split(np.arange(len(part)), count)
            if len(rows)
        ]
    kept = [groups[number] for number in _spaced(len(groups), MOST_GROUPS)]
    measured = [_moments(group, modality) for group in kept]
    channels = len(train.spec.modality(modality).channels)
    return fit_reference(measured, channels=channels, between=between)


def fit_reference(
    measured: list[Moments], *, channels: int, between: Literal["groups", "recordings", "blocks"]
) -> GroupReference:
    """Centre, spread and limits from the sums of each group."""
    features = np.array([one.features() for one in measured])  # (G, F)
    kinds = _kinds(features, channels)
    frame = _fitted(features, kinds)
    wider, far, improvement = _limits(features, kinds)
    return GroupReference(
        between=between,
        groups=len(features),
        windows=sum(one.windows for one in measured),
        fewest_windows=FEWEST_WINDOWS,
        false_alarm_rate=max(FALSE_ALARM_RATE, 1 / (len(features) + 1)),
        centre=tuple(frame.centre.tolist()),
        spread=tuple((frame.spread * wider).tolist()),
        largest_distance=far,
        largest_improvement=improvement,
    )


def _rows_of_groups(windows: Windows) -> Iterator[NDArray[np.intp]]:
    for group in np.unique(windows.groups):
        rows = np.flatnonzero(windows.groups == group)
        if len(rows) >= FEWEST_WINDOWS_OF_GROUP:
            yield rows


def _are_recordings(windows: Windows) -> bool:
    source = windows.source
    return isinstance(source, CutWindows) and bool((source.recording[windows.rows] == windows.groups).all())


def _spaced(count: int, most: int) -> list[int]:
    return sorted({int(number) for number in np.linspace(0, count - 1, min(count, most))})


def _moments(windows: Windows, modality: str) -> Moments:
    spec = windows.spec.modality(modality)
    step, found = max(1, spec.samples // ROWS), Moments(len(spec.channels))
    rows = _spaced(len(windows), MOST_WINDOWS_OF_GROUP)
    for start in range(0, len(rows), 32):  # a few at a time: a window may be long
        values, present = prepare_batch(windows.take(rows[start : start + 32])[modality], spec)
        for one, there in zip(values[:, ::step], present[:, ::step] > 0, strict=True):
            found.add(one, there)
    return found


def _kinds(features: NDArray[np.float64], channels: int) -> NDArray[np.intp]:
    """(F,) what a feature is: 0 a level, 1 a scale, 2 a correlation."""
    kinds: NDArray[np.intp] = np.minimum(np.arange(features.shape[1]) // channels, 2)
    return kinds


def _fitted(features: NDArray[np.float64], kinds: NDArray[np.intp]) -> Frame:
    """Mean and shrunk standard deviation between groups; NaN in a group is left out."""
    features = _without_extremes(features, kinds == 1)
    known = np.isfinite(features)
    counts = known.sum(axis=0)
    centre = np.where(known, features, 0.0).sum(axis=0) / np.maximum(counts, 1)
    squares = np.square(np.where(known, features - centre, 0.0)).sum(axis=0)
    # Levels have units: they are compared in the scales of their channels.
    unit = np.where(kinds == 0, np.exp(np.resize(centre[kinds == 1], len(centre))), 1.0)
    relative = squares / np.maximum(counts - 1, 1) / np.square(unit)
    pooled = np.zeros(len(centre))
    for kind in range(3):
        of_kind = (kinds == kind) & (counts > 1)
        if of_kind.any():
            pooled[kinds == kind] = relative[of_kind].mean()
    shrunk = (_PRIOR_GROUPS * pooled * np.square(unit) + squares) / (_PRIOR_GROUPS + np.maximum(counts - 1, 0))
    spread = np.maximum(np.sqrt(shrunk), 1e-3 * unit)
    boundless = np.where(counts > 1, spread, _BOUNDLESS)
    return Frame(centre=centre, spread=boundless, channels=int((kinds == 1).sum()))


def _without_extremes(features: NDArray[np.float64], scales: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The logarithms of the scales within a factor of their median."""
    logs = features[:, scales]
    middle = np.array([np.median(one[np.isfinite(one)]) if np.isfinite(one).any() else 0.0 for one in logs.T])
    kept: NDArray[np.float64] = features.copy()
    kept[:, scales] = np.clip(logs, middle - _MOST_LOG, middle + _MOST_LOG)
    return kept


def _limits(features: NDArray[np.float64], kinds: NDArray[np.intp]) -> tuple[NDArray[np.float64], float, float]:
    """(F,) by what each spread is widened, and the limits of distance and improvement."""
    normal = _normal_limits(features, kinds)
    frames = [_fitted(np.delete(features, number, axis=0), kinds) for number in range(len(features))]
    far = np.abs([frame.scaled(one) for frame, one in zip(frames, features, strict=True)])  # (G, F)
    # A feature by which many groups are far from the others is no normal one: it counts less, not all features.
    but_few = np.sort(far, axis=0)[-1 - max(1, round(FALSE_ALARM_RATE * len(far)))]
    wider = np.maximum(1.0, but_few / normal[0])
    frames = [msgspec.structs.replace(frame, spread=frame.spread * wider) for frame in frames]
    found = [frame.scores(one) for frame, one in zip(frames, features, strict=True)]
    # Both limits are widened by one factor, so that together they hold the rate.
    ratios = np.sort((np.array(found) / normal).max(axis=1))
    place = min(len(ratios), int(np.ceil((len(ratios) + 1) * (1 - FALSE_ALARM_RATE))))
    distance, improvement = (max(1.0, float(ratios[place - 1])) * normal).tolist()
    return wider, distance, improvement


def _normal_limits(features: NDArray[np.float64], kinds: NDArray[np.intp]) -> NDArray[np.float64]:
    """(2,) limits that a normally distributed new group passes in half of the rate each, beside as many groups."""
    rng, frame = np.random.default_rng(_SEED), _fitted(features, kinds)
    scale = np.where(frame.spread < _BOUNDLESS, frame.spread, 0.0)
    found = []
    for _ in range(_DRAWS):
        drawn = frame.centre + scale * rng.standard_normal((min(len(features), 64) + 1, len(scale)))
        found.append(_fitted(drawn[1:], kinds).scores(drawn[0]))
    limits: NDArray[np.float64] = np.maximum(np.quantile(found, 1 - FALSE_ALARM_RATE / 2, axis=0), 1.0)
    return limits
