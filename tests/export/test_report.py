"""The report in a bundle is read and written with the same keys; one that nobody can read is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmkd_edge.bundle.bundle import Bundle, example_bundle
from mmkd_edge.errors import BundleError
from mmkd_export.plan import read_report
from mmkd_report import DocumentError
from mmkd_report.schema.export import decode_report, encode_document

FILES = Path(__file__).parents[1] / "files"


@pytest.mark.parametrize("path", [FILES / "student.edge", FILES / "causal.edge", example_bundle()])
def test_reports_are_read_and_written_with_the_same_keys(path: Path):
    with Bundle.open(path) as bundle:
        data = bundle.read("report.json")
        assert read_report(bundle).model_id == bundle.manifest.model_id
    assert json.loads(encode_document(decode_report(data))) == json.loads(data)


def report_with(**changes: object) -> bytes:
    with Bundle.open(FILES / "student.edge") as bundle:
        return json.dumps(json.loads(bundle.read("report.json")) | changes).encode()


def test_keys_that_a_later_version_added_are_left_alone():
    assert decode_report(report_with(later=1)) == decode_report(report_with())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format_version": 2},
            "report.json: expected format_version 1, got 2; read it with the release that wrote it",
        ),
        ({"model_id": 7}, "report.json: Expected `str`, got `int` - at `$.model_id`; export the checkpoint again"),
    ],
)
def test_a_report_of_another_version_says_so(change: dict[str, object], message: str):
    with pytest.raises(DocumentError) as error:
        decode_report(report_with(**change))
    assert str(error.value) == message


def test_a_bundle_whose_report_nobody_can_read_is_refused_as_a_bundle():
    class Unreadable:
        def read(self, _: str) -> bytes:
            return b"{}"

    with pytest.raises(BundleError) as error:
        read_report(Unreadable())  # type: ignore[arg-type]
    assert str(error.value) == ("report.json: Object missing required field `model_id`; export the checkpoint again")
