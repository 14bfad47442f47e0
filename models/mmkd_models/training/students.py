"""A student of any kind, from labels or from teachers; hybrids; and the race that validation decides.

A hybrid is the logarithmic opinion pool z = w z1 / T1 + (1 - w) z2 / T2 (Genest, Zidek, Statistical Science 1986,
section 3), whose two heads are one head over both embeddings. The race trains a student with and without mixed windows,
as transformer, features and hybrid, from teachers and from labels only, so that teaching never makes it worse than
validation can tell.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import torch

from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.windows import Windows
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.metrics.likelihood import fitted_temperature
from mmkd_models.networks.config import StudentConfig
from mmkd_models.networks.rocket import fits_kernels
from mmkd_models.training.checkpoint import Contender, HybridFacts, StudentCheckpoint, TeacherFile
from mmkd_models.training.choosing import ValidationScore, labels_win, preferred, validation_score
from mmkd_models.training.fitting import with_novelty
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.predict import logits_of, scores_of
from mmkd_models.training.rocket import fit_rocket_student
from mmkd_models.training.trainings import distil, train_baseline
from mmkd_report.schema.demo import LABELS_ONLY

logger = logging.getLogger(__name__)

WEIGHTS = (0.5, 0.25, 0.75, 0.0, 1.0)
"""Weights of a hybrid's transformer, in the order of preference between equals."""

MIXED, UNMIXED = "transformer of mixed windows", "transformer of unmixed windows"
ROCKET, HYBRID = "convolutional features", "hybrid"

Train = Callable[[StudentConfig, TrainingRun], StudentCheckpoint]


def labelled_student(data: TrainingData, modality: str, config: StudentConfig, run: TrainingRun) -> StudentCheckpoint:
    """Train a student of any kind on the labels of one modality alone; errors as of the trainings."""

    def transformer(config: StudentConfig) -> StudentCheckpoint:
        return train_baseline(data, modality, config, run)

    return _of_kind(data, config, run, transformer, lambda: fit_rocket_student(data, modality, config, run))


def taught_student(
    data: TrainingData,
    modality: str,
    config: StudentConfig,
    run: TrainingRun,
    *,
    teachers: Sequence[TeacherFile],
    recipe: Recipe,
) -> StudentCheckpoint:
    """Distil teachers into a student of any kind; convolutional features learn answers, not the recipe."""

    def transformer(config: StudentConfig) -> StudentCheckpoint:
        return distil(data, modality, config, run, teachers=teachers, recipe=recipe)

    def rocket() -> StudentCheckpoint:
        return fit_rocket_student(data, modality, config, run, teachers=teachers)

    return _of_kind(data, config, run, transformer, rocket)


def _of_kind(
    data: TrainingData,
    config: StudentConfig,
    run: TrainingRun,
    transformer: Callable[[StudentConfig], StudentCheckpoint],
    rocket: Callable[[], StudentCheckpoint],
) -> StudentCheckpoint:
    match config.kind:
        case "transformer":
            return transformer(config)
        case "rocket":
            return rocket()
        case "hybrid":
            features = rocket()
            return fit_hybrid(data, transformer(msgspec.structs.replace(config, kind="transformer")), features, run)


def fit_hybrid(
    data: TrainingData, transformer: StudentCheckpoint, rocket: StudentCheckpoint, run: TrainingRun
) -> StudentCheckpoint:
    """Join two students of one modality, trained on the same windows, or return the one that validates better alone."""
    modality, task = transformer.modality.name, data.train.spec.task
    valid = _labelled(data.valid, modality)
    answers = [logits_of(part.network(), valid, modality=modality) for part in (transformer, rocket)]
    temperatures = [fitted_temperature(logits, valid.labels, kind=task.kind) for logits in answers]
    first, second = (logits / temperature for logits, temperature in zip(answers, temperatures, strict=True))
    pools = [np.asarray(weight * first + (1 - weight) * second) for weight in WEIGHTS]
    candidates = [validation_score(pool, valid.labels, task, metric=run.train.metric) for pool in pools]
    weight = WEIGHTS[preferred(candidates)]
    scores = {tried: candidate.score for tried, candidate in zip(WEIGHTS, candidates, strict=True)}
    facts = HybridFacts(
        weight=weight,
        temperatures=(temperatures[0], temperatures[1]),
        scores=tuple((tried, scores[tried]) for tried in sorted(WEIGHTS)),
    )
    logger.info("hybrid: weight of the transformer %g, validation %s", weight, scores)
    if weight in (0.0, 1.0):
        alone = transformer if weight == 1.0 else rocket
        return replace(alone, facts=msgspec.structs.replace(alone.facts, hybrid=facts))
    heads = [
        {name: part.state[f"head.{name}"] * (share / temperature) for name in ("weight", "bias")}
        for part, share, temperature in zip((transformer, rocket), (weight, 1 - weight), temperatures, strict=True)
    ]
    head = {
        "head.weight": torch.cat([part["weight"] for part in heads], dim=1),
        "head.bias": heads[0]["bias"] + heads[1]["bias"],
    }
    config = msgspec.structs.replace(transformer.config, kind="hybrid", rocket=rocket.config.rocket)
    joined = replace(transformer, config=config, state={**rocket.state, **transformer.state, **head})
    score = scores_of(joined.network(), valid, modality=modality).metric(run.train.metric)
    taus = {transformer.facts.prior_tau, rocket.facts.prior_tau}
    tau = taus.pop() if len(taus) == 1 else msgspec.UNSET
    own = msgspec.structs.replace(transformer.facts, score=score, prior_tau=tau, hybrid=facts)
    return with_novelty(replace(joined, facts=own), [data.train], [data.valid])


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    name: str
    checkpoint: StudentCheckpoint
    validation: ValidationScore


def mixings(augment: AugmentConfig) -> tuple[AugmentConfig, ...]:
    """Return the augmentations of a race: as it is, and without mixed windows if there are some."""
    unmixed = msgspec.structs.replace(augment, mixup=0.0)
    return (augment,) if augment == unmixed else (augment, unmixed)


def labelled_race(data: TrainingData, modality: str, config: StudentConfig, run: TrainingRun) -> StudentCheckpoint:
    """Return the student of labels only that validates best.

    Causal students, and windows too short for features, race as transformers; each training has its own folder.
    """
    candidates = _candidates(data, modality, config, run, lambda own, run: labelled_student(data, modality, own, run))
    return _shipped(candidates, candidates)


def taught_race(
    data: TrainingData,
    modality: str,
    config: StudentConfig,
    run: TrainingRun,
    *,
    teachers: Sequence[TeacherFile],
    recipe: Recipe,
    labelled: StudentCheckpoint | None,
) -> StudentCheckpoint:
    """Return the taught student that validates best, or the baseline if that is better and significantly likelier.

    `labelled` is the baseline of the same windows; None if it takes no part.
    """

    def train(own: StudentConfig, run: TrainingRun) -> StudentCheckpoint:
        return taught_student(data, modality, own, run, teachers=teachers, recipe=recipe)

    candidates = _candidates(data, modality, config, run, train)
    if labelled is None:
        return _shipped(candidates, candidates)
    taught, baseline = _best(candidates), _candidate(LABELS_ONLY, labelled, data.valid)
    if not labels_win(taught.validation, baseline.validation, data.valid.groups[data.valid.labelled]):
        return _shipped((taught,), (*candidates, baseline))
    shipped = _shipped((baseline,), (*candidates, baseline))
    beaten = tuple(teacher.sha256 for teacher in teachers)
    return replace(shipped, facts=msgspec.structs.replace(shipped.facts, beaten_teachers_sha256=beaten))


def _candidates(
    data: TrainingData, modality: str, config: StudentConfig, run: TrainingRun, train: Train
) -> tuple[_Candidate, ...]:
    candidates = []
    for name, augment in zip((MIXED, UNMIXED), mixings(run.augment), strict=False):
        folder = None if run.run_dir is None else run.run_dir / name.split()[2]
        checkpoint = train(config, replace(run, augment=augment, run_dir=folder))
        candidates.append(_candidate(name, checkpoint, data.valid))
    if config.causal or not fits_kernels(data.train.spec.modality(modality)):
        return tuple(candidates)
    transformer = _best(candidates).checkpoint
    rocket = train(msgspec.structs.replace(config, kind="rocket"), run)
    candidates.append(_candidate(ROCKET, rocket, data.valid))
    joined = fit_hybrid(data, transformer, rocket, run)
    if joined.config.kind == "hybrid":
        candidates.append(_candidate(HYBRID, joined, data.valid))
    return tuple(candidates)


def _candidate(name: str, checkpoint: StudentCheckpoint, valid: Windows) -> _Candidate:
    modality = checkpoint.modality.name
    known = _labelled(valid, modality)
    logits = logits_of(checkpoint.network(), known, modality=modality)
    score = validation_score(logits, known.labels, checkpoint.task, metric=checkpoint.facts.metric)
    logger.info("race: %s: validation %.4f, log-likelihood %.4f", name, score.score, score.log_likelihood)
    return _Candidate(name=name, checkpoint=checkpoint, validation=score)


def _labelled(windows: Windows, modality: str) -> Windows:
    return windows.with_modalities((modality,)).subset(np.flatnonzero(windows.labelled))


def _best(candidates: Sequence[_Candidate]) -> _Candidate:
    return candidates[preferred([candidate.validation for candidate in candidates])]


def _shipped(finalists: Sequence[_Candidate], candidates: Sequence[_Candidate]) -> StudentCheckpoint:
    """The best finalist, with all candidates in its facts."""
    winner = _best(finalists)
    results = ((candidate.name, candidate.validation) for candidate in candidates)
    race = tuple(
        Contender(name=name, valid_score=result.score, log_likelihood=result.log_likelihood) for name, result in results
    )
    logger.info("race: shipped %s", winner.name)
    facts = msgspec.structs.replace(winner.checkpoint.facts, shipped=winner.name, race=race)
    return replace(winner.checkpoint, facts=facts)
