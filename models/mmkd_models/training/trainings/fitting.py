"""What all trainings have in common: a fresh student, batches, and a learner that is fitted and judged."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mmkd_models.data.batches import BatchSource
from mmkd_models.data.windows import Windows
from mmkd_models.distillation.learner import SupervisedLearner
from mmkd_models.metrics.scores import check_metric
from mmkd_models.networks.config import StudentConfig
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.judging.prior import adjusted_fit
from mmkd_models.training.loop import Fit, fit
from mmkd_models.training.normalisation import set_normalisation
from mmkd_models.training.predict import scores_of

LABELLED_SHARE = 0.25
"""Share of a batch that is drawn from labelled windows where labels and a teacher teach together."""


def new_student(data: TrainingData, modality: str, config: StudentConfig, run: TrainingRun) -> Student:
    """Gives an untrained student that normalises as the training windows ask."""
    spec = data.train.spec
    torch.manual_seed(run.train.seed)
    student = Student(spec.modality(modality), len(spec.task.labels), config, kind=spec.task.kind)
    set_normalisation(student, data.train.with_modalities((modality,)))
    return student


def batch_source(
    windows: Windows, run: TrainingRun, *, labelled_share: float, part: NDArray[np.int64] | None
) -> BatchSource:
    """Gives the batches of a run; windows of one part alone are mixed."""
    return BatchSource(
        windows, run.augment, batch=run.train.batch, labelled_share=labelled_share, seed=run.train.seed, part=part
    )


def fit_learner(
    learner: nn.Module,
    data: TrainingData,
    run: TrainingRun,
    *,
    modality: str | None,
    labelled_share: float,
    origin: Mapping[str, Any],
    part: NDArray[np.int64] | None = None,
) -> Fit:
    """Trains; `origin` is what else decides the result, so that only the same training is resumed."""
    train = data.train
    check_metric(run.train.metric, train.spec.task.kind)
    if isinstance(learner, SupervisedLearner):
        train = train.subset(np.flatnonzero(train.labelled))
        if modality is not None:
            train = train.with_modalities((modality,))
    valid = data.valid if modality is None else data.valid.with_modalities((modality,))
    source = batch_source(train, run, labelled_share=labelled_share, part=part)
    settings = {
        "dataset": data.sha256,
        "labels": hashlib.sha256(train.labels.tobytes()).hexdigest(),
        # Folds may be labelled alike.
        "windows": hashlib.sha256(train.rows.tobytes() + valid.rows.tobytes()).hexdigest(),
        "modality": modality,
        "augment": msgspec.to_builtins(run.augment),
        **({} if data.held_back is None else {"held_back": data.held_back}),
        **origin,
    }
    return fit(
        learner,
        source,
        evaluate=lambda network: scores_of(network, valid, modality=modality),
        config=run.train,
        settings=settings,
        run_dir=run.run_dir,
        resume=run.resume,
        on_step=run.on_step,
    )


def adjusted_result(
    network: Student | Teacher, result: Fit, data: TrainingData, run: TrainingRun, *, modality: str | None
) -> tuple[Fit, float]:
    """Gives the result with the prior of the classes that validates best, and its strength."""
    return adjusted_fit(network, result, data.train.labels, data.valid, metric=run.train.metric, modality=modality)
