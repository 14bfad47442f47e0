"""Answers of a network over whole splits, scores, and the attention maps of a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_models.data.windows import Windows
from mmkd_models.losses.attention import aligned_map
from mmkd_models.metrics.likelihood import log_likelihood
from mmkd_models.metrics.scores import AnyScores, scores_from_logits
from mmkd_models.networks.encoder import Encoder
from mmkd_models.networks.fronts.as_series import series_view
from mmkd_models.networks.student import Student, StudentOutput
from mmkd_models.networks.teacher import Teacher, TeacherOutput
from mmkd_report.schema.demo import AttentionMaps

_BATCH = 64


@torch.no_grad()
def logits_of(network: nn.Module, windows: Windows, *, modality: str | None) -> NDArray[np.float32]:
    """Return logits (N, K) of a teacher (`modality` None) or a student, in evaluation mode."""
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    seen = windows if modality is None else windows.with_modalities((modality,))
    parts = []
    for inputs in batches_of(seen, device=device):
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
    device = next((each.device for each in (*network.parameters(), *network.buffers())), None)
    answers = (network(inputs) for inputs in batches_of(windows, device=device))
    return torch.cat([(each.logits if isinstance(each, TeacherOutput) else each).cpu() for each in answers])


def batches_of(windows: Windows, *, device: torch.device | None = None) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Yield network inputs in window order, in batches."""
    for start in range(0, len(windows), _BATCH):
        taken: Mapping[str, NDArray[Any]] = windows.take(np.arange(start, min(start + _BATCH, len(windows))))
        inputs = inputs_of(taken, windows)
        yield {name: (values.to(device), there.to(device)) for name, (values, there) in inputs.items()}


def inputs_of(taken: Mapping[str, NDArray[Any]], windows: Windows) -> dict[str, tuple[Tensor, Tensor]]:
    """Return values and presence (B, T, C) of each modality."""
    prepared = {spec.name: prepare_batch(taken[spec.name], spec) for spec in windows.spec.modalities}
    return {name: (torch.from_numpy(values), torch.from_numpy(there)) for name, (values, there) in prepared.items()}


@torch.no_grad()
def series_values(windows: Windows, modality: str) -> NDArray[np.float32]:
    """Return windows as series (`fronts.as_series`), float32 (N, T, C), NaN where missing."""
    view, one = series_view(windows.spec.modality(modality)), windows.with_modalities((modality,))
    if view.spec.kind == windows.spec.modality(modality).kind:
        return one.take(np.arange(len(one)))[modality]
    parts = [np.zeros((0, *view.spec.shape), dtype=np.float32)]
    for inputs in batches_of(one):
        values, present = view(*inputs[modality])
        parts.append(torch.where(present > 0, values, torch.nan).numpy())
    return np.concatenate(parts)


def scores_of(network: nn.Module, windows: Windows, *, modality: str | None) -> AnyScores:
    """Score a network on the labelled windows. Raise UsageError without any."""
    known = windows.only_labelled()
    if len(known) == 0:
        raise UsageError("windows to score on: expected some labelled ones, got none; label some")
    logits = logits_of(network, known, modality=modality)
    return scores_from_logits(known.labels, logits, windows.spec.task)


@torch.no_grad()
def attention_view(teacher: Teacher, student: Student, windows: Windows, *, modality: str) -> AttentionMaps | None:
    """Return the last maps that EDAM compares, of the labelled window that the teacher answers best; None without."""
    if student.encoder is None or len(teacher.names) < 2 or modality not in teacher.names or not windows.labelled.any():
        return None
    known = windows.only_labelled()
    known = known.subset(np.arange(min(len(known), 64)))
    inputs = inputs_of(known.take(np.arange(len(known))), known)
    output = teacher(inputs, taps=True)
    task, labels = known.spec.task, known.labels
    likelihoods = log_likelihood(output.logits.numpy(), labels, kind=task.kind)
    row = int(likelihoods.reshape(len(labels), -1).mean(axis=1).argmax())
    length = student.encoder.length
    sources = [cast("Encoder", teacher.encoders[name]).length for name in teacher.names if name != modality]
    target = aligned_map(output.cross_attention[modality][-1], source_lengths=sources, length=length)
    own = student(*inputs[modality], taps=True).attention[-1].mean(1)
    if task.kind == "regression":
        label = f"{task.labels[0]} {labels[row]:.4g}{task.unit_text}"
    elif task.kind == "multi_label":
        label = ", ".join(name for name, on in zip(task.labels, labels[row], strict=True) if on == 1) or "no label"
    else:
        label = task.labels[int(labels[row])]
    return AttentionMaps(
        teacher=_time_only(target[row], length),
        student=_time_only(own[row], length),
        teacher_layer=f"last cross-attention, query {modality}",
        student_layer="last self-attention",
        window_label=label,
        seconds=windows.spec.modality(modality).duration_s,
    )


def _time_only(weights: torch.Tensor, length: int) -> tuple[tuple[float, ...], ...]:
    time = weights[:length, :length]
    scaled = (time / time.sum(-1, keepdim=True).clamp(min=1e-6)).numpy()
    return tuple(map(tuple, np.round(scaled, 4).tolist()))
