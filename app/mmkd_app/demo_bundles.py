"""After the demo's training: bundles and latencies."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from mmkd_documents.demo import DemoBenchmark, DemoDocument, DemoSensor, LatencyPercentiles
from mmkd_documents.study import PairLatency
from mmkd_edge.bundle.files import write_file
from mmkd_edge.bundle.reference import write_reference
from mmkd_edge.errors import UsageError
from mmkd_export.graph.onnx_from_student import onnx_from_teacher
from mmkd_export.pipeline import export
from mmkd_export.plan import export_plan
from mmkd_export.targets.table import with_defaults
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.for_devices import measure_reference
from mmkd_models.data.windows import Windows
from mmkd_models.experiments.experiment import Experiment
from mmkd_models.training.checkpoint import read_teacher

Say = Callable[[str], None]
_MeasurePair = Callable[[Path, Path], PairLatency]
_MeasureBundle = Callable[[Path, Path | None], tuple[DemoBenchmark, dict[str, Any]]]


def measure(
    document: DemoDocument, experiment: Experiment, *, pair: _MeasurePair, bundle: _MeasureBundle, say: Say
) -> DemoDocument:
    """Export and benchmark the first fold's students; the best on validation is `student.edge` too."""
    seed, dataset, out = document.seeds[0], experiment.dataset, experiment.out
    bundles = {}
    for name in document.students:
        say(f"export: {name} student")
        bundles[name] = out / f"{name}.edge"
        export(with_defaults(export_plan(experiment.student_path(name, seed), output=bundles[name])))
    test = experiment.folder.fold(seed).test
    references = {name: _any_reference(dataset, name, test, out) for name in bundles}
    teacher = read_teacher(experiment.teacher_path(seed)).transformer()
    times = {}
    with TemporaryDirectory() as temporary:
        model = Path(temporary) / "teacher.onnx"
        model.write_bytes(onnx_from_teacher(teacher, dataset.spec.modalities))
        for name, path in bundles.items():
            say(f"latency: teacher against {name} student")
            times[name] = pair(model, path)
    best = document.best_student or next(iter(bundles))
    write_file(out / "student.edge", bundles[best].read_bytes())
    say(f"benchmark: {best} student through EdgePredictor")
    benchmark, machine = bundle(out / "student.edge", references[best])
    replace_in, first = msgspec.structs.replace, next(iter(times.values()))
    return replace_in(
        document,
        students={
            name: _add_measurements(replace_in(sensor, bundle=str(bundles[name])), references[name], times[name])
            for name, sensor in document.students.items()
        },
        teacher=replace_in(document.teacher, latency_ms=msgspec.convert(first.teacher_ms, LatencyPercentiles)),
        benchmark=benchmark,
        machine=machine,
    )


def _add_measurements(sensor: DemoSensor, reference: Path | None, times: PairLatency) -> DemoSensor:
    """A transformer baseline shares the student's latencies."""
    assert sensor.baseline is not None  # folds have one
    is_alike = sensor.baseline.kinds[:1] == sensor.student.kinds[:1] == ("transformer",)  # the first seed's
    latency, replace_in = msgspec.convert(times.student_ms, LatencyPercentiles), msgspec.structs.replace
    return replace_in(
        sensor,
        student=replace_in(sensor.student, latency_ms=latency),
        baseline=replace_in(sensor.baseline, latency_ms=latency if is_alike else None),
        reference=None if reference is None else str(reference),
        latency_ratio=times.ratio,
        latency_ratios=times.ratios,
    )


def _group_reference(dataset: Dataset, name: str, group: int | str, out: Path) -> Path | None:
    if dataset.spec.modality(name).normalise == "none":
        return None
    path = out / f"{name}.reference.json"
    write_reference(path, measure_reference(dataset, modality=name, group=group).reference)
    return path


def _any_reference(dataset: Dataset, name: str, test: Windows, out: Path) -> Path | None:
    """Write the first test group's reference with every channel; raise UsageError if none has."""
    *groups, last = dict.fromkeys(test.groups.tolist())
    for group in groups:
        with suppress(UsageError):
            return _group_reference(dataset, name, group, out)
    return _group_reference(dataset, name, last, out)
