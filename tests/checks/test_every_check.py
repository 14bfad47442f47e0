"""Every script explains itself and is listed in the README; tables are Markdown."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from checks.script import head, row

FOLDER = Path(__file__).parents[2] / "benchmarks" / "checks"
SCRIPTS = [path.stem for path in sorted(FOLDER.glob("*.py")) if "def main(" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = importlib.import_module(f"checks.{name}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {name}.py ")


def test_the_readme_lists_every_script_and_no_other() -> None:
    listed = re.findall(
        r"^\| `([\w/]+)\.py` \|", (FOLDER / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    helpers = {"faulty_process"}  # faulty_load.py starts it
    assert sorted(listed) == sorted({*SCRIPTS, "study/distillation"} - helpers)


def test_a_table_aligns_numbers_to_the_right() -> None:
    assert head("a", "b", "c", texts=2) == "| a | b | c |\n|---|---|---:|"
    assert row("x", 1) == "| x | 1 |"
