"""Engines built in a process of their own: a graph that ends or hangs TensorRT, or takes all memory, does so there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmkd_edge.apart import ProcessLimits, ProcessLines, answering, end, end_of, start_apart
from mmkd_edge.bundle.manifest import Precision
from mmkd_edge.errors import BackendError, MmkdError, UnavailableError, error_named, first_line
from mmkd_export.plan import ExportPlan
from mmkd_export.platforms import Platform, PlatformName, platform_named
from mmkd_export.targets.trt import build_engines
from mmkd_report.schema.export import BuiltEngine

LIMITS = ProcessLimits(step_s=600.0, memory_bytes=8 << 30, file_bytes=1 << 30)
"""Of all engines of one call: a student takes a minute or two on a small board, ahead of time less than a second."""


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    bundle: str
    platform: PlatformName
    precisions: tuple[Precision, ...] | None
    limits: ProcessLimits


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What was built, or the name of an error in `mmkd_edge.errors` and all that it says."""

    engines: tuple[BuiltEngine, ...] = ()
    kind: str = ""
    message: str = ""


def build_planned_engines(plan: ExportPlan) -> tuple[BuiltEngine, ...]:
    """Builds engines of the precisions that a plan names, of all that its bundle holds where it names none."""
    named: list[Precision] = [name for name in ("fp32", "fp16", "int8") if name in plan.precisions]
    wanted = tuple(named) if named and "auto" not in plan.precisions else None
    return build_engines_apart(plan.output, plan.platform_row, precisions=wanted)


def build_engines_apart(
    bundle: Path,
    platform: Platform,
    *,
    precisions: Sequence[Precision] | None = None,
    limits: ProcessLimits = LIMITS,
) -> tuple[BuiltEngine, ...]:
    """What `build_engines` does, in a process of its own.

    Args:
        bundle: the written bundle.
        platform: what the engines are for.
        precisions: of the artifacts; None takes all.
        limits: what the process may take.

    Raises:
        UnavailableError: no engine can be built on this machine, or no process be started.
        BackendError: the library refuses an artifact, or the process did not come to its end; the message says how.
        BundleError: the bundle is damaged, or has a graph that no engine may be handed.
    """
    request = _Request(
        bundle=str(bundle),
        platform=platform.name,
        precisions=None if precisions is None else tuple(precisions),
        limits=limits,
    )
    try:
        process = start_apart("mmkd_export.targets.trt_process:main", msgspec.json.encode(request))
    except OSError as error:
        raise UnavailableError(f"{bundle}: no engine was built: cannot start a process: {error.strerror}") from error
    try:
        line = ProcessLines(process).next(limit_s=limits.step_s)
        told = "" if line is not None else end_of(process)
    finally:
        end(process)
    if line is None:
        raise BackendError(
            f"{bundle}: no engine was built: the process that built it failed: {told}; do not use this bundle with "
            "TensorRT"
        )
    answer = msgspec.json.decode(line, type=_Answer)
    if answer.kind:
        raise error_named(answer.kind)(answer.message)
    return answer.engines


def main() -> None:
    """Read a request on stdin, carry it out, and answer on stdout."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=_Request)
    with answering(request.limits) as answers:
        answers.write(msgspec.json.encode(_answer_to(request)) + b"\n")


def _answer_to(request: _Request) -> _Answer:
    try:
        platform = platform_named(request.platform)
        return _Answer(engines=build_engines(Path(request.bundle), platform, precisions=request.precisions))
    except MmkdError as error:
        return _Answer(kind=type(error).__name__, message=str(error))
    except Exception as error:
        told = "it takes too much memory" if isinstance(error, MemoryError) else first_line(error)
        return _Answer(kind=BackendError.__name__, message=f"{request.bundle}: no engine was built: {told}")
