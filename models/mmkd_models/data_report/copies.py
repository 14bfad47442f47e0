"""Windows that are in two splits, or as good as: copies, near copies, and groups that are one under two names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmkd_models.data.checking.scan import Scan
from mmkd_models.data.kinds import windows_at_once
from mmkd_models.data.sources import Rows
from mmkd_models.data.windows import Windows
from mmkd_models.data_report.probes import Features, ProbedWindows
from mmkd_models.evaluation.confidence import share_interval
from mmkd_models.evaluation.gains import FEWEST_GROUPS

_NEAR = 0.01  # what differs, as a share of what moves: 20 dB, a sensor's noise upon the same movement
_LEAST_MOVEMENT = 0.1  # of the channel's own spread: below it a window is rest, and all rest is alike
_LEAST_KNOWN = 0.5
_MOST = 0.5


@dataclass(frozen=True, kw_only=True)
class NearCopy:
    """A window that judges and one that trains (numbers in `everything`), and what differs, as a share."""

    judges: int
    trains: int
    different: float


@dataclass(frozen=True, kw_only=True)
class LikeGroups:
    """Two groups of different splits that are more alike than people are.

    Attributes:
        shared: share of the windows of each, of the one with less, whose nearest neighbour among all other groups is in
            the other.
        usual: the same of the median group and the one most like it.
    """

    judges: str
    trains: str
    shared: float
    usual: float


def copies_of(windows: Windows, scan: Scan) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return pairs of equal windows: of two splits, and inside one."""
    first_seen: dict[bytes, int] = {}
    across: list[tuple[int, int]] = []
    inside: list[tuple[int, int]] = []
    for row, digest in enumerate(scan.digests):
        if digest:
            first = first_seen.setdefault(digest, row)
            if first != row:
                (across if windows.splits[first] != windows.splits[row] else inside).append((first, row))
    return across, inside


def near_copies(looked: ProbedWindows) -> list[NearCopy]:
    """Compare each window that judges with the training window whose statistics are nearest, sample by sample."""
    from sklearn.neighbors import NearestNeighbors

    train, others = np.flatnonzero(looked.windows.splits == 0), np.flatnonzero(looked.windows.splits != 0)
    features = looked.together
    spread = features[train].std(axis=0)
    scaled = features[:, spread > 0] / spread[spread > 0]
    nearest = NearestNeighbors(n_neighbors=1).fit(scaled[train]).kneighbors(scaled[others], return_distance=False)
    pairs = np.stack([others, train[nearest[:, 0]]], axis=1)
    different = _different(looked, pairs)
    return [
        NearCopy(judges=int(looked.rows[a]), trains=int(looked.rows[b]), different=float(share))
        for (a, b), share in zip(pairs.tolist(), different, strict=True)
        if 0 < share < _NEAR
    ]


def _different(looked: ProbedWindows, pairs: Rows) -> npt.NDArray[np.float64]:
    """(P,) what differs between two windows as a share of what moves, of the modality that differs most; 1 at rest."""
    worst, moved = np.zeros(len(pairs)), np.zeros(len(pairs), dtype=bool)
    block = min(map(windows_at_once, looked.windows.spec.modalities))
    for start in range(0, len(pairs), block):
        part = slice(start, start + block)
        ours, theirs = (looked.windows.take(pairs[part, side]) for side in (0, 1))
        for spec in looked.windows.spec.modalities:
            share, moves = _of_modality(ours[spec.name], theirs[spec.name], looked, spec.name)
            worst[part] = np.maximum(worst[part], np.where(moves, share, 0.0))
            moved[part] |= moves
    return np.where(moved, worst, 1.0)


def _of_modality(
    ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32], looked: ProbedWindows, name: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    known = ~(np.isnan(ours) | np.isnan(theirs))
    gap = np.where(known, ours - theirs, 0.0).astype(np.float64)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    x = np.where(known, ours, 0.0).astype(np.float64)
    centred = np.where(known, x - x.sum(axis=1, keepdims=True) / count, 0.0)
    channels = ours.shape[2]
    usual = np.maximum(np.median(looked.features[name][:, channels : 2 * channels], axis=0), 1e-12)  # of the spreads
    movement = ((centred / usual) ** 2).mean(axis=(1, 2))
    share = ((gap / usual) ** 2).mean(axis=(1, 2)) / np.maximum(movement, 1e-12)
    return share, (movement > _LEAST_MOVEMENT**2) & (known.mean(axis=(1, 2)) >= _LEAST_KNOWN)


def like_groups(looked: ProbedWindows) -> Iterator[LikeGroups]:
    """Yield groups of two splits each of which has most of its nearest neighbours, of other groups, in the other.

    Two people are alike in some movements; one person under two names is in all.
    """
    names, code = np.unique(looked.windows.groups, return_inverse=True)
    if not looked.windows.has_groups or len(names) < FEWEST_GROUPS:
        return
    nearest = _nearest_of_others(_scaled(looked.together), code)
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts, (code, code[nearest]), 1)
    sizes = counts.sum(axis=1)
    shares = counts / sizes[:, None]
    mutual = np.minimum(shares, shares.T)
    usual = float(np.median(mutual.max(axis=1)))
    split = np.zeros(len(names), dtype=np.int64)
    split[code] = looked.windows.splits
    for a, b in zip(*np.nonzero(np.triu(mutual > _MOST, 1)), strict=True):
        least = min(share_interval(int(counts[x, y]), int(sizes[x]))[0] for x, y in ((a, b), (b, a)))
        if split[a] != split[b] and least >= _MOST:
            trains, judges = (a, b) if split[a] < split[b] else (b, a)
            yield LikeGroups(
                judges=str(names[judges]), trains=str(names[trains]), shared=float(mutual[a, b]), usual=usual
            )


def _scaled(features: Features) -> Features:
    spread = features.std(axis=0)
    moving = features[:, spread > 0]
    return np.asarray((moving - moving.mean(axis=0)) / spread[spread > 0])


def _nearest_of_others(points: Features, code: Rows) -> Rows:
    """(N,) the nearest point of another group."""
    square = np.square(points).sum(axis=1)
    found = np.zeros(len(points), dtype=np.int64)
    for start in range(0, len(points), 256):
        part = slice(start, start + 256)
        distance = square[None] - 2 * points[part] @ points.T  # (b, N), the own square left out
        found[part] = np.where(code[part, None] == code[None], np.inf, distance).argmin(axis=1)
    return found
