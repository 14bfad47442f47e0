"""Windows that are nearly copies of training windows, and groups that may be one under two names."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mmkd_models.data.checking.related import describe_place
from mmkd_models.data.kinds import windows_at_once
from mmkd_models.data.sources import Rows
from mmkd_models.data.windows import Windows
from mmkd_models.data_report.probes import Features, ProbeWindows
from mmkd_models.evaluation.confidence import fraction_interval
from mmkd_models.evaluation.gains import FEWEST_GROUPS
from mmkd_report.schema.data import Finding

_NEAR = 0.01  # power of the difference as a fraction of the movement: 20 dB, a sensor's noise on the same movement
_LEAST_MOVEMENT = 0.1  # of the channel's usual standard deviation: below it a window is at rest
_LEAST_KNOWN = 0.5
_MOST_SHARED = 0.5

Flags = npt.NDArray[np.bool_]


def near_copies(everything: Windows, probed: ProbeWindows) -> Iterator[Finding]:
    """Compare each window of valid and test with the training window of nearest statistics, sample by sample."""
    from sklearn.neighbors import NearestNeighbors

    train, others = np.flatnonzero(probed.windows.splits == 0), np.flatnonzero(probed.windows.splits != 0)
    scaled = probed.scaled_features
    nearest = NearestNeighbors(n_neighbors=1).fit(scaled[train]).kneighbors(scaled[others], return_distance=False)
    pairs = np.stack([others, train[nearest[:, 0]]], axis=1)
    differences = pair_differences(probed, pairs)
    near = (differences > 0) & (differences < _NEAR)
    if near.any():
        count, best = int(near.sum()), int(np.where(near, differences, np.inf).argmin())
        first, second = (describe_place(everything, int(probed.rows[row])) for row in pairs[best])
        yield Finding(
            kind="copies",
            level="problem",
            sentence=f"{count} {'window' if count == 1 else 'windows'} outside train nearly equal to a training "
            f"window: {first} differs from {second} by {100 * differences[best]:.2g} % of the movement",
            advice="give them one group if they were cut from one recording or made from each other",
        )


def pair_differences(probed: ProbeWindows, pairs: Rows) -> npt.NDArray[np.float64]:
    """Return (P,) how much pairs differ, as a fraction of the movement, in the worst modality; 1 at rest."""
    worst, moved = np.zeros(len(pairs)), np.zeros(len(pairs), dtype=bool)
    block = min(map(windows_at_once, probed.windows.spec.modalities))
    for start in range(0, len(pairs), block):
        part = slice(start, start + block)
        first, second = (probed.windows.take(pairs[part, side]) for side in (0, 1))
        for name, features in probed.features.items():
            channels = first[name].shape[2]
            usual_std = np.maximum(np.median(features[:, channels : 2 * channels], axis=0), 1e-12)
            fraction, moves = _difference(first[name], second[name], usual_std)
            worst[part] = np.maximum(worst[part], np.where(moves, fraction, 0.0))
            moved[part] |= moves
    return np.where(moved, worst, 1.0)


def _difference(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], usual_std: Features
) -> tuple[npt.NDArray[np.float64], Flags]:
    known = ~(np.isnan(first) | np.isnan(second))
    gap = np.where(known, first - second, 0.0).astype(np.float64)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    x = np.where(known, first, 0.0).astype(np.float64)
    centred = np.where(known, x - x.sum(axis=1, keepdims=True) / count, 0.0)
    movement = ((centred / usual_std) ** 2).mean(axis=(1, 2))
    fraction = ((gap / usual_std) ** 2).mean(axis=(1, 2)) / np.maximum(movement, 1e-12)
    return fraction, (movement > _LEAST_MOVEMENT**2) & (known.mean(axis=(1, 2)) >= _LEAST_KNOWN)


def like_groups(probed: ProbeWindows) -> Iterator[Finding]:
    """Yield groups of two splits each of which has most of its nearest neighbours, of other groups, in the other.

    Two people are alike in some movements; one person under two names is alike in all.
    """
    names, code = np.unique(probed.windows.groups, return_inverse=True)
    if not probed.windows.has_groups or len(names) < FEWEST_GROUPS:
        return
    scaled = probed.scaled_features
    nearest = _nearest_of_other_groups(scaled - scaled.mean(axis=0), code)
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts, (code, code[nearest]), 1)
    sizes = counts.sum(axis=1)
    fractions = counts / sizes[:, None]
    mutual = np.minimum(fractions, fractions.T)
    usual = float(np.median(mutual.max(axis=1)))
    split = np.zeros(len(names), dtype=np.int64)
    split[code] = probed.windows.splits
    for a, b in np.argwhere(np.triu(mutual > _MOST_SHARED, 1)).tolist():
        least = min(fraction_interval(int(counts[x, y]), int(sizes[x]))[0] for x, y in ((a, b), (b, a)))
        if split[a] != split[b] and least >= _MOST_SHARED:
            trains, judges = (str(names[group]) for group in sorted((a, b), key=lambda group: split[group]))
            yield Finding(
                kind="leak",
                level="problem",
                sentence=f"group {judges!r} (judging) and group {trains!r} (training): {mutual[a, b]:.0%} of the "
                "windows of each have their nearest neighbour in the other (typical pair of groups: "
                f"{usual:.0%})",
                advice="ask whether they are one person, machine or session; if so give them one group",
            )


def _nearest_of_other_groups(points: Features, code: Rows) -> Rows:
    """Return (N,) the nearest point of another group."""
    square = np.square(points).sum(axis=1)
    nearest = np.zeros(len(points), dtype=np.int64)
    for start in range(0, len(points), 256):
        part = slice(start, start + 256)
        distance = square[None] - 2 * points[part] @ points.T  # (b, N), without the point's own square
        nearest[part] = np.where(code[part, None] == code[None], np.inf, distance).argmin(axis=1)
    return nearest
