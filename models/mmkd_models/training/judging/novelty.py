"""What a student's training saw, measured once it is trained: centres of embeddings, and what is usual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mmkd_edge.bundle.manifest import MOST_NOVELTY_WINDOWS
from mmkd_models.data.windows import Windows
from mmkd_models.novelty import MOST_CENTRES, NoveltyScore, TrainingEmbeddings
from mmkd_models.training.drift_reference import clustered
from mmkd_models.training.predict import embeddings_of

MOST_WINDOWS = 4096
"""Of the training, drawn where there are more."""

_LEAST_SPREAD = 1e-6  # of the largest standard deviation: what varies less is as good as constant
_SEED = 20211116


def seen_by(
    network: nn.Module, train: Sequence[Windows], valid: Sequence[Windows], *, modality: str
) -> TrainingEmbeddings:
    """Measures what a student's training saw.

    Args:
        network: the student, in evaluation mode.
        train: windows that it learnt from, labelled or not.
        valid: windows that it did not: their scores say what is usual.
        modality: of the student.
    """
    return seen_of(
        _embedded(network, train, modality=modality, most=MOST_WINDOWS),
        _embedded(network, valid, modality=modality, most=MOST_NOVELTY_WINDOWS),
    )


def seen_of(trained: NDArray[np.float32], unseen: NDArray[np.float32]) -> TrainingEmbeddings:
    """Measures what training saw, from embeddings (N, D) of its windows and of others."""
    embeddings = trained.astype(np.float64)
    middle, spread = embeddings.mean(axis=0), embeddings.std(axis=0)
    spread = np.maximum(spread, max(_LEAST_SPREAD * float(spread.max()), 1e-12))
    points = (embeddings - middle) / spread
    kind_of = np.unique(clustered(points, most=MOST_CENTRES), return_inverse=True)[1]
    centres = np.stack([points[kind_of == kind].mean(axis=0) for kind in range(kind_of.max() + 1)])
    usual = float(np.median(np.square(points - centres[kind_of]).sum(axis=1)))
    unit = 1.0 / max(np.sqrt(usual), 1e-6)
    scale, shift, middles = (_tensor(one) for one in (unit / spread, -unit * middle / spread, unit * centres))
    seen = TrainingEmbeddings(scale=scale, shift=shift, centres=middles, scores=torch.zeros(1))
    scores = NoveltyScore(seen)(torch.from_numpy(unseen))[:, 0]
    return replace(seen, scores=scores.sort().values)


def _embedded(network: nn.Module, parts: Sequence[Windows], *, modality: str, most: int) -> NDArray[np.float32]:
    """(N, D) embeddings of at most so many windows of all parts."""
    count = sum(map(len, parts))
    chosen = np.sort(np.random.default_rng(_SEED).permutation(count)[:most])
    found, first = [], 0
    for part in parts:
        rows = chosen[(chosen >= first) & (chosen < first + len(part))] - first
        first += len(part)
        if len(rows):
            found.append(embeddings_of(network, part.subset(rows), modality=modality))
    return np.concatenate(found)


def _tensor(values: NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))
