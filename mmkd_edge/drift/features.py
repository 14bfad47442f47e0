"""What of windows is compared with the training: their features, kinds of windows, and how well windows fit them.

Owns what a bundle says of the windows of the training and of the spread between its people or machines. A new person
differs from the training; what counts is whether he differs by more than those of the training differ from each other.
And a device sees other shares of states and activities than the training had: so each window is compared with the kind
of windows that it is most like, and no share counts. Training and runtime measure by the same code. The verdict is in
`drift_watch.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_CORRELATED = 16
"""Up to so many channels their correlations count: they grow with the square."""

MOST_REARRANGED = 6
"""Up to so many channels other orders and signs are tried, and offsets and gains of each; of more those of all."""

ROWS = 64
"""About so many rows of a window are looked at: neighbours say nearly the same, and the cost stays bounded."""

QUIETEST = 0.02
"""Share of a channel's scale in the training below which it counts as silent, and which no logarithm goes below."""

# A feature can say no more than this many spreads, lest one extreme channel makes any exchange look good.
_MOST_SAID = 5.0
# Offsets in standard deviations, and factors, that are tried as explanations; both ways.
_OFFSETS = (0.5, 1.0, 2.0, 4.0, 8.0)
_GAINS = (1.25, 1.5, 2.0, 3.0, 10.0)
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


class MagnitudeLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How large the values of a window usually are; see `magnitude`. Beyond the limits no answer is to be believed.

    Attributes:
        usual: of each channel, the root mean square that nine in ten training windows stay below, in its unit.
        lowest: smallest magnitude of a window that is no surprise.
        highest: largest one.
        outside_rate: share of healthy windows outside of limits that were made without their group, 0 to 1.
    """

    usual: tuple[_Positive, ...]
    lowest: _NotNegative
    highest: _Positive
    outside_rate: _Share


class GroupReference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The windows of the training, and how its groups differ from each other.

    Attributes:
        between: what was compared with each other; blocks of windows where the dataset knows no groups.
        groups: how many there were.
        windows: how many windows of them were looked at.
        fewest_windows: fewer observed windows than this are not judged.
        false_alarm_rate: share of groups never seen that are expected outside of the limits, 0 to 1.
        scales: of each channel, its usual standard deviation inside a window.
        centres: of each kind of windows, the mean of each feature: see `window_features`.
        spreads: of each kind of windows, the standard deviation of each feature.
        largest_misfit: limit of how badly windows may fit the kinds, in nats a window.
        largest_axes: limit of how much better other orders and signs of the channels may fit, in nats a window.
        largest_levels: limit of how much better windows may fit without an offset or a gain, in nats a window.
        tolerance: what the student bears; None where it was not measured.
        magnitude: how large values usually are; unset for video and in files of earlier versions.
    """

    between: Literal["groups", "recordings", "blocks"]
    groups: Annotated[int, msgspec.Meta(ge=2)]
    windows: Annotated[int, msgspec.Meta(ge=2)]
    fewest_windows: Annotated[int, msgspec.Meta(ge=2)]
    false_alarm_rate: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    scales: tuple[_Positive, ...]
    centres: Annotated[tuple[tuple[float, ...], ...], msgspec.Meta(min_length=1, max_length=64)]
    spreads: Annotated[tuple[tuple[_Positive, ...], ...], msgspec.Meta(min_length=1, max_length=64)]
    largest_misfit: float
    largest_axes: _Positive
    largest_levels: _Positive
    tolerance: Tolerance | None = None
    magnitude: MagnitudeLimits | msgspec.UnsetType = msgspec.UNSET


def channel_magnitudes(values: NDArray[np.float32], present: NDArray[np.float32]) -> NDArray[np.float64]:
    """The root mean square (N, C) of each channel of windows; NaN where nothing is there.

    Args:
        values: (N, T, C) as `prepare` gives them, 0 where missing.
        present: (N, T, C), 1 or 0.
    """
    exact = values.astype(np.float64)
    sums, counts = np.einsum("ntc,ntc->nc", exact, exact), present.sum(axis=1)
    found: NDArray[np.float64] = np.sqrt(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
    return found


def magnitude(of_channels: Iterable[float], usual: Iterable[float]) -> float:
    """The magnitude of a window: the root mean square over channels of `channel_magnitudes` / `usual`.

    One number for a sensor: a wrong unit or gain concerns all of its channels, and one axis alone may well be near 0.
    NaN where nothing is there. Of plain numbers: numpy takes longer for a few channels.
    """
    sizes = [one / expected for one, expected in zip(of_channels, usual, strict=True) if one == one]
    return math.sqrt(sum(size * size for size in sizes) / len(sizes)) if sizes else math.nan


def window_features(rows: NDArray[np.float32], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean and the logarithm of the standard deviation of each channel, and Fisher's z of each correlation.

    Args:
        rows: (R, C), some rows of a window.
        there: (R, C), which of their values are there.

    Returns:
        (F,) in this order; NaN where nothing was there.
    """
    counts = there.sum(axis=0)
    known = np.maximum(counts, 1)
    values = np.where(there, rows, 0.0).astype(np.float64)
    means = values.sum(axis=0) / known
    centred = np.where(there, values - means, 0.0)
    std = np.sqrt(np.square(centred).sum(axis=0) / known)
    logs = np.log(np.maximum(std, _SMALLEST_STD))
    if counts.min() == 0:
        means[counts == 0] = logs[counts == 0] = np.nan
    first, second = pairs_of(len(counts))
    if not len(first):
        return np.concatenate([means, logs])
    # Not a matrix product: that may wake the threads of a BLAS.
    products = np.einsum("rc,rd->cd", centred, centred)[first, second]
    complete = counts.min() == len(rows)
    both = known[first] if complete else (there[:, first] & there[:, second]).sum(axis=0)
    scale = np.maximum(std[first] * std[second], _SMALLEST_STD**2)
    # 0.95: identical channels shall not be infinitely far from all others.
    correlations = np.arctanh(0.95 * np.clip(products / np.maximum(both, 1) / scale, -1, 1))
    if not complete:
        correlations[both == 0] = np.nan
    return np.concatenate([means, logs, correlations])


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
    if 3 < channels <= MOST_REARRANGED:
        blocks = [*itertools.combinations(whole, 2), *((one,) for one in whole)]
    if channels % 3 == 0 and channels <= MOST_REARRANGED:
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


def rearranged(
    features: NDArray[np.float64], order: NDArray[np.intp], sign: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N, F): features of windows whose channels come from others, with signs, each (C,)."""
    channels = len(order)
    first, second = pairs_of(channels)
    places = np.zeros((channels, channels), dtype=np.intp)
    places[first, second] = places[second, first] = 2 * channels + np.arange(len(first))
    source = np.concatenate([order, channels + order, places[order[first], order[second]]])
    signs = np.concatenate([sign, np.ones(channels), sign[first] * sign[second]])
    found: NDArray[np.float64] = features[:, source] * signs
    return found


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Offsets and gains that may have come into the windows.

    Attributes:
        offsets: (L, C) in standard deviations of the channels.
        gains: (L, C) logarithms of factors.
    """

    offsets: NDArray[np.float64]
    gains: NDArray[np.float64]


@lru_cache(maxsize=16)
def level_changes(channels: int) -> Changes:
    """The offsets and gains that are tried: of each channel alone, and of all."""
    alone = [*np.eye(channels)] if 1 < channels <= MOST_REARRANGED else []
    patterns = np.array([*alone, np.ones(channels)])
    sizes = [size for one in _OFFSETS for size in (one, -one)]
    factors = [factor for one in np.log(_GAINS) for factor in (one, -one)]
    offsets = np.concatenate([size * patterns for size in sizes])
    gains = np.concatenate([factor * patterns for factor in factors])
    return Changes(
        offsets=np.concatenate([offsets, np.zeros_like(gains)]), gains=np.concatenate([np.zeros_like(offsets), gains])
    )


class KindFit(msgspec.Struct, frozen=True, kw_only=True):
    """How some windows fit the kinds, in nats a window.

    Attributes:
        misfit: how badly; it may be negative.
        axes: (P,) how much better with the channels as each of `rearrangements` has them.
        levels: (L,) how much better without each of `level_changes`.
    """

    misfit: float
    axes: NDArray[np.float64]
    levels: NDArray[np.float64]

    @property
    def scores(self) -> NDArray[np.float64]:
        """(3,): misfit, largest improvement by other axes, largest improvement without an offset or a gain."""
        return np.array([self.misfit, self.axes.max(initial=0.0), self.levels.max(initial=0.0)])


class Kinds(msgspec.Struct, frozen=True, kw_only=True):
    """Kinds of windows: normal distributions of independent features.

    Attributes:
        centres: (K, F).
        spreads: (K, F), above 0.
        scales: (C,) as `GroupReference.scales`.
    """

    centres: NDArray[np.float64]
    spreads: NDArray[np.float64]
    scales: NDArray[np.float64]

    @property
    def deviations(self) -> NDArray[np.float64]:
        """(C,) standard deviation of each channel, inside windows and between the kinds."""
        between = self.centres[:, : len(self.scales)].var(axis=0)
        deviations: NDArray[np.float64] = np.sqrt(np.square(self.scales) + between)
        return deviations

    def measure(self, features: NDArray[np.float64]) -> KindFit:
        """Hold the features (N, F) of windows against the kinds."""
        plain, changes = self.misfit(features), level_changes(len(self.scales))
        orders = zip(*rearrangements(len(self.scales)), strict=True)
        axes = [plain - self.misfit(rearranged(features, order, sign)) for order, sign in orders]
        tried = zip(changes.offsets * self.deviations, changes.gains, strict=True)
        levels = [plain - self.misfit(without(features, offset, gain)) for offset, gain in tried]
        return KindFit(misfit=plain, axes=np.array(axes), levels=np.array(levels))

    def left(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(F,) by how much features differ from the centres of their kinds, on average."""
        features = self._bounded(features)
        differs = features - self.centres[self._fits(features).argmax(axis=1)]
        known = np.isfinite(differs)
        means: NDArray[np.float64] = np.where(known, differs, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        return means

    def misfit(self, features: NDArray[np.float64]) -> float:
        """How badly features (N, F) fit, in nats a window."""
        return -float(self._fits(self._bounded(features)).max(axis=1).mean())

    def _bounded(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        bounded: NDArray[np.float64] = features.copy()
        logs = slice(len(self.scales), 2 * len(self.scales))
        bounded[:, logs] = np.maximum(features[:, logs], np.log(QUIETEST * self.scales))
        return bounded

    def _fits(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, K) logarithms of likelihoods, each feature's bounded."""
        distances = np.nan_to_num((features[:, None] - self.centres) / self.spreads)
        squares = np.minimum(np.square(distances), _MOST_SAID**2).sum(axis=2)
        fits: NDArray[np.float64] = -squares / 2 - np.log(self.spreads).sum(axis=1)
        return fits


def without(
    features: NDArray[np.float64], offset: NDArray[np.float64], gain: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N, F): features of windows without an offset, and then without the gain exp(gain), each (C,)."""
    changed: NDArray[np.float64] = features.copy()
    channels = len(offset)
    changed[:, :channels] = (features[:, :channels] - offset) / np.exp(gain)
    changed[:, channels : 2 * channels] -= gain
    return changed


def kinds_of(reference: GroupReference) -> Kinds:
    """The kinds of windows of a reference, as arrays."""
    return Kinds(
        centres=np.array(reference.centres), spreads=np.array(reference.spreads), scales=np.array(reference.scales)
    )


def reference_fault(reference: GroupReference, channels: int) -> tuple[str, str] | None:
    """What contradicts itself in a reference for so many channels: field and message; None where all fits."""
    features, kinds = 2 * channels + len(pairs_of(channels)[0]), len(reference.centres)
    lists = {"scales": (reference.scales, channels), "spreads": (reference.spreads, kinds)}
    for name in ("centres", "spreads"):
        rows = getattr(reference, name)
        lists |= {f"{name}[{number}]": (row, features) for number, row in enumerate(rows)}
    if reference.tolerance is not None:
        for name in ("offsets", "offsets_together", "gains"):
            lists[f"tolerance.{name}"] = (getattr(reference.tolerance, name), channels)
    if reference.magnitude:
        lists["magnitude.usual"] = (reference.magnitude.usual, channels)
    for name, (numbers, wanted) in lists.items():
        if len(numbers) != wanted:
            return name, f"expected {wanted}, got {len(numbers)}"
    return None
