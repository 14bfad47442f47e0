"""Largest sizes of an import, checked before anything is read or allocated."""

from __future__ import annotations

from pathlib import Path

from mmkd_edge.errors import DatasetError

MOST_RECIPE_BYTES = 1 << 20
MOST_PATTERN_BYTES, MOST_NAME_BYTES = 1024, 255
"""Length of a pattern of files, and of the name of one of its folders."""
MOST_COLUMNS = 4096
MOST_LINE_BYTES = 1 << 20
RATES_HZ = (1e-6, 1e8)
MOST_SECONDS = 1e9
"""Length of a window, a stride and a gap."""
MOST_OFFSET_S = 4e9
"""Correction of a clock: from 1970 to now, and as long again."""
MOST_TIME_NS = 1 << 62
"""Distance from 1970: 146 years."""
MOST_SCALE = 1e30
"""Largest factor; the smallest is 1 divided by it."""
MOST_ALIGNED_S = 4e5
"""Length of a recording whose clocks are compared: it takes about a gigabyte of memory."""
MOST_THINNING = 1000
"""Samples of a sensor for one in the dataset, if they are filtered."""
MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO = 256 << 20, 20
"""Memory for the arrays of a file, whatever its size, and as a multiple of its size."""
MOST_WRITTEN_BYTES, MOST_WRITTEN_RATIO = 1 << 30, 100
"""Bytes written by an import, whatever the size of its recordings, and as a multiple of their size."""
WINDOW_FACTS_BYTES = 256
"""Memory for the time, the label, the group and the split of one window."""


def refuse_late(file: Path, count: int, rate_hz: float) -> None:
    """Raise DatasetError if the last of these samples is later than times can be."""
    if count / rate_hz * 1e9 > MOST_TIME_NS:
        raise DatasetError(
            f"{file}: expected samples of at most {MOST_TIME_NS / 1e9:.3g} s, got {count:,} at {rate_hz:g} Hz; correct"
            " 'rate_hz'"
        )


def refuse_more(planned_bytes: int, most_bytes: int | None, *, where: str, what: str, cure: str) -> None:
    """Raise DatasetError if an import would write more than `most_bytes`; None is no limit."""
    if most_bytes is not None and planned_bytes > most_bytes:
        raise DatasetError(
            f"{where}: expected at most {most_bytes / 1e9:.3g} GB to write, got {planned_bytes / 1e9:.3g} GB for"
            f" {what}; {cure}, or allow more with --max-gb"
        )
