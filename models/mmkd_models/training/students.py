"""A student of any members, from labels or from teachers; averages; and the best of several by validation.

An average is the logarithmic opinion pool z = sum of w z_m / T_m (Genest, Zidek, Statistical Science 1986, section 3).
The race trains with and without mixed windows, all members, from teachers and from labels only, so that validation can
show no harm from teaching.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import msgspec
import numpy as np
import torch
from torch import Tensor

from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.windows import Windows
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.metrics.likelihood import helpful_temperature
from mmkd_models.networks.config import MEMBERS, PORTABLE_MEMBERS, MemberKind, StudentConfig, in_order, named
from mmkd_models.networks.convolutions import fits_kernels
from mmkd_models.networks.intervals import fits_intervals
from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherFile, TriedStudent
from mmkd_models.training.choosing import ValidationScore, labels_win, preferred, simplest, validation_score
from mmkd_models.training.closed_form import (
    Lesson,
    fit_convolutions_student,
    fit_intervals_student,
    grow_trees_student,
    lesson_of,
)
from mmkd_models.training.fitting import with_novelty
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.predict import logits_of, scores_of
from mmkd_models.training.trainings import distil, train_baseline
from mmkd_report.schema.demo import LABELS_ONLY

logger = logging.getLogger(__name__)

_MIXED, _UNMIXED = "transformer of mixed windows", "transformer of unmixed windows"
_PAIRS = (0.25, 0.75)  # weights of a transformer beside one other member, besides a half

Weights = dict[MemberKind, float]


def train_student(
    data: TrainingData,
    modality: str,
    config: StudentConfig,
    run: TrainingRun,
    *,
    teachers: Sequence[TeacherFile] = (),
    recipe: Recipe | None = None,
) -> StudentCheckpoint:
    """Train the members, on labels or teachers, and average them. Only a transformer reads the recipe."""
    kinds = [kind for kind in config.members if kind != "transformer"]
    lesson = lesson_of(data, run, teachers) if kinds else None
    parts = [] if lesson is None else [_closed_form(kind, data, modality, config, run, lesson) for kind in kinds]
    if "transformer" in config.members:
        parts.insert(0, _transformer(data, modality, config, run, teachers=teachers, recipe=recipe))
    return parts[0] if len(parts) == 1 else fit_average(data, parts, run)


def _transformer(
    data: TrainingData,
    modality: str,
    config: StudentConfig,
    run: TrainingRun,
    *,
    teachers: Sequence[TeacherFile],
    recipe: Recipe | None,
) -> StudentCheckpoint:
    own = msgspec.structs.replace(config, members=("transformer",))
    if teachers and recipe is not None:
        return distil(data, modality, own, run, teachers=teachers, recipe=recipe)
    return train_baseline(data, modality, own, run)


def _closed_form(
    kind: MemberKind, data: TrainingData, modality: str, config: StudentConfig, run: TrainingRun, lesson: Lesson
) -> StudentCheckpoint:
    fit = {
        "convolutions": fit_convolutions_student,
        "intervals": fit_intervals_student,
        "trees": grow_trees_student,
    }[kind]
    return fit(data, modality, config, run, lesson)


def fit_average(data: TrainingData, parts: Sequence[StudentCheckpoint], run: TrainingRun) -> StudentCheckpoint:
    """Average students of one member each, in their order, with the weights that validate best; or return the best."""
    modality, task = parts[0].modality.name, data.train.spec.task
    known = data.valid.with_modalities((modality,)).only_labelled()
    members = [part.config.members[0] for part in parts]
    logits, temperatures = {}, {}
    for member, part in zip(members, parts, strict=True):
        answers = logits_of(part.network(), known, modality=modality).astype(np.float64)
        temperatures[member] = helpful_temperature(answers, known.labels, known.groups, kind=task.kind)
        logits[member] = answers / temperatures[member]
    candidates = list_weights(members)
    pools = [np.sum([weight * logits[member] for member, weight in one.items()], axis=0) for one in candidates]
    weights = candidates[simplest(pools, [len(one) for one in candidates], known, metric=run.train.metric)]
    logger.info("average: %s", _described(weights))
    chosen = [part for member, part in zip(members, parts, strict=True) if member in weights]
    shown: Weights = {member: weights.get(member, 0.0) for member in members}
    portable = _portable(in_order(weights), data, parts, run)
    if len(chosen) == 1:
        facts = msgspec.structs.replace(chosen[0].facts, weights=shown)
        return replace(chosen[0], facts=facts, portable=portable)
    joined = _joined(chosen, {member: weight / temperatures[member] for member, weight in weights.items()})
    taus = {part.facts.prior_tau for part in chosen}
    facts = msgspec.structs.replace(
        chosen[0].facts,
        score=scores_of(joined.network(), known, modality=modality).metric(run.train.metric),
        prior_tau=taus.pop() if len(taus) == 1 else msgspec.UNSET,
        weights=shown,
    )
    return with_novelty(replace(joined, facts=facts, portable=portable), [data.train], [data.valid])


def _portable(
    members: Sequence[MemberKind], data: TrainingData, parts: Sequence[StudentCheckpoint], run: TrainingRun
) -> StudentCheckpoint | None:
    """Return the best student of the parts that every engine runs, for a student with other members; None without."""
    able = [part for part in parts if part.config.members[0] in PORTABLE_MEMBERS]
    if not able or set(members) <= set(PORTABLE_MEMBERS):
        return None
    return replace(fit_average(data, able, run), carried=None)


def list_weights(members: Sequence[MemberKind]) -> list[Weights]:
    """Return the weights that are compared: each subset's equal ones, and more or less of a transformer in a pair."""
    candidates: list[Weights] = []
    for size in range(1, len(members) + 1):
        for subset in itertools.combinations(members, size):
            candidates.append(dict.fromkeys(subset, 1 / size))
            if size == 2 and subset[0] == "transformer":
                candidates += [{subset[0]: weight, subset[1]: 1 - weight} for weight in _PAIRS]
    return candidates


def _joined(parts: Sequence[StudentCheckpoint], factors: Mapping[MemberKind, float]) -> StudentCheckpoint:
    """One network of which each part's logits count by its factor."""
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
    return replace(parts[0], config=config, state=state)


def _described(weights: Weights) -> str:
    return ", ".join(f"{weight:g} {member}" for member, weight in weights.items())


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
    among: tuple[MemberKind, ...] = MEMBERS,
) -> StudentCheckpoint:
    """Train members as `train_student` does, and return the one or the average that validates best.

    A labels-only `baseline` wins if it is better and significantly likelier. A transformer is always `among` the
    members; causal students are transformers, and short windows have fewer members. Each training has its own folder.
    """
    trials = []
    for name, augment in zip((_MIXED, _UNMIXED), mixings(run.augment), strict=False):
        folder = None if run.run_dir is None else run.run_dir / name.split()[2]
        own = replace(run, augment=augment, run_dir=folder)
        trained = _transformer(data, modality, config, own, teachers=teachers, recipe=recipe)
        trials.append(_trial(name, trained, data.valid))
    spec = data.train.spec.modality(modality)
    fits: dict[MemberKind, bool] = {
        "convolutions": fits_kernels(spec),
        "intervals": fits_intervals(spec),
        "trees": fits_intervals(spec),
    }
    kinds = [kind for kind in among if fits.get(kind) and not config.causal]
    best = _best(trials)
    if kinds:
        lesson = lesson_of(data, run, teachers)
        alone = [_trial(kind, _closed_form(kind, data, modality, config, run, lesson), data.valid) for kind in kinds]
        trials += alone
        average = fit_average(data, [best.checkpoint, *(trial.checkpoint for trial in alone)], run)
        members = average.config.members
        if len(members) > 1:
            best = _trial(f"average of {named(members)}", average, data.valid)
            trials.append(best)
        else:
            best = next(trial for trial in (best, *alone) if trial.checkpoint.config.members == members)
            best = replace(best, checkpoint=replace(best.checkpoint, portable=average.portable))
    beaten = False
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


def race_student(
    data: TrainingData,
    modality: str,
    config: StudentConfig,
    run: TrainingRun,
    *,
    teachers: Sequence[TeacherFile] = (),
    recipe: Recipe | None = None,
    among: tuple[MemberKind, ...] = MEMBERS,
) -> StudentCheckpoint:
    """Choose a student on labels only, and then one of the teachers, if it is better; each race has its own folder."""
    alone, taught = (replace(run, run_dir=run.run_dir and run.run_dir / name) for name in ("labels", "taught"))
    baseline = choose_student(data.with_modalities((modality,)), modality, config, alone, among=among)
    if not teachers:
        return baseline
    return choose_student(
        data, modality, config, taught, teachers=teachers, recipe=recipe, baseline=baseline, among=among
    )


def _trial(name: str, checkpoint: StudentCheckpoint, valid: Windows) -> _Trial:
    modality = checkpoint.modality.name
    known = valid.with_modalities((modality,)).only_labelled()
    logits = logits_of(checkpoint.network(), known, modality=modality)
    score = validation_score(logits, known.labels, checkpoint.task, metric=checkpoint.facts.metric)
    logger.info("%s: validation %.4f, log-likelihood %.4f", name, score.score, score.log_likelihood)
    return _Trial(name=name, checkpoint=checkpoint, validation=score)


def _best(trials: Sequence[_Trial]) -> _Trial:
    return trials[preferred([trial.validation for trial in trials])]
