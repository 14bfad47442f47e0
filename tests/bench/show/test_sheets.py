from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from mmkd_bench.capacity import Question, measure_capacity
from mmkd_bench.in_turn import spread_of
from mmkd_bench.measuring.opening import Choice
from mmkd_bench.show.render import csv_of, markdown_of
from mmkd_bench.show.sheets import sheet_of
from mmkd_bench.show.text import ratio_text
from mmkd_report.schema.bench import (
    BenchReport,
    CapacityReport,
    OverheadReport,
    PairReport,
    ProcessStart,
    RepeatSpread,
    RivalEngine,
    RivalsReport,
)

ONE: RepeatSpread = spread_of([100.0, 110.0, 120.0])


@pytest.fixture
def run(launch_of: Callable[..., ProcessStart], report_of: Callable[..., BenchReport]) -> BenchReport:
    """For its subject and its machine."""
    return report_of([launch_of()] * 5)


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_rivals_have_a_row_each_and_a_reason_where_they_were_not_timed(run: BenchReport) -> None:
    timed = RivalEngine(
        name="openvino",
        version="2026.4.1",
        reason="",
        load_ms=80.0,
        max_abs_error=1.25e-7,
        p50_us=ONE,
        p99_us=ONE,
        ratio=ONE,
    )
    absent = RivalEngine(
        name="litert",
        version="",
        reason="not installed: a, b",
        load_ms=None,
        max_abs_error=None,
        p50_us=None,
        p99_us=None,
        ratio=None,
    )
    report = RivalsReport(subject=run.subject, threads=1, tolerance=1e-4, rivals=(timed, absent), machine=run.machine)
    first, second = _rows(csv_of(sheet_of(report)))
    assert (first["engine"], first["p50_us"], first["low_us"], first["max_abs_error"]) == (
        "openvino",
        "110.0",
        "100.0",
        "1.2e-07",
    )
    assert (second["p50_us"], second["reason"]) == ("", "not installed: a, b")
    told = markdown_of(sheet_of(report))
    assert "| openvino | 2026.4.1 | 110 µs | 100 µs | 120 µs | 110 µs | 110.00 x | 80.0 ms | 1.2e-07 |\n" in told
    assert "| litert |" not in told
    assert "- litert: not installed: a, b\n" in told


def test_capacity_has_the_answer_and_its_launches(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmkd_bench.capacity.CONFIRM_S", 0.2)
    monkeypatch.setattr("mmkd_bench.capacity.MAX_CONFIRM_S", 0.2)
    question = Question(rate_hz=20.0, deadline_ms=5000.0, streams=4, servers=1, launches=1)
    report: CapacityReport = measure_capacity(Choice(bundle=str(bundle)), question)
    assert [row["load"] for row in _rows(csv_of(sheet_of(report)))] == ["answer", "launch 1"]
    assert markdown_of(sheet_of(report)).startswith(
        f"### {bundle}, fp32 in {report.backend}, 20 predictions per second each within 5000 ms: 4 streams\n"
    )


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([2.0, 2.5, 3.0], "the student is 2.50 times as fast as the teacher (2.00 to 3.00 over 3 repeats)"),
        ([0.8, 0.9], "the student is 0.850 times as fast as the teacher (0.800 to 0.900 over 2 repeats)"),
        ([0.98, 1.09, 1.2], "the student and the teacher are equally fast within noise (0.980 to 1.20 over 3 repeats)"),
    ],
)
def test_one_of_a_pair_is_called_faster_where_every_repeat_says_so(ratios: list[float], expected: str) -> None:
    assert ratio_text("the student", "the teacher", spread_of(ratios)) == expected


def test_pairs_and_overheads_are_tables_too(run: BenchReport) -> None:
    pair = PairReport(
        first="a.onnx",
        second="b.edge",
        threads=1,
        count=10,
        first_p50_us=ONE,
        second_p50_us=ONE,
        first_p90_us=ONE,
        second_p90_us=ONE,
        first_p99_us=ONE,
        second_p99_us=ONE,
        ratio=spread_of([2.0]),
        machine=run.machine,
    )
    assert (
        markdown_of(sheet_of(pair)).splitlines()[0]
        == "### b.edge is 2.00 times as fast as a.onnx (one repeat, no spread)"
    )
    overhead = OverheadReport(
        bundle="b.edge",
        count=10,
        predict_p50_us=ONE,
        bare="session.run",
        checks=False,
        bare_p50_us=ONE,
        overhead_us=ONE,
        machine=run.machine,
    )
    assert [row["what"] for row in _rows(csv_of(sheet_of(overhead)))] == ["predict", "session.run", "difference"]
