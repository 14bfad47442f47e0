"""Pages and the notebook can be followed from their beginning to their end."""

import ast
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
MOST_MINUTES = 30  # a gate against a page that grew, and no figure of speed: machines that test are busy


def steps(page, after):
    """What the reader runs of a page from this heading on, in order."""
    found = []
    for language, block in BLOCK.findall((DOCS / page).read_text(encoding="utf-8").partition(f"\n## {after}")[2]):
        if language == "python":
            found.append([sys.executable, "-c", block])
        else:
            found += [line.split() for line in block.splitlines()]
    return found


def follow(page, after, folder):
    """Runs all of it in a folder, prints the seconds, and gives the names of what is there then."""
    programs = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    begun_s = time.monotonic()
    for step in steps(page, after):
        step_s = time.monotonic()
        done = subprocess.run(step, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{step}: {done.stderr}"
        print(f"{time.monotonic() - step_s:5.0f} s  {' '.join(step)[:100].splitlines()[0]}")
    minutes = (time.monotonic() - begun_s) / 60
    print(f"{minutes:.1f} minutes")
    assert minutes < MOST_MINUTES
    return {path.name for path in folder.iterdir()}


PAGES = {
    ("start.md", "Run the shipped "): (
        "data train distill evaluate export inspect run bench",
        {"teacher.ckpt", "labels.ckpt", "student.ckpt", "student.edge", "results.jsonl"},
    ),
    ("adaptation.md", "On the shipped "): (
        "train distill adapt evaluate export inspect",
        {"adapted.ckpt", "adaptation.html", "adapted.edge", "both.ckpt", "again.ckpt"},
    ),
}


@pytest.mark.parametrize(("page", "heading"), PAGES)
def test_a_page_runs_python_and_then_its_commands(page, heading):
    programs = [step[0] for step in steps(page, heading)]
    assert programs[0] == sys.executable
    assert set(programs[1:]) == {f"mmkd-{name}" for name in PAGES[page, heading][0].split()}


@pytest.mark.slow
@pytest.mark.parametrize(("page", "heading"), PAGES)
def test_a_page_can_be_followed_to_its_end(page, heading, tmp_path):
    assert PAGES[page, heading][1] <= follow(page, heading, tmp_path)


@pytest.mark.slow
@pytest.mark.network
def test_the_commands_of_the_readme_work_from_a_clone(tmp_path):
    """`make test` runs one file there: all others are what runs this."""
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin" / "mmkd-edge").symlink_to(ROOT)
    _, script = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))[0]
    script = script.replace("<this repository>", "origin/mmkd-edge")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHONPATH"))}
    environment |= {"PYTEST_ADDOPTS": "tests/test_public_api.py", "PYTHON": sys.executable}
    for line in script.splitlines():
        where = tmp_path / "mmkd-edge" if line.startswith("make") else tmp_path
        begun_s = time.monotonic()
        done = subprocess.run(["sh", "-ec", line], cwd=where, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        print(f"{(time.monotonic() - begun_s) / 60:5.1f} minutes  {line.partition('#')[0]}")
    assert (tmp_path / "mmkd-edge" / "demo" / "report.html").stat().st_size > 100_000
    assert " passed in " in done.stdout


NOTEBOOK = Path(__file__).parents[1] / "examples" / "whole_path.ipynb"


def cells(kind):
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == kind]


def shown_by(source, names):
    """What a notebook shows below a cell: the value of its last line."""
    tree = ast.parse(source)
    last = tree.body.pop()
    assert isinstance(last, ast.Expr)
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


def test_the_notebook_is_kept_without_outputs():
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert document["nbformat"] == 4
    assert [cell for cell in document["cells"] if cell.get("outputs") or cell.get("execution_count")] == []
    assert len(cells("markdown")) >= 5


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    shown = [shown_by(source, names) for source in cells("code")]
    pictures = [ElementTree.fromstring(one._repr_svg_()) for one in shown if hasattr(one, "_repr_svg_")]
    assert len(pictures) == 3
    assert all(picture.tag.endswith("svg") and len(picture) > 1 for picture in pictures)
    assert (tmp_path / "student.edge").is_file()
    statuses = [status for _, status in shown[-2]]
    assert statuses[5:7] == ["invalid", "invalid"]
    assert {*statuses[:5], *statuses[7:]} == {"ok"}
