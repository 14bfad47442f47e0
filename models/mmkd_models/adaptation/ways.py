"""The ways to adapt a student, each from the student as it is to one that is not written yet.

Owns how each is made; which one is better is told by `judging`, and whether it may be written by the gate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmkd_models.adaptation.classes import unlearnt
from mmkd_models.adaptation.domains import Domain
from mmkd_models.adaptation.learner import (
    AdaptLearner,
    LearnerGoal,
    PairedSource,
    by_class,
    entropy_of,
    sure_of,
    without_mixing,
)
from mmkd_models.data.batches import channel_statistics
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.likelihood import probabilities_of
from mmkd_models.metrics.scores import AnyScores, scores_from_logits
from mmkd_models.networks.student import RocketStudent, Student
from mmkd_models.train_config import OnStep, TrainConfig
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.closed_form.ridge import fit_ridge, ridge_of_each
from mmkd_models.training.closed_form.targets import class_weights, label_answers
from mmkd_models.training.loop import fit
from mmkd_models.training.normalisation import set_normalisation
from mmkd_models.training.predict import embeddings_of, logits_of

Floats = NDArray[np.float64]
AdaptationWay = Literal["statistics", "own answers", "consistency", "teacher", "labels"]
"""Statistics of the new windows' values; the student's own sure answers; the same for windows that are disturbed; a
teacher's answers; labels of some."""

_PENALTIES = (1e1, 1e2, 1e3, 1e4, 1e5)
_BLOCKS, _PARTS = 20, 4  # twenty blocks of neighbouring windows, of which each fourth is left out at a time

ADAPT_TRAIN = TrainConfig(steps=200, learning_rate=5e-4, eval_every=50)
"""Of the ways that train step by step: short and gentle, as one goes on with a trained student."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is adapted with what.

    Attributes:
        new: the new domain, with the student's modality.
        answers: (N, K) probabilities that a teacher gives the new windows that teach; None without a teacher.
        train: of the ways that train step by step.
        run_dir: where their resume states go; None keeps none.
    """

    student: StudentCheckpoint
    new: Domain
    old: Domain
    answers: Floats | None
    train: TrainConfig
    run_dir: Path | None = None
    resume: bool = False
    on_step: OnStep | None = None


def adapted(task: Task, way: AdaptationWay, *, labelled: NDArray[np.int64] | None = None) -> StudentCheckpoint:
    """Gives the student adapted in that way.

    Args:
        labelled: rows of the new windows whose labels are seen; of the way `labels` alone.
    """
    if way == "statistics":
        return _with_statistics(task)
    if way == "labels":
        assert labelled is not None
        rows, wanted = labelled, label_answers(task.student.task, task.new.learn.labels[labelled])
    elif way == "teacher":
        assert task.answers is not None
        rows, wanted = np.arange(len(task.new.learn)), task.answers
    elif way == "consistency" or task.student.config.kind == "rocket":
        rows, wanted = _sure(task)
    else:
        rows, wanted = np.arange(len(task.new.learn)), _said(task.student, task.new.learn)
    taught = [(task.new.learn.subset(rows), wanted), (task.old.learn, old_answers(task))]
    if task.student.config.kind == "rocket":
        return refitted(task.student, taught)
    start = task.student
    if way == "labels":  # the head first: a regression on few windows changes little, and a new class has its row
        start = refitted(task.student, taught)
    return _trained(task, way, rows, wanted, start=start, goal="certainty" if way == "own answers" else "answers")


def old_answers(task: Task) -> Floats:
    """(N, K) what old windows are taught: half their label, half what the student says of them."""
    known = label_answers(task.student.task, task.old.learn.labels)
    return np.asarray((known + _said(task.student, task.old.learn)) / 2)


def _said(student: StudentCheckpoint, windows: Windows) -> Floats:
    logits = logits_of(student.network(), windows, modality=student.modality.name)
    return probabilities_of(logits, kind=student.task.kind)


def _sure(task: Task) -> tuple[NDArray[np.int64], Floats]:
    """The windows of which the student is sure, two at least, and what it says of them."""
    said = _said(task.student, task.new.learn)
    sure = sure_of(said)
    sure[np.argsort(entropy_of(said), kind="stable")[:2]] = True
    rows = np.flatnonzero(sure)
    return rows, np.eye(said.shape[1])[said[rows].argmax(axis=1)]


def _with_statistics(task: Task) -> StudentCheckpoint:
    network = task.student.network()
    if not isinstance(network, RocketStudent):
        set_normalisation(network, task.new.learn)
    if not isinstance(network, Student):
        mean, std = channel_statistics(task.new.learn, task.student.modality.name)
        network.rocket.mean.copy_(torch.from_numpy(mean))
        network.rocket.std.copy_(torch.from_numpy(std))
    return _changed(task.student, network)


def part_way(before: StudentCheckpoint, after: StudentCheckpoint, share: float) -> StudentCheckpoint:
    """Gives a student whose weights lie between those of two, this share of the way from the first to the second.

    M. Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, equation 1. The row of a class that is new
    to the first comes whole: on the way to it nothing is old that could be forgotten, and it began at "never".
    """
    state = {
        name: torch.lerp(value, after.state[name], share) if value.is_floating_point() else after.state[name]
        for name, value in before.state.items()
    }
    is_new = torch.from_numpy(unlearnt(before))
    for name in ("head.weight", "head.bias"):
        state[name][is_new] = after.state[name][is_new]
    return replace(after, state=state)


def refitted(student: StudentCheckpoint, parts: Sequence[tuple[Windows, Floats]]) -> StudentCheckpoint:
    """Gives the student with its head changed as far as these windows ask, each part counting alike.

    A ridge regression on what the head leaves over: where there is little to learn from, little changes. Its penalty is
    the one under which blocks of windows that are left out are told best.

    Args:
        parts: windows and the answers (N, K) that they are taught: of the new domain, and of the old one.
    """
    network, name = student.network(), student.modality.name
    found = [embeddings_of(network, one, modality=name) for one, _ in parts]
    inputs = np.concatenate(found).astype(np.float64)
    targets = np.concatenate([2.0 * answers - 1.0 for _, answers in parts])
    each = np.concatenate([np.full(len(one), 1.0 / max(len(one), 1)) for one, _ in parts])
    weights = class_weights(student.task.kind, targets) * each
    weights *= len(weights) / weights.sum()
    before = inputs @ network.head.weight.detach().numpy().T + network.head.bias.detach().numpy()
    # Logits are scores divided by a temperature, which is the factor between the two. A new class says nothing of it:
    # its logits are one number that is far below all others.
    known = ~unlearnt(student)
    told, wanted = before[:, known], targets[:, known]
    heat = float((weights[:, None] * told * wanted).sum() / (weights[:, None] * told * told).sum())
    left, blocks = targets - heat * before, np.concatenate([_blocks(one) for one, _ in parts])
    ridge = fit_ridge(inputs, left, weights, penalties=(_penalty(inputs, left, weights, blocks),))
    with torch.no_grad():
        network.head.weight.add_(torch.from_numpy(ridge.weight.T / heat).float())
        network.head.bias.add_(torch.from_numpy(ridge.bias / heat).float())
    return _changed(student, network)


def _blocks(windows: Windows) -> NDArray[np.int64]:
    """(N,) a number below `_PARTS`: the same for windows of a group, or of a stretch of neighbours."""
    if windows.group_count >= _PARTS:
        return np.unique(windows.groups, return_inverse=True)[1] % _PARTS
    return np.arange(len(windows)) * _BLOCKS // max(len(windows), 1) % _PARTS


def _penalty(inputs: Floats, targets: Floats, weights: Floats, block: NDArray[np.int64]) -> float:
    """The penalty under which groups, or blocks of neighbouring windows, are told best by the others."""
    errors = dict.fromkeys(_PENALTIES, 0.0)
    for number in range(_PARTS):
        out = block == number
        for penalty, ridge in ridge_of_each(inputs[~out], targets[~out], weights[~out], penalties=_PENALTIES).items():
            apart = targets[out] - ridge.scores(inputs[out])
            errors[penalty] += float((weights[out, None] * apart**2).sum())
    return min(errors, key=lambda penalty: errors[penalty])


def _trained(
    task: Task,
    way: AdaptationWay,
    rows: NDArray[np.int64],
    wanted: Floats,
    *,
    start: StudentCheckpoint,
    goal: LearnerGoal,
) -> StudentCheckpoint:
    network, name = start.network().train(), start.modality.name
    replayed = by_class(task.old.learn.labels)
    new, old = task.new.learn.subset(rows), task.old.learn.subset(replayed)
    augment = task.student.facts.augment
    augment = augment if goal == "answers" else without_mixing(augment)
    targets = np.concatenate([wanted, old_answers(task)[replayed]])
    learner = AdaptLearner(
        network,
        modality=name,
        targets=torch.from_numpy(targets),
        offset=len(new),
        goal=goal,
    )
    truth = wanted.argmax(axis=1)

    def evaluate(trained: nn.Module) -> AnyScores:
        judged, labels = (task.old.learn, task.old.learn.labels) if goal == "certainty" else (new, truth)
        return scores_from_logits(labels, logits_of(trained, judged, modality=name), task.student.task)

    folder = None if task.run_dir is None else task.run_dir / way.replace(" ", "-")
    found = fit(
        learner,
        PairedSource(new, old, augment, batch=task.train.batch, seed=task.train.seed),
        evaluate=evaluate,
        config=task.train,
        settings=_settings(task, way, targets),
        run_dir=folder,
        resume=task.resume,
        on_step=task.on_step,
    )
    network.load_state_dict(found.state)
    return _changed(task.student, network)


def _settings(task: Task, way: AdaptationWay, targets: Floats) -> Mapping[str, Any]:
    """What else decides the weights."""
    return {
        "way": way,
        "new": task.new.sha256,
        "old": task.old.sha256,
        "student": msgspec.to_builtins(task.student.facts),
        "targets": hashlib.sha256(targets.tobytes()).hexdigest(),
    }


def _changed(student: StudentCheckpoint, network: nn.Module) -> StudentCheckpoint:
    state: dict[str, Tensor] = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    return replace(student, state=state, int8=None, seen=None)
