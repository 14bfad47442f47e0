from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmkd_bench.reports import decode_report, encode_report, read_report, write_report
from mmkd_edge.errors import UsageError
from mmkd_report.schema.bench import BenchReport
from tests.bench.made import make_launch, make_report


@pytest.fixture
def report() -> BenchReport:
    return make_report([make_launch(100.0, seed=number, spread=0.01) for number in range(5)])


def test_a_report_survives_its_file(report: BenchReport, tmp_path: Path) -> None:
    write_report(tmp_path / "report.json", report)
    assert read_report(tmp_path / "report.json") == report


def test_the_document_is_indented_json_with_a_version(report: BenchReport) -> None:
    data = encode_report(report)
    assert data.startswith(b'{\n  "format_version": 1,\n')
    assert data.endswith(b"}\n")
    assert json.loads(data)["result"]["latency"]["count"] == 5000


def test_what_was_not_measured_is_null(report: BenchReport) -> None:
    document = json.loads(encode_report(report))
    assert document["energy"] is None
    assert document["result"]["pace"] is None
    p999 = document["result"]["latency"]["percentiles"][4]
    assert p999 == {"quantile": 0.999, "value_us": None, "upper_us": None, "floor": 6636}


def test_a_newer_version_is_refused(report: BenchReport) -> None:
    newer = encode_report(report).replace(b'"format_version": 1', b'"format_version": 2', 1)
    with pytest.raises(UsageError) as caught:
        decode_report(newer, where="new.json")
    assert str(caught.value) == (
        "new.json: expected a report of format_version 1, got 2; read it with the mmkd-bench that wrote it"
    )


def test_the_path_of_a_fault_is_named(report: BenchReport) -> None:
    wrong = encode_report(report).replace(b'"threads": 1', b'"threads": "one"', 1)
    with pytest.raises(UsageError) as caught:
        decode_report(wrong, where="a.json")
    assert str(caught.value) == (
        "a.json: not a valid benchmark report: Expected `int`, got `str` - at `$.configuration.threads`"
    )


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"[1]", b"\xff", b'{"format_version": "1"}'])
def test_other_files_are_not_reports(data: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        decode_report(data, where="x")
    assert str(caught.value).startswith("x: expected a benchmark report, cannot read it: ")


def test_a_missing_file_says_what_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "absent.json"
    with pytest.raises(UsageError) as caught:
        read_report(path)
    assert str(caught.value) == (
        f"{path}: expected a report of 'mmkd-bench run --json', cannot open it: no such file or directory"
    )


def test_a_key_that_this_release_does_not_know_is_left_alone(report: BenchReport) -> None:
    later = json.loads(encode_report(report)) | {"weather": "fine"}
    assert decode_report(json.dumps(later).encode(), where="later.json") == report
