"""Checkpoints, bundles and rivals become models under test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.engine import Engine, answers_of
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.bundle import open_artifacts
from mmkd_models.evaluation.faults.table import Practice
from mmkd_models.evaluation.seen import cautions_of
from mmkd_models.evaluation.settled import logits_of_probabilities
from mmkd_models.evaluation.suites.inputs import Answers, ModelUnderTest
from mmkd_models.metrics.scores import AnyMetric
from mmkd_report.schema.evaluation import DataFacts, SeenWindows
from mmkd_report.schema.figures import CONTESTANTS
from mmkd_report.schema.judging import JudgedModel

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.evaluation.report import Checkpoint, Contestant
    from mmkd_models.evaluation.rivals import RivalName

_BATCH = 256


def model_from_checkpoint(contestant: Contestant, windows: Windows, data: DataFacts) -> ModelUnderTest:
    """Return a checkpoint as a model under test. Raise UsageError if it does not accept these windows."""
    from mmkd_models.evaluation.report import check_contestants
    from mmkd_models.training.predict import logits_of

    check_contestants(contestant, None, windows)
    checkpoint, network = contestant.checkpoint, contestant.checkpoint.network()
    is_distilled = checkpoint.facts.teacher_sha256 is not None
    return ModelUnderTest(
        facts=JudgedModel(
            name=PurePath(contestant.path).name,
            path=contestant.path,
            sha256=contestant.sha256,
            role="teacher" if contestant.modality is None else "distilled" if is_distilled else "labels only",
            modalities=tuple(spec.name for spec in contestant.modalities),
            parameters=sum(parameter.numel() for parameter in network.parameters()),
        ),
        practised=_practised(checkpoint),
        cautions=contestant.cautions(data),
        predict=partial(logits_of, network, modality=contestant.modality),
    )


def models_from_bundle(
    stack: ExitStack, path: str, windows: Windows, data: DataFacts, *, seen: Mapping[str, SeenWindows | None]
) -> Iterator[ModelUnderTest]:
    """Yield every artifact of a bundle, in its order, with one thread; `stack` keeps the engines open.

    Args:
        seen: by student, the windows that it knows.

    Raises as `open_artifacts`.
    """
    bundle = stack.enter_context(Bundle.open(path))
    for entry, artifact, engine in open_artifacts(stack, bundle, path, windows):
        yield ModelUnderTest(
            facts=JudgedModel(
                name=f"{PurePath(path).name}:{artifact.file}",
                path=path,
                sha256=bundle.sha256,
                role="labels only" if entry.teacher_sha256 is None else "distilled",
                modalities=(entry.modality.name,),
                parameters=entry.parameters,
                artifact=artifact.file,
            ),
            practised=None,
            cautions=tuple(cautions_of(path, entry.dataset_sha256, seen[entry.name], data.sha256, data.windows)),
            predict=partial(_answers_of_engine, engine),
        )


def _answers_of_engine(engine: Engine, windows: Windows) -> Answers:
    """(N, K): for classes and labels the logits of the graph's calibrated probabilities."""
    kind, parts = engine.entry.task.kind, []
    for start in range(0, len(windows), _BATCH):
        index = np.arange(start, min(start + _BATCH, len(windows)))
        logits, probabilities, *_ = answers_of(engine, windows.take(index)[engine.modality.name])
        parts.append(
            logits if kind == "regression" else logits_of_probabilities(probabilities.astype(np.float64), kind=kind)
        )
    return np.concatenate(parts)


def with_unique_names(models: Sequence[ModelUnderTest]) -> list[ModelUnderTest]:
    """Return the models, with their folders in their names if two files have the same name."""
    if len({model.name for model in models}) == len(models):
        return list(models)
    return [
        replace(
            model,
            facts=msgspec.structs.replace(
                model.facts, name=f"{PurePath(model.facts.path).parent}/{model.name}".removeprefix("./")
            ),
        )
        for model in models
    ]


def check_rivals(first: JudgedModel, windows: Windows, *, train: Windows, valid: Windows) -> None:
    """Raise UsageError if rivals of the first model could not learn, or would be judged on windows they know."""
    if len(first.modalities) > 1:
        raise UsageError(
            f"--rival: rivals learn on one sensor, and {first.name} uses {', '.join(first.modalities)}; judge a "
            "student, and name the teacher by --against"
        )
    if len(valid) == 0 or not train.labelled.any():
        raise UsageError("--rival: expected labelled windows of train and valid, got none; label some, or leave it out")
    known = int(np.isin(windows.rows, np.concatenate([train.rows, valid.rows])).sum())
    if known:
        raise UsageError(
            f"--rival: {known} of the windows to judge train or choose a rival; judge by --split test or --fold N, or "
            "leave it out"
        )


def fit_rivals(
    names: Sequence[RivalName],
    first: JudgedModel,
    windows: Windows,
    *,
    train: Windows,
    valid: Windows,
    metric: AnyMetric,
    seed: int,
) -> Iterator[ModelUnderTest]:
    """Yield rivals that were fitted on the first model's sensor.

    Args:
        windows: that judge.
        train: with the labels that the first model's training saw.
        valid: labelled; chooses temperature and prior of each rival.

    Raises:
        UsageError: as `check_rivals`, or a rival refuses these windows.
    """
    from mmkd_models.evaluation.rivals import Contestants

    check_rivals(first, windows, train=train, valid=valid)
    contestants = Contestants(train=train, parts=(valid,), modality=first.modalities[0], seed=seed, metric=metric)
    for name in names:
        predict = contestants.asked(name)
        if isinstance(predict, str):
            raise UsageError(f"--rival {name}: {predict}; leave it out")
        facts = JudgedModel(
            name=CONTESTANTS[name], path="", sha256="", role="rival", modalities=first.modalities, parameters=None
        )
        yield ModelUnderTest(facts=facts, practised=frozenset(), cautions=(), predict=predict)


def _practised(checkpoint: Checkpoint) -> frozenset[Practice]:
    """The augmentations of its training; convolutional features are fitted on windows as they are."""
    if getattr(checkpoint.config, "kind", "transformer") == "rocket":
        return frozenset()
    augment = checkpoint.facts.augment
    fractions: dict[Practice, float] = {
        "noise": augment.noise,
        "gain": augment.gain,
        "span_dropout": augment.span_dropout,
        "channel_dropout": augment.channel_dropout,
        "shift": float(augment.shift),
    }
    return frozenset(name for name, fraction in fractions.items() if fraction > 0)
