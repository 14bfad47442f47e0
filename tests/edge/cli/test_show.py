"""CSV files that a spreadsheet opens without running anything."""

import csv
import io
import re
from pathlib import Path

import pytest

from mmkd_edge.cli.show import csv_text

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "text", ['=HYPERLINK("http://evil.example")', "+1+1", "-cmd", "@SUM(A1)", "\t=1+1", "\r=1+1", "=", "--1"]
)
def test_a_text_that_a_spreadsheet_would_run_is_escaped(text):
    assert list(csv.reader(io.StringIO(csv_text([[text]]), newline=""))) == [["'" + text.replace("\r", "\n")]]


@pytest.mark.parametrize("value", [-1, -0.5, "-0.5", "+3", "-1e-05", "-inf", "a=b", "", None, "1 = 1"])
def test_numbers_and_other_texts_stay_as_they_are(value):
    expected = "" if value is None else str(value)
    assert next(csv.reader(io.StringIO(csv_text([[value, 1]])))) == [expected, "1"]


def test_a_carriage_return_begins_no_row():
    assert csv_text([["a\r=1+1", 2]]) == '"a\n=1+1",2\n'


def test_no_other_file_writes_csv():
    writers = re.compile(r"csv\.writer|DictWriter|\.write_csv\(|\.to_csv\(")
    for folder in ("mmkd_edge", "models", "export", "benchmarks/mmkd_bench", "reports", "station"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            assert bool(writers.search(file.read_text())) == (file == REPOSITORY / "mmkd_edge/cli/show.py"), file
