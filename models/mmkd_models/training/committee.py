"""A committee from windows to a checkpoint: its members trained, calibrated and weighted.

Transformers train and resume as teachers do; the other members are computed at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.windows import Windows
from mmkd_models.defaults import COMMITTEE
from mmkd_models.metrics.scores import AnyMetric, scores_from_logits
from mmkd_models.networks.committee import Committee, CommitteeFacts, MemberFacts
from mmkd_models.networks.config import MEMBERS, MemberKind, TeacherConfig
from mmkd_models.networks.fronts.as_series import series_spec, series_views
from mmkd_models.networks.members import Rocket, Trees, grown_trees, statistics_of
from mmkd_models.networks.rocket import FEATURES, KERNELS, LENGTH, fits_kernels
from mmkd_models.train_config import OnStep
from mmkd_models.training.checkpoint import TeacherCheckpoint, TeacherFile
from mmkd_models.training.choosing import evening_bias
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.pooling import MemberPooling, joining_sensor, pool_of
from mmkd_models.training.predict import answers_to, batches_of
from mmkd_models.training.ridge import fit_ridge, label_answers
from mmkd_models.training.rocket import drawn_features, features_of_rows
from mmkd_models.training.trainings import self_train, train_teacher

LEAST_FEATURES = 6 * KERNELS
"""Of a modality's kernels; few modalities divide the features of one."""

Watch = Callable[[str], AbstractContextManager[OnStep | None]]
"""From the name of a training to what is called after each of its steps."""


@dataclass(frozen=True, kw_only=True)
class TrainedCommittee:
    """A committee, and how long the training of each member took, in seconds."""

    checkpoint: TeacherCheckpoint
    seconds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A trained member, later with its corrected logits for the labelled validation windows."""

    kind: MemberKind
    seed: int
    network: nn.Module
    seconds: float
    transformer: TeacherCheckpoint | None = None
    modality: str | None = None
    bias: NDArray[np.float64] | None = None
    logits: NDArray[Any] | None = None


def members_named(names: Sequence[str], modalities: Sequence[ModalitySpec]) -> tuple[MemberKind, ...]:
    """Return the members of these names, transformers first.

    Raises UsageError if a name is unknown, there is no transformer, another kind is repeated, or windows are shorter
    than a rocket's kernels.
    """
    unknown = [name for name in names if name not in MEMBERS]
    if unknown:
        raise UsageError(f"--members: expected some of {', '.join(MEMBERS)}, got {unknown[0]!r}; choose among them")
    if "transformer" not in names:
        raise UsageError(
            f"--members: expected a transformer, which losses look into, got {', '.join(names)}; add transformer"
        )
    twice = [name for name in MEMBERS[1:] if list(names).count(name) > 1]
    if twice:
        raise UsageError(f"--members: expected {twice[0]} once, got it twice; only transformers differ by their seed")
    short = _too_short_for_a_rocket(modalities)
    if "rocket" in names and short is not None:
        raise UsageError(
            f"--members: rocket: expected windows of at least {LENGTH} samples, got {series_spec(short).samples} of "
            f"{short.name!r}; leave rocket out, or take longer windows"
        )
    return tuple(kind for kind in MEMBERS for name in names if name == kind)


def default_members(modalities: Sequence[ModalitySpec]) -> tuple[MemberKind, ...]:
    """Return the default members: without a rocket if windows are shorter than its kernels."""
    short = _too_short_for_a_rocket(modalities)
    return tuple(kind for kind in COMMITTEE if kind != "rocket" or short is None)


def _too_short_for_a_rocket(modalities: Sequence[ModalitySpec]) -> ModalitySpec | None:
    return next((one for one in modalities if not fits_kernels(one)), None)


def train_committee(
    data: TrainingData,
    config: TeacherConfig,
    run: TrainingRun,
    *,
    members: Sequence[MemberKind],
    self_training: bool,
    start: TeacherFile | None = None,
    watch: Watch | None = None,
) -> TrainedCommittee:
    """Train the members on the labelled windows, and weight them by the validation windows.

    A single transformer is the teacher of `train_teacher`. With `run.resume` a finished transformer is not trained
    again, and an interrupted one continues. The other members are computed for single modalities too, and those of the
    best one join if validation prefers it.

    Args:
        run: how transformers are trained; its `on_step` is called if there is no `watch`.
        members: as `members_named` returns them.
        self_training: let a second generation of each transformer learn from unlabelled windows.
        start: teacher whose first transformer all transformers start with.
    """
    watched = watch or (lambda name: nullcontext(run.on_step))
    transformers = [kind for kind in members if kind == "transformer"]
    made = [
        _transformer(data, config, run, number=number, self_training=self_training, start=start, watched=watched)
        for number in range(len(transformers))
    ]
    first = made[0].transformer
    assert first is not None
    if len(members) == 1:
        return TrainedCommittee(checkpoint=first, seconds=(made[0].seconds,))
    metric = run.train.metric
    made += [_grown(data, kind, seed=run.train.seed) for kind in members[len(transformers) :]]
    together = _with_best_sensor([_asked(member, data, metric=metric) for member in made], data, metric=metric)
    return TrainedCommittee(
        checkpoint=_together(first, together, data, metric=metric),
        seconds=tuple(member.seconds for member in together),
    )


def _transformer(
    data: TrainingData,
    config: TeacherConfig,
    run: TrainingRun,
    *,
    number: int,
    self_training: bool,
    start: TeacherFile | None,
    watched: Watch,
) -> _Member:
    """Train one transformer: number 0 is the teacher that would be trained alone; the others differ by their seed."""
    began, seed = time.monotonic(), run.train.seed + SEEDS_APART * number
    train = msgspec.structs.replace(run.train, seed=seed)
    folder = None if run.run_dir is None else run.run_dir if number == 0 else run.run_dir / f"transformer-{number}"
    own, name = replace(run, train=train, run_dir=folder), "teacher" if number == 0 else f"transformer {number + 1}"
    with watched(name) as on_step:
        checkpoint = train_teacher(data, config, replace(own, on_step=on_step), start=start)
    if self_training and not data.train.labelled.all():
        second = None if folder is None else folder / "second"
        with watched(f"{name}, second generation") as on_step:
            checkpoint = self_train(data, checkpoint, replace(own, run_dir=second, on_step=on_step))
    return _Member(
        kind="transformer",
        seed=seed,
        network=checkpoint.network(),
        seconds=time.monotonic() - began,
        transformer=checkpoint,
    )


SEEDS_APART = 1000
"""Between transformers of one committee, so that none has the seed of a fold."""


def _grown(data: TrainingData, kind: MemberKind, *, seed: int, modality: str | None = None) -> _Member:
    began = time.monotonic()
    train = data.train if modality is None else data.train.with_modalities((modality,))
    network = grown_network(train, kind, seed=seed)
    return _Member(kind=kind, seed=seed, network=network, seconds=time.monotonic() - began, modality=modality)


def _with_best_sensor(members: Sequence[_Member], data: TrainingData, *, metric: AnyMetric) -> Sequence[_Member]:
    """Add the members of the sensor with the likeliest answers, if all are significantly likelier together."""
    kinds = [(member.kind, member.seed) for member in members if member.kind != "transformer"]
    names = [modality.name for modality in data.train.spec.modalities]
    if len(names) == 1 or not kinds:
        return members
    alone = {
        name: [_asked(_grown(data, kind, seed=seed, modality=name), data, metric=metric) for kind, seed in kinds]
        for name in names
    }
    known, of_each = _known(data), {name: _logits(ours) for name, ours in alone.items()}
    best = joining_sensor(_logits(members), of_each, known.labels, known.groups, kind=known.spec.task.kind)
    return members if best is None else [*members, *alone[best]]


def grown_network(train: Windows, kind: MemberKind, *, seed: int) -> Trees | Rocket:
    """Return a member that is no transformer, from the labelled windows; kernels are drawn on all of them."""
    known = train.subset(np.flatnonzero(train.labelled))
    return _trees(known, seed=seed) if kind == "trees" else _rocket(train, known, seed=seed)


def _trees(known: Windows, *, seed: int) -> Trees:
    names, views = [modality.name for modality in known.spec.modalities], series_views(known.spec.modalities)
    task = known.spec.task
    statistics = np.concatenate([statistics_of(inputs, names, views).numpy() for inputs in batches_of(known)])
    return grown_trees(
        statistics, known.labels, names, classes=len(task.labels), kind=task.kind, seed=seed, views=views
    )


def _rocket(train: Windows, known: Windows, *, seed: int) -> Rocket:
    """Draw kernels on all training windows, and fit a ridge on the labelled ones: to 1 and -1, or to numbers."""
    task, specs = train.spec.task, train.spec.modalities
    each = max(LEAST_FEATURES, FEATURES // len(specs))
    drawn = {spec.name: drawn_features(train, spec.name, seed=seed, features=each) for spec in specs}
    rows = np.arange(len(known))
    found = [features_of_rows(one, known, name, rows) for name, one in drawn.items()]
    truth = label_answers(task, known.labels)
    targets = truth if task.kind == "regression" else 2.0 * truth - 1
    ridge = fit_ridge(np.concatenate(found, axis=1), targets, np.ones(len(known)))
    network = Rocket(specs, {name: one.config for name, one in drawn.items()}, len(task.labels))
    for name, one in drawn.items():
        network.features[name].load_state_dict(one.state_dict())
    network.weight.copy_(torch.from_numpy(ridge.weight))
    network.bias.copy_(torch.from_numpy(ridge.bias))
    return network.eval()


def _together(
    first: TeacherCheckpoint, members: Sequence[_Member], data: TrainingData, *, metric: AnyMetric
) -> TeacherCheckpoint:
    known = _known(data)
    logits = _logits(members)
    pool = pool_of(logits, known.labels, known.groups, kind=first.task.kind)
    facts = _facts(members, pool, [_score(one, known, metric) for one in logits])
    committee = Committee([member.network for member in members], facts, kind=first.task.kind).eval()
    return replace(
        first,
        facts=msgspec.structs.replace(first.facts, score=_score(answers_to(committee, known).numpy(), known, metric)),
        committee=facts,
        further=tuple(member.network.state_dict() for member in members[1:]),
    )


def _asked(member: _Member, data: TrainingData, *, metric: AnyMetric) -> _Member:
    """Add the member's corrected validation logits; a transformer's head already has the correction."""
    known = _known(data)
    seen = known if member.modality is None else known.with_modalities((member.modality,))
    logits: NDArray[Any] = answers_to(member.network, seen).numpy()
    bias = None if member.kind == "transformer" else evening_bias(logits, data.train.labels, known, metric=metric)
    return replace(member, bias=bias, logits=logits if bias is None else (logits + bias).astype(np.float32))


def _logits(members: Sequence[_Member]) -> list[NDArray[Any]]:
    assert all(member.logits is not None for member in members)  # everybody was asked
    return [member.logits for member in members if member.logits is not None]


def _known(data: TrainingData) -> Windows:
    return data.valid.subset(np.flatnonzero(data.valid.labelled))


def _score(logits: NDArray[Any], known: Windows, metric: AnyMetric) -> float:
    return scores_from_logits(known.labels, logits, known.spec.task).metric(metric)


def _facts(members: Sequence[_Member], pool: MemberPooling, scores: Sequence[float]) -> CommitteeFacts:
    return CommitteeFacts(
        members=tuple(
            MemberFacts(
                kind=member.kind,
                seed=member.seed,
                temperature=pool.temperatures[number],
                weight=pool.weights[number],
                score=scores[number],
                log_likelihood=pool.likelihoods[number],
                features=member.network.configs if isinstance(member.network, Rocket) else msgspec.UNSET,
                bias=msgspec.UNSET if member.bias is None else tuple(member.bias.tolist()),
                modality=member.modality or msgspec.UNSET,
            )
            for number, member in enumerate(members)
        ),
    )
