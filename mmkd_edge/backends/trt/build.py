"""Build engines from ONNX graphs with TensorRT 10.3 to 11 or TensorRT-RTX, and keep them in `mmkd-edge/engines`.

A plan runs on one kind of GPU, driver and library. It is a program: load only trusted engines. From the user's cache
folder TensorRT gets its bytes only if the sidecar has the expected facts and SHA-256, and nobody else can write there.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mmkd_edge.backends.trt.needs import EngineLibrary
from mmkd_edge.bundle.files import cache_folder, make_cache_folder, new_sha256, read_first, write_file
from mmkd_edge.bundle.strict_json import json_bytes
from mmkd_edge.errors import BackendError, UsageError
from mmkd_edge.system import BINARY, lock_file

FORMAT_VERSION = 2
MAX_ENGINES = 32
"""Those used last: a station that gets a bundle a month has two years of them."""
_EXPECTED = "a file of the engine cache"
_MAX_SIDECAR_BYTES = 1 << 20
_MAX_ENGINE_BYTES = 1 << 30

T = TypeVar("T")


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The GPU of an engine; versions as CUDA counts, 12060 is 12.6."""

    name: str
    compute_capability: str
    multiprocessors: int
    memory_bytes: int  # in whole GiB (of the board if shared), since the kernel's part varies
    cuda_runtime: int
    cuda_driver: int


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The inputs of a build; the graph decides the precision."""

    format_version: int = FORMAT_VERSION
    onnx_sha256: str
    library: EngineLibrary
    library_version: str
    architecture: str
    device: DeviceFacts | None
    strongly_typed: bool = True
    tf32: bool = False  # whether float32 products may be rounded to ten bits

    @property
    def key(self) -> str:
        """SHA-256 of all facts."""
        return new_sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class _CachedEngine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    facts: EngineFacts
    engine_sha256: str
    size_bytes: int


def load_engine(
    facts: EngineFacts, *, load: Callable[[bytes], T], build: Callable[[], BuiltPlan], folder: Path | None = None
) -> tuple[T, str]:
    """Load the cached engine for these facts, else build and cache it; return it and its origin in words.

    Other processes wait. `load` makes an engine from bytes; BackendError if TensorRT refuses them.
    """
    try:
        folder = make_cache_folder(cache_folder("engines") if folder is None else folder)
    except UsageError as error:
        return load(build().plan), f"built at this start and not kept: {error}"
    name = f"{facts.onnx_sha256[:16]}-{facts.key[:32]}"
    with _alone(folder / f"{name}.lock"):
        plan, why = _read(folder, name, facts)
        if plan is not None:
            try:
                engine = load(plan)
            except BackendError as error:
                why = f"the one in the cache does not load: {error}"
            else:
                with contextlib.suppress(OSError):  # read-only folder
                    os.utime(folder / f"{name}.engine")
                return engine, f"from the cache: {folder / name}.engine"
        built = build()
        engine = load(built.plan)
        try:
            _write(folder, name, facts, built)
        except UsageError as error:
            return engine, f"built at this start and not kept: {error}"
    return engine, f"built at this start: {why}"


def _read(folder: Path, name: str, facts: EngineFacts) -> tuple[bytes | None, str]:
    try:
        data = read_first(folder / f"{name}.json", _MAX_SIDECAR_BYTES, expected=_EXPECTED)
        sidecar = msgspec.json.decode(data, type=_CachedEngine)
        plan = read_first(folder / f"{name}.engine", _MAX_ENGINE_BYTES, expected=_EXPECTED)
    except (UsageError, OSError):
        return None, "none was in the cache"
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return None, f"the sidecar of the one in the cache is damaged: {error}"
    if sidecar.facts != facts:
        return None, "the one in the cache was built for something else"
    if len(plan) != sidecar.size_bytes or new_sha256(plan).hexdigest() != sidecar.engine_sha256:
        return None, "the one in the cache is damaged: its SHA-256 is not that of its sidecar"
    return plan, ""


def _write(folder: Path, name: str, facts: EngineFacts, built: BuiltPlan) -> None:
    sidecar = _CachedEngine(facts=facts, engine_sha256=new_sha256(built.plan).hexdigest(), size_bytes=len(built.plan))
    write_file(folder / f"{name}.log", built.log.encode())
    write_file(folder / f"{name}.engine", built.plan)
    # Last: a sidecar whose hash fits its engine means that the engine is whole.
    write_file(folder / f"{name}.json", json_bytes(sidecar))
    with contextlib.suppress(OSError):  # another process may remove them too
        by_age = sorted(folder.glob("*.engine"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in by_age[MAX_ENGINES:]:
            if path.stem != name:
                for suffix in (".json", ".engine", ".log", ".lock"):
                    path.with_suffix(suffix).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process or thread at a time; without file locks each builds its own."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o600)
            stack.callback(os.close, descriptor)
            lock_file(descriptor, wait=True)
        yield


_MAX_WORKSPACE_BYTES = 1 << 30
_WORKSPACE_DIVISOR = 4  # of the free memory, which a Jetson's GPU and CPU share
_MAX_ERRORS = 4
_LAYER_LIST = "Engine Layer Information:"


@dataclass(frozen=True, kw_only=True)
class BuiltPlan:
    """A built engine, the builder's layers and messages, and its timing cache if requested."""

    plan: bytes
    layers: str
    log: str
    timing_cache: bytes


def engine_from_onnx(
    model: bytes, module: Any, *, workspace_bytes: int, timing_cache: bytes | None = None
) -> BuiltPlan:
    """Build a strongly typed engine; BackendError with the library's message if it refuses the graph.

    Args:
        module: `tensorrt` or `tensorrt_rtx`.
        timing_cache: from an earlier build here, empty for the first; None for none.
    """
    logger = engine_logger(module)
    builder = module.Builder(logger)
    network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = module.OnnxParser(network, logger)
    if not parser.parse(model):
        faults = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise BackendError(f"{module.__name__} {module.__version__} cannot read the graph: {faults}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, workspace_bytes)
    # It is on by default, and rounds the factors of float32 products to ten bits: three digits instead of seven.
    config.clear_flag(module.BuilderFlag.TF32)
    if timing_cache is not None:
        config.set_timing_cache(config.create_timing_cache(timing_cache), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(
            f"{module.__name__} {module.__version__} cannot build the graph with {workspace_bytes >> 20} MiB of "
            f"workspace: {logger.faults()}; where it found no implementation, memory is the "
            "usual cause: close other programs"
        )
    cache = None if timing_cache is None else config.get_timing_cache()
    return BuiltPlan(
        plan=bytes(plan),
        layers=logger.layers,
        log="\n".join(logger.lines) + "\n",
        timing_cache=b"" if cache is None else bytes(cache.serialize()),
    )


def workspace_bytes(meminfo: Path = Path("/proc/meminfo"), *, gpu_free_bytes: int | None = None) -> int:
    """Return a builder's memory: a quarter of the free (GPU) memory, at most 1 GiB."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    if gpu_free_bytes is not None:
        free = min(free, gpu_free_bytes)
    return min(_MAX_WORKSPACE_BYTES, free // _WORKSPACE_DIVISOR)


def engine_logger(module: Any, *, most_lines: int | None = None) -> Any:
    """Return a logger that collects the list of layers and the newest `most_lines` messages."""
    severity = module.ILogger.Severity

    class Logger(module.ILogger):  # type: ignore[misc] # the library's class, without types
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.lines: deque[str] = deque(maxlen=most_lines)
            self.errors: deque[str] = deque(maxlen=_MAX_ERRORS)
            self.layers = ""

        def log(self, level: Any, message: str) -> None:
            if message.startswith(_LAYER_LIST):
                self.layers = message.removeprefix(_LAYER_LIST).strip()
            if level != severity.VERBOSE:
                self.lines.append(f"{level.name}: {message}")
            if level in (severity.ERROR, severity.INTERNAL_ERROR):
                self.errors.append(message)

        def faults(self) -> str:
            """Return the errors since the last call."""
            reasons = "; ".join(self.errors) or "it gives no reason"
            self.errors.clear()
            return reasons

    return Logger()
