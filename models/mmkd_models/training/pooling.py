"""Temperatures and weights of a committee's members, from their answers on validation windows.

A linear opinion pool: the weighted mean of the members' probabilities (Stone, "The opinion pool", Annals of
Mathematical Statistics 32, 1961); of a regression of their numbers. It stays underconfident (Ranjan and Gneiting, JRSS
B 72, 2010): a temperature of its own made test answers less likely.
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
"""Iterations of the weights, which converge to the sixth digit long before."""


@dataclass(frozen=True, kw_only=True)
class MemberPooling:
    """Temperatures and weights of members, in their order.

    Attributes:
        temperatures: of the logits; 1 for a regression.
        likelihoods: mean log-likelihood of each member's calibrated answers on validation, in nats.
        together: (answers,) log-likelihood of the pooled answers, in nats, as if all members answered every window.
    """

    temperatures: tuple[float, ...]
    weights: tuple[float, ...]
    likelihoods: tuple[float, ...]
    together: Floats


def pool_of(
    logits: Sequence[NDArray[Any]], labels: NDArray[Any], groups: NDArray[Any], *, kind: TaskKind
) -> MemberPooling:
    """Calibrate and weight members by their answers on the validation windows.

    Weights maximise the likelihood of the labels, where the windows of a group count as one and each member has one
    more group: with few groups the weights stay close. A member that is not likelier than the best constant answer, by
    a standard error over the groups, gets 0; if that holds for all, they count alike.

    Args:
        logits: (N, K) of each member; of a regression (N, 1) numbers.
        labels: as `Windows.labels`, all known.
        groups: (N,) of each window.
    """
    temperatures = [fitted_temperature(answers, labels, kind=kind) for answers in logits]
    calibrated = [answers / temperature for answers, temperature in zip(logits, temperatures, strict=True)]
    each = np.stack([log_likelihood(answers, labels, kind=kind) for answers in calibrated], axis=1)  # (answers, M)
    constant = _constant_likelihood(labels, kind=kind)
    useful = np.array([surely_likelier(member, constant, groups, of_one_group=True) for member in each.T])
    weights = np.full(len(useful), 0.0 if useful.any() else 1 / len(useful))
    if useful.any():
        weights[useful] = mixture_weights(each[:, useful], groups=len(np.unique(groups)))
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
    """Return the sensor with the likeliest member of its own, if all are likelier together by a standard error.

    Args:
        members: logits (N, K) of the members of all sensors, as for `pool_of`.
        alone: those of the members of each sensor.
    """
    best = max(alone, key=lambda name: max(pool_of(alone[name], labels, groups, kind=kind).likelihoods))
    before, after = (pool_of(logits, labels, groups, kind=kind) for logits in (members, [*members, *alone[best]]))
    return best if surely_likelier(after.together, before.together, groups) else None


def mixture_weights(likelihoods: Floats, *, groups: int) -> Floats:
    """Return (M,) weights with the sum 1 from log-likelihoods (answers, M) over `groups` groups.

    Source: Dempster, Laird, Rubin, JRSS B 39, 1977, section 4.3; the one more group of each member is a Dirichlet
    prior.
    """
    members = likelihoods.shape[1]
    shares = np.exp(likelihoods - likelihoods.max(1, keepdims=True))
    weights = np.full(members, 1 / members)
    for _ in range(_ROUNDS):
        of_each = weights * shares
        of_each /= of_each.sum(1, keepdims=True)
        weights = (groups * of_each.mean(0) + 1) / (groups + members)
    return weights


def _constant_likelihood(labels: NDArray[Any], *, kind: TaskKind) -> Floats:
    """The log-likelihood of the best constant answer."""
    if kind == "regression":
        return log_likelihood(np.full((len(labels), 1), labels.mean()), labels, kind=kind)
    if kind == "classification":
        shares = np.bincount(labels) / len(labels)
        return np.asarray(np.log(shares[labels]))
    share = np.clip(labels.mean(0), 1e-6, 1 - 1e-6)
    return np.asarray(np.where(labels > 0, np.log(share), np.log1p(-share))).ravel()
