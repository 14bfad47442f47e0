"""A committee: members trained, calibrated and weighted.

A linear opinion pool (Stone, Annals of Mathematical Statistics 32, 1961): the weighted mean of probabilities or
numbers. It stays underconfident (Ranjan and Gneiting, JRSS B 72, 2010); its own temperature made test answers less
likely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec, TaskKind
from mmkd_models.data.windows import Windows
from mmkd_models.defaults import COMMITTEE
from mmkd_models.metrics.likelihood import Floats, fitted_temperature, log_likelihood, significantly_likelier
from mmkd_models.metrics.scores import AnyMetric, scores_from_logits
from mmkd_models.networks.committee import Committee, CommitteeFacts, MemberFacts
from mmkd_models.networks.config import TEACHERS_MEMBERS, MemberKind, TeacherConfig, choice
from mmkd_models.networks.convolutions import FEATURES, KERNELS, LENGTH, fits_kernels
from mmkd_models.networks.fronts.as_series import series_view
from mmkd_models.networks.members import Convolutions, Trees
from mmkd_models.train_config import OnStep
from mmkd_models.training.checkpoint import TeacherCheckpoint, TeacherFile
from mmkd_models.training.choosing import prior_bias
from mmkd_models.training.closed_form import (
    convolution_features,
    draw_features,
    fit_ridge,
    grow_on_intervals,
    label_answers,
)
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.predict import answers_to
from mmkd_models.training.trainings import train_teacher

_MIN_FEATURES = 6 * KERNELS  # of a modality; few modalities divide the features of one
_TREES = 300
_SEEDS_APART = 1000  # between transformers of one committee, so that none has the seed of a fold
_ROUNDS = 60  # iterations; the weights converge long before

Watch = Callable[[str], AbstractContextManager[OnStep | None]]
"""From a training's name to its observer of steps."""


@dataclass(frozen=True, kw_only=True)
class _Member:
    kind: MemberKind
    seed: int
    network: nn.Module
    logits: NDArray[Any]  # for the labelled validation windows, with `bias`
    modality: str | None = None
    bias: NDArray[np.float64] | None = None


def members_named(names: Sequence[str], modalities: Sequence[ModalitySpec]) -> tuple[MemberKind, ...]:
    """Return the members of these names, transformers first."""
    for name in names:
        choice(name, TEACHERS_MEMBERS, option="--members")
    if "transformer" not in names:
        raise UsageError(
            f"--members: expected a transformer, which losses look into, got {', '.join(names)}; add transformer"
        )
    twice = [name for name in TEACHERS_MEMBERS[1:] if list(names).count(name) > 1]
    if twice:
        raise UsageError(f"--members: expected {twice[0]} once, got it twice; only transformers differ by their seed")
    short = _too_short_for_convolutions(modalities)
    if "convolutions" in names and short is not None:
        samples = series_view(short).spec.samples
        raise UsageError(
            f"--members: convolutions: expected windows of at least {LENGTH} samples, got {samples} of {short.name!r}; "
            "leave convolutions out, or take longer windows"
        )
    return tuple(kind for kind in TEACHERS_MEMBERS for name in names if name == kind)


def default_members(modalities: Sequence[ModalitySpec]) -> tuple[MemberKind, ...]:
    """Return the default members, without convolutions for short windows."""
    short = _too_short_for_convolutions(modalities)
    return tuple(kind for kind in COMMITTEE if kind != "convolutions" or short is None)


def _too_short_for_convolutions(modalities: Sequence[ModalitySpec]) -> ModalitySpec | None:
    return next((modality for modality in modalities if not fits_kernels(modality)), None)


def train_committee(
    data: TrainingData,
    config: TeacherConfig,
    run: TrainingRun,
    *,
    members: Sequence[MemberKind],
    start: TeacherFile | None = None,
    watch: Watch | None = None,
) -> TeacherCheckpoint:
    """Train members on labelled windows, and weight them by validation windows.

    Transformers resume with `run.resume`, and begin with those of `start`. A single sensor's own members join if
    validation is likelier with them.
    """
    watched = watch or (lambda name: nullcontext(run.on_step))
    transformers = []
    for number in range(members.count("transformer")):
        train = msgspec.structs.replace(run.train, seed=run.train.seed + _SEEDS_APART * number)
        folder = None if run.run_dir is None else run.run_dir if number == 0 else run.run_dir / f"transformer-{number}"
        own, name = replace(run, train=train, run_dir=folder), "teacher" if number == 0 else f"transformer {number + 1}"
        with watched(name) as on_step:
            transformers.append(train_teacher(data, config, replace(own, on_step=on_step), start=start))
    if len(members) == 1:
        return transformers[0]
    known, metric = data.valid.only_labelled(), run.train.metric
    made = []
    for trained in transformers:
        network = trained.network()
        logits = answers_to(network, known).numpy()
        made.append(_Member(kind="transformer", seed=trained.facts.training.seed, network=network, logits=logits))
    kinds, seed = members[len(transformers) :], run.train.seed
    made += [_train_member(data.train, known, kind, seed, metric=metric) for kind in kinds]
    names = [modality.name for modality in data.train.spec.modalities]
    if len(names) > 1 and kinds:
        alone = {
            name: [_train_member(data.train, known, kind, seed, metric=metric, modality=name) for kind in kinds]
            for name in names
        }
        best = joining_sensor(
            [member.logits for member in made],
            {name: [member.logits for member in own] for name, own in alone.items()},
            known.labels,
            known.groups,
            kind=known.spec.task.kind,
        )
        made += [] if best is None else alone[best]
    return _pool_members(transformers[0], made, data, run)


def _train_member(
    train: Windows, known: Windows, kind: MemberKind, seed: int, *, metric: AnyMetric, modality: str | None = None
) -> _Member:
    labels = train.labels
    if modality is not None:
        train, known = (windows.with_modalities((modality,)) for windows in (train, known))
    network = grow_member(train, kind, seed=seed)
    logits: NDArray[Any] = answers_to(network, known).numpy()
    bias = prior_bias(logits, labels, known, metric=metric)
    logits = logits if bias is None else (logits + bias).astype(np.float32)
    return _Member(kind=kind, seed=seed, network=network, logits=logits, modality=modality, bias=bias)


def grow_member(train: Windows, kind: MemberKind, *, seed: int) -> Trees | Convolutions:
    """Return a member that is no transformer; kernels are drawn, and features scaled, on all windows."""
    known = train.only_labelled()
    if kind == "convolutions":
        return _convolutions(train, known, seed=seed)
    specs, rows = train.spec.modalities, np.flatnonzero(train.labelled)
    networks, arrays = grow_on_intervals(
        train, [spec.name for spec in specs], rows, known.labels, trees=_TREES, seed=seed
    )
    network = Trees(specs, arrays, kind=train.spec.task.kind)
    network.features.update(networks)
    return network.eval()


def _convolutions(train: Windows, known: Windows, *, seed: int) -> Convolutions:
    task, specs = train.spec.task, train.spec.modalities
    features = max(_MIN_FEATURES, FEATURES // len(specs))
    drawn = {spec.name: draw_features(train, spec.name, seed=seed, features=features) for spec in specs}
    inputs = [convolution_features(part, known, name, np.arange(len(known))) for name, part in drawn.items()]
    truth = label_answers(task, known.labels)
    targets = truth if task.kind == "regression" else 2.0 * truth - 1
    ridge = fit_ridge(np.concatenate(inputs, axis=1), targets, np.ones(len(known)))
    network = Convolutions(specs, {name: part.config for name, part in drawn.items()}, len(task.labels))
    for name, part in drawn.items():
        network.features[name].load_state_dict(part.state_dict())
    network.weight.copy_(torch.from_numpy(ridge.weight))
    network.bias.copy_(torch.from_numpy(ridge.bias))
    return network.eval()


def _pool_members(
    first: TeacherCheckpoint, members: Sequence[_Member], data: TrainingData, run: TrainingRun
) -> TeacherCheckpoint:
    known, task = data.valid.only_labelled(), first.task
    pool = fit_pool([member.logits for member in members], known.labels, known.groups, kind=task.kind)

    def score(logits: NDArray[Any]) -> float:
        return scores_from_logits(known.labels, logits, task).metric(run.train.metric)

    facts = CommitteeFacts(
        members=tuple(
            MemberFacts(
                kind=member.kind,
                seed=member.seed,
                temperature=pool.temperatures[number],
                weight=pool.weights[number],
                score=score(member.logits),
                log_likelihood=pool.likelihoods[number],
                features=member.network.configs if isinstance(member.network, Convolutions) else None,
                bias=None if member.bias is None else tuple(member.bias.tolist()),
                modality=member.modality or None,
            )
            for number, member in enumerate(members)
        )
    )
    committee = Committee([member.network for member in members], facts, kind=task.kind).eval()
    return replace(
        first,
        facts=msgspec.structs.replace(first.facts, score=score(answers_to(committee, known).numpy())),
        committee=facts,
        further=tuple(member.network.state_dict() for member in members[1:]),
    )


@dataclass(frozen=True, kw_only=True)
class _MemberPooling:
    temperatures: tuple[float, ...]
    weights: tuple[float, ...]
    likelihoods: tuple[float, ...]  # mean validation log-likelihood of calibrated answers, in nats
    together: Floats  # (answers,) of the pool, as if all answered every window


def fit_pool(
    logits: Sequence[NDArray[Any]], labels: NDArray[Any], groups: NDArray[Any], *, kind: TaskKind
) -> _MemberPooling:
    """Calibrate and weight members by their logits (N, K) for the labelled validation windows.

    Weights maximise likelihood; windows of a group count as one. A member that is not a standard error likelier than
    the best constant answer gets 0; if none is, all count alike.
    """
    temperatures = [fitted_temperature(answers, labels, kind=kind) for answers in logits]
    calibrated = [answers / temperature for answers, temperature in zip(logits, temperatures, strict=True)]
    likelihoods = np.stack([log_likelihood(part, labels, kind=kind) for part in calibrated], axis=1)  # (answers, M)
    constant = _constant_likelihood(labels, kind=kind)
    useful = np.array([significantly_likelier(member, constant, groups, of_one_group=True) for member in likelihoods.T])
    weights = np.full(len(useful), 0.0 if useful.any() else 1 / len(useful))
    if useful.any():
        weights[useful] = mixture_weights(likelihoods[:, useful], groups=len(np.unique(groups)))
    if kind == "regression":
        together = log_likelihood(np.average(calibrated, axis=0, weights=weights), labels, kind=kind)
    else:
        most = likelihoods.max(1)
        together = most + np.log(np.exp(likelihoods - most[:, None]) @ weights)
    return _MemberPooling(
        temperatures=tuple(temperatures),
        weights=tuple(float(weight) for weight in weights),
        likelihoods=tuple(float(mean) for mean in likelihoods.mean(0)),
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
    """Return the sensor whose own members make all likeliest together, if likelier than without; None in one group."""
    likelihoods = {
        name: float(fit_pool([*members, *own], labels, groups, kind=kind).together.mean())
        for name, own in {"": (), **alone}.items()
    }
    best = max(likelihoods, key=lambda name: likelihoods[name])
    return best if best and len(np.unique(groups)) > 1 else None


def mixture_weights(likelihoods: Floats, *, groups: int) -> Floats:
    """Return (M,) weights with sum 1 from log-likelihoods (answers, M) over `groups` groups.

    Dempster, Laird, Rubin, JRSS B 39, 1977, section 4.3; each member's extra group is a Dirichlet prior.
    """
    members = likelihoods.shape[1]
    fractions = np.exp(likelihoods - likelihoods.max(1, keepdims=True))
    weights = np.full(members, 1 / members)
    for _ in range(_ROUNDS):
        of_each = weights * fractions
        of_each /= of_each.sum(1, keepdims=True)
        weights = (groups * of_each.mean(0) + 1) / (groups + members)
    return weights


def _constant_likelihood(labels: NDArray[Any], *, kind: TaskKind) -> Floats:
    if kind == "regression":
        return log_likelihood(np.full((len(labels), 1), labels.mean()), labels, kind=kind)
    if kind == "classification":
        fractions = np.bincount(labels) / len(labels)
        return np.asarray(np.log(fractions[labels]))
    on = np.clip(labels.mean(0), 1e-6, 1 - 1e-6)
    return np.asarray(np.where(labels > 0, np.log(on), np.log1p(-on))).ravel()
