"""The counts of all folds become one row, with exact intervals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from checks.alarms import cells


def outcome(normal_hours: float, false_alarms: int, recordings: int, detected: int) -> Any:
    return SimpleNamespace(
        normal_hours=normal_hours, false_alarms=false_alarms, recordings=recordings, detected=detected
    )


def test_folds_are_added_before_the_intervals_are_computed() -> None:
    # Two events in an hour: 0.242 to 7.225 (Garwood, 1936). 36 of 87: 31 to 52 % (Clopper and Pearson).
    folds = [outcome(0.25, 2, 40, 16), outcome(0.75, 0, 47, 20)]
    assert cells("worn", "episodes", folds) == (
        "| worn | episodes | 2 | 1.00 | 2.00 | 0.24 to 7.22 | 36 of 87 | 31 to 52 % |"
    )
