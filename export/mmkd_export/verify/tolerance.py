"""Which offsets and gains a student tolerates on recorded windows before its answers suffer.

A device calls a difference of its inputs harmless only up to here.
"""

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
    """Add to a reference the changes that the student tolerates; return it unchanged if that cannot be measured.

    It cannot for a regression, whose answers are neither right nor wrong, on synthetic windows, on fewer than thirty,
    and for video, whose drift is that of its brightness: the network sees little of it.
    """
    if real.windows.dtype == np.uint8:
        return reference
    if reference is None or real.synthetic or task.kind == "regression" or len(real.windows) < _FEWEST_WINDOWS:
        return reference
    rows = np.unique(np.linspace(0, len(real.windows) - 1, min(len(real.windows), _MOST_WINDOWS)).astype(np.intp))
    windows, labels = real.windows[rows], real.labels[rows]
    plain = answer(windows)

    def choice(answers: NetworkAnswers) -> NDArray[Any]:
        return answers.probabilities >= task.on_from if several else answers.probabilities.argmax(axis=1)

    several = task.kind == "multi_label"
    labelled = task.kind == "classification" and bool((labels >= 0).all())
    truth = labels if labelled else choice(plain)
    start = (choice(plain) == truth).mean()

    def is_tolerated(variant: NDArray[np.float64]) -> bool:
        return bool(start - (choice(answer(variant.astype(np.float32))) == truth).mean() <= TOLERATED_LOSS)

    return msgspec.structs.replace(reference, tolerance=_measure_tolerance(windows, is_tolerated))


def _measure_tolerance(windows: NDArray[np.float32], is_tolerated: Callable[[NDArray[Any]], bool]) -> Tolerance:
    channels = windows.shape[2]
    std = np.nanstd(windows.astype(np.float64), axis=(0, 1)) if np.isfinite(windows).any() else np.zeros(channels)
    std = np.nan_to_num(std)

    def largest(sizes: tuple[float, ...], none: float, variants: Callable[[float], list[NDArray[Any]]]) -> float:
        """Return the size before the first that is not tolerated."""
        for size in sizes:
            if not all(is_tolerated(variant) for variant in variants(size)):
                break
            none = size
        return none

    def offset(*patterns: NDArray[np.float64]) -> float:
        return largest(
            OFFSETS,
            0.0,
            lambda size: [
                windows + (sign * size * std * one).astype(np.float32) for sign in (1, -1) for one in patterns
            ],
        )

    def gain(pattern: NDArray[np.float64]) -> float:
        return largest(
            GAINS, 1.0, lambda size: [windows * np.power(size, sign * pattern).astype(np.float32) for sign in (1, -1)]
        )

    every, mixed = np.ones(channels), np.where(np.arange(channels) % 2 == 0, 1.0, -1.0)
    together, gain_together = offset(every, mixed), gain(every)
    alone = np.eye(channels) if channels <= _MOST_ALONE else None
    return Tolerance(
        loss=TOLERATED_LOSS,
        windows=len(windows),
        offsets=tuple((std * (together if alone is None else [offset(one) for one in alone])).tolist()),
        offsets_together=tuple((std * together).tolist()),
        gains=(gain_together,) * channels if alone is None else tuple(gain(one) for one in alone),
        gain_together=gain_together,
    )
