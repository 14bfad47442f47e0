"""The self-test: golden windows answered on this device, compared with the checkpoint's answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.base import Answers, SteppingBackend, Steps
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.golden import Golden, answer_scale, novelty_errors, same_answers
from mmkd_edge.bundle.manifest import Novelty, Streaming
from mmkd_edge.errors import GateError
from mmkd_edge.frames import join_samples
from mmkd_edge.predict.preprocess import missing_samples, prepare
from mmkd_edge.predict.student import OpenStudent, answer_windows
from mmkd_edge.spec import ModalitySpec

LIMIT_S = 60.0
"""For all golden windows of a bundle, as in C."""
_STEPPED_WINDOWS = 8  # golden windows per self-test of a step graph
# Relative to the largest logit: half precision has 11 bits, and a sum of some 600 products strays by about
# sqrt(n) * 2**-11 if each is rounded (Higham and Mary, "A new approach to probabilistic rounding error analysis", SIAM
# J. Sci. Comput. 41, 2019). An export judges fp16 on x86-64, where onnxruntime computes in float32; ARM64 and GPUs add
# in half precision: docs/results/devices.md.
_FP16_TOLERANCE = 0.0125


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """How this device answered the golden windows.

    `max_abs_error` is the largest difference of a logit or probability from the stored answer, at most `tolerance`.
    """

    windows: int
    max_abs_error: float
    tolerance: float
    label_agreement: float


def run_selftest(student: OpenStudent, bundle: Bundle, *, most: int | None = None) -> SelfTest:
    """Answer `most` golden windows, spread evenly (None: all); GateError beyond the stored tolerance."""
    golden, artifact = bundle.golden(student.entry.name), student.artifact
    where, tolerance, coarseness = f"{bundle.path}: self-test", golden.tolerance, 0.0
    if artifact is not None and artifact.precision != "fp32":
        # Lower precision differs by design; the manifest has the limit.
        tolerance = max(tolerance, artifact.parity.tolerance)
        if artifact.precision == "fp16":
            coarseness = _FP16_TOLERANCE
            tolerance = max(tolerance, coarseness * max(1.0, float(np.abs(golden.logits).max())))
    count = len(golden.windows)
    chosen = np.unique(np.linspace(0, count - 1, min(count, most or count)).astype(int))
    logits, probabilities, *scores = answer_windows(student, golden.windows[chosen])
    logit_errors = np.abs(logits - golden.logits[chosen]).max(axis=1)  # (N,)
    scale = answer_scale(student.task, golden.probabilities)
    errors = np.maximum(logit_errors, np.abs(probabilities - golden.probabilities[chosen]).max(axis=1) / scale)  # (N,)
    names = [f"{where}: golden window {number}" for number in chosen]
    error = _require_same(errors, tolerance, student, names)
    calibration = None if student.novelty is None else student.novelty.calibration
    if golden.novelty is not None and isinstance(calibration, Novelty):
        errors = novelty_errors(golden.novelty[chosen], scores[0])
        limit = max(calibration.tolerance, coarseness)
        _require_same(errors, limit, student, names, what="novelty", form=".1%")
    agreement = float(same_answers(student.task, golden.logits[chosen], logits).mean())
    if student.step is not None:
        error = max(error, _test_steps(student, student.step, golden, most=most, where=where))
    return SelfTest(windows=len(chosen), max_abs_error=error, tolerance=tolerance, label_agreement=agreement)


def run_selftest_within(student: OpenStudent, bundle: Bundle, *, limit_s: float) -> None:
    """Answer ever more golden windows, up to all, as long as four times as many fit; GateError as `run_selftest`."""
    end_s, most, spent_s = time.monotonic() + limit_s, 1, 0.0
    while time.monotonic() + 4 * spent_s < end_s:
        begun_s = time.monotonic()
        if run_selftest(student, bundle, most=most).windows < most:
            return
        spent_s = time.monotonic() - begun_s
        most *= 4


def _require_same(
    errors: NDArray[Any],
    tolerance: float,
    student: OpenStudent,
    names: Sequence[str],
    *,
    what: str = "answer",
    form: str = "g",
) -> float:
    worst = int(errors.argmax())  # NaN counts as the largest
    error = float(errors[worst])
    if not error <= tolerance:
        raise GateError(
            f"{names[worst]}: expected the stored {what} within {tolerance:{form}}, "
            f"got a difference of {error:{form}}; {student.backend.version} computes another result here "
            "than at export: do not use it on this device"
        )
    return error


def _test_steps(student: OpenStudent, step: SteppingBackend, golden: Golden, *, most: int | None, where: str) -> float:
    """The last step answers for the window."""
    streaming, scale = student.entry.streaming, answer_scale(student.task, golden.probabilities)
    assert streaming is not None
    largest = 0.0
    for number, window in enumerate(golden.windows[: min(most or _STEPPED_WINDOWS, _STEPPED_WINDOWS)]):
        logits, probabilities, *scores = follow_recording(step, streaming, window, student.modality)
        differences = [logits[-1] - golden.logits[number], (probabilities[-1] - golden.probabilities[number]) / scale]
        names = [f"{where}: golden window {number}, step by step"]
        errors = np.abs(np.concatenate(differences)).max(keepdims=True)
        largest = max(largest, _require_same(errors, golden.tolerance, student, names))
        calibration = None if student.step_novelty is None else student.step_novelty.calibration
        if golden.novelty is not None and isinstance(calibration, Novelty):
            errors = novelty_errors(golden.novelty[number : number + 1], scores[0][-1:])
            _require_same(errors, calibration.tolerance, student, names, what="novelty", form=".1%")
    return largest


def run_selftests(students: Sequence[OpenStudent], bundle: Bundle, *, limit_s: float = LIMIT_S) -> SelfTest:
    """Self-test several students, with as many windows as fit in the time: their sum, and the worst figures."""
    results = []
    for student in students:
        window, begun_s = bundle.golden(student.entry.name).windows[:1], time.monotonic()
        answer_windows(student, window)
        fit = limit_s / len(students) / max(time.monotonic() - begun_s, 1e-6)
        results.append(run_selftest(student, bundle, most=max(1, int(fit))))
    worst = max(results, key=lambda result: result.max_abs_error / result.tolerance)
    return SelfTest(
        windows=sum(result.windows for result in results),
        max_abs_error=worst.max_abs_error,
        tolerance=worst.tolerance,
        label_agreement=min(result.label_agreement for result in results),
    )


def follow_recording(
    backend: SteppingBackend, streaming: Streaming, recording: NDArray[Any], modality: ModalitySpec
) -> Answers:
    """Return every output (N, ...) after each block of a recording; missing samples fill up the first block."""
    lead = missing_samples(modality, -len(recording) % streaming.stride)
    blocks = join_samples([lead, recording]).reshape(-1, streaming.stride, *recording.shape[1:])
    steps = Steps(backend, streaming)
    answers = [steps.push(*prepare(block, modality)) for block in blocks]
    return tuple(np.concatenate(outputs) for outputs in zip(*answers, strict=True))
