"""What INT8 gains in speed on this machine, on the largest preset. Slow; ratios of calls in turns bear other load."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import ExitStack, closing
from statistics import median

import msgspec
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from mmkd_edge.backends.base import Backend
from mmkd_edge.backends.openvino import OpenVinoBackend
from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import Precision
from mmkd_export.graph.calibration import Feeds
from mmkd_export.inspect.doctor import examine
from mmkd_export.pipeline import ExportResult, export
from mmkd_export.plan import ExportPlan
from mmkd_export.precision.speed import paired_latency_us
from mmkd_export.verify.answers import graph_feeds
from mmkd_models.networks.config import student_config
from mmkd_models.training.checkpoint import StudentCheckpoint, write_student
from mmkd_report.schema.export import ExportReport
from tests.export.students import make_student

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs pip install 'mmkd-edge[openvino]'"),
]

REPEATS = 5
BACKENDS: dict[str, Callable[[bytes], Backend]] = {"ort": OrtBackend, "openvino": OpenVinoBackend}


class PlainSession:
    """onnxruntime as its documentation starts, with one thread."""

    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, feeds: Feeds) -> list[NDArray[np.float32]]:
        return self._session.run(None, dict(feeds))

    def close(self) -> None:
        """There is nothing to give back."""


@pytest.fixture(scope="module")
def result(student: StudentCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """A bundle of the base preset, untrained, in which `auto` chose."""
    path = tmp_path_factory.mktemp("base") / "base.ckpt"
    modality = msgspec.structs.replace(student.modality, samples=200)
    write_student(path, make_student(modality=modality, config=student_config("base"), windows=64))
    plan = ExportPlan(
        source=path,
        output=path.with_suffix(".edge"),
        targets=("openvino",),
        accept_unjudged=True,
        precisions=("auto",),
        platform="cpu-x86",
    )
    return export(plan)


def best_us(report: ExportReport, precision: Precision) -> float:
    """The latency of a precision in the backend that runs it fastest, as the bundle has it."""
    (artifact,) = (found for found in report.artifacts if found.precision == precision)
    return min(run.latency_us for run in artifact.backends if run.latency_us is not None)


def paired(result: ExportResult, *, repeats: int) -> list[dict[tuple[str, str], float]]:
    """Latency of every artifact in every backend, and of the fp32 graph in a plain session, in turns."""
    with Bundle.open(result.path) as bundle:
        models = {artifact.precision: bundle.read(artifact.file) for artifact in bundle.manifest.models[0].artifacts}
        windows, modality = bundle.golden("acc").windows, bundle.manifest.models[0].modality
    with ExitStack() as stack:
        opened = {
            (name, precision): stack.enter_context(closing(backend(model)))
            for precision, model in models.items()
            for name, backend in (*BACKENDS.items(), ("plain", PlainSession))
            if (name, precision) != ("plain", "int8")
        }
        return [paired_latency_us(opened, list(graph_feeds(windows, modality))) for _ in range(repeats)]


def speedups(rounds: list[dict[tuple[str, str], float]], reference: tuple[str, ...]) -> list[float]:
    """How many times faster INT8 in its best backend is than fp32 in the best of the named ones."""
    return [
        min(found[name, "fp32"] for name in reference) / min(found[name, "int8"] for name in BACKENDS)
        for found in rounds
    ]


def test_what_auto_kept_is_faster_than_fp32_in_the_bundle_and_when_measured_again(result: ExportResult):
    kept = [artifact.precision for artifact in result.report.artifacts if artifact.precision != "fp32"]
    for precision in kept:
        assert best_us(result.report, precision) < best_us(result.report, "fp32")
    if kept:
        assert median(speedups(paired(result, repeats=REPEATS), tuple(BACKENDS))) > 1.0


@pytest.mark.skipif(
    next(check for check in examine().machine if check.what == "INT8 arithmetic").status != "ok",
    reason="the processor has no INT8 arithmetic",
)
def test_int8_is_twice_as_fast_as_onnxruntime_is_with_fp32(result: ExportResult):
    assert median(speedups(paired(result, repeats=REPEATS), ("plain",))) >= 2.0
