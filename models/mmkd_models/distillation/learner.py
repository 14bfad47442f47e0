"""Learners: what a batch teaches, from labels, an earlier teacher, or a recipe.

Teacher and student see the same augmented window (Beyer et al., CVPR 2022).
"""

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
from mmkd_models.distillation.recipe import Recipe, check_terms
from mmkd_models.losses.layers import LayerTerm, student_depth, teacher_depth
from mmkd_models.losses.logits import logit_loss
from mmkd_models.losses.task import task_loss
from mmkd_models.losses.term import CLASSES, Goal, InnerTerm, OutputTerm, Pair, TrainingStep
from mmkd_models.networks.causal import CausalEncoder
from mmkd_models.networks.committee import Committee, FixedViews
from mmkd_models.networks.encoder import Encoder, blank_inputs
from mmkd_models.networks.student import Student, StudentOutput
from mmkd_models.networks.teacher import Inputs, Teacher, TeacherOutput, hide_modalities

_SELF_TRAINING_TEMPERATURE = 2.0
_SELF_TRAINING_TASK = 0.5


class SupervisedLearner(nn.Module):
    """Trains a student of `modality`, or (None) a teacher with modality dropout, on labels."""

    def __init__(
        self, network: nn.Module, *, modality: str | None, modality_dropout: float = 0.0, goal: Goal = CLASSES
    ) -> None:
        super().__init__()
        self.network, self.goal = network, goal
        self.modality, self.modality_dropout = modality, modality_dropout

    def forward(self, batch: Batch, fraction: float) -> dict[str, Tensor]:
        """Return the loss of the labelled rows."""
        if self.modality is not None:
            logits = self.network(*batch.inputs[self.modality]).logits
        else:
            logits = self.network(_inputs_with_gaps(self.network, batch, self.modality_dropout)).logits
        return {"loss": task_loss(self.goal, logits, batch.targets, weight=batch.labelled)}


class SelfTrainingLearner(nn.Module):
    """A second generation: learns the first one's answers on all windows, and the labels.

    "Noisy Student" (Xie et al., CVPR 2020): only the second answers under dropout.
    """

    def __init__(self, network: Teacher, first: Teacher, *, modality_dropout: float, goal: Goal = CLASSES) -> None:
        super().__init__()
        self.network, self.goal = network, goal
        self.modality_dropout = modality_dropout
        self._first = (first.eval().requires_grad_(False),)

    def forward(self, batch: Batch, fraction: float) -> dict[str, Tensor]:
        """Return the distance from the first generation, the labels' loss, and their weighted sum, `loss`."""
        logits = self.network(_inputs_with_gaps(self.network, batch, self.modality_dropout)).logits
        with torch.no_grad():
            first = self._first[0].to(batch.targets.device)(batch.inputs).logits
        logit = logit_loss(self.goal, logits, first, temperature=_SELF_TRAINING_TEMPERATURE)
        task = task_loss(self.goal, logits, batch.targets, weight=batch.labelled)
        return {"logit": logit, "task": task, "loss": logit + _SELF_TRAINING_TASK * task}


def _inputs_with_gaps(network: nn.Module, batch: Batch, probability: float) -> Inputs:
    return hide_modalities(batch.inputs, probability, torch.default_generator) if network.training else batch.inputs


class DistillLearner(nn.Module):
    """Teachers and student see the same batch; the recipe says what the student learns from it.

    Teachers, in the recipe's order, are frozen and no submodules, so no checkpoint contains them. Your own networks
    work if `student(values, present, taps=...)` returns a `StudentOutput` and `teacher(inputs, taps=...)` a
    `TeacherOutput`, shown by an `example` input.

    Raises UsageError if the recipe does not fit the networks.
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
        _check_teachers(recipe, teachers, modality)
        self.network, self.recipe, self.modality, self.goal = student, recipe, modality, goal
        self._memory = memory
        self._teachers = tuple(each.eval().requires_grad_(False) for each in teachers)
        own, others = _outputs(student, teachers, modality, example)
        check_terms(recipe, classes=others[0].logits.shape[-1], kind=goal.kind)
        causal = isinstance(student, Student) and isinstance(student.encoder, CausalEncoder)
        pairs = [Pair(student=own, teacher=other, modality=modality) for other in others]
        for number, pair in enumerate(pairs):
            _check_pair(recipe, number, pair, causal=causal)
        heads = {term.name: term.head(pairs[term.reads_teacher or 0]) for term in recipe.terms}
        self.heads = nn.ModuleDict({name: head for name, head in heads.items() if head is not None})

    def forward(self, batch: Batch, fraction: float) -> dict[str, Tensor]:
        """Return the active terms by name, unweighted, and their weighted sum, `loss`."""
        active = [(term, weight) for term in self.recipe.terms if (weight := term.weight.at(fraction)) > 0]
        taps = any(term.compares_layers() for term, _ in active)
        student: StudentOutput = self.network(*batch.inputs[self.modality], taps=taps)
        teachers = self._answers(batch, taps=taps)
        logits = [teacher.logits for teacher in teachers]
        heads = dict(self.heads.items())
        terms: dict[str, Tensor] = {}
        total = student.logits.new_zeros(())
        for term, weight in active:
            step = TrainingStep(
                pair=Pair(student=student, teacher=teachers[term.reads_teacher or 0], modality=self.modality),
                batch=batch,
                goal=self.goal,
                together=lambda temperature: mix_logits(self.goal, logits, temperature=temperature),
            )
            terms.update(term.loss(step, heads.get(term.name)))
            total = total + weight * terms[term.name]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Processes that share a batch wait for a gradient of every parameter, also of those no term reads now.
            total = total + 0.0 * torch.stack([parameter.sum() for parameter in self.parameters()]).sum()
        terms["loss"] = total
        return terms

    def _answers(self, batch: Batch, *, taps: bool) -> tuple[TeacherOutput, ...]:
        if taps or self._memory is None:
            return ask_teachers(self._teachers, batch, taps=taps)
        known = self._memory.recall(batch.step, batch.targets.device)
        if known is not None:
            return known
        answers = ask_teachers(self._teachers, batch, taps=False)
        self._memory.keep(batch.step, answers)
        return answers


def _check_pair(recipe: Recipe, number: int, pair: Pair, *, causal: bool) -> None:
    terms = [term for term in recipe.terms if term.reads_teacher in (None, number)]
    fusion, blocks = pair.teacher.cross_attention.get(pair.modality, ()), teacher_depth(pair.teacher, pair.modality)
    for term in terms:
        if isinstance(term, LayerTerm):
            term.check_depth(student=student_depth(pair.student), fusion=len(fusion), blocks=blocks)
    for term in terms:
        if isinstance(term, LayerTerm | OutputTerm):  # embeddings of any width can be compared
            term.check_pair(pair, causal=causal)


def _outputs(
    student: nn.Module, teachers: Sequence[nn.Module], modality: str, example: Inputs | None
) -> tuple[StudentOutput, tuple[TeacherOutput, ...]]:
    networks = [_known_teacher(teacher) or teacher for teacher in teachers]
    if example is None:
        example = _example(student, networks, modality)
    if modality not in example:
        raise UsageError(
            f"modality {modality!r}: expected one of the example's ({', '.join(example)}); name the student's"
        )
    was_training = student.training
    with torch.no_grad():
        own = student.eval()(*example[modality], taps=True)
        others = tuple(teacher(example, taps=True) for teacher in networks)
    student.train(was_training)
    outputs = (("student", own, StudentOutput), *(("teacher", other, TeacherOutput) for other in others))
    for who, output, expected in outputs:
        if not isinstance(output, expected):
            raise UsageError(
                f"distillation: expected the {who} to give a {expected.__name__}, got {type(output).__name__}; "
                f"wrap what it gives in mmkd_models.networks.{who}.{expected.__name__}"
            )
    return own, others


def _example(student: nn.Module, teachers: Sequence[nn.Module], modality: str) -> Inputs:
    specs: dict[str, ModalitySpec] = {}
    for teacher in teachers:
        if not (isinstance(student, Student) and isinstance(teacher, Teacher)):
            raise UsageError(
                "distillation: networks of your own need example=, the inputs of any batch, to see what they give"
            )
        specs[modality] = student.modality
        specs |= {name: cast("Encoder", teacher.encoders[name]).modality for name in teacher.names}
    return {name: blank_inputs(spec) for name, spec in specs.items()}


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


def _known_teacher(teacher: nn.Module) -> Teacher | None:
    if isinstance(teacher, Committee | FixedViews):
        return teacher.first
    return teacher if isinstance(teacher, Teacher) else None


def _check_teachers(recipe: Recipe, teachers: Sequence[nn.Module], modality: str) -> None:
    if not teachers:
        raise UsageError("distillation: expected one or more teachers, got none; name some")
    count = len(teachers)
    for term in recipe.terms:
        if not isinstance(term, InnerTerm):
            continue
        if term.member is UNSET and count > 1:
            raise UsageError(
                f"recipe: term {term.name!r} looks into one teacher, and there are {count}; name it with member, "
                f"from 0 to {count - 1} in the order of the teachers"
            )
        if not 0 <= term.reads_teacher < count:
            raise UsageError(
                f"recipe: term {term.name!r}: expected a member from 0 to {count - 1} of {count} "
                f"{'teacher' if count == 1 else 'teachers'}, got {term.member}; correct it"
            )
        known = _known_teacher(teachers[term.reads_teacher])
        if known is not None and modality not in known.names and term.compares_layers():
            raise UsageError(
                f"recipe: term {term.name!r} needs a teacher that sees {modality!r}, and this one sees "
                f"{', '.join(known.names)}; train a teacher with it, or learn from outputs and embedding alone"
            )
