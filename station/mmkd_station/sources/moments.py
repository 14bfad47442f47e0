"""Times as sources write them: numbers in a unit, or ISO 8601."""

from __future__ import annotations

import math
from datetime import datetime, timezone


def seconds_of(value: object, *, unit_s: float) -> float:
    """A time in seconds; a text without a zone is UTC. Raises ValueError where it is none."""
    if isinstance(value, bool) or value is None:
        raise ValueError(f"expected a time, got {value!r}")
    if isinstance(value, int | float):
        try:
            seconds = float(value) * unit_s
        except OverflowError as error:
            raise ValueError("expected a time, got a whole number beyond any") from error
    else:
        text = str(value).strip()
        try:
            seconds = float(text) * unit_s
        except ValueError:
            seconds = _iso_seconds(text)
    if not math.isfinite(seconds):
        raise ValueError(f"expected a time, got {value!r}")
    return seconds


def _iso_seconds(text: str) -> float:
    # Python 3.10 reads no Z.
    moment = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
