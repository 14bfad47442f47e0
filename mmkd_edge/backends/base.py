"""Backends: what executes an artifact. The protocol, and the one place that opens them.

Every backend takes and gives the same named float32 tensors, whatever engine is behind it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.trt.needs import installed_library, why_no_engines
from mmkd_edge.bundle.manifest import Precision
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TensorSpec

BackendName = Literal["ort", "openvino", "litert", "trt"]
# Of the arithmetic: that of an artifact, or bf16, in which OpenVINO can run the fp32 artifact.
RunPrecision = Literal["fp32", "fp16", "int8", "bf16"]
BACKENDS: tuple[BackendName, ...] = ("ort", "openvino", "litert", "trt")
RUN_PRECISIONS: tuple[RunPrecision, ...] = ("fp32", "fp16", "int8", "bf16")


class SessionOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an engine is opened, beyond its threads. A backend that lacks an option leaves it out.

    Attributes:
        graph: how far onnxruntime rewrites the graph: everything it knows, or only what needs no other kernels.
        owns_cores: onnxruntime's idle threads spin, OpenVINO's threads stay on one core: for a device that has its
            cores for this program alone.
    """

    graph: Literal["all", "basic"] = "all"
    owns_cores: bool = False


DEFAULT_OPTIONS = SessionOptions()


class Backend(Protocol):
    """An opened artifact. May be shared by threads."""

    @property
    def name(self) -> str:
        """Which backend this is."""
        ...

    @property
    def version(self) -> str:
        """The library behind it, with its version."""
        ...

    @property
    def threads(self) -> int:
        """How many threads one `run` may use."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the opened graph takes, as the engine itself reports it."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the opened graph gives, as the engine itself reports it."""
        ...

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Answer for one window.

        Args:
            feeds: `<name>` and `<name>_present`, each float32 (1, T, C).

        Returns:
            Logits and probabilities (of a regression the value), each float32 (1, K). They belong to the caller: a
            later call does not touch them.

        Raises:
            BackendError: the engine failed.
        """
        ...

    def close(self) -> None:
        """Give the engine back; more than once is fine."""
        ...


def check_backend(name: str) -> BackendName | Literal["auto"]:
    """The same name, where there is such a backend.

    Raises:
        UsageError: there is none.
    """
    if name == "auto":
        return "auto"
    for known in BACKENDS:
        if name == known:
            return known
    listed = ", ".join(map(repr, ("auto", *BACKENDS[:-1])))
    raise UsageError(f"backend {name!r} is unknown; expected {listed} or {BACKENDS[-1]!r}")


def artifact_formats(name: BackendName) -> tuple[str, ...]:
    """Which artifact formats a backend runs."""
    return {"ort": ("onnx",), "openvino": ("onnx",), "litert": ("tflite",), "trt": ("onnx",)}[name]


def library_of(name: BackendName) -> tuple[str, str]:
    """The module that a backend imports, and the distribution that it comes from."""
    if name == "trt":
        library = installed_library() or "tensorrt"
        return library, "tensorrt" if library == "tensorrt" else "tensorrt-rtx-cu13"
    if name == "litert":
        return "ai_edge_litert", "ai-edge-litert"
    if name == "openvino":
        return "openvino", "openvino"
    return "onnxruntime", "onnxruntime"


def why_absent(name: BackendName) -> str:
    """Why a backend cannot be tried here, with the command for it; empty where it can. Imports nothing heavy."""
    if name == "trt":
        return why_no_engines()
    module, distribution = library_of(name)
    if importlib.util.find_spec(module) is not None:
        return ""
    return f"{distribution} is not installed; pip install 'mmkd-edge[{name}]'"


def artifact_precision(precision: RunPrecision) -> Precision:
    """The precision of the artifact that is run in `precision`."""
    return "fp32" if precision == "bf16" else precision


def open_backend(
    name: BackendName,
    model: bytes,
    *,
    threads: int,
    bf16: bool = False,
    options: SessionOptions = DEFAULT_OPTIONS,
) -> Backend:
    """Open an artifact.

    Args:
        name: the backend.
        model: the artifact's verified bytes.
        threads: how many threads of the processor one `run` may use; TensorRT needs one.
        bf16: compute in bfloat16; OpenVINO alone does.
        options: how the engine is opened beyond that.

    Raises:
        UnavailableError: the backend's library is not installed, no GPU answers, or the processor lacks bf16; the
            message says which.
        BackendError: the engine refuses the artifact.
        UsageError: there is no such backend, or it does not compute in bf16.
    """
    if bf16 and name != "openvino":
        raise UsageError(f"backend {name!r} does not compute in 'bf16'; only 'openvino' does")
    if name == "ort":
        from mmkd_edge.backends.ort import OrtBackend

        return OrtBackend(model, threads=threads, graph=options.graph, spinning=options.owns_cores)
    if name == "openvino":
        from mmkd_edge.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(model, threads=threads, bf16=bf16, pinning=options.owns_cores)
    if name == "litert":
        from mmkd_edge.backends.litert import LitertBackend

        return LitertBackend(model, threads=threads)
    if name == "trt":
        from mmkd_edge.backends.trt.backend import TrtBackend

        return TrtBackend(model)
    raise UsageError(f"backend {name!r} is unknown; expected one of {', '.join(map(repr, BACKENDS))}")
