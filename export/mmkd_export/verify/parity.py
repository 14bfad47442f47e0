"""Parity: does an artifact answer as the checkpoint does, on real windows and with samples missing?

Owns the comparison and its gate. Runs artifacts the way a device does: through `prepare` and a backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mmkd_edge.backends.base import Backend
from mmkd_edge.bundle.golden import answer_scale, novelty_errors, same_answers
from mmkd_edge.bundle.manifest import MOST_TOLERANCE, Parity
from mmkd_edge.errors import GateError
from mmkd_edge.frames import bytes_of, missing_frames, with_missing
from mmkd_edge.predict.preprocess import prepare
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_report.schema.export import ArtifactParity, NoveltyParity, TensorParity

if TYPE_CHECKING:
    from numpy.typing import NDArray

FP32_TOLERANCE = 1e-4
"""Largest difference of a logit or a probability between torch and the fp32 graph. Both sum in float32, in another
order: a relative 1e-6 or so on logits of about 10, and ten times that for a wide margin."""

MOST_FP32_TOLERANCE = MOST_TOLERANCE["fp32"]
"""The same of a student whose own float32 sums are less exact, as of kernels on levels that hardly move in a window."""

ROUNDING_ROOM = 4.0
"""How many times as far as torch's float32 answers are from its float64 ones a graph's may be from the former."""

NOVELTY_TOLERANCE = 1e-3
"""Largest difference of a novelty score between torch and the fp32 graph, as a share of one more than it: features that
hardly vary are divided by how little they do, and their rounding with them."""


@dataclass(frozen=True, kw_only=True)
class NetworkAnswers:
    """What a network answers for N windows: the graph's outputs, float32 (N, K), and novelty (N, 1) or None."""

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    novelty: NDArray[np.float32] | None = None

    def rows(self, chosen: NDArray[Any]) -> NetworkAnswers:
        """The answers for some of the windows: their numbers, or where a bool mask (N,) is true."""
        novelty = None if self.novelty is None else self.novelty[chosen]
        return NetworkAnswers(logits=self.logits[chosen], probabilities=self.probabilities[chosen], novelty=novelty)


def answers_from_outputs(outputs: Sequence[NDArray[np.float32]]) -> NetworkAnswers:
    """A graph's outputs (N, ...), in its order, as answers."""
    logits, probabilities, *novelty = outputs
    return NetworkAnswers(logits=logits, probabilities=probabilities, novelty=novelty[0] if novelty else None)


def answers_from_backend(backend: Backend, windows: NDArray[Any], modality: ModalitySpec) -> NetworkAnswers:
    """Runs an opened artifact over N windows, one at a time as a device does."""
    name = modality.name
    answers = []
    for window in windows:
        values, present = prepare(window, modality)
        answers.append(backend.run({name: values, f"{name}_present": present}))
    return answers_from_outputs([np.concatenate(outputs) for outputs in zip(*answers, strict=True)])


def compare(expected: NetworkAnswers, got: NetworkAnswers, *, task: TaskSpec) -> ArtifactParity:
    """Compares two sets of answers for the same windows."""
    scale = np.float32(answer_scale(task, expected.probabilities))
    return ArtifactParity(
        windows=len(expected.logits),
        logits=_compare_tensor(expected.logits, got.logits),
        probabilities=_compare_tensor(expected.probabilities / scale, got.probabilities / scale),
        label_agreement=float(same_answers(task, expected.logits, got.logits).mean()),
        novelty=_compare_novelty(expected, got),
    )


def fp32_tolerance(
    exact: NetworkAnswers, answers: NetworkAnswers, *, task: TaskSpec, what: str, is_transformer: bool
) -> float:
    """Gives how far a graph may be from a student's answers in float32, by the same answers in float64.

    Raises:
        GateError: float32 is so far from float64 that another machine would give other answers, or an answer is not a
            number.
    """
    rounding = compare(exact, answers, task=task).max_abs_error
    if not np.isfinite(rounding):
        raise GateError(f"{what}: expected finite answers of the checkpoint, got NaN or infinity; train it again")
    if rounding > MOST_FP32_TOLERANCE / ROUNDING_ROOM:
        another = "" if is_transformer else "train with --kind transformer, or "
        raise GateError(
            f"{what}: expected answers in float32 within {MOST_FP32_TOLERANCE / ROUNDING_ROOM:g} of those in float64, "
            f"got a difference of {rounding:.3g}: levels are too far apart for what moves within a window; no bundle "
            f"was written; {another}import the signal without its level"
        )
    return max(FP32_TOLERANCE, ROUNDING_ROOM * rounding)


def _compare_novelty(expected: NetworkAnswers, got: NetworkAnswers) -> NoveltyParity | msgspec.UnsetType:
    if expected.novelty is None or got.novelty is None:
        return msgspec.UNSET
    errors = novelty_errors(expected.novelty, got.novelty)
    return NoveltyParity(max_error=float(errors.max()), mean_error=float(errors.mean()))


def _compare_tensor(expected: NDArray[np.float32], got: NDArray[np.float32]) -> TensorParity:
    a, b = expected.astype(np.float64), got.astype(np.float64)
    error = np.abs(a - b)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.where(norms > 0, (a * b).sum(1) / np.where(norms > 0, norms, 1.0), 1.0)
    return TensorParity(
        max_abs_error=float(error.max()), mean_abs_error=float(error.mean()), cosine=float(cosine.min())
    )


def require_parity(parity: ArtifactParity, *, tolerance: float, what: str) -> Parity:
    """Gives what the manifest says of a comparison that passed.

    Raises:
        GateError: an answer differs by more, or is not a number.
    """
    # NaN compares false, so an answer that is not a number fails here too.
    if not parity.max_abs_error <= tolerance:
        raise GateError(
            f"{what}: expected the checkpoint's answers within {tolerance:g} on {parity.windows} windows, got a "
            f"difference of {parity.max_abs_error:.3g} (labels agree on {parity.label_agreement:.1%}); no bundle was "
            "written. Please report it with the versions of torch and onnxruntime"
        )
    novelty = parity.novelty
    if novelty is not msgspec.UNSET and not novelty.max_error <= NOVELTY_TOLERANCE:
        raise GateError(
            f"{what}: expected the checkpoint's novelty within {NOVELTY_TOLERANCE:.1%} on {parity.windows} windows, "
            f"got a difference of {novelty.max_error:.2%}; no bundle was written. Please report it with the versions "
            "of torch and onnxruntime"
        )
    return stated_parity(parity, tolerance=tolerance)


def stated_parity(parity: ArtifactParity, *, tolerance: float) -> Parity:
    """Gives what the manifest says of a comparison."""
    logits = parity.logits
    return Parity(
        windows=parity.windows,
        max_abs_error=np.nan if logits.max_abs_error is None else logits.max_abs_error,
        mean_abs_error=np.nan if logits.mean_abs_error is None else logits.mean_abs_error,
        label_agreement=parity.label_agreement,
        tolerance=tolerance,
    )


def with_missing_samples(windows: NDArray[Any], *, seed: int) -> NDArray[Any]:
    """Gives copies of windows with gaps, so that the comparison also covers what dropouts do.

    One copy is missing altogether, one in four loses a channel, the others lose a span of a quarter of the window. Of
    video all but the first lose a span of frames.
    """
    rng = np.random.default_rng(seed)
    if windows.dtype == np.uint8:
        return _with_missing_frames(windows, rng)
    gaps: NDArray[np.float32] = windows.copy()
    samples, channels = windows.shape[1:]
    span = max(1, samples // 4)
    for number, window in enumerate(gaps):
        if number == 0:
            window[:] = np.nan
        elif number % 4 == 0:
            window[:, rng.integers(channels)] = np.nan
        else:
            start = rng.integers(samples - span + 1)
            window[start : start + span] = np.nan
    return gaps


def _with_missing_frames(windows: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    missing = missing_frames(windows).copy()  # (N, T)
    span = max(1, missing.shape[1] // 4)
    for number, frames in enumerate(missing):
        start = rng.integers(len(frames) - span + 1)
        frames[slice(None) if number == 0 else slice(start, start + span)] = True
    return with_missing(bytes_of(windows), missing)
