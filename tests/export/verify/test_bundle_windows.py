"""What a bundle holds of recordings: none, those that travel, the range of its values, the spread between groups."""

import zipfile
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge import EdgePredictor, UsageError
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.spec import ModalitySpec
from mmkd_export.inspect.files import inspect_file
from mmkd_export.packing.card import NO_RECORDING
from mmkd_export.packing.contents import recorded_golden
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan
from mmkd_export.verify.answers import NetworkAnswers
from mmkd_export.verify.windows import RealWindows, judging_half, plausible_range, range_choice, windows_from_dataset
from mmkd_models.data import shipped_dataset
from mmkd_models.data.dataset import open_dataset
from mmkd_models.data.writer import write_dataset
from tests.edge.said import said
from tests.export.students import export_student, make_proof_set, make_student


def test_no_recording_is_in_the_bundle_and_all_of_them_judged_it(student, student_file, tmp_path):
    path = tmp_path / "s.edge"
    plan = ExportPlan(source=student_file, output=path, golden="synthetic", precisions=("int8",), accept_unjudged=True)
    result = export(plan)
    data = path.read_bytes()
    rows = student.carried.windows.reshape(-1, 3)
    assert not any(row.tobytes() in data for row in rows[np.isfinite(rows).all(axis=1)])
    windows = result.report.windows
    assert (windows.count, windows.synthetic, windows.golden) == (12, False, "synthetic")
    with Bundle.open(path) as bundle:
        golden = bundle.golden("acc")
        assert f"**No recording is in here**: {NO_RECORDING}." in bundle.read("README.md").decode()
    assert 32 <= len(golden.windows) <= 64
    assert (golden.labels == -1).all()
    for precision in ("fp32", "int8"):
        with EdgePredictor.open(path, backend="ort", precision=precision) as predictor:
            assert predictor.selftest().windows == len(golden.windows)


CAMERA = ModalitySpec(name="cam", kind="video", channels=("gray",), rate_hz=25.0, samples=16, height=96, width=96)
SOUND = ModalitySpec(name="mic", kind="audio", channels=("mono",), rate_hz=16e3, samples=16_000)
SERIES = ModalitySpec(name="acc", channels=("x",), rate_hz=100.0, samples=1_000_000)
LARGE = msgspec.structs.replace(CAMERA, height=1024, width=1024)


@pytest.mark.parametrize(("modality", "most"), [(CAMERA, 28), (SOUND, 65), (SERIES, 80), (LARGE, 8)])
def test_windows_that_travel_are_few_if_large_and_of_both_halves_and_every_class(student, modality, most):
    labels, numbers = np.repeat(np.arange(3), (48, 24, 8)), np.arange(80, dtype=np.float32)[:, None]
    real = RealWindows(windows=numbers, labels=labels, judge=np.arange(80) % 2 == 0, source="a test")
    answers = NetworkAnswers(logits=numbers, probabilities=numbers)
    clear = np.ones(len(real.windows), dtype=bool)
    given = replace(make_proof_set(student), modality=modality, real=real, answers=answers, clear=clear)
    golden = recorded_golden(given)
    assert [int((golden.labels == label).sum()) for label in range(3)] == pytest.approx(
        [0.6 * most, 0.3 * most, 0.1 * most], abs=1
    )
    assert int(golden.judge.sum()) == pytest.approx(most / 2, abs=1)
    rows = golden.windows[:, 0].astype(int)
    assert len(rows) == most
    assert (np.diff(rows) > 0).all()
    assert (golden.labels == labels[rows]).all()
    assert (golden.judge == real.judge[rows]).all()


def test_a_bundle_gets_its_reference_from_a_dataset(tmp_path):
    dataset, path = open_dataset(shipped_dataset()).spec, tmp_path / "student.edge"
    student = make_student(modality=dataset.modality("acc"), task=dataset.task, windows=60)
    (entry,) = export_student(tmp_path, student, drift_reference=shipped_dataset()).manifest.models
    reference = entry.group_reference
    assert (reference.between, reference.groups) == ("groups", 8)
    said = (
        "unknown below 0.25 and above 3.3 times the usual size, as 0.0% of healthy windows of groups that were left out"
    )
    assert inspect_file(path)["acc.magnitude"] == said
    card = zipfile.ZipFile(path).read("README.md").decode()
    assert f"- A window of another magnitude than the training's is `unknown`: {said}.\n" in card


def test_ranges_hold_what_windows_have_and_zero_only_where_it_is_near():
    windows = np.array([[[1.0, 2.0], [np.nan, 3.0]]], dtype=np.float32)
    # 0.5 - 1000 * 0.123 = -122.5 and 9.8 + 1000 * 0.0456 = 55.4; 0.5 + 123 = 123.5
    assert plausible_range(windows, mean=[0.5, 9.8], std=[0.123, 0.0456]) == (-130.0, 130.0)
    windows = np.array([[[-7.25], [4321.0], [np.inf]]], dtype=np.float32)
    assert plausible_range(windows, mean=[0.0], std=[0.001]) == (-7.3, 4400.0)
    windows = np.array([[[101_200.0], [101_400.0], [np.nan]]], dtype=np.float32)
    # 101325 -+ 1000 * 2 = 99325 and 103325
    assert plausible_range(windows, mean=[101_325.0], std=[2.0]) == (99_000.0, 110_000.0)
    assert plausible_range(windows[:, 2:], mean=[101_325.0], std=[2.0]) == (99_000.0, 110_000.0)
    assert plausible_range(np.zeros((1, 1, 1), np.float32), mean=[0.0], std=[1e37]) is None


@pytest.mark.parametrize("text", ["7", "a:b", "2:1", "nan:1", "0:1e39", ""])
def test_what_is_no_range_is_refused(text):
    assert said(UsageError, range_choice, text) == (
        f"--range {text!r}: expected LOW:HIGH with LOW below HIGH, or none; write --range=-16:16"
    )


def test_windows_that_no_sensor_gives_are_invalid_and_the_bundle_says_why(exported):
    (entry,) = exported.manifest.models
    assert entry.modality.range == (-1000.0, 1000.0)  # the toy's front end has mean 0 and standard deviation 1
    rule = (
        "no range was declared: the training's mean and 1000 standard deviations either way, of the widest channel, "
        "and all that its windows have"
    )
    assert exported.report.range_rule == rule
    facts = inspect_file(exported.path)
    assert (facts["acc.range"], facts["acc.range_from"]) == ("-1000 to 1000", rule)
    with Bundle.open(exported.path) as bundle:
        assert f"A value outside -1000 to 1000 counts as missing ({rule})." in bundle.read("README.md").decode()
        window = bundle.golden("acc").windows[0]
    with EdgePredictor.open(exported.path) as predictor:
        assert predictor.predict(np.full_like(window, 1e38)).status == "invalid"
        half = window.copy()
        half[:, 0] = 1e38
        assert predictor.predict(half).reason == "channel 'x' is missing: 64 outside -1000 to 1000"


def test_a_range_is_that_of_the_command_or_the_dataset(student_file, tmp_path, student):
    named = export(ExportPlan(source=student_file, output=tmp_path / "named.edge", value_range=(-16.0, 16.0)))
    assert named.manifest.models[0].modality.range == (-16.0, 16.0)
    assert named.report.range_rule == "given at export with --range"
    without = export(ExportPlan(source=student_file, output=tmp_path / "none.edge", value_range="none"))
    assert without.manifest.models[0].modality.range is None
    assert without.report.range_rule is None
    declared = replace(student, modality=msgspec.structs.replace(student.modality, range=(-50.0, 50.0)))
    result = export_student(tmp_path, declared)
    assert result.manifest.models[0].modality.range == (-50.0, 50.0)
    assert result.report.range_rule is None


def _dataset(path, student, *, modality=None, labels=None):
    modality = modality or student.modality
    windows, classes = student.carried.windows, student.carried.labels
    arrays = {
        split: {modality.name: windows + shift, "labels": classes}
        for shift, split in enumerate(("train", "valid", "test"))
    }
    write_dataset(path, name="toy", labels=labels or student.task.labels, modalities=[modality], splits=arrays)
    return path


def _refusal(path, student):
    return said(UsageError, windows_from_dataset, path, modality=student.modality, task=student.task)


def test_a_dataset_gives_its_validation_split(student, tmp_path):
    real = windows_from_dataset(_dataset(tmp_path / "set", student), modality=student.modality, task=student.task)
    np.testing.assert_array_equal(real.windows, student.carried.windows + 1)  # the second split
    np.testing.assert_array_equal(real.labels, student.carried.labels)
    assert real.source == "windows of the validation split of dataset 'toy'"


def test_a_large_dataset_gives_256_windows_and_the_same_each_time(student, tmp_path):
    windows = np.random.default_rng(0).standard_normal((300, 64, 3)).astype(np.float32)
    many = replace(student.carried, windows=windows, labels=np.arange(300) % 4)
    path = _dataset(tmp_path / "set", replace(student, carried=many))
    first, second = (windows_from_dataset(path, modality=student.modality, task=student.task) for _ in range(2))
    assert len(first.windows) == 256
    np.testing.assert_array_equal(first.windows, second.windows)


def test_a_dataset_of_another_kind_of_windows_is_refused(student, tmp_path):
    path = _dataset(tmp_path / "set", student, modality=msgspec.structs.replace(student.modality, rate_hz=100.0))
    assert _refusal(path, student) == (
        f"{path}: modality 'acc': expected rate_hz 50.0 as in the checkpoint, got 100.0; "
        "use the dataset the student was trained on, or one recorded alike"
    )
    path = _dataset(tmp_path / "gyro", student, modality=msgspec.structs.replace(student.modality, name="gyro"))
    assert _refusal(path, student) == "dataset 'toy': modality 'acc' is not in it; choose one of gyro"
    path = _dataset(tmp_path / "order", student, labels=("walk", "rest", "run", "fall"))
    assert _refusal(path, student) == (
        f"{path}: expected the classes rest, walk, run, fall in this order, got walk, rest, run, fall; "
        "use windows of the same task"
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=60))
def test_half_of_all_and_about_half_of_each_class_judges(labels):
    array = np.array(labels)
    judge = judging_half(array)
    assert judge.sum() == (len(labels) + 1) // 2
    for label in set(labels):
        share = judge[array == label].sum() - (array == label).sum() / 2
        assert abs(share) <= 0.5  # alternating in the order of classes
    np.testing.assert_array_equal(judge, judging_half(array))
