"""A student of normal data from the checkpoint to the device: every engine and precision, its C sources, its card."""

import shutil
import subprocess

import numpy as np
import pytest
import torch

from mmkd_app.commands.export import run_export
from mmkd_edge import EdgePredictor, ModalitySpec
from mmkd_edge.backends.base import is_installed, open_backend
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import GateError
from mmkd_edge.install.graphs import check_graph
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_export.graph.native_from_student import native_file
from mmkd_export.graph.onnx_from_student import exported_network, onnx_from_student
from mmkd_export.inspect.files import inspect_file
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan, read_report
from mmkd_export.verify.answers import answers_from_backend, with_missing_samples
from tests.edge.said import said
from tests.export.students import export_student, make_normal_student

MIC = ModalitySpec(name="mic", kind="audio", channels=("mono",), rate_hz=2000.0, samples=800)
NO_GRAPH = (
    "int8: a student of normal running has one product, with a vector, which INT8 makes no faster; --target native "
    "makes a .native that has it in int8 and is smaller"
)
RATE = (
    "unknown at a p-value of at most 0.05, a score above {limit:.4g}: 5.4% of the normal windows of a group that was "
    "left out; 25% of 24 groups have more than 10%; 240 windows, 1.5 h"
)


def with_faults(student):
    """The same student, whose head has learnt known faults."""
    student.state["head.weight"].copy_(torch.linspace(-0.1, 0.1, student.state["head.weight"].shape[1])[None])
    student.state["head.bias"].fill_(-0.3)
    return student


def scores_of(student, windows):
    """The residual in float64, at least a millionth, times the exponential of the head: (N,)."""
    network = student.network()
    with torch.no_grad():
        z = network(*(torch.from_numpy(part) for part in prepare_batch(windows, student.modality))).embedding.numpy()
    z, state = z.astype(np.float64), {name: value.double().numpy() for name, value in student.state.items()}
    inside = z @ state["residual.components"]
    apart = ((z**2).sum(1) - (inside**2).sum(1)) * state["residual.scale"]
    return np.maximum(apart, 1e-6) * np.exp(z @ state["head.weight"][0] + state["head.bias"])


@pytest.mark.parametrize("kind", ["series", "faults", "sound"])
def test_every_engine_computes_the_residual(kind, native_engine):
    student = make_normal_student(modality=MIC) if kind == "sound" else make_normal_student()
    student = with_faults(student) if kind == "faults" else student
    windows = student.carried.windows[:8]
    windows = np.concatenate([windows, with_missing_samples(windows, seed=0), 9 * windows])
    expected = scores_of(student, windows)
    graph = onnx_from_student(student)
    check_graph(graph)
    files = {name: graph for name in ("ort", "openvino") if is_installed(name)}
    if kind != "sound":
        files["native"] = native_file(exported_network(student), student.modality)
    for engine, file in files.items():
        answers = answers_from_backend(open_backend(engine, file, threads=1), windows, student.modality)
        np.testing.assert_allclose(answers.probabilities[:, 0], expected, rtol=2e-4, err_msg=engine)
        np.testing.assert_allclose(answers.logits[:, 0], np.log(expected), atol=2e-4, err_msg=engine)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, native_engine):
    options = {"targets": ("native", "c"), "precisions": ("fp16", "int8")}
    return export_student(tmp_path_factory.mktemp("normal"), make_normal_student(), name="s", **options).path


def test_a_bundle_promises_the_rate_that_was_measured(bundle):
    with Bundle.open(bundle) as opened:
        entry, card = opened.manifest.models[0], opened.read("README.md").decode()
        report = read_report(opened)
    assert [output.name for output in entry.outputs] == ["logits", "value"]
    forms = [f"{one.precision} {one.format}" for one in entry.artifacts]
    assert forms == ["fp32 onnx", "fp32 native", "fp16 onnx", "int8 native"]
    assert (entry.normal.groups, entry.normal.level) == (24, 0.05)
    assert "answers with a score, how far a window is from normal running." in card
    rate = RATE.format(limit=entry.normal.scores[-12])  # 11 larger ones: (1 + 11) / 241
    assert f"- U{rate[1:]}." in card
    assert dict(inspect_file(bundle))["acc.normal"] == rate
    sizes = {one.file: one.size_bytes for one in entry.artifacts}
    assert sizes["acc/model.fp32.native"] - sizes["acc/model.int8.native"] > 2 * 84 * 8  # a byte each instead of four
    assert [(one.precision, one.format, one.reason) for one in report.left_out] == [("int8", "onnx", NO_GRAPH)]


def test_without_known_faults_no_document_of_an_export_has_an_auroc(bundle, capsys):
    with Bundle.open(bundle) as opened:
        card, report = opened.read("README.md").decode(), read_report(opened)
    assert "- Fitted to normal running; no known fault in validation, so that it has no AUROC.\n" in card
    (row,) = (line for line in card.splitlines() if "fp32.onnx" in line)
    assert row.endswith("| no known faults |")
    assert report.student.score is None
    assert [one.figures for one in report.artifacts] == 4 * [{"auroc": None}]
    assert {one.gate.drop_points for one in report.artifacts if one.gate} == {None}
    for path, prefix in ((bundle, "acc."), (bundle.with_name("s.ckpt"), "")):
        facts = inspect_file(path)
        assert facts[f"{prefix}validation.auroc"] == "none: no known fault in validation"
        assert facts[f"{prefix}teacher"] == "none: fitted to normal running"
    with pytest.raises(SystemExit):
        run_export([str(bundle.with_name("s.ckpt")), "-o", str(bundle.with_name("again.edge"))])
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("fp32 onnx"))
    assert row.endswith("no known faults")


def test_without_the_native_engine_int8_is_refused(bundle):
    source, output = bundle.with_name("s.ckpt"), bundle.with_name("o.edge")
    plan = ExportPlan(source=source, output=output, targets=("onnx",), precisions=("int8",))
    assert said(GateError, export, plan) == NO_GRAPH


@pytest.mark.parametrize(("backend", "precision"), [("native", "fp32"), ("native", "int8"), ("ort", "fp16")])
def test_a_device_calls_a_window_normal_or_unknown(bundle, backend, precision, native_engine):
    with EdgePredictor.open(bundle, backend=backend, precision=precision) as predictor:
        windows = predictor.bundle.golden("acc").windows
        usual, strange = predictor.predict(windows[0]), predictor.predict(9 * windows[0])
        rates = [prediction.status == "unknown" for prediction in predictor.predict_batch(windows)]
        assert predictor.selftest().label_agreement == 1.0
    assert (usual.label, usual.index, usual.status, strange.label, strange.index) == ("normal", 0, "ok", "", -1)
    assert strange.reason == "unlike what training saw: p-value 0.0041, at most 0.05 is unknown"
    assert sum(rates) in (11, 12)  # (1 + 11) / 241 is the largest p-value of at most 0.05; one is at the limit itself


def test_c_sources_answer_the_golden_windows_and_name_the_limit(bundle):
    if shutil.which("make") is None or shutil.which("cc") is None:
        pytest.skip("no C compiler")
    folder = bundle.with_name("s-c")
    with Bundle.open(bundle) as opened:
        limit = opened.manifest.models[0].normal.scores[-12]  # 11 larger ones: (1 + 11) / 241
    stated = f"answers: STUDENT_OUTPUTS numbers: the score; above {limit:.6g} a window is unlike normal ones."
    assert stated in (folder / "student.h").read_text()
    result = subprocess.run(["make", "test", "CFLAGS=-O0"], cwd=folder, capture_output=True, text=True, check=True)
    assert "8 windows, largest error" in result.stdout
