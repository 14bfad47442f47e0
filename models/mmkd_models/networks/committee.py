"""Committee: several members that answer as one teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_edge.spec import TaskKind
from mmkd_models.networks.config import ConvolutionsConfig, MemberKind
from mmkd_models.networks.teacher import Inputs, Teacher, TeacherOutput

_MIN_PROBABILITY = 1e-12  # its logarithm is finite, its weight in a mean nothing


class MemberFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A member and its weight."""

    kind: MemberKind
    seed: int
    temperature: float  # calibrates its logits; 1 for a regression
    weight: float  # in the mean of probabilities; 0 if no better than a constant
    score: float  # on validation
    log_likelihood: float  # mean of calibrated validation answers, in nats
    features: dict[str, ConvolutionsConfig] | None = None  # of convolutions, by modality
    bias: tuple[float, ...] | None = None  # (K,) added to logits before the temperature
    modality: str | None = None  # None for all

    @property
    def named(self) -> str:
        """Name in tables and logs."""
        return f"{self.kind} of {self.modality}" if self.modality else self.kind


class CommitteeFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The members; the first is a transformer."""

    members: tuple[MemberFacts, ...]


def committee_fault(facts: CommitteeFacts) -> str | None:
    """Return the fault of a file's facts, `expected ..., got ...`, or None."""
    kinds = [member.kind for member in facts.members]
    if len(kinds) < 2 or kinds[0] != "transformer":
        return f"expected two members or more and a transformer first, got {', '.join(kinds) or 'none'}"
    weights = [member.weight for member in facts.members]
    if not (all(weight >= 0 for weight in weights) and math.isclose(sum(weights), 1, abs_tol=1e-6)):
        return f"expected weights from 0 with the sum 1, got {', '.join(f'{weight:g}' for weight in weights)}"
    temperatures = [member.temperature for member in facts.members]
    if not all(0 < temperature < math.inf for temperature in temperatures):
        return f"expected temperatures above 0, got {', '.join(f'{temperature:g}' for temperature in temperatures)}"
    if any(member.kind == "transformer" and member.bias for member in facts.members):
        return "expected no bias of a transformer, whose head has it, got one"
    if any(member.kind == "transformer" and member.modality for member in facts.members):
        return "expected transformers of all modalities, got one of a single modality"
    return None


class Committee(nn.Module):
    """Members that answer as one teacher.

    If a window lacks a modality, only transformers and other modalities' own members answer; if none has a weight, all
    do.
    """

    def __init__(self, members: Sequence[nn.Module], facts: CommitteeFacts, *, kind: TaskKind) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.facts = facts
        self.kind = kind

    @property
    def first(self) -> Teacher:
        """The first transformer, whose layers losses read."""
        return cast("Teacher", self.members[0])

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities, in order."""
        return self.first.names

    def forward(
        self, inputs: Inputs, *, taps: bool = False, given: Mapping[int, Tensor] | None = None
    ) -> TeacherOutput:
        """Return the committee's logits, otherwise the first transformer's; `given` logits (B, K) are reused."""
        output: TeacherOutput = self.first(inputs, taps=taps)
        given = given or {}
        numbers = [number for number, member in enumerate(self.facts.members) if member.weight > 0]
        logits = []
        for number in numbers:
            if number not in given:
                answer = output if number == 0 else self.members[number](inputs)
                raw = answer.logits if isinstance(answer, TeacherOutput) else answer
                logits.append(self.calibrated(number, raw))
            else:
                logits.append(given[number])
        pooled = self._pool_logits(torch.stack(logits), self._weights(numbers, inputs))
        return replace(output, logits=pooled.to(output.logits))

    def calibrated(self, number: int, logits: Tensor) -> Tensor:
        """Return a member's corrected logits at its temperature, in float64."""
        member = self.facts.members[number]
        raised = logits.double() + logits.new_tensor(member.bias or (0.0,), dtype=torch.float64)
        return raised / member.temperature

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, K) logits -> probabilities; a regression's numbers stay."""
        if self.kind == "regression":
            return logits
        return logits.softmax(-1) if self.kind == "classification" else logits.sigmoid()

    def logits_of(self, probabilities: Tensor) -> Tensor:
        """(B, K) probabilities -> logits; a regression's numbers stay."""
        if self.kind == "regression":
            return probabilities
        least = probabilities.clamp(min=_MIN_PROBABILITY)
        return least.log() if self.kind == "classification" else torch.logit(least.clamp(max=1 - _MIN_PROBABILITY))

    def _weights(self, numbers: Sequence[int], inputs: Inputs) -> Tensor:
        """(M, B): of members that can answer a window, else of all."""
        members = [self.facts.members[number] for number in numbers]
        presence = torch.stack([(inputs[name][1] > 0).flatten(1).any(1) for name in self.names])  # (modalities, B)
        weights = presence.new_tensor([member.weight for member in members], dtype=torch.float64)[:, None]
        can_answer = [
            torch.ones_like(presence[0])
            if member.kind == "transformer"
            else (presence[self.names.index(member.modality)] if member.modality else presence.all(0))
            for member in members
        ]
        able = weights * torch.stack(can_answer)
        total = able.sum(0)
        return torch.where(total > 0, able / total.clamp(min=_MIN_PROBABILITY), weights)

    def _pool_logits(self, logits: Tensor, weights: Tensor) -> Tensor:
        """(M, B, K) calibrated logits, (M, B) weights -> (B, K) logits of the mean probabilities."""
        if self.kind == "regression":
            return (weights[..., None] * logits).sum(0)
        prior = weights.log()[..., None]
        if self.kind == "classification":
            return torch.logsumexp(prior + logits.log_softmax(-1), dim=0)
        on, off = (torch.logsumexp(prior + F.logsigmoid(sign * logits), dim=0) for sign in (1, -1))
        return on - off


class FixedViews(nn.Module):
    """A committee in a distillation: members without a network answer each training window once, as recorded.

    A mixed window gets the same mixture of answers (mixup: Zhang et al., ICLR 2018): these members are many times
    slower than a transformer and never saw mixtures, noise or gaps.

    `ask` returns a member's logits (N, K), once; with `whole` transformers answer recorded windows too, except for
    taps.
    """

    def __init__(self, committee: Committee, ask: Callable[[nn.Module], Tensor], *, whole: bool = False) -> None:
        super().__init__()
        self.committee = committee
        self._ask = ask
        self._whole = whole
        self._cached: dict[int, Tensor] = {}

    @property
    def first(self) -> Teacher:
        """The first transformer."""
        return self.committee.first

    def forward(
        self, inputs: Inputs, *, index: Tensor, partner: Tensor | None, fraction: Tensor | None, taps: bool = False
    ) -> TeacherOutput:
        """Answer training windows `index` (B,), mixed in fractions `fraction` (B,) with `partner` (B,)."""
        if self._whole and not taps:
            if -1 not in self._cached:
                self._cached[-1] = self._ask(self.committee)
            logits = self._cached[-1].to(index.device)[index]
            return TeacherOutput(logits=logits, embedding=logits.new_zeros(len(index), 0))
        given: dict[int, Tensor] = {}
        for number, member in enumerate(self.committee.facts.members):
            if member.kind == "transformer" or member.weight == 0:
                continue
            answers = self._probabilities(number).to(index.device)
            own = answers[index]
            if partner is not None and fraction is not None:
                weight = fraction[:, None].to(own)
                own = weight * own + (1 - weight) * answers[partner]
            given[number] = self.committee.logits_of(own)
        output: TeacherOutput = self.committee(inputs, taps=taps, given=given)
        return output

    def _probabilities(self, number: int) -> Tensor:
        if number not in self._cached:
            logits = self._ask(self.committee.members[number])
            self._cached[number] = self.committee.probabilities(self.committee.calibrated(number, logits))
        return self._cached[number]
