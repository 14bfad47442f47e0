from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest

from mmkd_edge.backends.ort import OrtBackend
from mmkd_export.graph.onnx_from_student import onnx_from_student
from mmkd_export.graph.onnx_graph import learnt_layers, select_layers
from mmkd_export.precision.make import Int8Graph, int8_graph
from mmkd_export.verify.answers import NetworkAnswers, answers_from_backend, graph_feeds
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_report.schema.export import GateResult
from tests.export.students import make_student

BLOCK = "encoder.blocks.0."


def _gate(*, passes: bool) -> GateResult:
    return GateResult(
        windows=100,
        labelled=100,
        metric="accuracy",
        drop_points=0.0 if passes else 3.0,
        allowed_drop_points=0.5,
        label_agreement=1.0,
        least_agreement=0.99,
        finite=True,
    )


@pytest.fixture
def search(student: StudentCheckpoint, student_graph: bytes) -> Callable[..., Int8Graph]:
    """Runs the search with a gate that passes at the attempt of that number; 0 never passes."""
    windows = student.carried.windows

    def answer(model: onnx.ModelProto) -> NetworkAnswers:
        return answers_from_backend(OrtBackend(model.SerializeToString()), windows, student.modality)

    def run(
        *,
        passing: int,
        graph: bytes = student_graph,
        ops: tuple[str, ...] = ("Conv", "Gemm", "MatMul"),
    ) -> Int8Graph:
        count = 0

        def gate(model: onnx.ModelProto) -> GateResult:
            nonlocal count
            count += 1
            return _gate(passes=count == passing)

        model = onnx.load_from_string(graph)
        layers = select_layers(learnt_layers(model), ops=ops)
        feeds = list(graph_feeds(windows, student.modality))
        return int8_graph(model, layers, feeds, answer=answer, gate=gate)

    return run


def test_what_passes_at_once_is_kept_with_every_layer(search: Callable[..., Int8Graph]):
    found = search(passing=1)
    assert found.attempts[-1].gate.passed
    assert [(attempt.remedy, attempt.method, attempt.layers) for attempt in found.attempts] == [
        ("all but the first layer", "minmax", 4)
    ]
    assert len(found.layers) == 4


def test_remedies_come_in_order_and_add_up(search: Callable[..., Int8Graph]):
    found = search(passing=0)
    assert not found.attempts[-1].gate.passed
    tried = [(attempt.remedy, attempt.method, attempt.layers) for attempt in found.attempts]
    assert tried[:3] == [
        ("all but the first layer", "minmax", 4),
        ("ranges by percentile", "percentile", 4),
        ("last layer in float32", "percentile", 3),
    ]
    # Half of four layers must stay INT8, so one more may go back.
    assert [count for _, _, count in tried[3:]] == [2]


def test_sensitivity_is_measured_for_every_layer_and_sorted(search: Callable[..., Int8Graph]):
    found = search(passing=1, ops=("MatMul",))
    names = ("attention.project", "attention.out", "feedforward.up", "feedforward.down")
    assert {row.layer for row in found.sensitivity} == {f"{BLOCK}{name}" for name in names}
    divergences = [row.divergence for row in found.sensitivity]
    assert divergences == sorted(divergences, reverse=True)
    assert all(row.divergence > 0 for row in found.sensitivity)


def test_the_most_sensitive_layers_go_back_first(search: Callable[..., Int8Graph]):
    encoder = EncoderConfig(width=16, heads=2, depth=2, spectrum_bands=8)
    deeper = make_student(config=StudentConfig(preset="toy", encoder=encoder), windows=3)
    found = search(passing=0, graph=onnx_from_student(deeper))
    reverted = [attempt.remedy for attempt in found.attempts[3:]]
    inner = [row.layer for row in found.sensitivity if row.layer != "encoder.blocks.1.feedforward.down"]
    # Eight layers, the last of them gone before: three more may go, so that half stay INT8.
    assert reverted == [f"{name} in float32" for name in inner[:3]]
    assert [attempt.layers for attempt in found.attempts[3:]] == [6, 5, 4]
    assert set(inner[:3]).isdisjoint(found.layers)
