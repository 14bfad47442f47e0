"""Two checkouts beside each other: the table, how a command of one is started, and a run of one beside itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from checks import against_before

ROOT = Path(__file__).parents[2]


def test_the_ratio_is_that_of_a_round_and_not_of_the_medians() -> None:
    rounds = [({"step, µs": 10.0}, {"step, µs": 20.0}), ({"step, µs": 40.0}, {"step, µs": 30.0})] * 2
    assert against_before.table(rounds).splitlines()[-1] == "| step, µs | 25 | 25 | 1.38 | 0.75 to 2.00 |"


@pytest.mark.slow
def test_a_checkout_beside_itself(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    causal = ROOT / "tests" / "files" / "causal.edge"
    options = ["--before", str(ROOT), "--causal", str(causal), "--rounds", "1", "--seconds", "0.05"]
    monkeypatch.setattr(sys, "argv", ["against_before.py", *options])
    against_before.main()
    names = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert names == [
        "import, ms",
        "open to answer, ms",
        "predict over session.run, µs",
        "predict, µs",
        "backend.run, µs",
        "session.run, µs",
        "push with an answer, µs",
        "push without one, µs",
        "predict, every check over session.run, µs",
        "step, µs",
    ]
