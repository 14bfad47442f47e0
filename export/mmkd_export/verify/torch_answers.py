"""A student's own answers in torch: what every artifact is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_export.verify.parity import NetworkAnswers, answers_from_outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmkd_models.training.checkpoint import StudentCheckpoint

_BATCH = 64


def answers_from_student(
    checkpoint: StudentCheckpoint, windows: NDArray[Any], *, temperature: float = 1.0, exact: bool = False
) -> NetworkAnswers:
    """Gives torch's own answers for (N, T, C) windows: what every artifact is held against.

    Args:
        exact: compute in float64, which no artifact does: how much rounding alone is.
    """
    import torch

    from mmkd_models.networks.student import ExportStudent

    student = ExportStudent(checkpoint.network(), temperature=temperature, seen=checkpoint.seen).eval()
    dtype = torch.float64 if exact else torch.float32
    student = student.to(dtype)
    answers = []
    with torch.no_grad():
        for start in range(0, len(windows), _BATCH):
            values, present = prepare_batch(windows[start : start + _BATCH], checkpoint.modality)
            answer = student(torch.from_numpy(values).to(dtype), torch.from_numpy(present).to(dtype))
            answers.append([output.numpy() for output in answer])
    return answers_from_outputs([np.concatenate(outputs) for outputs in zip(*answers, strict=True)])


def answers_along_recording(
    checkpoint: StudentCheckpoint, recording: NDArray[Any], *, temperature: float = 1.0
) -> NetworkAnswers:
    """Gives torch's own answers after each block of a recording, in one pass over all of it.

    The recording is (T, C), of video (T, H, W, C).
    """
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
