"""Statistics of training windows, and of the differences between their groups, in a manifest."""

from typing import Annotated, Literal

import msgspec

MAX_CORRELATED = 16
"""Up to this many channels, correlations are features."""

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class ChannelStatistics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Distribution of a channel's present values, as the student takes them.

    `edges` are the distinct deciles, float32, rising: bin i has edges[i - 1] <= value < edges[i]. `fractions`
    are those of values per bin.
    """

    mean: float
    std: _NotNegative
    missing_fraction: _Fraction
    edges: Annotated[tuple[float, ...], msgspec.Meta(max_length=9)]
    fractions: Annotated[tuple[_Fraction, ...], msgspec.Meta(min_length=1, max_length=10)]


class InputStatistics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reference for a device's inputs and answers.

    `label_fractions` are of the checkpoint's answers; multi-label: of those with the label; empty for a regression.
    """

    windows: Annotated[int, msgspec.Meta(ge=1, le=10**15)]
    channels: tuple[ChannelStatistics, ...]
    label_fractions: tuple[_Fraction, ...]


class MagnitudeLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of a window's magnitude (`mmkd_edge.predict.novelty`); beyond them answers are `unknown`.

    `usual` is the 90th percentile of each channel's root mean square in training windows, `outside_rate` the fraction
    of healthy windows outside of limits made without their group.
    """

    usual: tuple[_Positive, ...]
    lowest: _NotNegative
    highest: _Positive
    outside_rate: _Fraction


class GroupReference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Kinds of training windows, and limits of the differences between groups (blocks of windows if there are none).

    `scales` (C,) are usual standard deviations inside a window, `centres` and `spreads` (K, F) mean and standard
    deviation of the features of `mmkd_edge.health.drift` per kind. The limits are in nats per window. A new group is
    outside of them at `false_alarm_rate`.
    """

    between: Literal["groups", "recordings", "blocks"]
    groups: Annotated[int, msgspec.Meta(ge=2)]
    windows: Annotated[int, msgspec.Meta(ge=2)]
    fewest_windows: Annotated[int, msgspec.Meta(ge=2)]
    false_alarm_rate: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    scales: tuple[_Positive, ...]
    centres: Annotated[tuple[tuple[float, ...], ...], msgspec.Meta(min_length=1, max_length=64)]
    spreads: Annotated[tuple[tuple[_Positive, ...], ...], msgspec.Meta(min_length=1, max_length=64)]
    largest_misfit: float
    largest_axes: _Positive
    largest_levels: _Positive
    magnitude: MagnitudeLimits | None = None


def reference_fault(reference: GroupReference, channels: int) -> tuple[str, str] | None:
    """Return field and message of a list whose length does not fit the channels, or None."""
    pairs = channels * (channels - 1) // 2 if channels <= MAX_CORRELATED else 0
    lists = {"scales": (reference.scales, channels), "spreads": (reference.spreads, len(reference.centres))}
    for name in ("centres", "spreads"):
        rows = getattr(reference, name)
        lists |= {f"{name}[{number}]": (row, 2 * channels + pairs) for number, row in enumerate(rows)}
    if reference.magnitude:
        lists["magnitude.usual"] = (reference.magnitude.usual, channels)
    for name, (numbers, expected) in lists.items():
        if len(numbers) != expected:
            return name, f"expected {expected}, got {len(numbers)}"
    return None
