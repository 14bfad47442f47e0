"""The self-test: golden windows answered on this device, and compared with the checkpoint's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.base import Answers, SteppingBackend
from mmkd_edge.backends.steps import Steps
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.golden import Golden, answer_scale, novelty_errors, same_answers
from mmkd_edge.bundle.manifest import Streaming
from mmkd_edge.errors import GateError
from mmkd_edge.frames import joined
from mmkd_edge.predict.preprocess import missing_samples, prepare
from mmkd_edge.predict.student import OpenStudent, answer_windows
from mmkd_edge.spec import ModalitySpec

_STEPPED_WINDOWS = 8  # of the golden ones, in the self-test of a step graph
# Relative to the largest logit. bfloat16 has 8 bits, a relative error of 2**-9 per operation, and a student adds
# hundreds: 1 % to 5 % of the largest logit are usual. Far more comes from a sensor whose values vary little around a
# large mean, which 8 bits cannot tell apart: such a student must not run in it.
_BF16_TOLERANCE = 0.1
# Half precision has 11 bits, eight times as fine: what a sum of some 600 products strays by if each is rounded,
# sqrt(n) * 2**-11 (Higham and Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41,
# 2019). An export judges an fp16 artifact on x86-64, where onnxruntime computes it in float32; on ARM64 and on a GPU
# students add in half precision itself: docs/results/devices.md.
FP16_TOLERANCE = _BF16_TOLERANCE / 8


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """How this device answered the golden windows.

    Attributes:
        max_abs_error: largest difference of a logit or a probability from the stored answer.
        tolerance: limit of `max_abs_error`.
        label_agreement: fraction of windows with the stored label, 0 to 1.
    """

    windows: int
    max_abs_error: float
    tolerance: float
    label_agreement: float


def run_selftest(student: OpenStudent, bundle: Bundle, *, most: int | None = None) -> SelfTest:
    """Compare a student with its golden windows.

    Args:
        most: number of windows, spread evenly over all; None for all.

    Raises:
        GateError: an answer differs by more than the stored tolerance.
        BackendError: the backend failed.
        BundleError: the golden windows cannot be read.
    """
    golden = bundle.golden(student.entry.name)
    where, tolerance, coarseness = f"{bundle.path}: self-test", golden.tolerance, _coarseness(student)
    if student.artifact is not None and student.artifact.precision != "fp32":
        # Lower precision differs from the checkpoint by design; the manifest says by how much it may.
        tolerance = max(tolerance, student.artifact.parity.tolerance)
    if coarseness > 0.0:
        tolerance = max(tolerance, coarseness * max(1.0, float(np.abs(golden.logits).max())))
    count = len(golden.windows)
    chosen = np.unique(np.linspace(0, count - 1, min(count, most or count)).astype(int))
    logits, probabilities, *scores = answer_windows(student, golden.windows[chosen])
    logit_errors = np.abs(logits - golden.logits[chosen]).max(axis=1)  # (N,)
    scale = answer_scale(student.task, golden.probabilities)
    errors = np.maximum(logit_errors, np.abs(probabilities - golden.probabilities[chosen]).max(axis=1) / scale)  # (N,)
    worst = int(errors.argmax())  # NaN counts as the largest
    error = float(errors[worst])
    _require_same(error, tolerance, student, where=f"{where}: golden window {chosen[worst]}")
    if golden.novelty is not None and student.novelty is not None:
        limit = max(student.novelty.calibration.tolerance, coarseness)
        _check_novelty(golden.novelty[chosen], scores[0], limit, student, where=where, windows=chosen)
    agreement = float(same_answers(student.task, golden.logits[chosen], logits).mean())
    if student.step is not None:
        error = max(error, _test_steps(student, student.step, golden, most=most, where=where))
    return SelfTest(windows=len(errors), max_abs_error=error, tolerance=tolerance, label_agreement=agreement)


def _require_same(
    error: float, tolerance: float, student: OpenStudent, *, where: str, what: str = "answer", form: str = "g"
) -> None:
    if not error <= tolerance:
        raise GateError(
            f"{where}: expected the stored {what} within {tolerance:{form}}, got a difference of {error:{form}}; "
            f"{student.backend.version} computes another result here than at export: do not use it on this device"
        )


def _check_novelty(
    expected: NDArray[np.float32],
    got: NDArray[np.float32],
    tolerance: float,
    student: OpenStudent,
    *,
    where: str,
    windows: NDArray[np.intp],
) -> None:
    errors = novelty_errors(expected, got)
    worst = int(errors.argmax())
    place = f"{where}: golden window {windows[worst]}"
    _require_same(float(errors[worst]), tolerance, student, where=place, what="novelty", form=".1%")


def _coarseness(student: OpenStudent) -> float:
    """Return the error that an student's arithmetic may add, relative to the largest logit."""
    if student.config is not None and student.config.precision == "bf16":
        return _BF16_TOLERANCE
    return FP16_TOLERANCE if student.artifact is not None and student.artifact.precision == "fp16" else 0.0


def _test_steps(student: OpenStudent, step: SteppingBackend, golden: Golden, *, most: int | None, where: str) -> float:
    """Return the largest difference of some golden windows, step by step: the last step answers for the window."""
    streaming, scale = student.entry.streaming, answer_scale(student.task, golden.probabilities)
    assert streaming is not None
    largest = 0.0
    for number, window in enumerate(golden.windows[: min(most or _STEPPED_WINDOWS, _STEPPED_WINDOWS)]):
        logits, probabilities, *scores = follow_recording(step, streaming, window, student.modality)
        second = (probabilities[-1] - golden.probabilities[number]) / scale
        error = float(np.abs(np.concatenate([logits[-1] - golden.logits[number], second])).max())
        _require_same(error, golden.tolerance, student, where=f"{where}: golden window {number}, step by step")
        largest = max(largest, error)
        if golden.novelty is not None and student.step_novelty is not None:
            tolerance, chosen = student.step_novelty.calibration.tolerance, np.array([number])
            _check_novelty(golden.novelty[chosen], scores[0][-1:], tolerance, student, where=where, windows=chosen)
    return largest


def run_selftests(students: Sequence[OpenStudent], bundle: Bundle) -> SelfTest:
    """Run the self-test of several students: the sum of their windows, and the worst of their figures."""
    results = [run_selftest(student, bundle) for student in students]
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
    """Return every output (N, ...) after each block of a recording, from its beginning.

    Args:
        recording: (T, C), of video (T, H, W, C), as `prepare` takes it without a reference; missing samples fill up the
            first block.
    """
    lead = missing_samples(modality, -len(recording) % streaming.stride)
    blocks = joined([lead, recording]).reshape(-1, streaming.stride, *recording.shape[1:])
    steps = Steps(backend, streaming)
    answers = [steps.push(*prepare(block, modality)) for block in blocks]
    return tuple(np.concatenate(outputs) for outputs in zip(*answers, strict=True))
