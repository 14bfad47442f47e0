"""The drift verdict on a student's last windows, and its likely cause.

A device sees other fractions of activities than the training, so the features of each window are compared with the best
fitting kind of training windows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from mmkd_edge.bundle.statistics import MAX_CORRELATED, GroupReference

if TYPE_CHECKING:
    from numpy.typing import NDArray

Verdict = Literal["no_reference", "too_few_windows", "as_trained", "drifting"]
Cause = Literal["", "dead", "axes", "offset", "gain", "pattern"]

MAX_REARRANGED = 6
"""Up to this many channels, orders, signs and levels of each are tried; beyond, levels of all."""

ROWS = 64
"""Rows of a window that are measured, about: neighbours are nearly the same."""

QUIETEST = 0.02
"""Fraction of a channel's scale below which it is silent."""

# Bound of a feature, so that one extreme channel does not make any exchange look good.
_MAX_SPREADS = 5.0
# Offsets, in standard deviations, and factors to try in both directions.
_OFFSETS = (0.5, 1.0, 2.0, 4.0, 8.0)
_GAINS = (1.25, 1.5, 2.0, 3.0, 10.0)
_MIN_STD = 1e-30
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
        return np.asarray(self._features[: self._added].copy())

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


def window_features(rows: NDArray[np.float32], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return (F,) means, log standard deviations and Fisher's z of the correlations; NaN without values.

    `rows` are some rows (R, C) of a window, `there` (R, C) which values are present.
    """
    counts = there.sum(axis=0)
    divisors = np.maximum(counts, 1)
    values = np.where(there, rows, 0.0).astype(np.float64)
    means = values.sum(axis=0) / divisors
    centred = np.where(there, values - means, 0.0)
    std = np.sqrt(np.square(centred).sum(axis=0) / divisors)
    logs = np.log(np.maximum(std, _MIN_STD))
    if counts.min() == 0:
        means[counts == 0] = logs[counts == 0] = np.nan
    first, second = channel_pairs(len(counts))
    if not len(first):
        return np.concatenate([means, logs])
    # A matrix product may wake the threads of a BLAS.
    products = np.einsum("rc,rd->cd", centred, centred)[first, second]
    complete = counts.min() == len(rows)
    both = divisors[first] if complete else (there[:, first] & there[:, second]).sum(axis=0)
    scale = np.maximum(std[first] * std[second], _MIN_STD**2)
    # 0.95 keeps identical channels finite.
    correlations = np.arctanh(0.95 * np.clip(products / np.maximum(both, 1) / scale, -1, 1))
    if not complete:
        correlations[both == 0] = np.nan
    return np.concatenate([means, logs, correlations])


@lru_cache(maxsize=16)
def channel_pairs(channels: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return first and second channels of the correlation features."""
    first, second = np.triu_indices(channels if channels <= MAX_CORRELATED else 0, 1)
    return first, second


@lru_cache(maxsize=16)
def rearrangements(channels: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return other orders (P, C) and signs (P, C) of the channels.

    All of up to three channels; of more every exchange of two, every sign, and all orders and signs of each three.
    """
    whole, results = tuple(range(channels)), set[tuple[tuple[int, ...], tuple[int, ...]]]()
    blocks = [whole] if channels <= 3 else []
    if 3 < channels <= MAX_REARRANGED:
        blocks = [*itertools.combinations(whole, 2), *((channel,) for channel in whole)]
    if channels % 3 == 0 and channels <= MAX_REARRANGED:
        blocks += [whole[start : start + 3] for start in range(0, channels, 3)]
    for block in blocks:
        for order, signs in itertools.product(
            itertools.permutations(block), itertools.product((1, -1), repeat=len(block))
        ):
            if len(block) == 2 < channels and min(signs) < 0:
                continue
            sources, turned = list(whole), [1] * channels
            for place, source, sign in zip(block, order, signs, strict=True):
                sources[place], turned[place] = source, sign
            results.add((tuple(sources), tuple(turned)))
    results.discard((whole, (1,) * channels))
    ordered = sorted(results)
    shape = (len(ordered), channels)
    orders = np.array([order for order, _ in ordered], dtype=np.intp).reshape(shape)
    return orders, np.array([sign for _, sign in ordered], dtype=np.float64).reshape(shape)


def rearrange(features: NDArray[np.float64], order: NDArray[np.intp], sign: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return features (N, F) of windows with another order and other signs of the channels, (C,) each."""
    channels = len(order)
    first, second = channel_pairs(channels)
    places = np.zeros((channels, channels), dtype=np.intp)
    places[first, second] = places[second, first] = 2 * channels + np.arange(len(first))
    source = np.concatenate([order, channels + order, places[order[first], order[second]]])
    signs = np.concatenate([sign, np.ones(channels), sign[first] * sign[second]])
    return np.asarray(features[:, source] * signs)


@lru_cache(maxsize=16)
def level_changes(channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the offsets (L, C), in standard deviations, and log gains (L, C) to try: of each channel, and of all."""
    alone = [*np.eye(channels)] if 1 < channels <= MAX_REARRANGED else []
    patterns = np.array([*alone, np.ones(channels)])
    sizes = [size for offset in _OFFSETS for size in (offset, -offset)]
    factors = [factor for gain in np.log(_GAINS) for factor in (gain, -gain)]
    offsets = np.concatenate([size * patterns for size in sizes])
    gains = np.concatenate([factor * patterns for factor in factors])
    return np.concatenate([offsets, np.zeros_like(gains)]), np.concatenate([np.zeros_like(offsets), gains])


def without(
    features: NDArray[np.float64], offset: NDArray[np.float64], gain: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return features (N, F) without an offset, and then without the gain exp(gain), (C,) each."""
    changed: NDArray[np.float64] = features.copy()
    channels = len(offset)
    changed[:, :channels] = (features[:, :channels] - offset) / np.exp(gain)
    changed[:, channels : 2 * channels] -= gain
    return changed


class KindFit(msgspec.Struct, frozen=True, kw_only=True):
    """How windows fit the kinds, and improve by `rearrangements` (P,) and `level_changes` (L,), in nats per window."""

    misfit: float
    axes: NDArray[np.float64]
    levels: NDArray[np.float64]

    @property
    def scores(self) -> NDArray[np.float64]:
        """(3,): misfit, largest improvement by other axes, largest improvement without an offset or a gain."""
        return np.array([self.misfit, self.axes.max(initial=0.0), self.levels.max(initial=0.0)])


class Kinds(msgspec.Struct, frozen=True, kw_only=True):
    """Kinds of windows: normal distributions of independent features, (K, F) each; `scales` (C,)."""

    centres: NDArray[np.float64]
    spreads: NDArray[np.float64]
    scales: NDArray[np.float64]

    @property
    def deviations(self) -> NDArray[np.float64]:
        """(C,) standard deviation of each channel, inside windows and between kinds."""
        between = self.centres[:, : len(self.scales)].var(axis=0)
        return np.asarray(np.sqrt(np.square(self.scales) + between))

    def measure(self, features: NDArray[np.float64]) -> KindFit:
        """Compare the features (N, F) of windows with the kinds."""
        plain, (offsets, gains) = self.misfit(features), level_changes(len(self.scales))
        orders = zip(*rearrangements(len(self.scales)), strict=True)
        axes = [plain - self.misfit(rearrange(features, order, sign)) for order, sign in orders]
        changes = zip(offsets * self.deviations, gains, strict=True)
        levels = [plain - self.misfit(without(features, offset, gain)) for offset, gain in changes]
        return KindFit(misfit=plain, axes=np.array(axes), levels=np.array(levels))

    def misfit(self, features: NDArray[np.float64]) -> float:
        """Return how badly features (N, F) fit, in nats per window."""
        bounded: NDArray[np.float64] = features.copy()
        logs = slice(len(self.scales), 2 * len(self.scales))
        bounded[:, logs] = np.maximum(features[:, logs], np.log(QUIETEST * self.scales))
        distances = np.nan_to_num((bounded[:, None] - self.centres) / self.spreads)
        squares = np.minimum(np.square(distances), _MAX_SPREADS**2).sum(axis=2)
        fits = -squares / 2 - np.log(self.spreads).sum(axis=1)  # (N, K) log likelihoods, bounded per feature
        return -float(fits.max(axis=1).mean())
