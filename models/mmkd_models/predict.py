"""Answers of a network over whole splits, and their scores."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mmkd_edge.preprocess import prepare_batch
from mmkd_models.data.dataset import Windows
from mmkd_models.evaluate.metrics import Scores, scores_from_answers
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher

_BATCH = 256


@torch.no_grad()
def logits_of(network: nn.Module, windows: Windows, *, modality: str | None) -> NDArray[np.float32]:
    """Gives logits (N, K) of a teacher (`modality` None) or a student, in evaluation mode, which is restored."""
    if not isinstance(network, (Student, Teacher)):
        raise TypeError(f"expected a Student or a Teacher, got {type(network).__name__}")
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(windows), _BATCH):
        taken = windows.take(np.arange(start, min(start + _BATCH, len(windows))))
        inputs = {}
        for spec in windows.spec.modalities:
            if modality is None or spec.name == modality:
                values, present = prepare_batch(taken[spec.name], spec)
                inputs[spec.name] = torch.from_numpy(values).to(device), torch.from_numpy(present).to(device)
        output = network(inputs) if modality is None else network(*inputs[modality])
        parts.append(output.logits.float().cpu().numpy())
    network.train(training)
    return np.concatenate(parts)


def scores_of(network: nn.Module, windows: Windows, *, modality: str | None) -> Scores:
    """Scores a network on the labelled ones of `windows`."""
    known = windows.subset(np.flatnonzero(windows.labels >= 0))
    answers = logits_of(network, known, modality=modality).argmax(1)
    return scores_from_answers(known.labels, answers, len(windows.spec.task.labels))
