from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmkd_bench.commands.cli import make_app
from mmkd_bench.in_turn import measure_rivals
from mmkd_bench.measuring.jobs import RivalsJob, RivalsOutcome
from mmkd_bench.measuring.rivals import time_rivals
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.graph.onnx_from_student import onnx_from_student
from mmkd_models.networks.config import TeacherConfig
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.checkpoint import (
    TeacherCheckpoint,
    read_student,
    write_student,
    write_teacher,
)
from mmkd_report.schema.bench import RivalEngine
from tests.bench.made import make_bundle
from tests.export.students import make_student

ACC = ModalitySpec(name="acc", channels=("x", "y", "z"), unit="g", rate_hz=20.0, samples=40)
TASK = TaskSpec(labels=("a", "b", "c", "d"))


def _checkpoint(path: Path, *, seed: int) -> Path:
    write_student(path, make_student(modality=ACC, task=TASK, windows=8, seed=seed))
    return path


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _checkpoint(tmp_path_factory.mktemp("student") / "student.ckpt", seed=0)


@pytest.fixture(scope="module")
def student_bundle(student: Path) -> Path:
    return make_bundle(student.with_suffix(".edge"), model=onnx_from_student(read_student(student)))


def _job(bundle: Path, checkpoint: Path | None = None) -> RivalsJob:
    return RivalsJob(
        bundle=str(bundle),
        checkpoint=None if checkpoint is None else str(checkpoint),
        reference=None,
        threads=1,
        repeats=2,
        duration_s=0.1,
    )


def _rival(outcome: RivalsOutcome, name: str) -> RivalEngine:
    return next(rival for rival in outcome.rivals if rival.name == name)


def _p50_us(outcome: RivalsOutcome, name: str) -> tuple[float, ...]:
    found = outcome.turns.find(name)
    return () if found is None else found.p50_us


def test_every_rival_is_named_the_runtime_first(bundle: Path) -> None:
    outcome = time_rivals(_job(bundle))
    names = [rival.name for rival in outcome.rivals]
    assert names == [
        "mmkd-edge predict",
        "onnxruntime",
        "mmkd-edge backend",
        "openvino",
        "litert",
        "torch eager",
        "torch.compile",
    ]
    assert len(_p50_us(outcome, "mmkd-edge predict")) == 2
    assert len(_p50_us(outcome, "onnxruntime")) == 2
    assert _rival(outcome, "mmkd-edge backend").reason == ""
    assert all(bool(_p50_us(outcome, rival.name)) != bool(rival.reason) for rival in outcome.rivals)


def test_a_rival_that_is_not_installed_has_its_reason(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    outcome = time_rivals(_job(bundle))
    assert _p50_us(outcome, "openvino") == ()
    assert _rival(outcome, "openvino").reason == "not installed: import of openvino halted; None in sys.modules"


def test_the_same_weights_through_torch_are_checked_and_timed(student_bundle: Path, student: Path) -> None:
    outcome = time_rivals(_job(student_bundle, student))
    rival = _rival(outcome, "torch eager")
    assert rival.reason == ""
    assert len(_p50_us(outcome, "torch eager")) == 2
    assert rival.max_abs_error is not None
    assert rival.max_abs_error <= outcome.tolerance


def test_other_weights_are_not_timed(student_bundle: Path, tmp_path: Path) -> None:
    other = _checkpoint(tmp_path / "other.ckpt", seed=1)
    outcome = time_rivals(_job(student_bundle, other))
    rival = _rival(outcome, "torch eager")
    assert _p50_us(outcome, "torch eager") == ()
    assert rival.reason.startswith("its answers differ by ")
    assert rival.reason.endswith(": not timed")


def test_a_bad_checkpoint_is_a_reason_not_a_crash(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.ckpt"
    path.write_bytes(b"no checkpoint")
    rival = _rival(time_rivals(_job(bundle, path)), "torch eager")
    assert str(path) in rival.reason


@pytest.mark.slow
def test_the_report_joins_processes(bundle: Path) -> None:
    lines: list[str] = []
    report = measure_rivals(bundle, launches=2, duration_s=0.2, progress=lines.append)
    assert lines == [f"launch {number} of 2: calls in turn for 0.1 s" for number in (1, 2)]
    ours, plain = report.rivals[:2]
    assert ours.ratio is not None
    assert (ours.ratio.min, ours.ratio.max, ours.ratio.repeats) == (1.0, 1.0, 10)
    assert plain.p50_us is not None
    assert plain.ratio is not None
    # predict is the backend's run and more; on this small graph it is far from equal.
    backend = report.rivals[2]
    assert backend.ratio is not None
    assert backend.ratio.median < 1.0


def test_a_teachers_checkpoint_is_compared_through_its_graph(tmp_path: Path, bundle: Path) -> None:
    gyro = ModalitySpec(name="gyro", channels=("x", "y"), unit="deg/s", rate_hz=50.0, samples=100)
    student = make_student(modality=ACC, task=TASK)
    config = TeacherConfig(preset="toy", encoder=student.config.encoder, fusion_depth=1)
    state = Teacher((ACC, gyro), len(TASK.labels), config).state_dict()
    teacher = tmp_path / "teacher.ckpt"
    write_teacher(
        teacher, TeacherCheckpoint(modalities=(ACC, gyro), task=TASK, config=config, facts=student.facts, state=state)
    )
    line = ["compare", str(teacher), str(bundle), "--launches", "1", "--duration-s", "0.2", "--json"]
    done = CliRunner().invoke(make_app(), line)
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines() == ["exporting the teacher", "launch 1 of 1: calls in turn for 0.2 s"]
    # Two sensors and two encoders against two small products: far from equal on any machine.
    assert json.loads(done.stdout)["ratio"]["median"] > 1.5
