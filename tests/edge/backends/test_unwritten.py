"""An answer that a call did not write is no answer: engines that fail in silence leave the one before in memory."""

from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from mmkd_edge import BackendError, Bundle
from mmkd_edge.backends.base import Steps, open_backend
from mmkd_edge.backends.trt.backend import TrtBackend
from mmkd_edge.bundle.manifest import Streaming
from tests.edge.said import said

PRESENT = ("openvino", "tensorrt", "tensorrt_rtx")
FILES = Path(__file__).parents[2] / "files"


@pytest.mark.parametrize("name", ["openvino", "litert"])
def test_what_an_engine_does_not_write_is_nan(name):
    with Bundle.open(FILES / "litert" / "transformer.edge") as bundle:
        model = bundle.read(f"acc/model.fp32.{'tflite' if name == 'litert' else 'onnx'}")
        windows, (values, present) = bundle.golden("acc").windows, bundle.manifest.models[0].inputs
    pytest.importorskip({"litert": "ai_edge_litert"}.get(name, name), reason=f"needs pip install 'mmkd-edge[{name}]'")
    backend = open_backend(name, model, threads=1)
    feeds = {values.name: np.nan_to_num(windows[:1]), present.name: np.ones(present.shape, np.float32)}
    assert np.isfinite(backend.run(feeds)).all()
    if name == "openvino":
        backend._idle = msgspec.structs.replace(backend._idle, request=SimpleNamespace(infer=lambda **_: None))
    else:
        calls = {call: getattr(backend._idle[0], call) for call in ("set_tensor", "tensor", "get_tensor")}
        backend._idle[0] = SimpleNamespace(invoke=lambda: None, **calls)
    assert np.isnan(backend.run(feeds)).all()
    backend.close()


def test_what_tensorrt_does_not_write_is_nan(kit, gpu_double, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gpu_double.install(monkeypatch, tmp_path).cuda.graphs = "are refused"
    backend = TrtBackend(kit.model(kit.modality))
    assert np.isfinite(backend.run(kit.feeds())).all()
    monkeypatch.setattr(gpu_double.Context, "_run", lambda _: None)
    assert np.isnan(backend.run(kit.feeds())).all()
    backend.close()


@pytest.mark.parametrize("name", ["ort", "openvino"])
def test_a_step_that_writes_nothing_is_an_error(name, monkeypatch):
    pytest.importorskip({"ort": "onnxruntime"}.get(name, name), reason=f"needs pip install 'mmkd-edge[{name}]'")
    with Bundle.open(FILES / "causal.edge") as bundle:
        streaming = bundle.manifest.models[0].streaming
        assert isinstance(streaming, Streaming)
        backend = open_backend(name, bundle.read(streaming.artifacts[0].file), threads=1, steps=True)
    values, present = (np.zeros(tensor.shape, np.float32) for tensor in backend.inputs[:2])
    steps = Steps(backend, streaming)
    assert np.isfinite(steps.push(values, present)[1]).all()
    steps._run = lambda: None
    told = f"backend {name!r} ({backend.version}) failed to step: it gave NaN, or no answer"
    assert said(BackendError, steps.push, values, present) == told
    backend.close()
