"""The table of several sets, and what stands below it, are what the proof prints of the committed documents."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from mmkd_models.metrics.measures import measure_named
from proofs.demo_table import gained, recovered
from proofs.shipped_table import gain_of, main

RESULTS = Path(__file__).parents[2] / "docs" / "results"
GROUPS = (
    "watch_exercises-2groups",
    "noneeg_affect-4groups",
    "zema_hydraulic-28groups",
    "rosa_rotor30-46groups",
    "spsw_har-4groups",
)
ALL = ("watch_exercises-1", "noneeg_affect-1", "zema_hydraulic-1", "rosa_rotor30-1", "spsw_har-1")
A_TENTH = ("watch_exercises-0.1", "noneeg_affect-0.1", "zema_hydraulic-0.1", "rosa_rotor30-0.1", "spsw_har-0.1")


@pytest.mark.parametrize(("documents", "sensors"), [(GROUPS, 6), (A_TENTH, 5), (ALL, 5)])
def test_every_line_stands_in_the_results(
    documents: tuple[str, ...], sensors: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["shipped_table.py", *(str(RESULTS / f"{name}.json") for name in documents)])
    main()
    page = " ".join((RESULTS / "demo.md").read_text(encoding="utf-8").split()).lower()
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(printed) == 2 + sensors + 1 + 1  # a head, a row a sensor, the mean, and what students cost
    for line in printed:
        assert " ".join(line.split()).lower() in page


def test_a_gain_of_few_groups_has_no_interval() -> None:
    assert gain_of((2.04, math.nan, math.nan)) == "+2.0"
    assert gain_of((2.04, -0.96, 5.0)) == "+2.0 (-1.0 to +5.0)"
    assert gained({"mean": 2.04}, measure_named("accuracy")) == "+2.0"
    judged = {"gap_points": {"mean": 3.0}, "gap_recovered": 0.5}  # of two people
    assert recovered(judged, {}, measure_named("accuracy")) == "not measurable"
