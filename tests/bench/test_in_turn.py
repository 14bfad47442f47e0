import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from mmkd_app.commands.bench import main
from mmkd_app.torch_rival import open_torch
from mmkd_bench.in_turn import measure_overhead, measure_pair, take_turns, time_in_turn
from mmkd_bench.measuring.opening import Choice
from mmkd_bench.measuring.process import MeasuringProcess
from mmkd_bench.rivals import RivalsJob, measure_rivals, time_rivals
from mmkd_edge import OpenOptions
from mmkd_edge.errors import BackendError, UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.networks.config import TeacherConfig
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.checkpoint import TeacherCheckpoint, read_student, write_student, write_teacher
from tests.edge.said import said
from tests.export.students import make_student


def test_calls_alternate_in_both_orders():
    calls = []
    found = time_in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2, duration_s=0.001)
    text = "".join(calls)
    assert text.startswith("abbaabba")
    assert text.count("a") == text.count("b")
    assert [len(one.p50_us) for one in found.times.values()] == [2, 2]
    assert found.count >= 40


def test_calls_that_are_made_twice_are_timed_the_second_time():
    calls = []

    def first():
        """Slow, unless it was called just before."""
        if calls[-1:] != ["a"]:
            time.sleep(0.002)
        calls.append("a")

    lengths_ns, others_ns = take_turns((first, lambda: calls.append("b")), duration_s=0.001, twice=True)
    assert "".join(calls).startswith("aabbbbaaaabb")
    assert len(lengths_ns) == len(others_ns) == calls.count("a") / 2 >= 20
    assert float(np.median(lengths_ns)) < 1e6


@pytest.mark.usefixtures("launched_here")
def test_medians_differences_and_ratios_are_those_of_the_calls(bundle, slow_bundle):
    found = time_in_turn({"a": lambda: time.sleep(0.003), "b": lambda: time.sleep(0.001)}, repeats=1, duration_s=0.05)
    slow, fast = found.times.values()
    assert slow.p50_us[0] >= 3000
    assert 1000 <= fast.p50_us[0] < slow.p50_us[0]
    assert slow.p50_us[0] <= slow.p90_us[0] <= slow.p99_us[0]
    assert found.difference_us[0] == pytest.approx(slow.p50_us[0] - fast.p50_us[0], rel=0.3)
    report = measure_pair(slow_bundle, bundle, launches=2, duration_s=0.3)
    assert report.ratio.repeats == 10
    assert report.ratio.min <= report.ratio.median <= report.ratio.max
    # 60 products against one: the session's own cost keeps it far below 60.
    assert report.ratio.median > 2
    ratio = report.first_p50_us.median / report.second_p50_us.median
    assert report.ratio.median == pytest.approx(ratio, rel=0.3)
    report = measure_overhead(bundle, launches=1, duration_s=0.4)
    assert report.overhead_us.median > 0
    difference_us = report.predict_p50_us.median - report.bare_p50_us.median
    assert report.overhead_us.median == pytest.approx(difference_us, rel=0.5, abs=10.0)
    assert report.bare == "session.run"


@pytest.mark.usefixtures("launched_here")
def test_whole_numbers_and_groups_are_fed_as_they_are(per_group_bundle, tmp_path):
    assert measure_overhead(per_group_bundle, launches=1, duration_s=0.1).count >= 100
    path = _write_model(tmp_path / "int.onnx", [2, 3], TensorProto.INT64)
    assert measure_pair(path, path, launches=1, duration_s=0.05).count >= 100


def _write_model(path, shape, element=TensorProto.FLOAT):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.mark.usefixtures("launched_here")
def test_what_is_no_model_or_no_launch_is_refused(tmp_path, bundle):
    def refusal(path, kind=UsageError, launches=1):
        return said(kind, lambda: measure_pair(path, bundle, launches=launches, duration_s=0.1))

    path = _write_model(tmp_path / "dynamic.onnx", ["batch", 3])
    assert refusal(path) == (
        f"{path}: input 'x' has the shape ['batch', 3]; expected fixed sizes: export a static shape"
    )
    path = tmp_path / "noise.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(100))
    assert re.match(rf"{path}: onnxruntime .* cannot open the model: ", refusal(path, BackendError))
    path = tmp_path / "absent.onnx"
    assert refusal(path) == f"{path}: expected an ONNX model or a bundle, found no such file; check the path"
    assert refusal(bundle, launches=0) == "--launches: expected a whole number from 1 to 100, got 0"


ACC = ModalitySpec(name="acc", channels=("x", "y", "z"), unit="g", rate_hz=20.0, samples=40)
TASK = TaskSpec(labels=("a", "b", "c", "d"))
FILES = Path(__file__).parents[1] / "files"


def _rivals(bundle, checkpoint):
    """The outcome of timing rivals, and each by its name."""
    choice = Choice(bundle=str(bundle), options=OpenOptions(precision="fp32", threads=1))
    job = RivalsJob(choice=choice, checkpoint=str(checkpoint), threads=1, repeats=2, duration_s=0.1)
    outcome = time_rivals(job, MeasuringProcess(stop=Event(), open_torch=open_torch))
    return outcome, {rival.name: rival for rival in outcome.rivals}


def _p50_us(outcome, name):
    found = outcome.turns.times.get(name)
    return () if found is None else found.p50_us


def test_every_rival_is_named_the_runtime_first_and_what_cannot_be_timed_has_its_reason(bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    outcome, rivals = _rivals(bundle, tmp_path / "bad.ckpt")
    own = ["mmkd-edge predict", "onnxruntime", "mmkd-edge backend"]
    assert list(rivals) == [*own, "openvino", "litert", "torch eager", "torch.compile"]
    assert [len(_p50_us(outcome, name)) for name in rivals] == [2, 2, 2, 0, 0, 0, 0]
    assert [bool(rival.reason) for rival in rivals.values()] == [False] * 3 + [True] * 4
    assert rivals["openvino"].reason == "not installed: import of openvino halted; None in sys.modules"
    assert f"{tmp_path}/bad.ckpt" in rivals["torch eager"].reason


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # torch's own, in its compiler
@pytest.mark.parametrize("compiled", [lambda network: network, pytest.param(torch.compile, marks=pytest.mark.slow)])
def test_the_same_weights_through_torch_are_checked_and_timed(compiled, monkeypatch):
    monkeypatch.setattr(torch, "compile", compiled)
    outcome, rivals = _rivals(FILES / "student.edge", FILES / "student.ckpt")
    for name in ("torch eager", "torch.compile"):
        assert (rivals[name].reason, len(_p50_us(outcome, name))) == ("", 2)
        assert rivals[name].max_abs_error <= outcome.tolerance


def test_other_weights_are_not_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network: network)
    student = read_student(FILES / "student.ckpt")
    state = {name: torch.zeros_like(tensor) for name, tensor in student.state.items()}
    write_student(tmp_path / "other.ckpt", replace(student, state=state))
    outcome, rivals = _rivals(FILES / "student.edge", tmp_path / "other.ckpt")
    assert _p50_us(outcome, "torch eager") == ()
    assert rivals["torch eager"].reason.startswith("its answers differ by ")
    assert rivals["torch eager"].reason.endswith(": not timed")


@pytest.mark.slow
def test_the_report_joins_processes(bundle):
    lines = []
    report = measure_rivals(bundle, launches=2, duration_s=0.2, progress=lines.append)
    assert lines == [f"launch {number} of 2: calls in turn for 0.1 s" for number in (1, 2)]
    ours, plain = report.rivals[:2]
    assert (ours.ratio.min, ours.ratio.max, ours.ratio.repeats) == (1.0, 1.0, 10)
    assert plain.ratio is not None
    # predict is the backend's run and more; on this small graph it is far from equal.
    backend = report.rivals[2]
    assert backend.ratio.median < 1.0


@pytest.mark.slow
def test_a_teachers_checkpoint_is_compared_through_its_graph(tmp_path, bundle, ran):
    gyro = ModalitySpec(name="gyro", channels=("x", "y"), unit="deg/s", rate_hz=50.0, samples=100)
    student = make_student(modality=ACC, task=TASK)
    config = TeacherConfig(preset="toy", encoder=student.config.encoder, fusion_depth=1)
    state = Teacher((ACC, gyro), len(TASK.labels), config).state_dict()
    teacher = tmp_path / "teacher.ckpt"
    write_teacher(
        teacher, TeacherCheckpoint(modalities=(ACC, gyro), task=TASK, config=config, facts=student.facts, state=state)
    )
    line = ["compare", teacher, bundle, "--launches", "1", "--duration-s", "0.2", "--json"]
    code, output, errors = ran(main, "mmkd-bench", *line)
    assert code == 0, errors
    assert errors.splitlines() == ["exporting the teacher", "launch 1 of 1: calls in turn for 0.2 s"]
    # Two sensors and two encoders against two small products: far from equal on any machine.
    assert json.loads(output)["ratio"]["median"] > 1.5
