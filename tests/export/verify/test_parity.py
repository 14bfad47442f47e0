from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from mmkd_edge import EdgePredictor
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import Parity
from mmkd_edge.errors import GateError
from mmkd_edge.spec import TaskSpec
from mmkd_edge.testing import FakeBackend
from mmkd_export.verify.answers import (
    NetworkAnswers,
    answers_from_backend,
    answers_from_student,
    compare,
    fp32_tolerance,
    manifest_parity,
    require_parity,
    with_missing_samples,
)
from mmkd_export.verify.artifacts import prove_fp32
from tests.edge.said import said
from tests.export.students import export_student, make_proof_set, make_student, of_features

TASK = TaskSpec(labels=("ok", "worn"))


def _answers(logits):
    rows = np.array(logits, dtype=np.float32)
    exponents = np.exp(rows - rows.max(1, keepdims=True))
    return NetworkAnswers(logits=rows, probabilities=exponents / exponents.sum(1, keepdims=True))


def test_parity_is_the_largest_and_the_mean_difference_within_tolerance():
    parity = compare(_answers([[3.0, 4.0], [1.0, 0.0]]), _answers([[3.0, 4.5], [0.0, 1.0]]), task=TASK)
    assert parity.windows == 2
    assert parity.logits.max_abs_error == 1.0
    assert parity.logits.mean_abs_error == (0.0 + 0.5 + 1.0 + 1.0) / 4
    assert parity.label_agreement == 0.5
    parity = compare(_answers([[0.0, 0.0]]), _answers([[0.0, 0.0]]), task=TASK)
    assert (parity.max_abs_error, parity.label_agreement) == (0.0, 1.0)
    parity = compare(_answers([[3.0, 4.0]]), _answers([[3.0, 4.5]]), task=TASK)
    require_parity(parity, tolerance=0.5, what="fp32 graph")
    assert manifest_parity(parity, tolerance=0.5) == Parity(
        windows=1, max_abs_error=0.5, mean_abs_error=0.25, label_agreement=1.0, tolerance=0.5
    )
    parity = compare(_answers([[3.0, 4.0]]), _answers([[3.0, 2.5]]), task=TASK)
    assert said(GateError, require_parity, parity, tolerance=1e-4, what="fp32 graph") == (
        "fp32 graph: expected the checkpoint's answers within 0.0001 on 1 windows, got a difference of 1.5 "
        "(labels agree on 0.0%); no bundle was written. Please report it with the versions of torch and onnxruntime"
    )


@pytest.mark.parametrize(("rounding", "tolerance"), [(0.0, 1e-4), (2**-16, 1e-4), (2**-10, 2**-8)])
def test_a_graph_may_differ_by_four_times_what_float32_does(rounding, tolerance):
    exact, answers = _answers([[0.5, 0.0]]), _answers([[0.5 + rounding, 0.0]])
    assert fp32_tolerance(exact, answers, task=TASK, what="a.ckpt", is_transformer=False) == tolerance


FAR = (
    "expected answers in float32 within 0.0025 of those in float64, got a difference of 0.0312: levels are too far "
    "apart for what moves within a window; no bundle was written; "
)


@pytest.mark.parametrize(
    ("logit", "is_transformer", "message"),
    [
        (0.53125, False, f"{FAR}train with --members transformer, or import the signal without its level"),
        (0.53125, True, f"{FAR}import the signal without its level"),
        (np.nan, False, "expected finite answers of the checkpoint, got NaN or infinity; train it again"),
    ],
)
def test_a_student_that_float32_cannot_hold_is_refused(logit, is_transformer, message):
    exact, answers = _answers([[0.5, 0.0]]), _answers([[logit, 0.0]])
    options = {"task": TASK, "what": "a.ckpt", "is_transformer": is_transformer}
    assert said(GateError, fp32_tolerance, exact, answers, **options) == f"a.ckpt: {message}"


@pytest.mark.parametrize("tensor", ["logits", "probabilities"])
def test_an_answer_that_is_no_number_is_refused(tensor):
    expected = _answers([[3.0, 4.0]])
    parity = compare(expected, replace(expected, **{tensor: np.full((1, 2), np.nan, dtype=np.float32)}), task=TASK)
    with pytest.raises(GateError, match="got a difference of nan"):
        require_parity(parity, tolerance=1e6, what="fp32 graph")


def test_a_backend_is_asked_as_on_a_device(student):
    backend = FakeBackend([0.1, 0.7, 0.1, 0.1])
    answers = answers_from_backend(backend, student.carried.windows[:3], student.modality)
    np.testing.assert_array_equal(answers.probabilities, np.float32([[0.1, 0.7, 0.1, 0.1]] * 3))
    assert [feeds["acc"].shape for feeds in backend.feeds] == [(1, 64, 3)] * 3
    gap = np.isnan(student.carried.windows[1])
    assert gap.any()  # a missing sample goes in as a zero that is not there
    assert (backend.feeds[1]["acc"][0][gap] == 0).all()
    assert (backend.feeds[1]["acc_present"][0] == ~gap).all()


def test_the_graph_of_a_student_passes(student, student_graph):
    proven = prove_fp32(student_graph, make_proof_set(student))
    assert proven.artifact.file == "acc/model.fp32.onnx"
    assert proven.artifact.parity.windows == 12
    assert proven.artifact.parity.max_abs_error < 1e-5
    assert proven.report.parity_with_gaps.max_abs_error < 1e-5
    assert proven.report.parity_with_gaps.logits.max_abs_error > 0  # other windows, so other rounding
    assert proven.report.scores is not None


def test_doubled_head_weights_are_caught(student, student_graph):
    model = onnx.load_from_string(student_graph)
    head = next(tensor for tensor in model.graph.initializer if tensor.name == "student.head.weight")
    head.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(head), head.name))
    proof_set = make_proof_set(student)
    refusal = said(GateError, prove_fp32, model.SerializeToString(), proof_set)
    bias = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "student.head.bias"))
    # Doubled weights add W e once more to W e + b, so the difference is the logits without their bias.
    difference = np.abs(proof_set.answers.logits - bias).max()
    assert f"got a difference of {difference:.3g} " in refusal


def test_a_graph_that_is_only_wrong_on_gaps_is_caught(student, student_graph):
    whole = student.carried.windows.copy()
    whole[np.isnan(whole)] = 0
    complete = replace(student, carried=replace(student.carried, windows=whole))
    model = onnx.load_from_string(student_graph)
    # Presence is ignored: every use of the input becomes a constant one.
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 64, 3), dtype=np.float32), "always"))
    for node in model.graph.node:
        node.input[:] = ["always" if name == "acc_present" else name for name in node.input]
    with pytest.raises(GateError, match="fp32 graph, windows with gaps: expected the checkpoint's answers within"):
        prove_fp32(model.SerializeToString(), make_proof_set(complete))


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 9), samples=st.integers(1, 20), channels=st.integers(1, 3), seed=st.integers(0, 9))
def test_gaps_only_remove_samples(count, samples, channels, seed):
    windows = np.ones((count, samples, channels), dtype=np.float32)
    gaps = with_missing_samples(windows, seed=seed)
    assert np.isnan(gaps[0]).all()
    assert np.isnan(gaps).any(axis=(1, 2)).all()
    assert (gaps[~np.isnan(gaps)] == 1).all()
    assert not np.isnan(windows).any()


def slow_student(*, levels):
    """Convolutional features of windows whose levels differ by so many times their movement, and sure answers."""
    start = make_student()
    windows = start.carried.windows
    shifts = np.random.default_rng(0).normal(0, levels, (len(windows), 1, 1))
    carried = replace(start.carried, windows=(windows + shifts).astype(np.float32))
    found = of_features(replace(start, carried=carried), "convolutions")
    return replace(found, state={**found.state, "head.weight": 8 * found.state["head.weight"]})


def test_a_graph_may_differ_by_what_float32_alone_does(tmp_path):
    student = slow_student(levels=300.0)
    answers, exact = (answers_from_student(student, student.carried.windows, exact=exact) for exact in (False, True))
    rounding = float(np.abs(answers.logits.astype(np.float64) - exact.logits).max())
    assert rounding > 1e-4  # no graph could be held to the usual tolerance
    bundle = export_student(tmp_path, student).path
    with Bundle.open(bundle) as opened:
        golden, (entry,) = opened.golden("acc"), opened.manifest.models
    assert golden.tolerance == entry.artifacts[0].parity.tolerance == pytest.approx(4 * rounding)
    with EdgePredictor.open(bundle) as predictor:
        result = predictor.selftest()
    assert (result.tolerance, result.label_agreement) == (golden.tolerance, 1.0)
