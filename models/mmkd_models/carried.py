"""Validation windows that travel with a student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmkd_edge.errors import CheckpointError
from mmkd_edge.frames import frame_bytes, mask_missing, missing_frames
from mmkd_edge.spec import ModalitySpec, TaskSpec, label_dtype
from mmkd_models.data.labels import Labels, is_labelled
from mmkd_models.data.spec import window_bytes
from mmkd_models.data.windows import Windows, without_in_turn

MAX_WINDOWS = 256
MAX_CARRIED_BYTES = 1 << 25
"""Limit for carried audio or video: 227 windows of 16 frames of 96 x 96 gray pixels."""

MIN_WINDOWS = 16


@dataclass(frozen=True, kw_only=True)
class CarriedWindows:
    """Validation windows for calibration and golden tests at export."""

    # (N, T, C) float32 raw values (z-scores for a per-group modality); NaN = missing. Video: uint8 (N, T, H, W,
    # C), masked where frames are missing
    windows: NDArray[Any]
    labels: Labels  # as `Windows.labels`, all known
    groups: NDArray[np.int64] | None = None  # (N,) numbers from 0 of their groups; None if unknown

    def subset(self, rows: NDArray[Any]) -> CarriedWindows:
        """Select windows by mask (N,) or number."""
        groups = None if self.groups is None else self.groups[rows]
        return CarriedWindows(windows=self.windows[rows], labels=self.labels[rows], groups=groups)


def most_carried(modality: ModalitySpec) -> int:
    """Return the maximum of windows: fewer for large audio and video."""
    if modality.kind == "series":
        return MAX_WINDOWS
    return min(MAX_WINDOWS, max(MIN_WINDOWS, MAX_CARRIED_BYTES // window_bytes(modality)))


def carried_windows(valid: Windows, modality: str, *, seed: int, most: int = MAX_WINDOWS) -> CarriedWindows:
    """Draw labelled validation windows in a fixed order; those of a joined sensor lack one part in turn."""
    spec = valid.spec.modality(modality)
    most = min(most, most_carried(spec))
    known = np.flatnonzero(valid.labelled)
    rows = np.sort(np.random.default_rng(seed).permutation(known)[:most])
    windows = valid.with_modalities((modality,)).take(rows)[modality]
    return CarriedWindows(
        windows=windows if spec.kind == "video" else np.ascontiguousarray(without_in_turn(windows, spec)),
        labels=np.ascontiguousarray(valid.labels[rows]),
        groups=np.unique(valid.groups[rows], return_inverse=True)[1].reshape(-1).astype(np.int64),
    )


def carried_tensors(carried: CarriedWindows) -> dict[str, Tensor]:
    """Return the stored tensors."""
    tensors = {"windows": torch.from_numpy(frame_bytes(carried.windows)), "labels": torch.from_numpy(carried.labels)}
    if carried.groups is not None:
        tensors["groups"] = torch.from_numpy(carried.groups)
    if carried.windows.dtype == np.uint8:
        tensors["frames"] = torch.from_numpy(~missing_frames(carried.windows))
    return tensors


def carried_from(tensors: Mapping[str, Tensor], modality: ModalitySpec, task: TaskSpec, path: Path) -> CarriedWindows:
    """Return a file's windows. Raise CheckpointError for other tensors."""
    windows, labels = tensors.get("windows", torch.empty(0)), tensors.get("labels", torch.empty(0))
    shape = (len(windows), *modality.shape)
    dtype, several = label_dtype(task.kind), task.kind == "multi_label"
    label_shape = (len(windows), len(task.labels)) if several else (len(windows),)
    fits = labels.dtype == getattr(torch, dtype) and labels.shape == label_shape
    letters = "(N, T, H, W, C)" if modality.kind == "video" else "(N, T, C)"
    if windows.dtype != getattr(torch, modality.dtype) or windows.shape != shape or not fits:
        raise CheckpointError(
            f"{path}: carried windows: expected {modality.dtype} {letters}={shape} with {dtype} labels "
            f"{'(N, K)' if several else '(N,)'}, got {windows.dtype} "
            f"{tuple(windows.shape)} with {labels.dtype} {tuple(labels.shape)}; the file was altered"
        )
    if task.kind not in ("classification", "normal"):
        if not is_labelled(labels.numpy()).all() or (several and bool((labels > 1).any())):
            raise CheckpointError(
                f"{path}: carried windows: expected a label of each, got windows without; the file was altered"
            )
    elif bool(((labels < 0) | (labels >= len(task.labels))).any()):
        raise CheckpointError(
            f"{path}: carried windows: expected labels from 0 to {len(task.labels) - 1}, got {labels.min()} to "
            f"{labels.max()}; the file was altered"
        )
    groups = tensors.get("groups")
    if groups is not None and (groups.dtype != torch.int64 or groups.shape != (len(windows),)):
        raise CheckpointError(
            f"{path}: carried windows: expected the group of each, int64 (N,)={(len(windows),)}, got {groups.dtype} "
            f"{tuple(groups.shape)}; the file was altered"
        )
    owners = None if groups is None else groups.numpy()
    if modality.kind != "video":
        return CarriedWindows(windows=windows.numpy(), labels=labels.numpy(), groups=owners)
    frames, shape = tensors.get("frames", torch.empty(0)), (len(windows), modality.samples)
    if frames.dtype != torch.bool or frames.shape != shape:
        raise CheckpointError(
            f"{path}: carried windows: expected which frames are there, bool (N, T)={shape}, got {frames.dtype} "
            f"{tuple(frames.shape)}; the file was altered"
        )
    masked = mask_missing(windows.numpy(), ~frames.numpy())
    return CarriedWindows(windows=masked, labels=labels.numpy(), groups=owners)
