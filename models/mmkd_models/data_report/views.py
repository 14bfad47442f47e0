"""Sound and video as a report looks at them: the loudness of bands, and the brightness of parts of the picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.frames import bytes_of, missing_frames
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.kinds import Values
from mmkd_models.data.sources import Floats, Rows, WindowSource
from mmkd_models.data.windows import Windows

_CELLS = 3  # of a side
_FRAME_S = 0.025
_BANDS = 16
_LEAST_POWER = 1e-10  # of full scale, -100 dB: what no microphone hears


@dataclass(frozen=True, kw_only=True, eq=False)
class BrightnessSource:
    """Windows of another source with these cameras seen as series, each by its own specification."""

    source: WindowSource
    cameras: Mapping[str, ModalitySpec]

    @property
    def max_shift_s(self) -> float:
        """As of the source."""
        return self.source.max_shift_s

    def gather(self, modality: ModalitySpec, rows: Rows, *, shift_s: npt.NDArray[np.float64] | None) -> Values:
        """Return new float32 (B, T, cells) of a camera, NaN where a frame is missing; else what the source has."""
        camera = self.cameras.get(modality.name)
        if camera is None:
            return self.source.gather(modality, rows, shift_s=shift_s)
        return brightness(self.source.gather(camera, rows, shift_s=shift_s))


def as_samples(windows: Windows) -> Windows:
    """Return the same windows with every camera as a series of the brightness of its picture's parts."""
    cameras = {one.name: one for one in windows.spec.modalities if one.kind == "video"}
    if not cameras:
        return windows
    modalities = tuple(_seen(one) if one.name in cameras else one for one in windows.spec.modalities)
    return replace(
        windows,
        spec=msgspec.structs.replace(windows.spec, modalities=modalities),
        source=BrightnessSource(source=windows.source, cameras=cameras),
    )


def brightness(frames: npt.NDArray[np.uint8]) -> Floats:
    """Return the mean of each cell (B, T, cells x C) of frames (B, T, H, W, C), NaN where a frame is missing."""
    values = bytes_of(frames)
    down, across = (np.array_split(np.arange(side), min(_CELLS, side)) for side in values.shape[2:4])
    cells = [values[:, :, rows][:, :, :, columns].mean(axis=(2, 3)) for rows, columns in product(down, across)]
    found = np.concatenate(cells, axis=2, dtype=np.float32)  # each (B, T, C)
    found[missing_frames(frames)] = np.nan
    return found


def band_levels(sound: Floats, rate_hz: float) -> npt.NDArray[Any]:
    """Return the log power of bands (B, N, bands x C) of sound (B, T, C), by frame; missing samples count as 0."""
    length = min(sound.shape[1], max(2, round(_FRAME_S * rate_hz)))
    count = sound.shape[1] // length
    frames = np.nan_to_num(sound[:, : count * length]).reshape(len(sound), count, length, sound.shape[2])
    power = np.abs(np.fft.rfft(frames * np.hanning(length)[:, None], axis=2)) ** 2 / length**2
    edges = np.unique(np.geomspace(1, power.shape[2], _BANDS + 1).round().astype(int))
    bands = [power[:, :, low:high].sum(axis=2) for low, high in pairwise(edges.tolist())]
    return np.asarray(np.log10(np.concatenate(bands, axis=2) + _LEAST_POWER))


def _seen(camera: ModalitySpec) -> ModalitySpec:
    down, across = (range(1, 1 + min(_CELLS, side)) for side in camera.shape[1:3])
    channels = tuple(f"{name} {row}.{column}" for row, column in product(down, across) for name in camera.channels)
    return ModalitySpec(name=camera.name, channels=channels, rate_hz=camera.rate_hz, samples=camera.samples)
