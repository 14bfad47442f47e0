"""What a manifest says of the windows of the training and of the spread between its groups."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

MOST_CORRELATED = 16
"""Up to this many channels correlations are features: they grow with the square."""

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Factor = Annotated[float, msgspec.Meta(ge=1)]


class ChannelStatistics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the present values of one channel are distributed, as the student takes them.

    Attributes:
        edges: float32 borders between the bins, rising: the deciles, if they differ.
        shares: fraction of the values in each bin: bin i has edges[i - 1] <= value < edges[i].
    """

    mean: float
    std: _NotNegative
    missing_share: _Fraction
    edges: Annotated[tuple[float, ...], msgspec.Meta(max_length=9)]
    shares: Annotated[tuple[_Fraction, ...], msgspec.Meta(min_length=1, max_length=10)]


class InputStatistics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device compares its inputs and answers with.

    Attributes:
        label_shares: fraction of each label among the checkpoint's answers; of several labels the fraction of windows
            in which it is on; empty for a regression.
    """

    windows: Annotated[int, msgspec.Meta(ge=1, le=10**15)]
    channels: tuple[ChannelStatistics, ...]
    label_shares: tuple[_Fraction, ...]


class Tolerance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changes of the input up to which the student lost at most `loss`, in either direction.

    Attributes:
        loss: fraction of right answers (of equal answers without labels).
        windows: that were measured.
        offsets: of each channel alone, in its unit.
        offsets_together: of each channel when all are shifted at once.
        gains: factor of each channel alone, or its inverse.
        gain_together: factor of all channels at once.
    """

    loss: _NotNegative
    windows: Annotated[int, msgspec.Meta(ge=1)]
    offsets: tuple[_NotNegative, ...]
    offsets_together: tuple[_NotNegative, ...]
    gains: tuple[_Factor, ...]
    gain_together: _Factor


class MagnitudeLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of the magnitude of a window (`mmkd_edge.predict.novelty`); beyond them no answer is to be believed.

    Attributes:
        usual: of each channel, the root mean square that nine in ten training windows stay below, in its unit.
        outside_rate: fraction of healthy windows outside of limits that were made without their group.
    """

    usual: tuple[_Positive, ...]
    lowest: _NotNegative
    highest: _Positive
    outside_rate: _Fraction


class GroupReference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Kinds of windows in the training, and how its groups differ from each other.

    Attributes:
        between: what was compared; blocks of windows if the dataset has no groups.
        windows: that were measured.
        fewest_windows: fewer observed windows get no verdict.
        false_alarm_rate: fraction of new groups expected outside of the limits.
        scales: usual standard deviation of each channel inside a window.
        centres: mean of each feature (`mmkd_edge.health.features`) of each kind of windows.
        spreads: standard deviation of each feature of each kind.
        largest_misfit: limit of how badly windows may fit the kinds, in nats per window.
        largest_axes: limit of how much better they may fit with other orders and signs of the channels.
        largest_levels: limit of how much better they may fit without an offset or a gain.
        tolerance: None if not measured.
        magnitude: unset for video.
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
    tolerance: Tolerance | None = None
    magnitude: MagnitudeLimits | msgspec.UnsetType = msgspec.UNSET


def reference_fault(reference: GroupReference, channels: int) -> tuple[str, str] | None:
    """Field and message of a list of the wrong length; None if all fit this many channels."""
    pairs = channels * (channels - 1) // 2 if channels <= MOST_CORRELATED else 0
    lists = {"scales": (reference.scales, channels), "spreads": (reference.spreads, len(reference.centres))}
    for name in ("centres", "spreads"):
        rows = getattr(reference, name)
        lists |= {f"{name}[{number}]": (row, 2 * channels + pairs) for number, row in enumerate(rows)}
    if reference.tolerance is not None:
        for name in ("offsets", "offsets_together", "gains"):
            lists[f"tolerance.{name}"] = (getattr(reference.tolerance, name), channels)
    if reference.magnitude:
        lists["magnitude.usual"] = (reference.magnitude.usual, channels)
    for name, (numbers, expected) in lists.items():
        if len(numbers) != expected:
            return name, f"expected {expected}, got {len(numbers)}"
    return None
