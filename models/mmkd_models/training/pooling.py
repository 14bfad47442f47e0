"""How members answer together: each calibrated, and weighted by what validation says of it.

The opinion pool is linear: the weighted mean of the members' probabilities (Stone, "The opinion pool", Annals of
Mathematical Statistics 32, 1961); of a regression the weighted mean of their numbers. The mean of calibrated answers is
softer than calibrated (Ranjan and Gneiting, "Combining probability forecasts", JRSS B 72, 2010), and is left so: on two
folds of watch_exercises a temperature of its own, from two people's validation windows, changed the log-likelihood of
test answers from -0.40 to -0.64 and from -0.62 to -0.61. Needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.spec import TaskKind
from mmkd_models.metrics.likelihood import fitted_temperature, log_likelihood, surely_likelier

Floats = NDArray[np.float64]

_ROUNDS = 60
"""Of the weights' iteration, which is still to the sixth digit long before."""


@dataclass(frozen=True, kw_only=True)
class MemberPooling:
    """How members of a committee are put together, in their order.

    Attributes:
        temperatures: of each one's logits; 1 of a regression.
        weights: of each, with the sum 1.
        likelihoods: mean log-likelihood of each one's calibrated answers on validation, in nats.
        together: (answers,) log-likelihood of the answers of all of them, in nats, as if everybody
            answered windows that lack a modality.
    """

    temperatures: tuple[float, ...]
    weights: tuple[float, ...]
    likelihoods: tuple[float, ...]
    together: Floats


def pool_of(
    logits: Sequence[NDArray[Any]], labels: NDArray[Any], groups: NDArray[Any], *, kind: TaskKind
) -> MemberPooling:
    """Calibrates and weighs members by their answers on the validation windows.

    Each temperature is that of `fitted_temperature`. Weights are those of the mixture that makes the labels likeliest,
    by expectation and maximisation, where the windows of a group count as one and each member has one group more: with
    few groups members stay near each other. One whose answers are no likelier than the best constant one, by a standard
    error over the groups, gets nothing; where that holds of all of them, they count alike.

    Args:
        logits: (N, K) of each member; of a regression (N, 1) numbers.
        labels: as `Windows.labels`, all known.
        groups: (N,) whose each window is.
    """
    temperatures = [fitted_temperature(one, labels, kind=kind) for one in logits]
    calibrated = [one / heat for one, heat in zip(logits, temperatures, strict=True)]
    each = np.stack([log_likelihood(one, labels, kind=kind) for one in calibrated], axis=1)  # (answers, M)
    constant = _of_the_constant(labels, kind=kind)
    tells = np.array([surely_likelier(one, constant, groups, of_one_group=True) for one in each.T])
    weights = np.zeros(len(tells))
    if tells.any():
        weights[tells] = mixture_weights(each[:, tells], groups=len(np.unique(groups)))
    else:
        weights[:] = 1 / len(weights)
    if kind == "regression":
        together = log_likelihood(np.average(calibrated, axis=0, weights=weights), labels, kind=kind)
    else:
        most = each.max(1)
        together = most + np.log(np.exp(each - most[:, None]) @ weights)
    return MemberPooling(
        temperatures=tuple(temperatures),
        weights=tuple(float(weight) for weight in weights),
        likelihoods=tuple(float(mean) for mean in each.mean(0)),
        together=together,
    )


def joining_sensor(
    members: Sequence[NDArray[Any]],
    alone: Mapping[str, Sequence[NDArray[Any]]],
    labels: NDArray[Any],
    groups: NDArray[Any],
    *,
    kind: TaskKind,
) -> str | None:
    """Gives the sensor whose own members should join; None where validation is not sure of it.

    It is the one that has the likeliest member, and the committee must be likelier with its members by more than a
    standard error over the groups.

    Args:
        members: logits (N, K) of the members of all sensors; of a regression (N, 1) numbers.
        alone: those of the members of each sensor.
        labels: as `Windows.labels`, all known.
        groups: (N,) whose each window is.
    """
    best = max(alone, key=lambda name: max(pool_of(alone[name], labels, groups, kind=kind).likelihoods))
    before, after = (pool_of(ones, labels, groups, kind=kind) for ones in (members, [*members, *alone[best]]))
    return best if surely_likelier(after.together, before.together, groups) else None


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


def _of_the_constant(labels: NDArray[Any], *, kind: TaskKind) -> Floats:
    """The log-likelihood of the answer that is the same for all windows and likeliest on them."""
    if kind == "regression":
        return log_likelihood(np.full((len(labels), 1), labels.mean()), labels, kind=kind)
    if kind == "classification":
        shares = np.bincount(labels) / len(labels)
        return np.asarray(np.log(shares[labels]))
    share = np.clip(labels.mean(0), 1e-6, 1 - 1e-6)
    return np.asarray(np.where(labels > 0, np.log(share), np.log1p(-share))).ravel()
