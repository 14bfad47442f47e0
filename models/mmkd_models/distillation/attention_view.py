"""The two attention maps that EDAM compares, of one test window, for a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_edge.spec import TaskSpec
from mmkd_models.data.windows import Windows
from mmkd_models.losses.attention import aligned_map
from mmkd_models.metrics.likelihood import log_likelihood
from mmkd_models.networks.encoder import Encoder
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class AttentionView:
    """Attention (L, L) between time tokens, heads averaged; rows (queries) sum to 1."""

    teacher: NDArray[np.float32]  # last cross-attention whose query is the student's modality
    student: NDArray[np.float32]  # last self-attention
    label: str  # the window's true label, for people
    seconds: float


@torch.no_grad()
def attention_view(teacher: Teacher, student: Student, windows: Windows, *, modality: str) -> AttentionView | None:
    """Return the maps of the labelled window the teacher answers best; None without two to compare."""
    if student.encoder is None or len(teacher.names) < 2 or modality not in teacher.names or not windows.labelled.any():
        return None
    known = windows.only_labelled()
    known = known.subset(np.arange(min(len(known), 64)))
    taken = known.take(np.arange(len(known)))
    inputs = {
        spec.name: tuple(torch.from_numpy(part) for part in prepare_batch(taken[spec.name], spec))
        for spec in windows.spec.modalities
    }
    output = teacher({name: (values, present) for name, (values, present) in inputs.items()}, taps=True)
    task, labels = known.spec.task, known.labels
    likelihoods = log_likelihood(output.logits.numpy(), labels, kind=task.kind)
    row = int(likelihoods.reshape(len(labels), -1).mean(axis=1).argmax())
    length = student.encoder.length
    sources = [cast("Encoder", teacher.encoders[name]).length for name in teacher.names if name != modality]
    target = aligned_map(output.cross_attention[modality][-1], source_lengths=sources, length=length)
    own = student(*inputs[modality], taps=True).attention[-1].mean(1)
    spec = windows.spec.modality(modality)
    return AttentionView(
        teacher=_time_only(target[row], length),
        student=_time_only(own[row], length),
        label=_in_words(task, labels[row]),
        seconds=spec.duration_s,
    )


def _in_words(task: TaskSpec, truth: Any) -> str:
    if task.kind == "regression":
        return f"{task.labels[0]} {truth:.4g}{task.unit_text}"
    if task.kind == "multi_label":
        return ", ".join(name for name, on in zip(task.labels, truth, strict=True) if on == 1) or "no label"
    return task.labels[int(truth)]


def _time_only(weights: torch.Tensor, length: int) -> NDArray[np.float32]:
    time = weights[:length, :length]
    scaled: NDArray[np.float32] = (time / time.sum(-1, keepdim=True).clamp(min=1e-6)).numpy()
    return scaled
