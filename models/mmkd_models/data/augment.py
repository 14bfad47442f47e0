"""How training windows are varied: data alone, without torch, as it stands in checkpoints."""

from __future__ import annotations

from typing import Literal

import msgspec


class AugmentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How training windows are varied. Every number without a unit is a probability or a share.

    Attributes:
        shift: move windows by up to half a hop where they are cut from recordings.
        mixup: share of batches whose windows are mixed in pairs, with one lambda ~ U(0, 1) per pair over all modalities
            (Zhang et al., "mixup", ICLR 2018; uniform lambda as in function matching, Beyer et al., CVPR 2022).
        unit: what noise and gain are measured in: how much windows usually move about their own mean (`window`), or
            the standard deviation of the whole set, around its mean (`set`, as files of earlier releases have it). The
            second drowns small movements where levels differ: noise of 5 % of levels from 0.6 to 134 is more than all
            that moves in a window.
        noise: standard deviation of added noise, in that unit.
        gain: largest relative change of a window's scale around that mean.
        channel_dropout: probability that a channel of a window is hidden.
        span_dropout: probability that a span of a window, up to half of it, is hidden.
    """

    shift: bool = True
    mixup: float = 0.8
    unit: Literal["set", "window"] = "set"
    noise: float = 0.05
    gain: float = 0.1
    channel_dropout: float = 0.05
    span_dropout: float = 0.2
