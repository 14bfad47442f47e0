"""The offsets and gains that a student tolerates; a device calls a change harmless only up to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mmkd_edge.bundle.statistics import GroupReference, Tolerance
from mmkd_edge.spec import TaskSpec
from mmkd_export.verify.answers import NetworkAnswers
from mmkd_export.verify.proof_set import Answer
from mmkd_export.verify.windows import RealWindows

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

TOLERATED_LOSS = 0.03
"""Fraction of right answers, or of equal answers without labels."""

OFFSETS = (0.1, 0.25, 0.5, 1.0, 2.0)
"""In standard deviations of the channel."""

GAINS = (1.1, 1.25, 1.5, 2.0, 3.0)

_MOST_WINDOWS = 128
_FEWEST_WINDOWS = 30  # fewer than this cannot show a loss of a few points
_MOST_ALONE = 8  # with more channels only all together are measured


def with_tolerance(
    reference: GroupReference | None, real: RealWindows, *, task: TaskSpec, answer: Answer
) -> GroupReference | None:
    """Add to a reference the changes that the student tolerates, where that can be measured.

    Not for a regression, synthetic windows, fewer than thirty, or video, whose drift is that of its brightness.
    """
    count = len(real.windows)
    if reference is None or real.synthetic or task.kind == "regression" or count < _FEWEST_WINDOWS:
        return reference
    if real.windows.dtype == np.uint8:
        return reference
    rows = np.unique(np.linspace(0, count - 1, min(count, _MOST_WINDOWS)).astype(np.intp))
    windows, labels = real.windows[rows], real.labels[rows]

    def choice(answers: NetworkAnswers) -> NDArray[Any]:
        values = answers.probabilities
        return np.asarray(values >= task.on_from if task.kind == "multi_label" else values.argmax(axis=1))

    plain = choice(answer(windows))
    truth = labels if task.kind == "classification" and bool((labels >= 0).all()) else plain
    start = (plain == truth).mean()

    def is_tolerated(variant: NDArray[np.float64]) -> bool:
        return bool(start - (choice(answer(variant.astype(np.float32))) == truth).mean() <= TOLERATED_LOSS)

    return msgspec.structs.replace(reference, tolerance=_measure_tolerance(windows, is_tolerated))


def _measure_tolerance(windows: NDArray[np.float32], is_tolerated: Callable[[NDArray[Any]], bool]) -> Tolerance:
    channels = windows.shape[2]
    std = np.zeros(channels)
    if np.isfinite(windows).any():
        std = np.nan_to_num(np.nanstd(windows.astype(np.float64), axis=(0, 1)))

    def offset(*patterns: NDArray[np.float64]) -> float:
        changes = [sign * std * pattern for sign in (1, -1) for pattern in patterns]
        tolerated = 0.0
        for size in OFFSETS:
            if not all(is_tolerated(windows + (size * change).astype(np.float32)) for change in changes):
                break
            tolerated = size
        return tolerated

    def gain(pattern: NDArray[np.float64]) -> float:
        tolerated = 1.0
        for size in GAINS:
            factors = [np.power(size, sign * pattern).astype(np.float32) for sign in (1, -1)]
            if not all(is_tolerated(windows * factor) for factor in factors):
                break
            tolerated = size
        return tolerated

    every, mixed = np.ones(channels), np.where(np.arange(channels) % 2 == 0, 1.0, -1.0)
    together, gain_together = offset(every, mixed), gain(every)
    alone = np.eye(channels) if channels <= _MOST_ALONE else np.zeros((0, channels))
    return Tolerance(
        loss=TOLERATED_LOSS,
        windows=len(windows),
        offsets=tuple((std * ([offset(channel) for channel in alone] or together)).tolist()),
        offsets_together=tuple((std * together).tolist()),
        gains=tuple(gain(channel) for channel in alone) or (gain_together,) * channels,
        gain_together=gain_together,
    )
