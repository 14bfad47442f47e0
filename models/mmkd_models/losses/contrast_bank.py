"""CRD with a memory bank: one remembered vector for every training window, of student and of teacher.

Source: Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, equations 17 and 18, in the form of
the authors' code (RepDistiller, `crd/memory.py` and `crd/criterion.py`): positives and negatives of an anchor come from
the bank of the other network; scores are divided by their mean in the first step, once and for all; after the loss the
bank's rows move towards the batch with a momentum. Differences: it runs on any device; a window is never drawn as a
negative of itself; rows of one window in a batch are averaged before they are remembered.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_models.losses.weighting import weighted_mean


def bank_loss(scores: Tensor, *, log_mean: Tensor) -> Tensor:
    """Gives the (B,) loss of anchors: -log h(positive) - sum log(1 - h(negative)), h = e / (e + K), e = exp(s) / mean.

    Args:
        scores: (B, 1 + K) dot products over tau, the positive first.
        log_mean: () logarithm of the mean of the exponentials, a constant.
    """
    odds = scores - log_mean - math.log(scores.shape[1] - 1)  # h = sigmoid(odds)
    return -F.logsigmoid(odds[:, 0]) - F.logsigmoid(-odds[:, 1:]).sum(-1)


class ContrastBank(nn.Module):
    """The projectors g_s, g_t and the two banks; trained beside the student, never exported.

    Args:
        student_width: width of the student's embedding.
        teacher_width: width of the teacher's embedding.
        width: E, the common width.
        windows: N, the training windows; each owns a row.
        negatives: K, drawn for each anchor from the other windows.
        momentum: of a row towards its new vector: 0 forgets the old one.

    Raises:
        ValueError: fewer than two windows, or no negatives.
    """

    bank_student: Tensor
    bank_teacher: Tensor
    log_means: Tensor
    started: Tensor

    def __init__(
        self, student_width: int, teacher_width: int, *, width: int, windows: int, negatives: int, momentum: float
    ) -> None:
        super().__init__()
        if windows < 2 or negatives < 1:
            raise ValueError(
                f"memory bank: expected windows >= 2 and negatives >= 1, got {windows} and {negatives}; correct them"
            )
        self.student = nn.Linear(student_width, width)
        self.teacher = nn.Linear(teacher_width, width)
        self.negatives, self.momentum = negatives, momentum
        self.register_buffer("bank_student", F.normalize(torch.randn(windows, width), dim=-1))
        self.register_buffer("bank_teacher", F.normalize(torch.randn(windows, width), dim=-1))
        self.register_buffer("log_means", torch.zeros(2))  # of the scores of the student's and the teacher's anchors
        self.register_buffer("started", torch.zeros((), dtype=torch.int64))

    def forward(
        self, student: Tensor, teacher: Tensor, index: Tensor, *, temperature: float, weight: Tensor | None = None
    ) -> Tensor:
        """(B, D_S), (B, D_T), (B,) rows of the bank -> the loss, both anchors; the batch then enters the bank."""
        with torch.autocast(student.device.type, enabled=False):
            of_student = F.normalize(self.student(student.float()), dim=-1)
            of_teacher = F.normalize(self.teacher(teacher.detach().float()), dim=-1)
            rows = torch.cat([index[:, None], self._others(index)], dim=1)  # (B, 1 + K)
            student_scores = _scores(of_student, self.bank_teacher[rows], temperature)
            teacher_scores = _scores(of_teacher, self.bank_student[rows], temperature)
        self._start(student_scores, teacher_scores)
        anchors = bank_loss(student_scores, log_mean=self.log_means[0].clone())
        anchors = anchors + bank_loss(teacher_scores, log_mean=self.log_means[1].clone())
        _move(self.bank_student, of_student, index, self.momentum)
        _move(self.bank_teacher, of_teacher, index, self.momentum)
        return weighted_mean(anchors, weight)

    @torch.no_grad()
    def _start(self, *scores: Tensor) -> None:
        """Takes the means of the first step; later steps leave them."""
        if int(self.started) == 0:
            self.log_means.copy_(torch.stack([s.flatten().logsumexp(0) - math.log(s.numel()) for s in scores]))
            self.started.fill_(1)

    def _others(self, index: Tensor) -> Tensor:
        """(B,) -> (B, K) rows, drawn evenly among all but the anchor's own."""
        windows = len(self.bank_student)
        # Drawn on the CPU, so that the same seed draws the same rows on every device.
        steps = torch.randint(1, windows, (len(index), self.negatives)).to(index.device)
        return (index[:, None] + steps) % windows


def _scores(anchors: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    return torch.einsum("be,bke->bk", anchors, candidates) / temperature  # b batch, k candidates, e width


@torch.no_grad()
def _move(bank: Tensor, vectors: Tensor, index: Tensor, momentum: float) -> None:
    rows, owner = torch.unique(index, return_inverse=True)
    fresh = torch.zeros(len(rows), vectors.shape[1], device=vectors.device).index_add_(0, owner, vectors)
    bank[rows] = F.normalize(momentum * bank[rows] + (1 - momentum) * F.normalize(fresh, dim=-1), dim=-1)
