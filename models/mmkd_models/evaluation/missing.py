"""Scores with sensors missing: subsets of modalities, missing samples, and bursts of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.frames import bytes_of, missing_frames, with_missing
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.scores import AnyScores, scores_from_logits
from mmkd_models.networks.committee.network import Committee
from mmkd_models.networks.student import AnyStudent
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.predict import WindowChange, logits_of

Loss = Literal["samples", "burst"]
"""How samples go missing: each by itself, or all in one span of the window."""

MISSING_SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
MOST_SUBSETS = 31

_STREAMS: dict[Loss, tuple[int, ...]] = {"samples": (), "burst": (1,)}


def subsets_of(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the non-empty subsets of modalities, the largest first, at most 31."""
    return [subset for size in range(len(names), 0, -1) for subset in combinations(names, size)][:MOST_SUBSETS]


def logits_by_subset(teacher: Teacher | Committee, windows: Windows) -> dict[tuple[str, ...], NDArray[np.float32]]:
    """Return a teacher's logits (N, K) with every subset of its modalities, the others absent."""
    found = {}
    for subset in subsets_of(teacher.names):
        hide = _hiding([name for name in teacher.names if name not in subset])
        found[subset] = logits_of(teacher, windows, modality=None, change=hide)
    return found


def logits_by_missing_share(
    network: AnyStudent | Teacher | Committee,
    windows: Windows,
    *,
    modality: str | None,
    seed: int,
    shares: Sequence[float] = MISSING_SHARES,
    loss: Loss = "samples",
) -> dict[float, NDArray[np.float32]]:
    """Return logits (N, K) with each fraction of the samples (all channels) of every window missing.

    The same seed hides the same samples, so that two networks can be compared window by window.

    Args:
        modality: the student's; None for a teacher, all of whose modalities lose samples.
        shares: for `samples` the probability of each, for a `burst` its length.
    """
    found = {}
    for share in shares:
        rng = np.random.default_rng([seed, round(share * 1000), *_STREAMS[loss]])
        change = _thinning(share, rng) if loss == "samples" else _bursting(share, rng)
        found[share] = logits_of(network, windows, modality=modality, change=change)
    return found


def scores_by_subset(teacher: Teacher | Committee, windows: Windows) -> dict[tuple[str, ...], AnyScores]:
    """Score a teacher on labelled windows with every subset of its modalities, as `logits_by_subset`."""
    return {subset: _scores(logits, windows) for subset, logits in logits_by_subset(teacher, windows).items()}


def scores_by_missing_share(
    student: AnyStudent, windows: Windows, *, modality: str, seed: int, shares: Sequence[float] = MISSING_SHARES
) -> dict[float, AnyScores]:
    """Score a student on labelled windows with samples missing, as `logits_by_missing_share`."""
    logits = logits_by_missing_share(student, windows, modality=modality, seed=seed, shares=shares)
    return {share: _scores(given, windows) for share, given in logits.items()}


def _scores(logits: NDArray[np.float32], windows: Windows) -> AnyScores:
    return scores_from_logits(windows.labels, logits, windows.spec.task)


def _hiding(absent: Sequence[str]) -> WindowChange:
    def change(name: str, values: NDArray[Any]) -> NDArray[Any]:
        return _without(values, np.ones(values.shape[:2], dtype=bool)) if name in absent else values

    return change


def _thinning(share: float, rng: np.random.Generator) -> WindowChange:
    def change(name: str, values: NDArray[Any]) -> NDArray[Any]:
        return _without(values, rng.uniform(size=values.shape[:2]) < share)

    return change


def _bursting(share: float, rng: np.random.Generator) -> WindowChange:
    def change(name: str, values: NDArray[Any]) -> NDArray[Any]:
        windows, samples = values.shape[:2]
        length = round(share * samples)
        start = rng.integers(samples - length + 1, size=windows)[:, None]  # (B, 1)
        place = np.arange(samples)[None]  # (1, T)
        return _without(values, (place >= start) & (place < start + length))

    return change


def _without(values: NDArray[Any], gone: NDArray[np.bool_]) -> NDArray[Any]:
    """Windows without the samples, or frames, that are gone (B, T)."""
    if values.dtype == np.uint8:
        return with_missing(bytes_of(values), gone | missing_frames(values))
    return np.where(gone[..., None], np.float32(np.nan), values)
