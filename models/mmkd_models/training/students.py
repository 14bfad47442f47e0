"""A student of any members, from labels or from teachers; averages; and the best of several by validation.

An average is the logarithmic opinion pool z = sum of w z_m / T_m (Genest, Zidek, Statistical Science 1986, section 3).
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmkd_documents.demo import LABELS_ONLY
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.labels import absent_labels
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.likelihood import helpful_temperature
from mmkd_models.networks.config import PORTABLE_MEMBERS, MemberKind, in_order, named
from mmkd_models.training.checkpoint import StudentCheckpoint, TriedStudent
from mmkd_models.training.choosing import ValidationScore, best_validated, is_ahead, labels_win, validation_score
from mmkd_models.training.closed_form import FITS, check_lengths, is_long_enough, lesson_of
from mmkd_models.training.fitting import with_references
from mmkd_models.training.inputs import LatencyLimit, TrainingData, TrainingRequest, TrainingRun, Weights
from mmkd_models.training.predict import logits_of, scores_of
from mmkd_models.training.trainings import train_transformer

logger = logging.getLogger(__name__)

_PARTS = 4  # of which weights are multiples; decision 035

RACE = ("labels", "taught")
"""Folders of the trainings of a race, in their order."""


def train_student(request: TrainingRequest, *, baseline: StudentCheckpoint | None = None) -> StudentCheckpoint:
    """Train a student on labels or teachers: the members of its config, or with `candidates` the best of several.

    Every candidate is trained alone, and what validates best is returned: one of them, or an average. With teachers a
    student of labels only competes, trained here unless `baseline` is one: it wins if it is better and significantly
    likelier, and where every window is labelled also unless the taught student is more than a standard error ahead
    (decision 036). Causal students are transformers, and short windows have fewer members.
    """
    if request.candidates is None:
        return _train_members(request)
    if not request.teachers or baseline is not None or not request.labels_compete:
        request = _without_mixing(request)
        return _choose(request, _fit_quick(request), baseline=baseline)
    return _race(request)


def _train_members(request: TrainingRequest) -> StudentCheckpoint:
    """Train the members and average them. Only a transformer reads the recipe."""
    parts, members = [], request.config.members
    if "transformer" in members:
        parts.append(_transformer(request))
    if kinds := members[len(parts) :]:
        lesson = lesson_of(request)
        parts += [FITS[kind](request, lesson) for kind in kinds]
    student = parts[0] if len(parts) == 1 else fit_average(request.data, parts, request.run)
    return with_references(student, request.data)


def _transformer(training: TrainingRequest) -> StudentCheckpoint:
    config = msgspec.structs.replace(training.config, members=("transformer",))
    return train_transformer(replace(training, config=config))


def fit_average(
    data: TrainingData,
    parts: Sequence[StudentCheckpoint],
    run: TrainingRun,
    limit: LatencyLimit | None = None,
) -> StudentCheckpoint:
    """Average students of one member each with the weights that validate best."""
    modality, task = parts[0].modality.name, data.train.spec.task
    known = data.valid.with_modalities((modality,)).only_labelled()
    members = [part.config.members[0] for part in parts]
    logits, temperatures = {}, {}
    for member, part in zip(members, parts, strict=True):
        answers = logits_of(part.network(), known, modality=modality).astype(np.float64)
        temperatures[member] = helpful_temperature(answers, known.labels, known.groups, kind=task.kind)
        logits[member] = answers / temperatures[member]
    candidates = list_weights(members) if limit is None else limit.keep(parts, list_weights(members))
    pools = [np.sum([weight * logits[member] for member, weight in mix.items()], axis=0) for mix in candidates]
    unevenness = [sum((mix.get(member, 0.0) - 1 / len(members)) ** 2 for member in members) for mix in candidates]
    number = best_validated(pools, unevenness, known.labels, known.groups, task, metric=run.train.metric)
    weights = candidates[number]
    logger.info("average: %s", weights)
    chosen = [part for member, part in zip(members, parts, strict=True) if member in weights]
    shown: Weights = {member: weights.get(member, 0.0) for member in members}
    portable, able = None, [part for part in parts if part.config.members[0] in PORTABLE_MEMBERS]
    if able and not set(weights) <= set(PORTABLE_MEMBERS):  # for engines without a member
        portable = replace(fit_average(data, able, run), carried=None)
    if len(chosen) == 1:
        facts = msgspec.structs.replace(chosen[0].facts, weights=shown)
        return replace(chosen[0], facts=facts, portable=portable)
    joined = _join_members(chosen, {member: weight / temperatures[member] for member, weight in weights.items()})
    taus = {part.facts.prior_tau for part in chosen}
    facts = msgspec.structs.replace(
        chosen[0].facts,
        score=scores_of(joined.network(), known, modality=modality).metric(run.train.metric),
        prior_tau=taus.pop() if len(taus) == 1 else None,
        weights=shown,
    )
    return replace(joined, facts=facts, portable=portable)


def list_weights(members: Sequence[MemberKind]) -> list[Weights]:
    """Return the weights to compare, in quarters: first those of a single member."""
    parts = range(_PARTS, -1, -1)
    mixes = [mix for mix in itertools.product(parts, repeat=len(members)) if sum(mix) == _PARTS]
    candidates = [{kind: part / _PARTS for kind, part in zip(members, mix, strict=True) if part} for mix in mixes]
    return sorted(candidates, key=len)


def _join_members(parts: Sequence[StudentCheckpoint], factors: Mapping[MemberKind, float]) -> StudentCheckpoint:
    members = in_order(part.config.members[0] for part in parts)
    state: dict[str, Tensor] = {}
    heads: list[Tensor] = []
    intervals: list[Tensor] = []
    bias = torch.zeros(())
    for part in parts:
        (member,), factor = part.config.members, factors[part.config.members[0]]
        state |= part.state
        bias = bias + part.state["head.bias"] * factor
        (intervals if part.config.has_intervals else heads).append(part.state["head.weight"] * factor)
        if member == "trees":
            state["trees.scale"] = part.state["trees.scale"] * factor
    heads += [reduce(torch.add, intervals)] if intervals else []
    config = msgspec.structs.replace(
        parts[0].config,
        members=members,
        convolutions=next((part.config.convolutions for part in parts if part.config.convolutions), None),
        trees=next((part.config.trees for part in parts if part.config.trees), None),
    )
    state |= {"head.weight": torch.cat(heads, dim=1), "head.bias": bias}
    return replace(parts[0], config=config, state=state, embeddings=None)


@dataclass(frozen=True, kw_only=True)
class _Trial:
    name: str
    checkpoint: StudentCheckpoint
    validation: ValidationScore
    logits: NDArray[np.float32]  # of the labelled validation windows


def without_mixing(augment: AugmentConfig) -> AugmentConfig:
    """Return the augmentation of a race's taught transformer, which needs no mixed windows.

    Taking the better of both by validation gained nothing over 18 taught students of six sensors, for twice the time.
    """
    return msgspec.structs.replace(augment, mixup=0.0)


def _without_mixing(training: TrainingRequest) -> TrainingRequest:
    run = training.run
    return replace(training, run=replace(run, augment=without_mixing(run.augment))) if training.teachers else training


def _fit_quick(training: TrainingRequest) -> list[_Trial]:
    """Fit the members that have no steps."""
    if training.config.causal:
        return []
    among = training.candidates or ()
    spec = training.data.train.spec.modality(training.modality)
    kinds = [kind for kind in among if kind in FITS and is_long_enough(spec, kind)]
    if not kinds:
        if "transformer" not in among:
            check_lengths(spec, among)
        return []
    quick, lesson = [], lesson_of(training)
    for kind in kinds:
        began_s = time.monotonic()
        quick.append(_trial(kind, FITS[kind](training, lesson), training.data.valid))
        if training.run.on_member is not None:
            whose = "taught" if training.teachers else LABELS_ONLY
            score, seconds = quick[-1].validation.score, time.monotonic() - began_s
            training.run.on_member(f"{kind}, {whose}: {training.run.train.metric} {score:.3f}, {seconds:.0f} s")
    return quick


def _choose(
    training: TrainingRequest,
    quick: Sequence[_Trial],
    *,
    baseline: StudentCheckpoint | None,
) -> StudentCheckpoint:
    """Train the transformer, if it is a candidate, and choose."""
    data, run, limit = training.data, training.run, training.limit
    has_transformer = "transformer" in (training.candidates or ())
    transformer = [_trial("transformer", _transformer(training), data.valid)] if has_transformer else []
    trials = [*transformer, *quick]
    best = trials[0]
    if len(trials) > 1:
        average = fit_average(data, [trial.checkpoint for trial in trials], run, limit)
        members = average.config.members
        if len(members) > 1:
            best = _trial(f"average of {named(members)}", average, data.valid)
            trials.append(best)
        else:
            best = next(trial for trial in trials if trial.checkpoint.config.members == members)
            best = replace(best, checkpoint=average)
    elif limit is not None:
        limit.keep([best.checkpoint], [dict.fromkeys(best.checkpoint.config.members, 1.0)])
    teacher_score: float | None = None
    if baseline is not None:
        trials.append(_trial(LABELS_ONLY, baseline, data.valid))
        best = trials[-1] if _is_taught_in_vain(best, trials[-1], data) else best
        teacher_score = max(
            scores_of(teacher.checkpoint.network(), data.valid.only_labelled(), modality=None).metric(run.train.metric)
            for teacher in training.teachers
        )
    logger.info("shipped %s", best.name)
    shipped = best.checkpoint if best.checkpoint is baseline else with_references(best.checkpoint, data)
    facts = msgspec.structs.replace(
        shipped.facts,
        shipped=best.name,
        teacher_score=teacher_score,
        tried=tuple(
            TriedStudent(
                name=trial.name, valid_score=trial.validation.score, log_likelihood=trial.validation.log_likelihood
            )
            for trial in trials
        ),
    )
    return replace(shipped, facts=facts)


def _is_taught_in_vain(taught: _Trial, baseline: _Trial, data: TrainingData) -> bool:
    known = data.valid.only_labelled()
    if labels_win(taught.validation, baseline.validation, known.groups):
        return True
    task, metric = known.spec.task, baseline.checkpoint.facts.metric
    return bool(data.train.labelled.all()) and not is_ahead(
        taught.logits, baseline.logits, known.labels, known.groups, task, metric=metric
    )


def _race(training: TrainingRequest) -> StudentCheckpoint:
    """Choose a student on labels only, and then one of the teachers, if it is better; quick members are made first."""
    data, run = training.data.with_modalities((training.modality,)), training.run
    alone, taught = (replace(run, run_dir=run.run_dir and run.run_dir / name) for name in RACE)
    lessons = []
    if can_learn_alone(data):
        lessons.append(replace(training, data=data, run=alone, teachers=(), recipe=None))
    lessons.append(_without_mixing(replace(training, run=taught)))
    baseline = None
    for lesson, quick in [(lesson, _fit_quick(lesson)) for lesson in lessons]:
        baseline = _choose(lesson, quick, baseline=baseline)
    assert baseline is not None
    return baseline


def can_learn_alone(data: TrainingData) -> bool:
    """Return whether labels suffice without a teacher."""
    train = data.train
    return bool(train.labelled.any()) and not absent_labels(train.spec.task, train.labels[train.labelled])


def _trial(name: str, checkpoint: StudentCheckpoint, valid: Windows) -> _Trial:
    modality = checkpoint.modality.name
    known = valid.with_modalities((modality,)).only_labelled()
    logits = logits_of(checkpoint.network(), known, modality=modality)
    score = validation_score(logits, known.labels, checkpoint.task, metric=checkpoint.facts.metric)
    logger.info("%s: validation %.4f, log-likelihood %.4f", name, score.score, score.log_likelihood)
    return _Trial(name=name, checkpoint=checkpoint, validation=score, logits=logits)
