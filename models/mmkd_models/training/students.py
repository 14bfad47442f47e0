"""A student of any kind, from labels or from teachers; hybrids; and the best of several by validation.

A hybrid is the logarithmic opinion pool z = w z1 / T1 + (1 - w) z2 / T2 (Genest, Zidek, Statistical Science 1986,
section 3). The race trains with and without mixed windows, all kinds, from teachers and from labels only, so that
validation can show no harm from teaching.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherFile, TriedStudent
from mmkd_models.training.choosing import ValidationScore, labels_win, preferred, validation_score
from mmkd_models.training.fitting import with_novelty
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.predict import logits_of, scores_of
from mmkd_models.training.rocket import fit_rocket_student
from mmkd_models.training.trainings import distil, train_baseline
from mmkd_report.schema.demo import LABELS_ONLY

logger = logging.getLogger(__name__)

WEIGHTS = (0.5, 0.25, 0.75, 0.0, 1.0)  # weights of a hybrid's transformer, in the order of preference between equals
_MIXED, _UNMIXED = "transformer of mixed windows", "transformer of unmixed windows"
ROCKET, _HYBRID = "convolutional features", "hybrid"


def train_student(
    data: TrainingData,
    modality: str,
    config: StudentConfig,
    run: TrainingRun,
    *,
    teachers: Sequence[TeacherFile] = (),
    recipe: Recipe | None = None,
) -> StudentCheckpoint:
    """Train a student of any kind, or on labels only. Features ignore the recipe."""
    rocket = (
        None if config.kind == "transformer" else fit_rocket_student(data, modality, config, run, teachers=teachers)
    )
    if rocket is not None and config.kind == "rocket":
        return rocket
    own = msgspec.structs.replace(config, kind="transformer")
    if teachers and recipe is not None:
        transformer = distil(data, modality, own, run, teachers=teachers, recipe=recipe)
    else:
        transformer = train_baseline(data, modality, own, run)
    return transformer if rocket is None else fit_hybrid(data, transformer, rocket, run)


def fit_hybrid(
    data: TrainingData, transformer: StudentCheckpoint, rocket: StudentCheckpoint, run: TrainingRun
) -> StudentCheckpoint:
    """Join two students of the same windows, or return the better one."""
    modality, task = transformer.modality.name, data.train.spec.task
    valid = data.valid.with_modalities((modality,)).only_labelled()
    answers = [logits_of(part.network(), valid, modality=modality) for part in (transformer, rocket)]
    temperatures = [fitted_temperature(logits, valid.labels, kind=task.kind) for logits in answers]
    first, second = (logits / temperature for logits, temperature in zip(answers, temperatures, strict=True))
    pools = [np.asarray(weight * first + (1 - weight) * second) for weight in WEIGHTS]
    results = [validation_score(pool, valid.labels, task, metric=run.train.metric) for pool in pools]
    weight = WEIGHTS[preferred(results)]
    scores = {tried: result.score for tried, result in zip(WEIGHTS, results, strict=True)}
    logger.info("hybrid: weight of the transformer %g, validation %s", weight, scores)
    if weight in (0.0, 1.0):
        alone = transformer if weight == 1.0 else rocket
        return replace(alone, facts=msgspec.structs.replace(alone.facts, hybrid_weight=weight))
    heads = [
        {name: part.state[f"head.{name}"] * (own / temperature) for name in ("weight", "bias")}
        for part, own, temperature in zip((transformer, rocket), (weight, 1 - weight), temperatures, strict=True)
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
    own = msgspec.structs.replace(transformer.facts, score=score, prior_tau=tau, hybrid_weight=weight)
    return with_novelty(replace(joined, facts=own), [data.train], [data.valid])


@dataclass(frozen=True, kw_only=True)
class _Trial:
    name: str
    checkpoint: StudentCheckpoint
    validation: ValidationScore


def mixings(augment: AugmentConfig) -> tuple[AugmentConfig, ...]:
    """Return the augmentation as given, and without mixed windows."""
    unmixed = msgspec.structs.replace(augment, mixup=0.0)
    return (augment,) if augment == unmixed else (augment, unmixed)


def choose_student(
    data: TrainingData,
    modality: str,
    config: StudentConfig,
    run: TrainingRun,
    *,
    teachers: Sequence[TeacherFile] = (),
    recipe: Recipe | None = None,
    baseline: StudentCheckpoint | None = None,
) -> StudentCheckpoint:
    """Train students of all kinds as `train_student` does, and return the one that validates best.

    A labels-only `baseline` wins if it is better and significantly likelier. Causal students, and short windows, are
    tried as transformers. Each training has its own folder.
    """
    trials = []
    for name, augment in zip((_MIXED, _UNMIXED), mixings(run.augment), strict=False):
        folder = None if run.run_dir is None else run.run_dir / name.split()[2]
        own = replace(run, augment=augment, run_dir=folder)
        trained = train_student(data, modality, config, own, teachers=teachers, recipe=recipe)
        trials.append(_trial(name, trained, data.valid))
    if not config.causal and fits_kernels(data.train.spec.modality(modality)):
        transformer = _best(trials).checkpoint
        rocket = train_student(data, modality, msgspec.structs.replace(config, kind="rocket"), run, teachers=teachers)
        trials.append(_trial(ROCKET, rocket, data.valid))
        joined = fit_hybrid(data, transformer, rocket, run)
        if joined.config.kind == "hybrid":
            trials.append(_trial(_HYBRID, joined, data.valid))
    best, beaten = _best(trials), False
    if baseline is not None:
        trials.append(_trial(LABELS_ONLY, baseline, data.valid))
        beaten = labels_win(best.validation, trials[-1].validation, data.valid.groups[data.valid.labelled])
        best = trials[-1] if beaten else best
    logger.info("shipped %s", best.name)
    facts = msgspec.structs.replace(
        best.checkpoint.facts,
        shipped=best.name,
        tried=tuple(
            TriedStudent(
                name=trial.name, valid_score=trial.validation.score, log_likelihood=trial.validation.log_likelihood
            )
            for trial in trials
        ),
        beaten_teachers_sha256=tuple(teacher.sha256 for teacher in teachers) if beaten else msgspec.UNSET,
    )
    return replace(best.checkpoint, facts=facts)


def _trial(name: str, checkpoint: StudentCheckpoint, valid: Windows) -> _Trial:
    modality = checkpoint.modality.name
    known = valid.with_modalities((modality,)).only_labelled()
    logits = logits_of(checkpoint.network(), known, modality=modality)
    score = validation_score(logits, known.labels, checkpoint.task, metric=checkpoint.facts.metric)
    logger.info("%s: validation %.4f, log-likelihood %.4f", name, score.score, score.log_likelihood)
    return _Trial(name=name, checkpoint=checkpoint, validation=score)


def _best(trials: Sequence[_Trial]) -> _Trial:
    return trials[preferred([trial.validation for trial in trials])]
