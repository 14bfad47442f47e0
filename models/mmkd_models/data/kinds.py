"""The kinds of modalities: the rules of each, its files, and its windows in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mmkd_edge.frames import missing_frames, with_missing
from mmkd_edge.spec import COLOURS, ModalityKind, ModalitySpec

Values = npt.NDArray[Any]
"""Windows in memory: float32 (B, T, C), NaN where missing; of video uint8 (B, T, H, W, C), a masked array where frames
are missing."""

# int16 has no NaN; its lowest value, which no symmetric scale needs, stands for a missing sample.
MISSING_COUNT = np.int16(-32768)
FULL_SCALE = 32768
"""What int16 sound is divided by: PCM of 16 bits runs from -1 to just below 1 (AES17, full scale)."""

MOST_WINDOW_VALUES = 1 << 20
"""Samples times channels of one window: training on 32 of them takes a few GB, and a tiny student some 40 ms a window.
One of sound at 16 kHz lasts a minute."""
MOST_WINDOW_BYTES = 1 << 24
"""Of one window of video: 32 of them are half a GB as bytes and 2 GB as the float32 that a network makes of them."""
MOST_SIDE_PIXELS = 1024
MOST_SOUND_HZ = 192_000.0
_BLOCK_BYTES = 1 << 26
_BLOCK_WINDOWS = 256


def kind_problems(modality: ModalitySpec) -> Iterator[str]:
    """Yield a message for every rule of its kind that a modality breaks."""
    sides = {"height": modality.height, "width": modality.width}
    if modality.kind != "video":
        for key, side in sides.items():
            if isinstance(side, int):
                yield f'expected no {key} of kind {modality.kind!r}, got {side}; remove it, or say "kind": "video"'
    if modality.kind == "series":
        return
    for key, side in sides.items() if modality.kind == "video" else ():
        if not isinstance(side, int) or not 1 <= side <= MOST_SIDE_PIXELS:
            got = side if isinstance(side, int) else "none"
            yield f"expected a {key} from 1 to {MOST_SIDE_PIXELS} pixels, got {got}; give that of the stored frames"
    if modality.kind == "video" and modality.channels not in COLOURS:
        yield f"expected the channels gray, or r, g and b, got {list(modality.channels)}; frames have no others"
    if modality.kind == "audio" and modality.rate_hz > MOST_SOUND_HZ:
        yield f"expected a rate_hz of sound up to {MOST_SOUND_HZ:g}, got {modality.rate_hz:g}; resample it"
    if modality.range is not None:
        bounds = "-1 to 1" if modality.kind == "audio" else "0 to 255"
        yield f"expected no range of kind {modality.kind!r}, got {list(modality.range)}; it is {bounds}: remove it"
    if modality.normalise != "none":
        yield f"expected no normalise of kind {modality.kind!r}, got {modality.normalise!r}; only series have it"


def size_problem(modality: ModalitySpec) -> str | None:
    """Return the problem of a window that is too large to train on, with its fix, or None."""
    if modality.kind == "video":
        return _video_size_problem(modality)
    samples, channels = modality.shape
    if samples * channels <= MOST_WINDOW_VALUES:
        return None
    longest = MOST_WINDOW_VALUES // channels
    times = -(-samples // max(1, longest))
    return (
        f"expected windows of at most {MOST_WINDOW_VALUES:,} values, got {samples:,} samples x {channels:,} channels;"
        f" cut windows of at most {longest:,} samples, or filter and keep one sample in {times},"
        f" {modality.rate_hz / times:g} Hz"
    )


def _video_size_problem(modality: ModalitySpec) -> str | None:
    frame_bytes = int(np.prod(modality.shape[1:], dtype=object))
    if modality.samples * frame_bytes <= MOST_WINDOW_BYTES:
        return None
    shape = " x ".join(f"{side:,}" for side in modality.shape)
    return (
        f"expected windows of at most {MOST_WINDOW_BYTES:,} bytes, got {shape} = {modality.samples * frame_bytes:,};"
        f" cut windows of at most {MOST_WINDOW_BYTES // frame_bytes:,} frames, or make the frames smaller"
    )


def stored_dtypes(kind: ModalityKind) -> tuple[Literal["float32", "int16", "uint8"], ...]:
    """Return the dtypes that a file of windows of this kind may have, the usual one first."""
    match kind:
        case "series":
            return ("float32",)
        case "audio":
            return ("int16", "float32")
        case "video":
            return ("uint8",)


def sample_letters(kind: ModalityKind) -> str:
    """Return the letters of one sample's shape: `C`, of a frame `H, W, C`."""
    return "H, W, C" if kind == "video" else "C"


def decoded(stored: Values, *, kind: ModalityKind, scale: Values | None = None) -> Values:
    """Return windows in memory from the content of their file: int16 becomes float32 with NaN for missing.

    Args:
        stored: (B, T, ...).
        scale: float32 (C,), the value of one count of each channel of a series; None for full scale of audio.
    """
    if kind == "video" or stored.dtype == np.float32:
        return stored
    factor = np.float32(1 / FULL_SCALE) if scale is None else scale
    values: npt.NDArray[np.float32] = np.multiply(stored, factor, dtype=np.float32)
    values[stored == MISSING_COUNT] = np.nan
    return values


def with_present(frames: Values, present: Values) -> Values:
    """Return frames (..., T, H, W, C), masked where `present` (..., T) is 0; the array itself if all are there."""
    return with_missing(frames, np.asarray(present) == 0)


def present_of(frames: Values) -> npt.NDArray[np.uint8] | None:
    """Return whether frames (..., T, H, W, C) are there, uint8 (..., T); None if nothing is masked."""
    missing = missing_frames(frames)
    return (~missing).astype(np.uint8) if missing.any() else None


def storable(values: Values, kind: ModalityKind) -> Values | None:
    """Return samples as stored: float32, int16 of audio, uint8 of video; None if that would lose more than digits."""
    if kind == "video":
        return values.view(np.ndarray) if values.dtype == np.uint8 else None
    if kind == "audio" and values.dtype == np.int16:
        return np.ascontiguousarray(values)
    if values.dtype.kind not in ("f" if kind == "audio" else "biuf"):
        return None
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which the check refuses
        return np.ascontiguousarray(values, dtype=np.float32)


def storable_text(kind: ModalityKind) -> str:
    """Return what `storable` takes, for messages."""
    match kind:
        case "series":
            return "numbers that fit float32"
        case "audio":
            return "floats from -1 to 1 or int16"
        case "video":
            return "uint8"


def window_bytes(modality: ModalitySpec) -> int:
    """Return the memory of one window."""
    return math.prod(modality.shape) * np.dtype(modality.dtype).itemsize


def windows_at_once(modality: ModalitySpec) -> int:
    """Return how many windows to read at a time: 256, fewer of large ones."""
    return int(np.clip(_BLOCK_BYTES // max(1, window_bytes(modality)), 1, _BLOCK_WINDOWS))
