"""What a regression on features is taught: the teachers' answers, the labels, and how much each window counts.

Soft targets 2 q - 1: on windows with a label q is half the teachers' probability and half the label, on others the
teachers' alone, and without a teacher only labelled windows are there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.spec import TaskKind, TaskSpec
from mmkd_models.data.labels import Labels
from mmkd_models.data.windows import Windows
from mmkd_models.losses.goal import target_scale
from mmkd_models.metrics.likelihood import probabilities_of
from mmkd_models.training.predict import logits_of
from mmkd_models.training.teacher_set import OutOfFoldCheckpoint, TaughtBy

MOST_ROWS = 16_384
"""Windows that a regression looks at: their features take 130 MB in float32."""


def rows_to_learn_from(windows: Windows, *, taught: bool, seed: int) -> NDArray[np.int64]:
    """Gives the rows of at most `MOST_ROWS` windows, ascending: the labelled ones first, and others if taught."""
    order = np.random.default_rng(seed).permutation(len(windows))
    known = windows.labelled[order]
    wanted = np.concatenate([order[known], order[~known]]) if taught else order[known]
    return np.sort(wanted[:MOST_ROWS]).astype(np.int64)


def teachers_answers(
    teachers: Sequence[TaughtBy], windows: Windows, rows: NDArray[np.int64], *, dataset_sha256: str
) -> NDArray[np.float64]:
    """Gives probabilities (N, K) of the teachers together for these training windows; numbers (N, 1) of a regression.

    They see the windows as they are. Of out-of-fold teachers each window is answered by the one that has not seen it.
    """
    kind = windows.spec.task.kind
    found = [_answers(one, windows, rows, dataset_sha256=dataset_sha256) for one in teachers]
    return np.asarray(np.mean([probabilities_of(logits, kind=kind) for logits in found], axis=0))


def label_answers(task: TaskSpec, labels: Labels) -> NDArray[np.float64]:
    """(N,) or (N, K) known labels -> (N, K) as answers: 1 and 0, of a regression the number."""
    if task.kind == "classification":
        return np.eye(len(task.labels))[labels.astype(np.int64)]
    return labels.reshape(len(labels), -1).astype(np.float64)


def targets_of(windows: Windows, rows: NDArray[np.int64], answers: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Gives the targets (N, K) of these windows: from -1 to 1; of a regression in standard deviations.

    Args:
        answers: (N, K) of the teachers; None where labels alone teach, and all rows have one.
    """
    task, known = windows.spec.task, windows.labelled[rows]
    wanted = np.zeros((len(rows), len(task.labels))) if answers is None else answers.copy()
    truth = label_answers(task, windows.labels[rows][known])
    wanted[known] = truth if answers is None else (answers[known] + truth) / 2
    if task.kind == "regression":
        mean, std = target_scale(windows)
        return (wanted - mean) / std
    return 2.0 * wanted - 1.0


def class_weights(kind: TaskKind, targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gives each window's weight (N,), mean 1: of classes so that each class counts alike, else 1."""
    if kind != "classification":
        return np.ones(len(targets))
    shares = (targets + 1.0) / 2.0  # (N, K)
    found = shares @ (1.0 / np.maximum(shares.mean(axis=0), 1e-3))
    return np.asarray(found / found.mean())


def _answers(one: TaughtBy, windows: Windows, rows: NDArray[np.int64], *, dataset_sha256: str) -> NDArray[np.float32]:
    seen = windows.with_modalities([spec.name for spec in one.checkpoint.modalities])
    if not isinstance(one.checkpoint, OutOfFoldCheckpoint):
        return logits_of(one.checkpoint.network(), seen.subset(rows), modality=None)
    part = one.checkpoint.part_of(windows, dataset_sha256=dataset_sha256)[rows]
    logits = np.zeros((len(rows), len(windows.spec.task.labels)), dtype=np.float32)
    for number, network in enumerate(one.checkpoint.networks()):
        mine = np.flatnonzero(part == number)
        if len(mine):
            logits[mine] = logits_of(network, seen.subset(rows[mine]), modality=None)
    return logits
