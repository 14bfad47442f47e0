"""Runs of windows in recordings, their changes of state, and answers filtered along them as a stream would."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.manifest import HopRule
from mmkd_edge.stream.over_time import next_belief, weights_of
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.likelihood import Floats

_SILENCE = 2.0  # in windows, between two starts: a stream then begins anew

Rows = NDArray[np.int64]


def runs_of(windows: Windows, *, window_s: float) -> list[Rows]:
    """Return the numbers of windows that follow one another in a recording, in order; none without a clock."""
    clock_s = windows.clock_s
    if clock_s is None or windows.episodes is None:
        return []
    _, group = np.unique(windows.groups, return_inverse=True)
    order = np.lexsort((clock_s, windows.episodes, group))
    keys = np.stack([group, windows.episodes])[:, order]
    is_cut = (keys[:, 1:] != keys[:, :-1]).any(0) | (np.diff(clock_s[order]) > _SILENCE * window_s)
    return [run.astype(np.int64) for run in np.split(order, np.flatnonzero(is_cut) + 1) if len(run)]


def changes_of(labels: Rows) -> Rows:
    """Return the places in a run, int64 (n,), at which a known state follows another known one."""
    return np.flatnonzero((labels[1:] != labels[:-1]) & (labels[1:] >= 0) & (labels[:-1] >= 0)) + 1


def delays_of(labels: Rows, answers: Rows) -> list[int]:
    """Return for each change of state the answers until one names the new state; its whole length if none does.

    >>> delays_of(np.array([0, 0, 1, 1, 1, 0, 0]), np.array([0, 0, 0, 1, 1, 1, 1]))
    [2, 2]
    """
    ends, found = np.append(np.flatnonzero(np.diff(labels)) + 1, len(labels)), []
    for place in changes_of(labels).tolist():
        end = int(ends[np.searchsorted(ends, place, side="right")])
        right = np.flatnonzero(answers[place:end] == labels[place])
        found.append(int(right[0]) + 1 if len(right) else end - place)
    return found


def delays_along(runs: Sequence[Rows], labels: Rows, answers: Floats) -> tuple[int, ...]:
    """Return the delays of all changes of state in runs, of labels (N,) and answers (N, K)."""
    return tuple(delay for run in runs for delay in delays_of(labels[run], answers[run].argmax(1)))


def usual_delays(delays: Sequence[int]) -> tuple[float, float]:
    """Return the median delay and that of 90 % of the changes; NaN without any."""
    if not delays:
        return np.nan, np.nan
    return float(np.median(delays)), float(np.percentile(delays, 90, method="higher"))


def in_changing_groups(windows: Windows, runs: Sequence[Rows]) -> NDArray[np.bool_]:
    """Return whether each window (N,) is of a group that changes its state in a run."""
    changing = {windows.groups[run[0]] for run in runs if len(changes_of(windows.labels[run]))}
    return np.isin(windows.groups, list(changing))


def hop_of(windows: Windows, runs: Sequence[Rows]) -> float:
    """Return the seconds between the starts of windows that follow one another, the median."""
    assert windows.clock_s is not None
    return float(np.median(np.concatenate([np.diff(windows.clock_s[run]) for run in runs])))


def filter_runs(
    answers: Floats, prior: Floats, runs: Sequence[Rows], clock_s: Floats, tried: Sequence[HopRule], *, window_s: float
) -> Floats:
    """Return the filtered answers (C, N, K) of rules, as a stream gives them; windows in no run keep theirs."""
    found = np.repeat(answers[None], len(tried), axis=0)
    for run in runs:
        elapsed_s = np.append(np.inf, np.diff(clock_s[run]))
        weights = [weights_of(rule, elapsed_s, window_s=window_s) for rule in tried]
        stays, exponents = (np.stack([pair[part] for pair in weights])[..., None] for part in (0, 1))
        belief = np.zeros((len(tried), 1))
        for place, row in enumerate(run.tolist()):
            stay, exponent = stays[:, place], exponents[:, place]
            found[:, row] = belief = next_belief(belief, answers[row], prior, stay=stay, exponent=exponent)
    return found
