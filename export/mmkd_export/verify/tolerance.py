"""What a student bears: offsets and gains of growing size on recorded windows, until answers suffer.

Owns the sizes and the loss that counts as harmless. A device calls a difference of its inputs harmless only up to here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mmkd_edge.drift.features import GroupReference, Tolerance
from mmkd_edge.spec import TaskSpec
from mmkd_export.verify.windows import RealWindows
from mmkd_models.data.labels import Labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmkd_export.verify.parity import NetworkAnswers

TOLERATED_LOSS = 0.03
"""Share of right answers, or of equal answers where there are no labels."""

OFFSETS = (0.1, 0.25, 0.5, 1.0, 2.0)
"""In standard deviations of the channel."""

GAINS = (1.1, 1.25, 1.5, 2.0, 3.0)

_MOST_WINDOWS = 128
_FEWEST_WINDOWS = 30  # fewer than this cannot show a loss of a few points
# Of more channels only the whole is measured, and stands for each.
_MOST_ALONE = 8

_Answer = Callable[["NDArray[np.float32]"], "NetworkAnswers"]


def with_tolerance(
    reference: GroupReference | None, real: RealWindows, *, task: TaskSpec, answer: _Answer
) -> GroupReference | None:
    """The reference with what the student bears; without where that cannot be measured.

    That is of a regression, whose answers are neither right nor wrong, on drawn windows, on fewer than thirty, and of
    video, whose drift is that of its brightness: the network sees little of it.
    """
    if real.windows.dtype == np.uint8:
        return reference
    if reference is None or real.synthetic or task.kind == "regression" or len(real.windows) < _FEWEST_WINDOWS:
        return reference
    rows = np.unique(np.linspace(0, len(real.windows) - 1, min(len(real.windows), _MOST_WINDOWS)).astype(np.intp))
    windows = real.windows[rows]
    plain = answer(windows)
    right = _judge(real.labels[rows], plain, task=task)
    start = right(plain)

    def borne(variants: list[NDArray[np.float32]]) -> bool:
        return all(start - right(answer(variant)) <= TOLERATED_LOSS for variant in variants)

    return msgspec.structs.replace(reference, tolerance=_measured(windows, borne))


def _judge(labels: Labels, own: NetworkAnswers, *, task: TaskSpec) -> Callable[[NetworkAnswers], float]:
    """Share of right answers where all windows have a class, else of answers that are the unchanged windows' own."""

    def said(answers: NetworkAnswers) -> NDArray[Any]:
        several = task.kind == "multi_label"
        return answers.probabilities >= task.on_from if several else answers.probabilities.argmax(axis=1)

    labelled = task.kind == "classification" and bool((labels >= 0).all())
    truth = labels if labelled else said(own)
    return lambda answers: float((said(answers) == truth).mean())


def _measured(windows: NDArray[np.float32], borne: Callable[[list[NDArray[np.float32]]], bool]) -> Tolerance:
    channels = windows.shape[2]
    std = np.nanstd(windows.astype(np.float64), axis=(0, 1)) if np.isfinite(windows).any() else np.zeros(channels)
    std = np.nan_to_num(std)
    every = np.ones((1, channels))
    mixed = np.where(np.arange(channels) % 2 == 0, 1.0, -1.0)[None]

    def offset(patterns: NDArray[np.float64]) -> float:
        return _largest(OFFSETS, 0.0, lambda size: borne([*_shifted(windows, size * std * patterns)]))

    def gain(patterns: NDArray[np.float64]) -> float:
        return _largest(GAINS, 1.0, lambda size: borne([*_scaled(windows, np.power(size, patterns))]))

    together, gain_together = offset(np.concatenate([every, mixed])), gain(every)
    alone = np.eye(channels)[:, None] if channels <= _MOST_ALONE else None
    return Tolerance(
        loss=TOLERATED_LOSS,
        windows=len(windows),
        offsets=tuple(
            (std * (together if alone is None else [offset(one) for one in alone])).tolist(),
        ),
        offsets_together=tuple((std * together).tolist()),
        gains=(gain_together,) * channels if alone is None else tuple(gain(one) for one in alone),
        gain_together=gain_together,
    )


def _largest(sizes: tuple[float, ...], none: float, is_borne: Callable[[float], bool]) -> float:
    """The size before the first that is not borne: what is harmless in between must be so all the way."""
    largest = none
    for size in sizes:
        if not is_borne(size):
            break
        largest = size
    return largest


def _shifted(windows: NDArray[np.float32], offsets: NDArray[np.float64]) -> Iterator[NDArray[np.float32]]:
    for offset in np.concatenate([offsets, -offsets]):
        yield windows + offset.astype(np.float32)


def _scaled(windows: NDArray[np.float32], factors: NDArray[np.float64]) -> Iterator[NDArray[np.float32]]:
    for factor in np.concatenate([factors, 1 / factors]):
        yield windows * factor.astype(np.float32)
