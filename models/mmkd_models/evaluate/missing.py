"""What is left of a model when sensors drop out: subsets of modalities for a teacher, missing samples for a student."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mmkd_models.data.windows import Windows
from mmkd_models.evaluate.metrics import Scores, scores_from_answers
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.predict import Change, logits_of

MISSING_SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
MOST_SUBSETS = 31


def scores_by_subset(teacher: Teacher, windows: Windows) -> dict[tuple[str, ...], Scores]:
    """Scores a teacher with every non-empty subset of its modalities, the others absent; at most 31, largest first."""
    names = teacher.names
    subsets = [subset for size in range(len(names), 0, -1) for subset in combinations(names, size)]
    found = {}
    for subset in subsets[:MOST_SUBSETS]:
        hide = _hiding([name for name in names if name not in subset])
        found[subset] = _scores(logits_of(teacher, windows, modality=None, change=hide), windows)
    return found


def scores_by_missing_share(
    student: Student, windows: Windows, *, modality: str, seed: int, shares: Sequence[float] = MISSING_SHARES
) -> dict[float, Scores]:
    """Scores a student while each sample (all channels) is missing with the probability `share`.

    The same seed hides the same samples, so two students can be compared pair by pair.
    """
    found = {}
    for share in shares:
        change = _thinning(share, np.random.default_rng([seed, round(share * 1000)]))
        found[share] = _scores(logits_of(student, windows, modality=modality, change=change), windows)
    return found


def _scores(logits: NDArray[np.float32], windows: Windows) -> Scores:
    return scores_from_answers(windows.labels, logits.argmax(1), len(windows.spec.task.labels))


def _hiding(absent: Sequence[str]) -> Change:
    def change(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full_like(values, np.nan) if name in absent else values

    return change


def _thinning(share: float, rng: np.random.Generator) -> Change:
    def change(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        gone = rng.uniform(size=values.shape[:2]) < share  # (B, T)
        return np.where(gone[..., None], np.float32(np.nan), values)

    return change
