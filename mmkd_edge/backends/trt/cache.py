"""Engines built on this machine, in the user's cache folder `mmkd-edge/engines`.

An engine is a program: TensorRT gets its bytes only if the sidecar has the expected facts and SHA-256, in a folder that
nobody else can write.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from mmkd_edge.backends.trt.build import BuiltPlan
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
        for engine in by_age[MAX_ENGINES:]:
            if engine.stem != name:
                for suffix in (".json", ".engine", ".log", ".lock"):
                    engine.with_suffix(suffix).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process or thread at a time; without file locks each builds its own."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o600)
            stack.callback(os.close, descriptor)
            lock_file(descriptor, wait=True)
        yield
