"""Histograms of what layers read: folded from calibration's counts, and carried into the report."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_export.graph.calibration import Magnitudes, add_values, clipping_range, tensor_magnitudes
from mmkd_export.graph.layers import Layer, learnt_layers
from mmkd_export.pipeline import ExportResult, export
from mmkd_export.plan import ExportPlan
from mmkd_export.precision.int8 import REPORTED_BINS, activation_histograms
from mmkd_export.verify.answers import answers_from_student, graph_feeds
from mmkd_export.verify.proof_set import ProofSet
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_report.schema.export import decode_report, encode_document

EMPTY = Magnitudes(counts=np.zeros(2048, dtype=np.int64), top=0.0, largest=0.0)


def _layer(name: str, source: str) -> Layer:
    return Layer(name=name, node=0, op="MatMul", source=source, weight="w", axis=1, m=2, k=16, n=16)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=200), st.integers(1, 3))
def test_no_value_is_lost_and_every_value_lies_in_its_bin(values: list[float], parts: int):
    found = EMPTY
    for part in np.array_split(np.array(values, dtype=np.float32), parts):
        found = add_values(found, part)
    (histogram,) = activation_histograms({"x": found}, [_layer("a", "x")], {})
    sizes = np.abs(np.array(values, dtype=np.float32)).astype(np.float64)
    assert sum(histogram.counts) == len(values)
    assert len(histogram.counts) <= REPORTED_BINS
    assert histogram.largest == sizes.max()
    # The last bin holds the largest value, so no more of the axis is drawn than there are values.
    assert histogram.counts[-1] > 0
    if histogram.bin_width > 0:
        # A value within a rounding error of an edge may lie on either side of it.
        edges = histogram.bin_width * np.arange(1, len(histogram.counts) + 1)
        below = np.cumsum(histogram.counts)
        assert (below >= np.searchsorted(np.sort(sizes), edges * (1 - 1e-9))).all()


def test_a_tensor_that_is_always_zero_has_one_bin_without_width():
    found = add_values(EMPTY, np.zeros(7, dtype=np.float32))
    (histogram,) = activation_histograms({"x": found}, [_layer("a", "x")], {})
    assert (histogram.counts, histogram.bin_width, histogram.largest) == ((7,), 0.0, 0.0)


def test_layers_that_read_one_tensor_share_its_histogram():
    found = add_values(EMPTY, np.array([1.0, 2.0], dtype=np.float32))
    layers = [_layer("query", "x"), _layer("up", "y"), _layer("key", "x"), _layer("down", "unmeasured")]
    shared, alone = activation_histograms({"y": found, "x": found}, layers, {"x": 1.5})
    assert (shared.layers, shared.represented) == (("query", "key"), 1.5)
    assert (alone.layers, alone.represented) == (("up",), None)


@pytest.fixture(scope="module")
def mixed(student_file: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    output = tmp_path_factory.mktemp("activations") / "student.edge"
    return export(
        ExportPlan(source=student_file, output=output, accept_unjudged=True, precisions=("int8",), platform="jp6.2")
    )


def test_the_report_has_what_every_layer_read_on_the_calibration_windows(
    mixed: ExportResult, student: StudentCheckpoint, student_graph: bytes, build_proof_set: Callable[..., ProofSet]
):
    model = onnx.load_from_string(student_graph)
    layers = learnt_layers(model)
    fp32, int8 = mixed.report.artifacts
    assert fp32.activations == ()
    names = [name for histogram in int8.activations for name in histogram.layers]
    assert sorted(names) == sorted(layer.name for layer in layers)
    windows = build_proof_set(student).calibration
    sources = {layer.source for layer in layers}
    measured = tensor_magnitudes(model, sorted(sources), graph_feeds(windows, student.modality))
    quantised = {layer.name for layer in layers} - set(int8.float_layers)
    for layer in layers:
        histogram = next(found for found in int8.activations if layer.name in found.layers)
        assert histogram.largest == measured[layer.source].largest
        assert sum(histogram.counts) == measured[layer.source].counts.sum()
        if layer.name in quantised:
            assert histogram.represented == clipping_range(measured[layer.source], int8.attempts[-1].method)


def test_the_report_with_histograms_is_read_as_it_was_written(mixed: ExportResult):
    assert decode_report(encode_document(mixed.report)) == mixed.report


def test_an_artifact_from_an_earlier_bundle_keeps_its_histograms(mixed: ExportResult, tmp_path: Path):
    again = export(
        ExportPlan(
            source=mixed.path, output=tmp_path / "s.edge", accept_unjudged=True, precisions=("fp16",), platform="jp6.2"
        )
    )
    before, after = ({a.precision: a for a in result.report.artifacts}["int8"] for result in (mixed, again))
    assert after.activations == before.activations


def _undecided(student: StudentCheckpoint) -> np.ndarray:
    """Windows on which the student's two best classes are all but equal, so that any rounding turns the answer."""
    noise = np.random.default_rng(0).standard_normal((3000, *student.modality.shape)).astype(np.float32)
    best = np.sort(answers_from_student(student, noise).logits, axis=1)
    return noise[np.argsort(best[:, -1] - best[:, -2])[:100]]


def test_what_auto_left_out_is_reported_with_all_that_was_tried(
    exported: ExportResult, student: StudentCheckpoint, tmp_path: Path
):
    np.savez(tmp_path / "undecided.npz", x_acc=_undecided(student))
    source = Path(shutil.copy(exported.path, tmp_path / "student.edge"))
    result = export(
        ExportPlan(
            source=source,
            output=source,
            accept_unjudged=True,
            precisions=("auto",),
            evaluation=tmp_path / "undecided.npz",
            platform="cpu-x86",
        )
    )
    (left_out,) = result.report.left_out
    assert left_out.reason.startswith("int8 graph: no remedy passed the gate")
    assert left_out.artifact is not None
    assert [attempt.remedy for attempt in left_out.artifact.attempts][:2] == [
        "all but the first layer",
        "ranges by percentile",
    ]
    assert not any(attempt.gate.passed for attempt in left_out.artifact.attempts)
    assert left_out.artifact.gate is not None
    assert not left_out.artifact.gate.passed
    assert left_out.artifact.activations


def test_what_was_too_slow_is_reported_with_its_latency(
    exported: ExportResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mmkd_export.precision.speed.LEAST_SPEEDUP", 1000.0)
    result = export(
        ExportPlan(
            source=exported.path,
            output=tmp_path / "s.edge",
            accept_unjudged=True,
            precisions=("auto",),
            platform="cpu-x86",
        )
    )
    (left_out,) = result.report.left_out
    assert "times as fast as fp32 on this machine" in left_out.reason
    assert left_out.artifact is not None
    assert left_out.artifact.backends[0].latency_us is not None
