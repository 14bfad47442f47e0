"""The full check of a dataset: every rule of docs/datasets.md, the values of the windows included.

Owns the rules that need a look into the windows, and the facts that a person wants to know. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmkd_models.data.dataset import windows_of
from mmkd_models.data.files import Arrays
from mmkd_models.data.sources import Rows
from mmkd_models.data.spec import SPLIT_NAMES, DatasetSpec
from mmkd_models.data.windows import Windows


def content_problems(spec: DatasetSpec, arrays: Arrays, *, cut: bool) -> Iterator[str]:
    """Gives one text for every rule that the windows break; the structure must be sound already."""
    windows = windows_of(spec, arrays, cut=cut)
    split_of = np.repeat(np.arange(len(SPLIT_NAMES)), [spec.splits[split] for split in SPLIT_NAMES])
    yield from _class_problems(windows, split_of)


def _class_problems(windows: Windows, split_of: Rows) -> Iterator[str]:
    labels = windows.labels[split_of == 0]
    for number, name in enumerate(windows.spec.task.labels):
        if not (labels == number).any():
            yield f"class {name!r} ({number}) has no window in train; move a group that has it, or remove the class"
