"""Classical rivals on one sensor: extra-trees on window statistics, MiniRocket, MultiRocket-Hydra, and an average.

They use the labelled training windows of one modality. `taught_rocket` also learns from the teacher: it shows what
distillation gains for MiniRocket.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

import numpy as np

from mmkd_models.data.checking.scan import window_statistics
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.outcome import TestedNetwork, outcome_on
from mmkd_models.evaluation.rockets import (
    Transform,
    mini_rocket,
    multi_rocket_hydra,
    ridge_on_labels,
    ridge_on_targets,
    rocket_threads,
    series_of,
    taught_targets,
)
from mmkd_models.evaluation.settled import Answers, averaged, settling
from mmkd_models.metrics.scores import AnyMetric
from mmkd_models.training.predict import series_values
from mmkd_report.schema.figures import CONTESTANTS

_TREES = 300


RivalName = Literal["extra_trees", "mini_rocket", "rocket_and_trees", "multi_rocket_hydra", "taught_rocket"]
RIVALS: tuple[RivalName, ...] = get_args(RivalName)
QUICK_RIVALS: tuple[RivalName, ...] = ("extra_trees", "mini_rocket", "rocket_and_trees", "taught_rocket")
"""Those that take a few seconds; MultiRocket-Hydra takes half a minute of a core for a fold, and compiles as long."""

NO_TEACHER = "there is no teacher here that could teach it"

Teach = Callable[[Windows], Answers]
"""From windows to a teacher's probabilities (N, K), or its numbers (N, 1)."""

Answerer = Callable[[Windows], Answers]
"""From windows that have the modality to answers (N, K)."""


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """A fitted rival: its answers to the labelled windows of each part, and to any others."""

    parts: tuple[Answers, ...]
    ask: Answerer


@dataclass(frozen=True, kw_only=True)
class Contestants:
    """Rivals of one sensor on one fold; each is fitted once.

    Attributes:
        train: with the visible labels.
        parts: the validation windows first, then those that judge.
        metric: what validation maximises.
        teach: the teacher of `taught_rocket`; None without one.
    """

    train: Windows
    parts: tuple[Windows, ...]
    modality: str
    seed: int
    metric: AnyMetric = "balanced_accuracy"
    teach: Teach | None = None
    _found: dict[RivalName, _Fitted | str] = field(default_factory=dict)

    def judged(self, rival: RivalName) -> tuple[TestedNetwork, ...] | str:
        """Judge a rival on the labelled windows of each part, or return why that is impossible."""
        found = self._fitted(rival)
        if isinstance(found, str):
            return found
        return tuple(outcome_on(_labelled(part), one) for part, one in zip(self.parts, found.parts, strict=True))

    def asked(self, rival: RivalName) -> Answerer | str:
        """Return the function that answers any windows, or why there is none."""
        found = self._fitted(rival)
        return found if isinstance(found, str) else found.ask

    def _fitted(self, rival: RivalName) -> _Fitted | str:
        if rival not in self._found:
            self._found[rival] = self._learnt(rival)
        return self._found[rival]

    def _learnt(self, rival: RivalName) -> _Fitted | str:
        parts = [_labelled(part) for part in self.parts]
        if rival == "rocket_and_trees":
            rocket, trees = self._fitted("mini_rocket"), self._fitted("extra_trees")
            if isinstance(rocket, str) or isinstance(trees, str):
                return rocket if isinstance(rocket, str) else str(trees)
            kind = self.train.spec.task.kind
            raw: Answerer = partial(_averaged, rocket.ask, trees.ask)
            answers = [averaged(one, other, kind=kind) for one, other in zip(rocket.parts, trees.parts, strict=True)]
        else:
            try:
                told = self._raw(rival)
            except ImportError:
                return "aeon is not installed; run: pip install 'mmkd-edge[rivals]'"
            except ValueError as error:  # aeon refuses windows that are too short for its kernels
                return f"{CONTESTANTS[rival]} refused these windows: {error}"
            if told is None:
                return NO_TEACHER
            raw, answers = told, [told(part) for part in parts]
        settle = settling(answers[0], train=_labelled(self.train), valid=parts[0], metric=self.metric)
        return _Fitted(parts=tuple(map(settle, answers)), ask=lambda windows: settle(raw(windows)))

    def _raw(self, rival: RivalName) -> Answerer | None:
        known, task = _labelled(self.train), self.train.spec.task
        if rival == "extra_trees":
            return _extra_trees(known, modality=self.modality, seed=self.seed)
        learnt_from = self.train if rival == "taught_rocket" else known
        if rival == "taught_rocket" and self.teach is None:
            return None
        with rocket_threads():
            series = series_of(learnt_from, self.modality)
            made: Transform = (multi_rocket_hydra if rival == "multi_rocket_hydra" else mini_rocket)(
                series, seed=self.seed
            )
            if rival == "taught_rocket" and self.teach is not None:
                answering = ridge_on_targets(made(series), taught_targets(self.train, self.teach(self.train)))
            else:
                answering = ridge_on_labels(made(series), known.labels, task)

        def ask(windows: Windows) -> Answers:
            with rocket_threads():
                return answering(made(series_of(windows, self.modality)))

        return ask


def rival_judged(
    rival: RivalName, train: Windows, parts: Sequence[Windows], *, modality: str, seed: int
) -> tuple[TestedNetwork, ...] | str:
    """Judges one rival that nobody teaches, as `Contestants.judged`."""
    return Contestants(train=train, parts=tuple(parts), modality=modality, seed=seed).judged(rival)


def _averaged(one: Answerer, other: Answerer, windows: Windows) -> Answers:
    return averaged(one(windows), other(windows), kind=windows.spec.task.kind)


def _extra_trees(known: Windows, *, modality: str, seed: int) -> Answerer:
    """Extra-trees (Geurts et al., Machine Learning 63, 2006) on `window_statistics`.

    Answers of classes and labels are logits of the votes, with one more vote for each, so that they are finite.
    """
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    task, classes = known.spec.task, len(known.spec.task.labels)
    kind = ExtraTreesClassifier if task.kind == "classification" else ExtraTreesRegressor
    forest = kind(n_estimators=_TREES, random_state=seed)
    forest.fit(window_statistics(series_values(known, modality)), known.labels)

    def ask(windows: Windows) -> Answers:
        statistics = window_statistics(series_values(windows, modality))
        if task.kind == "classification":
            shares = np.zeros((len(windows), classes))
            shares[:, forest.classes_] = forest.predict_proba(statistics)
            return np.asarray(np.log((shares * _TREES + 1 / classes) / (_TREES + 1)))
        numbers = np.asarray(forest.predict(statistics), dtype=np.float64).reshape(len(windows), -1)
        votes = (numbers * _TREES + 0.5) / (_TREES + 1)
        return numbers if task.kind == "regression" else np.asarray(np.log(votes / (1 - votes)))

    return ask


def _labelled(windows: Windows) -> Windows:
    return windows.subset(np.flatnonzero(windows.labelled))
