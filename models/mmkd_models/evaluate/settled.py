"""The one place where raw answers of a rival become those that are judged: what every arm gets alike happens here.

Owns the temperature and the prior adjustment. Windows that judge are seen by nobody here: validation alone decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.spec import TaskKind
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.scores import AnyMetric
from mmkd_models.training.judging.prior import chosen_tau, log_prior

Answers = NDArray[np.float64]
"""(N, K): logits of classes or labels, or numbers (K = 1)."""

_TEMPERATURES = np.logspace(-2, 2, 401)
_LEAST = 1e-12  # a probability whose logarithm is still finite


def settled_answers(
    raw: Sequence[Answers], *, train: Windows, valid: Windows, metric: AnyMetric
) -> tuple[Answers, ...]:
    """Gives the answers of each part as they are judged: logits at the temperature of the greatest likelihood.

    Those of classes are adjusted for unequal labels where validation wants it, as the networks' are.

    Args:
        raw: answers to the validation windows first, then to other parts.
        train: the labelled windows that taught them.
        valid: all labelled.
        metric: what validation maximises.
    """
    kind = train.spec.task.kind
    if kind == "regression":
        return tuple(raw)
    temperature = best_temperature(raw[0], valid.labels, kind=kind)
    settled = tuple(one / temperature for one in raw)
    if kind != "classification":
        return settled
    prior = log_prior(train.labels, len(train.spec.task.labels))
    tau = chosen_tau(settled[0], valid.labels, valid.groups, prior=prior, metric=metric)
    return tuple(one - tau * prior for one in settled) if tau else settled


def best_temperature(logits: Answers, labels: NDArray[Any], *, kind: TaskKind) -> float:
    """Gives the temperature at which the labels are likeliest (Guo et al., ICML 2017), between 0.01 and 100.

    Example:
        >>> logits = np.array([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0], [3.0, 0.0]])
        >>> round(3 / best_temperature(logits, np.array([0, 0, 0, 1]), kind="classification"), 1)  # log(3) = 1.1
        1.1
    """
    losses = [_loss(logits / temperature, labels, kind) for temperature in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def probabilities_of(logits: Answers, *, kind: TaskKind) -> Answers:
    """Gives (N, K) probabilities: of classes they sum to 1, of several labels each is of its own."""
    if kind == "multi_label":
        return np.asarray(0.5 * (1 + np.tanh(logits / 2)))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def logits_of_probabilities(probabilities: Answers, *, kind: TaskKind) -> Answers:
    """Gives logits whose probabilities these are; those of 0 and 1 stay finite."""
    known = np.clip(probabilities, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(known / (1 - known)) if kind == "multi_label" else np.log(known))


def averaged(one: Answers, other: Answers, *, kind: TaskKind) -> Answers:
    """Gives the answer whose probabilities are the mean of both, or the mean of two numbers."""
    if kind == "regression":
        return np.asarray((one + other) / 2)
    mean = (probabilities_of(one, kind=kind) + probabilities_of(other, kind=kind)) / 2
    return logits_of_probabilities(mean, kind=kind)


def _loss(logits: Answers, labels: NDArray[Any], kind: TaskKind) -> float:
    if kind == "multi_label":
        signed = np.where(labels == 1, logits, -logits)
        return float(np.logaddexp(0, -signed).mean())
    highest = logits.max(axis=1)
    total = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    return float((total - logits[np.arange(len(labels)), labels]).mean())
