"""The notebook of the whole path: its cells run from top to bottom, and what they show are answers and pictures."""

import ast
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

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
