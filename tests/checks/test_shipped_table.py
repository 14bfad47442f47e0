"""The table of several sets, and what stands below it, are what the script prints of the committed documents."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from checks.shipped_table import gain_of, main

RESULTS = Path(__file__).parents[2] / "docs" / "results"
GROUPS = (
    "watch_exercises-2groups",
    "noneeg_affect-4groups",
    "zema_hydraulic-28groups",
    "rosa_rotor30-46groups",
    "spsw_har-4groups",
)


def test_every_line_stands_in_the_results(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["shipped_table.py", *(str(RESULTS / f"{name}.json") for name in GROUPS)])
    main()
    page = " ".join((RESULTS / "demo.md").read_text(encoding="utf-8").split()).lower()
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(printed) == 2 + 6 + 1 + 1  # a head, a row a sensor, the mean, and what students cost
    for line in printed:
        assert " ".join(line.split()).lower() in page


def test_a_gain_of_few_groups_has_no_interval() -> None:
    assert gain_of((2.04, math.nan, math.nan)) == "+2.0"
    assert gain_of((2.04, -0.96, 5.0)) == "+2.0 (-1.0 to +5.0)"
