"""The sidecar of a TensorRT engine: what it was built from, with and for, and when another one is needed.

Owns `<engine>.json` and the key in it. Builds nothing and needs no TensorRT.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from mmkd_edge.backends.trt.key import DeviceFacts, EngineFacts, EngineLibrary, Profiles
from mmkd_edge.bundle.manifest import Precision
from mmkd_edge.errors import ArtifactError

FORMAT_VERSION = 2


class EngineSidecar(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`<engine>.json`: what an engine was built from, with and for. Another key needs another engine.

    Attributes:
        format_version: of this document.
        model_id: of the bundle.
        bundle_sha256: of the bundle file.
        artifact: the model file in the bundle.
        onnx_sha256: of that file.
        precision: of its arithmetic.
        engine: the engine's file name.
        engine_sha256: of that file.
        size_bytes: of that file.
        library: that built it.
        library_version: in full; another version may refuse the engine.
        platform: that it is for.
        architecture: of the machine it was built on.
        device: the GPU; None where it was built ahead of time, without one.
        workspace_bytes: that the builder might use.
        strongly_typed: whether the graph alone decided every precision.
        tf32: whether float32 products may be rounded to ten bits.
        shapes: of every input; -1 where the batch may vary.
        profiles: smallest, optimal and largest shape of every input whose batch may vary; empty where none does.
        key: SHA-256 of everything that another engine would be needed for; see `engine_key`.
        layers: the builder's own list of layers; empty where it gives none.
    """

    format_version: int = FORMAT_VERSION
    model_id: str
    bundle_sha256: str
    artifact: str
    onnx_sha256: str
    precision: Precision
    engine: str
    engine_sha256: str
    size_bytes: int
    library: EngineLibrary
    library_version: str
    platform: str
    architecture: str
    device: DeviceFacts | None
    workspace_bytes: int
    strongly_typed: bool
    tf32: bool
    shapes: dict[str, tuple[int, ...]]
    profiles: Profiles
    key: str
    layers: str


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
        device=sidecar.device,
        strongly_typed=sidecar.strongly_typed,
        tf32=sidecar.tf32,
        profiles=sidecar.profiles,
    )
    return facts.key


def read_sidecar(path: Path) -> EngineSidecar:
    """Reads an engine's sidecar.

    Raises:
        ArtifactError: it is no sidecar, or was written by another version.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=EngineSidecar)
    except msgspec.MsgspecError as error:
        raise ArtifactError(f"{path}: expected the sidecar of an engine: {error}; build the engine again") from error
