"""Answers of a network over whole splits, and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.scores import AnyScores, scores_from_logits
from mmkd_models.networks.fronts.as_series import series_view
from mmkd_models.networks.student import StudentOutput
from mmkd_models.networks.teacher import TeacherOutput

_BATCH = 64


@torch.no_grad()
def logits_of(network: nn.Module, windows: Windows, *, modality: str | None) -> NDArray[np.float32]:
    """Return logits (N, K) of a teacher (`modality` None) or a student, in evaluation mode."""
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    own_windows = windows if modality is None else windows.with_modalities((modality,))
    parts = []
    for inputs in batches_of(own_windows, device=device):
        output = network(inputs) if modality is None else network(*inputs[modality])
        if not isinstance(output, (StudentOutput, TeacherOutput)):
            raise TypeError(f"network: expected a StudentOutput or a TeacherOutput, got {type(output).__name__}")
        parts.append(output.logits.float().cpu().numpy())
    network.train(training)
    return np.concatenate(parts)


@torch.no_grad()
def embeddings_of(network: nn.Module, windows: Windows, *, modality: str) -> NDArray[np.float32]:
    """Return a student's embeddings (N, D)."""
    batches = batches_of(windows.with_modalities((modality,)))
    return np.concatenate([network(*inputs[modality]).embedding.cpu().numpy() for inputs in batches])


@torch.no_grad()
def answers_to(network: nn.Module, windows: Windows) -> Tensor:
    """Return logits (N, K) of a teacher or committee member, on the CPU."""
    device = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), None)
    answers = (network(inputs) for inputs in batches_of(windows, device=device))
    return torch.cat([(answer.logits if isinstance(answer, TeacherOutput) else answer).cpu() for answer in answers])


def batches_of(windows: Windows, *, device: torch.device | None = None) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Yield network inputs in window order, in batches."""
    for start in range(0, len(windows), _BATCH):
        taken: Mapping[str, NDArray[Any]] = windows.take(np.arange(start, min(start + _BATCH, len(windows))))
        inputs = inputs_of(taken, windows)
        yield {name: (values.to(device), presence.to(device)) for name, (values, presence) in inputs.items()}


def inputs_of(taken: Mapping[str, NDArray[Any]], windows: Windows) -> dict[str, tuple[Tensor, Tensor]]:
    """Return values and presence (B, T, C) of each modality."""
    prepared = {spec.name: prepare_batch(taken[spec.name], spec) for spec in windows.spec.modalities}
    return {
        name: (torch.from_numpy(values), torch.from_numpy(presence)) for name, (values, presence) in prepared.items()
    }


@torch.no_grad()
def series_values(windows: Windows, modality: str) -> NDArray[np.float32]:
    """Return windows as series (`fronts.as_series`), float32 (N, T, C), NaN where missing."""
    view, narrow = series_view(windows.spec.modality(modality)), windows.with_modalities((modality,))
    if view.spec.kind == windows.spec.modality(modality).kind:
        return narrow.take(np.arange(len(narrow)))[modality]
    parts = [np.zeros((0, *view.spec.shape), dtype=np.float32)]
    for inputs in batches_of(narrow):
        values, present = view(*inputs[modality])
        parts.append(torch.where(present > 0, values, torch.nan).numpy())
    return np.concatenate(parts)


def scores_of(network: nn.Module, windows: Windows, *, modality: str | None) -> AnyScores:
    """Score a network on the labelled windows."""
    known = windows.only_labelled()
    if len(known) == 0:
        raise UsageError("windows to score on: expected some labelled ones, got none; label some")
    logits = logits_of(network, known, modality=modality)
    return scores_from_logits(known.labels, logits, windows.spec.task)
