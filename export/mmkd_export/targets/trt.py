"""Engines `<stem>.<precision>.engine` with sidecars, by a child process: a graph may crash or hang TensorRT."""

from __future__ import annotations

import hashlib
import platform as host
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmkd_documents.errors import DocumentError
from mmkd_documents.export import BuiltEngine, EngineSidecar, decode_sidecar, encode_document
from mmkd_edge.apart import ProcessLimits, ProcessLines, answering, describe_end, end_process, start_apart
from mmkd_edge.backends.trt.build import DeviceFacts, EngineFacts, engine_from_onnx, workspace_bytes
from mmkd_edge.backends.trt.cuda import device_facts, free_bytes, load_runtime
from mmkd_edge.backends.trt.needs import installed_library, load_library
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.files import write_file
from mmkd_edge.bundle.manifest import Precision
from mmkd_edge.errors import (
    ArtifactError,
    BackendError,
    MmkdError,
    UnavailableError,
    UsageError,
    find_error_class,
    first_line,
)
from mmkd_edge.opening.sandbox import check_graphs
from mmkd_export.plan import Platform, PlatformName, only_student, platform_named

# Per call: a student takes a minute or two on a small board, ahead of time less than a second
LIMITS = ProcessLimits(step_s=600.0, memory_bytes=8 << 30, file_bytes=1 << 30)


def platform_here() -> PlatformName:
    """Return the platform of the installed TensorRT or TensorRT-RTX, jp6.2 without one."""
    library = installed_library()
    if library is None:
        return "jp6.2"
    if library == "tensorrt_rtx":
        return "trt-rtx"
    major, minor = (int(part) for part in str(load_library(library).__version__).split(".")[:2])
    return "jp6.2" if (major, minor) < (10, 13) else "jp7"


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    bundle: str
    platform: PlatformName
    precisions: tuple[Precision, ...] | None
    limits: ProcessLimits


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    engines: tuple[BuiltEngine, ...] = ()
    error: str = ""
    message: str = ""


def build_engines_apart(
    bundle: Path, platform: Platform, precisions: Sequence[Precision] | None = None, *, limits: ProcessLimits = LIMITS
) -> tuple[BuiltEngine, ...]:
    """Run `build_engines` in a child process; raise BackendError if it fails."""
    request = _Request(
        bundle=str(bundle),
        platform=platform.name,
        precisions=None if precisions is None else tuple(precisions),
        limits=limits,
    )
    try:
        process = start_apart("mmkd_export.targets.trt:main", msgspec.json.encode(request))
    except OSError as error:
        raise UnavailableError(f"{bundle}: no engine was built: cannot start a process: {error.strerror}") from error
    try:
        line = ProcessLines(process).next(limit_s=limits.step_s)
        reason = "" if line is not None else describe_end(process)
    finally:
        end_process(process)
    if line is None:
        raise BackendError(
            f"{bundle}: no engine was built: the process that built it failed: {reason}; do not use this bundle with "
            "TensorRT"
        )
    answer = msgspec.json.decode(line, type=_Answer)
    if answer.error:
        raise find_error_class(answer.error)(answer.message)
    return answer.engines


def main() -> None:
    """Build in the child process: request on stdin, answer on stdout."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=_Request)
    with answering(request.limits) as answers:
        try:
            platform = platform_named(request.platform)
            answer = _Answer(engines=build_engines(Path(request.bundle), platform, request.precisions))
        except MmkdError as error:
            answer = _Answer(error=type(error).__name__, message=str(error))
        except Exception as error:
            reason = "it takes too much memory" if isinstance(error, MemoryError) else first_line(error)
            message = f"{request.bundle}: no engine was built: {reason}"
            answer = _Answer(error=BackendError.__name__, message=message)
        answers.write(msgspec.json.encode(answer) + b"\n")


def build_engines(
    bundle: Path, platform: Platform, precisions: Sequence[Precision] | None = None
) -> tuple[BuiltEngine, ...]:
    """Build engines of all ONNX artifacts, or some precisions, in the bundle's folder.

    Raises UnavailableError where engines cannot be built, UsageError for several students or an absent precision,
    BackendError if TensorRT refuses an artifact, BundleError for a damaged bundle or a forbidden graph.
    """
    try:
        with Bundle.open(bundle) as opened:
            check_graphs(opened)
            return _build_all(opened, platform, precisions)
    except (UnavailableError, BackendError) as error:
        command = shlex.join(["mmkd-export", bundle.name, "--target", "trt", "--platform", platform.name])
        raise type(error)(
            f"no engine was built: {error}{_rtx_advice(platform)}\n"
            f"{bundle} is written and complete; on the device run: {command}"
        ) from error


def _rtx_advice(platform: Platform) -> str:
    """Return how to build for GeForce RTX, where TensorRT itself was expected and is not installed."""
    library = installed_library()
    if platform.engine_library != "tensorrt" or library == "tensorrt":
        return ""
    if library == "tensorrt_rtx":
        return "; this machine has TensorRT-RTX: give --platform trt-rtx"
    return "; for a GeForce RTX run pip install 'mmkd-edge[trt-rtx]' and give --platform trt-rtx"


def _build_all(bundle: Bundle, platform: Platform, precisions: Sequence[Precision] | None) -> tuple[BuiltEngine, ...]:
    library = platform.engine_library
    assert library is not None  # the target exists for no other platform
    module = load_library(library)
    device, gpu_free_bytes, timings = None, None, None
    if library == "tensorrt":  # TensorRT-RTX builds ahead of time, for any RTX GPU; with a cache it would need one
        runtime = load_runtime()
        device, gpu_free_bytes = device_facts(runtime), free_bytes(runtime)
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", device.name).strip("-").lower()
        name = f"{library}-{module.__version__}-{gpu}-cuda{device.cuda_runtime}.timing"
        timings = bundle.path.with_name(name)
    workspace = workspace_bytes(gpu_free_bytes=gpu_free_bytes)
    entry, engines = only_student(bundle, "trt"), []
    graphs = {artifact.precision: artifact for artifact in entry.artifacts if artifact.format == "onnx"}
    absent = [precision for precision in precisions or () if precision not in graphs]
    if absent:
        raise UsageError(
            f"{bundle.path}: --precision {absent[0]}: expected a graph of it to build an engine of, got "
            f"{', '.join(graphs)}; export the checkpoint with --precision {absent[0]}"
        )
    for artifact in [graphs[precision] for precision in precisions or graphs]:
        built = engine_from_onnx(
            bundle.read(artifact.file),
            module,
            workspace_bytes=workspace,
            timing_cache=None if timings is None else timings.read_bytes() if timings.is_file() else b"",
        )
        path = bundle.path.with_name(f"{bundle.path.stem}.{artifact.precision}.engine")
        facts = EngineFacts(
            onnx_sha256=artifact.sha256,
            library=library,
            library_version=str(module.__version__),
            architecture=host.machine(),
            device=device,
        )
        inputs = {name: value for name, value in msgspec.to_builtins(facts).items() if name != "format_version"}
        sidecar = EngineSidecar(
            **inputs,
            model_id=bundle.manifest.model_id,
            bundle_sha256=bundle.sha256,
            artifact=artifact.file,
            precision=artifact.precision,
            engine=path.name,
            engine_sha256=hashlib.sha256(built.plan).hexdigest(),
            size_bytes=len(built.plan),
            platform=platform.name,
            workspace_bytes=workspace,
            shapes={tensor.name: tensor.shape for tensor in entry.inputs},
            key=facts.key,
            layers=built.layers,
        )
        if timings is not None:
            write_file(timings, built.timing_cache)
        write_file(path, built.plan)
        write_file(path.with_name(path.name + ".log"), built.log.encode())
        # Last: a matching sidecar means that all three are complete.
        write_file(path.with_name(path.name + ".json"), encode_document(sidecar))
        engines.append(BuiltEngine(path=str(path), sidecar=sidecar))
    return tuple(engines)


def engine_device(sidecar: EngineSidecar) -> DeviceFacts | None:
    """Return the GPU of an engine's build, if any."""
    return msgspec.convert(sidecar.device, DeviceFacts | None)


def read_sidecar(path: Path) -> EngineSidecar:
    """Read a sidecar; raise ArtifactError if damaged or of another version."""
    try:
        sidecar = decode_sidecar(path.read_bytes())
        engine_device(sidecar)
    except (DocumentError, msgspec.ValidationError) as error:
        raise ArtifactError(f"{path}: {error}") from error
    return sidecar
