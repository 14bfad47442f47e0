"""Answers of a network over whole splits, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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

WindowChange = Callable[[str, NDArray[Any]], NDArray[Any]]
"""From a modality's name and windows, as `Windows.take` gives them, to other windows."""


@torch.no_grad()
def logits_of(
    network: nn.Module, windows: Windows, *, modality: str | None, change: WindowChange | None = None
) -> NDArray[np.float32]:
    """Gives logits (N, K) of a teacher (`modality` None) or a student, in evaluation mode, which is restored.

    Args:
        network: a teacher, or a student of `modality`; ours, or one that answers as ours do.
        change: gives other values (B, T, C) for a modality's name and values, to see what they do.
    """
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(windows), _BATCH):
        taken = windows.take(np.arange(start, min(start + _BATCH, len(windows))))
        inputs = {}
        for spec in windows.spec.modalities:
            if modality is None or spec.name == modality:
                array = taken[spec.name] if change is None else change(spec.name, taken[spec.name])
                values, present = prepare_batch(array, spec)
                inputs[spec.name] = torch.from_numpy(values).to(device), torch.from_numpy(present).to(device)
        output = network(inputs) if modality is None else network(*inputs[modality])
        if not isinstance(output, (StudentOutput, TeacherOutput)):
            raise TypeError(f"network: expected a StudentOutput or a TeacherOutput, got {type(output).__name__}")
        parts.append(output.logits.float().cpu().numpy())
    network.train(training)
    return np.concatenate(parts)


@torch.no_grad()
def embeddings_of(network: nn.Module, windows: Windows, *, modality: str) -> NDArray[np.float32]:
    """Gives what a student of `modality`, in evaluation mode, embeds windows in, (N, D)."""
    one = windows.with_modalities((modality,))
    return np.concatenate([network(*inputs[modality]).embedding.cpu().numpy() for inputs in batches_of(one)])


@torch.no_grad()
def answers_to(network: nn.Module, windows: Windows) -> Tensor:
    """Gives (N, K) what a network, or a member of a committee that gives bare logits, says of windows, on the CPU."""
    found = []
    device = next((one.device for one in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    for inputs in batches_of(windows):
        answer = network({name: (v.to(device), p.to(device)) for name, (v, p) in inputs.items()})
        found.append((answer.logits if isinstance(answer, TeacherOutput) else answer).cpu())
    return torch.cat(found)


def batches_of(windows: Windows) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Gives the windows as networks read them, in their order, a few at a time."""
    for start in range(0, len(windows), _BATCH):
        yield inputs_of(windows.take(np.arange(start, min(start + _BATCH, len(windows)))), windows)


def inputs_of(taken: Mapping[str, NDArray[Any]], windows: Windows) -> dict[str, tuple[Tensor, Tensor]]:
    """Gives windows that were taken as networks read them: values and presence (B, T, C) of each modality."""
    prepared = {spec.name: prepare_batch(taken[spec.name], spec) for spec in windows.spec.modalities}
    return {name: (torch.from_numpy(values), torch.from_numpy(there)) for name, (values, there) in prepared.items()}


@torch.no_grad()
def series_values(windows: Windows, modality: str) -> NDArray[np.float32]:
    """Gives a modality's windows as series for methods that take nothing else: float32 (N, T, C), NaN where missing.

    Of sound the log-mels, of video the brightness of a grid: `mmkd_models.networks.fronts.as_series`.
    """
    view = series_view(windows.spec.modality(modality))
    one = windows.with_modalities((modality,))
    if view is None:
        return one.take(np.arange(len(one)))[modality]
    found = [np.zeros((0, *view.spec.shape), dtype=np.float32)]
    for inputs in batches_of(one):
        values, present = view(*inputs[modality])
        found.append(torch.where(present > 0, values, torch.nan).numpy())
    return np.concatenate(found)


def scores_of(network: nn.Module, windows: Windows, *, modality: str | None) -> AnyScores:
    """Scores a network on the labelled ones of `windows`. Raises UsageError where none is labelled."""
    known = windows.subset(np.flatnonzero(windows.labelled))
    if len(known) == 0:
        raise UsageError("windows to score on: expected some labelled ones, got none; label some")
    logits = logits_of(network, known, modality=modality)
    return scores_from_logits(known.labels, logits, windows.spec.task)
