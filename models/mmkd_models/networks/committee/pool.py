"""How members answer together: each calibrated, and weighted by what validation says of it.

The opinion pool is linear: the weighted mean of the members' probabilities (Stone, "The opinion pool", Annals of
Mathematical Statistics 32, 1961); of a regression the weighted mean of their numbers. The mean of calibrated answers is
softer than calibrated (Ranjan and Gneiting, "Combining probability forecasts", JRSS B 72, 2010), and is left so: on two
folds of watch_exercises a temperature of its own, from two people's validation windows, changed the log-likelihood of
test answers from -0.40 to -0.64 and from -0.62 to -0.61. Needs numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.spec import TaskKind

Floats = NDArray[np.float64]

_INVERSE_TEMPERATURES = (0.02, 50.0)
_GOLDEN = (math.sqrt(5) - 1) / 2
_ROUNDS = 60
"""Of the search for a temperature and of the weights' iteration: both are still to the sixth digit long before."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How members of a committee are put together, in their order.

    Attributes:
        temperatures: of each one's logits; 1 of a regression.
        weights: of each, with the sum 1.
        likelihoods: mean log-likelihood of each one's calibrated answers on validation, in nats.
    """

    temperatures: tuple[float, ...]
    weights: tuple[float, ...]
    likelihoods: tuple[float, ...]


def pool_of(logits: Sequence[NDArray[Any]], labels: NDArray[Any], groups: NDArray[Any], *, kind: TaskKind) -> Pool:
    """Calibrates and weighs members by their answers on the validation windows.

    Each temperature is the most likely one (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017). Weights
    are those of the mixture that makes the labels likeliest, by expectation and maximisation, where the windows of a
    group count as one and each member has one group more: with few groups members stay near each other. One whose
    answers are no likelier than the best constant one, by a standard error over the groups, gets nothing; where that
    holds of all of them, they count alike.

    Args:
        logits: (N, K) of each member; of a regression (N, 1) numbers.
        labels: as `Windows.labels`, all known.
        groups: (N,) whose each window is.
    """
    temperatures = [1.0 if kind == "regression" else likeliest_temperature(one, labels, kind=kind) for one in logits]
    each = np.stack(
        [log_likelihood(one / heat, labels, kind=kind) for one, heat in zip(logits, temperatures, strict=True)], axis=1
    )  # (answers, M)
    owners = np.repeat(groups, len(each) // len(groups))
    constant = _of_the_constant(labels, kind=kind)
    tells = np.array([_is_above(one - constant, owners) for one in each.T])
    weights = np.zeros(len(tells))
    if tells.any():
        weights[tells] = mixture_weights(each[:, tells], groups=len(np.unique(groups)))
    else:
        weights[:] = 1 / len(weights)
    return Pool(
        temperatures=tuple(temperatures),
        weights=tuple(float(weight) for weight in weights),
        likelihoods=tuple(float(mean) for mean in each.mean(0)),
    )


def log_likelihood(logits: NDArray[Any], labels: NDArray[Any], *, kind: TaskKind) -> Floats:
    """Gives the logarithm of what each answer says of the truth: (N,), of several labels (N K,).

    A regression's error is taken as normal, with the spread that it has over these windows.
    """
    z = np.asarray(logits, dtype=np.float64)
    if kind == "classification":
        return np.asarray(_log_softmax(z)[np.arange(len(z)), labels])
    if kind == "multi_label":
        return np.asarray(-np.logaddexp(0.0, np.where(labels > 0, -z, z))).ravel()
    error = z[:, 0] - labels
    spread = max(float(np.sqrt(np.mean(error**2))), 1e-12)
    return np.asarray(-0.5 * (error / spread) ** 2 - math.log(spread * math.sqrt(2 * math.pi)))


def likeliest_temperature(logits: NDArray[Any], labels: NDArray[Any], *, kind: TaskKind) -> float:
    """Gives T > 0 under which logits / T make the labels likeliest; 0.02 at least and 50 at most."""

    def cost(log_inverse: float) -> float:
        return -float(log_likelihood(logits * math.exp(log_inverse), labels, kind=kind).mean())

    return math.exp(-_lowest(cost, *(math.log(one) for one in _INVERSE_TEMPERATURES)))


def _lowest(cost: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is lowest, by golden sections: the cost is convex in 1 / T."""
    inner = [high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)]
    costs = [cost(one) for one in inner]
    for _ in range(_ROUNDS):
        if costs[0] < costs[1]:
            high, inner, costs = inner[1], [inner[1] - _GOLDEN * (inner[1] - low), inner[0]], [0.0, costs[0]]
            costs[0] = cost(inner[0])
        else:
            low, inner, costs = inner[0], [inner[1], inner[0] + _GOLDEN * (high - inner[0])], [costs[1], 0.0]
            costs[1] = cost(inner[1])
    return (low + high) / 2


def mixture_weights(likelihoods: Floats, *, groups: int) -> Floats:
    """Gives (M,) weights with the sum 1 from log-likelihoods (answers, M) over so many groups.

    Source of the iteration: Dempster, Laird, Rubin, "Maximum likelihood from incomplete data via the EM algorithm",
    JRSS B 39, 1977, section 4.3; the group more of each member is a Dirichlet prior.
    """
    members = likelihoods.shape[1]
    shares = np.exp(likelihoods - likelihoods.max(1, keepdims=True))
    weights = np.full(members, 1 / members)
    for _ in range(_ROUNDS):
        of_each = weights * shares
        of_each /= of_each.sum(1, keepdims=True)
        weights = (groups * of_each.mean(0) + 1) / (groups + members)
    return weights


def _log_softmax(z: Floats) -> Floats:
    shifted = z - z.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def _of_the_constant(labels: NDArray[Any], *, kind: TaskKind) -> Floats:
    """The log-likelihood of the answer that is the same for all windows and likeliest on them."""
    if kind == "regression":
        return log_likelihood(np.full((len(labels), 1), labels.mean()), labels, kind=kind)
    if kind == "classification":
        shares = np.bincount(labels) / len(labels)
        return np.asarray(np.log(shares[labels]))
    share = np.clip(labels.mean(0), 1e-6, 1 - 1e-6)
    return np.asarray(np.where(labels > 0, np.log(share), np.log1p(-share))).ravel()


def _is_above(differences: Floats, groups: NDArray[Any]) -> bool:
    """Whether the mean is above 0 by more than a standard error, where whole groups are drawn."""
    owner = np.unique(groups, return_inverse=True)[1].reshape(-1)
    if owner.max() == 0:
        owner = np.arange(len(differences))
    sums = np.bincount(owner, weights=differences - differences.mean())
    count = len(sums)
    error = math.sqrt(float((sums**2).sum()) * count / max(1, count - 1)) / len(differences)
    return bool(differences.mean() > error)
