"""What normal recordings suffice for: groups or, of one recording, blocks of time that judge one another."""

from __future__ import annotations

import numpy as np

from mmkd_models.data.checking.related import find_overlaps
from mmkd_models.data.windows import Rows, Windows

MIN_WINDOWS = 100
PARTS = 5
BLOCKS = 20
"""Of time; with fewer no level of 5 % could be judged, as with fewer groups."""


def has_judging_groups(normal: Windows) -> bool:
    """Return whether groups of normal windows can judge one another; else only blocks of their time can."""
    return normal.group_count > 1


def normal_problem(normal: Windows) -> str:
    """Return why normal training windows are too few for a student, or empty."""
    if len(normal) < MIN_WINDOWS:
        return (
            f"expected {MIN_WINDOWS} normal windows or more to train on, got {len(normal)}; record longer, or cut"
            " shorter windows"
        )
    needed_s = BLOCKS * normal.spec.modalities[0].duration_s
    if not has_judging_groups(normal) and covered_s(normal) < needed_s:
        return (
            f"expected normal windows of two groups or more, or of {needed_s:g} s of one recording, whose blocks of"
            f" time judge one another, got {covered_s(normal):.4g} s; record longer, or another machine or day"
        )
    return ""


def time_blocks(windows: Windows, *, count: int) -> Rows:
    """Return the block (N,), from 0, of each window: equal stretches of time."""
    times, owners = windows.clock_s, _owners(windows)
    order = np.arange(len(windows)) if times is None else np.lexsort([times, owners])
    blocks = np.empty(len(windows), dtype=np.int64)
    blocks[order] = np.arange(len(windows)) * count // len(windows)
    return blocks


def apart_from(windows: Windows, chosen: Rows) -> Rows:
    """Return the windows (M,) that are not chosen and share no sample with a chosen one."""
    is_near = np.zeros(len(windows), dtype=bool)
    is_near[chosen] = True
    times = windows.clock_s
    overlaps = find_overlaps(windows)
    first, second = overlaps.first, overlaps.second
    sharing = np.concatenate([second[is_near[first]], first[is_near[second]]])
    if times is not None:
        duration_s, owners = max(item.duration_s for item in windows.spec.modalities), _owners(windows)
        for owner in np.unique(owners[chosen]).tolist():
            own, taken = np.flatnonzero(owners == owner), chosen[owners[chosen] == owner]
            moments = np.sort(times[taken])
            at = np.searchsorted(moments, times[own])
            before, after = moments[np.maximum(at - 1, 0)], moments[np.minimum(at, len(moments) - 1)]
            distance = np.minimum(np.abs(times[own] - before), np.abs(times[own] - after))
            sharing = np.concatenate([sharing, own[distance < duration_s - 1e-6]])
    is_near[sharing] = True
    return np.flatnonzero(~is_near)


def _owners(windows: Windows) -> Rows:
    if windows.episodes is not None:
        return windows.episodes
    groups = windows.groups if windows.has_groups else np.zeros(len(windows), dtype=np.int64)
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def covered_s(windows: Windows) -> float:
    """Return the seconds that windows cover; overlaps count once if their times are known."""
    duration_s = windows.spec.modalities[0].duration_s
    times = windows.clock_s
    if times is None:
        return len(windows) * duration_s
    owners = windows.groups if windows.episodes is None else windows.episodes
    by_owner = [np.sort(times[owners == owner]) for owner in np.unique(owners)]
    return float(sum(np.minimum(np.diff(moments), duration_s).sum() + duration_s for moments in by_owner))
