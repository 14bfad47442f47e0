"""CRD: contrastive representation distillation.

Source: Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, equations 17 and 18: with
h(t, s) = exp(g_s . g_t / tau) / (exp(g_s . g_t / tau) + N / M) the loss is
-E_positive[log h] - N E_negative[log(1 - h)], both anchors. The authors' code (RepDistiller, `crd/memory.py` and
`crd/criterion.py`) divides the scores by Z = M * (their mean, taken once, in the first step), so that with
e = exp(g_s . g_t / tau) / (mean score) it computes h = e / (e + N). We follow the code, with two differences: negatives
come from the batch and a queue (MoCo, He et al., CVPR 2020, which RepDistiller's author advises where samples have no
index), and the mean is that of the anchor's own negatives in every step, held constant for the gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_models.losses.weighting import weighted_mean


def crd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    index: Tensor,
    memory_student: Tensor | None = None,
    memory_teacher: Tensor | None = None,
    memory_index: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Gives the CRD loss with both anchors; rows with the same index are no negatives of one another.

    Computed in float32, under autocast too. A row without negatives (a batch of one, no memory) gives only the positive
    term, as if against one negative of score 1.

    Args:
        student: (B, E) unit vectors.
        teacher: (B, E) unit vectors.
        temperature: tau > 0.
        index: (B,) which window each row is.
        memory_student: (Q, E) earlier student vectors, negatives of the teacher's anchors.
        memory_teacher: (Q, E) earlier teacher vectors, negatives of the student's anchors.
        memory_index: (Q,) which windows the memory holds.
        weight: (B,) trust in each window.
    """
    student, teacher = student.float(), teacher.float()
    with torch.autocast(student.device.type, enabled=False):  # the products of unit vectors need their digits
        student_anchor = _anchored(student, teacher, temperature, index, memory_teacher, memory_index)
        teacher_anchor = _anchored(teacher, student, temperature, index, memory_student, memory_index)
        return weighted_mean(student_anchor + teacher_anchor, weight)


def _anchored(
    anchor: Tensor,
    other: Tensor,
    temperature: float,
    index: Tensor,
    memory: Tensor | None,
    memory_index: Tensor | None,
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
    """The projectors g_s, g_t and the queue of negatives; trained beside the student, never exported.

    Args:
        student_width: width of the student's embedding.
        teacher_width: width of the teacher's embedding.
        width: E, the common width.
        queue: rows remembered; 0 means negatives come from the batch alone.
    """

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

    def forward(
        self, student: Tensor, teacher: Tensor, index: Tensor, *, temperature: float, weight: Tensor | None = None
    ) -> Tensor:
        """(B, D_S), (B, D_T), (B,) -> the loss; the batch then joins the queue."""
        with torch.autocast(student.device.type, enabled=False):
            of_student = F.normalize(self.student(student.float()), dim=-1)
            of_teacher = F.normalize(self.teacher(teacher.detach().float()), dim=-1)
        filled = self.queue_index >= 0
        loss = crd_loss(
            of_student,
            of_teacher,
            temperature=temperature,
            index=index,
            memory_student=self.queue_student[filled],
            memory_teacher=self.queue_teacher[filled],
            memory_index=self.queue_index[filled],
            weight=weight,
        )
        self._remember(of_student.detach(), of_teacher.detach(), index)
        return loss

    def _remember(self, student: Tensor, teacher: Tensor, index: Tensor) -> None:
        size = self.queue_index.shape[0]
        if size == 0:
            return
        self.queue_student = torch.cat([student, self.queue_student])[:size]
        self.queue_teacher = torch.cat([teacher, self.queue_teacher])[:size]
        self.queue_index = torch.cat([index, self.queue_index])[:size]
