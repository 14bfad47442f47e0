"""Teachers that were cross-fitted: each window is answered by the one whose training held it back.

The teachers are of one architecture, so that their answers have the same shapes, and differ in what they have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmkd_models.networks.teacher import Inputs, Teacher, TeacherOutput


class OutOfFoldTeachers(nn.Module):
    """K teachers, and for each of N training windows the number of the one that has not seen it.

    Args:
        teachers: of one architecture.
        part: (N,) int64, from 0 to K - 1.

    Raises ValueError where a part has no teacher.
    """

    part: Tensor

    def __init__(self, teachers: Sequence[Teacher], part: Tensor) -> None:
        super().__init__()
        low, high = int(part.min()), int(part.max())
        if low < 0 or high >= len(teachers):
            raise ValueError(f"out-of-fold teachers: expected parts 0 to {len(teachers) - 1}, got {low} to {high}")
        self.teachers = nn.ModuleList(teachers)
        self.register_buffer("part", part)

    @property
    def first(self) -> Teacher:
        """Gives one of them, to see what they are like."""
        return cast("Teacher", self.teachers[0])

    def forward(self, inputs: Inputs, *, index: Tensor, taps: bool = False) -> TeacherOutput:
        """Answers a batch of windows.

        Args:
            index: (B,) int64, which training window each row is, or is mixed from: windows of one part alone.
        """
        part = self.part[index]
        found: list[TeacherOutput] = []
        rows: list[Tensor] = []
        for number in sorted(set(part.tolist())):
            chosen = (part == number).nonzero()[:, 0]
            own = {name: (values[chosen], present[chosen]) for name, (values, present) in inputs.items()}
            found.append(self.teachers[number](own, taps=taps))
            rows.append(chosen)
        joined: TeacherOutput = _joined(found, torch.cat(rows).argsort())
        return joined


def _joined(parts: Sequence[Any], order: Tensor) -> Any:
    """One output of the parts' outputs, rows in this order; tensors are (rows, ...) everywhere in them."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))[order]
    if isinstance(first, dict):
        return {key: _joined([part[key] for part in parts], order) for key in first}
    if isinstance(first, tuple):
        return tuple(_joined(items, order) for items in zip(*parts, strict=True))
    names = [field.name for field in fields(first)]
    return type(first)(**{name: _joined([getattr(part, name) for part in parts], order) for name in names})
