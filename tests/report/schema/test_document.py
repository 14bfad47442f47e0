"""The door of the demo page: what is refused, with which words, and what is let through."""

import copy
import json
from pathlib import Path

import msgspec
import pytest

from mmkd_report.errors import DocumentError
from mmkd_report.pages.demo import render_demo
from mmkd_report.schema.demo import read_demo

ROOT = Path(__file__).parents[3]


def refusal(document):
    with pytest.raises(DocumentError) as caught:
        render_demo(document)
    return str(caught.value)


def test_a_broken_document_is_refused_with_its_place_and_unknown_keys_are_left_alone(two_sensors):
    grown = copy.deepcopy(two_sensors) | {"later": {"x": 1}}
    grown["teacher"]["energy_mj"] = 3.0
    assert render_demo(grown) == render_demo(two_sensors)
    assert refusal({}) == (
        "demo document: expected format_version 1, got None; make the page with the release that made the document"
    )
    assert refusal({name: part for name, part in two_sensors.items() if name != "teacher"}) == (
        "demo document: Object missing required field `teacher`; "
        "correct the value, or leave it out where it is optional"
    )
    two_sensors["teacher"]["accuracy"]["mean"] = "high"
    assert refusal(two_sensors) == (
        "demo document: Expected `float`, got `str` - at `$.teacher.accuracy.mean`; "
        "correct the value, or leave it out where it is optional"
    )


def test_a_document_that_mmkd_demo_wrote_is_read_and_written_as_it_was(any_document):
    assert read_demo(json.loads(json.dumps(any_document))) == read_demo(any_document)
    written = json.loads((ROOT / "docs" / "results" / "watch_exercises-2groups.json").read_bytes())
    assert json.loads(msgspec.json.encode(read_demo(written))) == written
