"""What an export writes, and of a derived sensor."""

import signal
import subprocess
import sys
import time
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from mmkd_documents.export import decode_report
from mmkd_edge import EdgePredictor
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import Adapted
from mmkd_edge.bundle.manifest_json import encode_manifest
from mmkd_edge.derive import derive, derived_modality
from mmkd_edge.errors import GateError, UsageError
from mmkd_export.inspect.files import inspect_file
from mmkd_export.pipeline import export
from mmkd_export.plan import export_plan
from mmkd_models.training.checkpoint import read_student, write_student
from tests.edge.said import said
from tests.export.students import ACC, card_of, export_student, make_student, write_windows

STEPS = ["read the checkpoint", "convert it to ONNX", "compare with torch", "write the bundle"]


def _files(path):
    return sorted(file.name for file in path.iterdir())


def test_the_bundle_says_what_the_checkpoint_said(exported, student):
    (entry,) = exported.manifest.models
    modality = msgspec.structs.replace(student.modality, range=(-1000.0, 1000.0))  # which no dataset declared
    assert (entry.name, entry.modality, entry.task) == ("acc", modality, student.task)
    assert (entry.preset, entry.validation_metric, entry.validation_score) == ("toy", "balanced_accuracy", 0.75)
    assert (entry.dataset_name, entry.dataset_sha256, entry.teacher_sha256) == ("toy_set", "d" * 64, "7" * 64)
    assert entry.parameters == sum(p.numel() for p in student.network().parameters())
    assert exported.manifest.licence == "CC0"
    assert exported.manifest.tools["torch"]
    with Bundle.open(exported.path) as bundle:
        golden = bundle.golden("acc")
        assert decode_report(bundle.read("report.json")) == exported.report
    np.testing.assert_array_equal(golden.windows, student.carried.windows)
    np.testing.assert_array_equal(golden.labels, student.carried.labels)
    assert golden.judge.sum() == 6
    assert golden.tolerance == 1e-4
    (artifact,) = exported.report.artifacts
    assert (artifact.precision, artifact.opset, artifact.file) == ("fp32", 20, "acc/model.fp32.onnx")
    assert exported.report.student.mflops > 0.1


def test_the_model_card_has_the_figures_of_the_report(exported):
    card = card_of(exported.path)
    report = exported.report
    assert card.startswith(f"# {report.model_id}\n")
    for text in (
        f"{report.student.parameters:,} parameters",
        "Windows of 64 samples (1.28 s at 50 Hz) by 3 channels (x, y, z), raw values in m/s^2, float32.",
        f"{report.artifacts[0].parity.max_abs_error:.1e}",
        "Distilled from the teacher with SHA-256 `7777",
        "licence: CC0",
    ):
        assert text in card
    assert "reference" not in card


def test_the_card_of_a_per_group_student_speaks_of_its_reference(student, tmp_path):
    modality = msgspec.structs.replace(student.modality, normalise="per_group", range=(-50.0, 50.0))
    result = export_student(tmp_path, make_student(modality=modality))
    card = card_of(result.path)
    assert 'EdgePredictor.open("student.edge", reference="reference.json")' in card
    assert "A value outside -50 to 50 counts as missing." in card
    with EdgePredictor.open(result.path) as predictor:
        assert predictor.selftest().label_agreement == 1.0  # golden windows are z-scores and need no reference


def test_windows_named_by_the_user_replace_the_carried_ones(student, tmp_path):
    data = write_windows(tmp_path / "line", student, student.carried.windows[:5], [0, 1, 2, 3, 0])
    result = export_student(tmp_path, make_student(windows=None), calibration=data)
    assert result.report.windows.count == 5
    with Bundle.open(result.path) as bundle:
        assert bundle.golden("acc").labels.tolist() == [0, 1, 2, 3, 0]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A bundle of a checkpoint that carries no windows."""
    return export_student(tmp_path_factory.mktemp("bare"), make_student(windows=None))


def test_a_checkpoint_without_windows_is_compared_on_synthetic_ones(bare):
    windows = bare.report.windows
    assert (windows.synthetic, windows.count, windows.labelled) == (True, 64, 0)
    assert windows.source == "synthetic windows drawn from the channel statistics of the training data"
    assert windows.caution.startswith("synthetic windows show that the graph computes what the network computes")
    assert bare.report.artifacts[0].parity.max_abs_error < 1e-5
    assert bare.manifest.models[0].statistics is None  # no drift is measured against noise
    with Bundle.open(bare.path) as bundle:
        golden = bundle.golden("acc")
        card = bundle.read("README.md").decode()
    # 64 windows of 64 samples: the mean of 4096 standard normal values lies within 5 / 64 of 0.
    assert np.abs(golden.windows.mean((0, 1))).max() < 5 / 64
    assert np.abs(golden.windows.std((0, 1)) - 1).max() < 5 / 64
    assert golden.labels.tolist() == [-1] * 64
    assert "**No recording was compared.**" in card
    assert "come from validation" not in card
    with EdgePredictor.open(bare.path) as predictor:
        assert predictor.selftest().windows == 64


def test_synthetic_windows_follow_the_statistics_and_the_range(student, tmp_path):
    quiet = make_student(modality=msgspec.structs.replace(student.modality, range=(90.0, 130.0)), windows=None)
    scale = {"mean": torch.tensor([100.0, 100.0, 100.0]), "std": torch.tensor([1.0, 2.0, 50.0])}
    state = dict(quiet.state) | {f"encoder.front.{name}": value for name, value in scale.items()}
    with Bundle.open(export_student(tmp_path, replace(quiet, state=state)).path) as bundle:
        windows = bundle.golden("acc").windows
    np.testing.assert_allclose(windows[:, :, :2].mean((0, 1)), 100.0, atol=0.2)
    np.testing.assert_allclose(windows[:, :, :2].std((0, 1)), [1.0, 2.0], rtol=0.1)
    assert (windows.min(), windows.max()) == (90.0, 130.0)


@pytest.mark.parametrize("precision", ["int8", "fp16", "auto"])
def test_nothing_of_lower_precision_is_made_from_synthetic_windows(tmp_path, precision):
    student, options = make_student(windows=None), {"precisions": (precision,), "platform": "jp6.2"}
    assert said(UsageError, export_student, tmp_path, student, name="s", **options) == (
        f"{tmp_path}/s.ckpt: expected recorded windows to calibrate and judge lower precision with, got a checkpoint "
        "without any; name some with --calib DATA, or train again without --no-embed-windows"
    )
    assert _files(tmp_path) == ["s.ckpt"]


def test_a_failed_gate_leaves_the_earlier_bundle(exported, student_file, tmp_path, monkeypatch):
    output = tmp_path / "student.edge"
    output.write_bytes(exported.path.read_bytes())
    monkeypatch.setattr("mmkd_export.student.fp32_tolerance", lambda *given, **named: 1e-12)  # no float32 passes
    with pytest.raises(GateError, match="no bundle was written"):
        export(export_plan(student_file, output=output))
    assert output.read_bytes() == exported.path.read_bytes()
    assert _files(tmp_path) == ["student.edge"]


def _killed_after(arguments, line):
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for found in process.stderr:
        if found.strip() == line:
            break
    time.sleep(0.002)  # into the step, not before it
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()


@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_killed_export_leaves_the_earlier_bundle(exported, tmp_path, number):
    output = tmp_path / "student.edge"
    output.write_bytes(exported.path.read_bytes())
    write_student(tmp_path / "other.ckpt", make_student(seed=1))
    command = [sys.executable, "-m", "mmkd_app", "export", str(tmp_path / "other.ckpt"), "-o", str(output)]
    command += ["--target", "onnx"]  # four stages, whether or not a C compiler is installed
    _killed_after(command, f"{number}/4 {STEPS[number - 1]}")
    with Bundle.open(output) as bundle:  # whole, whichever of the two it is
        if number < 4:
            assert bundle.sha256 == exported.sha256
        assert bundle.golden("acc").windows.shape == (12, 64, 3)


SHA256 = {"from_sha256": "1" * 64, "dataset_sha256": "2" * 64, "teacher_sha256": "3" * 64}
ADAPTED = Adapted(**SHA256, dataset="line two", method="teacher", labels=0, gain_points=10.6, forgotten_points=0.5)


def test_whom_an_adapted_student_comes_from_is_told_everywhere(exported, tmp_path):
    labelled = msgspec.structs.replace(ADAPTED, method="labels", teacher_sha256=None, labels=40, forgotten_points=-0.25)
    student = make_student()
    facts = msgspec.structs.replace(student.facts, adapted=(ADAPTED, labelled))
    again = export_student(tmp_path, replace(student, facts=facts), name="adapted")
    assert again.manifest.models[0].adapted == (ADAPTED, labelled)
    start = f"from checkpoint {'1' * 64} to line two (SHA-256 {'2' * 64}) by "
    told = [
        f"{start}'teacher', teacher {'3' * 64}: estimate +10.6 points, old domain -0.5",
        f"{start}'labels', 40 labels: estimate +10.6 points, old domain +0.2",
    ]
    assert "".join(f"- Adapted since, {one}.\n" for one in told) in card_of(again.path)
    for path, start in ((tmp_path / "adapted.ckpt", ""), (again.path, "acc.")):
        assert [inspect_file(path)[f"{start}adapted.{number}"] for number in (0, 1)] == told
    assert b"adapted" not in encode_manifest(exported.manifest)
    with Bundle.open(exported.path) as bundle:
        assert b"Adapted" not in bundle.read("README.md")


def test_a_bundle_says_its_derivation_and_answers_for_both_sensors(tmp_path):
    modality = derived_modality("acc[x,z]@25Hz,8bit,-9..9", [ACC])
    export_student(tmp_path, make_student(modality=modality))
    assert read_student(tmp_path / "student.ckpt").modality == modality
    stated = "acc[x,z]@25Hz,8bit,-9..9, from acc: 64 samples x x, y, z at 50 Hz"
    assert inspect_file(tmp_path / "student.ckpt")[f"{modality.name}.derived"] == stated
    assert inspect_file(tmp_path / "student.edge")[f"{modality.name}.derived"] == stated
    windows = np.random.default_rng(5).normal(size=(4, *ACC.shape)).astype(np.float32)
    windows[1, 10:14] = np.nan
    with EdgePredictor.open(tmp_path / "student.edge") as predictor:
        assert predictor.modality.derived == modality.derived
        for window, answer in zip(windows, predictor.predict_batch(windows), strict=True):
            cheap = predictor.predict({modality.name: derive(window, modality)})
            np.testing.assert_array_equal(answer.probabilities, cheap.probabilities)
        card = predictor.bundle.read("README.md").decode()
    assert (
        "This sensor is `acc[x,z]@25Hz,8bit,-9..9`, derived from `acc`. A device may have it, or derive it from "
        '`{"acc": window}`, (64, 3) at 50 Hz, as training did.'
    ) in card
