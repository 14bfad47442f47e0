"""Prior adjustment: answers as if every class were equally frequent, where validation says that this is better.

Logits that were taught on unequal classes favour the frequent ones; z' = z - tau log pi takes that back (Menon et al.,
"Long-tail learning via logit adjustment", ICLR 2021, section 4.1, post-hoc). It is a bias, so every engine has it.
Whether it pays is told by validation, and only beyond a standard error: validation misleads where it is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmkd_models.data.labels import Labels
from mmkd_models.data.windows import Groups, Windows
from mmkd_models.metrics.classes import scores_from_answers
from mmkd_models.metrics.jackknife import jackknife_error
from mmkd_models.metrics.likelihood import fitted_temperature
from mmkd_models.metrics.scores import AnyMetric
from mmkd_models.networks.student import AnyStudent, Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.loop import Fit
from mmkd_models.training.predict import logits_of, scores_of

TAUS = (0.5, 1.0)

_FEWEST_GROUPS = 3


def adjusted(
    network: AnyStudent | Teacher,
    state: Mapping[str, Tensor],
    labels: Labels,
    valid: Windows,
    *,
    metric: AnyMetric,
    modality: str | None,
) -> tuple[dict[str, Tensor], float]:
    """Folds the adjustment that validation chose into the bias of the head, and gives its tau: 0 where it chose none.

    Args:
        network: that is given the weights.
        labels: that taught; tasks of other kinds than classes have no prior to take back.
        modality: the student's; None for a teacher.
    """
    task = valid.spec.task
    if task.kind != "classification":
        return dict(state), 0.0
    network.cpu().load_state_dict(state)
    known = valid.subset(np.flatnonzero(valid.labelled))
    logits = logits_of(network, known, modality=modality)
    prior = log_prior(labels, len(task.labels))
    tau = chosen_tau(logits, known.labels, known.groups, prior=prior, metric=metric)
    return {**state, "head.bias": state["head.bias"] - tau * torch.from_numpy(prior).float()}, tau


def evening_bias(
    logits: NDArray[np.floating], labels: Labels, known: Windows, *, metric: AnyMetric
) -> NDArray[np.float64] | None:
    """Gives (K,) what evens out the classes when it is added to answers of no temperature yet; None where nothing does.

    Args:
        logits: (N, K) raw answers, which are adjusted as they are when their temperature fits.
        labels: that taught.
        known: the N validation windows, all labelled.
    """
    task = known.spec.task
    if task.kind != "classification":
        return None
    heat, prior = fitted_temperature(logits, known.labels, kind=task.kind), log_prior(labels, len(task.labels))
    tau = chosen_tau(logits / heat, known.labels, known.groups, prior=prior, metric=metric)
    return -tau * heat * prior if tau else None


def adjusted_fit(
    network: Student | Teacher, result: Fit, labels: Labels, valid: Windows, *, metric: AnyMetric, modality: str | None
) -> tuple[Fit, float]:
    """Gives the training with its weights `adjusted`, and their scores."""
    state, tau = adjusted(network, result.state, labels, valid, metric=metric, modality=modality)
    if not tau:
        return result, tau
    network.load_state_dict(state)
    seen = valid if modality is None else valid.with_modalities((modality,))
    return replace(result, state=state, scores=scores_of(network, seen, modality=modality)), tau


def log_prior(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Gives log pi (K,), the shares of the classes among labels >= 0; a class without any counts as half a window."""
    counts = np.bincount(labels[labels >= 0], minlength=classes).astype(np.float64)
    counts = np.maximum(counts, 0.5)
    shares: NDArray[np.float64] = np.log(counts / counts.sum())
    return shares


def chosen_tau(
    logits: NDArray[np.floating],
    labels: NDArray[np.int64],
    groups: Groups,
    *,
    prior: NDArray[np.float64],
    metric: AnyMetric,
) -> float:
    """Gives the tau that validates best, or 0 where none is better than no adjustment by more than a standard error.

    The error is that of the difference, by the jackknife over groups (Efron and Stein, Annals of Statistics 9, 1981).

    Args:
        logits: (N, K) of validation windows, all labelled.
        prior: log pi (K,) of the labels that taught.
        metric: accuracy wants the classes as frequent as they are: nothing is adjusted then.
    """
    if metric == "accuracy":
        return 0.0
    classes = logits.shape[1]
    plain = logits.argmax(1)
    best, found = 0.0, 0.0
    for tau in TAUS:
        answers = (logits - tau * prior).argmax(1)

        def gain(rows: NDArray[np.bool_], answers: NDArray[np.int64] = answers) -> float:
            scores = (scores_from_answers(labels[rows], one[rows], classes) for one in (answers, plain))
            after, before = (one.metric(metric) for one in scores)
            return after - before

        here = gain(np.ones(len(labels), dtype=np.bool_))
        if here > found and here > jackknife_error(gain, groups, fewest_groups=_FEWEST_GROUPS):
            best, found = tau, here
    return best
