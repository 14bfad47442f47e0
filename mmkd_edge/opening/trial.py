"""What runs in the process of a trial: opens a bundle in each way that it is told, and holds it against its answers.

Limits itself before it touches the bundle: memory, processor time, no files written, no core dump. Says on its output,
a line of JSON for each way, how that went; nothing that a library prints gets there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing

import msgspec

from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.errors import BackendError, BundleError, MmkdError, first_line
from mmkd_edge.opening.first_questions import ask_thoroughly
from mmkd_edge.predict.engine import open_engine
from mmkd_edge.predict.setup import Setup

QUESTIONS_S = 3.0
"""What the golden windows of one way may take together: all of them, of a student on a machine that does much else."""


class TrialRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is tried, and within which limits.

    Attributes:
        bundle: its path.
        bundle_sha256: of the file that is meant.
        ways: the name of a student, and how it is opened.
        questions: whether it must answer its golden windows.
        memory_bytes: what the process may allocate.
        processor_s: of one way.
    """

    bundle: str
    bundle_sha256: str
    ways: tuple[tuple[str, Setup], ...]
    questions: bool
    memory_bytes: int
    processor_s: int


class TrialEvent(msgspec.Struct, frozen=True, kw_only=True):
    """How one way went; the first of all says that the trial has begun.

    Attributes:
        kind: the name of an error in `mmkd_edge.errors`; empty where all is well.
        message: all that it says.
    """

    kind: str = ""
    message: str = ""


def main() -> None:
    """Read a request on stdin, carry it out, and answer on stdout."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=TrialRequest)
    with os.fdopen(os.dup(1), "wb") as answers:
        quiet = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(quiet, descriptor)
        _limit_memory(request.memory_bytes)
        for event in _events(request):
            answers.write(msgspec.json.encode(event) + b"\n")
            answers.flush()


def _events(request: TrialRequest) -> Iterator[TrialEvent]:
    """That it has begun, and how each way went."""
    yield TrialEvent()
    checked: set[str] = set()
    for model, setup in request.ways:
        _limit_processor(request.processor_s)
        yield _event_of(request, model, setup, checked)


def _event_of(request: TrialRequest, model: str, setup: Setup, checked: set[str]) -> TrialEvent:
    try:
        with Bundle.open(request.bundle) as bundle:
            _check_is_meant(bundle, request)
            entry = bundle.model(model)
            if model not in checked:
                _check_standard(bundle, entry)
                checked.add(model)
            with closing(open_engine(bundle, entry, setup)) as engine:
                if request.questions:
                    ask_thoroughly(bundle, engine, limit_s=QUESTIONS_S)
    except MmkdError as error:
        return TrialEvent(kind=type(error).__name__, message=str(error))
    except Exception as error:
        told = "it takes too much memory" if isinstance(error, MemoryError) else first_line(error)
        return TrialEvent(kind=BackendError.__name__, message=f"backend {setup.backend!r}: {told}")
    return TrialEvent()


def _check_is_meant(bundle: Bundle, request: TrialRequest) -> None:
    if bundle.sha256 != request.bundle_sha256:
        raise BundleError(f"{bundle.path}: the file was exchanged while it was opened; open it again")


def _limit_memory(memory_bytes: int) -> None:
    import resource

    _lower(resource.RLIMIT_DATA, memory_bytes)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_CORE, 0)


def _limit_processor(processor_s: int) -> None:
    """The next way may take as long; the system ends the process after that."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + processor_s, hard=False)


def _lower(kind: int, limit: int, *, hard: bool = True) -> None:
    import resource

    _, most = resource.getrlimit(kind)
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(kind, (limit, limit if hard else most))


def _check_standard(bundle: Bundle, entry: ModelEntry) -> None:
    """What onnx's own checker says of the graphs, where it is installed: it refuses what makes some engines crash."""
    try:
        import onnx
    except ImportError:
        return
    for artifact in (*entry.artifacts, *(entry.streaming.artifacts if entry.streaming else ())):
        if artifact.format != "onnx":
            continue
        try:
            onnx.checker.check_model(bundle.read(artifact.file), full_check=True)
        except Exception as error:
            raise BundleError(
                f"{bundle.path}: {artifact.file!r}: not valid ONNX: {first_line(error)}; export the bundle again"
            ) from error
