"""The state of an interrupted training: tensors and JSON in one safetensors file, `resume.ckpt`, in the run's folder.

Owns that file only. Random state is not in it, because batches and dropout follow from (seed, step).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_models.tensors import read_tensors, write_tensors
from mmkd_models.train_config import Validation

FILE_NAME = "resume.ckpt"
_FORMAT_VERSION = 1


class ResumeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a training needs to go on beside its tensors.

    Attributes:
        config: what decides the result, as JSON values by name.
        param_groups: of the optimiser, as PyTorch gives them.
        scaler: state of the gradient scaler; empty where the precision has none.
        best_step: when the weights were reached that would be kept if training ended now.
        top: the best score of any weights, and its standard error.
    """

    format_version: int = _FORMAT_VERSION
    config: dict[str, Any]
    step: int
    param_groups: list[dict[str, Any]]
    scaler: dict[str, Any]
    best_step: int
    best_scores: dict[str, Any]
    top: tuple[float, float]
    curve: list[Validation]


@dataclass(frozen=True, kw_only=True)
class ResumeState:
    """Everything a training needs to go on.

    Attributes:
        learner: the learner's tensors, projectors and queues included.
        moments: the state of the optimiser by parameter, as PyTorch gives it.
        average: the averaged weights.
        best: the weights that would be kept if training ended now.
    """

    facts: ResumeFacts
    learner: Mapping[str, Tensor]
    moments: Mapping[int, Mapping[str, Tensor]]
    average: Mapping[str, Tensor]
    best: Mapping[str, Tensor]


def write_resume(run_dir: Path, state: ResumeState) -> None:
    """Replaces the state in `run_dir`, all or nothing."""
    tensors = {
        f"{part}/{name}": t for part in ("learner", "average", "best") for name, t in getattr(state, part).items()
    }
    for row, moments in state.moments.items():
        tensors.update({f"optimizer/{row}/{name}": torch.as_tensor(value) for name, value in moments.items()})
    write_tensors(run_dir / FILE_NAME, tensors, kind="resume", document=msgspec.json.encode(state.facts))


def read_resume(run_dir: Path, *, config: dict[str, Any]) -> ResumeState | None:
    """Gives the state in `run_dir`, or None where no training was interrupted.

    Raises:
        CheckpointError: the file is damaged.
        UsageError: it belongs to a training with other settings.
    """
    path = run_dir / FILE_NAME
    if not path.exists():
        return None
    facts, tensors = _read(path)
    _check_same(facts.config, config, path)
    try:
        return _state(facts, tensors)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: tensor with an unknown name ({error}); start without --resume") from error


def _check_same(found: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    for key in {**wanted, **found}:
        if found.get(key) != wanted.get(key):
            raise UsageError(
                f"{path}: expected a training with {key}={wanted.get(key)!r}, got {key}={found.get(key)!r}; "
                "use the same options as before, or start without --resume"
            )


def _state(facts: ResumeFacts, tensors: Mapping[str, Tensor]) -> ResumeState:
    parts: dict[str, dict[str, Tensor]] = {"learner": {}, "average": {}, "best": {}}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        if part == "optimizer":
            row, _, name = name.partition("/")
            moments.setdefault(int(row), {})[name] = tensor
        else:
            parts[part][name] = tensor
    return ResumeState(facts=facts, moments=moments, **parts)


def _read(path: Path) -> tuple[ResumeFacts, dict[str, Tensor]]:
    tensors, raw = read_tensors(path, kind="resume")
    try:
        facts = msgspec.json.decode(raw, type=ResumeFacts)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: metadata: {error}; start without --resume") from error
    if facts.format_version != _FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: expected format_version {_FORMAT_VERSION}, got {facts.format_version}; start without --resume"
        )
    return facts, tensors
