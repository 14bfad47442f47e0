from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.errors import BackendError, GateError
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan
from mmkd_export.verify.answers import graph_feeds
from mmkd_export.verify.artifacts import ProvenArtifact, prove_fp32, prove_in
from mmkd_export.verify.gate import GateRule
from mmkd_models.training.checkpoint import StudentCheckpoint

pytest.importorskip("openvino", reason="needs pip install 'mmkd-edge[openvino]'")

from mmkd_edge.backends.openvino import OpenVinoBackend
from tests.export.students import make_proof_set

GATE = GateRule(metric="accuracy", max_drop_points=0.5)


def test_it_answers_as_onnxruntime_does(student_graph: bytes, student: StudentCheckpoint):
    ours, reference = OpenVinoBackend(student_graph), OrtBackend(student_graph)
    assert ours.inputs == reference.inputs
    assert ours.outputs == reference.outputs
    kept = []
    for window in graph_feeds(student.carried.windows, student.modality):
        logits, probabilities = ours.run(window)
        kept.append((logits, logits.copy()))
        expected = reference.run(window)
        # float32 in another order; in BF16, OpenVINO's own default, it would be 1e-2.
        np.testing.assert_allclose(logits, expected[0], atol=2e-6)
        np.testing.assert_allclose(probabilities, expected[1], atol=2e-6)
    assert all((answer == copy).all() for answer, copy in kept)  # answers belong to the caller


def test_a_closed_one_and_a_damaged_graph_give_errors(student_graph: bytes, student: StudentCheckpoint):
    backend = OpenVinoBackend(student_graph)
    backend.close()
    with pytest.raises(BackendError) as error:
        backend.run({})
    assert str(error.value) == "backend 'openvino' is closed; open it again"
    with pytest.raises(BackendError, match=r"^backend 'openvino' \(openvino .*\) cannot open the artifact: "):
        OpenVinoBackend(student_graph[:100])


def test_the_target_is_recorded_with_its_answers_and_latency(student_file: Path, tmp_path: Path):
    options = ["--target", "openvino", "--precision", "int8", "--accept-unjudged", "--platform", "cpu-x86", "--json"]
    command = [sys.executable, "-m", "mmkd_export", str(student_file), "-o", str(tmp_path / "s.edge"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    artifacts = json.loads(done.stdout)["report"]["artifacts"]
    graphs = [artifact for artifact in artifacts if artifact["format"] == "onnx"]
    assert len(graphs) == 2
    for artifact in graphs:
        assert [run["backend"] for run in artifact["backends"]] == ["ort", "openvino"]
        assert all(run["latency_us"] is not None and run["latency_us"] > 0 for run in artifact["backends"])
        assert artifact["backends"][1]["label_agreement"] == 1.0


def test_an_artifact_that_answers_otherwise_in_openvino_is_refused(student: StudentCheckpoint, student_graph: bytes):
    proof_set = make_proof_set(student)
    proven = prove_fp32(student_graph, proof_set)
    model = onnx.load_from_string(student_graph)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "student.head.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32([1, 0, 0, 0]), bias.name))

    other = OpenVinoBackend(model.SerializeToString())
    with pytest.raises(GateError, match=r"^fp32 graph in openvino .*: expected the checkpoint's answers within 0.0001"):
        prove_in(proven, other, proof_set, GATE)


def test_auto_leaves_out_what_fails_its_gate_in_openvino_alone(
    student_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def failing(proven: ProvenArtifact, *_: object) -> ProvenArtifact:
        """A processor on which OpenVINO's INT8 kernels answer otherwise."""
        if proven.artifact.precision == "int8":
            raise GateError("int8 graph in openvino 2026.4.1: labels agree on 50.0%; no bundle was written")
        return proven

    monkeypatch.setattr("mmkd_export.pipeline.prove_in", failing)
    plan = ExportPlan(
        source=student_file,
        output=tmp_path / "s.edge",
        targets=("openvino",),
        accept_unjudged=True,
        precisions=("auto",),
        platform="cpu-x86",
    )
    report = export(plan).report
    assert [artifact.precision for artifact in report.artifacts] == ["fp32"]
    (left_out,) = report.left_out
    assert left_out.precision == "int8"
    assert left_out.reason == "int8 graph in openvino 2026.4.1: labels agree on 50.0%"  # a bundle was written
    with pytest.raises(GateError, match=r"^int8 graph in openvino"):
        export(replace(plan, accept_unjudged=True, precisions=("int8",)))


def test_ctrl_c_after_the_gate_is_an_interrupt(student_file: Path, tmp_path: Path):
    # Where the processor has AMX, OpenVINO changes the thread's stack for signals: see the backend.
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from mmkd_edge.cli.run import run_command\n"
        "from mmkd_export.plan import ExportPlan\n"
        "from mmkd_export.pipeline import export\n"
        "def work(arguments):\n"
        "    source, output = map(Path, arguments)\n"
        "    export(ExportPlan(source=source, output=output, targets=('openvino',), precisions=('int8',),\n"
        "                      accept_unjudged=True, platform='cpu-x86'))\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "run_command('mmkd-export', work)\n"
    )
    command = [sys.executable, "-c", script, str(student_file), str(tmp_path / "s.edge")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "mmkd-export: interrupted\n")
