"""The arithmetic of a student in INT8, and what a training that practised it has learnt.

Owns how a number becomes an INT8 level: symmetric, zero point 0, weights with one scale for each output. The export
writes graphs by these functions, and quantisation-aware distillation practises with the same ones, so they take NumPy
arrays and torch tensors alike. Which layers compute in INT8 is the export's to say.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import msgspec

TOP = 127
"""Largest level; of weights also the largest magnitude, as TensorRT's weights never use -128."""

BOTTOM = -128
"""Lowest level of an activation: what QuantizeLinear gives for everything below."""

NOTHING = 1e-30
"""Magnitudes up to this are as good as 0: a scale made from them would be 0 in float32."""

_Array = TypeVar("_Array", bound=Any)  # a NumPy array or a torch tensor


def scales_of(largest: _Array) -> _Array:
    """Gives the scale for each largest magnitude: a 127th of it; 1 / 127 where it is as good as 0."""
    scales: _Array = (largest + 1.0 * (largest <= NOTHING)) / TOP
    return scales


def levels_of(values: _Array, scales: _Array, *, lowest: int) -> _Array:
    """Gives whole numbers from `lowest` to `TOP`, halves rounded to even as QuantizeLinear does."""
    levels: _Array = (values / scales).round().clip(lowest, TOP)
    return levels


class QuantisedInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tensor that layers read in INT8.

    Attributes:
        layers: modules of the student that read it.
        largest: the largest magnitude that is represented, as training found it.

    Raises ValueError where it has no reader, or the magnitude is no number above 0.
    """

    layers: tuple[str, ...]
    largest: float

    def __post_init__(self) -> None:
        """Refuses what describes no range, wherever it comes from."""
        if not self.layers or not (math.isfinite(self.largest) and self.largest > NOTHING):
            raise ValueError("expected layers and a finite largest magnitude above 0")


class LearntInt8(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What quantisation-aware distillation learnt.

    Attributes:
        student_sha256: of the checkpoint that it started from.
        score: of the INT8 arithmetic on validation, in the metric of the checkpoint's facts.
        inputs: the tensors that are quantised, and their ranges.
    """

    student_sha256: str
    score: float
    inputs: tuple[QuantisedInput, ...]

    @property
    def ranges(self) -> dict[str, float]:
        """Gives the largest represented magnitude of what each layer reads."""
        return {layer: entry.largest for entry in self.inputs for layer in entry.layers}
