"""Learners: what a batch teaches, from labels, from an earlier teacher, or from a teacher by a recipe.

Function matching (Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022): teacher
and student see the same augmented window, the teacher on the fly, so that it has something to say on windows it has
learnt by heart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.batches import Batch
from mmkd_models.distillation.answers import AnswerMemory
from mmkd_models.distillation.mixing import together
from mmkd_models.distillation.recipe import Recipe, check_terms, member_of, part_of
from mmkd_models.distillation.teachers import answers_of, check_teachers, known_teacher, mix_of
from mmkd_models.distillation.trust import trust_of
from mmkd_models.losses.goal import CLASSES, Goal
from mmkd_models.losses.layers import fusion_depth, student_depth, teacher_depth
from mmkd_models.losses.logits import logit_loss
from mmkd_models.losses.task import TaskTerm, task_loss
from mmkd_models.losses.term import LossTerm, Pair, TrainingStep, name_of
from mmkd_models.networks.causal import CausalEncoder
from mmkd_models.networks.encoder import Encoder, blank_inputs
from mmkd_models.networks.inherit import take_encoder
from mmkd_models.networks.student import Student, StudentOutput
from mmkd_models.networks.teacher import Inputs, Teacher, TeacherOutput, hide_modalities

_SELF_TRAINING_TEMPERATURE = 2.0
_SELF_TRAINING_TASK = 0.5


class SupervisedLearner(nn.Module):
    """Labels only: trains a baseline student, or a teacher with modality dropout.

    Args:
        network: what is trained; ours, or one that answers as ours do.
        modality: the student's; None for a teacher.
        modality_dropout: probability that a window loses a modality, for a teacher.
    """

    def __init__(
        self, network: nn.Module, *, modality: str | None, modality_dropout: float = 0.0, goal: Goal = CLASSES
    ) -> None:
        super().__init__()
        self.goal = goal
        self.network = network
        self.modality = modality
        self.modality_dropout = modality_dropout

    def forward(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Gives the loss of the labelled rows against their labels."""
        if self.modality is not None:
            logits = self.network(*batch.inputs[self.modality]).logits
        else:
            inputs = batch.inputs
            if self.network.training:
                inputs = hide_modalities(inputs, self.modality_dropout, torch.default_generator)
            logits = self.network(inputs).logits
        return {"loss": task_loss(self.goal, logits, batch.targets, weight=batch.labelled)}


class SelfTrainingLearner(nn.Module):
    """A second generation of a teacher: learns the first one's answers on all windows, and the labels.

    Source: "Noisy Student" (Xie et al., CVPR 2020): the first generation answers undisturbed, the second one under
    dropout and modality dropout; both see the same mixed window, as in function matching.
    """

    def __init__(self, network: Teacher, first: Teacher, *, modality_dropout: float, goal: Goal = CLASSES) -> None:
        super().__init__()
        self.goal = goal
        self.network = network
        self.modality_dropout = modality_dropout
        self._first = (first.eval().requires_grad_(False),)

    def forward(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Gives the distance from the first generation, the labels' loss, and `loss`, their sum."""
        inputs = batch.inputs
        if self.network.training:
            inputs = hide_modalities(inputs, self.modality_dropout, torch.default_generator)
        logits = self.network(inputs).logits
        with torch.no_grad():
            first = self._first[0].to(batch.targets.device)(batch.inputs).logits
        temperature = _SELF_TRAINING_TEMPERATURE
        logit = logit_loss(self.goal, logits, first, temperature=temperature, standardise=False, weight=None)
        task = task_loss(self.goal, logits, batch.targets, weight=batch.labelled)
        return {"logit": logit, "task": task, "loss": logit + _SELF_TRAINING_TASK * task}


class DistillLearner(nn.Module):
    """Teacher and student see the same batch; the recipe says what the student learns from it.

    The teacher is put into evaluation mode and frozen. It is no submodule, so it stays so when the student trains, and
    no checkpoint of this learner holds it.

    A teacher need not see the student's modality: then its outputs and its embedding teach. Several teachers teach
    together: their outputs are mixed, and terms that look inside name one of them.

    Networks of your own take part where they answer as ours do: `student(values, present, taps=...)` gives a
    `StudentOutput`, `teacher(inputs, taps=...)` a `TeacherOutput`. They need fill in only what the recipe's terms read.

    Args:
        teacher: what it learns from; several in the order that the recipe's members count.
        windows: number of training windows, for a memory bank.
        example: inputs of any batch, to see what networks of your own give; ours do without.
        memory: of what the teachers answer to the batches of every step; None asks them every time.

    Raises UsageError where the recipe does not fit the networks.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Sequence[nn.Module],
        recipe: Recipe,
        *,
        modality: str,
        windows: int | None = None,
        example: Inputs | None = None,
        memory: AnswerMemory | None = None,
        goal: Goal = CLASSES,
    ) -> None:
        super().__init__()
        self.goal = goal
        teachers = (teacher,) if isinstance(teacher, nn.Module) else tuple(teacher)
        check_teachers(recipe, teachers, modality)
        self.network = student
        self.recipe = recipe
        self.modality = modality
        self._memory = memory
        self._teachers = tuple(one.eval().requires_grad_(False) for one in teachers)
        ours, theirs = _shown(student, teachers, modality, example)
        mix = mix_of(recipe) if len(teachers) > 1 else None
        check_terms(recipe, classes=theirs[0].logits.shape[-1], kind=goal.kind, mix=mix)
        causal = isinstance(student, Student) and isinstance(student.encoder, CausalEncoder)
        pairs = [Pair(student=ours, teacher=shown, modality=modality) for shown in theirs]
        for number, pair in enumerate(pairs):
            _check_pair(part_of(recipe, number), pair, causal=causal)
        if recipe.init == "teacher":
            take_encoder(student, known_teacher(teachers[0]) or teachers[0], modality)
        heads = {name_of(term): term.head(pairs[member_of(term)], windows=windows) for term in recipe.terms}
        self.heads = nn.ModuleDict({name: head for name, head in heads.items() if head is not None})

    def forward(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Gives the terms by name, unweighted, `loss` their weighted sum, and for people `edam_kl` and `trust`.

        A term whose weight is 0 at this time is left out. With trust g in each of B windows, a term is sum(g loss) / B.
        """
        active = [(term, weight) for term in self.recipe.terms if (weight := term.weight.at(share)) > 0]
        taps = any(term.compares_layers() for term, _ in active)
        student: StudentOutput = self.network(*batch.inputs[self.modality], taps=taps)
        teachers = self._answers(batch, taps=taps)
        trust = self._trust(batch, teachers)
        terms: dict[str, Tensor] = {}
        total = student.logits.new_zeros(())
        for term, weight in active:
            found = self._found(term, batch, student, teachers, trust)
            if trust is not None and not isinstance(term, TaskTerm):
                # The losses are means over what is trusted, so that this makes them sums over the whole batch.
                found = {name: value * trust.mean() for name, value in found.items()}
            terms.update(found)
            total = total + weight * found[name_of(term)]
        if trust is not None:
            terms["trust"] = trust.mean()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Processes that share a batch wait for a gradient of every parameter, also of those no term reads now.
            total = total + 0.0 * torch.stack([parameter.sum() for parameter in self.parameters()]).sum()
        terms["loss"] = total
        return terms

    def _answers(self, batch: Batch, *, taps: bool) -> tuple[TeacherOutput, ...]:
        """What the teachers say: as they said it before where somebody has kept it, and nothing inside is read."""
        if taps or self._memory is None:
            return answers_of(self._teachers, batch, taps=taps)
        known = self._memory.recall(batch.step, batch.targets.device)
        if known is not None:
            return known
        found = answers_of(self._teachers, batch, taps=False)
        self._memory.keep(batch.step, found)
        return found

    def _logits(self, teachers: Sequence[TeacherOutput], temperature: float) -> Tensor:
        """(B, K) of all teachers together, to be read at this temperature."""
        logits = [one.logits for one in teachers]
        return together(self.goal, logits, temperature=temperature, mix=mix_of(self.recipe))

    def _trust(self, batch: Batch, teachers: Sequence[TeacherOutput]) -> Tensor | None:
        if self.recipe.trust == "none":
            return None
        by_confidence = self.recipe.trust == "confidence"
        logits = self._logits(teachers, 1.0)
        return trust_of(self.goal, logits, batch.targets, batch.labelled, by_confidence=by_confidence)

    def _found(
        self,
        term: LossTerm,
        batch: Batch,
        student: StudentOutput,
        teachers: Sequence[TeacherOutput],
        trust: Tensor | None,
    ) -> dict[str, Tensor]:
        """The loss of the term under its name, and what else there is to tell."""
        step = TrainingStep(
            pair=Pair(student=student, teacher=teachers[member_of(term)], modality=self.modality),
            batch=batch,
            goal=self.goal,
            together=partial(self._logits, teachers),
            trust=trust,
        )
        return term.loss(step, dict(self.heads.items()).get(name_of(term)))


def _check_pair(recipe: Recipe, pair: Pair, *, causal: bool) -> None:
    """Refuses what cannot be compared: first layers that are not there, then shapes."""
    depths = {
        "student": student_depth(pair.student),
        "fusion": fusion_depth(pair.teacher, pair.modality),
        "blocks": teacher_depth(pair.teacher, pair.modality),
    }
    for term in recipe.terms:
        term.check_depth(**depths)
    for term in recipe.terms:
        term.check_pair(pair, causal=causal)


def _shown(
    student: nn.Module, teachers: Sequence[nn.Module], modality: str, example: Inputs | None
) -> tuple[StudentOutput, tuple[TeacherOutput, ...]]:
    """What all networks give for a window, with taps: which layers there are, and their shapes."""
    shown = [known_teacher(teacher) or teacher for teacher in teachers]
    if example is None:
        example = _example(student, shown, modality)
    if modality not in example:
        raise UsageError(
            f"modality {modality!r}: expected one of the example's ({', '.join(example)}); name the student's"
        )
    was_training = student.training
    with torch.no_grad():
        ours = student.eval()(*example[modality], taps=True)
        theirs = tuple(teacher(example, taps=True) for teacher in shown)
    student.train(was_training)
    pairs = (("student", ours, StudentOutput), *(("teacher", found, TeacherOutput) for found in theirs))
    for who, found, wanted in pairs:
        if not isinstance(found, wanted):
            raise UsageError(
                f"distillation: expected the {who} to give a {wanted.__name__}, got {type(found).__name__}; "
                f"wrap what it gives in mmkd_models.networks.{who}.{wanted.__name__}"
            )
    return ours, theirs


def _example(student: nn.Module, teachers: Sequence[nn.Module], modality: str) -> Inputs:
    """A window for all of them, which only networks of ours can be asked for."""
    specs: dict[str, ModalitySpec] = {}
    for teacher in teachers:
        if not (isinstance(student, Student) and isinstance(teacher, Teacher)):
            raise UsageError(
                "distillation: networks of your own need example=, the inputs of any batch, to see what they give"
            )
        specs[modality] = student.encoder.modality
        specs |= {name: cast("Encoder", teacher.encoders[name]).modality for name in teacher.names}
    return {name: blank_inputs(spec) for name, spec in specs.items()}


def tokens_per_window(teacher: Teacher, modality: str) -> int:
    """Gives L, the time tokens into which the teacher's encoder of that modality turns a window."""
    return cast("Encoder", teacher.encoders[modality]).length
