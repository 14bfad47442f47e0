"""Learners: what a batch teaches. Teacher and student see the same augmented window (Beyer et al., CVPR 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from msgspec import UNSET
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.batches import Batch
from mmkd_models.distillation.answers import AnswerMemory, ask_teachers
from mmkd_models.distillation.recipe import Recipe, Term, check_terms
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.task import task_loss
from mmkd_models.losses.term import CLASSES, Goal, InnerTerm, OutputTerm, Pair, TrainingStep
from mmkd_models.networks.causal import CausalEncoder
from mmkd_models.networks.committee import Committee, FixedViews
from mmkd_models.networks.encoder import Encoder, blank_inputs
from mmkd_models.networks.student import Student, StudentOutput
from mmkd_models.networks.teacher import Inputs, Teacher, TeacherOutput, hide_modalities


class SupervisedLearner(nn.Module):
    """Trains a student of `modality`, or (None) a teacher with modality dropout, on labels."""

    def __init__(
        self, network: nn.Module, *, modality: str | None, modality_dropout: float = 0.0, goal: Goal = CLASSES
    ) -> None:
        super().__init__()
        self.network, self.goal = network, goal
        self.modality, self.modality_dropout = modality, modality_dropout

    def forward(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Return the loss of the labelled rows."""
        if self.modality is not None:
            logits = self.network(*batch.inputs[self.modality]).logits
        else:
            hidden = self.modality_dropout if self.network.training else 0.0
            logits = self.network(hide_modalities(batch.inputs, hidden, torch.default_generator)).logits
        return {"loss": task_loss(self.goal, logits, batch.targets, weight=batch.labelled)}


class DistillLearner(nn.Module):
    """Trains a student by a recipe, on the batches that its teachers see. Raises UsageError if they do not fit.

    Teachers, in the recipe's order, are frozen and no submodules, so no checkpoint contains them. Your own networks
    work if `student(values, present, taps=...)` returns a `StudentOutput` and `teacher(inputs, taps=...)` a
    `TeacherOutput`, shown by an `example` input.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Sequence[nn.Module],
        recipe: Recipe,
        *,
        modality: str,
        example: Inputs | None = None,
        memory: AnswerMemory | None = None,
        goal: Goal = CLASSES,
    ) -> None:
        super().__init__()
        teachers = (teacher,) if isinstance(teacher, nn.Module) else tuple(teacher)
        if not teachers:
            raise UsageError("distillation: expected one or more teachers, got none; name some")
        for term in recipe.terms:
            if isinstance(term, InnerTerm) and not (
                0 <= term.member < len(teachers) if isinstance(term.member, int) else len(teachers) == 1
            ):
                got = "none" if term.member is UNSET else term.member
                raise UsageError(
                    f"recipe: term {term.name!r} looks into one of {len(teachers)} teachers: expected member=0 to "
                    f"{len(teachers) - 1}, in their order, got {got}"
                )
        check_terms(recipe, kind=goal.kind)
        self.network, self.recipe, self.modality, self.goal = student, recipe, modality, goal
        self._memory = memory
        self._teachers = tuple(each.eval().requires_grad_(False) for each in teachers)
        example = _example(student, teachers, modality) if example is None else example
        pairs = _example_pairs(student, teachers, modality, example)
        heads = {term.name: term.head(pairs[_teacher_of(term)]) for term in recipe.terms}
        self.heads = nn.ModuleDict({name: head for name, head in heads.items() if head is not None})
        for term in recipe.terms:
            self._check_fit(term, pairs, example)

    def _check_fit(self, term: Term, pairs: Sequence[Pair], example: Inputs) -> None:
        own, counts = pairs[0].student.logits, [pair.teacher.logits.shape[-1] for pair in pairs]
        if isinstance(term, OutputTerm) and any(count != own.shape[-1] for count in counts):
            raise UsageError(
                f"recipe: term {term.name!r}: the student has {own.shape[-1]} outputs, the teacher "
                f"{', '.join(map(str, counts))}; train both on the same classes"
            )
        if isinstance(term, EdamTerm) and isinstance(getattr(self.network, "encoder", None), CausalEncoder):
            raise UsageError(
                "recipe: term 'edam': expected a windowed student, got a causal one: its tokens attend to what came "
                "before them alone, and the teacher's maps look at the whole window; leave the term out"
            )
        if not term.compares_layers():
            return
        size = len(own)
        batch = Batch(inputs=dict(example), targets=own, labelled=own.new_ones(size), index=torch.arange(size))
        step = TrainingStep(pair=pairs[_teacher_of(term)], batch=batch, goal=self.goal, together=lambda _: own)
        try:
            with torch.no_grad():
                term.loss(step, dict(self.heads.items()).get(term.name))
        except (ValueError, RuntimeError) as error:
            raise UsageError(f"recipe: term {term.name!r} cannot compare these networks: {error}") from error

    def forward(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Return the active terms by name, unweighted, and their weighted sum, `loss`."""
        active = [(term, weight) for term in self.recipe.terms if (weight := term.weight.at(progress)) > 0]
        taps = any(term.compares_layers() for term, _ in active)
        student: StudentOutput = self.network(*batch.inputs[self.modality], taps=taps)
        memory = None if taps else self._memory
        teachers = memory.recall(batch.step, batch.targets.device) if memory is not None else None
        if teachers is None:
            teachers = ask_teachers(self._teachers, batch, taps=taps)
            if memory is not None:
                memory.keep(batch.step, teachers)
        logits = [teacher.logits for teacher in teachers]
        heads = dict(self.heads.items())
        terms: dict[str, Tensor] = {}
        total = student.logits.new_zeros(())
        for term, weight in active:
            step = TrainingStep(
                pair=Pair(student=student, teacher=teachers[_teacher_of(term)], modality=self.modality),
                batch=batch,
                goal=self.goal,
                together=lambda temperature: mix_logits(self.goal, logits, temperature=temperature),
            )
            terms[term.name] = term.loss(step, heads.get(term.name))
            total = total + weight * terms[term.name]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Processes that share a batch wait for a gradient of every parameter, also of those no term reads now.
            total = total + 0.0 * torch.stack([parameter.sum() for parameter in self.parameters()]).sum()
        terms["loss"] = total
        return terms


def _teacher_of(term: Term) -> int:
    return term.member or 0 if isinstance(term, InnerTerm) else 0


def _transformer(teacher: nn.Module) -> nn.Module:
    return teacher.first if isinstance(teacher, Committee | FixedViews) else teacher


def _example(student: nn.Module, teachers: Sequence[nn.Module], modality: str) -> Inputs:
    specs: dict[str, ModalitySpec] = {}
    for teacher in map(_transformer, teachers):
        if not (isinstance(student, Student) and isinstance(teacher, Teacher)):
            raise UsageError(
                "distillation: networks of your own need example=, the inputs of any batch, to see what they give"
            )
        specs[modality] = student.modality
        specs |= {name: cast("Encoder", teacher.encoders[name]).modality for name in teacher.names}
    return {name: blank_inputs(spec) for name, spec in specs.items()}


def _example_pairs(student: nn.Module, teachers: Sequence[nn.Module], modality: str, example: Inputs) -> list[Pair]:
    if modality not in example:
        raise UsageError(
            f"modality {modality!r}: expected one of the example's ({', '.join(example)}); name the student's"
        )
    was_training = student.training
    with torch.no_grad():
        own = student.eval()(*example[modality], taps=True)
        others = [_transformer(teacher)(example, taps=True) for teacher in teachers]
    student.train(was_training)
    outputs = (("student", own, StudentOutput), *(("teacher", other, TeacherOutput) for other in others))
    for who, output, expected in outputs:
        if not isinstance(output, expected):
            raise UsageError(
                f"distillation: expected the {who} to give a {expected.__name__}, got {type(output).__name__}; "
                f"wrap what it gives in mmkd_models.networks.{who}.{expected.__name__}"
            )
    return [Pair(student=own, teacher=other, modality=modality) for other in others]


def mix_logits(goal: Goal, logits: Sequence[Tensor], *, temperature: float) -> Tensor:
    """Return logits z (B, K) of all teachers together.

    softmax(z / T), or the sigmoid of several labels, is their mean probability at T; numbers are averaged (Hinton,
    Vinyals, Dean, 2015). No gradient flows into teachers.
    """
    if len(logits) == 1:
        return logits[0]
    stacked = torch.stack([each.detach().float() for each in logits])  # (M, B, K)
    if goal.kind == "regression":
        return stacked.mean(0)
    if goal.kind == "multi_label":
        on, off = (torch.logsumexp(F.logsigmoid(sign * stacked / temperature), dim=0) for sign in (1, -1))
        return temperature * (on - off)
    log_probabilities = torch.log_softmax(stacked / temperature, dim=-1)
    return temperature * (torch.logsumexp(log_probabilities, dim=0) - math.log(len(logits)))
