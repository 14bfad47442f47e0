"""OutOfFoldCheckpoint <-> file: K cross-fitted teachers in one safetensors file, and which groups each has not seen.

Owns that file, and telling which teacher answers for a training window. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.data.windows import Groups, Windows
from mmkd_models.network_bounds import check_bounds
from mmkd_models.networks.config import TeacherConfig
from mmkd_models.networks.out_of_fold import OutOfFoldTeachers
from mmkd_models.networks.teacher import Teacher
from mmkd_models.tensors import kind_of, read_tensors, same_tensors, write_tensors
from mmkd_models.training.checkpoint import (
    FORMAT_VERSION,
    Provenance,
    TeacherCheckpoint,
    check_parts,
    check_sizes,
    decoded,
    part_named,
    read_teacher,
)

_KIND = "teacher-set"


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format_version: int
    modalities: tuple[ModalitySpec, ...]
    task: TaskSpec
    config: TeacherConfig
    facts: tuple[Provenance, ...]
    score: float
    group_names: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, kw_only=True)
class OutOfFoldCheckpoint:
    """Cross-fitted teachers: number k was trained on the groups of all parts but k.

    Attributes:
        groups: int64 or text (G,), ascending: the groups of their training windows.
        parts: int64 (G,), the part of each group, from 0 to K - 1.
        score: of their answers for the labelled training windows, each by the teacher that has not seen it.
    """

    modalities: tuple[ModalitySpec, ...]
    task: TaskSpec
    config: TeacherConfig
    facts: tuple[Provenance, ...]
    states: tuple[Mapping[str, Tensor], ...]
    groups: Groups
    parts: NDArray[np.int64]
    score: float

    def networks(self) -> tuple[Teacher, ...]:
        """Gives the teachers with their weights, in evaluation mode."""
        return tuple(_network(self, state) for state in self.states)

    def teachers_of(self, windows: Windows, *, dataset_sha256: str) -> OutOfFoldTeachers:
        """Gives the teachers as one network for these training windows; errors as `part_of`."""
        part = self.part_of(windows, dataset_sha256=dataset_sha256)
        return OutOfFoldTeachers(self.networks(), torch.from_numpy(part)).eval()

    def part_of(self, windows: Windows, *, dataset_sha256: str) -> NDArray[np.int64]:
        """Gives int64 (N,): the number of the teacher that has not seen the window.

        Raises UsageError where the windows are not those that the teachers were cross-fitted on, so that a teacher may
        have seen what it should not.
        """
        found = np.unique(windows.groups)
        if dataset_sha256 != self.facts[0].dataset_sha256:
            raise UsageError(
                f"out-of-fold teachers: expected the dataset they were trained on (SHA-256 "
                f"{self.facts[0].dataset_sha256[:12]}...), got {dataset_sha256[:12]}...; train them on this one"
            )
        if not np.array_equal(found, self.groups):
            strange = sorted(set(found.tolist()) ^ set(self.groups.tolist()))
            raise UsageError(
                f"out-of-fold teachers: expected the training windows of the {len(self.groups)} groups they were "
                f"cross-fitted on, got {len(found)} groups, and {len(strange)} are not in both, {strange[0]} for one; "
                "give the same --fold as for the teachers, or train them on these windows"
            )
        return self.parts[np.searchsorted(self.groups, windows.groups)]


@dataclass(frozen=True, kw_only=True)
class TaughtBy:
    """A teacher, or out-of-fold teachers, and the SHA-256 of the file."""

    checkpoint: TeacherCheckpoint | OutOfFoldCheckpoint
    sha256: str


def write_teacher_set(path: Path, checkpoint: OutOfFoldCheckpoint) -> None:
    """Replaces the file, all or nothing. Groups with names are numbered, and the names stand in the metadata."""
    is_named = checkpoint.groups.dtype.kind == "U"
    document = _Document(
        format_version=FORMAT_VERSION,
        modalities=checkpoint.modalities,
        task=checkpoint.task,
        config=checkpoint.config,
        facts=checkpoint.facts,
        score=checkpoint.score,
        group_names=tuple(checkpoint.groups.tolist()) if is_named else msgspec.UNSET,
    )
    tensors = {
        f"{_prefix(number)}{name}": tensor
        for number, state in enumerate(checkpoint.states)
        for name, tensor in state.items()
    }
    tensors["groups/number"] = torch.from_numpy(np.arange(len(checkpoint.groups)) if is_named else checkpoint.groups)
    tensors["groups/part"] = torch.from_numpy(checkpoint.parts)
    write_tensors(path, tensors, kind=_KIND, document=msgspec.json.encode(document))


def read_teacher_set(path: Path) -> OutOfFoldCheckpoint:
    """Gives the teachers in the file.

    Raises:
        UsageError: there is no such file.
        CheckpointError: the file holds no out-of-fold teachers, is damaged, or made by a newer version.
    """
    tensors, raw = read_tensors(path, kind=_KIND)
    document = decoded(raw, _Document, path)
    check_sizes(document.modalities, document.task, path)
    check_parts(tensors, ("groups/", *(_prefix(number) for number in range(len(document.facts)))), path)
    groups, parts = _groups(part_named(tensors, "groups/"), document, path)
    checkpoint = OutOfFoldCheckpoint(
        modalities=document.modalities,
        task=document.task,
        config=document.config,
        facts=document.facts,
        states=tuple(part_named(tensors, _prefix(number)) for number in range(len(document.facts))),
        groups=groups,
        parts=parts,
        score=document.score,
    )
    task, config = checkpoint.task, checkpoint.config
    for state in checkpoint.states:
        check_bounds(checkpoint.modalities, task, config.encoder, state, path=path, fusion_depth=config.fusion_depth)
    with torch.device("meta"):  # shapes alone: no number in the metadata allocates memory
        wanted = Teacher(checkpoint.modalities, len(task.labels), checkpoint.config, kind=task.kind).state_dict()
    for state in checkpoint.states:
        same_tensors(wanted, state, path=path)
    return checkpoint


def read_teachers(path: Path) -> TeacherCheckpoint | OutOfFoldCheckpoint:
    """Gives what can teach in the file: a teacher, or out-of-fold teachers; errors as `read_teacher`."""
    return read_teacher_set(path) if kind_of(path) == _KIND else read_teacher(path)


def _prefix(number: int) -> str:
    return f"teacher{number}/"


def _network(checkpoint: OutOfFoldCheckpoint, state: Mapping[str, Tensor]) -> Teacher:
    task = checkpoint.task
    teacher = Teacher(checkpoint.modalities, len(task.labels), checkpoint.config, kind=task.kind)
    teacher.load_state_dict(state)
    return teacher.eval()


def _groups(tensors: Mapping[str, Tensor], document: _Document, path: Path) -> tuple[Groups, NDArray[np.int64]]:
    number, part = (tensors.get(name, torch.empty(0)) for name in ("number", "part"))
    teachers, names = len(document.facts), document.group_names
    whole = number.dtype == part.dtype == torch.int64 and number.ndim == 1 and number.shape == part.shape
    if not whole or set(part.tolist()) != set(range(teachers)) or bool((number.diff() <= 0).any()):
        raise CheckpointError(
            f"{path}: groups: expected int64 (G,) ascending numbers with a part from 0 to {teachers - 1} each, "
            f"got {number.dtype} {tuple(number.shape)} and {part.dtype} {tuple(part.shape)}; the file was altered"
        )
    if names is msgspec.UNSET:
        return number.numpy(), part.numpy()
    if len(names) != len(number) or list(names) != sorted(set(names)):
        raise CheckpointError(
            f"{path}: groups: expected {len(number)} different names in order, got {len(names)}; the file was altered"
        )
    return np.array(names), part.numpy()
