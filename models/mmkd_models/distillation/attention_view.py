"""The two attention maps that EDAM compares, of one test window, for a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_edge.spec import TaskSpec
from mmkd_models.data.labels import Labels
from mmkd_models.data.windows import Windows
from mmkd_models.distillation.learner import tokens_per_window
from mmkd_models.losses.attention import aligned_map
from mmkd_models.networks.layers import EXTRA_TOKENS
from mmkd_models.networks.student import AnyStudent, RocketStudent
from mmkd_models.networks.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class AttentionView:
    """Attention (L, L) between time tokens, heads averaged; rows (queries) sum to 1.

    Attributes:
        teacher: last cross-attention whose query is the student's modality.
        student: last self-attention.
        label: the window's true label, for people.
    """

    teacher: NDArray[np.float32]
    student: NDArray[np.float32]
    label: str
    seconds: float


@torch.no_grad()
def attention_view(teacher: Teacher, student: AnyStudent, windows: Windows, *, modality: str) -> AttentionView | None:
    """Return the maps of the first window that the teacher answers right (of a regression: best).

    None if the teacher has one modality or not this one, or the student has convolutional features alone.
    """
    if isinstance(student, RocketStudent):
        return None
    if len(teacher.names) < 2 or modality not in teacher.names or len(windows) == 0:
        return None
    taken = windows.take(np.arange(min(len(windows), 64)))
    inputs = {
        spec.name: tuple(torch.from_numpy(part) for part in prepare_batch(taken[spec.name], spec))
        for spec in windows.spec.modalities
    }
    output = teacher({name: (values, present) for name, (values, present) in inputs.items()}, taps=True)
    task, labels = windows.spec.task, windows.labels[: len(output.logits)]
    row = int(_rightness(task, output.logits.numpy(), labels).argmax())  # of equals the first
    length = student.encoder.length
    sources = [tokens_per_window(teacher, name) for name in teacher.names if name != modality]
    target = aligned_map(
        output.cross_attention[modality][-1], source_lengths=sources, length=length, extra=EXTRA_TOKENS
    )
    own = student(*inputs[modality], taps=True).attention[-1].mean(1)
    spec = windows.spec.modality(modality)
    return AttentionView(
        teacher=_time_only(target[row], length),
        student=_time_only(own[row], length),
        label=_in_words(task, labels[row]),
        seconds=spec.duration_s,
    )


def _rightness(task: TaskSpec, logits: NDArray[np.float32], labels: Labels) -> NDArray[np.floating[Any]]:
    """(N,) higher for better answers."""
    if task.kind == "regression":
        return np.asarray(-np.abs(logits[:, 0] - labels))
    if task.kind == "multi_label":
        on = logits >= np.log(task.on_from / (1 - task.on_from))
        return np.asarray((on == (labels == 1)).all(1), dtype=float)
    return np.asarray(logits.argmax(1) == labels, dtype=float)


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
