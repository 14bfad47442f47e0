"""The acceptance list names tests that are there, each item once."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from proofs import reliability

ROOT = Path(__file__).parents[2]
COUNTS = {"A": 4, "B": 8, "C": 7, "D": 7, "E": 10, "F": 10, "G": 4, "H": 4}


def test_every_item_is_there_once() -> None:
    expected = [f"{letter}{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]
    assert [item.key for item in reliability.ITEMS] == expected


def test_every_test_that_an_item_names_is_there() -> None:
    found: dict[str, set[str]] = {}
    for file, _, test in sorted(name.partition("::") for item in reliability.ITEMS for name in item.tests):
        if file not in found:
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            found[file] = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert test in found[file], (file, test)


def test_an_item_without_a_test_says_that_nothing_shows_it() -> None:
    assert [item.key for item in reliability.ITEMS if not item.tests and not item.lacks] == []


def test_what_fails_or_is_not_there_counts_against_its_item(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = "test_security.py::test_what_would_run_a_file_is_seen", "test_security.py::test_nobody_wrote_this"
    monkeypatch.setattr(reliability, "ITEMS", (reliability.Item(key="A1", what="a", tests=names[:1]),))
    monkeypatch.setattr(sys, "argv", ["reliability.py"])
    with pytest.raises(SystemExit) as ended:
        reliability.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == "| A1 | a | 7 |  |  |"
