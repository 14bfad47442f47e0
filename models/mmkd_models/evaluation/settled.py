"""From raw answers of a rival to those that are judged: temperature and prior, chosen on validation windows alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.spec import TaskKind
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.likelihood import fitted_temperature, probabilities_of
from mmkd_models.metrics.scores import AnyMetric
from mmkd_models.training.choosing import chosen_tau, log_prior

Answers = NDArray[np.float64]
"""(N, K): logits of classes or labels, or numbers (K = 1)."""

_LEAST = 1e-12  # a probability whose logarithm is still finite


def settling(raw: Answers, *, train: Windows, valid: Windows, metric: AnyMetric) -> Callable[[Answers], Answers]:
    """Return the function from raw to judged answers: logits at the temperature that fits validation.

    Those of classes are adjusted for unequal labels if validation prefers it, as for networks.

    Args:
        raw: answers to the validation windows.
        train: labelled training windows.
        valid: labelled validation windows.
        metric: what validation maximises.
    """
    kind = train.spec.task.kind
    if kind == "regression":
        return lambda asked: asked
    temperature = fitted_temperature(raw, valid.labels, kind=kind)
    if kind != "classification":
        return lambda asked: asked / temperature
    prior = log_prior(train.labels, len(train.spec.task.labels))
    tau = chosen_tau(raw / temperature, valid.labels, valid.groups, prior=prior, metric=metric)
    return lambda asked: asked / temperature - tau * prior if tau else asked / temperature


def logits_of_probabilities(probabilities: Answers, *, kind: TaskKind) -> Answers:
    """Return logits of these probabilities; those of 0 and 1 stay finite."""
    known = np.clip(probabilities, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(known / (1 - known)) if kind == "multi_label" else np.log(known))


def averaged(one: Answers, other: Answers, *, kind: TaskKind) -> Answers:
    """Return the answers whose probabilities are the mean of both, or the mean of two numbers."""
    if kind == "regression":
        return np.asarray((one + other) / 2)
    mean = (probabilities_of(one, kind=kind) + probabilities_of(other, kind=kind)) / 2
    return logits_of_probabilities(mean, kind=kind)
