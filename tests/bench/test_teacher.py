from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from mmkd_bench.commands.in_turn import sensor_powers
from mmkd_bench.show.text import spared_lines
from mmkd_bench.teacher import measure_teacher
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_export.graph.onnx_from_student import onnx_from_teacher
from mmkd_models.networks.config import EncoderConfig, TeacherConfig
from mmkd_models.networks.teacher import Teacher
from mmkd_report.schema.bench_others import TeacherReport

ACC = ModalitySpec(name="acc", channels=("x", "y", "z"), unit="g", rate_hz=20.0, samples=40)
GYRO = ModalitySpec(name="gyro", channels=("x", "y"), unit="deg/s", rate_hz=50.0, samples=100, range=(-500.0, 500.0))


def _teacher(path: Path, *modalities: ModalitySpec) -> Path:
    config = TeacherConfig(
        preset="toy", encoder=EncoderConfig(width=16, heads=2, depth=1, spectrum_bands=8), fusion_depth=1
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Teacher(modalities, 4, config).eval()
    path.write_bytes(onnx_from_teacher(network, modalities))
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _teacher(tmp_path_factory.mktemp("teacher") / "teacher.onnx", ACC, GYRO)


@pytest.fixture(scope="module")
def report(teacher: Path, bundle: Path) -> TeacherReport:
    return measure_teacher(
        teacher, bundle, teacher="teacher.ckpt", hop_s=0.5, power_mw={"gyro": 12.0}, launches=1, duration_s=0.5
    )


def test_both_are_timed_from_samples_to_answer(report: TeacherReport) -> None:
    assert report.teacher_us.median > report.teacher_engine_us.median
    assert report.student_us.median > report.student_engine_us.median
    # Two sensors and two encoders against one sensor and two small products: far from equal on any machine.
    assert report.ratio.median > 1.5
    assert report.ratio.repeats == 5


def test_every_sensor_has_its_share(report: TeacherReport) -> None:
    acc, gyro = report.sensors
    assert (acc.modality, acc.needed, gyro.modality, gyro.needed) == ("acc", True, "gyro", False)
    assert (gyro.bytes_per_s, gyro.window_bytes) == (50 * 2 * 4, 100 * 2 * 4)
    assert gyro.gather_us.median > 0
    assert gyro.front_end_us.median > 0
    assert (acc.power_mw, gyro.power_mw) == (None, 12.0)


def test_what_is_spared_is_told(report: TeacherReport) -> None:
    first, power = spared_lines(report)
    assert first.startswith("no longer needed: gyro: 0.400 kB/s to capture, move and keep, ")
    assert power == "their power, as given: 12.0 mW, 6.00 mJ per prediction"
    silent = msgspec.structs.replace(
        report, sensors=tuple(msgspec.structs.replace(sensor, power_mw=None) for sensor in report.sensors)
    )
    assert spared_lines(silent)[1] == "power not measured and not given: gyro; say it with --sensor-mw NAME=MW"


def test_a_teacher_of_other_sensors_is_refused(bundle: Path, tmp_path: Path) -> None:
    other = _teacher(tmp_path / "other.onnx", GYRO, msgspec.structs.replace(GYRO, name="ecg"))
    with pytest.raises(UsageError) as caught:
        measure_teacher(other, bundle, teacher="t", launches=1, duration_s=0.1)
    assert str(caught.value) == (
        f"{bundle}: expected a student of one of the teacher's modalities (gyro, ecg), got 'acc'; "
        "choose the teacher that taught it"
    )


def test_a_graph_that_does_not_say_what_it_takes_is_refused(graph_file: Path, bundle: Path) -> None:
    with pytest.raises(UsageError) as caught:
        measure_teacher(graph_file, bundle, teacher="t", launches=1, duration_s=0.1)
    assert str(caught.value) == (
        f"{graph_file}: expected a teacher's graph whose metadata names its modalities, got inputs acc, acc_present; "
        "give the teacher's checkpoint"
    )


def test_a_hop_that_makes_no_sense_is_refused(teacher: Path, bundle: Path) -> None:
    with pytest.raises(UsageError) as caught:
        measure_teacher(teacher, bundle, teacher="t", hop_s=0.0)
    assert str(caught.value) == "hop-s: expected a number above 0, got 0"


@pytest.mark.parametrize("text", ["gyro", "=3", "gyro=x", "gyro=-1", "gyro=nan"])
def test_power_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        sensor_powers([text])
    assert str(caught.value) == f"sensor-mw {text!r}: expected NAME=MW with a number from 0, like gyro=3.5"


def test_a_sensor_that_the_teacher_lacks_is_refused(teacher: Path, bundle: Path) -> None:
    with pytest.raises(UsageError) as caught:
        measure_teacher(teacher, bundle, teacher="t", power_mw={"ecg": 1.0}, launches=1, duration_s=0.1)
    assert str(caught.value) == "sensor-mw: expected one of the teacher's modalities (acc, gyro), got 'ecg'"
