"""Weights in files beside an ONNX model: nothing verifies those, and engines read them from the working directory."""

from __future__ import annotations

from mmkd_edge.backends.onnx_wire import has_external_weights
from mmkd_edge.errors import BackendError

# The key under which a tensor names its file (onnx.proto, `external_data`). However a model is encoded, a key is one
# piece of bytes: without it no engine can find a file, and nothing needs to be parsed.
_KEY = b"location"


def refuse_external_weights(model: bytes) -> None:
    """Nothing, where a model has all its weights in itself.

    Raises:
        BackendError: it has not, or it is none that can be read.
    """
    if _KEY not in model:
        return
    try:
        outside = has_external_weights(model)
    except ValueError as error:
        raise BackendError(f"it is not readable as ONNX: {error}") from error
    if outside:
        raise BackendError("its weights are in another file, which nothing verifies")
