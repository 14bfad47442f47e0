"""The state of an interrupted training: tensors and JSON in one safetensors file, `resume.ckpt`, in the run's folder.

Owns that file only. Random state is not in it, because batches and dropout follow from (seed, step).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_models.tensors import read_tensors, write_tensors

FILE_NAME = "resume.ckpt"
_FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ResumeState:
    """Everything a training needs to go on: learner (projectors and queues included), optimiser, averages, best."""

    config: dict[str, Any]
    step: int
    learner: Mapping[str, Tensor]
    optimizer: dict[str, Any]
    average: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    best_step: int
    best_scores: dict[str, Any]
    curve: list[dict[str, Any]]


def write_resume(run_dir: Path, state: ResumeState) -> None:
    """Replaces the state in `run_dir`, all or nothing."""
    tensors = {
        f"{part}/{name}": t for part in ("learner", "average", "best") for name, t in getattr(state, part).items()
    }
    for row, moments in state.optimizer["state"].items():
        tensors.update({f"optimizer/{row}/{name}": torch.as_tensor(value) for name, value in moments.items()})
    document = {
        "format_version": _FORMAT_VERSION,
        "config": state.config,
        "step": state.step,
        "param_groups": state.optimizer["param_groups"],
        "best_step": state.best_step,
        "best_scores": state.best_scores,
        "curve": state.curve,
    }
    write_tensors(run_dir / FILE_NAME, tensors, kind="resume", document=json.dumps(document).encode())


def read_resume(run_dir: Path, *, config: dict[str, Any]) -> ResumeState | None:
    """Gives the state in `run_dir`, or None where no training was interrupted.

    Raises:
        CheckpointError: the file is damaged.
        UsageError: it belongs to a training with other settings.
    """
    path = run_dir / FILE_NAME
    if not path.exists():
        return None
    document, tensors = _read(path)
    for key, value in config.items():
        if document["config"].get(key) != value:
            raise UsageError(
                f"{path}: expected a training with {key}={value!r}, got {key}={document['config'].get(key)!r}; "
                "use the same options as before, or start without --resume"
            )
    parts: dict[str, dict[str, Tensor]] = {"learner": {}, "average": {}, "best": {}}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        if part == "optimizer":
            row, _, name = name.partition("/")
            moments.setdefault(int(row), {})[name] = tensor
        else:
            parts[part][name] = tensor
    return ResumeState(
        config=document["config"],
        step=document["step"],
        learner=parts["learner"],
        optimizer={"state": moments, "param_groups": document["param_groups"]},
        average=parts["average"],
        best=parts["best"],
        best_step=document["best_step"],
        best_scores=document["best_scores"],
        curve=document["curve"],
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors, raw = read_tensors(path, kind="resume")
    document: dict[str, Any] = json.loads(raw)
    if document.get("format_version") != _FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: expected format_version {_FORMAT_VERSION}, got {document.get('format_version')}; "
            "start without --resume"
        )
    return document, tensors
