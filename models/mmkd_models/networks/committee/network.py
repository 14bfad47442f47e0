"""The committee as a teacher: its members answer together, and what is inside is its first transformer's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_edge.spec import TaskKind
from mmkd_models.networks.config import MemberKind, RocketConfig
from mmkd_models.networks.teacher import Inputs, Teacher, TeacherOutput

_LEAST_SHARE = 1e-12
"""A probability whose logarithm is still finite in float64, and whose weight in a mean is none."""


class MemberFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a member is, and what it is worth.

    Attributes:
        seed: of its training.
        temperature: that calibrates its logits; 1 of a regression.
        weight: of its probabilities in the mean; 0 where its answers tell nothing.
        score: of its answers alone on validation, by the metric of the checkpoint.
        log_likelihood: mean, of its calibrated answers on validation, in nats.
        features: of a rocket, by modality.
        modality: the one that it sees; unset where it sees all.
        bias: (K,) what its logits are raised by before the temperature, so that classes with few labels are answered as
            often as validation wants; unset where it wants nothing, and of transformers, whose heads have it.
    """

    kind: MemberKind
    seed: int
    temperature: float
    weight: float
    score: float
    log_likelihood: float
    features: dict[str, RocketConfig] | msgspec.UnsetType = msgspec.UNSET
    bias: tuple[float, ...] | msgspec.UnsetType = msgspec.UNSET
    modality: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def named(self) -> str:
        """Gives what it is called where people read."""
        return f"{self.kind} of {self.modality}" if self.modality else self.kind


class CommitteeFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The members of a committee in their order, the first of them a transformer."""

    members: tuple[MemberFacts, ...]


def committee_fault(facts: CommitteeFacts) -> str | None:
    """Says what makes facts no committee's: `expected ..., got ...`; None where they are sound."""
    kinds = [member.kind for member in facts.members]
    if len(kinds) < 2 or kinds[0] != "transformer":
        return f"expected two members or more and a transformer first, got {', '.join(kinds) or 'none'}"
    weights = [member.weight for member in facts.members]
    if not (all(weight >= 0 for weight in weights) and math.isclose(sum(weights), 1, abs_tol=1e-6)):
        return f"expected weights from 0 with the sum 1, got {', '.join(f'{weight:g}' for weight in weights)}"
    temperatures = [member.temperature for member in facts.members]
    if not all(0 < one < math.inf for one in temperatures):
        return f"expected temperatures above 0, got {', '.join(f'{one:g}' for one in temperatures)}"
    if any(member.kind == "transformer" and member.bias for member in facts.members):
        return "expected no bias of a transformer, whose head has it, got one"
    if any(member.kind == "transformer" and member.modality for member in facts.members):
        return "expected transformers of all modalities, got one of a single modality"
    return None


class Committee(nn.Module):
    """Members that answer as one teacher.

    A window that lacks a whole modality is answered by the members that can do without it, where one of them counts:
    transformers leave it out of all they compute, and some see another modality alone; other statistics and kernels
    cannot.

    Args:
        members: in the order of the facts. Transformers give a `TeacherOutput`, others (B, K) logits.
    """

    def __init__(self, members: Sequence[nn.Module], facts: CommitteeFacts, *, kind: TaskKind) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.facts = facts
        self.kind = kind

    @property
    def first(self) -> Teacher:
        """Gives the first transformer, which losses look into."""
        return cast("Teacher", self.members[0])

    @property
    def names(self) -> tuple[str, ...]:
        """Gives the modalities, in their order."""
        return self.first.names

    @property
    def fixed(self) -> tuple[int, ...]:
        """Gives the numbers of the members that count and are no transformer."""
        members = enumerate(self.facts.members)
        return tuple(number for number, one in members if one.weight > 0 and one.kind != "transformer")

    def forward(
        self, inputs: Inputs, *, taps: bool = False, given: Mapping[int, Tensor] | None = None
    ) -> TeacherOutput:
        """Answers a batch of windows as `Teacher` does: the logits are the committee's, all else the first's.

        Args:
            given: calibrated logits (B, K) of members by their number, who are not asked then.
        """
        output: TeacherOutput = self.first(inputs, taps=taps)
        known = given or {}
        counting = [number for number, one in enumerate(self.facts.members) if one.weight > 0]
        each = [known[number] if number in known else self._asked(number, inputs, output) for number in counting]
        pooled = self._pooled(torch.stack(each), self._weights(counting, inputs))
        return replace(output, logits=pooled.to(output.logits))

    def calibrated(self, number: int, logits: Tensor) -> Tensor:
        """Gives the logits of a member with its bias at its temperature, in float64."""
        member = self.facts.members[number]
        raised = logits.double() + logits.new_tensor(member.bias or (0.0,), dtype=torch.float64)
        return raised / member.temperature

    def shares_of_logits(self, logits: Tensor) -> Tensor:
        """Gives (B, K) probabilities; of a regression the numbers as they are."""
        if self.kind == "regression":
            return logits
        return logits.softmax(-1) if self.kind == "classification" else logits.sigmoid()

    def logits_of_shares(self, shares: Tensor) -> Tensor:
        """Gives (B, K) logits of probabilities; of a regression the numbers as they are."""
        if self.kind == "regression":
            return shares
        least = shares.clamp(min=_LEAST_SHARE)
        return least.log() if self.kind == "classification" else torch.logit(least.clamp(max=1 - _LEAST_SHARE))

    def _asked(self, number: int, inputs: Inputs, first: TeacherOutput) -> Tensor:
        found = first if number == 0 else self.members[number](inputs)
        return self.calibrated(number, found.logits if isinstance(found, TeacherOutput) else found)

    def _weights(self, counting: Sequence[int], inputs: Inputs) -> Tensor:
        """(M, B) float64 of the members that count, for each window with the sum 1."""
        members = [self.facts.members[number] for number in counting]
        there = torch.stack([(inputs[name][1] > 0).flatten(1).any(1) for name in self.names])  # (modalities, B)
        weights = there.new_tensor([one.weight for one in members], dtype=torch.float64)[:, None]
        able = weights * torch.stack([self._can_answer(one, there) for one in members])
        total = able.sum(0)
        return torch.where(total > 0, able / total.clamp(min=_LEAST_SHARE), weights)

    def _can_answer(self, member: MemberFacts, there: Tensor) -> Tensor:
        """(modalities, B) which are there -> (B,) whether a member sees all that it needs."""
        if member.kind == "transformer":
            return torch.ones_like(there[0])
        return there[self.names.index(member.modality)] if member.modality else there.all(0)

    def _pooled(self, logits: Tensor, weights: Tensor) -> Tensor:
        """(M, B, K) calibrated logits and (M, B) weights -> (B, K) logits of the weighted mean of probabilities."""
        if self.kind == "regression":
            return (weights[..., None] * logits).sum(0)
        prior = weights.log()[..., None]
        if self.kind == "classification":
            return torch.logsumexp(prior + logits.log_softmax(-1), dim=0)
        on, off = (torch.logsumexp(prior + F.logsigmoid(sign * logits), dim=0) for sign in (1, -1))
        return on - off
