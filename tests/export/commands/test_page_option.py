"""`mmkd-export --page`: the page beside the bundle, and every reason for which none is written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mmkd_export.commands.export import main
from mmkd_report import render_export

Run = Callable[..., tuple[object, str, str]]


@pytest.fixture
def run(ran: Run) -> Run:
    return partial(ran, main, "mmkd-export")


def test_the_page_is_made_from_the_document_that_json_prints(run: Run, student_file: Path, tmp_path: Path):
    page = tmp_path / "export.html"
    code, out, _ = run(
        student_file,
        "-o",
        tmp_path / "s.edge",
        "--precision",
        "int8",
        "--accept-unjudged",
        "--platform",
        "jp6.2",
        "--page",
        page,
        "--json",
    )
    assert code == 0
    html = page.read_text(encoding="utf-8")
    assert html == render_export(json.loads(out))


def test_the_last_line_names_the_page(run: Run, student_file: Path, tmp_path: Path):
    bundle, page = tmp_path / "s.edge", tmp_path / "export.html"
    code, out, _ = run(student_file, "-o", bundle, "--page", page)
    assert code == 0
    assert out.splitlines()[-1] == f"wrote {bundle}, {page}; next: mmkd-bench run {bundle}"


def test_a_page_that_cannot_be_written_ends_the_command_before_the_export(run: Run, student_file: Path, tmp_path: Path):
    bundle = tmp_path / "s.edge"
    (tmp_path / "folder.html").mkdir()
    for page, problem in {
        tmp_path / "no" / "p.html": f": cannot be written: there is no directory {tmp_path / 'no'}; make it first",
        tmp_path / "folder.html": ": expected the name of a file, got a directory; name a file in it",
        bundle: ": expected a name that ends in .html; only such a file is overwritten",
    }.items():
        assert run(student_file, "-o", bundle, "--page", page) == (2, "", f"mmkd-export: {page}{problem}\n")
    assert not bundle.exists()


def test_without_jinja2_the_message_names_the_extra(
    run: Run, student_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, out, err = run(student_file, "-o", tmp_path / "s.edge", "--page", tmp_path / "p.html")
    assert (code, out) == (3, "")
    assert err == ("mmkd-export: --page needs jinja2, which this Python lacks; run: pip install 'mmkd-edge[export]'\n")
