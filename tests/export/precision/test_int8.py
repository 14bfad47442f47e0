from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from mmkd_edge.backends.ort import OrtBackend
from mmkd_export.graph.onnx_from_student import onnx_from_student
from mmkd_export.precision.int8 import Int8Graph, Int8Options, int8_graph
from mmkd_export.verify.answers import NetworkAnswers, answers_from_backend, graph_feeds
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_report.schema.export import GateResult

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

    def run(*, passing: int, graph: bytes = student_graph, **options: object) -> Int8Graph:
        count = 0

        def gate(model: onnx.ModelProto) -> GateResult:
            nonlocal count
            count += 1
            return _gate(passes=count == passing)

        return int8_graph(
            onnx.load_from_string(graph),
            list(graph_feeds(windows, student.modality)),
            Int8Options(**options),  # type: ignore[arg-type]
            answer=answer,
            gate=gate,
        )

    return run


def test_what_passes_at_once_is_kept_with_every_layer(search: Callable[..., Int8Graph]):
    found = search(passing=1)
    assert found.passed
    assert [(attempt.remedy, attempt.method, attempt.layers) for attempt in found.attempts] == [
        ("all but the first layer", "minmax", 4)
    ]
    assert len(found.layers) == 4


def test_remedies_come_in_order_and_add_up(search: Callable[..., Int8Graph]):
    found = search(passing=0)
    assert not found.passed
    tried = [(attempt.remedy, attempt.method, attempt.layers) for attempt in found.attempts]
    assert tried[:4] == [
        ("all but the first layer", "minmax", 4),
        ("ranges by percentile", "percentile", 4),
        ("last layer in float32", "percentile", 3),
        ("SmoothQuant", "percentile", 3),
    ]
    # Half of four layers must stay INT8, so one more may go back.
    assert [count for _, _, count in tried[4:]] == [2]


def test_sensitivity_is_measured_for_every_layer_and_sorted(search: Callable[..., Int8Graph]):
    found = search(passing=1, ops=("MatMul",))
    assert {(row.layer, row.rows, row.inputs, row.outputs) for row in found.sensitivity} == {
        (f"{BLOCK}attention.project", 34, 16, 48),
        (f"{BLOCK}attention.out", 34, 16, 16),
        (f"{BLOCK}feedforward.up", 34, 16, 32),
        (f"{BLOCK}feedforward.down", 34, 32, 16),
    }
    divergences = [row.divergence for row in found.sensitivity]
    assert divergences == sorted(divergences, reverse=True)
    assert all(row.max_abs_error > 0 and row.divergence > 0 for row in found.sensitivity)


def test_the_most_sensitive_layers_go_back_first(
    search: Callable[..., Int8Graph], build_student: Callable[..., StudentCheckpoint]
):
    encoder = EncoderConfig(width=16, heads=2, depth=2, spectrum_bands=8)
    deeper = build_student(config=StudentConfig(preset="toy", encoder=encoder), windows=3)
    found = search(passing=0, graph=onnx_from_student(deeper))
    reverted = [attempt.remedy for attempt in found.attempts[4:]]
    inner = [row.layer for row in found.sensitivity if row.layer != "encoder.blocks.1.feedforward.down"]
    # Eight layers, the last of them gone before: three more may go, so that half stay INT8.
    assert reverted == [f"{name} in float32" for name in inner[:3]]
    assert [attempt.layers for attempt in found.attempts[4:]] == [6, 5, 4]
    assert set(inner[:3]).isdisjoint(found.layers)


def test_a_method_that_was_asked_for_is_not_replaced(search: Callable[..., Int8Graph]):
    found = search(passing=0, method="percentile")
    assert {attempt.method for attempt in found.attempts} == {"percentile"}
    assert "ranges by percentile" not in [attempt.remedy for attempt in found.attempts]


def test_excluded_layers_stay_float32(search: Callable[..., Int8Graph]):
    found = search(passing=1, exclude="attention")
    assert found.layers == (f"{BLOCK}feedforward.up", f"{BLOCK}feedforward.down")


def test_smoothquant_gives_a_graph_that_still_answers(
    search: Callable[..., Int8Graph], student: StudentCheckpoint, student_graph: bytes
):
    found = search(passing=4)
    assert found.attempts[-1].remedy == "SmoothQuant"
    windows = student.carried.windows
    before = answers_from_backend(OrtBackend(student_graph), windows, student.modality)
    after = answers_from_backend(OrtBackend(found.model.SerializeToString()), windows, student.modality)
    assert 0 < np.abs(before.logits - after.logits).max() < 0.1


def test_with_every_layer_excluded_nothing_is_tried(search: Callable[..., Int8Graph]):
    found = search(passing=1, exclude="encoder")
    assert (found.passed, found.attempts, found.layers) == (False, (), ())
