"""ONNX Runtime on the CPU; refuses weights outside of the verified bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mmkd_edge.backends.calls import EngineCall, describe_tensor
from mmkd_edge.errors import BackendError
from mmkd_edge.spec import TensorSpec
from mmkd_edge.system import silence_reports

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# No file can be below this path. Without it ONNX Runtime reads external weights from the working directory.
_NO_FOLDER = "/dev/null"


def import_onnxruntime() -> Any:
    """Import ONNX Runtime without its telemetry."""
    silence_reports()
    import onnxruntime

    return onnxruntime


class OrtBackend:
    """One session for concurrent `run`."""

    name = "ort"

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        onnxruntime = import_onnxruntime()
        self.threads = threads
        self.version = f"onnxruntime {onnxruntime.__version__}"
        self._title = f"backend 'ort' ({self.version})"
        # ONNX Runtime raises more types than its own for a bad model, UnicodeDecodeError among them.
        with EngineCall(self._title, "cannot open the artifact"):
            options = _options(onnxruntime, threads)
            # Its fallback would print "EP Error" on stdout, and try the same provider once more.
            session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
            self.inputs = tuple(map(_tensor, session.get_inputs()))
            self.outputs = tuple(map(_tensor, session.get_outputs()))
        self._session: Any = session
        self._answers = [tensor.name for tensor in self.outputs]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        """See `Backend.run`."""
        session = self._session or self._open_session()
        with EngineCall(self._title, "failed to run"):
            return tuple(session.run(self._answers, feeds))

    def bind(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[np.float32]]
    ) -> Callable[[], None]:
        """See `SteppingBackend.bind`."""
        session = self._open_session()
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return lambda: session.run_with_iobinding(binding)

    def _open_session(self) -> Any:
        session = self._session
        if session is None:
            raise BackendError("backend 'ort' is closed; open it again")
        return session

    @property
    def session(self) -> Any:
        """The engine's session, for comparisons; None after `close`."""
        return self._session

    def close(self) -> None:
        """Close the session; a running `run` ends undisturbed."""
        self._session = None

    def __repr__(self) -> str:
        return f"OrtBackend({self.version}, threads={self.threads})"


def _options(onnxruntime: Any, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # session.set_denormal_as_zero stays off: it changes the arithmetic, also numpy's, of the opening thread alone.
    options.log_severity_level = 4  # errors come as exceptions; a library does not write on a device's stderr
    for key, value in (
        ("session.load_model_format", "ONNX"),
        ("session.intra_op.allow_spinning", "0"),  # idle threads that spin use half a core
        ("session.inter_op.allow_spinning", "0"),
        ("session.model_external_initializers_file_folder_path", _NO_FOLDER),
    ):
        options.add_session_config_entry(key, value)
    return options


def _tensor(node: Any) -> TensorSpec:
    return describe_tensor(node.name, node.type, tuple(size if isinstance(size, int) else -1 for size in node.shape))
