"""What an evaluation says of faults: which share is seen, and how often a healthy station raises an alarm.

Counted per episode where episodes are known: an episode is a stretch of windows of one class, one after the other in
one run of a recording, and raises an alarm where most of its windows do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import UsageError
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.suites.answering import Answers

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Detection:
    """Counts by group, (G,) each."""

    seen: Floats
    faults: Floats
    alarms: Floats
    healthy: Floats

    def rates(self, weights: Floats) -> tuple[Floats, Floats]:
        """Gives detection and false alarms (D,) when groups count as often as drawn (D, G); NaN where none is there."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (
                np.asarray((weights @ self.seen) / (weights @ self.faults)),
                np.asarray((weights @ self.alarms) / (weights @ self.healthy)),
            )


def healthy_labels(windows: Windows, named: Sequence[str]) -> tuple[str, ...]:
    """Gives the labels that need no action. Raises UsageError where a name is none, or no fault is left."""
    task = windows.spec.task
    if task.kind != "classification":
        raise UsageError(
            f"--suite cost: expected a dataset of classes, got {windows.spec.name!r} of the kind {task.kind}; leave "
            "the suite out"
        )
    for name in named:
        if name not in task.labels:
            raise UsageError(
                f"--cost: 'healthy': expected labels of {', '.join(task.labels)}, got {name!r}; correct it"
            )
    if named and set(named) == set(task.labels):
        raise UsageError("--cost: 'healthy': expected at least one label that needs action, got none left; correct it")
    return tuple(named) or task.labels[:1]


def faults_of(windows: Windows, healthy: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Gives (N,) which windows are at fault. Raises UsageError where no fault or nothing healthy is among them."""
    fine = [windows.spec.task.labels.index(name) for name in healthy]
    fault = ~np.isin(windows.labels, fine)
    if not fault.any() or fault.all():
        raise UsageError(
            f"--suite cost: expected {'faults' if not fault.any() else 'healthy windows'} among those that judge, got "
            "none; name other 'healthy' labels, or another --split"
        )
    return fault


def detection_of(windows: Windows, answers: Answers, healthy: Sequence[str]) -> Detection:
    """Counts what answers (N, K) see, by group.

    Raises UsageError where no fault or nothing healthy is among the windows.
    """
    fine = np.array([windows.spec.task.labels.index(name) for name in healthy])
    fault, alarm = faults_of(windows, healthy), ~np.isin(answers.argmax(axis=1), fine)
    group = np.unique(windows.groups, return_inverse=True)[1]
    if windows.episodes is not None:
        fault, alarm, group = _by_episode(_stretches(windows, windows.episodes, group), fault, alarm, group)
    counts = [
        np.bincount(group, weights=of, minlength=int(group.max()) + 1)
        for of in (fault & alarm, fault, ~fault & alarm, ~fault)
    ]
    seen, faults, alarms, of_healthy = (np.asarray(one, dtype=np.float64) for one in counts)
    return Detection(seen=seen, faults=faults, alarms=alarms, healthy=of_healthy)


def _stretches(windows: Windows, runs: npt.NDArray[np.int64], group: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(N,) equal for the windows of a group's run that follow each other, in time where it is known, with one class."""
    order = np.lexsort((windows.rows if windows.times is None else windows.times, runs, group))
    keys = np.stack([group, runs, windows.labels])[:, order]
    code = np.zeros(len(order), dtype=np.int64)
    code[order[1:]] = np.cumsum((np.diff(keys, axis=1) != 0).any(axis=0))
    return code


def _by_episode(
    code: npt.NDArray[np.int64],
    fault: npt.NDArray[np.bool_],
    alarm: npt.NDArray[np.bool_],
    group: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    first = np.unique(code, return_index=True)[1]
    return fault[first], np.bincount(code, weights=alarm) * 2 > np.bincount(code), group[first]
