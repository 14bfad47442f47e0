"""Two models on the same windows: what one is better by, and how sure that is."""

from __future__ import annotations

import msgspec

from mmkd_models.data.split import SplitBy, SplitFacts
from mmkd_models.evaluate.by_group import Judged
from mmkd_models.evaluate.intervals import gain_draws, gain_per_seed, interval_of

FEWEST_GROUPS = 5
"""Below it a bootstrap over groups has so few different draws that its interval is too narrow to mean anything."""

_NOUNS: dict[SplitBy, str] = {"groups": "groups", "own folds": "blocks", "own split": "blocks"}


class PairedGain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model is better by than another.

    Attributes:
        points: ours minus theirs, in the metric's `gain_unit`: percentage points of a share.
        low: lower end of the 95 % interval; None below `FEWEST_GROUPS` groups, or blocks where there are no groups.
        high: upper end.
    """

    points: float
    low: float | None
    high: float | None


def interval_needs(split: SplitFacts) -> str:
    """Gives why there is no interval."""
    return f"an interval needs {FEWEST_GROUPS} {_NOUNS[split.by]} or more"


def paired_gain(ours: Judged, theirs: Judged, metric: str, *, seed: int) -> PairedGain:
    """Gives the gain of our answers over theirs, both for the same windows; the interval is of `gain_draws`."""
    (points,) = gain_per_seed([ours], [theirs], metric)
    if len(ours.by_group) < FEWEST_GROUPS:
        return PairedGain(points=points, low=None, high=None)
    low, high = interval_of(gain_draws([ours], [theirs], metric, seed=seed))
    return PairedGain(points=points, low=low, high=high)
