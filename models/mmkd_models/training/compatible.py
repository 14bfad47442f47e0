"""Whether a network fits the windows of a dataset: the check of every command that brings the two together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec, task_text
from mmkd_models.data.windows import Windows

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.networks.config import TeacherConfig
    from mmkd_models.training.checkpoint import Provenance, TeacherCheckpoint


def check_start(start: TeacherCheckpoint, config: TeacherConfig, windows: Windows) -> None:
    """Raise UsageError if a teacher of this size, of these windows, cannot start with the weights of another."""
    names = [modality.name for modality in windows.spec.modalities]
    shared = [modality for modality in start.modalities if modality.name in names]
    if not shared:
        raise UsageError(
            f"--start: expected a teacher of one of the modalities {', '.join(names)}, got one of "
            f"{', '.join(modality.name for modality in start.modalities)}; leave --start out"
        )
    check_compatible("starting teacher", start.task, shared, windows)
    if (start.config.encoder, start.config.fusion_depth) != (config.encoder, config.fusion_depth):
        same = start.config.preset == config.preset
        raise UsageError(
            f"--start: expected a teacher of the size {config.preset}, got {start.config.preset}"
            + (", built otherwise; leave --start out" if same else f"; give --preset {start.config.preset}")
        )


def check_same_fold(who: str, facts: Provenance, *, dataset_sha256: str, fold: int | None) -> None:
    """Raise UsageError if what a student learns from was trained on another fold (None: own split) of its dataset.

    It would know windows that judge the student. An unknown fold is accepted.
    """
    if facts.dataset_sha256 != dataset_sha256 or facts.fold is msgspec.UNSET or facts.fold == fold:
        return
    ours, theirs = ("the dataset's own split" if one is None else f"fold {one}" for one in (fold, facts.fold))
    fix = "leave --fold out" if facts.fold is None else f"give --fold {facts.fold}"
    raise UsageError(
        f"{who}: expected one that was trained on {ours}, as the student is, got one of {theirs}, which may know "
        f"windows that judge the student; {fix}, or train it anew"
    )


def check_compatible(who: str, task: TaskSpec, modalities: Sequence[ModalitySpec], windows: Windows) -> None:
    """Raise UsageError if a network of this task and these modalities cannot judge windows.

    The last word of `who`, which names the network, is what to train instead.
    """
    spec = windows.spec
    advice = f"train a {who.rpartition(' ')[2]} on this dataset"
    if task != spec.task:
        raise UsageError(f"{who}: expected the {task_text(spec.task)} of the dataset, got {task_text(task)}; {advice}")
    names = [modality.name for modality in spec.modalities]
    for modality in modalities:
        if modality.name not in names:
            raise UsageError(
                f"{who}: expected a dataset with modality {modality.name!r}, which it was trained with, got "
                f"{', '.join(names)}; {advice}"
            )
        found = spec.modality(modality.name)
        if found.shape != modality.shape or found.rate_hz != modality.rate_hz:
            raise UsageError(
                f"{who}: modality {modality.name!r}: expected windows (T, C)={modality.shape} at "
                f"{modality.rate_hz} Hz, got {found.shape} at {found.rate_hz} Hz; {advice}"
            )
        for key in ("channels", "range", "normalise"):
            required, got = getattr(modality, key), getattr(found, key)
            if key == "range" and got is None:
                continue  # the export gave the student a plausible one
            if got != required:
                raise UsageError(
                    f"{who}: modality {modality.name!r}: expected {key} {required!r}, got {got!r}; {advice}"
                )
