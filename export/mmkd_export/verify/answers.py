"""Answers in torch and as an artifact, and their differences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_documents.export import ArtifactParity, NoveltyParity, TensorParity
from mmkd_edge.backends.base import Backend, SteppingBackend, backend_for, open_backend
from mmkd_edge.bundle.golden import answer_scale, novelty_errors, same_answers
from mmkd_edge.bundle.manifest import MAX_TOLERANCE, ArtifactFormat, Parity
from mmkd_edge.errors import GateError
from mmkd_edge.frames import frame_bytes, mask_missing, missing_frames
from mmkd_edge.predict.preprocess import prepare, prepare_batch
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.graph.calibration import Feeds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmkd_models.training.checkpoint import StudentCheckpoint


_BATCH = 64
# float32 sums in another order give a relative 1e-6 or so, on logits of about 10; ten times that
FP32_TOLERANCE = 1e-4
# A graph may differ from torch's float32 by this multiple of float32's distance from float64
_ROUNDING_ROOM = 4.0
# Largest novelty difference between torch and fp32 graph, as a fraction of one more than the score
NOVELTY_TOLERANCE = 1e-3
# Least distance of a feature from a threshold, relative to 1 + its size: features of engines differ by less
_CLEAR = 4e-6
_MIN_CLEAR = 8  # windows that are compared: the clearest, if fewer are clear
_MIN_AGREEMENT = 0.98  # on all windows, clear or not
_REPORT = "Please report it with the versions of torch and onnxruntime"


@dataclass(frozen=True)
class NetworkAnswers:
    """Outputs for N windows, float32 (N, K), and novelty (N, 1) or None."""

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    novelty: NDArray[np.float32] | None = None

    def rows(self, chosen: NDArray[Any]) -> NetworkAnswers:
        """Select windows by number or bool mask (N,)."""
        novelty = None if self.novelty is None else self.novelty[chosen]
        return NetworkAnswers(logits=self.logits[chosen], probabilities=self.probabilities[chosen], novelty=novelty)


def graph_feeds(windows: NDArray[Any], modality: ModalitySpec) -> Iterator[Feeds]:
    """Yield inputs for each of (N, T, C) windows."""
    for window in windows:
        values, present = prepare(window, modality)
        yield {modality.name: values, f"{modality.name}_present": present}


def answers_from_backend(backend: Backend, windows: NDArray[Any], modality: ModalitySpec) -> NetworkAnswers:
    """Run a backend over (N, T, C), one window at a time as devices do."""
    answers = [backend.run(feeds) for feeds in graph_feeds(windows, modality)]
    return NetworkAnswers(*(np.concatenate(outputs) for outputs in zip(*answers, strict=True)))


def answers_from_model(
    model: bytes, windows: NDArray[Any], modality: ModalitySpec, *, file_format: ArtifactFormat = "onnx"
) -> NetworkAnswers:
    """Run a model file over windows (N, T, C) with one thread."""
    with open_format(model, file_format) as backend:
        return answers_from_backend(backend, windows, modality)


def open_format(model: bytes, file_format: ArtifactFormat, *, steps: bool = False) -> closing[SteppingBackend]:
    """Open a model file in its format's backend, with one thread, for a block."""
    return closing(open_backend(backend_for(file_format), model, threads=1, steps=steps))


def answers_from_student(
    checkpoint: StudentCheckpoint, windows: NDArray[Any], *, temperature: float = 1.0, exact: bool = False
) -> NetworkAnswers:
    """Run torch over (N, T, C): the reference of artifacts; `exact` computes in float64, with the leaves of float32."""
    import torch

    from mmkd_export.graph.onnx_from_student import exported_network

    dtype = torch.float64 if exact else torch.float32
    student, own = exported_network(checkpoint, temperature=temperature).to(dtype), checkpoint.network()
    answers = []
    with torch.no_grad():
        for start in range(0, len(windows), _BATCH):
            values, present = prepare_batch(windows[start : start + _BATCH], checkpoint.modality)
            inputs = torch.from_numpy(values), torch.from_numpy(present)
            if exact and own.trees is not None and own.intervals is not None:
                votes = own.trees.votes(own.intervals(*inputs))
                *outputs, _ = student(*(part.to(dtype) for part in inputs), votes)
            else:
                outputs = student(*(part.to(dtype) for part in inputs))
            answers.append([output.numpy() for output in outputs])
    return NetworkAnswers(*(np.concatenate(outputs) for outputs in zip(*answers, strict=True)))


def clear_rows(checkpoint: StudentCheckpoint, windows: NDArray[Any]) -> NDArray[np.bool_]:
    """Return (N,) whether rounding leaves every walk of a student's trees alone, or the eight clearest windows."""
    import torch

    network = checkpoint.network()
    if network.trees is None or network.intervals is None:
        return np.ones(len(windows), dtype=np.bool_)
    parts = [np.zeros(0, dtype=np.float32)]
    with torch.no_grad():
        for start in range(0, len(windows), _BATCH):
            batch = prepare_batch(windows[start : start + _BATCH], checkpoint.modality)
            features = network.intervals(*(torch.from_numpy(part) for part in batch))
            parts.append(network.trees.walk(features)[1].numpy())
    apart = np.concatenate(parts)
    return np.asarray(apart >= min(_CLEAR, np.sort(apart)[-_MIN_CLEAR:].min(initial=np.inf)))


def answers_along_recording(
    checkpoint: StudentCheckpoint, recording: NDArray[Any], *, temperature: float = 1.0
) -> NetworkAnswers:
    """Run torch over (T, C) or (T, H, W, C) in one pass; one answer per block."""
    import torch

    from mmkd_models.networks.step import embeddings_along
    from mmkd_models.novelty import NoveltyScore

    values, present = prepare_batch(recording[None], checkpoint.modality)
    network = checkpoint.network()
    with torch.no_grad():
        embeddings = embeddings_along(network, torch.from_numpy(values), torch.from_numpy(present))[0]  # (N, D)
        logits = network.head(embeddings)  # (N, K)
        return NetworkAnswers(
            logits=logits.numpy(),
            probabilities=network.answer(logits / temperature).numpy(),
            novelty=None if checkpoint.embeddings is None else NoveltyScore(checkpoint.embeddings)(embeddings).numpy(),
        )


def compare(expected: NetworkAnswers, got: NetworkAnswers, *, task: TaskSpec) -> ArtifactParity:
    """Compare two sets of answers."""
    scale = np.float32(answer_scale(task, expected.probabilities))
    novelty: NoveltyParity | None = None
    if expected.novelty is not None and got.novelty is not None:
        errors = novelty_errors(expected.novelty, got.novelty)
        novelty = NoveltyParity(max_error=float(errors.max()), mean_error=float(errors.mean()))
    return ArtifactParity(
        windows=len(expected.logits),
        logits=_compare_tensor(expected.logits, got.logits),
        probabilities=_compare_tensor(expected.probabilities / scale, got.probabilities / scale),
        label_agreement=float(same_answers(task, expected.logits, got.logits).mean()),
        novelty=novelty,
    )


def _compare_tensor(expected: NDArray[np.float32], got: NDArray[np.float32]) -> TensorParity:
    error = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    return TensorParity(max_abs_error=float(error.max()), mean_abs_error=float(error.mean()))


def fp32_tolerance(
    exact: NetworkAnswers, answers: NetworkAnswers, *, task: TaskSpec, what: str, is_transformer: bool
) -> float:
    """Return how far a graph may be from float32 answers; GateError if they are too far from float64, or not finite."""
    rounding = compare(exact, answers, task=task).max_abs_error
    if not np.isfinite(rounding):
        raise GateError(f"{what}: expected finite answers of the checkpoint, got NaN or infinity; train it again")
    most = MAX_TOLERANCE["fp32"] / _ROUNDING_ROOM  # sums of kernels on nearly constant windows are less exact
    if rounding > most:
        another = "" if is_transformer else "train with --members transformer, or "
        raise GateError(
            f"{what}: expected answers in float32 within {most:g} of those in float64, "
            f"got a difference of {rounding:.3g}: levels are too far apart for what moves within a window; no bundle "
            f"was written; {another}import the signal without its level"
        )
    return max(FP32_TOLERANCE, _ROUNDING_ROOM * rounding)


def require_agreement(agreement: float, *, what: str) -> None:
    """Raise GateError if rounding changes more answers than trees near their thresholds explain."""
    if agreement < _MIN_AGREEMENT:
        raise GateError(
            f"{what}: expected the checkpoint's answer on {_MIN_AGREEMENT:.0%} of the windows or more, got it on "
            f"{agreement:.1%}; no bundle was written. {_REPORT}"
        )


def require_parity(parity: ArtifactParity, *, tolerance: float, what: str) -> None:
    """Raise GateError if an answer differs beyond the tolerance, or is NaN."""
    # NaN compares false, so it fails here too.
    if not parity.max_abs_error <= tolerance:
        raise GateError(
            f"{what}: expected the checkpoint's answers within {tolerance:g} on {parity.windows} windows, got a "
            f"difference of {parity.max_abs_error:.3g} (labels agree on {parity.label_agreement:.1%}); no bundle was "
            f"written. {_REPORT}"
        )
    novelty = parity.novelty
    if novelty is not None and not novelty.max_error <= NOVELTY_TOLERANCE:
        raise GateError(
            f"{what}: expected the checkpoint's novelty within {NOVELTY_TOLERANCE:.1%} on {parity.windows} windows, "
            f"got a difference of {novelty.max_error:.2%}; no bundle was written. {_REPORT}"
        )


def manifest_parity(parity: ArtifactParity, *, tolerance: float) -> Parity:
    """Return the manifest's form of a comparison."""
    largest, mean = parity.logits.max_abs_error, parity.logits.mean_abs_error
    return Parity(
        windows=parity.windows,
        max_abs_error=np.nan if largest is None else largest,
        mean_abs_error=np.nan if mean is None else mean,
        label_agreement=parity.label_agreement,
        tolerance=tolerance,
    )


def with_missing_samples(windows: NDArray[Any], *, seed: int) -> NDArray[Any]:
    """Copy windows with gaps: all of the first, a channel of one in four, a quarter of the span of others."""
    rng = np.random.default_rng(seed)
    samples, channels = windows.shape[1], windows.shape[-1]
    span = max(1, samples // 4)
    if windows.dtype == np.uint8:
        missing = missing_frames(windows).copy()  # (N, T)
        for number, frames in enumerate(missing):
            start = rng.integers(samples - span + 1)
            frames[slice(None) if number == 0 else slice(start, start + span)] = True
        return mask_missing(frame_bytes(windows), missing)
    gaps: NDArray[np.float32] = windows.copy()
    for number, window in enumerate(gaps):
        if number == 0:
            window[:] = np.nan
        elif number % 4 == 0:
            window[:, rng.integers(channels)] = np.nan
        else:
            start = rng.integers(samples - span + 1)
            window[start : start + span] = np.nan
    return gaps
