"""What goes in and what comes out: the specs that datasets, checkpoints and bundles share.

Owns the words of `dataset.json` and `manifest.json` for modalities, tasks and tensors. Reads no files.
"""

from __future__ import annotations

from typing import Literal

import msgspec

ModalityKind = Literal["series", "audio", "video"]
Normalise = Literal["none", "per_group"]


class ModalitySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of input with its own sampling.

    A window of this modality is a float32 array of shape (samples, len(channels)) in `unit`; NaN means missing.

    Attributes:
        name: what windows and files call it.
        kind: only `series` is supported; `audio` and `video` are refused with a clear error.
        channels: one name per column.
        unit: the physical unit of the raw values, for people.
        rate_hz: samples per second.
        samples: T, the length of one window.
        range: smallest and largest valid raw value; a value outside counts as missing.
        normalise: `per_group` when raw values are only comparable after a z-score with the statistics of their own
            group (person, machine, session); a device then needs a reference file.
    """

    name: str
    kind: ModalityKind = "series"
    channels: tuple[str, ...]
    unit: str = ""
    rate_hz: float
    samples: int
    range: tuple[float, float] | None = None
    normalise: Normalise = "none"

    @property
    def shape(self) -> tuple[int, int]:
        """(T, C) of one window."""
        return (self.samples, len(self.channels))

    @property
    def duration_s(self) -> float:
        """Length of one window in seconds."""
        return self.samples / self.rate_hz


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is predicted: one of `labels`; probabilities come in their order."""

    kind: Literal["classification"] = "classification"
    labels: tuple[str, ...]


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output tensor of an artifact's graph."""

    name: str
    dtype: Literal["float32", "float16", "int8"]
    shape: tuple[int, ...]
