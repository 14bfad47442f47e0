"""Checkpoints, bundles and rivals become models under test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from mmkd_documents.figures import MODEL_NAMES
from mmkd_documents.judging import JudgedModel, ModelRole
from mmkd_edge.backends.base import backend_for
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import UsageError
from mmkd_edge.install.keys import check_signed
from mmkd_edge.predict.student import Config, OpenStudent, answer_windows, open_student
from mmkd_edge.spec import TaskSpec
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.known_windows import KnownWindows, Trained, cautions_of
from mmkd_models.evaluation.suites.inputs import Answers, ModelUnderTest, SuiteInputs
from mmkd_models.metrics.likelihood import logits_of_probabilities
from mmkd_models.metrics.scores import AnyMetric
from mmkd_models.training.inputs import check_compatible

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.evaluation.normal_rivals import NormalRivalName
    from mmkd_models.evaluation.rivals import RivalName

_BATCH = 256

Predict = Callable[[Windows], Answers]

CheckKnown = Callable[[str, Trained, str], KnownWindows | None]
"""Count the windows that a model knows, from its file, its facts and its first modality (`check_known_windows`)."""


def model_from_checkpoint(
    path: str, windows: Windows, dataset_sha256: str, *, check: CheckKnown = lambda path, model, modality: None
) -> ModelUnderTest:
    """Read a checkpoint. Raise UsageError if the windows cannot judge it."""
    from mmkd_models.networks.student import count_values
    from mmkd_models.tensors import kind_of
    from mmkd_models.training.checkpoint import (
        StudentCheckpoint,
        TeacherCheckpoint,
        file_sha256,
        read_student,
        read_teacher,
    )
    from mmkd_models.training.predict import logits_of

    checkpoint = read_teacher(Path(path)) if kind_of(Path(path)) == "teacher" else read_student(Path(path))
    is_student = isinstance(checkpoint, StudentCheckpoint)
    modalities = (checkpoint.modality,) if isinstance(checkpoint, StudentCheckpoint) else checkpoint.modalities
    facts = checkpoint.facts
    known = check(path, facts, modalities[0].name)
    task = judging_task(checkpoint.task, windows)
    check_compatible(f"{path}: {'student' if is_student else 'teacher'}", task, modalities, windows)
    network = checkpoint.network()
    predict: Predict = partial(logits_of, network, modality=modalities[0].name if is_student else None)
    return ModelUnderTest(
        facts=JudgedModel(
            name=PurePath(path).name,
            path=path,
            sha256=file_sha256(Path(path)),
            role=_role(checkpoint.task, facts.teacher_sha256) if is_student else "teacher",
            modalities=tuple(spec.name for spec in modalities),
            parameters=count_values(checkpoint.transformer() if isinstance(checkpoint, TeacherCheckpoint) else network),
        ),
        cautions=tuple(cautions_of(path, facts.dataset_sha256, known, dataset_sha256, len(windows))),
        predict=predict if task == checkpoint.task else partial(_as_label_sets, predict, checkpoint.task, task),
        known=known,
        checkpoint=checkpoint,
        normal=facts.normal or None,
        over_time=facts.over_time,
    )


def _role(task: TaskSpec, teacher_sha256: str | None) -> ModelRole:
    return "normal" if task.kind == "normal" else "distilled" if teacher_sha256 else "labels only"


def models_from_bundle(
    stack: ExitStack, path: str, windows: Windows, dataset_sha256: str, *, check: CheckKnown
) -> Iterator[ModelUnderTest]:
    """Yield a bundle's fp32 graph and its artifacts of lower precision; `stack` closes their engines."""
    bundle = stack.enter_context(Bundle.open(path))
    check_signed(bundle)
    known_of = {entry.name: check(path, entry, entry.modality.name) for entry in bundle.manifest.models}
    for entry in bundle.manifest.models:
        check_compatible(f"{path}: student", judging_task(entry.task, windows), (entry.modality,), windows)
    for entry in bundle.manifest.models:
        name = PurePath(path).name + (f":{entry.name}" if len(bundle.manifest.models) > 1 else "")
        fp32, *others = entry.artifacts  # the fp32 graph is the first
        for artifact in (fp32, *(other for other in others if other.precision != "fp32")):
            config = Config(backend=backend_for(artifact.format), precision=artifact.precision, threads=1, reason="")
            student = open_student(bundle, entry, config)
            stack.callback(student.close)
            known, task = known_of[entry.name], judging_task(entry.task, windows)
            predict: Predict = partial(_answer_dataset, student)
            yield ModelUnderTest(
                facts=JudgedModel(
                    name=name
                    if artifact is fp32
                    else f"{name} {artifact.precision} {artifact.format}".removesuffix(" onnx"),
                    path=path,
                    sha256=bundle.sha256,
                    role=_role(entry.task, entry.teacher_sha256),
                    modalities=(entry.modality.name,),
                    parameters=entry.parameters,
                    artifact=artifact.file,
                ),
                cautions=tuple(cautions_of(path, entry.dataset_sha256, known, dataset_sha256, len(windows))),
                predict=predict if task == entry.task else partial(_as_label_sets, predict, entry.task, task),
                known=known,
                normal=entry.normal or None,
                over_time=entry.over_time,
                calibration=artifact.confidence,
            )


def judging_task(own: TaskSpec, windows: Windows) -> TaskSpec:
    """Return the windows' task for a model of single classes that include all their labels, otherwise its own task."""
    task = windows.spec.task
    is_single = (own.kind, task.kind) == ("classification", "multi_label") and set(task.labels) <= set(own.labels)
    return task if is_single else own


def _as_label_sets(predict: Predict, own: TaskSpec, task: TaskSpec, windows: Windows) -> Answers:
    logits = predict(windows).astype(np.float64)  # (N, classes)
    second, best = np.sort(logits, axis=1)[:, -2:].T[:, :, None]
    apart = logits - np.where(logits == best, second, best)
    return np.asarray(apart[:, [own.labels.index(name) for name in task.labels]] + task.on_from_logit)


def _answer_dataset(student: OpenStudent, windows: Windows) -> Answers:
    kind, parts = student.entry.task.kind, []
    for start in range(0, len(windows), _BATCH):
        index = np.arange(start, min(start + _BATCH, len(windows)))
        logits, probabilities, *_ = answer_windows(student, windows.take(index)[student.modality.name])
        parts.append(
            logits
            if student.entry.task.is_number
            else logits_of_probabilities(probabilities.astype(np.float64), kind=kind)
        )
    return np.concatenate(parts)


def with_unique_names(models: Sequence[ModelUnderTest]) -> list[ModelUnderTest]:
    """Return the models, with folders in repeated names."""
    if len({model.name for model in models}) == len(models):
        return list(models)
    return [model.with_name(f"{PurePath(model.facts.path).parent}/{model.name}".removeprefix("./")) for model in models]


def check_rivals(first: JudgedModel, windows: Windows, *, train: Windows, valid: Windows) -> None:
    """Raise UsageError if rivals could not learn, or know the judging windows."""
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
    names: Sequence[RivalName], first: JudgedModel, *, train: Windows, valid: Windows, metric: AnyMetric, seed: int
) -> Iterator[ModelUnderTest]:
    """Yield rivals on the first model's sensor. Raise UsageError if one refuses these windows."""
    from mmkd_models.evaluation.rivals import Rivals

    rivals = Rivals(train=train, parts=(valid,), modality=first.modalities[0], seed=seed, metric=metric)
    for name in names:
        predict = rivals.answerer(name)
        if isinstance(predict, str):
            raise UsageError(f"--rival {name}: {predict}; leave it out")
        facts = JudgedModel(
            name=MODEL_NAMES[name], path="", sha256="", role="rival", modalities=first.modalities, parameters=None
        )
        yield ModelUnderTest(facts=facts, cautions=(), predict=predict)


def fit_normal_rivals(names: Sequence[NormalRivalName], inputs: SuiteInputs) -> Iterator[ModelUnderTest]:
    """Yield rivals on the normal windows of the first model's sensor; errors as `fit_normal_rival`."""
    from mmkd_models.evaluation.normal_rivals import fit_normal_rival

    sensors = inputs.first.modalities
    for name in names:
        predict = fit_normal_rival(name, inputs.train, inputs.calibration, sensors[0], seed=inputs.seed)
        facts = JudgedModel(
            name=MODEL_NAMES[name], path="", sha256="", role="rival", modalities=sensors, parameters=None
        )
        yield ModelUnderTest(facts=facts, cautions=(), predict=predict)
