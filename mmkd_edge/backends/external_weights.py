"""Weights in files beside an ONNX model: nothing verifies those, and engines read them from the working directory."""

from __future__ import annotations

from mmkd_edge.errors import BackendError

# How an ONNX tensor names the file that holds its weights: field 1, 8 bytes long (onnx.proto, `external_data`).
_LOCATION = b"\n\x08location"


def refuse_external_weights(model: bytes) -> None:
    """Nothing, where a model has all its weights in itself.

    Raises:
        BackendError: it has not.
    """
    if _LOCATION in model:
        raise BackendError("its weights are in another file, which nothing verifies")
