"""A plain ONNX Runtime session, opened as the runtime opens its own: what engines and bare calls are held against."""

from __future__ import annotations

from typing import Any

from mmkd_edge.backends.ort import import_onnxruntime
from mmkd_edge.errors import BackendError, UnavailableError, first_line


def open_session(model: bytes, *, threads: int) -> Any:
    """A session with the runtime's threading choices.

    Raises:
        UnavailableError: onnxruntime is not installed.
        BackendError: ONNX Runtime refuses the model.
    """
    try:
        onnxruntime = import_onnxruntime()
    except ImportError as error:
        raise UnavailableError(
            "paired latency needs onnxruntime, which is not installed; run: pip install 'mmkd-edge[ort]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises more types than its own for a bad model
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} cannot open the model: {first_line(error)}"
        ) from error
