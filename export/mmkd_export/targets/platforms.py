"""What an export is for: platforms, what each fixes, and what has been run there.

Owns the table behind `mmkd-export --list-targets`. Opset and IR version are the same everywhere, so that one file
serves every engine; what differs is which operators INT8 makes faster, and which library builds engines.
"""

from __future__ import annotations

import importlib.util
import platform as host
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from mmkd_edge.backends.trt.key import EngineLibrary
from mmkd_edge.errors import UsageError
from mmkd_export.graph.onnx_graph import IR_VERSION, OPSET

Target = Literal["onnx", "openvino", "litert", "trt"]
PlatformName = Literal["cpu-x86", "cpu-arm", "jp6.2", "jp7", "trt-rtx"]


@dataclass(frozen=True, kw_only=True)
class Platform:
    """One row of the table.

    Attributes:
        name: what `--platform` takes.
        title: for people.
        targets: what can be exported for it.
        int8_ops: operators that INT8 makes faster there.
        engine_library: what builds engines for it; None where there are none.
        run_here: what the project's tests and measurements have run for it, in words.
        opset: of every artifact.
        ir_version: of every artifact.
    """

    name: PlatformName
    title: str
    targets: tuple[Target, ...]
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

PLATFORMS: tuple[Platform, ...] = (
    Platform(
        name="cpu-x86",
        title="x86-64 with onnxruntime, OpenVINO or LiteRT",
        targets=("onnx", "openvino", "litert"),
        int8_ops=_ALL,
        engine_library=None,
        run_here="all precisions in onnxruntime and OpenVINO, fp32 and int8 in LiteRT",
    ),
    Platform(
        name="cpu-arm",
        title="ARM64 with onnxruntime or LiteRT",
        targets=("onnx", "litert"),
        int8_ops=_PRODUCTS,  # onnxruntime runs a convolution with Q/DQ on its inputs alone in float
        engine_library=None,
        run_here="not on the hardware; the same files on x86",
    ),
    Platform(
        name="jp6.2",
        title="JetPack 6.2: Orin, TensorRT 10.3",
        targets=("onnx", "trt"),
        int8_ops=_ALL,
        engine_library="tensorrt",
        run_here="not on the hardware; the same graphs through TensorRT-RTX's parser and builder",
    ),
    Platform(
        name="jp7",
        title="JetPack 7: Thor and Orin, TensorRT 10.13 to 11",
        targets=("onnx", "trt"),
        int8_ops=_ALL,
        engine_library="tensorrt",
        run_here="not on the hardware; the same graphs through TensorRT-RTX's parser and builder",
    ),
    Platform(
        name="trt-rtx",
        title="GeForce RTX with TensorRT-RTX",
        targets=("onnx", "trt"),
        int8_ops=_ALL,
        engine_library="tensorrt_rtx",
        run_here="engines built ahead of time, without a GPU; not run",
    ),
)


def platform_named(name: PlatformName) -> Platform:
    """Gives the row of that name."""
    return next(platform for platform in PLATFORMS if platform.name == name)


def choose_platform(name: PlatformName | None, targets: Collection[Target]) -> Platform:
    """Gives the platform that was asked for, or the one that fits the targets and this machine.

    With the target `trt` that is the one of this machine's TensorRT, or jp6.2 where there is none.

    Raises:
        UsageError: a target does not exist for the platform.
    """
    chosen = platform_named(name if name is not None else _default_name(targets))
    unfit = sorted(target for target in targets if target not in chosen.targets)
    if unfit:
        others = [platform.name for platform in PLATFORMS if unfit[0] in platform.targets]
        raise UsageError(
            f"--target {unfit[0]}: does not exist for the platform {chosen.name}; "
            f"give --platform {' or '.join(others)}, or leave it out"
        )
    return chosen


def _default_name(targets: Collection[Target]) -> PlatformName:
    if "trt" not in targets:
        return "cpu-arm" if host.machine() in ("aarch64", "arm64") else "cpu-x86"
    if importlib.util.find_spec("tensorrt") is None:
        return "jp6.2"
    import tensorrt

    major, minor = (int(part) for part in str(tensorrt.__version__).split(".")[:2])
    return "jp6.2" if (major, minor) < (10, 13) else "jp7"
