"""The table of faults. The same generator gives the same fault, scaled by severity."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.spec import ModalityKind, ModalitySpec
from mmkd_models.evaluation.faults import effects
from mmkd_models.evaluation.faults.effects import Apply

FaultName = str
Practice = Literal["noise", "gain", "span_dropout", "channel_dropout", "shift"]
"""Fields of `AugmentConfig`."""

SEVERITIES = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Share of the maximum, as in SensorFault-Bench (arXiv 2605.10822)."""

_SERIES: tuple[ModalityKind, ...] = ("series",)
_BOTH: tuple[ModalityKind, ...] = ("series", "audio")
_SOUND: tuple[ModalityKind, ...] = ("audio",)
_VIDEO: tuple[ModalityKind, ...] = ("video",)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A table row: `practice` is the matching augmentation, `channels` the minimum."""

    apply: Apply
    what: str
    kinds: tuple[ModalityKind, ...] = _BOTH
    practice: Practice | None = None
    channels: Literal[1, 2] = 1

    def can_hit(self, modality: ModalitySpec) -> bool:
        """Return whether a sensor can have it."""
        return modality.kind in self.kinds and len(modality.channels) >= self.channels


FAULTS: dict[FaultName, Fault] = {  # the order is part of what decides a window's fault: new ones come last
    "noise": Fault(apply=effects.noise, what="noise of one standard deviation", kinds=_SERIES, practice="noise"),
    "offset": Fault(apply=effects.offset, what="a constant of 0.75 standard deviations", kinds=_SERIES),
    "drift": Fault(apply=effects.drift, what="a ramp to one standard deviation", kinds=_SERIES),
    "gain up": Fault(apply=effects.gain_up, what="twice the amplitude", practice="gain"),
    "gain down": Fault(apply=effects.gain_down, what="a quarter of the amplitude", practice="gain"),
    "spike": Fault(apply=effects.spike, what="one sample in fifty off by 7.5 standard deviations"),
    "stuck": Fault(apply=effects.stuck, what="one value throughout the window"),
    "gap": Fault(apply=effects.gap, what="half of the window missing", practice="span_dropout"),
    "clipping": Fault(apply=effects.clipping, what="nothing beyond one standard deviation"),
    "time stretch": Fault(apply=effects.time_stretch, what="five times as slow", kinds=_SERIES),
    "time shift": Fault(apply=effects.time_shift, what="late by half the window"),
    "sample rate": Fault(apply=effects.sample_rate, what="a clock that is ten per cent off"),
    "quantisation": Fault(apply=effects.quantisation, what="a converter of two bits"),
    "hum": Fault(apply=effects.hum, what="50 or 60 Hz of one standard deviation"),
    "channel swap": Fault(apply=effects.channel_swap, what="two channels the wrong way round", channels=2),
    "lost channel": Fault(apply=effects.lost_channel, what="channels missing throughout", practice="channel_dropout"),
    "added noise": Fault(apply=effects.added_noise, what="noise as loud as the sound", kinds=_SOUND, practice="noise"),
    # Training takes a band of up to a quarter of the spectrum from as many windows as lose a span.
    "treble lost": Fault(
        apply=effects.treble_lost, what="the lowest quarter of the band alone", kinds=_SOUND, practice="span_dropout"
    ),
    "bass lost": Fault(
        apply=effects.bass_lost, what="without the lowest quarter of the band", kinds=_SOUND, practice="span_dropout"
    ),
    "dark": Fault(apply=effects.dark, what="a tenth of the light", kinds=_VIDEO, practice="gain"),
    "blur": Fault(apply=effects.blur, what="out of focus by a tenth of the picture", kinds=_VIDEO),
    "dropped frames": Fault(
        apply=effects.dropped_frames, what="half of the frames missing", kinds=_VIDEO, practice="channel_dropout"
    ),
    "shifted camera": Fault(
        apply=effects.shifted_camera, what="a picture off by a quarter of its sides", kinds=_VIDEO, practice="shift"
    ),
}


NAMES = tuple(FAULTS)


def faults_for(modalities: Iterable[ModalitySpec]) -> tuple[FaultName, ...]:
    """Return the faults that a modality or more can have."""
    sensors = tuple(modalities)
    return tuple(name for name in NAMES if any(FAULTS[name].can_hit(sensor) for sensor in sensors))


def hit_channels(fault: Fault, channels: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the affected channels: half of them, at least one, or a pair."""
    count = 2 if fault.channels == 2 else max(1, channels // 2)
    return np.sort(rng.permutation(channels)[:count])
