"""What an engine is built from and for, and the key in it: where the key differs, another engine is needed.

Builds nothing and needs no TensorRT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from mmkd_edge.bundle.files import new_sha256
from mmkd_edge.bundle.manifest import BatchRange
from mmkd_edge.spec import TensorSpec

FORMAT_VERSION = 2

EngineLibrary = Literal["tensorrt", "tensorrt_rtx"]
Shape = tuple[int, ...]
Profiles = dict[str, tuple[Shape, Shape, Shape]]
"""Name of an input to its smallest, optimal and largest shape."""


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The GPU that an engine was built on.

    Attributes:
        name: of the GPU.
        compute_capability: such as 8.7.
        multiprocessors: how many it has.
        memory_bytes: of the GPU, or of the board where it is shared; whole GiB of it, since what the kernel keeps for
            itself may differ from one start of a board to the next.
        cuda_runtime: version as CUDA counts: 12060 is 12.6.
        cuda_driver: the same for the driver.
    """

    name: str
    compute_capability: str
    multiprocessors: int
    memory_bytes: int
    cuda_runtime: int
    cuda_driver: int


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an engine is built from, with and for. The graph decides every precision, so none is named here.

    Attributes:
        format_version: of these facts, and of how engines are built.
        onnx_sha256: of the graph.
        library: that builds it.
        library_version: in full; another version may refuse the engine.
        architecture: of the machine it is built on.
        device: the GPU; None where it is built ahead of time, without one.
        strongly_typed: whether the graph alone decides every precision.
        tf32: whether float32 products may be rounded to ten bits.
        profiles: smallest, optimal and largest shape of every input whose batch may vary; empty where each is one.
    """

    format_version: int = FORMAT_VERSION
    onnx_sha256: str
    library: EngineLibrary
    library_version: str
    architecture: str
    device: DeviceFacts | None
    strongly_typed: bool = True
    tf32: bool = False
    profiles: Profiles = {}

    @property
    def key(self) -> str:
        """SHA-256 of all of it. Where files lie and how much memory happened to be free does not count."""
        return new_sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


def engine_profiles(inputs: Sequence[TensorSpec], batch: BatchRange | None) -> Profiles:
    """The shapes that an engine is built for; empty where the batch is fixed."""
    if batch is None:
        return {}
    sizes = (batch.minimum, batch.optimum, batch.maximum)
    return {
        tensor.name: tuple((size, *tensor.shape[1:]) for size in sizes)  # type: ignore[misc] # three sizes, three shapes
        for tensor in inputs
    }
