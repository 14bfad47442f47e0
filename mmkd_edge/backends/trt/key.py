"""The facts that an engine depends on, and their key."""

from __future__ import annotations

from typing import Literal

import msgspec

from mmkd_edge.bundle.files import new_sha256

FORMAT_VERSION = 2

EngineLibrary = Literal["tensorrt", "tensorrt_rtx"]


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The GPU that an engine was built on; versions as CUDA counts, 12060 is 12.6.

    Attributes:
        compute_capability: such as 8.7.
        memory_bytes: of the GPU, or of the board if shared, in whole GiB, since the kernel's part varies.
    """

    name: str
    compute_capability: str
    multiprocessors: int
    memory_bytes: int
    cuda_runtime: int
    cuda_driver: int


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The inputs of a build. The graph decides every precision, so there is none.

    Attributes:
        format_version: of these facts, and of how engines are built.
        device: None if it is built ahead of time, without a GPU.
        tf32: float32 products may be rounded to ten bits.
    """

    format_version: int = FORMAT_VERSION
    onnx_sha256: str
    library: EngineLibrary
    library_version: str
    architecture: str
    device: DeviceFacts | None
    strongly_typed: bool = True
    tf32: bool = False

    @property
    def key(self) -> str:
        """SHA-256 of all facts."""
        return new_sha256(msgspec.json.encode(self, order="sorted")).hexdigest()
