"""The sidecar of a TensorRT engine: what it was built from, with and for, and when another one is needed.

Owns `<engine>.json` and the key in it. Builds nothing and needs no TensorRT.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmkd_edge.errors import ArtifactError
from mmkd_edge.manifest import BatchRange, Precision
from mmkd_edge.spec import TensorSpec
from mmkd_export.platforms import EngineLibrary

FORMAT_VERSION = 1

Shape = tuple[int, ...]
Profiles = dict[str, tuple[Shape, Shape, Shape]]
"""Name of an input to its smallest, optimal and largest shape."""


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The GPU that an engine was built on.

    Attributes:
        name: of the GPU.
        compute_capability: such as 8.7.
        multiprocessors: how many it has.
        memory_bytes: of the GPU, or of the board where it is shared.
        cuda_runtime: version as CUDA counts: 12060 is 12.6.
        cuda_driver: the same for the driver.
    """

    name: str
    compute_capability: str
    multiprocessors: int
    memory_bytes: int
    cuda_runtime: int
    cuda_driver: int


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
    shapes: dict[str, tuple[int, ...]]
    profiles: Profiles
    key: str
    layers: str


def engine_profiles(inputs: Sequence[TensorSpec], batch: BatchRange | None) -> Profiles:
    """Gives the shapes that an engine is built for; empty where the batch is fixed."""
    if batch is None:
        return {}
    sizes = (batch.minimum, batch.optimum, batch.maximum)
    return {
        tensor.name: tuple((size, *tensor.shape[1:]) for size in sizes)  # type: ignore[misc] # three sizes, three shapes
        for tensor in inputs
    }


def engine_key(sidecar: EngineSidecar) -> str:
    """Gives the SHA-256 of what an engine is built from and for: where it differs, another engine is needed.

    The graph, the library in full, CUDA, the driver, the GPU, the platform, the shapes and the builder's options count;
    where files lie, when they were made and how much memory happened to be free do not.
    """
    parts = {
        "format_version": sidecar.format_version,
        "onnx_sha256": sidecar.onnx_sha256,
        "library": sidecar.library,
        "library_version": sidecar.library_version,
        "platform": sidecar.platform,
        "architecture": sidecar.architecture,
        "device": sidecar.device,
        "strongly_typed": sidecar.strongly_typed,
        "profiles": sidecar.profiles,
    }
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def read_sidecar(path: Path) -> EngineSidecar:
    """Reads an engine's sidecar.

    Raises:
        ArtifactError: it is no sidecar, or was written by another version.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=EngineSidecar)
    except msgspec.MsgspecError as error:
        raise ArtifactError(f"{path}: expected the sidecar of an engine: {error}; build the engine again") from error
