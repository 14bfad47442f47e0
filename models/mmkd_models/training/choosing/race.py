"""The race: one student trained in several ways, of which validation ships one.

With and without mixed windows, transformer, convolutional features and both in one graph; and where teachers teach,
labels alone take part too, so that teaching never makes a student worse than validation can tell. Owns which ways there
are; how each is trained is the trainings'.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.windows import Windows
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.networks.config import StudentConfig
from mmkd_models.networks.rocket import fits_kernels
from mmkd_models.training.checkpoint import Contender, StudentCheckpoint
from mmkd_models.training.closed_form.hybrid import fit_hybrid
from mmkd_models.training.closed_form.students import labelled_student, taught_student
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.judging.rule import Standing, labels_win, preferred, standing_of
from mmkd_models.training.predict import logits_of
from mmkd_models.training.teacher_set import TaughtBy
from mmkd_report.schema.demo import LABELS_ALONE

logger = logging.getLogger(__name__)

MIXED, UNMIXED = "transformer of mixed windows", "transformer of unmixed windows"
ROCKET, HYBRID = "convolutional features", "hybrid"

Train = Callable[[StudentConfig, TrainingRun], StudentCheckpoint]


@dataclass(frozen=True, kw_only=True)
class _Runner:
    """A trained student, and what validation says of it."""

    name: str
    checkpoint: StudentCheckpoint
    standing: Standing

    @property
    def facts(self) -> Contender:
        """Gives what a checkpoint keeps of it."""
        standing = self.standing
        return Contender(name=self.name, valid_score=standing.score, log_likelihood=standing.log_likelihood)


def mixings(augment: AugmentConfig) -> tuple[AugmentConfig, ...]:
    """Gives the augmentations that take part: as it is, and without mixed windows where there are some."""
    unmixed = msgspec.structs.replace(augment, mixup=0.0)
    return (augment,) if augment == unmixed else (augment, unmixed)


def labelled_race(data: TrainingData, modality: str, config: StudentConfig, run: TrainingRun) -> StudentCheckpoint:
    """Gives the student of labels alone that validates best.

    Args:
        config: of the kind transformer; causal students, and windows too short for features, race as transformers.
        run: how each is trained, in folders of their own below its `run_dir`; finished trainings are not kept.
    """

    def train(own: StudentConfig, run: TrainingRun) -> StudentCheckpoint:
        return labelled_student(data, modality, own, run)

    runners = _raced(data, modality, config, run, train)
    return _shipped(runners, runners)


def taught_race(
    data: TrainingData,
    modality: str,
    config: StudentConfig,
    run: TrainingRun,
    *,
    teachers: Sequence[TaughtBy],
    recipe: Recipe,
    labelled: StudentCheckpoint | None,
) -> StudentCheckpoint:
    """Gives the taught student that validates best, or that of labels alone where it is better and surely likelier.

    Args:
        labelled: the student of labels alone, from `labelled_race` or any other of the same windows; None where
            somebody else compares with it.
    """

    def train(own: StudentConfig, run: TrainingRun) -> StudentCheckpoint:
        return taught_student(data, modality, own, run, teachers=teachers, recipe=recipe)

    runners = _raced(data, modality, config, run, train)
    if labelled is None:
        return _shipped(runners, runners)
    taught, alone = _first(runners), _runner(LABELS_ALONE, labelled, data.valid)
    groups = data.valid.groups[data.valid.labelled]
    if not labels_win(taught.standing, alone.standing, groups):
        return _shipped((taught,), (*runners, alone))
    shipped = _shipped((alone,), (*runners, alone))
    beaten = tuple(one.sha256 for one in teachers)
    return replace(shipped, facts=msgspec.structs.replace(shipped.facts, beaten_teachers_sha256=beaten))


def _raced(
    data: TrainingData, modality: str, config: StudentConfig, run: TrainingRun, train: Train
) -> tuple[_Runner, ...]:
    """Every way there is."""
    found = []
    for name, augment in zip((MIXED, UNMIXED), mixings(run.augment), strict=False):
        folder = None if run.run_dir is None else run.run_dir / name.split()[2]
        found.append(_runner(name, train(config, replace(run, augment=augment, run_dir=folder)), data.valid))
    if config.causal or not fits_kernels(data.train.spec.modality(modality)):
        return tuple(found)
    rocket = train(msgspec.structs.replace(config, kind="rocket"), run)
    found.append(_runner(ROCKET, rocket, data.valid))
    joined = fit_hybrid(data, _first(found[:-1]).checkpoint, rocket, run)
    if joined.config.kind == "hybrid":
        found.append(_runner(HYBRID, joined, data.valid))
    return tuple(found)


def _runner(name: str, checkpoint: StudentCheckpoint, valid: Windows) -> _Runner:
    modality = checkpoint.modality.name
    known = valid.with_modalities((modality,)).subset(np.flatnonzero(valid.labelled))
    logits = logits_of(checkpoint.network(), known, modality=modality)
    standing = standing_of(logits, known.labels, checkpoint.task, metric=checkpoint.facts.metric)
    logger.info("race: %s: validation %.4f, log-likelihood %.4f", name, standing.score, standing.log_likelihood)
    return _Runner(name=name, checkpoint=checkpoint, standing=standing)


def _first(runners: Sequence[_Runner]) -> _Runner:
    return runners[preferred([one.standing for one in runners])]


def _shipped(last: Sequence[_Runner], all_of_them: Sequence[_Runner]) -> StudentCheckpoint:
    winner = _first(last)
    facts = msgspec.structs.replace(
        winner.checkpoint.facts, shipped=winner.name, race=tuple(one.facts for one in all_of_them)
    )
    logger.info("race: shipped %s", winner.name)
    return replace(winner.checkpoint, facts=facts)
