"""What of windows is compared with the training: their features, and their distance from the training's groups.

Owns what a bundle says of the spread between the people or machines of the training. A new person differs from the mean
of the training; what counts is whether he differs by more than those of the training differ from each other. Training
and runtime measure by the same code. The verdict is in `drift_watch.py`.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_CORRELATED = 16
"""Up to so many channels their correlations count, and their exchange is looked for: both grow with the square."""

ROWS = 64
"""About so many rows of a window are looked at: neighbours say nearly the same, and the cost stays bounded."""

# A single feature can say no more than this many spreads, lest one extreme channel makes any exchange look good.
_MOST_SAID = 4.0
# A logarithm is not followed further down than this below the centre: e^-4 of the training's scale is silence.
_QUIETEST = 4.0
_SMALLEST_STD = 1e-30

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Factor = Annotated[float, msgspec.Meta(ge=1)]


class ChannelStatistics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the values of one channel are distributed in windows like those of the training.

    Attributes:
        mean: of the values that are there, as the student takes them.
        std: of the same values.
        missing_share: share of the values that are missing, 0 to 1.
        edges: float32 borders between the bins, rising; the deciles, where they differ.
        shares: share of the values in each bin, one more than edges: bin i holds edges[i - 1] <= value < edges[i].
    """

    mean: float
    std: _NotNegative
    missing_share: _Share
    edges: Annotated[tuple[float, ...], msgspec.Meta(max_length=9)]
    shares: Annotated[tuple[_Share, ...], msgspec.Meta(min_length=1, max_length=10)]


class InputStatistics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device compares its inputs and answers with, to see a drift.

    Attributes:
        windows: how many were measured.
        channels: in the modality's order.
        label_shares: share of each label among the checkpoint's answers, in the task's order; of several labels the
            share of windows in which it is on; empty of a regression.
    """

    windows: Annotated[int, msgspec.Meta(ge=1, le=10**15)]
    channels: tuple[ChannelStatistics, ...]
    label_shares: tuple[_Share, ...]


class Tolerance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the student was measured to bear: up to these sizes it lost at most `loss`, in either direction.

    Attributes:
        loss: share of right answers (of equal answers, where there are no labels), 0 to 1.
        windows: that this was measured on.
        offsets: of each channel alone, in its unit.
        offsets_together: of each channel when all are shifted at once, in its unit.
        gains: factor of each channel alone, from 1 on; its inverse is borne too.
        gain_together: factor of all channels at once.
    """

    loss: _NotNegative
    windows: Annotated[int, msgspec.Meta(ge=1)]
    offsets: tuple[_NotNegative, ...]
    offsets_together: tuple[_NotNegative, ...]
    gains: tuple[_Factor, ...]
    gain_together: _Factor


class GroupReference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the groups of the training differ from each other, in the features of `Moments.features`.

    Attributes:
        between: what was held against each other; blocks of windows where the dataset knows no groups.
        groups: how many there were.
        windows: how many windows of them were looked at.
        fewest_windows: fewer observed windows than this are not judged.
        false_alarm_rate: share of groups never seen that are expected outside of the limits, 0 to 1.
        centre: of each feature, the mean of the groups.
        spread: of each feature, between groups.
        largest_distance: limit of the largest distance of a feature from its centre, in spreads.
        largest_improvement: limit of how much better another order or sign of the channels may fit.
        tolerance: what the student bears; None where it was not measured.
    """

    between: Literal["groups", "recordings", "blocks"]
    groups: Annotated[int, msgspec.Meta(ge=2)]
    windows: Annotated[int, msgspec.Meta(ge=2)]
    fewest_windows: Annotated[int, msgspec.Meta(ge=2)]
    false_alarm_rate: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    centre: tuple[float, ...]
    spread: tuple[_Positive, ...]
    largest_distance: _Positive
    largest_improvement: _Positive
    tolerance: Tolerance | None = None


class Moments:
    """Running sums over windows: bounded, and aware of missing values.

    Attributes:
        windows: how many were added.
    """

    def __init__(self, channels: int) -> None:
        self.windows = 0
        pairs = channels if channels <= MOST_CORRELATED else 0
        self._levels = np.zeros((3, channels))  # rows: windows with values, sum of their means, of their variances
        self._products = np.zeros((2, pairs, pairs))  # windows with values in both channels, sum of their covariances

    def add(self, rows: NDArray[np.float32], there: NDArray[np.bool_]) -> None:
        """Add a window: some of its rows, and which of their values are there, both (R, C)."""
        counts = there.sum(axis=0)
        known = np.maximum(counts, 1)
        values = np.where(there, rows, 0.0).astype(np.float64)
        means = values.sum(axis=0) / known
        centred = np.where(there, values - means, 0.0)
        self._levels[0] += counts > 0
        self._levels[1] += means
        self._levels[2] += np.square(centred).sum(axis=0) / known
        if self._products.size:
            both = np.einsum("rc,rd->cd", there, there, dtype=np.float64)
            self._products[0] += both > 0
            # Not a matrix product: that may wake the threads of a BLAS.
            self._products[1] += np.einsum("rc,rd->cd", centred, centred) / np.maximum(both, 1)
        self.windows += 1

    def joined(self, other: Moments) -> Moments:
        """The sums of both."""
        both = Moments(self._levels.shape[1])
        both.windows = self.windows + other.windows
        both._levels = self._levels + other._levels
        both._products = self._products + other._products
        return both

    def features(self) -> NDArray[np.float64]:
        """The mean, the logarithm of the spread and Fisher's z of the correlations of the channels.

        Spread and correlation are those inside a window: they do not depend on which windows came.

        Returns:
            (F,); NaN where nothing was there.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            count, means, variances = self._levels
            std = np.sqrt(np.where(count > 0, variances / count, np.nan))
            first, second = pairs_of(len(count))
            levels = [np.where(count > 0, means / count, np.nan), np.log(np.maximum(std, _SMALLEST_STD))]
            if len(first):
                covariance = self._products[1] / self._products[0]
                correlation = covariance[first, second] / (std[first] * std[second])
                # 0.98: identical channels shall not be infinitely far from all others.
                levels.append(np.arctanh(0.98 * np.clip(correlation, -1, 1)))
        return np.concatenate(levels)


@lru_cache(maxsize=16)
def pairs_of(channels: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The pairs of channels whose correlation is a feature: first and second channel of each."""
    first, second = np.triu_indices(channels if channels <= MOST_CORRELATED else 0, 1)
    return first, second


@lru_cache(maxsize=16)
def rearrangements(channels: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """What may have happened to the axes: (P, C) where each channel comes from, and (P, C) its sign; not the identity.

    All orders and signs of up to three channels; of more every exchange of two, every sign, and all orders and signs of
    the first three channels, the second three, and so on, where they come in threes.
    """
    whole, found = tuple(range(channels)), set[tuple[tuple[int, ...], tuple[int, ...]]]()
    blocks = [whole] if channels <= 3 else []
    if 3 < channels <= MOST_CORRELATED:
        blocks = [*itertools.combinations(whole, 2), *((one,) for one in whole)]
    if channels % 3 == 0 and channels <= MOST_CORRELATED:
        blocks += [whole[start : start + 3] for start in range(0, channels, 3)]
    for block in blocks:
        for order in itertools.permutations(block):
            for signs in itertools.product((1, -1), repeat=len(block)):
                if len(block) == 2 < channels and min(signs) < 0:
                    continue
                sources, turned = list(whole), [1] * channels
                for place, source, sign in zip(block, order, signs, strict=True):
                    sources[place], turned[place] = source, sign
                found.add((tuple(sources), tuple(turned)))
    found.discard((whole, (1,) * channels))
    ordered = sorted(found)
    shape = (len(ordered), channels)
    orders = np.array([one for one, _ in ordered], dtype=np.intp).reshape(shape)
    return orders, np.array([sign for _, sign in ordered], dtype=np.float64).reshape(shape)


def rearranged(features: NDArray[np.float64], channels: int) -> NDArray[np.float64]:
    """(P, F): the features with the channels as each of `rearrangements` has them."""
    orders, signs = rearrangements(channels)
    first, second = pairs_of(channels)
    square = np.zeros((channels, channels))
    square[first, second] = square[second, first] = features[2 * channels :]
    pairs = square[orders[:, first], orders[:, second]] * signs[:, first] * signs[:, second]
    return np.concatenate(
        [features[:channels][orders] * signs, features[channels : 2 * channels][orders], pairs], axis=1
    )


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What features are measured by.

    Attributes:
        centre: (F,) of each feature.
        spread: (F,) of each feature, between groups; all above 0.
        channels: how many there are.
    """

    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    channels: int

    def scaled(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., F): distances from the centre in spreads; 0 where nothing was there."""
        bounded = features.copy()
        logs = slice(self.channels, 2 * self.channels)
        bounded[..., logs] = np.maximum(features[..., logs], self.centre[logs] - _QUIETEST)
        distances: NDArray[np.float64] = np.nan_to_num((bounded - self.centre) / self.spread)
        return distances

    def rearranged(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(P, F): the same with the channels as each of `rearrangements` has them."""
        return self.scaled(rearranged(features, self.channels))

    def scores(self, features: NDArray[np.float64]) -> tuple[float, float]:
        """How far features are from the centre, at most, and how much better other axes fit; both from 0 on."""
        plain = self.scaled(features)
        others = misfits(self.rearranged(features))
        improvement = float(misfits(plain) - others.min()) if len(others) else 0.0
        return float(np.abs(plain).max()), max(improvement, 0.0)


def misfits(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """(...,) how badly features fit: the squares of their distances (..., F), each bounded, summed."""
    said: NDArray[np.float64] = np.minimum(np.square(distances), _MOST_SAID**2).sum(axis=-1)
    return said


def reference_fault(reference: GroupReference, channels: int) -> tuple[str, str] | None:
    """What contradicts itself in a reference for so many channels: field and message; None where all fits."""
    features = 2 * channels + len(pairs_of(channels)[0])
    for name in ("centre", "spread"):
        got = len(getattr(reference, name))
        if got != features:
            return name, f"expected one number per feature, {features}, got {got}"
    for name in ("offsets", "offsets_together", "gains") if reference.tolerance else ():
        got = len(getattr(reference.tolerance, name))
        if got != channels:
            return f"tolerance.{name}", f"expected one number per channel, {channels}, got {got}"
    return None
