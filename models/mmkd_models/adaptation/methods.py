"""The methods of adaptation.

Half of each batch is old, drawn equally from each class ("random replay"; A. Chaudhry et al., 2019), with targets half
label, half the old student's answer (Z. Li, D. Hoiem, "Learning without Forgetting", ECCV 2016).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mmkd_models.adaptation.domains import Domain, few_labels, unlearnt
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.batches import Batch, BatchSource
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.likelihood import Floats, probabilities_of
from mmkd_models.metrics.scores import AnyScores, scores_from_logits
from mmkd_models.train_config import OnStep, TrainConfig
from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherFile
from mmkd_models.training.closed_form import class_weights, fit_ridges, label_answers, teachers_answers
from mmkd_models.training.fitting import set_normalisation
from mmkd_models.training.loop import fit
from mmkd_models.training.predict import embeddings_of, logits_of

AdaptationMethod = Literal["statistics", "teacher", "labels"]
"""Mean and spread of the new windows; a teacher's answers; labels of some windows."""

_PENALTIES = (1e1, 1e2, 1e3, 1e4, 1e5)
_BLOCKS, _PARTS = 20, 4  # blocks of neighbours, of which each fourth is left out at a time

ADAPT_TRAIN = TrainConfig(steps=200, learning_rate=5e-4, eval_every=50)
"""Short and gentle: it starts with a trained student."""


@dataclass(frozen=True, kw_only=True)
class AdaptationTask:
    """A student, two domains and limits."""

    student: StudentCheckpoint
    student_sha256: str
    new: Domain  # with the student's modality and the teacher's
    old: Domain
    teacher: TeacherFile | None
    labels: int  # labels of each class to use; 0 uses none
    train: TrainConfig
    max_forget: float
    run_dir: Path | None = None
    resume: bool = False
    on_step: OnStep | None = None

    @property
    def methods(self) -> tuple[AdaptationMethod, ...]:
        """The methods that apply."""
        student = self.student
        # Values that are normalised by group are statistics already, as are convolutional features of audio.
        is_fixed = student.modality.normalise == "per_group" or (
            student.config.members != ("transformer",) and student.modality.kind != "series"
        )
        methods: list[AdaptationMethod] = [] if is_fixed else ["statistics"]
        methods += ["teacher"] if self.teacher is not None else []
        methods += ["labels"] if self.labels else []
        return tuple(methods)

    @cached_property
    def learn(self) -> Windows:
        """New training windows, with the student's modality alone."""
        return self.new.learn.with_modalities((self.student.modality.name,))

    @cached_property
    def labelled(self) -> NDArray[np.int64] | None:
        """Rows of the new training windows whose labels are used; None for none."""
        return few_labels(self.new.learn, self.labels, seed=self.train.seed) if self.labels else None

    def teacher_answers(self, windows: Windows) -> Floats | None:
        """Return a teacher's probabilities (N, K); None without a teacher."""
        return None if self.teacher is None else teachers_answers([self.teacher], windows, np.arange(len(windows)))


def adapt_student(
    task: AdaptationTask, method: AdaptationMethod, *, labelled: NDArray[np.int64] | None = None
) -> StudentCheckpoint:
    """Return the adapted student; the method `labels` uses rows `labelled`."""
    if method == "statistics":
        network = task.student.network()
        set_normalisation(network, task.learn)
        return _with_weights(task.student, network)
    if method == "labels":
        assert labelled is not None
        rows, targets = labelled, label_answers(task.student.task, task.learn.labels[labelled])
    else:
        answers = task.teacher_answers(task.new.learn)
        assert answers is not None
        rows, targets = np.arange(len(task.learn)), answers
    parts = [(task.learn.subset(rows), targets), (task.old.learn, old_answers(task))]
    if "transformer" not in task.student.config.members:
        return refit_head(task.student, parts)
    start = task.student
    if method == "labels":  # the head first: a regression on few windows changes little, and a new class has its row
        start = refit_head(task.student, parts)
    return _train(task, method, rows, targets, start=start)


def old_answers(task: AdaptationTask) -> Floats:
    """Return (N, K) targets of old windows: half label, half the student's answer."""
    known = label_answers(task.student.task, task.old.learn.labels)
    logits = logits_of(task.student.network(), task.old.learn, modality=task.student.modality.name)
    return np.asarray((known + probabilities_of(logits, kind=task.student.task.kind)) / 2)


def refit_head(student: StudentCheckpoint, parts: Sequence[tuple[Windows, Floats]]) -> StudentCheckpoint:
    """Refit the head by ridge regression on residuals; `parts`, windows with targets (N, K), weigh alike."""
    network, name = student.network(), student.modality.name
    embeddings = [embeddings_of(network, windows, modality=name) for windows, _ in parts]
    inputs = np.concatenate(embeddings).astype(np.float64)
    targets = np.concatenate([2.0 * answers - 1.0 for _, answers in parts])
    window_weights = np.concatenate([np.full(len(windows), 1.0 / max(len(windows), 1)) for windows, _ in parts])
    weights = class_weights(student.task.kind, targets) * window_weights
    weights *= len(weights) / weights.sum()
    before = np.concatenate([logits_of(network, windows, modality=name) for windows, _ in parts]).astype(np.float64)
    # A temperature is the factor between scores and logits. Logits of a new class, far below others, do not count.
    known = ~unlearnt(student)
    logits, scores = before[:, known], targets[:, known]
    heat = float((weights[:, None] * logits * scores).sum() / (weights[:, None] * logits * logits).sum())
    residuals, held_out = targets - heat * before, np.concatenate([_parts(windows) for windows, _ in parts])
    penalty = _best_penalty(inputs, residuals, weights, held_out)
    ridge = fit_ridges(inputs, residuals, weights, penalties=(penalty,))[penalty]
    with torch.no_grad():
        network.head.weight.add_(torch.from_numpy(ridge.weight.T / heat).float())
        network.head.bias.add_(torch.from_numpy(ridge.bias / heat).float())
    return _with_weights(student, network)


def _parts(windows: Windows) -> NDArray[np.int64]:
    if windows.group_count >= _PARTS:
        return np.unique(windows.groups, return_inverse=True)[1] % _PARTS
    return np.arange(len(windows)) * _BLOCKS // max(len(windows), 1) % _PARTS


def _best_penalty(inputs: Floats, targets: Floats, weights: Floats, parts: NDArray[np.int64]) -> float:
    errors = dict.fromkeys(_PENALTIES, 0.0)
    for number in range(_PARTS):
        out = parts == number
        for penalty, ridge in fit_ridges(inputs[~out], targets[~out], weights[~out], penalties=_PENALTIES).items():
            residuals = targets[out] - ridge.scores(inputs[out])
            errors[penalty] += float((weights[out, None] * residuals**2).sum())
    return min(errors, key=lambda penalty: errors[penalty])


class PairedSource:
    """Batches with new windows in the first half and old ones in the second."""

    def __init__(self, new: Windows, old: Windows, config: AugmentConfig, *, batch: int, seed: int) -> None:
        half = max(2, batch // 2)
        self.new = BatchSource(new, config, batch=half, labelled_fraction=0.0, seed=seed)
        self.old = BatchSource(old, config, batch=half, labelled_fraction=0.0, seed=seed + 1)
        self.offset = len(new)

    def at(self, step: int) -> Batch:
        """Return a step's batch; old windows are numbered after new ones."""
        new, old = self.new.at(step), self.old.at(step)
        inputs = {
            name: tuple(torch.cat(pair) for pair in zip(new.inputs[name], old.inputs[name], strict=True))
            for name in new.inputs
        }
        partners = [batch.index if batch.partner is None else batch.partner for batch in (new, old)]
        fractions = [torch.ones(len(batch.index)) if batch.fraction is None else batch.fraction for batch in (new, old)]
        return Batch(
            inputs=inputs,  # type: ignore[arg-type]
            targets=torch.cat([new.targets, old.targets]),
            labelled=torch.cat([new.labelled, old.labelled]),
            index=torch.cat([new.index, old.index + self.offset]),
            step=step,
            partner=torch.cat([partners[0], partners[1] + self.offset]),
            fraction=torch.cat(fractions),
        )


class AdaptLearner(nn.Module):
    """Trains a student in place. `targets` (N, K) are of the first `offset` windows, the new ones, then of the old."""

    def __init__(self, network: nn.Module, *, modality: str, targets: Tensor, offset: int) -> None:
        super().__init__()
        self.network, self.modality, self.offset = network, modality, offset
        self.targets = nn.Buffer(targets.float(), persistent=False)

    def forward(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Return the cross-entropies of new and old windows and their mean, `loss`."""
        logits: Tensor = self.network(*batch.inputs[self.modality]).logits
        weight = batch.fraction[:, None].to(logits)  # type: ignore[index]
        targets = weight * self.targets[batch.index] + (1 - weight) * self.targets[batch.partner]
        losses = -(targets * F.log_softmax(logits, dim=-1)).sum(-1)  # (B,)
        is_old = batch.index >= self.offset
        new, old = losses[~is_old].mean(), losses[is_old].mean()
        return {"new": new, "old": old, "loss": (new + old) / 2}


def balanced_rows(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return rows of labels (N,) that make classes equally frequent."""
    classes = [np.flatnonzero(labels == number) for number in np.unique(labels)]
    most = max(map(len, classes))
    return np.concatenate([np.resize(rows, most) for rows in classes]).astype(np.int64)


def _train(
    task: AdaptationTask,
    method: AdaptationMethod,
    rows: NDArray[np.int64],
    answers: Floats,
    *,
    start: StudentCheckpoint,
) -> StudentCheckpoint:
    network, name = start.network().train(), start.modality.name
    replayed = balanced_rows(task.old.learn.labels)
    new, old = task.learn.subset(rows), task.old.learn.subset(replayed)
    targets = np.concatenate([answers, old_answers(task)[replayed]])
    learner = AdaptLearner(network, modality=name, targets=torch.from_numpy(targets), offset=len(new))

    def evaluate(trained: nn.Module) -> AnyScores:
        return scores_from_logits(answers.argmax(axis=1), logits_of(trained, new, modality=name), task.student.task)

    trained = fit(
        learner,
        PairedSource(new, old, task.student.facts.augment, batch=task.train.batch, seed=task.train.seed).at,
        evaluate=evaluate,
        config=task.train,
        settings={
            "method": method,
            "new": task.new.sha256,
            "old": task.old.sha256,
            "student": msgspec.to_builtins(task.student.facts),
            "targets": hashlib.sha256(targets.tobytes()).hexdigest(),
        },
        run_dir=None if task.run_dir is None else task.run_dir / method,
        resume=task.resume,
        on_step=task.on_step,
    )
    network.load_state_dict(trained.state)
    return _with_weights(task.student, network)


def _with_weights(student: StudentCheckpoint, network: nn.Module) -> StudentCheckpoint:
    state: dict[str, Tensor] = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    return replace(student, state=state, embeddings=None, portable=None)
