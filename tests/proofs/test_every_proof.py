"""Every script behind docs/results explains itself, and prints tables as Markdown reads them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from proofs.script import head, row

FOLDER = Path(__file__).parents[2] / "benchmarks" / "proofs"
SCRIPTS = [path.stem for path in sorted(FOLDER.glob("*.py")) if "def main(" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_proof_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = importlib.import_module(f"proofs.{name}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        proof.main()
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {name}.py ")


def test_a_table_aligns_numbers_to_the_right() -> None:
    assert head("a", "b", "c", texts=2) == "| a | b | c |\n|---|---|---:|"
    assert row("x", 1) == "| x | 1 |"
