"""What every backend does alike: answers, descriptions, and errors in one form."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from mmkd_edge import BackendError, Bundle, UnavailableError, UsageError
from mmkd_edge.backends.base import AUTO_ORDER, BACKENDS, BackendName, backend_for, check_backend, open_backend
from mmkd_edge.bundle.manifest import graph_inputs, graph_outputs
from mmkd_edge.spec import TaskSpec
from tests.edge.said import said

PRESENT = ("openvino",)
FILE = Path(__file__).parents[2] / "files" / "litert" / "transformer.edge"
ONNX = pytest.mark.parametrize("opener", ["ort", "openvino", "trt"], indirect=True)


class Opener(NamedTuple):
    """One backend: its name, how its errors begin, and its `repr`."""

    open: Callable[[bytes], Any]
    name: str
    title: str
    repr: str


@pytest.fixture(params=["ort", "openvino", "trt", "litert"])
def opener(request, monkeypatch, tmp_path):
    if request.param == "trt":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        request.getfixturevalue("gpu_double").install(monkeypatch, tmp_path)
        from mmkd_edge.backends.trt.backend import TrtBackend

        version = "tensorrt 10.3.0 on Double"
        return Opener(TrtBackend, "trt", f"backend 'trt' ({version})", f"TrtBackend({version}, CUDA graph)")
    library, distribution, backend = {
        "litert": ("ai_edge_litert", "ai-edge-litert", "LitertBackend"),
        "ort": ("onnxruntime", "onnxruntime", "OrtBackend"),
        "openvino": ("openvino", "openvino", "OpenVinoBackend"),
    }[request.param]
    pytest.importorskip(library, reason=f"needs pip install 'mmkd-edge[{request.param}]'")
    version = f"{distribution} {distribution_version(distribution)}"
    opens = getattr(importlib.import_module(f"mmkd_edge.backends.{request.param}"), backend)
    return Opener(opens, request.param, f"backend {request.param!r} ({version})", f"{backend}({version}, threads=1)")


@pytest.fixture
def kit(kit, opener):
    """What the backend runs: a `.tflite` is that of a shipped student, which onnxruntime answers for."""
    if opener.name != "litert":
        return kit
    with Bundle.open(FILE) as bundle:
        modality, tflite = bundle.manifest.models[0].modality, bundle.read("acc/model.fp32.tflite")
        reference = open_backend("ort", bundle.read("acc/model.fp32.onnx"), threads=1)

    def answer(window):
        answers = reference.run({"acc": window[None], "acc_present": np.ones((1, *modality.shape), np.float32)})
        return [one[0] for one in answers]

    return replace(kit, modality=modality, model=lambda _: tflite, answer=answer)


@pytest.fixture
def backend(opener, kit):
    opened = opener.open(kit.model(kit.modality))
    yield opened
    opened.close()


def test_answers_are_those_of_the_graph_as_the_engine_reports_it_and_of_each_thread(kit, backend, opener):
    kit.check_answers(backend, atol=2e-5 if opener.name == "litert" else 2e-6)
    assert backend.inputs == graph_inputs(kit.modality)
    assert backend.outputs == graph_outputs(TaskSpec(labels=tuple("abcd" if opener.name == "litert" else "abc")))
    assert (backend.name, backend.threads, repr(backend)) == (opener.name, 1, opener.repr)
    # OpenVINO's own shared call gives most threads the answer of another one.
    kit.check_threads(backend, 8)


def test_a_failing_run_is_a_backend_error_the_next_one_is_right_and_a_closed_backend_says_so(kit, opener, backend):
    good = kit.feeds()
    before = backend.run(good)[1]
    wrong = "input 'acc': expected float32 (1, 20, 3), got "  # onnxruntime and LiteRT say it in their own words
    for bad, reason in (
        ({}, "expected the inputs acc, acc_present, got nothing"),
        ({"acc": good["acc"]}, "expected the inputs acc, acc_present, got acc"),
        ({**good, "acc": good["acc"][:, :5]}, f"{wrong}float32 (1, 5, 3)"),
        ({**good, "acc": good["acc"][:, :1]}, f"{wrong}float32 (1, 1, 3)"),  # NumPy alone would repeat it
        ({**good, "acc": good["acc"].astype(np.float64)}, f"{wrong}float64 (1, 20, 3)"),
    ):
        told = said(BackendError, backend.run, bad)
        assert told.startswith(f"{opener.title} failed to run: {'' if opener.name in ('ort', 'litert') else reason}")
        assert "\n" not in told
        np.testing.assert_array_equal(backend.run(good)[1], before)
    backend.close()
    backend.close()
    assert said(BackendError, backend.run, good) == f"backend {opener.name!r} is closed; open it again"


@pytest.mark.parametrize("model", [b"", b"not a model", b"ORTM" + b"\0" * 100, bytes(range(256)) * 4])
def test_what_is_not_a_model_is_one_backend_error(opener, model):
    told = said(BackendError, opener.open, model)
    reason = ""  # LiteRT's own words, and onnxruntime's, behind the double of TensorRT too
    if opener.name == "openvino":
        reason = "Unable to read the model. Please check if the model format is supported and model is correct."
    elif opener.name == "trt" and model == b"not a model":
        reason = "tensorrt 10.3.0 cannot read the graph: not ONNX"
    assert told.startswith(f"{opener.title} cannot open the artifact: {reason}")
    assert "\n" not in told


@pytest.mark.parametrize("opener", ["ort", "openvino"], indirect=True)  # the double has no types; see test_trt.py
def test_a_tensor_of_another_type_is_named(opener):
    value, out = (helper.make_tensor_value_info(name, TensorProto.DOUBLE, [1, 2]) for name in ("acc", "logits"))
    graph = helper.make_graph([helper.make_node("Identity", ["acc"], ["logits"])], "g", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    kind = "tensor(double)" if opener.name == "ort" else "f64"
    told = f"{opener.title} cannot open the artifact: tensor 'acc' has the type {kind}, expected float32"
    assert said(BackendError, opener.open, model.SerializeToString()) == told


@ONNX
def test_weights_outside_the_verified_bytes_are_never_read(kit, opener, tmp_path, monkeypatch):
    model = onnx.load_from_string(kit.model(kit.modality))
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "weights")
    onnx.external_data_helper.set_external_data(weights, "weights.bin")
    onnx.save(model, tmp_path / "model.onnx")
    data = (tmp_path / "model.onnx").read_bytes()
    monkeypatch.chdir(tmp_path)
    onnxruntime.InferenceSession(data)  # what happens without care: it reads the file from the working directory
    told = said(BackendError, opener.open, data)
    assert ("/dev/null/weights.bin" in told) is (opener.name == "ort")
    outside = f"{opener.title} cannot open the artifact: its weights are in another file, which nothing verifies"
    assert opener.name == "ort" or told == outside


@pytest.mark.parametrize(
    ("name", "module"), [("ort", "onnxruntime"), ("openvino", "openvino"), ("litert", "ai_edge_litert")]
)
def test_without_its_library_the_extra_is_named(name, module, monkeypatch):
    for absent in (module, f"{module}.interpreter"):
        monkeypatch.setitem(sys.modules, absent, None)
    cure = f"install it with pip install 'mmkd-edge[{name}]'"
    told = f"backend {name!r} needs {module.replace('_', '-')}, which is not installed; {cure}"
    assert said(UnavailableError, open_backend, name, b"", threads=1) == told


def test_every_backend_has_a_row_and_an_unknown_one_names_them():
    assert tuple(BACKENDS) == get_args(BackendName)
    assert sorted(AUTO_ORDER) == sorted(BACKENDS)
    assert (backend_for("onnx"), backend_for("tflite")) == ("ort", "litert")  # judge artifacts of their format
    assert (check_backend("ort"), check_backend("litert")) == ("ort", "litert")
    told = (
        "backend: expected one of 'auto', 'native', 'ort', 'openvino', 'litert', 'trt', got 'onnx'; choose one of them"
    )
    assert said(UsageError, lambda: check_backend("onnx")) == told
