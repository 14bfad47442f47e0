"""CRD, contrastive representation distillation: Tian, Krishnan, Isola, ICLR 2020, equations 17 and 18.

With h(t, s) = exp(g_s . g_t / tau) / (exp(g_s . g_t / tau) + N / M) the loss is -E_positive[log h] - N E_negative[log(1
- h)], for both anchors. As in the authors' code (RepDistiller), h = e / (e + N), e = exp(g_s . g_t / tau) / (mean
score). Two differences: negatives come from the batch and a queue (MoCo, He et al., CVPR 2020), and the mean is over
the anchor's negatives, without gradient.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from mmkd_models.losses.term import InnerTerm, Pair, Temperature, TrainingStep, Weight, constant


def crd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    index: Tensor,
    memory_student: Tensor | None = None,
    memory_teacher: Tensor | None = None,
    memory_index: Tensor | None = None,
) -> Tensor:
    """Return the CRD loss with both anchors, in float32; rows with the same index are no negatives.

    Vectors (B, E) and the memory's (Q, E) are unit vectors, `index` (B,) and `memory_index` (Q,) window numbers. A row
    without negatives gets one of score 1.
    """
    student, teacher = student.float(), teacher.float()
    with torch.autocast(student.device.type, enabled=False):  # the products of unit vectors need their digits
        student_anchor = _anchor_loss(student, teacher, temperature, index, memory_teacher, memory_index)
        teacher_anchor = _anchor_loss(teacher, student, temperature, index, memory_student, memory_index)
        return (student_anchor + teacher_anchor).mean()


def _anchor_loss(
    anchor: Tensor, other: Tensor, temperature: float, index: Tensor, memory: Tensor | None, memory_index: Tensor | None
) -> Tensor:
    """(B,) loss of each anchor against its positive (same row of `other`) and all negatives."""
    candidates, owners = other, index
    if memory is not None and memory_index is not None:
        candidates, owners = torch.cat([other, memory]), torch.cat([index, memory_index])
    scores = anchor @ candidates.T / temperature  # (B, B + Q)
    negative = owners[None, :] != index[:, None]  # (B, B + Q)
    masked = scores.masked_fill(~negative, torch.finfo(scores.dtype).min)
    log_total = torch.logsumexp(masked, dim=-1).detach()  # (B,) log(N * mean negative score)
    log_total = torch.where(negative.any(-1), log_total, torch.zeros_like(log_total))
    # h = e / (e + N), e = exp(score) / mean: log h = logsigmoid(score - log total), log(1 - h) that of the opposite
    attract = -F.logsigmoid(scores.diagonal() - log_total)
    repel = -(F.logsigmoid(log_total[:, None] - scores) * negative).sum(-1)
    return attract + repel


class ContrastHead(nn.Module):
    """Projectors g_s, g_t and the queue of negatives; never exported."""

    queue_student: Tensor
    queue_teacher: Tensor
    queue_index: Tensor

    def __init__(self, student_width: int, teacher_width: int, *, width: int, queue: int) -> None:
        super().__init__()
        self.student = nn.Linear(student_width, width)
        self.teacher = nn.Linear(teacher_width, width)
        self.register_buffer("queue_student", torch.zeros(queue, width))
        self.register_buffer("queue_teacher", torch.zeros(queue, width))
        self.register_buffer("queue_index", torch.full((queue,), -1, dtype=torch.int64))

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor, *, temperature: float) -> Tensor:
        """(B, D_S), (B, D_T), (B,) -> the loss; the batch joins the queue."""
        with torch.autocast(student.device.type, enabled=False):
            student = F.normalize(self.student(student.float()), dim=-1)
            teacher = F.normalize(self.teacher(teacher.detach().float()), dim=-1)
        filled = self.queue_index >= 0
        loss = crd_loss(
            student,
            teacher,
            temperature=temperature,
            index=index,
            memory_student=self.queue_student[filled],
            memory_teacher=self.queue_teacher[filled],
            memory_index=self.queue_index[filled],
        )
        if size := len(self.queue_index):
            self.queue_student = torch.cat([student.detach(), self.queue_student])[:size]
            self.queue_teacher = torch.cat([teacher.detach(), self.queue_teacher])[:size]
            self.queue_index = torch.cat([index, self.queue_index])[:size]
        return loss


class CrdTerm(InnerTerm, frozen=True, kw_only=True, tag="crd"):
    """Contrast of embeddings; negatives come from the batch and a `queue` of earlier windows."""

    weight: Weight = constant(0.1)
    temperature: Temperature = 0.07
    width: Annotated[int, Meta(ge=1)] = 64
    queue: Annotated[int, Meta(ge=0)] = 1024

    def head(self, pair: Pair) -> ContrastHead:
        """Return the projectors and the queue."""
        widths = pair.student.embedding.shape[-1], pair.teacher.embedding.shape[-1]
        return ContrastHead(*widths, width=self.width, queue=self.queue)

    def loss(self, step: TrainingStep, head: nn.Module | None) -> Tensor:
        """Return the contrast; the batch joins the queue."""
        assert isinstance(head, ContrastHead)  # made before the first step
        embeddings = step.pair.student.embedding, step.pair.teacher.embedding
        return head.forward(*embeddings, step.batch.index, temperature=self.temperature)
