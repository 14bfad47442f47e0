"""Backends execute artifacts: their protocol and their table. A backend is one file and one row here."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.calls import EngineCall
from mmkd_edge.backends.trt.needs import installed_distribution, why_no_engines
from mmkd_edge.bundle.manifest import Artifact, ArtifactFormat, ModelEntry, Precision, Streaming
from mmkd_edge.errors import UnavailableError, UsageError
from mmkd_edge.spec import TensorSpec

BackendName = Literal["native", "ort", "openvino", "litert", "trt"]
MAX_THREADS = 256
_ALIGNED = 16  # values: 64 bytes, a processor's longest read

Answers = tuple[NDArray[np.float32], ...]
"""The outputs of a graph for one window, in its order."""

AUTO_ORDER: tuple[BackendName, ...] = ("trt", "native", "openvino", "ort", "litert")
"""The order in which `auto` tries them without a profile."""


class Backend(Protocol):
    """An opened artifact; threads may share it. `inputs` and `outputs` are as the engine reports them."""

    name: str
    version: str
    threads: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Answers:
        """Answer for one window; BackendError if the engine fails.

        Args:
            feeds: `<name>` and `<name>_present`, float32 (1, T, C); video uint8 (1, T, H, W, C) and float32 (1, T, 1).

        Returns:
            Logits and probabilities (of a number its value), float32 (1, K), perhaps novelty (1, 1). The caller owns
            them.
        """
        ...

    def close(self) -> None:
        """Close the engine; repeated calls are allowed."""
        ...


class SteppingBackend(Backend, Protocol):
    """A backend that also runs step graphs of causal students."""

    def bind(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[np.float32]]
    ) -> Callable[[], None]:
        """Return a function that takes one step from these inputs to these outputs, for one thread."""
        ...


class BackendRow(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of a backend: `lacks` returns what is missing besides the library, with install commands.

    `without_gain` are precisions no faster than fp32; `unable` are members of students that it cannot run; one `on_gpu`
    ignores threads, and may build an engine; one that `is_own` checks its files itself.
    """

    formats: tuple[ArtifactFormat, ...]
    precisions: tuple[Precision, ...]
    without_gain: tuple[Precision, ...] = ()
    unable: tuple[str, ...] = ()
    library: Callable[[], tuple[str, str]]
    lacks: Callable[[], str] | None = None
    has_steps: bool = True
    on_gpu: bool = False
    is_own: bool = False


BACKENDS: Mapping[BackendName, BackendRow] = {
    "native": BackendRow(
        formats=("native",),
        precisions=("fp32", "int8"),
        without_gain=("int8",),  # computed in float32: the weights alone are int8
        library=lambda: ("mmkd_edge.native", "mmkd-edge"),
        lacks=lambda: importlib.import_module("mmkd_edge.native").why_absent(),
        is_own=True,
    ),
    "ort": BackendRow(
        formats=("onnx",),
        precisions=("fp32", "fp16", "int8"),
        library=lambda: ("onnxruntime", "onnxruntime"),
    ),
    "openvino": BackendRow(
        formats=("onnx",),
        precisions=("fp32", "fp16", "int8"),
        without_gain=("fp16",),  # computed in float32, with rounded weights
        unable=("trees",),
        library=lambda: ("openvino", "openvino"),
    ),
    "litert": BackendRow(
        formats=("tflite",),
        precisions=("fp32", "fp16", "int8"),
        unable=("intervals", "trees"),
        library=lambda: ("ai_edge_litert", "ai-edge-litert"),
    ),
    "trt": BackendRow(
        formats=("onnx",),
        precisions=("fp32", "fp16", "int8"),
        library=installed_distribution,
        lacks=why_no_engines,
        unable=("trees",),
        has_steps=False,
        on_gpu=True,
    ),
}
"""An export judges an artifact in the first backend that runs its format."""


def check_backend(name: str) -> BackendName | Literal["auto"]:
    """Return the name of a backend, or `auto`; UsageError for others."""
    if name == "auto":
        return "auto"
    for known in BACKENDS:
        if name == known:
            return known
    names = ", ".join(map(repr, ("auto", *BACKENDS)))
    raise UsageError(f"backend: expected one of {names}, got {name!r}; choose one of them")


def is_installed(name: BackendName) -> bool:
    """Return whether a backend's library is installed; imports nothing."""
    row = BACKENDS[name]
    return not why_absent(name) if row.is_own else importlib.util.find_spec(row.library()[0]) is not None


def why_absent(name: BackendName) -> str:
    """Return why a backend cannot run here, with the install command; empty if it can."""
    row = BACKENDS[name]
    if row.lacks is not None:
        return row.lacks()
    return "" if is_installed(name) else f"{row.library()[1]} is not installed; pip install 'mmkd-edge[{name}]'"


def backend_for(artifact_format: ArtifactFormat) -> BackendName:
    """Return the backend that judges artifacts of a format."""
    return next(name for name, row in BACKENDS.items() if artifact_format in row.formats)


def choose_artifact(entry: ModelEntry, precision: Precision | Literal["auto"], backend: BackendName) -> Artifact:
    """Return the artifact for a backend; UsageError says why each does not fit."""
    expected = "fp32" if precision == "auto" else precision
    formats = BACKENDS[backend].formats
    reasons: list[str] = []
    lacking = " and ".join(lacking_members(entry, backend))
    for artifact in entry.artifacts:
        if lacking and artifact.format in formats:
            reasons.append(f"{artifact.file!r} has {lacking}, which the backend lacks")
        elif artifact.format not in formats:
            reasons.append(f"{artifact.file!r} has the format {artifact.format}, the backend runs {', '.join(formats)}")
        elif artifact.precision != expected:
            reasons.append(f"{artifact.file!r} has the precision {artifact.precision}")
        else:
            return artifact
    cure = "ask for a precision that is there, or export the student with this one"
    if lacking:
        cure = f"take the backend native or ort, or export the student with --target {backend}"
    raise UsageError(
        f"model {entry.name!r} has no artifact of precision {expected!r} for backend {backend!r}: {'; '.join(reasons)}"
        f"; {cure}"
    )


def has_artifact(entry: ModelEntry, precision: Precision, backend: BackendName) -> bool:
    """Return whether a student has an artifact of a precision for a backend."""
    return not lacking_members(entry, backend) and any(
        each.precision == precision and each.format in BACKENDS[backend].formats for each in entry.artifacts
    )


def lacking_members(entry: ModelEntry, backend: BackendName) -> list[str]:
    """Return a student's members that a backend cannot run, as far as its manifest names them."""
    return [member for member in entry.members or () if member in BACKENDS[backend].unable]


def step_artifact(entry: ModelEntry, backend: BackendName) -> Artifact | None:
    """Return the step graph for a backend, or None."""
    row = BACKENDS[backend]
    if entry.streaming is None or not row.has_steps:
        return None
    return next((artifact for artifact in entry.streaming.artifacts if artifact.format in row.formats), None)


def open_backend(name: BackendName, model: bytes, *, threads: int, steps: bool = False) -> SteppingBackend:
    """Open a verified artifact, or with `steps` a causal student's step graph in fp32.

    UsageError if the backend runs no steps, UnavailableError without its library, BackendError if the artifact is
    refused.
    """
    if steps and not BACKENDS[name].has_steps:
        able = ", ".join(other for other, row in BACKENDS.items() if row.has_steps)
        raise UsageError(f"steps: expected one of the backends {able}, got {name!r}")
    try:
        match name:
            case "native":
                from mmkd_edge.backends.native import NativeBackend

                return NativeBackend(model, threads=threads, steps=steps)
            case "ort":
                from mmkd_edge.backends.ort import OrtBackend

                return OrtBackend(model, threads=threads)
            case "openvino":
                from mmkd_edge.backends.openvino import OpenVinoBackend

                return OpenVinoBackend(model, threads=threads)
            case "litert":
                from mmkd_edge.backends.litert import LitertBackend

                return LitertBackend(model, threads=threads)
            case "trt":
                from mmkd_edge.backends.trt.backend import TrtBackend

                return TrtBackend(model)  # type: ignore[return-value] # it runs no steps
    except ImportError as error:
        distribution = BACKENDS[name].library()[1]
        raise UnavailableError(
            f"backend {name!r} needs {distribution}, which is not installed; "
            f"install it with pip install 'mmkd-edge[{name}]'"
        ) from error


class Steps:
    """The steps of a causal student over one stream, with its state; for one thread, unusable after an error."""

    def __init__(self, backend: SteppingBackend, streaming: Streaming) -> None:
        inputs = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in backend.inputs}
        sizes = [-(-math.prod(spec.shape) // _ALIGNED) * _ALIGNED for spec in backend.outputs]
        self._written = np.zeros(sum(sizes), np.float32)
        parts = np.split(self._written, np.cumsum(sizes)[:-1])
        outputs = {
            spec.name: part[: math.prod(spec.shape)].reshape(spec.shape)
            for spec, part in zip(backend.outputs, parts, strict=True)
        }
        self._gaps = len(self._written) - sum(array.size for array in outputs.values())
        self._count, self._slots = 0, streaming.slots
        self._run = backend.bind(dict(inputs), dict(outputs))
        self._title = f"backend {backend.name!r} ({backend.version})"
        self._states = []
        for state in streaming.states:
            array, new = inputs.pop(state.name), outputs.pop(f"next_{state.name}")
            array[...] = state.initial
            self._states.append((array, state.axis, new if state.axis is None else new.squeeze(state.axis)))
        self._values, self._present, self._slot = inputs.values()
        self._answers = list(outputs.values())

    def push(self, values: NDArray[Any], present: NDArray[np.float32]) -> Answers:
        """Take the next block of samples; return the same outputs as for a window, which the caller owns.

        Args:
            values: float32 (1, S, C), 0 where missing; video uint8 (1, S, H, W, C).
            present: float32 (1, S, C), 1 or 0; video (1, S, 1).
        """
        slot = self._count % self._slots
        self._values[...], self._present[...], self._slot[...] = values, present, slot
        with EngineCall(self._title, "failed to step"):
            self._written.fill(np.nan)
            self._run()
            if np.count_nonzero(np.isnan(self._written)) != self._gaps:
                raise ValueError("it gave NaN, or no answer")
            for array, axis, new in self._states:
                array[... if axis is None else (slice(None),) * axis + (slot,)] = new
            self._count += 1
            return tuple([array.copy() for array in self._answers])
