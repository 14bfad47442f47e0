"""The child process of a sandbox check: opens a bundle with each config, and runs its self-test."""

from __future__ import annotations

import sys

import msgspec

from mmkd_edge.apart import ProcessLimits, answering, limit_processor
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.errors import BackendError, BundleError, MmkdError, first_line
from mmkd_edge.opening.selftest import run_selftest_within
from mmkd_edge.predict.student import Config, OpenStudent, open_student

_SELFTEST_S = 3.0
"""Time for the golden windows of a config."""


class SandboxRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Pairs of student name and config; the limits of a step apply per config."""

    bundle: str
    bundle_sha256: str
    configs: tuple[tuple[str, Config], ...]
    selftest: bool
    limits: ProcessLimits


class SandboxResult(msgspec.Struct, frozen=True, kw_only=True):
    """Name and message of an `mmkd_edge.errors` error, or empty; the first result marks the start."""

    error: str = ""
    message: str = ""


def main() -> None:
    """Read a request on stdin; answer on stdout."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=SandboxRequest)
    # The last config of each student stays open, so that the limit of memory is that of all of them together.
    opened: dict[str, OpenStudent] = {}
    with answering(request.limits) as answers:
        answers.write(msgspec.json.encode(SandboxResult()) + b"\n")
        answers.flush()
        for model, config in request.configs:
            limit_processor(request.limits)
            result = _open(request, model, config, opened)
            answers.write(msgspec.json.encode(result) + b"\n")
            answers.flush()


def _open(request: SandboxRequest, model: str, config: Config, opened: dict[str, OpenStudent]) -> SandboxResult:
    try:
        with Bundle.open(request.bundle) as bundle:
            if bundle.sha256 != request.bundle_sha256:
                raise BundleError(f"{bundle.path}: the file was exchanged while it was opened; open it again")  # noqa: TRY301
            entry = bundle.model(model)
            if model in opened:
                opened.pop(model).close()
            else:
                _check_with_onnx(bundle, entry)
            opened[model] = student = open_student(bundle, entry, config)
            if request.selftest:
                run_selftest_within(student, bundle, limit_s=_SELFTEST_S)
    except MmkdError as error:
        return SandboxResult(error=type(error).__name__, message=str(error))
    except Exception as error:
        reason = "it takes too much memory" if isinstance(error, MemoryError) else first_line(error)
        return SandboxResult(error=BackendError.__name__, message=f"backend {config.backend!r}: {reason}")
    return SandboxResult()


def _check_with_onnx(bundle: Bundle, entry: ModelEntry) -> None:
    """Run onnx's checker, if installed: it refuses what crashes some engines."""
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
