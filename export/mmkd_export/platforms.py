"""What an export is for: platforms, what each fixes, and what has been run there.

Owns the table behind `mmkd-export --list-targets`. Opset and IR version are the same everywhere, so that one file
serves every engine; what differs is which operators INT8 makes faster, and which library builds engines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmkd_edge.backends.trt.key import EngineLibrary
from mmkd_export.graph.onnx_graph import IR_VERSION, OPSET

PlatformName = Literal["cpu-x86", "cpu-arm", "jp6.2", "jp7", "trt-rtx"]


@dataclass(frozen=True, kw_only=True)
class Platform:
    """One row of the table.

    Attributes:
        name: what `--platform` takes.
        int8_ops: operators that INT8 makes faster there.
        engine_library: what builds engines for it; None where there are none.
        run_here: what the project's tests and measurements have run for it, in words.
    """

    name: PlatformName
    title: str
    int8_ops: tuple[str, ...]
    engine_library: EngineLibrary | None
    run_here: str
    opset: int = OPSET
    ir_version: int = IR_VERSION

    @property
    def has_gpu(self) -> bool:
        """Whether artifacts run on a GPU there, so that this machine's latencies say nothing about it."""
        return self.engine_library is not None


_PRODUCTS = ("Gemm", "MatMul")
_ALL = ("Conv", *_PRODUCTS)
_BUILT_ALIKE = "not on the hardware; the same graphs through TensorRT-RTX's parser and builder"

PLATFORMS: tuple[Platform, ...] = (
    Platform(
        name="cpu-x86",
        title="x86-64 with onnxruntime, OpenVINO or LiteRT",
        int8_ops=_ALL,
        engine_library=None,
        run_here="all precisions in onnxruntime and OpenVINO, fp32 and int8 in LiteRT",
    ),
    Platform(
        name="cpu-arm",
        title="ARM64 with onnxruntime or LiteRT",
        int8_ops=_PRODUCTS,  # onnxruntime runs a convolution with Q/DQ on its inputs alone in float
        engine_library=None,
        run_here="not on the hardware; the same files on x86",
    ),
    Platform(
        name="jp6.2",
        title="JetPack 6.2: Orin, TensorRT 10.3",
        int8_ops=_ALL,
        engine_library="tensorrt",
        run_here=_BUILT_ALIKE,
    ),
    Platform(
        name="jp7",
        title="JetPack 7: Thor and Orin, TensorRT 10.13 to 11",
        int8_ops=_ALL,
        engine_library="tensorrt",
        run_here=_BUILT_ALIKE,
    ),
    Platform(
        name="trt-rtx",
        title="GeForce RTX with TensorRT-RTX",
        int8_ops=_ALL,
        engine_library="tensorrt_rtx",
        run_here="engines built ahead of time, without a GPU; not run",
    ),
)


def platform_named(name: PlatformName) -> Platform:
    """Gives the row of that name."""
    return next(platform for platform in PLATFORMS if platform.name == name)
