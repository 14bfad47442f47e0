"""Steps shared by all trainings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import msgspec
import torch
from torch import nn

from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_models.carried import carried_windows
from mmkd_models.data.augment import with_clock_error
from mmkd_models.data.batches import BatchSource, channel_movement, channel_statistics, spread_rows
from mmkd_models.data.windows import Windows, without_each
from mmkd_models.distillation.learner import SupervisedLearner
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.losses.term import target_scale
from mmkd_models.metrics.scores import check_metric
from mmkd_models.networks.encoder import Encoder
from mmkd_models.networks.fronts.causal import CausalSound
from mmkd_models.networks.fronts.log_mel import LogMelFront
from mmkd_models.networks.fronts.series import FrontEnd
from mmkd_models.networks.intervals import IntervalFeatures
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.checkpoint import Provenance, StudentCheckpoint, TeacherFile, library_versions
from mmkd_models.training.choosing import choose_tau, log_prior
from mmkd_models.training.inputs import TrainingData, TrainingRequest, TrainingRun
from mmkd_models.training.loop import Fit, fit
from mmkd_models.training.over_time import fit_over_time
from mmkd_models.training.predict import logits_of, scores_of
from mmkd_models.training.references import group_reference, training_embeddings
from mmkd_models.training_hashes import training_hashes

_MEL_CHUNK = 64
_MIN_MEL_SPREAD = 1e-3  # of a log-mel, in nats

LABELLED_FRACTION = 0.25
"""Fraction of labelled windows in a batch that labels and a teacher teach together."""


def new_student(training: TrainingRequest) -> Student:
    """Return an untrained student with training normalisation."""
    train, modality = training.data.train, training.modality
    torch.manual_seed(training.run.train.seed)
    spec, task = train.spec.modality(modality), train.spec.task
    student = Student(spec, len(task.labels), training.config, kind=task.kind)
    set_normalisation(student, train.with_modalities((modality,)))
    return student


def batch_source(
    windows: Windows, run: TrainingRun, *, labelled_fraction: float, modality: str | None = None
) -> BatchSource:
    """Return the batches of a run; `modality` is the student's, whose clock may be off."""
    train = run.train
    if modality is not None:
        windows = with_clock_error(windows, modality, run.augment.clock_error_s, seed=train.seed)
    return BatchSource(windows, run.augment, batch=train.batch, labelled_fraction=labelled_fraction, seed=train.seed)


def fit_learner(
    learner: nn.Module,
    data: TrainingData,
    run: TrainingRun,
    *,
    modality: str | None,
    labelled_fraction: float,
    origin: Mapping[str, Any],
) -> Fit:
    """Train; `origin` is what else decides the result, for resuming."""
    train = data.train
    check_metric(run.train.metric, train.spec.task.kind)
    if isinstance(learner, SupervisedLearner):
        train = train.only_labelled()
        if modality is not None:
            train = train.with_modalities((modality,))
    valid = data.valid if modality is None else data.valid.with_modalities((modality,))
    settings = {
        "dataset": data.sha256,
        "labels": hashlib.sha256(train.labels.tobytes()).hexdigest(),
        # Folds may be labelled alike.
        "windows": hashlib.sha256(train.rows.tobytes() + valid.rows.tobytes()).hexdigest(),
        "modality": modality,
        "augment": msgspec.to_builtins(run.augment),
        **origin,
    }
    return fit(
        learner,
        batch_source(train, run, labelled_fraction=labelled_fraction, modality=modality).at,
        evaluate=lambda network: scores_of(network, valid, modality=modality),
        config=run.train,
        settings=settings,
        run_dir=run.run_dir,
        resume=run.resume,
        on_step=run.on_step,
    )


def adjusted_fit(
    network: Student | Teacher, result: Fit, data: TrainingData, run: TrainingRun, *, modality: str | None
) -> tuple[Fit, float]:
    """Add the chosen prior correction to the head's bias; return its tau or 0."""
    task = data.train.spec.task
    if task.kind != "classification":  # only classes have a prior
        return result, 0.0
    network.cpu().load_state_dict(result.state)
    known, prior = data.valid.only_labelled(), log_prior(data.train.labels, len(task.labels))
    logits = logits_of(network, known, modality=modality)
    tau = choose_tau(logits, known.labels, known.groups, prior=prior, metric=run.train.metric)
    if not tau:
        return result, tau
    bias = result.state["head.bias"] - tau * torch.from_numpy(prior).float()
    state = {**result.state, "head.bias": bias}
    network.load_state_dict(state)
    return replace(result, state=state, scores=scores_of(network, data.valid, modality=modality)), tau


def training_facts(
    data: TrainingData,
    run: TrainingRun,
    *,
    modality: str,
    tau: float,
    result: Fit,
    recipe: Recipe | None = None,
    teachers: Sequence[TeacherFile] = (),
    started_from: str | None = None,
) -> Provenance:
    """Return a checkpoint's facts; windows of `modality` are hashed."""
    hashes = tuple(teacher.sha256 for teacher in teachers)
    spec = data.train.spec
    return Provenance(
        dataset=spec.name,
        dataset_sha256=data.sha256,
        fold=data.fold,
        labelled=None if data.labelled.is_all else data.labelled,
        licence=spec.licence,
        metric=run.train.metric,
        score=result.scores.metric(run.train.metric),
        best_step=result.best_step,
        teacher_sha256=hashes[0] if hashes else None,
        further_teachers_sha256=hashes[1:] or None,
        training=run.train,
        augment=run.augment,
        recipe=recipe,
        curve=result.curve,
        prior_tau=tau or None,
        started_from=started_from or None,
        training_hashes=training_hashes(data.train, modality, key=data.sha256),
        versions=library_versions(),
    )


def finish_student(training: TrainingRequest, network: Student, result: Fit) -> StudentCheckpoint:
    """Return the trained student with facts and windows; `network` corrects the prior."""
    data, modality, run = training.data, training.modality, training.run
    result, tau = adjusted_fit(network, result, data, run, modality=modality)
    teachers, recipe = training.teachers, training.recipe
    facts = training_facts(data, run, modality=modality, tau=tau, result=result, recipe=recipe, teachers=teachers)
    return StudentCheckpoint(
        modality=data.train.spec.modality(modality),
        task=data.train.spec.task,
        config=training.config,
        facts=facts,
        state=result.state,
        carried=carried_windows(data.valid, modality, seed=run.train.seed) if run.embed_windows else None,
    )


def with_references(checkpoint: StudentCheckpoint, data: TrainingData) -> StudentCheckpoint:
    """Add how groups differ, how streams filter answers, and training embeddings; also to the portable student."""
    reference = group_reference(data.train, data.valid, checkpoint.modality.name) or None
    over_time = fit_over_time(checkpoint, data.valid)

    def add_references(student: StudentCheckpoint) -> StudentCheckpoint:
        facts = msgspec.structs.replace(student.facts, group_reference=reference, over_time=over_time)
        student = replace(student, facts=facts)
        return with_novelty(student, [data.train], [data.valid])

    portable = checkpoint.portable and add_references(checkpoint.portable)
    return replace(add_references(checkpoint), portable=portable)


def with_novelty(
    checkpoint: StudentCheckpoint, train: Sequence[Windows], valid: Sequence[Windows]
) -> StudentCheckpoint:
    """Add training embeddings; `valid` defines the usual scores."""
    modality = checkpoint.modality.name
    train, valid = ([without_each(part, modality) for part in parts] for parts in (train, valid))
    return replace(checkpoint, embeddings=training_embeddings(checkpoint.network(), train, valid, modality=modality))


def set_target_scale(network: Student | Teacher, windows: Windows) -> None:
    """Set a network's target mean and std."""
    if network.answer.kind == "regression":
        for buffer, value in zip((network.answer.mean, network.answer.std), target_scale(windows), strict=True):
            buffer.fill_(value)


def set_normalisation(network: Student | Teacher, windows: Windows) -> None:
    """Copy training statistics into a network and its graph. Raise ValueError if a student has several modalities."""
    set_target_scale(network, windows)
    names = [modality.name for modality in windows.spec.modalities]
    fronts: list[tuple[str, Any]] = []
    if isinstance(network, Teacher):
        fronts = [(name, cast("Encoder", network.encoders[name]).front) for name in network.names]
    elif len(names) == 1:
        fronts += [] if network.encoder is None else [(names[0], network.encoder.front)]
        fronts += [(names[0], part) for part in (network.convolutions, network.intervals) if part is not None]
    else:
        raise ValueError(f"student: expected windows of one modality, got {names}; choose with with_modalities")
    for name, front in fronts:
        mean, std = channel_statistics(windows, name)
        front.mean.copy_(torch.from_numpy(mean))
        if isinstance(front, IntervalFeatures):
            front.scale.copy_(1 / torch.from_numpy(std))
            continue
        front.std.copy_(torch.from_numpy(std))
        if isinstance(front, FrontEnd) and front.has_movement:
            front.movement.copy_(torch.from_numpy(channel_movement(windows, name)))
        if isinstance(front, LogMelFront | CausalSound):
            _set_mel_statistics(front, windows, name)


@torch.no_grad()
def _set_mel_statistics(front: LogMelFront | CausalSound, windows: Windows, name: str) -> None:
    spec = windows.spec.modality(name)
    narrow, rows = windows.with_modalities((name,)), spread_rows(windows, name)
    total = torch.zeros(3, *front.mel_mean.shape, dtype=torch.float64)
    for start in range(0, len(rows), _MEL_CHUNK):
        prepared = prepare_batch(narrow.take(rows[start : start + _MEL_CHUNK])[name], spec)
        mels, presence = front.log_mels(*(torch.from_numpy(part) for part in prepared))
        mels, presence = mels.double(), presence.double()[..., None]
        for place, power in enumerate((presence.expand_as(mels), mels * presence, mels * mels * presence)):
            total[place] += power.sum((0, 2))
    count = total[0].clamp(min=1.0)
    mean = total[1] / count
    spread = (total[2] / count - mean * mean).clamp(min=_MIN_MEL_SPREAD**2).sqrt()
    front.mel_mean.copy_(mean)
    front.mel_std.copy_(torch.where(total[0] > 0, spread, 1.0))
