"""ARM64 made of software answers as this machine does: the whole of `benchmarks/checks/arm64.py`, and its verdicts."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from checks.arm64 import differences, faults_of, table
from checks.emulation.answers import EmulatedWay, MachineAnswers, damaged_copies
from checks.emulation.root import missing_tools
from mmkd_edge import SelfTest, example_bundle

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "checks" / "arm64.py"


def answers(probability, *, refused=32):
    test = SelfTest(windows=256, max_abs_error=2e-6, tolerance=1e-4, label_agreement=1.0)
    way = EmulatedWay(
        bundle="a.edge",
        backend="ort",
        precision="fp32",
        version="onnxruntime 1.32.0",
        selftest=test,
        probabilities=[[probability, 1 - probability]],
        streamed=[[0.5, 0.5], [probability, 1 - probability]],
    )
    absent = EmulatedWay(bundle="a.edge", backend="openvino", precision="int8", refusal="no int8 here")
    return MachineAnswers(machine="aarch64", python="3.13.5", ways=[way, absent], damaged={"a.edge": (32, refused)})


def test_answers_within_tolerance_are_the_same_and_everything_else_is_a_fault():
    there, here = answers(0.75), answers(0.75 + 5e-5)
    assert differences(there.ways[0], here) == (pytest.approx(5e-5), pytest.approx(5e-5))
    assert faults_of(there, here) == []
    lines = table(there, here).splitlines()
    assert lines[4] == "| a.edge | onnxruntime 1.32.0 | fp32 | 256 | 2.0e-06 | 0.0001 | 5.0e-05 | 5.0e-05 |"
    assert lines[5] == "| a.edge | openvino | int8 | - | - | - | - | - |"
    assert lines[-2] == "a.edge, int8: no int8 here"
    assert lines[-1] == "damaged copies refused with exit code 6: a.edge 32 of 32"
    expected = "expected the answer of this machine within 0.0001, got a difference of 1.0e-02"
    assert faults_of(answers(0.75, refused=31), answers(0.76)) == [
        f"arm64: a.edge in ort, fp32: a window: {expected}",
        f"arm64: a.edge in ort, fp32: a stream: {expected}",
        "arm64: a.edge: expected 32 damaged copies refused, got 31",
    ]
    failed = EmulatedWay(bundle="a.edge", backend="ort", precision="fp16", refusal="self-test: too far", failed=True)
    there = msgspec.structs.replace(answers(0.75), ways=[failed])
    assert faults_of(there, answers(0.75)) == ["arm64: a.edge in ort, fp16: self-test: too far"]
    assert damaged_copies(example_bundle()) == (32, 32)


@pytest.mark.slow
@pytest.mark.network
def test_the_shipped_bundle_answers_on_arm64_as_here(tmp_path):
    if missing := missing_tools():
        pytest.skip(f"needs apt-get install {' '.join(missing)}")
    root = Path(os.environ.get("MMKD_ARM64_ROOT", tmp_path / "root"))
    done = subprocess.run([sys.executable, SCRIPT, "--root", root], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("aarch64, Python 3.")
    assert "damaged copies refused with exit code 6: watch_acc.edge 32 of 32" in done.stdout
