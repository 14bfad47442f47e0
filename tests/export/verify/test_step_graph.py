"""The step graph of a causal student: in the bundle, against one pass of the network, and behind a stream."""

import hashlib
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from mmkd_edge import Bundle, EdgePredictor
from mmkd_edge.backends.base import Steps
from mmkd_edge.backends.litert import LitertBackend
from mmkd_edge.bundle.bundle import write_bundle
from mmkd_edge.bundle.manifest import member_files, step_inputs, step_outputs
from mmkd_edge.errors import BackendError, GateError, UsageError
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_edge.spec import ModalitySpec
from mmkd_export.targets.litert import missing_libraries
from mmkd_export.verify.step_graph import prove_step
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from mmkd_models.networks.step import causal_encoder
from mmkd_models.training.references import embeddings_summary
from tests.export.students import card_of, export_student, make_proof_set, make_student
from tests.models.networks.stepping import answers_along

ACC = ModalitySpec(name="acc", channels=("x", "y"), unit="g", rate_hz=50.0, samples=38, range=(-8.0, 8.0))
ENCODER = EncoderConfig(width=16, heads=2, depth=1, spectrum_bands=4, most_tokens=10)
CONFIG = StudentConfig(preset="toy", encoder=ENCODER, causal=True)
STRIDE, LENGTH = 4, 10
# float32 sums in another order; measured below 1e-6.
TOLERANCE = 1e-5


def recording(samples, *, seed=0, gap=None):
    rows = np.random.default_rng(seed).normal(size=(samples, 2)).astype(np.float32)
    rows += np.sin(np.arange(samples) / 30, dtype=np.float32)[:, None]
    rows[5:7, 0] = np.nan
    if gap is not None:
        rows[gap] = np.nan
    return rows


def one_pass(checkpoint, rows, *, modality=ACC, stride=STRIDE):
    """Probabilities (N, K) at the ends of blocks that are aligned as a stream's: a window's end is a block's."""
    lead = np.full((-modality.samples % stride, rows.shape[1]), np.nan, dtype=np.float32)
    whole = np.concatenate([lead, rows])
    values, present = prepare_batch(whole[None, : len(whole) // stride * stride], modality)
    logits = answers_along(checkpoint.network(), torch.from_numpy(values), torch.from_numpy(present))
    return torch.softmax(logits[0], dim=-1).numpy()


def shares_of(predictions):
    return np.stack([p.probabilities for p in predictions if p.status != "warming_up"])


def said(predictions):
    return [(p.status, p.reason, p.index, p.missing_fraction, p.probabilities.tobytes()) for p in predictions]


@pytest.fixture(scope="module")
def checkpoint():
    return make_student(modality=ACC, config=CONFIG)


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    return export_student(tmp_path_factory.mktemp("causal"), checkpoint)


def test_steps_are_held_to_the_students_tolerance_and_reported(checkpoint, tmp_path, monkeypatch, exported):
    monkeypatch.setattr("mmkd_export.student.fp32_tolerance", lambda *given, **named: 0.003)
    with Bundle.open(export_student(tmp_path, checkpoint).path) as bundle:
        (entry,) = bundle.manifest.models
        assert bundle.golden("acc").tolerance == 0.003
    assert [step.parity.tolerance for step in entry.streaming.artifacts] == [0.003]
    assert entry.artifacts[0].parity.tolerance == 0.003
    (step,) = exported.report.steps
    assert step.stride == STRIDE
    assert step.steps > 200
    assert step.parity.max_abs_error < TOLERANCE
    assert step.parity_of_windows.max_abs_error < TOLERANCE
    assert step.parity.label_agreement == 1.0
    card = card_of(exported.path)
    assert f"The student is causal. `acc/step.fp32.onnx` ({step.size_bytes / 1000:.0f} kB) takes 4 samples" in card


@pytest.fixture(scope="module")
def predictor(exported):
    with EdgePredictor.open(exported.path, backend="ort") as opened:
        yield opened


# In the bundle.


def test_the_manifest_says_what_a_step_takes_and_keeps(exported):
    streaming = exported.manifest.models[0].streaming
    assert (streaming.stride, streaming.memory) == (STRIDE, STRIDE * (3 * (LENGTH - 1) + 1 + 3))
    shapes = {state.name: state.shape for state in streaming.states}
    assert streaming.slots == LENGTH
    assert shapes["keys_0"] == (1, 2, LENGTH, 8)
    assert shapes["tokens"] == (1, LENGTH, 16)
    axes = {"history": None, "series": None, "keys_0": 2, "values_0": 2}
    assert {state.name: state.axis for state in streaming.states if state.axis != 1} == axes
    assert {state.initial for state in streaming.states} == {0.0}
    with Bundle.open(exported.path) as bundle:
        model = onnx.load_from_string(bundle.read("acc/step.fp32.onnx"))
    inputs = [spec.name for spec in step_inputs(ACC, streaming)]
    assert inputs[:4] == ["acc", "acc_present", "slot", "history"]
    assert [value.name for value in model.graph.input] == inputs
    specs = step_outputs(exported.manifest.models[0].task, streaming)
    assert {spec.name: spec.shape for spec in specs}["next_keys_0"] == (1, 2, 1, 8)
    outputs = [spec.name for spec in specs]
    assert outputs[:3] == ["logits", "probabilities", "next_history"]
    assert [value.name for value in model.graph.output] == outputs


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_every_engine_steps_as_one_pass_of_the_network(backend, checkpoint, exported):
    rows = recording(400, gap=slice(120, 140))
    with EdgePredictor.open(exported.path, backend=backend) as opened:
        found = shares_of(opened.stream(hop=STRIDE).push(rows))
    np.testing.assert_allclose(found, one_pass(checkpoint, rows)[LENGTH - 1 :], atol=TOLERANCE)
    assert len(found) == (400 - 38) // 4 + 1


@pytest.fixture(scope="module")
def knowing(checkpoint, tmp_path_factory):
    """The bundle of a causal student that knows what training saw."""
    windows = np.stack([recording(38, seed=seed) for seed in range(120)])
    values, present = map(torch.from_numpy, prepare_batch(windows, ACC))
    with torch.no_grad():
        embeddings = checkpoint.network()(values, present).embedding.numpy()
    knowing = replace(checkpoint, embeddings=embeddings_summary(embeddings[:70], embeddings[70:]))
    return export_student(tmp_path_factory.mktemp("knowing"), knowing).path


def with_steps(path, output, data):
    """The bundle with another step graph, hashes and all."""
    with Bundle.open(path) as bundle:
        manifest, members = bundle.manifest, {e.file: bundle.read(e.file) for e in member_files(bundle.manifest)}
    entry = manifest.models[0]
    digest = hashlib.sha256(data).hexdigest()
    artifact = msgspec.structs.replace(entry.streaming.artifacts[0], sha256=digest, size_bytes=len(data))
    entry = msgspec.structs.replace(entry, streaming=msgspec.structs.replace(entry.streaming, artifacts=(artifact,)))
    changed = msgspec.structs.replace(manifest, models=(entry,))
    write_bundle(output, manifest=changed, members=members | {artifact.file: data})
    return output


@pytest.mark.slow
def test_steps_of_another_novelty_fail_the_self_test(knowing, tmp_path):
    with Bundle.open(knowing) as bundle:
        graph = onnx.load_from_string(bundle.read("acc/step.fp32.onnx"))
    bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "novelty.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.5), bias.name))
    other = with_steps(knowing, tmp_path / "other.edge", graph.SerializeToString(deterministic=True))
    with EdgePredictor.open(other, backend="ort", selftest=False) as opened, pytest.raises(GateError) as caught:
        opened.selftest()
    said_so = f"{other}: self-test: golden window 0, step by step: expected the stored novelty within 0.1%, "
    assert str(caught.value).startswith(said_so)


def test_steps_that_answer_otherwise_fail_the_self_test_and_the_gate(exported, checkpoint, tmp_path):
    with Bundle.open(exported.path) as bundle:
        graph = onnx.load_from_string(bundle.read("acc/step.fp32.onnx"))
    bias = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("head.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.01234), bias.name))
    model = graph.SerializeToString(deterministic=True)
    path = with_steps(exported.path, tmp_path / "changed.edge", model)
    with EdgePredictor.open(path, backend="ort", selftest=False) as opened, pytest.raises(GateError) as caught:
        opened.selftest()
    assert str(caught.value).startswith(
        f"{path}: self-test: golden window 0, step by step: expected the stored answer within 0.0001, got a "
        "difference of 0.0123"
    )
    with pytest.raises(GateError) as gate:
        prove_step(model, checkpoint, make_proof_set(checkpoint), file_format="onnx", mflops=1.0)
    assert str(gate.value).startswith(
        "fp32 step graph, along a recording: expected the checkpoint's answers within 0.0001 on "
    )


# Behind a stream.


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 99),
    gap=st.tuples(st.integers(0, 250), st.integers(0, 80)),
    hop=st.integers(1, 5),
    cuts=st.lists(st.integers(0, 300), max_size=30),
)
def test_any_split_into_pushes_gives_the_same_predictions(predictor, seed, gap, hop, cuts):
    rows = recording(300, seed=seed, gap=slice(gap[0], sum(gap)))
    whole = predictor.stream(hop=hop * STRIDE).push(rows)
    stream, ends = predictor.stream(hop=hop * STRIDE), [0, *sorted(cuts), 300]
    parts = [p for start, stop in itertools.pairwise(ends) for p in stream.push(rows[start:stop])]
    assert said(parts) == said(whole)


def test_the_first_full_window_is_answered_as_predict_does_by_whole_steps(predictor):
    rows = recording(200)
    found = shares_of(predictor.stream(hop=STRIDE).push(rows))
    np.testing.assert_allclose(found[0], predictor.predict(rows[:38]).probabilities, atol=TOLERANCE)
    assert np.abs(found[-1] - predictor.predict(rows[-38:]).probabilities).max() > 1e-4
    with pytest.raises(UsageError) as caught:
        predictor.stream(hop=6)
    assert str(caught.value) == "hop: expected a multiple of 4, the samples of one step of this causal student, got 6"


def streams_in_turn(predictor, recordings):
    """Assert that two streams are answered in turn as each alone is, and return those answers."""
    alone = [said(predictor.stream(hop=STRIDE).push(rows)) for rows in recordings]
    streams, turns = [predictor.stream(hop=STRIDE) for _ in recordings], [[] for _ in recordings]
    for start in range(0, 120, 3):
        for stream, rows, found in zip(streams, recordings, turns, strict=True):
            found += stream.push(rows[start : start + 3])
    assert [said(found) for found in turns] == alone
    return alone


def test_streams_of_one_predictor_keep_states_of_their_own(predictor):
    streams_in_turn(predictor, [recording(120, seed=seed) for seed in (1, 2)])


def test_gaps_in_time_are_missing_and_a_restart_begins_anew(predictor):
    rows, times = recording(120), np.arange(120) / 50
    kept = np.delete(np.arange(120), slice(60, 70))
    lost = rows.copy()
    lost[60:70] = np.nan
    timed = predictor.stream(hop=STRIDE).push(rows[kept], times[kept])
    assert said(timed) == said(predictor.stream(hop=STRIDE).push(lost))
    stream = predictor.stream(hop=STRIDE)
    stream.push(recording(100, seed=3), np.arange(100) / 50)
    assert said(stream.push(rows, 1000 + times))[-15:] == said(predictor.stream(hop=STRIDE).push(rows, times))[-15:]
    stream.reset()
    assert said(stream.push(rows, times)) == said(predictor.stream(hop=STRIDE).push(rows, times))


def test_flush_answers_for_the_newest_whole_block_once(predictor):
    rows = recording(47)
    stream = predictor.stream(hop=8 * STRIDE)
    pushed = stream.push(rows)  # due at 38; blocks end at 42 and 46
    flushed = stream.flush()
    assert len(flushed) == 1
    assert stream.flush() == []
    np.testing.assert_array_equal(flushed[0].probabilities, predictor.stream(hop=STRIDE).push(rows)[-1].probabilities)
    assert [p.status for p in pushed] == ["warming_up", "degraded"]  # 2 of 76 values are missing


def test_steps_that_fail_leave_whole_windows_and_come_back(predictor, monkeypatch):
    rows = recording(120)
    stream = predictor.stream(hop=STRIDE)
    stream.push(rows[:78])
    failures = predictor.health().backend_failures

    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Steps, "push", broken)
    (during,) = stream.push(rows[78:82])
    monkeypatch.undo()
    np.testing.assert_allclose(during.probabilities, predictor.predict(rows[44:82]).probabilities, atol=TOLERANCE)
    assert predictor.health().backend_failures > failures
    # Made again from the last window, it goes on as a stream that began with that window.
    after = stream.push(rows[82:])
    begun = shares_of(predictor.stream(hop=STRIDE).push(rows[48:]))
    np.testing.assert_allclose(shares_of(after), begun, atol=TOLERANCE)


def test_a_bundle_that_takes_over_goes_on_from_the_last_window(exported, tmp_path):
    rows = recording(120)
    with EdgePredictor.open(exported.path, backend="ort") as opened:
        stream = opened.stream(hop=STRIDE)
        stream.push(rows[:78])
        opened.swap(exported.path)
        found = stream.push(rows[78:])
        begun = shares_of(opened.stream(hop=STRIDE).push(rows[44:]))
    np.testing.assert_allclose(shares_of(found), begun, atol=TOLERANCE)


@pytest.mark.slow
def test_the_native_engine_steps_by_a_file_of_its_own(checkpoint, tmp_path):
    exported, rows = export_student(tmp_path, checkpoint, targets=("native",)), recording(400, gap=slice(120, 140))
    assert [step.file for step in exported.report.steps] == ["acc/step.fp32.onnx", "acc/step.fp32.native"]
    with EdgePredictor.open(exported.path, backend="native") as opened:
        assert opened.info().step_artifact == "acc/step.fp32.native"
        found = shares_of(opened.stream(hop=STRIDE).push(rows))
    np.testing.assert_allclose(found, one_pass(checkpoint, rows)[LENGTH - 1 :], atol=TOLERANCE)


# In LiteRT.


@pytest.fixture(scope="module")
def with_litert(checkpoint, tmp_path_factory):
    if missing_libraries():
        pytest.skip("needs pip install 'mmkd-edge[litert-export]'")
    return export_student(tmp_path_factory.mktemp("litert"), checkpoint, targets=("litert",))


@pytest.fixture(scope="module")
def in_litert(with_litert):
    with EdgePredictor.open(with_litert.path, backend="litert") as opened:
        yield opened


def test_litert_steps_as_one_pass_of_the_network(checkpoint, with_litert, in_litert):
    rows = recording(400, gap=slice(120, 140))
    found = shares_of(in_litert.stream(hop=STRIDE).push(rows))
    np.testing.assert_allclose(found, one_pass(checkpoint, rows)[LENGTH - 1 :], atol=TOLERANCE)
    assert in_litert.info().step_artifact == "acc/step.fp32.tflite"
    assert in_litert.selftest().max_abs_error < TOLERANCE
    assert [step.file for step in with_litert.report.steps] == ["acc/step.fp32.onnx", "acc/step.fp32.tflite"]
    assert all(step.parity.max_abs_error < TOLERANCE and step.steps > 200 for step in with_litert.report.steps)


def test_streams_in_litert_keep_states_of_their_own(in_litert):
    recordings = [recording(120, seed=seed) for seed in (1, 2)]
    alone = streams_in_turn(in_litert, recordings)  # one interpreter, which holds now this state and now that
    with ThreadPoolExecutor(4) as pool:  # several interpreters, none of which belongs to a stream
        many = [pool.submit(in_litert.stream(hop=STRIDE).push, recordings[number % 2]) for number in range(12)]
        assert [said(one.result()) for one in many] == alone * 6


def test_a_closed_litert_takes_no_step(with_litert):
    streaming = with_litert.manifest.models[0].streaming
    with Bundle.open(with_litert.path) as bundle:
        backend = LitertBackend(bundle.read("acc/step.fp32.tflite"))
    steps = Steps(backend, streaming)
    block = np.zeros((1, STRIDE, 2), np.float32)
    steps.push(block, block)
    backend.close()
    for call in (lambda: steps.push(block, block), lambda: Steps(backend, streaming)):
        with pytest.raises(BackendError, match=r"^backend 'litert' is closed; open it again$"):
            call()


MIC = ModalitySpec(name="mic", kind="audio", channels=("mono",), rate_hz=1000.0, samples=500)
MIC_CONFIG = StudentConfig(
    preset="toy", encoder=EncoderConfig(width=16, heads=2, depth=1, most_tokens=8, dropout=0.0), causal=True
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    student = make_student(modality=MIC, config=MIC_CONFIG, windows=12)
    return student, export_student(tmp_path_factory.mktemp("causal"), student, targets=("onnx",))


@pytest.mark.slow
def test_the_bundle_says_how_sound_is_followed(made):
    result = made[1]
    streaming = result.manifest.models[0].streaming
    assert streaming.stride == 4 * 16  # two halvings of frames of 16 ms
    assert {state.name: state.shape for state in streaming.states}["waveform"] == (1, 16, 2)
    assert result.report.steps[0].parity.label_agreement == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_answers_do_not_depend_on_how_a_recording_is_cut_into_pushes(made, seed):
    student, result = made
    rng = np.random.default_rng(seed)
    recording = (0.3 * rng.normal(size=(3000, 1))).astype(np.float32)
    recording[900:1300] = np.nan
    cuts = [0, *sorted(rng.choice(np.arange(1, 3000), size=40, replace=False).tolist()), 3000]
    stride = causal_encoder(student.network()).stride
    with EdgePredictor.open(result.path, backend="ort", threads=1) as predictor:
        assert predictor.info().step_artifact == "mic/step.fp32.onnx"
        whole = predictor.stream(hop=stride).push(recording)
        stream = predictor.stream(hop=stride)
        found = [one for begin, end in pairwise(cuts) for one in stream.push(recording[begin:end])]
    assert [one.status for one in found] == [one.status for one in whole]
    answered = [number for number, one in enumerate(found) if one.index >= 0]
    assert len(answered) > 30
    for number in answered:
        np.testing.assert_array_equal(found[number].probabilities, whole[number].probabilities)
    # What a stream answered is what one pass of the network over the whole recording answers.
    expected = one_pass(student, recording, modality=MIC, stride=stride)
    for number in answered:
        np.testing.assert_allclose(found[number].probabilities, expected[number], atol=1e-4)  # as a step graph's gate
