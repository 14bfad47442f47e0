"""TensorRT engines from a bundle's artifacts: one builder path for TensorRT 10.3 to 11 and for TensorRT-RTX.

Owns how an engine is built and the sidecar that says what it was built for. The graph decides every precision:
networks are strongly typed, no builder flag or calibrator changes a type. The engine is the plain plan, so that
trtexec, Polygraphy, DeepStream and Triton load it; nothing is put in front of it.

An engine is a program for one GPU, driver and library: a cache of an artifact, never what is shipped. Load only engines
that were built on the machine, or that come from someone who may run programs on it.
"""

from __future__ import annotations

import hashlib
import importlib
import platform as host
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mmkd_edge.bundle import Bundle
from mmkd_edge.errors import ArtifactError, BackendError, UnavailableError
from mmkd_edge.files import write_file
from mmkd_edge.manifest import Artifact, Precision
from mmkd_export.platforms import EngineLibrary, Platform

FORMAT_VERSION = 1

_LARGEST_WORKSPACE_BYTES = 1 << 30
_WORKSPACE_SHARE = 4  # of the free memory: a Jetson's GPU and CPU share theirs
_LAYER_LIST = "Engine Layer Information:"


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
        shapes: of every input; they are static.
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
    layers: str


@dataclass(frozen=True, kw_only=True)
class EngineFile:
    """An engine that was written, with its sidecar `<path>.json` and its build log `<path>.log`."""

    path: Path
    sidecar: EngineSidecar


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """What a builder gave: the plain plan, its own list of layers, and its log, one message a line."""

    plan: bytes
    layers: str
    log: str


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What all engines of one call are built with."""

    module: Any
    library: EngineLibrary
    platform: Platform
    device: DeviceFacts | None
    workspace_bytes: int


def build_engines(
    bundle: Path, platform_row: Platform, *, precisions: Sequence[Precision] | None = None
) -> tuple[EngineFile, ...]:
    """Builds an engine for the artifacts of a bundle and writes `<stem>.<precision>.engine` beside it.

    Args:
        bundle: the written bundle.
        platform_row: what the engines are for; it has an engine library.
        precisions: of the artifacts; None takes all.

    Raises:
        UnavailableError: no engine can be built on this machine; the message has the command for the device.
        BackendError: the library refuses an artifact.
    """
    try:
        bench = _bench(platform_row)
        with Bundle.open(bundle) as opened:
            artifacts = opened.manifest.models[0].artifacts
            wanted = [
                found
                for found in artifacts
                if found.format == "onnx" and (precisions is None or found.precision in precisions)
            ]
            return tuple(_build_one(opened, artifact, bench) for artifact in wanted)
    except (UnavailableError, BackendError) as error:
        command = f"mmkd-export {shlex.quote(bundle.name)} --target trt --platform {platform_row.name}"
        raise type(error)(
            f"no engine was built: {error}\n{bundle} is written and complete; on the device run: {command}"
        ) from error


def engine_from_onnx(model: bytes, module: Any, *, workspace_bytes: int) -> BuiltEngine:
    """Builds a strongly typed engine from an ONNX graph with static shapes.

    Args:
        model: the graph.
        module: `tensorrt` or `tensorrt_rtx`.
        workspace_bytes: what the builder may use.

    Raises:
        BackendError: the parser or the builder refuses the graph; the message has the library's own words.
    """
    logger = _logger(module)
    builder = module.Builder(logger)
    network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = module.OnnxParser(network, logger)
    if not parser.parse(model):
        faults = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise BackendError(f"{module.__name__} {module.__version__} cannot read the graph: {faults}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, workspace_bytes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(
            f"{module.__name__} {module.__version__} cannot build the graph with {workspace_bytes >> 20} MiB of "
            f"workspace: {logger.last_error or 'it gives no reason'}; where it found no implementation, memory is the "
            "usual cause: close other programs"
        )
    return BuiltEngine(plan=bytes(plan), layers=logger.layers, log="\n".join(logger.lines) + "\n")


def device_facts() -> DeviceFacts:
    """Gives the first GPU and the versions of CUDA.

    Raises:
        UnavailableError: cuda-python is not installed, or no GPU answers.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise UnavailableError(
            "TensorRT engines need cuda-python to say what GPU they are for; run: pip install 'mmkd-edge[trt]'"
        ) from error
    properties = _cuda(runtime.cudaGetDeviceProperties(0))
    return DeviceFacts(
        name=properties.name.decode(),
        compute_capability=f"{properties.major}.{properties.minor}",
        multiprocessors=properties.multiProcessorCount,
        memory_bytes=properties.totalGlobalMem,
        cuda_runtime=_cuda(runtime.cudaRuntimeGetVersion()),
        cuda_driver=_cuda(runtime.cudaDriverGetVersion()),
    )


def workspace_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Gives what a builder may use: a quarter of the free memory, at most 1 GiB, which is plenty for a student."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    return min(_LARGEST_WORKSPACE_BYTES, free // _WORKSPACE_SHARE)


def read_sidecar(path: Path) -> EngineSidecar:
    """Reads an engine's sidecar.

    Raises:
        ArtifactError: it is no sidecar, or was written by another version.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=EngineSidecar)
    except msgspec.MsgspecError as error:
        raise ArtifactError(f"{path}: expected the sidecar of an engine: {error}; build the engine again") from error


def _bench(platform_row: Platform) -> _Bench:
    library = platform_row.engine_library
    assert library is not None  # choose_platform gave a platform that has the target
    return _Bench(
        module=_import_library(library),
        library=library,
        platform=platform_row,
        device=device_facts() if library == "tensorrt" else None,  # TensorRT-RTX builds ahead of time, for any RTX GPU
        workspace_bytes=workspace_bytes(),
    )


def _import_library(library: EngineLibrary) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        source = (
            "it comes with JetPack" if library == "tensorrt" else "install it with pip install 'mmkd-edge[trt-rtx]'"
        )
        raise UnavailableError(f"{library} is not installed on this machine ({source})") from error


def _build_one(bundle: Bundle, artifact: Artifact, bench: _Bench) -> EngineFile:
    built = engine_from_onnx(bundle.read(artifact.file), bench.module, workspace_bytes=bench.workspace_bytes)
    path = bundle.path.with_name(f"{bundle.path.stem}.{artifact.precision}.engine")
    sidecar = EngineSidecar(
        model_id=bundle.manifest.model_id,
        bundle_sha256=bundle.sha256,
        artifact=artifact.file,
        onnx_sha256=artifact.sha256,
        precision=artifact.precision,
        engine=path.name,
        engine_sha256=hashlib.sha256(built.plan).hexdigest(),
        size_bytes=len(built.plan),
        library=bench.library,
        library_version=str(bench.module.__version__),
        platform=bench.platform.name,
        architecture=host.machine(),
        device=bench.device,
        workspace_bytes=bench.workspace_bytes,
        strongly_typed=True,
        shapes={tensor.name: tensor.shape for tensor in bundle.manifest.models[0].inputs},
        layers=built.layers,
    )
    write_file(path, built.plan)
    write_file(path.with_name(path.name + ".log"), built.log.encode())
    # Last: a sidecar whose hash fits its engine means that all three are there.
    document = msgspec.json.format(msgspec.json.encode(sidecar), indent=2) + b"\n"
    write_file(path.with_name(path.name + ".json"), document)
    return EngineFile(path=path, sidecar=sidecar)


def _logger(module: Any) -> Any:
    """A logger that keeps what people read and the list of layers; TensorRT writes to the terminal otherwise."""
    severity = module.ILogger.Severity

    class Logger(module.ILogger):  # type: ignore[misc] # the library's class, without types
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.lines: list[str] = []
            self.layers = ""
            self.last_error = ""

        def log(self, level: Any, message: str) -> None:
            """Keeps one message."""
            if message.startswith(_LAYER_LIST):
                self.layers = message.removeprefix(_LAYER_LIST).strip()
            if level != severity.VERBOSE:
                self.lines.append(f"{level.name}: {message}")
            if level in (severity.ERROR, severity.INTERNAL_ERROR):
                self.last_error = message

    return Logger()


def _cuda(answer: tuple[Any, Any]) -> Any:
    """Gives the value of a CUDA call, which comes behind its error code."""
    error, value = answer
    if int(error) != 0:
        raise UnavailableError(f"no GPU answers: {error.name}; check the driver with nvidia-smi or tegrastats")
    return value
