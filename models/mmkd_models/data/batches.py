"""Training batches, the same for teacher and student."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mmkd_edge.errors import UsageError
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_models.data.augment import AugmentConfig, augment_batch
from mmkd_models.data.labels import UNLABELLED_MARKS, Labels, is_labelled
from mmkd_models.data.windows import Windows, presence_without

_MAX_VALUES = 1 << 24  # of sound or video that statistics use: 64 MB of samples, 16 MB of pixels
_MAX_WINDOWS, _MIN_WINDOWS = 2048, 16


# No dataclass: Lightning Fabric takes dataclasses apart to cast their fields, which fails if they are frozen.
class Batch(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One training batch.

    Attributes:
        inputs: by modality values and presence (B, T, C), values 0 if missing; video (B, T, H, W, C) from 0 to 255
            and (B, T, 1).
        targets: (B, K) distribution; multi-label 0 to 1 each; regression (B, 1); zeros if unlabelled.
        labelled: (B,) 1 or 0.
        index: int64 (B,) window numbers, for losses with a memory.
        step: None for a part of a step's batch.
        partner: int64 (B,) windows mixed in.
        fraction: (B,) fraction of the first window in the mixture.
    """

    inputs: dict[str, tuple[Tensor, Tensor]]
    targets: Tensor
    labelled: Tensor
    index: Tensor
    step: int | None = None
    partner: Tensor | None = None
    fraction: Tensor | None = None

    def changed(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with every tensor changed."""
        return Batch(
            inputs={name: (change(values), change(present)) for name, (values, present) in self.inputs.items()},
            targets=change(self.targets),
            labelled=change(self.labelled),
            index=change(self.index),
            step=self.step,
            partner=None if self.partner is None else change(self.partner),
            fraction=None if self.fraction is None else change(self.fraction),
        )


class BatchSource:
    """Batches by step; `labelled_fraction` of each is labelled windows."""

    def __init__(
        self, windows: Windows, config: AugmentConfig, *, batch: int, labelled_fraction: float, seed: int
    ) -> None:
        self._windows = windows
        self._config = config
        self._batch = min(batch, max(2, len(windows)))
        self._labelled_rows = np.flatnonzero(windows.labelled)
        self._from_labelled = round(labelled_fraction * self._batch)
        if self._from_labelled and len(self._labelled_rows) == 0:
            mark = UNLABELLED_MARKS[windows.spec.task.kind]
            raise UsageError(
                f"training windows: expected some labelled ones, got labels that are all {mark}; label some"
            )
        self._seed = seed
        series = [modality.name for modality in windows.spec.modalities if modality.kind == "series"]
        self._movement = {name: channel_movement(windows, name) for name in series}

    def at(self, step: int) -> Batch:
        """Return a step's batch, the same at every call."""
        rng = np.random.default_rng([self._seed, step])
        rows = self._rows(rng, step)
        fraction, pairs = rng.uniform(0, 1, self._batch).astype(np.float32), None
        if rng.uniform() < self._config.mixup:  # separately, so that labelled windows keep labels
            first = rng.permutation(self._from_labelled)
            rest = self._from_labelled + rng.permutation(self._batch - self._from_labelled)
            pairs = np.concatenate([first, rest]).astype(np.int64)
        inputs: dict[str, tuple[Tensor, Tensor]] = {}
        reach_s = self._windows.max_shift_s if self._config.shift else 0.0
        shift = rng.uniform(-reach_s, reach_s, self._batch)
        window = self._windows.take(rows, shift_s=shift)
        partner = None if pairs is None else self._windows.take(rows[pairs], shift_s=shift[pairs])
        for modality in self._windows.spec.modalities:
            values, present = prepare_batch(window[modality.name], modality)
            if partner is not None:
                other_values, other_present = prepare_batch(partner[modality.name], modality)
                present = present * other_present
                weight = fraction.reshape(-1, *[1] * (values.ndim - 1))
                presence = present.reshape(*present.shape[:2], *[1] * (values.ndim - present.ndim), present.shape[2])
                values = (weight * values + (1 - weight) * other_values) * presence
            values, present = augment_batch(
                values,
                present,
                kind=modality.kind,
                movement=self._movement.get(modality.name),
                config=self._config,
                rng=rng,
            )
            if modality.parts:
                missing = rng.integers(0, 2 * len(modality.parts), len(values))  # half of the windows lack a part
                kept = presence_without(modality, missing)
                values, present = values * kept, present * kept
            inputs[modality.name] = torch.from_numpy(values), torch.from_numpy(present)
        targets, labelled = self._targets(rows, pairs, fraction)
        return Batch(
            inputs=inputs,
            targets=targets,
            labelled=labelled,
            index=torch.from_numpy(rows),
            step=step,
            partner=None if pairs is None else torch.from_numpy(rows[pairs]),
            fraction=None if pairs is None else torch.from_numpy(fraction),
        )

    def _rows(self, rng: np.random.Generator, step: int) -> NDArray[np.int64]:
        parts = []
        if self._from_labelled:
            parts.append(self._labelled_rows[self._slice(len(self._labelled_rows), self._from_labelled, step, 1)])
        if self._from_labelled < self._batch:
            parts.append(self._slice(len(self._windows), self._batch - self._from_labelled, step, 2))
        return np.concatenate(parts).astype(np.int64)

    def _slice(self, length: int, count: int, step: int, stream: int) -> NDArray[np.int64]:
        positions = np.arange(step * count, (step + 1) * count)
        epochs = positions // length
        taken = np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs):
            order = np.random.default_rng([self._seed, stream, int(epoch)]).permutation(length)
            inside = epochs == epoch
            taken[inside] = order[positions[inside] % length]
        return taken

    def _targets(
        self, rows: NDArray[np.int64], pairs: NDArray[np.int64] | None, fraction: NDArray[np.float32]
    ) -> tuple[Tensor, Tensor]:
        labels: Labels = self._windows.labels[rows]
        known = torch.from_numpy(is_labelled(labels))
        if labels.dtype.kind == "f":
            targets = torch.from_numpy(np.nan_to_num(labels, nan=0.0))[:, None]
        elif labels.ndim == 2:
            targets = torch.from_numpy(labels).float()
        else:
            classes = len(self._windows.spec.task.labels)
            targets = F.one_hot(torch.from_numpy(labels).clamp(min=0), classes).float()
        if pairs is not None:
            weight = torch.from_numpy(fraction)[:, None]
            targets = weight * targets + (1 - weight) * targets[pairs]
            known = known & known[pairs]
        return targets * known[:, None], known.float()


def channel_statistics(windows: Windows, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and std (C,) of up to 2,048 windows, without the outermost 0.1 % of values."""
    values, present = _some_windows(windows, name)
    if values.dtype == np.uint8:
        presence, bytes_ = present[..., 0] > 0, np.arange(256.0)
        counts = [np.bincount(part.ravel(), minlength=256) for part in np.moveaxis(values[presence], -1, 0)]
        fractions = [count / max(int(count.sum()), 1) for count in counts]
        byte_means = np.array([fraction @ bytes_ for fraction in fractions])
        variances = [fraction @ (bytes_ - mean) ** 2 for fraction, mean in zip(fractions, byte_means, strict=True)]
        byte_stds = np.array([math.sqrt(variance) or 1.0 for variance in variances])
        return byte_means.astype(np.float32), byte_stds.astype(np.float32)
    flat = np.where(present > 0, values, np.nan).reshape(-1, values.shape[-1]).astype(np.float64)
    means, stds = np.zeros(flat.shape[1]), np.ones(flat.shape[1])
    for channel in range(flat.shape[1]):
        known = flat[np.isfinite(flat[:, channel]), channel]
        if len(known) == 0:
            continue
        low, high = np.quantile(known, [0.001, 0.999])
        inner = known[(known >= low) & (known <= high)]
        means[channel] = inner.mean()
        stds[channel] = max(inner.std(), 1e-6 * max(np.abs(inner).max(), 1.0))
    return means.astype(np.float32), stds.astype(np.float32)


def channel_movement(windows: Windows, name: str) -> NDArray[np.float32]:
    """Return the median (C,) of the windows' std, at least 1e-4 of the channel's."""
    values, present = _some_windows(windows, name)
    _, std = channel_statistics(windows, name)
    count = np.maximum(present.sum(1), 1)  # (N, C)
    centred = (values.astype(np.float64) - (values.sum(1) / count)[:, None]) * present
    known = np.where(present.sum(1) > 1, np.sqrt((centred**2).sum(1) / count), np.nan)
    movement = np.zeros(known.shape[1])
    for channel, stds in enumerate(known.T):
        stds = stds[np.isfinite(stds)]
        if len(stds):
            movement[channel] = np.median(stds) or stds.mean()
    floored: NDArray[np.float32] = np.maximum(movement, 1e-4 * std).astype(np.float32)
    return floored


def spread_rows(windows: Windows, name: str) -> NDArray[np.int64]:
    """Return up to 2,048 evenly spaced window numbers, fewer for large audio and video windows."""
    modality, most = windows.spec.modality(name), _MAX_WINDOWS
    if modality.kind != "series":
        most = min(most, max(_MIN_WINDOWS, _MAX_VALUES // math.prod(modality.shape)))
    return np.unique(np.linspace(0, len(windows) - 1, min(len(windows), most)).astype(np.int64))


def _some_windows(windows: Windows, name: str) -> tuple[NDArray[Any], NDArray[np.float32]]:
    taken = windows.with_modalities((name,)).take(spread_rows(windows, name))
    return prepare_batch(taken[name], windows.spec.modality(name))
