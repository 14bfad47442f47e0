"""What the proofs of adapting call a domain: a person, a campaign, a condition, as the windows of a dataset tell."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_models.data.windows import Windows


def domains_of(windows: Windows, by: str | None) -> NDArray[np.str_]:
    """Gives the domain (N,) of each window.

    Args:
        by: a column of the dataset, such as the campaign; or how many groups, in their order, are a domain; None takes
            each group for one.
    """
    groups = np.unique(windows.groups, return_inverse=True)
    if by is None:
        return np.asarray(groups[0].astype(str)[groups[1]])
    if by.isdigit():
        return np.asarray((groups[1] // int(by)).astype(str))
    if by not in windows.columns:
        raise SystemExit(f"--by {by}: expected a number of groups or one of the columns {', '.join(windows.columns)}")
    return np.char.replace(windows.columns[by].astype(str), " ", "_")


def one_against_others(windows: Windows, name: str | None) -> Windows:
    """Gives windows of two classes, this one and all others together; None leaves them as they are.

    Campaigns that have different faults have "no fault" and "some fault" in common.
    """
    if name is None:
        return windows
    task = windows.spec.task
    if name not in task.labels:
        raise SystemExit(f"--against {name}: expected one of the classes {', '.join(task.labels)}")
    spec = msgspec.structs.replace(windows.spec, task=msgspec.structs.replace(task, labels=(name, "other")))
    labels = np.where(windows.labels < 0, -1, (windows.labels != task.labels.index(name)).astype(np.int64))
    return replace(windows, spec=spec, labels=labels)
