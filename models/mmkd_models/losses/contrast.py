"""CRD: contrastive representation distillation.

Source: Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, equations 17 and 18: with
h(t, s) = exp(g_s . g_t / tau) / (exp(g_s . g_t / tau) + N / M) the loss is
-E_positive[log h] - N E_negative[log(1 - h)], both anchors. The authors' code (RepDistiller, `crd/memory.py` and
`crd/criterion.py`) divides the scores by Z = M * (their mean, taken once, in the first step), so that with
e = exp(g_s . g_t / tau) / (mean score) it computes h = e / (e + N). We follow the code, with two differences: negatives
come from the batch and a queue (MoCo, He et al., CVPR 2020, which RepDistiller's author advises where samples have no
index), and the mean is that of the anchor's own negatives in every step, held constant for the gradient.

With `memory` "bank" positives and negatives come from a bank instead, as in the authors' code: one remembered vector
for every training window, of student and of teacher; scores are divided by their mean in the first step, once and for
all; after the loss the bank's rows move towards the batch with a momentum. Differences: it runs on any device; a window
is never drawn as a negative of itself; rows of one window in a batch are averaged before they are remembered.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind
from mmkd_models.losses.term import MemberIndex, Mix, Pair, TrainingStep, Weight, check_temperature, constant, refused
from mmkd_models.losses.tokens import weighted_mean

_QUEUE, _NEGATIVES, _MOMENTUM = 1024, 1024, 0.5


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
        index: (B,) which window each row is.
        memory_student: (Q, E) earlier student vectors, negatives of the teacher's anchors.
        memory_teacher: (Q, E) earlier teacher vectors, negatives of the student's anchors.
        memory_index: (Q,) which windows the memory holds.
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
        width: E, the common width.
        windows: N, the training windows; each owns a row.
        negatives: K, drawn for each anchor from the other windows.
        momentum: of a row towards its new vector: 0 forgets the old one.

    Raises ValueError where there are fewer than two windows, or no negatives.
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


class CrdTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="crd"):
    """Contrast of embeddings; negatives come from the batch and a `queue`, from the batch, or from a memory `bank`."""

    weight: Weight = constant(0.1)
    temperature: float = 0.07
    width: int = 64
    memory: Literal["queue", "batch", "bank"] = "queue"
    queue: int = _QUEUE
    negatives: int = _NEGATIVES
    momentum: float = _MOMENTUM
    member: MemberIndex = msgspec.UNSET

    def looks_into(self) -> MemberIndex:
        """Into the member's embedding."""
        return self.member

    def compares_layers(self) -> bool:
        """None: an embedding is no layer."""
        return False

    def compares_vectors(self) -> bool:
        """Yes: windows are compared with each other."""
        return True

    def check(self, *, kind: TaskKind, classes: int | None, mix: Mix | None) -> None:
        """Raises UsageError for numbers that cannot be, and for options that the memory does not read."""
        check_temperature(self, self.temperature)
        if self.width < 1 or self.queue < 0:
            raise refused(self, "width >= 1 and queue >= 0", f"{self.width} and {self.queue}; correct them")
        if self.negatives < 1 or not 0 <= self.momentum < 1:
            wanted = "negatives >= 1 and a momentum from 0 to below 1"
            raise refused(self, wanted, f"{self.negatives} and {self.momentum}; correct them")
        for name, usual, memory in (
            ("queue", _QUEUE, "queue"),
            ("negatives", _NEGATIVES, "bank"),
            ("momentum", _MOMENTUM, "bank"),
        ):
            value = getattr(self, name)
            if value != usual and self.memory != memory:
                raise refused(
                    self,
                    f"no {name} with memory {self.memory!r}, which reads none",
                    f"{value}; leave it out, or set memory to {memory!r}",
                )

    def check_depth(self, *, student: int, fusion: int, blocks: int) -> None:
        """Any depth will do."""

    def check_pair(self, pair: Pair, *, causal: bool) -> None:
        """Any two embeddings can be projected."""

    def head(self, pair: Pair, *, windows: int | None) -> ContrastHead | ContrastBank:
        """The projectors, with the queue or the banks."""
        own, other = pair.student.embedding.shape[-1], pair.teacher.embedding.shape[-1]
        if self.memory != "bank":
            queue = self.queue if self.memory == "queue" else 0
            return ContrastHead(own, other, width=self.width, queue=queue)
        if windows is None or windows < 2:
            raise UsageError(
                "recipe: term 'crd' with a memory bank needs the number of training windows, two or more, got "
                f"{windows}; give it, or set memory to 'queue'"
            )
        return ContrastBank(
            own, other, width=self.width, windows=windows, negatives=self.negatives, momentum=self.momentum
        )

    def loss(self, step: TrainingStep, head: nn.Module | None) -> dict[str, Tensor]:
        """The contrast of the batch, which then joins the memory."""
        assert isinstance(head, ContrastHead | ContrastBank)  # what `head` made before the first step
        vectors = step.pair.student.embedding, step.pair.teacher.embedding, step.batch.index
        found: Tensor = head(*vectors, temperature=self.temperature, weight=step.trust)
        return {"crd": found}
