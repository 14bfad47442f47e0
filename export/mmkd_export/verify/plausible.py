"""The range of values that a sensor can plausibly give, where the dataset declares none.

A device treats a value outside as missing, so that a window of nothing but such values is `invalid` and never answered:
INT8 above all makes a plausible answer of 1e38. The rule is generous, since what is only rare must not count as
missing: whether windows still look like the training is for the drift verdict.
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
    """The same student, whose values have the range that was chosen.

    Args:
        checkpoint: a student.
        windows: (N, T, C) raw values that must be inside; NaN = missing. Those of video are.
        choice: a range, `auto` for what the dataset declares or else the rule, `none` for no range at all.

    Raises:
        UsageError: see `with_named_range`.
    """
    modality = with_named_range(checkpoint.modality, choice)
    if choice == "auto" and modality.range is None and modality.kind != "video" and modality.normalise != "per_group":
        modality = msgspec.structs.replace(modality, range=plausible_range(windows, **checkpoint.normalisation))
    return replace(checkpoint, modality=modality)


def with_named_range(modality: ModalitySpec, choice: RangeChoice) -> ModalitySpec:
    """The same modality with the range that was named, with none where that was asked for, or as it is for `auto`.

    Raises:
        UsageError: the modality is normalised per group and a range was named or taken away, or is video and a range
            was named.
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
    """The rule: two digits, rounded outwards; None where it would leave nothing of float32 out."""
    finite = windows[np.isfinite(windows)]
    seen = (float(finite.min()), float(finite.max())) if finite.size else ()
    return plausible_span(mean, std, seen=seen)


def range_choice(text: str | None) -> RangeChoice:
    """What `--range` says: `LOW:HIGH` or `none`; nothing leaves it to the rule.

    Raises:
        UsageError: it says something else.

    >>> range_choice("-16:16")
    (-16.0, 16.0)
    """
    if text is None or text == "none":
        return "auto" if text is None else "none"
    low, _, high = text.partition(":")
    try:
        found = float(low), float(high)
    except ValueError:
        found = (math.nan, math.nan)
    if not -MAX_FLOAT32 <= found[0] < found[1] <= MAX_FLOAT32:
        raise UsageError(f"--range {text!r}: expected LOW:HIGH with LOW below HIGH, or none; write --range=-16:16")
    return found
