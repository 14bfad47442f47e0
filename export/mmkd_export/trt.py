"""TensorRT engines from a bundle's artifacts: one builder path for TensorRT 10.3 to 11 and for TensorRT-RTX.

Owns how an engine is built. The graph decides every precision: networks are strongly typed, no builder flag or
calibrator changes a type. The engine is the plain plan, so that trtexec, Polygraphy, DeepStream and Triton load it;
nothing is put in front of it. What it was built for stands in its sidecar, which is `sidecar.py`'s.

An engine is a program for one GPU, driver and library: a cache of an artifact, never what is shipped. Load only engines
that were built on the machine, or that come from someone who may run programs on it.
"""

from __future__ import annotations

import hashlib
import importlib
import platform as host
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mmkd_edge.bundle import Bundle
from mmkd_edge.errors import BackendError, UnavailableError
from mmkd_edge.files import write_file
from mmkd_edge.manifest import Artifact, Precision
from mmkd_export.plan import only_student
from mmkd_export.platforms import EngineLibrary, Platform
from mmkd_export.sidecar import DeviceFacts, EngineSidecar, Profiles, engine_key, engine_profiles

_LARGEST_WORKSPACE_BYTES = 1 << 30
_WORKSPACE_SHARE = 4  # of the free memory: a Jetson's GPU and CPU share theirs
_LAYER_LIST = "Engine Layer Information:"


@dataclass(frozen=True, kw_only=True)
class EngineFile:
    """An engine that was written, with its sidecar `<path>.json` and its build log `<path>.log`."""

    path: Path
    sidecar: EngineSidecar


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """What a builder gave.

    Attributes:
        plan: the engine itself, plain.
        layers: the builder's own list of layers.
        log: its messages, one a line.
        timing_cache: what it measured, for the next build on this device; empty where none was asked for.
    """

    plan: bytes
    layers: str
    log: str
    timing_cache: bytes


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What all engines of one call are built with."""

    module: Any
    library: EngineLibrary
    platform: Platform
    device: DeviceFacts | None
    workspace_bytes: int

    @property
    def timing_cache_name(self) -> str | None:
        """The file beside the bundle in which builds for this device share what they measured.

        None with TensorRT-RTX, which measures where the engine runs: with a cache its builder would ask for a GPU.
        """
        if self.device is None:
            return None
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", self.device.name).strip("-").lower()
        return f"{self.library}-{self.module.__version__}-{gpu}-cuda{self.device.cuda_runtime}.timing"


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
            artifacts = only_student(opened).artifacts
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


def engine_from_onnx(
    model: bytes,
    module: Any,
    *,
    workspace_bytes: int,
    profiles: Profiles | None = None,
    timing_cache: bytes | None = None,
) -> BuiltEngine:
    """Builds a strongly typed engine from an ONNX graph.

    Args:
        model: the graph.
        module: `tensorrt` or `tensorrt_rtx`.
        workspace_bytes: what the builder may use.
        profiles: shapes of the inputs whose batch may vary.
        timing_cache: what an earlier build on this device measured, empty where there was none; None attaches none.

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
    if profiles:
        _add_profile(builder, config, profiles)
    if timing_cache is not None:
        config.set_timing_cache(config.create_timing_cache(timing_cache), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(
            f"{module.__name__} {module.__version__} cannot build the graph with {workspace_bytes >> 20} MiB of "
            f"workspace: {logger.last_error or 'it gives no reason'}; where it found no implementation, memory is the "
            "usual cause: close other programs"
        )
    cache = None if timing_cache is None else config.get_timing_cache()
    return BuiltEngine(
        plan=bytes(plan),
        layers=logger.layers,
        log="\n".join(logger.lines) + "\n",
        timing_cache=b"" if cache is None else bytes(cache.serialize()),
    )


def _add_profile(builder: Any, config: Any, profiles: Profiles) -> None:
    profile = builder.create_optimization_profile()
    for name, (smallest, optimal, largest) in profiles.items():
        profile.set_shape(name, smallest, optimal, largest)
    if config.add_optimization_profile(profile) < 0:
        raise BackendError(f"TensorRT refuses the optimisation profile {profiles}; export without --dim")


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


def workspace_bytes(meminfo: Path = Path("/proc/meminfo"), *, gpu_free_bytes: int | None = None) -> int:
    """Gives what a builder may use: a quarter of the free memory, at most 1 GiB, which is plenty for a student.

    Args:
        meminfo: the kernel's account of the memory.
        gpu_free_bytes: free memory of the GPU, on a Jetson the same memory; None where the build uses none.
    """
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    if gpu_free_bytes is not None:
        free = min(free, gpu_free_bytes)
    return min(_LARGEST_WORKSPACE_BYTES, free // _WORKSPACE_SHARE)


def gpu_free_bytes() -> int:
    """Gives the free memory of the first GPU.

    Raises:
        UnavailableError: no GPU answers.
    """
    from cuda.bindings import runtime

    error, free, _ = runtime.cudaMemGetInfo()
    return int(_cuda((error, free)))


def _bench(platform_row: Platform) -> _Bench:
    library = platform_row.engine_library
    assert library is not None  # choose_platform gave a platform that has the target
    module = _import_library(library)
    # TensorRT-RTX builds ahead of time, for any RTX GPU.
    device = device_facts() if library == "tensorrt" else None
    return _Bench(
        module=module,
        library=library,
        platform=platform_row,
        device=device,
        workspace_bytes=workspace_bytes(gpu_free_bytes=None if device is None else gpu_free_bytes()),
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
    inputs = bundle.manifest.models[0].inputs
    profiles = engine_profiles(inputs, artifact.batch)
    timings = None if bench.timing_cache_name is None else bundle.path.with_name(bench.timing_cache_name)
    built = engine_from_onnx(
        bundle.read(artifact.file),
        bench.module,
        workspace_bytes=bench.workspace_bytes,
        profiles=profiles,
        timing_cache=None if timings is None else _read_if_there(timings),
    )
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
        shapes={tensor.name: tensor.shape if artifact.batch is None else (-1, *tensor.shape[1:]) for tensor in inputs},
        profiles=profiles,
        key="",
        layers=built.layers,
    )
    sidecar = msgspec.structs.replace(sidecar, key=engine_key(sidecar))
    if timings is not None:
        write_file(timings, built.timing_cache)
    write_file(path, built.plan)
    write_file(path.with_name(path.name + ".log"), built.log.encode())
    # Last: a sidecar whose hash fits its engine means that all three are there.
    document = msgspec.json.format(msgspec.json.encode(sidecar), indent=2) + b"\n"
    write_file(path.with_name(path.name + ".json"), document)
    return EngineFile(path=path, sidecar=sidecar)


def _read_if_there(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


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
