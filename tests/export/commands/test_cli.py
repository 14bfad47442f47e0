from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest

from mmkd_app.commands.export import main
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import release_number
from mmkd_export.verify.windows import RULE
from mmkd_models.evaluation.confidence import reliability_text
from tests.export.students import write_windows

STEPS = "1/4 read the checkpoint\n2/4 convert it to ONNX\n3/4 compare with torch\n4/4 write the bundle\n"


Done = namedtuple("Done", "returncode stdout stderr")


@pytest.fixture(autouse=True)
def _onnx_alone(monkeypatch, tmp_path):
    """The output does not depend on whether the converter of `.tflite` and a C compiler are installed."""
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    monkeypatch.setattr("mmkd_edge.native.LIBRARY", tmp_path / "nothing")


@pytest.fixture
def run(ran):
    """Runs the command in this process: torch takes seconds to import in another."""
    return lambda *arguments: Done(*ran(main, "mmkd-export", *arguments))


def test_the_command_shows_its_steps_and_the_result(run, student_file, exported, tmp_path):
    output = tmp_path / "my student.edge"
    done = run(student_file, "-o", output)
    assert done.returncode == 0
    assert done.stderr == STEPS
    lines = done.stdout.splitlines()
    student = exported.report.student
    assert lines[0] == (
        f"{exported.report.model_id}: {student.parameters:,} parameters, {student.mflops:.2f} MFLOP a window, "
        f"{exported.size_bytes / 1000:.0f} kB"
    )
    assert lines[1].split("  ")[0] == "artifact"
    assert lines[2].split()[:2] == ["fp32", "onnx"]
    facts = exported.report.artifacts[0].confidence
    assert lines[3] == f"values outside -1000 to 1000 count as missing: {RULE}; --range changes it"
    assert lines[4] == "compared with torch on 12 validation windows carried by the checkpoint"
    assert lines[5] == f"fp32 onnx: {reliability_text(facts)}"
    assert lines[6:] == [f"wrote {output}; next: mmkd-bench run '{output}'"]


@pytest.mark.slow
def test_json_is_one_document_and_another_process_gives_the_same_bundle(student_file, exported, tmp_path):
    arguments = ["-o", str(tmp_path / "s.edge"), "--json", "--target", "onnx"]
    command = [sys.executable, "-m", "mmkd_app", "export", str(student_file), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == STEPS
    document = json.loads(done.stdout)
    with Bundle.open(tmp_path / "s.edge") as bundle:
        report = json.loads(bundle.read("report.json"))
    made = {"bundle": str(tmp_path / "s.edge"), "size_bytes": exported.size_bytes, "sha256": exported.sha256}
    assert document == {**made, "report": report, "engines": [], "folders": []}


def test_calibration_windows_far_from_the_training_end_with_4(run, student, student_file, tmp_path):
    windows = (student.carried.windows * 9.81).astype(np.float32)
    data = write_windows(tmp_path / "other_unit", student, windows, student.carried.labels)
    done = run(student_file, "-o", tmp_path / "s.edge", "--precision", "int8", "--accept-unjudged", "--calib", data)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.splitlines()[-1].startswith(
        "mmkd-export: calibration windows: channel 'x' of 'acc': expected values like in training, mean 0 and "
    )
    assert [file.name for file in tmp_path.iterdir()] == ["other_unit"]


def test_a_plan_is_refused_before_torch_is_imported(tmp_path):
    script = "import sys; sys.modules['torch'] = None; from mmkd_app.commands.export import main; main()"
    command = [sys.executable, "-c", script, "a.ckpt", "-o", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "a.ckpt: expected a student checkpoint of mmkd-edge or a bundle, found no such file" in done.stderr
    assert f"{tmp_path}: expected the name of a file, got a directory" in done.stderr


def test_the_table_of_platforms_can_be_shown(run):
    done = run("--list-targets")
    assert done.returncode == 0
    shown = " ".join(line.split()[0] for line in done.stdout.splitlines() if not line.startswith(" "))
    assert shown == "platform cpu-x86 cpu-arm mcu jp6.2 jp7 trt-rtx" + 6 * " --target"
    document = json.loads(run("--list-targets", "--json").stdout)
    jetpack = document["platforms"][3]
    assert (jetpack["engine_library"], jetpack["targets"]) == ("tensorrt", ["onnx", "native", "trt"])
    assert [row["name"] for row in document["targets"]] == ["onnx", "native", "litert", "c", "trt", "openvino"]


@pytest.mark.parametrize(
    ("line", "message"),
    {
        "s.ckpt --target tflite": (
            "--target 'tflite': expected one of onnx, native, litert, c, trt, openvino; see --list-targets"
        ),
        "s.ckpt --precision int4": "--precision 'int4': expected one of fp32, fp16, int8, auto; choose one of them",
        "--json": "expected a checkpoint or a bundle to export, got none; name it, or see --help",
    }.items(),
)
def test_an_argument_that_does_not_exist_is_named(run, line, message):
    assert run(*line.split()) == (2, "", f"mmkd-export: {message}\n")


def test_lower_precision_is_shown_with_its_gate(run, student_file, tmp_path):
    options = ("--precision", "int8", "--accept-unjudged", "--platform", "jp6.2")
    lines = run(student_file, "-o", tmp_path / "s.edge", *options).stdout.splitlines()
    assert [line.split()[:2] for line in lines[2:4]] == [["fp32", "onnx"], ["int8", "onnx"]]
    assert lines[4].startswith("int8: balanced accuracy drops by ")
    assert lines[7] == (
        "6 judging windows prove little: even without one disagreement, up to 50.0% remain possible; "
        "name more with --eval DATA"
    )


def test_a_bundle_gets_another_release_number(run, exported, tmp_path):
    done = run(exported.path, "-o", tmp_path / "new.edge", "--release", "9")
    assert (done.returncode, done.stderr) == (0, "1/1 verify the bundle\n")
    with Bundle.open(tmp_path / "new.edge") as bundle:
        assert release_number(bundle.manifest) == 9


def test_an_interrupted_export_ends_with_130(student_file, tmp_path):
    command = [sys.executable, "-m", "mmkd_app", "export", str(student_file), "-o", str(tmp_path / "s.edge")]
    command += ["--target", "onnx"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "1/4 read the checkpoint\n"
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []
