"""The plausible range of a sensor's values, for datasets that declare none.

A device treats a value outside as missing, so a window of nothing but such values is `invalid`: without it INT8 makes a
plausible answer of 1e38. The range is generous, because a rare value must not count as missing.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import MAX_FLOAT32, STANDARD_DEVIATIONS, plausible_span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmkd_edge.spec import ModalitySpec
    from mmkd_models.training.checkpoint import StudentCheckpoint

RangeChoice = tuple[float, float] | Literal["auto", "none"]

RULE = (
    f"no range was declared: the training's mean and {STANDARD_DEVIATIONS:g} standard deviations either way, of the "
    "widest channel, and all that its windows have"
)

NAMED = "given at export with --range"


def with_range(checkpoint: StudentCheckpoint, windows: NDArray[Any], choice: RangeChoice) -> StudentCheckpoint:
    """Return a student with the chosen range; errors as `with_named_range`.

    Args:
        checkpoint: the student.
        windows: (N, T, C) raw values that must be inside.
        choice: a range, `auto` for the dataset's or else the rule's, `none` for no range at all.
    """
    modality = with_named_range(checkpoint.modality, choice)
    if choice == "auto" and modality.range is None and modality.kind != "video" and modality.normalise != "per_group":
        modality = msgspec.structs.replace(modality, range=plausible_range(windows, **checkpoint.normalisation))
    return replace(checkpoint, modality=modality)


def with_named_range(modality: ModalitySpec, choice: RangeChoice) -> ModalitySpec:
    """Return a modality with the named range, with none for `none`, unchanged for `auto`.

    Raises:
        UsageError: a range of video is named, or one of a modality that is normalised per group.
    """
    if choice == "auto" or (modality.kind == "video" and choice == "none"):
        return modality
    if modality.kind == "video":
        raise UsageError(f"--range: modality {modality.name!r} is video, whose values are bytes; leave it out")
    if modality.normalise == "per_group":
        raise UsageError(
            f"--range: modality {modality.name!r} is normalised per group, and its range is that of the dataset; "
            'write "range": [LOW, HIGH] into dataset.json and train again'
        )
    return msgspec.structs.replace(modality, range=None if choice == "none" else choice)


def plausible_range(
    windows: NDArray[Any], *, mean: Sequence[float], std: Sequence[float]
) -> tuple[float, float] | None:
    """Compute the range by the rule: two digits, rounded outwards; None if it would be all of float32."""
    finite = windows[np.isfinite(windows)]
    return plausible_span(mean, std, seen=(float(finite.min()), float(finite.max())) if finite.size else ())


def range_choice(text: str | None) -> RangeChoice:
    """Parse `--range`: `LOW:HIGH` or `none`; without it the rule decides.

    >>> range_choice("-16:16")
    (-16.0, 16.0)
    """
    if text is None or text == "none":
        return "auto" if text is None else "none"
    low, _, high = text.partition(":")
    try:
        limits = float(low), float(high)
    except ValueError:
        limits = (math.nan, math.nan)
    if not -MAX_FLOAT32 <= limits[0] < limits[1] <= MAX_FLOAT32:
        raise UsageError(f"--range {text!r}: expected LOW:HIGH with LOW below HIGH, or none; write --range=-16:16")
    return limits
