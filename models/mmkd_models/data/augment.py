"""How training windows are varied: data alone, without torch, as it stands in checkpoints."""

from __future__ import annotations

import msgspec


class AugmentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How training windows are varied. Every number without a unit is a probability or a share.

    Attributes:
        shift: move windows by up to half a hop where they are cut from recordings.
        mixup: share of batches whose windows are mixed in pairs, with one lambda ~ U(0, 1) per pair over all modalities
            (Zhang et al., "mixup", ICLR 2018; uniform lambda as in function matching, Beyer et al., CVPR 2022).
        noise: standard deviation of added noise, in standard deviations of the channel.
        gain: largest relative change of a window's scale around the channel's mean.
        channel_dropout: probability that a channel of a window is hidden.
        span_dropout: probability that a span of a window, up to half of it, is hidden.
    """

    shift: bool = True
    mixup: float = 0.8
    noise: float = 0.05
    gain: float = 0.1
    channel_dropout: float = 0.05
    span_dropout: float = 0.2
