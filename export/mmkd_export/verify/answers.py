"""What a student answers for windows: in torch, which is the reference, and as an artifact in a backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_edge.backends.base import Backend, backend_for, open_backend
from mmkd_edge.bundle.manifest import ArtifactFormat
from mmkd_edge.predict.preprocess import prepare, prepare_batch
from mmkd_edge.spec import ModalitySpec
from mmkd_export.graph.calibration import Feeds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmkd_models.training.checkpoint import StudentCheckpoint

_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class NetworkAnswers:
    """A network's answers for N windows: the graph's outputs, float32 (N, K), and novelty (N, 1) or None."""

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    novelty: NDArray[np.float32] | None = None

    def rows(self, chosen: NDArray[Any]) -> NetworkAnswers:
        """Select windows, by their numbers or by a bool mask (N,)."""
        novelty = None if self.novelty is None else self.novelty[chosen]
        return NetworkAnswers(logits=self.logits[chosen], probabilities=self.probabilities[chosen], novelty=novelty)


def answers_from_outputs(outputs: Sequence[NDArray[np.float32]]) -> NetworkAnswers:
    """Name a graph's outputs (N, ...), which come in its order."""
    logits, probabilities, *novelty = outputs
    return NetworkAnswers(logits=logits, probabilities=probabilities, novelty=novelty[0] if novelty else None)


def graph_feeds(windows: NDArray[Any], modality: ModalitySpec) -> Iterator[Feeds]:
    """Yield the graph's inputs for each of (N, T, C) windows."""
    for window in windows:
        values, present = prepare(window, modality)
        yield {modality.name: values, f"{modality.name}_present": present}


def answers_from_backend(backend: Backend, windows: NDArray[Any], modality: ModalitySpec) -> NetworkAnswers:
    """Run an opened artifact over N windows, one at a time as a device does."""
    answers = [backend.run(feeds) for feeds in graph_feeds(windows, modality)]
    return answers_from_outputs([np.concatenate(outputs) for outputs in zip(*answers, strict=True)])


def answers_from_model(
    model: bytes, windows: NDArray[Any], modality: ModalitySpec, *, file_format: ArtifactFormat = "onnx"
) -> NetworkAnswers:
    """Run a model file over N windows in the backend of its format, with one thread."""
    backend = open_format(model, file_format)
    try:
        return answers_from_backend(backend, windows, modality)
    finally:
        backend.close()


def open_format(model: bytes, file_format: ArtifactFormat) -> Backend:
    """Open a model file in the backend of its format, with one thread."""
    return open_backend(backend_for(file_format), model, threads=1)


def answers_from_student(
    checkpoint: StudentCheckpoint, windows: NDArray[Any], *, temperature: float = 1.0, exact: bool = False
) -> NetworkAnswers:
    """Run torch over (N, T, C) windows: the reference for every artifact; `exact` computes in float64."""
    import torch

    from mmkd_models.networks.student import ExportStudent

    dtype = torch.float64 if exact else torch.float32
    student = ExportStudent(checkpoint.network(), temperature=temperature, seen=checkpoint.seen).eval().to(dtype)
    answers = []
    with torch.no_grad():
        for start in range(0, len(windows), _BATCH):
            values, present = prepare_batch(windows[start : start + _BATCH], checkpoint.modality)
            outputs = student(torch.from_numpy(values).to(dtype), torch.from_numpy(present).to(dtype))
            answers.append([output.numpy() for output in outputs])
    return answers_from_outputs([np.concatenate(outputs) for outputs in zip(*answers, strict=True)])


def answers_along_recording(
    checkpoint: StudentCheckpoint, recording: NDArray[Any], *, temperature: float = 1.0
) -> NetworkAnswers:
    """Run torch over a recording (T, C), of video (T, H, W, C), in one pass; one answer after each block."""
    import torch

    from mmkd_models.networks.step import embeddings_along
    from mmkd_models.novelty import NoveltyScore

    values, present = prepare_batch(recording[None], checkpoint.modality)
    network = checkpoint.transformer(asked_by="step graph")
    with torch.no_grad():
        embeddings = embeddings_along(network, torch.from_numpy(values), torch.from_numpy(present))[0]  # (N, D)
        logits = network.head(embeddings)  # (N, K)
        return NetworkAnswers(
            logits=logits.numpy(),
            probabilities=network.answer(logits / temperature).numpy(),
            novelty=None if checkpoint.seen is None else NoveltyScore(checkpoint.seen)(embeddings).numpy(),
        )
