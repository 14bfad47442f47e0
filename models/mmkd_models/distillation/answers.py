"""Stored answers of frozen teachers, for trainings that see the same batches.

Batches follow from seed and step, so answers are bit-equal. Layers are too large to store.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from mmkd_edge.errors import CheckpointError
from mmkd_models.data.batches import Batch
from mmkd_models.networks.committee import FixedViews
from mmkd_models.networks.teacher import TeacherOutput
from mmkd_models.tensors import read_tensors, write_tensors

logger = logging.getLogger(__name__)

_KIND = "answers"
_DIGITS = 16


@torch.no_grad()
def ask_teachers(teachers: Sequence[nn.Module], batch: Batch, *, taps: bool) -> tuple[TeacherOutput, ...]:
    """Return each teacher's answer; committees use window numbers."""
    answers = []
    for teacher in teachers:
        network = teacher.to(batch.targets.device)
        rows = {"index": batch.index, "partner": batch.partner, "fraction": batch.fraction}
        more = rows if isinstance(network, FixedViews) else {}
        answers.append(network(batch.inputs, **more, taps=taps))
    return tuple(answers)


class AnswerMemory:
    """Answers to every step of a training, in one file; `decides` is all they depend on."""

    def __init__(self, folder: Path, decides: Mapping[str, Any], *, steps: int) -> None:
        decided = msgspec.json.encode({**decides, "steps": steps}, order="sorted")
        self.path = folder / f"{hashlib.sha256(decided).hexdigest()[:_DIGITS]}.safetensors"
        self._document = decided
        self._steps = steps
        self._known: tuple[tuple[Tensor, Tensor], ...] | None = None
        self._was_read = False
        self._new: dict[int, tuple[TeacherOutput, ...]] = {}

    def recall(self, step: int | None, device: torch.device) -> tuple[TeacherOutput, ...] | None:
        """Return each teacher's answer to a step's batch, or None if not stored."""
        if step is None:
            return None
        if not self._was_read:
            self._was_read, self._known = True, self._read()
        if self._known is None:
            return None
        return tuple(
            TeacherOutput(logits=logits[step].to(device), embedding=embedding[step].to(device))
            for logits, embedding in self._known
        )

    def keep(self, step: int | None, answers: Sequence[TeacherOutput]) -> None:
        """Store outputs and embeddings until `write`."""
        if step is not None:
            self._new[step] = tuple(
                TeacherOutput(logits=answer.logits.cpu(), embedding=answer.embedding.cpu()) for answer in answers
            )

    def write(self) -> None:
        """Write the file if no step lacks an answer."""
        if self._known is not None or len(self._new) < self._steps:
            return
        each = list(zip(*(self._new[step] for step in range(self._steps)), strict=True))  # teachers x steps
        tensors = {
            f"{number}/{what}": torch.stack([getattr(answer, what) for answer in answers])
            for number, answers in enumerate(each)
            for what in ("logits", "embedding")
        }
        write_tensors(self.path, tensors, kind=_KIND, document=self._document)

    def _read(self) -> tuple[tuple[Tensor, Tensor], ...] | None:
        if not self.path.exists():
            return None
        try:
            tensors, document = read_tensors(self.path, kind=_KIND)
        except CheckpointError as error:
            logger.warning("%s; the teachers answer again", error)
            return None
        if document != self._document:
            return None
        teachers = range(len(tensors) // 2)
        return tuple((tensors[f"{teacher}/logits"], tensors[f"{teacher}/embedding"]) for teacher in teachers)
