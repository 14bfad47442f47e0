"""Map a source's columns to channels, and convert units.

`--map ax=accel.x*9.81+0.2`: channel `ax` is the column `accel.x`, times 9.81, plus 0.2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge import ModalitySpec
from mmkd_edge.errors import UsageError

_NUMBER = r"[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|\.[0-9]+"
# Column, factor, offset; a column whose name ends alike needs quotes.
_COLUMN = re.compile(
    rf"""(?:"(?P<quoted>[^"]+)"|(?P<plain>.+?))(?:\*(?P<factor>-?(?:{_NUMBER})))?(?P<offset>[-+](?:{_NUMBER}))?"""
)


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """The column, factor and offset of each channel."""

    names: tuple[str, ...]
    factors: tuple[float, ...]
    offsets: tuple[float, ...]

    def scaled(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert raw values (n, C) to the modality's unit, float32 (n, C), maybe the same array."""
        if set(self.factors) == {1.0} and set(self.offsets) == {0.0}:
            return rows
        scaled: NDArray[np.float32] = (rows * np.array(self.factors) + np.array(self.offsets)).astype(np.float32)
        return scaled


def map_columns(modality: ModalitySpec, mapping: Mapping[str, str]) -> Columns:
    """Parse `COLUMN[*FACTOR][+OFFSET]` by channel. Raises UsageError."""
    columns = {channel: (channel, 1.0, 0.0) for channel in modality.channels}
    for channel, text in mapping.items():
        if channel not in columns:
            raise UsageError(
                f"--map {channel}={text}: modality {modality.name!r} has no channel {channel!r}; "
                f"expected one of {', '.join(modality.channels)}"
            )
        columns[channel] = _column(channel, text)
    names, factors, offsets = zip(*columns.values(), strict=True)
    return Columns(names=names, factors=factors, offsets=offsets)


def _column(channel: str, text: str) -> tuple[str, float, float]:
    match = _COLUMN.fullmatch(text)
    if match is None:
        raise UsageError(f"--map {channel}={text}: expected CHANNEL=COLUMN[*FACTOR][+OFFSET], got no column; name it")
    factor, offset = float(match["factor"] or 1), float(match["offset"] or 0)
    if factor == 0 or not math.isfinite(factor) or not math.isfinite(offset):
        raise UsageError(f"--map {channel}={text}: expected a factor other than 0, got {factor:g}; correct it")
    return match["quoted"] or match["plain"], factor, offset
