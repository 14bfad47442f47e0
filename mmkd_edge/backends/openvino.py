"""OpenVINO on the CPU, without its converter and telemetry.

Parallel calls of a graph wait, since OpenVINO's shared call mixes answers up; a signal handler during a call gets its
own request. Outputs are NaN before every call: some operators fail silently and leave old answers.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from mmkd_edge.backends.calls import EngineCall, describe_tensor, erase, fill
from mmkd_edge.backends.onnx_wire import refuse_external_weights, refuse_trees
from mmkd_edge.bundle.manifest import GRAPH_OUTPUTS
from mmkd_edge.errors import BackendError, UnavailableError
from mmkd_edge.spec import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class _Request(msgspec.Struct, frozen=True):
    request: Any
    values: dict[str, NDArray[Any]]
    answers: tuple[NDArray[np.float32], ...]


class OpenVinoBackend:
    """A compiled graph with one request behind a lock."""

    name = "openvino"

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        openvino = import_openvino()
        self.threads = threads
        self.version = f"openvino {openvino.__version__.split('-')[0]}"
        self._title = f"backend 'openvino' ({self.version})"
        core = shared_core()
        with EngineCall(self._title, "cannot open the artifact", reason=_reason):
            refuse_external_weights(model)
            refuse_trees(model)
            graph = core.read_model(model, b"")
            if graph.is_dynamic():  # one window at a time
                graph.reshape({_name(port): [1, *list(port.partial_shape)[1:]] for port in graph.inputs})
            self._compiled: Any = core.compile_model(graph, "CPU", _settings(threads))
            self.inputs = tuple(map(_tensor, self._compiled.inputs))
            self.outputs = tuple(map(_tensor, self._compiled.outputs))
            self._idle: _Request | None = self._request()
        self._lock = threading.RLock()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        """See `Backend.run`."""
        with self._lock:
            self._check_open()
            call, self._idle = self._idle, None
            try:
                with EngineCall(self._title, "failed to run", reason=_reason):
                    call = call or self._request()
                    fill(call.values, feeds)
                    erase(call.answers)
                    call.request.infer(share_outputs=True, decode_strings=False)
                    return tuple([answer.copy() for answer in call.answers])
            finally:
                self._idle = call

    def _request(self) -> _Request:
        request = self._compiled.create_infer_request()
        return _Request(
            request,
            {tensor.name: request.get_tensor(tensor.name).data for tensor in self.inputs},
            tuple(request.get_tensor(tensor.name).data for tensor in self.outputs),
        )

    def bind(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[np.float32]]
    ) -> Callable[[], None]:
        """See `SteppingBackend.bind`; each stream has its own request."""
        self._check_open()
        tensor = import_openvino().Tensor
        request = self._compiled.create_infer_request()
        for number, array in enumerate(inputs.values()):
            request.set_input_tensor(number, tensor(array, shared_memory=True))
        for number, array in enumerate(outputs.values()):
            request.set_output_tensor(number, tensor(array, shared_memory=True))
        return lambda: request.infer(share_outputs=True, decode_strings=False) and None

    def _check_open(self) -> None:
        if self._compiled is None:
            raise BackendError("backend 'openvino' is closed; open it again")

    def close(self) -> None:
        """Close the request after any running `run`."""
        with self._lock:
            self._idle = self._compiled = None

    def __repr__(self) -> str:
        return f"OpenVinoBackend({self.version}, threads={self.threads})"


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry (docs/decisions/016)."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # absent is what OpenVINO copes with
    import openvino

    return openvino


def shared_core() -> Any:
    """Return OpenVINO's root object; UnavailableError in a forked child, where it may hang."""
    (started, core), here = _core(), os.getpid()
    if started != here:
        raise UnavailableError(
            f"backend 'openvino': OpenVINO was started in process {started} and cannot be used in its child {here}; "
            "start workers with multiprocessing's 'spawn', or open bundles only in them"
        )
    return core


@cache
def _core() -> tuple[int, Any]:
    """Return the process that started OpenVINO, and its root object, one per process.

    On processors with AMX every `Core` replaces the thread's signal stack (`SigAltStackSetup` in openvino
    src/plugins/intel_cpu/src/plugin.cpp). Two that end in the order of their start leave a freed one, and the next
    signal is a SIGSEGV.
    """
    return os.getpid(), import_openvino().Core()


def _settings(threads: int) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        # Without the hint, processors that have BF16 compute in it: three digits instead of seven.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # By default it pins the caller's thread to the first cores during a call, busy or not.
        "ENABLE_CPU_PINNING": False,
    }


def _tensor(port: Any) -> TensorSpec:
    return describe_tensor(_name(port), port.element_type.get_type_name(), tuple(map(int, port.shape)))


def _name(port: Any) -> str:
    """Removed operations add their own names."""
    names = port.names
    node = port.node.friendly_name  # an input has the artifact's name, an output an inner one
    return node if node in names else next((name for name in GRAPH_OUTPUTS if name in names), port.any_name)


def _reason(error: BaseException) -> str:
    """Skip the places in OpenVINO's source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(("Exception from ", "Check '"))]
    return (reasons or lines or [type(error).__name__])[0]
