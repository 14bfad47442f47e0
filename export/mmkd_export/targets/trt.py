"""The target `trt`: engines beside a bundle, `<stem>.<precision>.engine`, with what each was built from and for.

Owns the files. How an engine is built is `mmkd_edge.backends.trt`'s, so that the runtime builds by the same code; what
an engine was built for stands in its sidecar, which is `sidecar.py`'s.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform as host
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mmkd_edge.backends.trt.build import engine_from_onnx, workspace_bytes
from mmkd_edge.backends.trt.cuda import device_facts, free_bytes, load_runtime
from mmkd_edge.backends.trt.key import DeviceFacts, EngineLibrary, engine_profiles
from mmkd_edge.backends.trt.needs import load_library
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.files import write_file
from mmkd_edge.bundle.manifest import Artifact, Precision
from mmkd_edge.cli.run import shell_line
from mmkd_edge.errors import BackendError, UnavailableError
from mmkd_edge.install.sandbox import check_graphs
from mmkd_export.plan import only_student
from mmkd_export.platforms import Platform, PlatformName
from mmkd_export.targets.sidecar import engine_key
from mmkd_report.schema.export import BuiltEngine, EngineSidecar, encode_document


@dataclass(frozen=True, kw_only=True)
class _Builder:
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


def platform_here() -> PlatformName:
    """The platform of this machine's TensorRT, or jp6.2 where there is none."""
    if importlib.util.find_spec("tensorrt") is None:
        return "jp6.2"
    import tensorrt

    major, minor = (int(part) for part in str(tensorrt.__version__).split(".")[:2])
    return "jp6.2" if (major, minor) < (10, 13) else "jp7"


def build_engines(
    bundle: Path, platform: Platform, *, precisions: Sequence[Precision] | None = None
) -> tuple[BuiltEngine, ...]:
    """Builds an engine for the artifacts of a bundle and writes `<stem>.<precision>.engine` beside it.

    Args:
        bundle: the written bundle.
        platform: what the engines are for; it has an engine library.
        precisions: of the artifacts; None takes all.

    Raises:
        UnavailableError: no engine can be built on this machine; the message has the command for the device.
        BackendError: the library refuses an artifact.
        BundleError: the bundle is damaged, or has a graph that no engine may be handed.
    """
    try:
        with Bundle.open(bundle) as opened:
            check_graphs(opened)
            builder = _builder(platform)
            artifacts = only_student(opened).artifacts
            wanted = [
                found
                for found in artifacts
                if found.format == "onnx" and (precisions is None or found.precision in precisions)
            ]
            return tuple(_build_one(opened, artifact, builder) for artifact in wanted)
    except (UnavailableError, BackendError) as error:
        command = shell_line("mmkd-export", bundle.name, "--target", "trt", "--platform", platform.name)
        raise type(error)(
            f"no engine was built: {error}\n{bundle} is written and complete; on the device run: {command}"
        ) from error


def _builder(platform: Platform) -> _Builder:
    library = platform.engine_library
    assert library is not None  # the target exists for no other platform
    module = load_library(library)
    device, gpu_free_bytes = None, None  # TensorRT-RTX builds ahead of time, for any RTX GPU
    if library == "tensorrt":
        runtime = load_runtime()
        device, gpu_free_bytes = device_facts(runtime), free_bytes(runtime)
    return _Builder(
        module=module,
        library=library,
        platform=platform,
        device=device,
        workspace_bytes=workspace_bytes(gpu_free_bytes=gpu_free_bytes),
    )


def _build_one(bundle: Bundle, artifact: Artifact, builder: _Builder) -> BuiltEngine:
    inputs = bundle.manifest.models[0].inputs
    profiles = engine_profiles(inputs, artifact.batch)
    timings = None if builder.timing_cache_name is None else bundle.path.with_name(builder.timing_cache_name)
    built = engine_from_onnx(
        bundle.read(artifact.file),
        builder.module,
        workspace_bytes=builder.workspace_bytes,
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
        library=builder.library,
        library_version=str(builder.module.__version__),
        platform=builder.platform.name,
        architecture=host.machine(),
        device=None if builder.device is None else msgspec.to_builtins(builder.device),
        workspace_bytes=builder.workspace_bytes,
        strongly_typed=True,
        tf32=False,
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
    write_file(path.with_name(path.name + ".json"), encode_document(sidecar))
    return BuiltEngine(path=str(path), sidecar=sidecar)


def _read_if_there(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
