"""The one table of faults: what each does, to which kinds of sensors, and what in training is of the same kind.

Every function is pure: the same generator gives the same fault, and severity scales it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.spec import ModalityKind, ModalitySpec
from mmkd_models.evaluation.faults import series, sound, video
from mmkd_models.evaluation.faults.series import Apply

FaultName = Literal[
    "noise",
    "offset",
    "drift",
    "gain up",
    "gain down",
    "spike",
    "stuck",
    "gap",
    "clipping",
    "time stretch",
    "time shift",
    "sample rate",
    "quantisation",
    "hum",
    "channel swap",
    "lost channel",
    "added noise",
    "treble lost",
    "bass lost",
    "dark",
    "blur",
    "dropped frames",
    "shifted camera",
]
NAMES: tuple[FaultName, ...] = get_args(FaultName)
"""Their order is part of what decides a window's fault: new ones come last."""
Practice = Literal["noise", "gain", "span_dropout", "channel_dropout", "shift"]
"""What training may have practised, by its field in `AugmentConfig`."""

SEVERITIES = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Share of the maximum, as in SensorFault-Bench (arXiv 2605.10822)."""

_SERIES: tuple[ModalityKind, ...] = ("series",)
_BOTH: tuple[ModalityKind, ...] = ("series", "audio")
_SOUND: tuple[ModalityKind, ...] = ("audio",)
_VIDEO: tuple[ModalityKind, ...] = ("video",)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One row of the table.

    Attributes:
        what: it does at worst, in words.
        kinds: of the sensors that can have it.
        practice: what in training is of the same kind; None where nothing is.
        channels: how many it needs at once; 1 hits half of a sensor's channels, 2 a pair.
    """

    apply: Apply
    what: str
    kinds: tuple[ModalityKind, ...] = _BOTH
    practice: Practice | None = None
    channels: Literal[1, 2] = 1

    def can_hit(self, modality: ModalitySpec) -> bool:
        """Whether a sensor can have it."""
        return modality.kind in self.kinds and len(modality.channels) >= self.channels


FAULTS: dict[FaultName, Fault] = {
    "noise": Fault(apply=series.noise, what="noise of one standard deviation", kinds=_SERIES, practice="noise"),
    "offset": Fault(apply=series.offset, what="a constant of 0.75 standard deviations", kinds=_SERIES),
    "drift": Fault(apply=series.drift, what="a ramp to one standard deviation", kinds=_SERIES),
    "gain up": Fault(apply=series.gain_up, what="twice the amplitude", practice="gain"),
    "gain down": Fault(apply=series.gain_down, what="a quarter of the amplitude", practice="gain"),
    "spike": Fault(apply=series.spike, what="one sample in fifty off by 7.5 standard deviations"),
    "stuck": Fault(apply=series.stuck, what="one value throughout the window"),
    "gap": Fault(apply=series.gap, what="half of the window missing", practice="span_dropout"),
    "clipping": Fault(apply=series.clipping, what="nothing beyond one standard deviation"),
    "time stretch": Fault(apply=series.time_stretch, what="five times as slow", kinds=_SERIES),
    "time shift": Fault(apply=series.time_shift, what="late by half the window"),
    "sample rate": Fault(apply=series.sample_rate, what="a clock that is ten per cent off"),
    "quantisation": Fault(apply=series.quantisation, what="a converter of two bits"),
    "hum": Fault(apply=series.hum, what="50 or 60 Hz of one standard deviation"),
    "channel swap": Fault(apply=series.channel_swap, what="two channels the wrong way round", channels=2),
    "lost channel": Fault(apply=series.lost_channel, what="channels missing throughout", practice="channel_dropout"),
    "added noise": Fault(apply=sound.added_noise, what="noise as loud as the sound", kinds=_SOUND, practice="noise"),
    # Training takes a band of up to a quarter of the spectrum from as many windows as lose a span.
    "treble lost": Fault(
        apply=sound.treble_lost, what="the lowest quarter of the band alone", kinds=_SOUND, practice="span_dropout"
    ),
    "bass lost": Fault(
        apply=sound.bass_lost, what="without the lowest quarter of the band", kinds=_SOUND, practice="span_dropout"
    ),
    "dark": Fault(apply=video.dark, what="a tenth of the light", kinds=_VIDEO, practice="gain"),
    "blur": Fault(apply=video.blur, what="out of focus by a tenth of the picture", kinds=_VIDEO),
    "dropped frames": Fault(
        apply=video.dropped_frames, what="half of the frames missing", kinds=_VIDEO, practice="channel_dropout"
    ),
    "shifted camera": Fault(
        apply=video.shifted_camera, what="a picture off by a quarter of its sides", kinds=_VIDEO, practice="shift"
    ),
}


def faults_for(modalities: Iterable[ModalitySpec]) -> tuple[FaultName, ...]:
    """Return the faults that at least one of the modalities can have."""
    sensors = tuple(modalities)
    return tuple(name for name in NAMES if any(FAULTS[name].can_hit(sensor) for sensor in sensors))


def hit_channels(fault: Fault, channels: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Gives which channels a window's fault hits: at most half of them, one at least; a pair where it takes two."""
    count = 2 if fault.channels == 2 else max(1, channels // 2)
    return np.sort(rng.permutation(channels)[:count])
