"""Every script behind docs/results explains itself, and prints tables as Markdown reads them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from proofs import walks
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


def test_a_way_back_is_a_new_function_in_a_file_that_was_left() -> None:
    assert walks.ways_back([("a", "f"), ("a", "g"), ("b", "f"), ("a", "h"), ("c", "f"), ("b", "g")]) == 2


def test_a_climb_leads_to_a_file_that_imports_the_one_before() -> None:
    predictor, asking, spec = (f"mmkd_edge/{name}.py" for name in ("predictor", "asking", "spec"))
    functions = [(predictor, "f"), (asking, "f"), (spec, "f"), (asking, "g"), (spec, "g"), (predictor, "g")]
    assert (walks.ways_back(functions), walks.climbs(functions)) == (3, 2)


def test_a_window_is_followed_through_the_runtime(bundle: Path) -> None:
    functions = walks.predict_twice(bundle, gap=False)
    assert functions[0][1] == "predict"
    assert "mmkd_edge/backends/ort.py" in {file for file, _ in functions}
