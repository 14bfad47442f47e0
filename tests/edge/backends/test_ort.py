from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmkd_edge import BackendError, UnavailableError, UsageError
from mmkd_edge.backends.base import SessionOptions, check_backend, open_backend
from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.bundle.manifest import graph_inputs


def test_answers_are_those_of_the_graph(kit: Any) -> None:
    backend = OrtBackend(kit.model(kit.modality))
    given = kit.feeds()
    logits, probabilities = backend.run(given)
    expected_logits, expected_shares = kit.answer(given["acc"][0])
    # float32 sums of 20 numbers near 1 against float64: some 2**-24 each.
    np.testing.assert_allclose(logits[0], expected_logits, atol=2e-6)
    np.testing.assert_allclose(probabilities[0], expected_shares, atol=2e-6)


def test_answers_belong_to_the_caller(kit: Any) -> None:
    backend = OrtBackend(kit.model(kit.modality))
    _, first = backend.run(kit.feeds())
    kept = first.copy()
    _, second = backend.run(kit.feeds(seed=1))
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)
    first[:] = 7
    assert not (second == 7).any()
    np.testing.assert_array_equal(backend.run(kit.feeds())[1], kept)


def test_the_graph_is_described_as_the_engine_sees_it(kit: Any) -> None:
    backend = OrtBackend(kit.model(kit.modality), threads=2)
    assert backend.inputs == graph_inputs(kit.modality)
    assert [spec.name for spec in backend.outputs] == ["logits", "probabilities"]
    assert backend.name == "ort"
    assert backend.threads == 2
    assert repr(backend) == f"OrtBackend({backend.version}, threads=2)"


def test_the_session_has_the_threads_asked_for_and_does_not_spin(kit: Any) -> None:
    options = OrtBackend(kit.model(kit.modality), threads=2)._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.load_model_format") == "ONNX"


@pytest.mark.parametrize("model", [b"", b"not a model", b"ORTM" + b"\0" * 100, bytes(range(256)) * 4])
def test_what_is_not_a_model_is_one_backend_error(model: bytes) -> None:
    with pytest.raises(BackendError) as caught:
        OrtBackend(model)
    assert str(caught.value).startswith("backend 'ort' (onnxruntime ")
    assert "cannot open the artifact: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_models_are_refused_with_no_other_error(kit: Any) -> None:
    model = kit.model(kit.modality)
    refused = 0
    for kept in range(1, len(model), 37):
        try:
            OrtBackend(model[:kept])
        except BackendError:
            refused += 1
    # A cut between two fields can leave a valid, smaller model; that no bundle carries one is the hash's work.
    assert refused >= len(model) // 37 - 2


def test_a_tensor_of_another_type_is_named(kit: Any) -> None:
    value = helper.make_tensor_value_info("acc", TensorProto.DOUBLE, [1, 2])
    node = helper.make_node("Identity", ["acc"], ["logits"])
    out = helper.make_tensor_value_info("logits", TensorProto.DOUBLE, [1, 2])
    model = helper.make_model(
        helper.make_graph([node], "g", [value], [out]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    with pytest.raises(BackendError) as caught:
        OrtBackend(model.SerializeToString())
    assert str(caught.value).endswith(
        "cannot open the artifact: tensor 'acc' has the type tensor(double), expected tensor(float)"
    )


def test_weights_outside_the_verified_bytes_are_never_read(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load_from_string(kit.model(kit.modality))
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "weights")
    onnx.external_data_helper.set_external_data(weights, "weights.bin")
    onnx.save(model, tmp_path / "model.onnx")
    data = (tmp_path / "model.onnx").read_bytes()
    monkeypatch.chdir(tmp_path)
    # What happens without care: onnxruntime reads the file from the working directory.
    onnxruntime.InferenceSession(data)
    with pytest.raises(BackendError) as caught:
        OrtBackend(data)
    assert "/dev/null/weights.bin" in str(caught.value)


def test_a_model_that_fails_writes_nothing_on_stdout(
    kit: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("no memory")  # as pybind11 hands on what C++ throws: onnxruntime then tries once more

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fail)
    with pytest.raises(BackendError):
        OrtBackend(kit.model(kit.modality))
    assert capfd.readouterr() == ("", "")


def test_the_arithmetic_of_the_calling_thread_is_left_alone(kit: Any) -> None:
    backend = OrtBackend(kit.model(kit.modality))
    backend.run(kit.feeds())
    tiny = np.array([1e-40], dtype=np.float32)  # below the smallest normal number
    assert (tiny * np.float32(0.5))[0] > 0


def test_a_failing_run_is_a_backend_error_and_the_next_one_is_right(kit: Any) -> None:
    backend = OrtBackend(kit.model(kit.modality))
    good = kit.feeds()
    before = backend.run(good)[1]
    for bad in (
        {},
        {"acc": good["acc"]},
        {**good, "acc": good["acc"][:, :5]},
        {**good, "acc": good["acc"].astype(np.float64)},
        {**good, "vib": good["acc"]},
        {**good, "acc": None},
    ):
        with pytest.raises(BackendError) as caught:
            backend.run(bad)
        assert str(caught.value).startswith(f"backend 'ort' ({backend.version}) failed to run: ")
        np.testing.assert_array_equal(backend.run(good)[1], before)


def test_a_closed_backend_says_so(kit: Any) -> None:
    backend = OrtBackend(kit.model(kit.modality))
    backend.close()
    backend.close()
    with pytest.raises(BackendError) as caught:
        backend.run(kit.feeds())
    assert str(caught.value) == "backend 'ort' is closed; open it again"


def test_nothing_is_printed_whatever_the_model(kit: Any, tmp_path: Path) -> None:
    graph = onnx.load_from_string(kit.model(kit.modality))
    # An initialiser that nothing uses makes ONNX Runtime write a warning at its default level.
    graph.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "unused"))
    (tmp_path / "good.onnx").write_bytes(graph.SerializeToString())
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    script = (
        "import sys; from mmkd_edge.backends.ort import OrtBackend; from mmkd_edge import BackendError\n"
        "for name in sys.argv[1:]:\n"
        "    try: OrtBackend(open(name, 'rb').read())\n"
        "    except BackendError: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "good.onnx", tmp_path / "bad.onnx"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_without_onnxruntime_the_extra_is_named() -> None:
    script = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from mmkd_edge import UnavailableError\n"
        "from mmkd_edge.backends.ort import OrtBackend\n"
        "try: OrtBackend(b'')\n"
        "except UnavailableError as error: print(error.exit_code, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "3 backend 'ort' needs onnxruntime, which is not installed; install it with pip install 'mmkd-edge[ort]'\n"
    )
    assert issubclass(UnavailableError, Exception)


WATCH_THE_IMPORT = """
import os, sys

def watch(event, arguments):
    if event == "import" and arguments[0] == "onnxruntime":
        print(os.environ.get("ORT_DISABLE_TELEMETRY"))

sys.addaudithook(watch)
from mmkd_edge.backends.ort import import_onnxruntime
import_onnxruntime()
"""


@pytest.mark.parametrize(("users", "expected"), [(None, "1"), ("0", "0")], ids=["by itself", "as the user says"])
def test_onnxruntime_is_told_to_report_nothing_before_its_import(users: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {} if users is None else {"ORT_DISABLE_TELEMETRY": users}
    command = [sys.executable, "-c", WATCH_THE_IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == f"{expected}\n"


PREDICT_AND_WATCH = """
import os, sys, time
import numpy
from mmkd_edge import EdgePredictor, example_bundle

def sockets():
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:"):
            yield target

with EdgePredictor.open(example_bundle(), backend="ort") as predictor:
    window = numpy.zeros(predictor.modality.shape, numpy.float32)
    before, found, end = set(sockets()), set(), time.monotonic() + 14
    while time.monotonic() < end:
        predictor.predict(window)
        found |= set(sockets()) - before
        time.sleep(0.005)
print(len(found))
"""


@pytest.mark.slow
def test_predictions_open_no_socket_and_leave_no_file(tmp_path: Path) -> None:
    # The first report of onnxruntime 1.32 comes 9 s after its import; a look-up of a name waits for seconds.
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", PREDICT_AND_WATCH]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "0\n"
    assert [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name] == []


def test_unknown_backends_are_named_with_those_there_are(kit: Any) -> None:
    assert check_backend("ort") == "ort"
    with pytest.raises(UsageError) as caught:
        check_backend("cuda")
    assert str(caught.value) == (
        "backend 'cuda' is unknown; expected 'auto', 'native', 'ort', 'openvino', 'litert' or 'trt'"
    )
    assert open_backend("ort", kit.model(kit.modality), threads=1).name == "ort"
    with pytest.raises(UsageError) as caught:
        open_backend("ort", kit.model(kit.modality), threads=1, bf16=True)
    assert str(caught.value) == "backend 'ort' does not compute in 'bf16'; only 'openvino' does"


def test_options_reach_the_session(kit: Any) -> None:
    told = SessionOptions(graph="basic", owns_cores=True)
    backend = open_backend("ort", kit.model(kit.modality), threads=2, options=told)
    options = backend.session.get_session_options()  # type: ignore[attr-defined]
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"
