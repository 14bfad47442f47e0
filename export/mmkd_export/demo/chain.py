"""The demo's chain after training: bundles, the device runtime's answers, latencies, all put into the document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge import EdgePredictor, Prediction
from mmkd_edge.bundle.files import write_file
from mmkd_edge.bundle.reference import write_reference
from mmkd_edge.errors import GateError, UsageError
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_export.graph.onnx_from_student import onnx_from_teacher
from mmkd_export.pipeline import export
from mmkd_export.plan import export_plan
from mmkd_export.verify.parity import MOST_FP32_TOLERANCE
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.for_devices import measure_reference
from mmkd_models.data.windows import Windows
from mmkd_models.distillation.attention_view import attention_view
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.experiments.comparison import Comparison, FoldResult
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.checkpoint import StudentCheckpoint, read_student, read_teacher
from mmkd_models.training.predict import logits_of
from mmkd_report.schema.demo import AttentionMaps, DemoBenchmark, DemoDocument, LatencyPercentiles, RatioRange

Say = Callable[[str], None]

_ROUNDING = 1e-6  # of the answer: float32 in another order of summation


@dataclass(frozen=True, kw_only=True)
class PairTimes:
    """Latencies of two models that were called in turn, and how many times faster the second is."""

    first: LatencyPercentiles
    second: LatencyPercentiles
    ratio: float
    ratios: RatioRange


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """What the chain measures with; the benchmark package is not its own.

    Attributes:
        pair: compares two models (ONNX files or bundles) in one run.
        bundle: benchmarks a bundle, with the reference file of a per-group modality; gives its figures and the facts
            of the machine.
    """

    pair: Callable[[Path, Path], PairTimes]
    bundle: Callable[[Path, Path | None], tuple[DemoBenchmark, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class MeasuredStudent:
    """The student of one modality: its bundle, the reference of a per-group one, its times after its teacher's."""

    bundle: Path
    reference: Path | None
    attention: AttentionMaps | None
    times: PairTimes


@dataclass(frozen=True, kw_only=True)
class MeasuredDemo:
    """What was exported and measured on this machine.

    Attributes:
        contests: what was measured of each modality's student.
        benchmark: the runtime's benchmark of the best student.
        best: the modality of that student, chosen by its score on validation.
        reference: the reference of one group of the test split, where the modality is normalised per group.
    """

    contests: dict[str, MeasuredStudent]
    benchmark: DemoBenchmark
    best: str
    bundle: Path
    reference: Path | None
    window_shape: tuple[int, ...]
    machine: dict[str, Any]


def measure(comparison: Comparison, folds: Sequence[FoldResult], instruments: Instruments, *, say: Say) -> MeasuredDemo:
    """Export the students of the first fold, run and benchmark them on this machine."""
    fold, dataset, out = folds[0], comparison.dataset, comparison.out
    modalities = fold.config.modalities
    bundles = {}
    for name in modalities:
        say(f"export: {name} student")
        bundles[name] = out / f"{name}.edge"
        export(export_plan(comparison.student_path(name, fold.seed), output=bundles[name]))
    test = comparison.folder.fold(fold.seed).test
    references = {name: _any_reference(dataset, name, test, out) for name in modalities}
    teacher = read_teacher(comparison.teacher_path(fold.seed)).transformer()
    attention = {}
    for name in modalities:
        say(f"check: {name} student in the runtime")
        student = read_student(comparison.student_path(name, fold.seed))
        _check_runtime(dataset, fold, student, bundles[name], test, say=say)
        attention[name] = _attention(test, teacher, student)
    times = _times(bundles, onnx_from_teacher(teacher, dataset.spec.modalities), instruments, say=say)
    best = max(modalities, key=lambda name: np.mean([one.students[name].student.valid_score for one in folds]))
    bundle = out / "student.edge"
    write_file(bundle, bundles[best].read_bytes())
    say(f"benchmark: {best} student through EdgePredictor")
    benchmark, machine = instruments.bundle(bundle, references[best])
    return MeasuredDemo(
        contests={
            name: MeasuredStudent(
                bundle=bundles[name], reference=references[name], attention=attention[name], times=times[name]
            )
            for name in modalities
        },
        benchmark=benchmark,
        best=best,
        bundle=bundle,
        reference=references[best],
        window_shape=dataset.spec.modality(best).shape,
        machine=machine,
    )


def _check_runtime(
    dataset: Dataset, fold: FoldResult, student: StudentCheckpoint, bundle: Path, test: Windows, *, say: Say
) -> None:
    """The runtime must answer as the training side did, window by window on the test split.

    A window without any sample is answered in training, and has no answer on a device.
    """
    name = student.modality.name
    judged = fold.students[name].student.test
    right = {one.group: int(np.trace(one.confusion)) for one in judged.confusions or ()}
    agreed = expected = compared = 0
    with TemporaryDirectory() as temporary:
        for part in _parts(test.with_modalities((name,)), name):
            try:
                reference = _group_reference(dataset, name, part.groups[0].item(), Path(temporary))
            except UsageError as error:
                say(f"check: {name}: group {part.groups[0]} is left out: {error}")
                continue
            windows = replace(part, statistics=None).take(np.arange(len(part)))[name]  # raw, as a device sees them
            there = prepare_batch(windows, student.modality)[1].reshape(len(part), -1).any(axis=1)
            with EdgePredictor.open(bundle, reference=reference) as predictor:
                answers = predictor.predict_batch(windows)
            compared += int(there.sum())
            if judged.answers is msgspec.UNSET:
                agreed += int((np.array([answer.index for answer in answers]) == part.labels)[there].sum())
                expected += sum(right[group] for group in np.unique(part.groups).tolist())
                if not there.all():
                    absent = part.subset(np.flatnonzero(~there))
                    found = logits_of(student.network(), absent, modality=name).argmax(axis=1)
                    expected -= int((found == absent.labels).sum())
            else:
                agreed += int(_same(answers, part, judged, spread=float(test.labels.std()))[there].sum())
                expected += int(there.sum())
    if abs(agreed - expected) > 1:  # one window may sit on a tie
        what = "right" if judged.answers is msgspec.UNSET else "answered"
        raise GateError(
            f"{bundle}: runtime on the test split: expected {expected} of {compared} windows {what} as in training, "
            f"got {agreed}; the export is wrong, please report it"
        )


def _same(answers: Sequence[Prediction], part: Windows, judged: TestedNetwork, *, spread: float) -> NDArray[np.bool_]:
    """(N,) which windows have the labels that training gave them, or its number.

    Args:
        spread: of a regression's targets.
    """
    task = part.spec.task
    _, trained, groups = judged.windows
    same = np.zeros(len(part), dtype=bool)
    for group in np.unique(part.groups):
        rows, expected = np.flatnonzero(part.groups == group), trained[groups == group]
        if task.kind == "multi_label":
            on = expected >= np.log(task.on_from / (1 - task.on_from))
            found = [[label in answers[row].labels for label in task.labels] for row in rows]
            same[rows] = (np.array(found) == on).all(1)
        else:
            low, high = task.range or (-np.inf, np.inf)
            wanted = np.clip(expected[:, 0], low, high)
            values = np.array([np.nan if (value := answers[row].value) is None else value for row in rows])
            same[rows] = np.abs(values - wanted) <= MOST_FP32_TOLERANCE * spread + _ROUNDING * np.abs(wanted)
    return same


def _parts(test: Windows, name: str) -> list[Windows]:
    """One part per reference: all windows at once, or group by group where the modality is normalised per group."""
    if test.spec.modality(name).normalise == "none":
        return [test]
    return [test.subset(test.groups == group) for group in np.unique(test.groups)]


def _group_reference(dataset: Dataset, name: str, group: int | str, out: Path) -> Path | None:
    """Writes the reference of one group into `out`; None where the modality takes raw values."""
    if dataset.spec.modality(name).normalise == "none":
        return None
    path = out / f"{name}.reference.json"
    write_reference(path, measure_reference(dataset, modality=name, group=group).reference)
    return path


def _any_reference(dataset: Dataset, name: str, test: Windows, out: Path) -> Path | None:
    """The reference of the first test group that can have one.

    Raises:
        UsageError: a channel is missing in all of them.
    """
    *groups, last = dict.fromkeys(test.groups.tolist())
    for group in groups:
        with suppress(UsageError):
            return _group_reference(dataset, name, group, out)
    return _group_reference(dataset, name, last, out)


def _attention(test: Windows, teacher: Teacher, student: StudentCheckpoint) -> AttentionMaps | None:
    name = student.modality.name
    view = attention_view(teacher, student.network(), test, modality=name)
    if view is None:
        return None
    return AttentionMaps(
        teacher=tuple(map(tuple, np.round(view.teacher, 4).tolist())),
        student=tuple(map(tuple, np.round(view.student, 4).tolist())),
        teacher_layer=f"last cross-attention, query {name}",
        student_layer="last self-attention",
        window_label=view.label,
        seconds=view.seconds,
    )


def _times(bundles: dict[str, Path], teacher: bytes, instruments: Instruments, *, say: Say) -> dict[str, PairTimes]:
    """Teacher and each student through ONNX Runtime, interleaved in the same processes, one thread each."""
    found = {}
    with TemporaryDirectory() as temporary:
        model = Path(temporary) / "teacher.onnx"
        model.write_bytes(teacher)
        for name, bundle in bundles.items():
            say(f"latency: teacher against {name} student")
            found[name] = instruments.pair(model, bundle)
    return found


def with_measured(document: DemoDocument, measured: MeasuredDemo) -> DemoDocument:
    """Gives the document with what was measured on this machine.

    Where both are transformers the baseline is the student with other weights; else its features are others, and it is
    not measured.
    """
    replace_in = msgspec.structs.replace
    students = {}
    for name, one in measured.contests.items():
        contest, times = document.students[name], one.times
        assert contest.baseline is not None  # folds have one
        is_alike = contest.baseline.kinds[:1] == contest.student.kinds[:1] == ("transformer",)  # the first seed's
        students[name] = replace_in(
            contest,
            student=replace_in(contest.student, latency_ms=times.second),
            baseline=replace_in(contest.baseline, latency_ms=times.second if is_alike else None),
            bundle=str(one.bundle),
            reference=None if one.reference is None else str(one.reference),
            attention=one.attention,
            latency_ratio=times.ratio,
            latency_ratios=times.ratios,
        )
    first = next(iter(measured.contests.values())).times.first
    return replace_in(
        document,
        students=students,
        teacher=replace_in(document.teacher, latency_ms=first),
        benchmark=measured.benchmark,
        machine=measured.machine,
    )
