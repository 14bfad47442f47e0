"""The table of several sets, and what stands below it, are what the proof prints of the committed documents."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from proofs.shipped_table import main

RESULTS = Path(__file__).parents[2] / "docs" / "results"
GROUPS = (
    "watch_exercises-2groups",
    "noneeg_affect-4groups",
    "zema_hydraulic-28groups",
    "rosa_rotor30-46groups",
    "spsw_har-4groups",
)
A_TENTH = ("watch_exercises-0.1", "noneeg_affect-0.1", "zema_hydraulic-0.1", "rosa_rotor30-0.1", "spsw_har-0.1")


@pytest.mark.parametrize(("documents", "sensors"), [(GROUPS, 6), (A_TENTH, 5)])
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
