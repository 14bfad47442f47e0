"""The sidecar of a TensorRT engine, `<engine>.json`: its key, which says when another engine is needed.

The schema is `mmkd_report.schema.export`. Builds nothing and needs no TensorRT.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from mmkd_edge.backends.trt.key import DeviceFacts, EngineFacts
from mmkd_edge.errors import ArtifactError
from mmkd_report.errors import DocumentError
from mmkd_report.schema.export import EngineSidecar, decode_sidecar


def engine_key(sidecar: EngineSidecar) -> str:
    """Gives the SHA-256 of what an engine is built from and for: where it differs, another engine is needed.

    The graph, the library in full, CUDA, the driver, the GPU, the shapes and the builder's options count; where files
    lie, when they were made and how much memory happened to be free do not.
    """
    facts = EngineFacts(
        onnx_sha256=sidecar.onnx_sha256,
        library=sidecar.library,
        library_version=sidecar.library_version,
        architecture=sidecar.architecture,
        device=device_of(sidecar),
        strongly_typed=sidecar.strongly_typed,
        tf32=sidecar.tf32,
        profiles=sidecar.profiles,
    )
    return facts.key


def device_of(sidecar: EngineSidecar) -> DeviceFacts | None:
    """The GPU that an engine was built on, as the runtime knows it; None where it was built without one."""
    return msgspec.convert(sidecar.device, DeviceFacts | None)


def read_sidecar(path: Path) -> EngineSidecar:
    """Reads an engine's sidecar.

    Raises:
        ArtifactError: it is no sidecar, or was written by another version.
    """
    try:
        sidecar = decode_sidecar(path.read_bytes())
        device_of(sidecar)
    except (DocumentError, msgspec.ValidationError) as error:
        raise ArtifactError(f"{path}: {error}") from error
    return sidecar
