"""What runs in the process of a trial: opens a bundle in each way that it is told, and holds it against its answers.

Limits itself before it touches the bundle: memory, processor time, files written, no core dump. Says on its output, a
line of JSON for each way, how that went.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing

import msgspec

from mmkd_edge.apart import ProcessLimits, answering, limit_processor
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
        limits: of the process; its steps are the ways.
    """

    bundle: str
    bundle_sha256: str
    ways: tuple[tuple[str, Setup], ...]
    questions: bool
    limits: ProcessLimits


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
    with answering(request.limits) as answers:
        for event in _events(request):
            answers.write(msgspec.json.encode(event) + b"\n")
            answers.flush()


def _events(request: TrialRequest) -> Iterator[TrialEvent]:
    """That it has begun, and how each way went."""
    yield TrialEvent()
    checked: set[str] = set()
    for model, setup in request.ways:
        limit_processor(request.limits)
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
