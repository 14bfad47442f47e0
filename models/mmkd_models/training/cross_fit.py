"""Cross-fitting: K teachers, each trained without one part of the groups.

Every training window then has a teacher that has not seen it. One that has learnt its training windows by heart says
about them hardly more than their labels do. Sources: out-of-fold predictions, Wolpert, "Stacked Generalization", Neural
Networks 5, 1992; cross-fitted teachers, Dao, Kamath, Syrgkanis, Mackey, "Knowledge Distillation as Semiparametric
Inference", ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import UsageError
from mmkd_models.data.folds import part_of_windows
from mmkd_models.metrics.scores import AnyScores, scores_from_logits
from mmkd_models.networks.config import TeacherConfig
from mmkd_models.train_config import OnStep
from mmkd_models.training.checkpoint import TeacherCheckpoint
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.predict import logits_of
from mmkd_models.training.teacher_set import OutOfFoldCheckpoint
from mmkd_models.training.trainings.from_labels import self_train, train_teacher

Watch = Callable[[str], AbstractContextManager[OnStep | None]]
"""From the name of a training to what is called after each of its steps."""


def cross_fit(
    data: TrainingData,
    config: TeacherConfig,
    run: TrainingRun,
    *,
    count: int,
    self_training: bool,
    watch: Watch | None = None,
) -> OutOfFoldCheckpoint:
    """Trains `count` teachers, each on the training windows without one part of the groups, labelled or not.

    All of them choose their weights by the same validation windows. With `run.resume` teachers that are finished are
    not trained again, and an interrupted one goes on where it was: each keeps its state in a folder of `run.run_dir`.

    Args:
        run: how each is trained; its `on_step` is called where there is no `watch`.
        count: K, two or more.

    Raises UsageError where there are fewer groups than parts, or a class whose labelled windows are all in one part.
    """
    part = part_of_windows(data.train, parts=count, seed=run.train.seed)
    _check_classes(data, part)
    watched = watch or (lambda name: nullcontext(run.on_step))
    members = []
    for number in range(count):
        seen = replace(data, train=data.train.subset(part != number), held_back=(number, count))
        own = replace(run, run_dir=None if run.run_dir is None else _folder(run.run_dir, number))
        name = f"teacher {number + 1} of {count}"
        with watched(name) as on_step:
            member = train_teacher(seen, config, replace(own, on_step=on_step))
        if self_training and not seen.train.labelled.all():
            second = None if own.run_dir is None else own.run_dir / "second"
            with watched(f"{name}, second generation") as on_step:
                member = self_train(seen, member, replace(own, run_dir=second, on_step=on_step))
        members.append(member)
    return _joined(data, part, members, metric=lambda scores: scores.metric(run.train.metric))


def _folder(run_dir: Path, number: int) -> Path:
    return run_dir / f"part-{number}"


def _check_classes(data: TrainingData, part: NDArray[np.int64]) -> None:
    labels = data.train.labels
    if data.train.spec.task.kind != "classification":
        return  # each training looks at what it has
    for number in range(int(part.max()) + 1):
        left = set(labels[part != number].tolist())
        for label in sorted(set(labels[part == number].tolist()) - left - {-1}):
            raise UsageError(
                f"out-of-fold teacher {number + 1}: expected labelled windows of class "
                f"{data.train.spec.task.labels[label]!r} among the groups it learns from, got them all in the part "
                "that is held back; label more groups, or choose another --out-of-fold or --seed"
            )


def _joined(
    data: TrainingData,
    part: NDArray[np.int64],
    members: Sequence[TeacherCheckpoint],
    *,
    metric: Callable[[AnyScores], float],
) -> OutOfFoldCheckpoint:
    groups, first = np.unique(data.train.groups, return_index=True)
    return OutOfFoldCheckpoint(
        modalities=members[0].modalities,
        task=members[0].task,
        config=members[0].config,
        facts=tuple(member.facts for member in members),
        states=tuple(member.state for member in members),
        groups=groups,
        parts=part[first],
        score=metric(_scores(data, part, members)),
    )


def _scores(data: TrainingData, part: NDArray[np.int64], members: Sequence[TeacherCheckpoint]) -> AnyScores:
    """Of the answers for the labelled training windows, each by the teacher that has not seen it."""
    truth, logits = [], []
    for number, member in enumerate(members):
        rows = np.flatnonzero((part == number) & data.train.labelled)
        if len(rows):
            unseen = data.train.subset(rows)
            truth.append(unseen.labels)
            logits.append(logits_of(member.transformer(), unseen, modality=None))
    return scores_from_logits(np.concatenate(truth), np.concatenate(logits), data.train.spec.task)
