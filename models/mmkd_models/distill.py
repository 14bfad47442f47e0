"""Recipe and distillation step: which loss, between which layers, with which weight over time.

Function matching (Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022): teacher
and student see the same augmented window, the teacher on the fly, so that it has something to say on windows it has
learnt by heart.
"""

from __future__ import annotations

import math
from typing import cast

import msgspec
import torch
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_models.augment import Batch
from mmkd_models.losses.attention import aligned_map, edam_divergence, edam_loss
from mmkd_models.losses.contrast import ContrastHead
from mmkd_models.losses.logits import kl_loss
from mmkd_models.losses.task import soft_cross_entropy
from mmkd_models.networks.encoder import EXTRA_TOKENS, Encoder
from mmkd_models.networks.student import Student, StudentOutput
from mmkd_models.networks.teacher import Teacher, TeacherOutput, hide_modalities

_SELF_TRAINING_TEMPERATURE = 2.0
_SELF_TRAINING_TASK = 0.5


class Weight(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A weight over time: from `start` to `end` along a cosine, reached after the share `until` of the training."""

    start: float
    end: float
    until: float = 1.0

    def at(self, share: float) -> float:
        """Gives the weight after `share` of the training.

        Example:
            >>> decay = Weight(start=0.5, end=0.0, until=0.6)
            >>> decay.at(0.0), round(decay.at(0.3), 3), decay.at(0.9)
            (0.5, 0.25, 0.0)
        """
        done = min(1.0, share / self.until)
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * done))


def constant(value: float) -> Weight:
    """Gives a weight that stays."""
    return Weight(start=value, end=value)


class TaskTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="task"):
    """Cross-entropy against the labels, on labelled windows."""

    weight: Weight


class LogitTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="logit"):
    """Kullback-Leibler divergence from the teacher's outputs at `temperature`."""

    weight: Weight
    temperature: float = 2.0


class EdamTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="edam"):
    """The student's self-attention learns the teacher's cross-attention; layers count from 0, negative from the end."""

    weight: Weight
    student_layer: int = -1
    teacher_layer: int = -1


class CrdTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="crd"):
    """Contrast of the student's embedding with the teacher's fused one; without a `queue` negatives are the batch's."""

    weight: Weight
    temperature: float = 0.07
    width: int = 64
    queue: int = 1024


Term = TaskTerm | LogitTerm | EdamTerm | CrdTerm


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The terms of one distillation; at most one of a kind."""

    terms: tuple[Term, ...]


def check_recipe(recipe: Recipe, *, student_layers: int, teacher_layers: int) -> None:
    """Raises UsageError where the terms cannot be computed: repeats, layers that are not there, impossible numbers."""
    kinds = [_kind(term) for term in recipe.terms]
    if not kinds or len(set(kinds)) != len(kinds):
        raise UsageError(
            f"recipe: expected one or more terms of different kinds, got {', '.join(kinds) or 'none'}; "
            "name each kind once"
        )
    for term in recipe.terms:
        _check_weight(term)
        if isinstance(term, LogitTerm | CrdTerm) and not 0 < term.temperature < math.inf:
            raise UsageError(
                f"recipe: term {_kind(term)!r}: expected a temperature above 0, got {term.temperature}; correct it"
            )
        if isinstance(term, CrdTerm) and (term.width < 1 or term.queue < 0):
            raise UsageError(
                f"recipe: term 'crd': expected width >= 1 and queue >= 0, got {term.width} and {term.queue}; "
                "correct them"
            )
        if isinstance(term, EdamTerm):
            _check_layer("student", term.student_layer, student_layers, "self-attention")
            _check_layer("teacher", term.teacher_layer, teacher_layers, "cross-attention")
    if not any(_lasts(term.weight) for term in recipe.terms):
        raise UsageError(
            "recipe: expected a term whose weight stays above 0 during the whole training, got none; "
            "keep one term on, or let its weight end above 0"
        )


def _kind(term: Term) -> str:
    return str(type(term).__struct_config__.tag)


def _check_weight(term: Term) -> None:
    weight = term.weight
    if not (0 <= weight.start < math.inf and 0 <= weight.end < math.inf and 0 < weight.until <= 1):
        raise UsageError(
            f"recipe: term {_kind(term)!r}: expected a weight of start >= 0 and end >= 0, reached at 0 < until <= 1, "
            f"got {weight.start}, {weight.end} and {weight.until}; correct it"
        )


def _lasts(weight: Weight) -> bool:
    return weight.start > 0 and (weight.end > 0 or weight.until == 1)


def _check_layer(who: str, layer: int, layers: int, kind: str) -> None:
    if layers == 0:
        raise UsageError(
            f"recipe: term 'edam' needs {kind} layers of the {who}, which has none; "
            "use a teacher of two or more modalities, or drop the term"
        )
    if not -layers <= layer < layers:
        raise UsageError(
            f"recipe: term 'edam' names {kind} layer {layer} of the {who}, which has {layers}; "
            f"choose {-layers} to {layers - 1}"
        )


class SupervisedLearner(nn.Module):
    """Labels only: trains a baseline student, or a teacher with modality dropout.

    Args:
        network: what is trained.
        modality: the student's; None for a teacher.
        modality_dropout: probability that a window loses a modality, for a teacher.
    """

    def __init__(self, network: Student | Teacher, *, modality: str | None, modality_dropout: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.modality = modality
        self.modality_dropout = modality_dropout

    def forward(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Gives the cross-entropy of the labelled rows."""
        if self.modality is not None:
            logits = self.network(*batch.inputs[self.modality]).logits
        else:
            inputs = batch.inputs
            if self.network.training:
                inputs = hide_modalities(inputs, self.modality_dropout, torch.default_generator)
            logits = self.network(inputs).logits
        return {"loss": soft_cross_entropy(logits, batch.targets, weight=batch.labelled)}


class SelfTrainingLearner(nn.Module):
    """A second generation of a teacher: learns the first one's answers on all windows, and the labels.

    Source: "Noisy Student" (Xie et al., CVPR 2020): the first generation answers undisturbed, the second one under
    dropout and modality dropout; both see the same mixed window, as in function matching.
    """

    def __init__(self, network: Teacher, first: Teacher, *, modality_dropout: float) -> None:
        super().__init__()
        self.network = network
        self.modality_dropout = modality_dropout
        self._first = (first.eval().requires_grad_(False),)

    def forward(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Gives the divergence from the first generation, the labels' cross-entropy, and `loss`, their sum."""
        inputs = batch.inputs
        if self.network.training:
            inputs = hide_modalities(inputs, self.modality_dropout, torch.default_generator)
        logits = self.network(inputs).logits
        with torch.no_grad():
            first = self._first[0].to(batch.targets.device)(batch.inputs).logits
        logit = kl_loss(logits, first, temperature=_SELF_TRAINING_TEMPERATURE)
        task = soft_cross_entropy(logits, batch.targets, weight=batch.labelled)
        return {"logit": logit, "task": task, "loss": logit + _SELF_TRAINING_TASK * task}


class DistillLearner(nn.Module):
    """Teacher and student see the same batch; the recipe says what the student learns from it.

    The teacher is put into evaluation mode and frozen. It is no submodule, so it stays so when the student trains, and
    no checkpoint of this learner holds it.

    Raises:
        UsageError: the teacher does not know the modality, or the recipe does not fit the networks.
    """

    network: Student
    contrast: ContrastHead | None

    def __init__(self, student: Student, teacher: Teacher, recipe: Recipe, *, modality: str) -> None:
        super().__init__()
        if modality not in teacher.names:
            raise UsageError(
                f"modality {modality!r}: expected one the teacher knows ({', '.join(teacher.names)}); "
                "train a teacher with it first"
            )
        layers = len(student.encoder.blocks)
        check_recipe(recipe, student_layers=layers, teacher_layers=len(teacher.fusion))
        if any(isinstance(term, EdamTerm) for term in recipe.terms):
            _check_lengths(student.encoder.length, tokens_per_window(teacher, modality), modality)
        self.network = student
        self.recipe = recipe
        self.modality = modality
        self._teacher = (teacher.eval().requires_grad_(False),)
        crd = next((term for term in recipe.terms if isinstance(term, CrdTerm)), None)
        self.contrast = (
            ContrastHead(student.head.in_features, teacher.head.in_features, width=crd.width, queue=crd.queue)
            if crd is not None
            else None
        )

    def forward(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Gives the terms by name, unweighted, `loss` their weighted sum, and `edam_kl` for people.

        A term whose weight is 0 at this time is left out.
        """
        weights = {type(term): term.weight.at(share) for term in self.recipe.terms}
        taps = weights.get(EdamTerm, 0.0) > 0
        student = self.network(*batch.inputs[self.modality], taps=taps)
        with torch.no_grad():
            teacher = self._on_device(batch)(batch.inputs, taps=taps)
        terms: dict[str, Tensor] = {}
        total = student.logits.new_zeros(())
        for term in self.recipe.terms:
            weight = weights[type(term)]
            if weight == 0:
                continue
            value = self._term(term, batch, student, teacher, terms)
            total = total + weight * value
        terms["loss"] = total
        return terms

    def _term(
        self, term: Term, batch: Batch, student: StudentOutput, teacher: TeacherOutput, terms: dict[str, Tensor]
    ) -> Tensor:
        match term:
            case TaskTerm():
                value = soft_cross_entropy(student.logits, batch.targets, weight=batch.labelled)
                terms["task"] = value
            case LogitTerm():
                value = kl_loss(student.logits, teacher.logits, temperature=term.temperature)
                terms["logit"] = value
            case EdamTerm():
                value, divergence = self._edam(term, batch, student, teacher)
                terms["edam"], terms["edam_kl"] = value, divergence
            case CrdTerm():
                if self.contrast is None:
                    raise AssertionError("the constructor makes the projectors of a CRD term")
                value = self.contrast(student.embedding, teacher.embedding, batch.index, temperature=term.temperature)
                terms["crd"] = value
        return value

    def _on_device(self, batch: Batch) -> Teacher:
        teacher = self._teacher[0]
        return teacher.to(batch.targets.device)

    def _edam(
        self, term: EdamTerm, batch: Batch, student: StudentOutput, teacher: TeacherOutput
    ) -> tuple[Tensor, Tensor]:
        """The loss and its divergence, over the tokens and windows in which the teacher's map says something."""
        sources = [name for name in self._teacher[0].names if name != self.modality]
        valid = (self.network.encoder.key_bias(batch.inputs[self.modality][1]) == 0).float()  # (B, L + 2)
        there = torch.stack([batch.inputs[name][1].amax((1, 2)) for name in sources]).amax(0)  # (B,)
        target = aligned_map(
            teacher.cross_attention[self.modality][term.teacher_layer],
            source_lengths=[tokens_per_window(self._teacher[0], name) for name in sources],
            length=self.network.encoder.length,
            extra=EXTRA_TOKENS,
            valid_keys=valid,
        )
        own = student.attention[term.student_layer]
        loss = edam_loss(own, target, valid_rows=valid, weight=there)
        return loss, edam_divergence(own, target, valid_rows=valid, weight=there).detach()


def tokens_per_window(teacher: Teacher, modality: str) -> int:
    """Gives L, the time tokens into which the teacher's encoder of that modality turns a window."""
    return cast("Encoder", teacher.encoders[modality]).length


def _check_lengths(student: int, teacher: int, modality: str) -> None:
    if student != teacher:
        raise UsageError(
            f"recipe: term 'edam' needs as many time tokens in student and teacher, got {student} and {teacher} for "
            f"modality {modality!r}; use the same 'most_tokens' in both, or drop the term"
        )
