"""What an import takes at most: sizes are checked against these before anything is read or allocated."""

from __future__ import annotations

from pathlib import Path

from mmkd_edge.errors import DatasetError

MOST_RECIPE_BYTES = 1 << 20
MOST_PATTERN_BYTES, MOST_NAME_BYTES = 1024, 255
"""Of a pattern of files, and of the name of one of its folders."""
MOST_COLUMNS = 4096
"""Of one file."""
MOST_LINE_BYTES = 1 << 20
"""Of a text file."""
RATES_HZ = (1e-6, 1e8)
MOST_SECONDS = 1e9
"""Of a window, a stride and a gap."""
MOST_OFFSET_S = 4e9
"""By which a clock is corrected: from 1970 to now, and as long again."""
MOST_TIME_NS = 1 << 62
"""From 1970, in either direction: 146 years."""
MOST_SCALE = 1e30
"""Of a factor; the smallest is 1 divided by it."""
MOST_ALIGNED_S = 4e5
"""Of a recording whose clocks are compared: its course takes about a gigabyte of memory."""
MOST_THINNING = 1000
"""Samples of a sensor for one of the dataset, where they are filtered."""
MOST_UNPACKED_BYTES, MOST_UNPACKED_RATIO = 256 << 20, 20
"""What the arrays of a file may take in memory, whatever its size, and in times its size."""
MOST_WRITTEN_BYTES, MOST_WRITTEN_RATIO = 1 << 30, 100
"""What an import may write, whatever the size of its recordings, and in times their size."""
WINDOW_FACTS_BYTES = 256
"""Memory for the time, the label, the group and the split of one window."""


def unpacked_problem(unpacked_bytes: int, file_bytes: int) -> str | None:
    """Return what is wrong with arrays that take so much more than their file; None if they do not."""
    most = max(MOST_UNPACKED_BYTES, MOST_UNPACKED_RATIO * file_bytes)
    if unpacked_bytes <= most:
        return None
    return f"expected arrays of at most {most:,} bytes in a file of {file_bytes:,}, got {unpacked_bytes:,}"


def written_limit(recordings_bytes: int) -> int:
    """Return how many bytes an import of recordings of this size may write."""
    return max(MOST_WRITTEN_BYTES, MOST_WRITTEN_RATIO * recordings_bytes)


def refuse_columns(place: str, count: int) -> None:
    """Raise DatasetError if a file has more columns than an import takes."""
    if count > MOST_COLUMNS:
        raise DatasetError(f"{place}: expected at most {MOST_COLUMNS:,} columns, got {count:,}; split the file")


def refuse_late(file: Path, count: int, rate_hz: float) -> None:
    """Raise DatasetError if so many samples at this rate last longer than times can say."""
    if count / rate_hz * 1e9 > MOST_TIME_NS:
        raise DatasetError(
            f"{file}: expected samples of at most {MOST_TIME_NS / 1e9:.3g} s, got {count:,} at {rate_hz:g} Hz; correct"
            " 'rate_hz'"
        )


def refuse_more(planned_bytes: int, most_bytes: int | None, *, where: str, what: str, cure: str) -> None:
    """Raise DatasetError if an import would write more than it may.

    Args:
        most_bytes: None for recordings that no recipe describes: the caller's own code made them.
    """
    if most_bytes is not None and planned_bytes > most_bytes:
        raise DatasetError(
            f"{where}: expected at most {most_bytes / 1e9:.3g} GB to write, got {planned_bytes / 1e9:.3g} GB for"
            f" {what}; {cure}, or allow more with --max-gb"
        )
