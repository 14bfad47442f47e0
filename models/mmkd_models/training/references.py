"""References for a device: how training groups differ, and where training embeddings lie.

Each group is compared with clusters of the others'; a new group exceeds the largest of G scores with probability 1 / (G
+ 1) (Vovk et al., Algorithmic Learning in a Random World, 2005, ch. 2; approximately, since clusters are fitted).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mmkd_edge.bundle.manifest import MAX_NOVELTY_WINDOWS
from mmkd_edge.bundle.statistics import GroupReference, MagnitudeLimits
from mmkd_edge.health.drift import QUIETEST, ROWS, Kinds, window_features
from mmkd_edge.predict.novelty import channel_magnitudes, magnitude
from mmkd_edge.predict.preprocess import channel_rows, prepare_batch
from mmkd_models.data.windows import CutWindows, Windows
from mmkd_models.novelty import MAX_CENTRES, NoveltyScore, TrainingEmbeddings
from mmkd_models.training.predict import embeddings_of

_FALSE_ALARM_RATE = 0.05  # for one new group; fewer than 19 groups cannot show it, and the rate is then 1 / (G + 1)

MIN_GROUPS = 5
_MAX_GROUPS = 256
MAX_WINDOWS = 2048
_MIN_WINDOWS_OF_GROUP = 5
MIN_WINDOWS = 100  # of a verdict, to be about the person, not the moment
_MAX_EMBEDDED_WINDOWS = 4096  # drawn at random
_MIN_SPREAD = 1e-6  # of the largest standard deviation: minimum of a varying feature
_BLOCK = 50  # half of a verdict: training groups are small, and limits from fewer windows are safe
_BLOCKS = 10
_KINDS = 8
_WINDOWS_OF_KIND = 10
_ROUNDS = 20
_PARTS = 20
_SEED = 20211116
# Fraction of a group's windows beyond its own limits, and of groups whose own limits are beyond the common ones.
_WINDOWS_BEYOND, _GROUPS_BEYOND = 0.01, 0.05
_MARGIN = 2.0
"""How much a new group may differ from all of the training. Less calls healthy people unknown (1.5: up to 2 % on five
sets), more misses a factor of 8 (3: up to a third of the windows); docs/confidence.md has the figures.
"""
_BOUNDLESS = 1e30  # spread of a feature that no window has
_MIN_GAIN = 0.5  # nats a window: smaller differences never count

Features = NDArray[np.float64]


def group_reference(train: Windows, valid: Windows, modality: str) -> GroupReference | None:
    """Measure how groups differ, or ten blocks of windows; None for too few."""
    every = [part.subset(part.groups == name) for part in (train, valid) for name in np.unique(part.groups)]
    groups = [group for group in every if len(group) >= _MIN_WINDOWS_OF_GROUP]
    between: Literal["groups", "recordings", "blocks"] = "groups"
    source = train.source
    if isinstance(source, CutWindows) and (source.recording[train.rows] == train.groups).all():
        between = "recordings"
    if len(groups) < MIN_GROUPS:
        between, both = "blocks", (train, valid)
        if len(train) + len(valid) < _BLOCKS * _MIN_WINDOWS_OF_GROUP:
            return None
        parts = [max(1, round(_BLOCKS * len(part) / (len(train) + len(valid)))) for part in both]
        groups = [
            part.subset(rows)
            for part, count in zip(both, parts, strict=True)
            for rows in np.array_split(np.arange(len(part)), count)
            if len(rows)
        ]
    groups = [groups[number] for number in _spread_numbers(len(groups), _MAX_GROUPS)]
    measured = [_measure_features(group, modality) for group in groups]
    spec = train.spec.modality(modality)
    reference = fit_reference(measured, channels=len(spec.channels), between=between)
    if spec.kind == "video":  # bytes have one scale
        return reference
    limits = magnitude_limits(
        [np.concatenate([channel_magnitudes(*part) for part in _prepare_blocks(group, modality)]) for group in groups]
    )
    return msgspec.structs.replace(reference, magnitude=limits)


def magnitude_limits(groups: Sequence[Features]) -> MagnitudeLimits:
    """Return limits of a window's magnitude from each group's channels (N, C), and their error rate."""
    outside: list[NDArray[np.bool_]] = []
    for others, part in _leave_parts_out(groups):
        usual, lowest, highest = _fit_magnitudes(others)
        for number in part:
            magnitudes = _group_magnitudes(groups[number], usual)
            outside.append((magnitudes < lowest) | (magnitudes > highest))
    usual, lowest, highest = _fit_magnitudes(groups)
    return MagnitudeLimits(
        usual=tuple(usual.tolist()), lowest=lowest, highest=highest, outside_rate=float(np.concatenate(outside).mean())
    )


def _leave_parts_out(groups: Sequence[Features]) -> Iterator[tuple[list[Features], list[int]]]:
    parts = min(_PARTS, len(groups))
    for part in range(parts):
        others = [group for number, group in enumerate(groups) if number % parts != part]
        yield others, list(range(part, len(groups), parts))


def _group_magnitudes(group: Features, usual: NDArray[np.float64]) -> NDArray[np.float64]:
    expected = usual.tolist()
    return np.array([magnitude(row, expected) for row in group.tolist()])


def _fit_magnitudes(groups: Sequence[Features]) -> tuple[NDArray[np.float64], float, float]:
    """Usual root mean square of channels (C,), lowest and highest usual magnitude."""
    everything = np.concatenate(groups)
    empty = np.isnan(everything).all(axis=0)
    usual = np.nanquantile(np.where(empty, 0.0, everything), 0.9, axis=0)
    usual = np.where(usual > 0, usual, 1.0)
    magnitudes = [_group_magnitudes(group, usual) for group in groups]
    quantiles = [_WINDOWS_BEYOND, 1 - _WINDOWS_BEYOND]
    ends = np.array([np.nanquantile(group, quantiles) for group in magnitudes if np.isfinite(group).any()])
    if not len(ends):  # no window has a sample
        return usual, 0.0, _BOUNDLESS
    lowest, highest = np.quantile(ends[:, 0], _GROUPS_BEYOND), np.quantile(ends[:, 1], 1 - _GROUPS_BEYOND)
    return usual, float(lowest / _MARGIN), max(float(highest * _MARGIN), 1e-12)


def fit_reference(
    groups: Sequence[Features], *, channels: int, between: Literal["groups", "recordings", "blocks"]
) -> GroupReference:
    """Return kinds of windows, usual values and limits from each group's features (N, F)."""
    most = max(_MIN_WINDOWS_OF_GROUP, MAX_WINDOWS // len(groups))
    groups = [group[_spread_numbers(len(group), max(most, _BLOCK))] for group in groups]
    kinds = _fit_kinds(np.concatenate(groups), channels)
    misfit, axes, levels = _widen_limits(_left_out_scores(groups, channels)).tolist()
    return GroupReference(
        between=between,
        groups=len(groups),
        windows=sum(map(len, groups)),
        fewest_windows=MIN_WINDOWS,
        false_alarm_rate=max(_FALSE_ALARM_RATE, 1 / (len(groups) + 1)),
        scales=tuple(kinds.scales.tolist()),
        centres=tuple(tuple(row) for row in kinds.centres.tolist()),
        spreads=tuple(tuple(row) for row in kinds.spreads.tolist()),
        largest_misfit=misfit,
        largest_axes=axes,
        largest_levels=levels,
    )


def _left_out_scores(groups: Sequence[Features], channels: int) -> NDArray[np.float64]:
    scores = np.zeros((len(groups), 3))
    for others, part in _leave_parts_out(groups):
        kinds = _fit_kinds(np.concatenate(others), channels)
        for number in part:
            blocks = np.array_split(groups[number], max(1, len(groups[number]) // _BLOCK))
            scores[number] = np.max([kinds.measure(rows).scores for rows in blocks], axis=0)
    return scores


def _spread_numbers(count: int, most: int) -> list[int]:
    return sorted({int(number) for number in np.linspace(0, count - 1, min(count, most))})


def _measure_features(windows: Windows, modality: str) -> Features:
    step, rows = max(1, windows.spec.modality(modality).samples // ROWS), []
    for values, present in _prepare_blocks(windows, modality):
        pairs = zip(values[:, ::step], present[:, ::step] > 0, strict=True)
        rows += [window_features(window, presence) for window, presence in pairs]
    return np.array(rows)


def _prepare_blocks(windows: Windows, modality: str) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    windows = windows.with_modalities((modality,))
    for start in range(0, len(windows), 32):
        taken = windows.take(np.arange(start, min(start + 32, len(windows))))[modality]
        yield channel_rows(*prepare_batch(taken, windows.spec.modality(modality)))


def _fit_kinds(features: Features, channels: int) -> Kinds:
    logs = features[:, channels : 2 * channels]
    known = [channel[np.isfinite(channel)] for channel in logs.T]
    scales = np.array([np.exp(np.median(channel)) if len(channel) else 1.0 for channel in known])
    floors = np.full(features.shape[1], -np.inf)
    floors[channels : 2 * channels] = np.log(QUIETEST * scales)
    features = np.maximum(features, floors)  # NaN stays
    presence = np.isfinite(features)
    means = np.where(presence, features, 0.0).sum(axis=0) / np.maximum(presence.sum(axis=0), 1)
    filled = np.where(presence, features, means)
    least = 1e-3 * np.concatenate([scales, np.ones(len(means) - channels)])
    std = np.maximum(filled.std(axis=0), least)
    kind_of = _cluster_points(np.clip((filled - means) / std, -5, 5), most=_KINDS)
    of_kind = [filled[kind_of == kind] for kind in np.unique(kind_of)]
    centres = np.array([rows.mean(axis=0) for rows in of_kind])
    squares = np.array([np.square(rows - centre).sum(axis=0) for rows, centre in zip(of_kind, centres, strict=True)])
    counts = np.array([[len(rows)] for rows in of_kind])
    pooled = squares.sum(axis=0) / len(filled)
    variances = (squares + _WINDOWS_OF_KIND * pooled) / (counts + _WINDOWS_OF_KIND)
    spreads = np.where(presence.any(axis=0), np.maximum(np.sqrt(variances), least), _BOUNDLESS)
    return Kinds(centres=centres, spreads=spreads, scales=scales)


def _cluster_points(points: Features, *, most: int) -> NDArray[np.intp]:
    """(N,) the cluster of each point (N, F): k-means from points far apart."""
    centres = [points[np.square(points).sum(axis=1).argmin()]]
    nearest = np.square(points - centres[0]).sum(axis=1)
    rng = np.random.default_rng(_SEED)
    for _ in range(min(most, len(points) // _WINDOWS_OF_KIND) - 1):
        if not nearest.any():
            break
        centres.append(points[rng.choice(len(points), p=nearest / nearest.sum())])
        nearest = np.minimum(nearest, np.square(points - centres[-1]).sum(axis=1))
    middle = np.array(centres)
    kind_of = np.zeros(len(points), dtype=np.intp)
    for _ in range(_ROUNDS):
        kind_of = (np.square(middle).sum(axis=1) - 2 * points @ middle.T).argmin(axis=1)
        middle = np.array(
            [points[kind_of == k].mean(axis=0) if (kind_of == k).any() else m for k, m in enumerate(middle)]
        )
    return kind_of


def _widen_limits(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) limits from left-out scores (G, 3), widened by one factor."""
    usual = np.median(scores, axis=0) * [1, 0, 0]  # improvements begin at nothing, misfits anywhere
    above = np.sort(scores - usual, axis=0)
    second = np.maximum(above[-2], _MIN_GAIN)
    ratios = np.sort(((scores - usual) / second).max(axis=1))
    place = min(len(ratios), int(np.ceil((len(ratios) + 1) * (1 - _FALSE_ALARM_RATE))))
    limits: NDArray[np.float64] = usual + max(1.0, float(ratios[place - 1])) * second
    return limits


def training_embeddings(
    network: nn.Module, train: Sequence[Windows], valid: Sequence[Windows], *, modality: str
) -> TrainingEmbeddings:
    """Summarise training embeddings."""
    return embeddings_summary(
        _embed_sample(network, train, modality=modality, most=_MAX_EMBEDDED_WINDOWS),
        _embed_sample(network, valid, modality=modality, most=MAX_NOVELTY_WINDOWS),
    )


def embeddings_summary(trained: NDArray[np.float32], unseen: NDArray[np.float32]) -> TrainingEmbeddings:
    """Measure where training embeddings (N, D) lie, and the usual scores of others."""
    embeddings = trained.astype(np.float64)
    middle, spread = embeddings.mean(axis=0), embeddings.std(axis=0)
    spread = np.maximum(spread, max(_MIN_SPREAD * float(spread.max()), 1e-12))
    points = (embeddings - middle) / spread
    kind_of = np.unique(_cluster_points(points, most=MAX_CENTRES), return_inverse=True)[1]
    centres = np.stack([points[kind_of == kind].mean(axis=0) for kind in range(kind_of.max() + 1)])
    usual = float(np.median(np.square(points - centres[kind_of]).sum(axis=1)))
    unit = 1.0 / max(np.sqrt(usual), 1e-6)
    scale, shift, middles = (
        torch.from_numpy(part.astype(np.float32)) for part in (unit / spread, -unit * middle / spread, unit * centres)
    )
    summary = TrainingEmbeddings(scale=scale, shift=shift, centres=middles, scores=torch.zeros(1))
    scores = NoveltyScore(summary)(torch.from_numpy(unseen))[:, 0]
    return replace(summary, scores=scores.sort().values)


def _embed_sample(network: nn.Module, parts: Sequence[Windows], *, modality: str, most: int) -> NDArray[np.float32]:
    count = sum(map(len, parts))
    chosen = np.sort(np.random.default_rng(_SEED).permutation(count)[:most])
    embeddings, first = [], 0
    for part in parts:
        rows = chosen[(chosen >= first) & (chosen < first + len(part))] - first
        first += len(part)
        if len(rows):
            embeddings.append(embeddings_of(network, part.subset(rows), modality=modality))
    return np.concatenate(embeddings)
