from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mmkd_bench.in_turn import measure_overhead, measure_pair
from mmkd_bench.measuring.turns import take_turns, time_in_turn
from mmkd_edge.errors import BackendError, UsageError


def test_calls_alternate_in_both_orders() -> None:
    calls: list[str] = []
    found = time_in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2, duration_s=0.001)
    text = "".join(calls)
    assert text.startswith("abbaabba")
    assert text.count("a") == text.count("b")
    assert [len(one.p50_us) for one in found.times] == [2, 2]
    assert found.count >= 40


def test_calls_that_are_made_twice_are_timed_the_second_time() -> None:
    calls: list[str] = []

    def first() -> None:
        """Slow, unless it was called just before."""
        if calls[-1:] != ["a"]:
            time.sleep(0.002)
        calls.append("a")

    lengths_ns, others_ns = take_turns((first, lambda: calls.append("b")), duration_s=0.001, twice=True)
    assert "".join(calls).startswith("aabbbbaaaabb")
    assert len(lengths_ns) == len(others_ns) == calls.count("a") / 2 >= 20
    assert float(np.median(lengths_ns)) < 1e6


def test_medians_and_differences_are_those_of_the_calls() -> None:
    found = time_in_turn({"a": lambda: time.sleep(0.003), "b": lambda: time.sleep(0.001)}, repeats=1, duration_s=0.05)
    slow, fast = found.times
    assert slow.p50_us[0] >= 3000
    assert 1000 <= fast.p50_us[0] < slow.p50_us[0]
    assert slow.p50_us[0] <= slow.p90_us[0] <= slow.p99_us[0]
    assert found.difference_us[0] == pytest.approx(slow.p50_us[0] - fast.p50_us[0], rel=0.3)


def test_a_slower_graph_is_slower_by_its_ratio(bundle: Path, slow_bundle: Path) -> None:
    report = measure_pair(slow_bundle, bundle, launches=2, duration_s=0.3)
    assert report.ratio.repeats == 10
    assert report.ratio.min <= report.ratio.median <= report.ratio.max
    # 60 products against one: the session's own cost keeps it far below 60.
    assert report.ratio.median > 2
    ratio = report.first_p50_us.median / report.second_p50_us.median
    assert report.ratio.median == pytest.approx(ratio, rel=0.3)


def test_the_overhead_is_what_predict_adds(bundle: Path) -> None:
    report = measure_overhead(bundle, launches=1, duration_s=0.4)
    assert report.overhead_us.median > 0
    difference_us = report.predict_p50_us.median - report.bare_p50_us.median
    assert report.overhead_us.median == pytest.approx(difference_us, rel=0.3, abs=1.0)
    assert report.bare == "session.run"
    report = measure_overhead(bundle, backend="ort", launches=1, duration_s=0.2)
    assert (report.bare, report.overhead_us.median > 0) == ("ort backend.run", True)


def test_a_modality_that_needs_a_reference_is_paired_without_one(per_group_bundle: Path) -> None:
    assert measure_overhead(per_group_bundle, launches=1, duration_s=0.1).count >= 100


def _write_model(path: Path, shape: list[object], element: int = TensorProto.FLOAT) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_whole_numbers_are_fed_to_a_bare_model(tmp_path: Path) -> None:
    path = _write_model(tmp_path / "int.onnx", [2, 3], TensorProto.INT64)
    assert measure_pair(path, path, launches=1, duration_s=0.05).count >= 100


def test_a_dynamic_shape_is_refused(tmp_path: Path, bundle: Path) -> None:
    path = _write_model(tmp_path / "dynamic.onnx", ["batch", 3])
    with pytest.raises(UsageError) as caught:
        measure_pair(path, bundle, launches=1, duration_s=0.1)
    assert str(caught.value) == (
        f"{path}: input 'x' has the shape ['batch', 3]; expected fixed sizes: export a static shape"
    )


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, bundle: Path) -> None:
    path = tmp_path / "noise.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(100))
    with pytest.raises(BackendError, match=r"noise\.onnx: onnxruntime .* cannot open the model: "):
        measure_pair(path, bundle, launches=1, duration_s=0.1)


def test_a_missing_file_says_what_is_expected(tmp_path: Path, bundle: Path) -> None:
    path = tmp_path / "absent.onnx"
    with pytest.raises(UsageError) as caught:
        measure_pair(path, bundle, launches=1, duration_s=0.1)
    assert str(caught.value) == (
        f"{path}: expected an ONNX model or a bundle, cannot open it: no such file or directory"
    )


def test_no_launch_is_refused(bundle: Path) -> None:
    with pytest.raises(UsageError) as caught:
        measure_pair(bundle, bundle, launches=0)
    assert str(caught.value) == "launches: expected a whole number from 1 to 100, got 0"
