"""Checkpoints and bundles become models that answer: the way in of every suite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from mmkd_edge.backends.base import backend_for
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.install.keys import check_signed
from mmkd_edge.predict.config import Config
from mmkd_edge.predict.engine import Engine, answers_of, open_engine
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.faults.table import Practice
from mmkd_models.evaluation.seen import cautions_of
from mmkd_models.evaluation.settled import logits_of_probabilities
from mmkd_models.evaluation.suites.answering import Answers, AskedModel
from mmkd_models.training.compatible import check_compatible
from mmkd_report.schema.evaluation import DataFacts, SeenWindows
from mmkd_report.schema.judging import JudgedModel

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.evaluation.report import Checkpoint, Contestant

_BATCH = 256


def answering_checkpoint(one: Contestant, windows: Windows, data: DataFacts) -> AskedModel:
    """Gives a checkpoint that answers. Raises UsageError where it does not take these windows."""
    from mmkd_models.evaluation.report import check_contestants
    from mmkd_models.training.checkpoint import StudentCheckpoint
    from mmkd_models.training.predict import logits_of

    check_contestants(one, None, windows)
    checkpoint, network = one.checkpoint, one.checkpoint.network()
    is_student = isinstance(checkpoint, StudentCheckpoint)
    modalities = (checkpoint.modality,) if isinstance(checkpoint, StudentCheckpoint) else checkpoint.modalities
    taught = checkpoint.facts.teacher_sha256 is not None
    return AskedModel(
        facts=JudgedModel(
            name=PurePath(one.path).name,
            path=one.path,
            sha256=one.sha256,
            role=("distilled" if taught else "labels alone") if is_student else "teacher",
            modalities=tuple(spec.name for spec in modalities),
            parameters=sum(parameter.numel() for parameter in network.parameters()),
        ),
        practised=_practised(checkpoint),
        cautions=one.cautions(data),
        ask=partial(logits_of, network, modality=one.modality),
    )


def answering_bundle(
    stack: ExitStack, path: str, windows: Windows, data: DataFacts, *, seen: Mapping[str, SeenWindows | None]
) -> Iterator[AskedModel]:
    """Gives every artifact of a bundle, in its order, with one thread; `stack` keeps the engines open.

    Args:
        seen: what each of its students knows of the windows, by name.

    Raises:
        UsageError: a student does not take these windows.
        UnavailableError: the library of an artifact's backend is not installed.
        BundleError: the bundle is damaged.
        SignatureError: keys are named and none of them has signed the bundle.
    """
    bundle = stack.enter_context(Bundle.open(path))
    check_signed(bundle)
    for entry in bundle.manifest.models:
        check_compatible(f"{path}: student", entry.task, (entry.modality,), windows)
        for artifact in entry.artifacts:
            setup = Config(backend=backend_for(artifact.format), precision=artifact.precision, threads=1, reason="")
            engine = open_engine(bundle, entry, setup)
            stack.callback(engine.backend.close)
            yield AskedModel(
                facts=JudgedModel(
                    name=f"{PurePath(path).name}:{artifact.file}",
                    path=path,
                    sha256=bundle.sha256,
                    role="labels alone" if entry.teacher_sha256 is None else "distilled",
                    modalities=(entry.modality.name,),
                    parameters=entry.parameters,
                    artifact=artifact.file,
                ),
                practised=None,
                cautions=tuple(cautions_of(path, entry.dataset_sha256, seen[entry.name], data.sha256, data.windows)),
                ask=partial(_answers_of_engine, engine),
            )


def named_apart(models: Sequence[AskedModel]) -> list[AskedModel]:
    """Gives the models with their paths for names where two files have the same."""
    import msgspec

    names = [one.facts.name for one in models]
    if len(set(names)) == len(names):
        return list(models)
    return [
        AskedModel(
            facts=msgspec.structs.replace(
                one.facts, name=f"{PurePath(one.facts.path).parent}/{one.facts.name}".removeprefix("./")
            ),
            practised=one.practised,
            cautions=one.cautions,
            ask=one.ask,
        )
        for one in models
    ]


def _answers_of_engine(engine: Engine, windows: Windows) -> Answers:
    """(N, K): of classes and labels those whose softmax or sigmoid are the graph's probabilities, calibrated."""
    kind, parts = engine.entry.task.kind, []
    for start in range(0, len(windows), _BATCH):
        index = np.arange(start, min(start + _BATCH, len(windows)))
        logits, probabilities, *_ = answers_of(engine, windows.take(index)[engine.modality.name])
        parts.append(
            logits if kind == "regression" else logits_of_probabilities(probabilities.astype(np.float64), kind=kind)
        )
    return np.concatenate(parts)


def _practised(checkpoint: Checkpoint) -> frozenset[Practice]:
    """What its training windows were varied by; convolutional features are fitted on them as they are."""
    if getattr(checkpoint.config, "kind", "transformer") == "rocket":
        return frozenset()
    augment = checkpoint.facts.augment
    shares: dict[Practice, float] = {
        "noise": augment.noise,
        "gain": augment.gain,
        "span_dropout": augment.span_dropout,
        "channel_dropout": augment.channel_dropout,
        "shift": float(augment.shift),
    }
    return frozenset(name for name, share in shares.items() if share > 0)
