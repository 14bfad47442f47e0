"""Documents of the demo, as they are read and written."""

import copy
import json
from pathlib import Path

import msgspec

from tests.report.rendered import read_demo, render_demo

ROOT = Path(__file__).parents[3]


def test_unknown_keys_are_left_alone(two_sensors):
    grown = copy.deepcopy(two_sensors) | {"later": {"x": 1}}
    grown["teacher"]["energy_mj"] = 3.0
    assert render_demo(grown) == render_demo(two_sensors)


def test_a_document_that_mmkd_demo_wrote_is_read_and_written_as_it_was(any_document):
    assert read_demo(json.loads(json.dumps(any_document))) == read_demo(any_document)
    written = json.loads((ROOT / "docs" / "results" / "watch_exercises-2groups.json").read_bytes())
    assert json.loads(msgspec.json.encode(read_demo(written))) == written
