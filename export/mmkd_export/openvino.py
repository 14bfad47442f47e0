"""OpenVINO on the CPU as a backend, to gate and time artifacts at export.

Reads the ONNX artifact as it is; nothing is converted, written or sent anywhere: OpenVINO's converter and its telemetry
are not used.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmkd_edge.errors import BackendError, UnavailableError
from mmkd_edge.spec import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def openvino_is_there() -> bool:
    """Whether OpenVINO can be imported."""
    return importlib.util.find_spec("openvino") is not None


class OpenVinoBackend:
    """One compiled graph with one request: for one thread of the caller.

    Args:
        model: an ONNX model.
        threads: how many threads one `run` may use.
    """

    name = "openvino"

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        # Its import else forks a process that reports the start over the network; it copes with an absent module.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        try:
            import openvino
        except ImportError as error:
            raise UnavailableError(
                "target 'openvino' needs openvino, which is not installed; "
                "install it with pip install 'mmkd-edge[openvino]'"
            ) from error
        self.threads = threads
        self.version = f"openvino {openvino.__version__.split('-')[0]}"
        # Without the hint, processors that have BF16 compute in it: three digits instead of seven.
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        try:
            core = openvino.Core()
            graph = core.read_model(model, b"")
            if graph.is_dynamic():  # one window at a time, as the runtime asks
                graph.reshape({port.any_name: [1, *list(port.partial_shape)[1:]] for port in graph.inputs})
            compiled = core.compile_model(graph, "CPU", settings)
        except Exception as error:
            raise BackendError(
                f"backend 'openvino' ({self.version}) cannot open the artifact: {_line(error)}"
            ) from error
        self.inputs = tuple(_tensor(port) for port in compiled.inputs)
        self.outputs = tuple(_tensor(port) for port in compiled.outputs)
        request = compiled.create_infer_request()
        # The request's own memory: filling it is cheaper than handing arrays over, and keeps the caller's out of it.
        self._values = {tensor.name: request.get_tensor(tensor.name).data for tensor in self.inputs}
        self._answers = [request.get_tensor(name).data for name in ("logits", "probabilities")]
        self._request: Any = request

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Answers for one window; see `Backend.run`."""
        if self._request is None:
            raise BackendError("backend 'openvino' is closed; open it again")
        try:
            for name, values in self._values.items():
                values[:] = feeds[name]
            self._request.infer()
        except Exception as error:
            raise BackendError(f"backend 'openvino' ({self.version}) failed to run: {_line(error)}") from error
        logits, probabilities = (answer.copy() for answer in self._answers)
        return logits, probabilities

    def close(self) -> None:
        """Gives the request back; more than once is fine."""
        self._request = None


def _tensor(port: Any) -> TensorSpec:
    dtype: Any = {"f32": "float32", "f16": "float16", "i8": "int8"}.get(port.element_type.get_type_name(), "unknown")
    return TensorSpec(name=port.any_name, dtype=dtype, shape=tuple(int(size) for size in port.shape))


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
