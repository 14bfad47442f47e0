"""The report in a bundle is read and written with the same keys; `mmkd-export --page` shows what `--json` prints."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest

from mmkd_app.commands.export import main
from mmkd_documents.errors import DocumentError
from mmkd_documents.export import decode_report, encode_document
from mmkd_edge.bundle.bundle import Bundle, example_bundle
from mmkd_edge.errors import BundleError
from mmkd_export.plan import read_report
from tests.app.pages.rendered import render_export
from tests.edge.said import said

FILES = Path(__file__).parents[1] / "files"


@pytest.mark.parametrize("path", [FILES / "student.edge", FILES / "causal.edge", example_bundle()])
def test_reports_are_read_and_written_with_the_same_keys(path):
    with Bundle.open(path) as bundle:
        data = bundle.read("report.json")
        assert read_report(bundle).model_id == bundle.manifest.model_id
    assert json.loads(encode_document(decode_report(data))) == json.loads(data)


def report_with(**changes):
    with Bundle.open(FILES / "student.edge") as bundle:
        return json.dumps(json.loads(bundle.read("report.json")) | changes).encode()


def test_keys_that_a_later_version_added_are_left_alone():
    assert decode_report(report_with(later=1)) == decode_report(report_with())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "expected format_version 1, got 2; read it with the release that wrote it"),
        ({"model_id": 7}, "Expected `str`, got `int` - at `$.model_id`; export the checkpoint again"),
    ],
)
def test_a_report_of_another_version_says_so(change, message):
    assert said(DocumentError, decode_report, report_with(**change)) == f"report.json: {message}"


def test_a_bundle_whose_report_nobody_can_read_is_refused_as_a_bundle():
    class Unreadable:
        def read(self, _):
            return b"{}"

    assert said(BundleError, read_report, Unreadable()) == (
        "report.json: Object missing required field `model_id`; export the checkpoint again"
    )


@pytest.fixture
def run(ran):
    return partial(ran, main, "mmkd-export")


def test_the_page_is_made_of_the_document_and_named_in_the_last_line(run, student_file, tmp_path):
    page = tmp_path / "export.html"
    options = ("--precision", "int8", "--accept-unjudged", "--platform", "jp6.2")
    code, out, _ = run(student_file, "-o", tmp_path / "s.edge", *options, "--page", page, "--json")
    assert code == 0
    document = json.loads(out)
    assert set(document) == {"bundle", "size_bytes", "sha256", "report", "engines", "folders"}
    assert page.read_text(encoding="utf-8") == render_export(document)
    bundle, page = tmp_path / "s.edge", tmp_path / "export.html"
    code, out, _ = run(student_file, "-o", bundle, "--page", page)
    assert code == 0
    assert out.splitlines()[-1] == f"wrote {bundle}, {page}; next: mmkd-bench run {bundle}"


def test_a_page_that_cannot_be_written_ends_the_command_before_the_export(run, student_file, tmp_path):
    bundle = tmp_path / "s.edge"
    (tmp_path / "folder.html").mkdir()
    for page, problem in {
        tmp_path / "no" / "p.html": f": cannot be written: there is no directory {tmp_path / 'no'}; make it first",
        tmp_path / "folder.html": ": expected the name of a file, got a directory; name a file in it",
        bundle: ": expected a name that ends in .html; only such a file is overwritten",
    }.items():
        assert run(student_file, "-o", bundle, "--page", page) == (2, "", f"mmkd-export: {page}{problem}\n")
    assert not bundle.exists()


def test_without_jinja2_the_message_names_the_extra(run, student_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, out, err = run(student_file, "-o", tmp_path / "s.edge", "--page", tmp_path / "p.html")
    assert (code, out) == (3, "")
    assert err == ("mmkd-export: --page needs jinja2, which this Python lacks; run: pip install 'mmkd-edge[export]'\n")
