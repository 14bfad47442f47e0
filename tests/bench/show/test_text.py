from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkd_bench.compare import compare, parse_conditions
from mmkd_bench.measuring.percentiles import summarise
from mmkd_bench.show.render import csv_of, markdown_of
from mmkd_bench.show.sheets import sheet_of
from mmkd_bench.show.text import duration_lines, duration_text, fact_rows, machine_text, significant
from mmkd_report.schema.bench import BenchReport, ProcessStart

LaunchOf = Callable[..., ProcessStart]
ReportOf = Callable[[Sequence[ProcessStart]], BenchReport]


@pytest.fixture
def report(launch_of: LaunchOf, report_of: ReportOf) -> BenchReport:
    return report_of([launch_of(100.0)] * 5)


@given(st.floats(min_value=1e-3, max_value=1e9))
def test_three_significant_digits_are_within_half_a_percent(value: float) -> None:
    # 1.00 against 1.005: the third digit's half step is at most 0.5 % of the value.
    assert float(significant(value)) == pytest.approx(value, rel=0.00501)


@given(st.floats(min_value=1e-2, max_value=1e11))
def test_a_duration_keeps_its_value_in_its_unit(microseconds: float) -> None:
    number, unit = duration_text(microseconds).split()
    assert float(number) * {"µs": 1.0, "ms": 1e3, "s": 1e6}[unit] == pytest.approx(microseconds, rel=0.006)


def test_csv_has_a_row_per_launch_and_one_for_all(report: BenchReport) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_of(sheet_of(report)))))
    assert [row["launch"] for row in rows] == ["1", "2", "3", "4", "5", "all"]
    assert rows[5]["samples"] == "5000"
    assert float(rows[5]["p50_us"]) == 100.0
    assert rows[5]["p99.9_us"] == ""  # too few samples
    assert rows[0]["prepare_us"] == "1.0"


def test_markdown_holds_the_figures(report: BenchReport) -> None:
    text = markdown_of(sheet_of(report))
    assert "| p50 | 100 µs | 100 µs |\n" in text
    assert "| p99.9 | needs 6,636 samples, has 5,000 |  |\n" in text
    assert "| energy | not measured: no sensor |\n" in text
    assert "- stable: all parts agree within 10 %\n" in text


def test_a_run_says_how_long_it_takes_for_every_percentile(report: BenchReport) -> None:
    # 5,000 calls in 10 s: 6,636 take 13.3 s, and a tenth more to be sure.
    assert duration_lines(report) == ["enough for p99.9 at this pace: --duration-s 15"]
    assert "enough for p99.9 at this pace: --duration-s 15\n" in markdown_of(sheet_of(report))
    enough = msgspec.structs.replace(
        report, result=msgspec.structs.replace(report.result, latency=summarise(np.arange(1, 6637)))
    )
    assert duration_lines(enough) == []
    assert duration_lines(msgspec.structs.replace(report, complete=False)) == []


def test_limits_of_the_control_group_are_told(report: BenchReport) -> None:
    assert "limited" not in machine_text(report.machine)
    machine = msgspec.structs.replace(report.machine, cpu_quota=1.5, memory_limit_mb=512.0)
    limited = msgspec.structs.replace(report, machine=machine)
    assert "4 cores · limited to 1.50 cores' time · limited to 512 MB · " in machine_text(limited.machine)


def test_temperatures_are_those_before_the_first_launch_and_after_the_last(report: BenchReport) -> None:
    assert "temperature" not in dict(fact_rows(report))
    launches = tuple(
        msgspec.structs.replace(
            launch,
            interference=msgspec.structs.replace(
                launch.interference, celsius_before=40.0 + number, celsius_after=42.5 + number
            ),
        )
        for number, launch in enumerate(report.launches)
    )
    warm = msgspec.structs.replace(report, launches=launches)
    assert dict(fact_rows(warm))["temperature"] == "40 °C before, 46 °C after, of the hottest zone"


def test_markdown_escapes_what_would_end_a_cell(launch_of: LaunchOf, report_of: ReportOf) -> None:
    report = msgspec.structs.replace(report_of([launch_of()] * 5), energy_note="a|b")
    assert "| energy | not measured: a\\|b |\n" in markdown_of(sheet_of(report))


def test_a_comparison_reads_the_same_in_every_form(
    report: BenchReport, launch_of: LaunchOf, report_of: ReportOf
) -> None:
    slower = report_of([launch_of(120.0)] * 5)
    comparison = compare(report, slower, conditions=parse_conditions("p50>+5%"))
    markdown = markdown_of(sheet_of(comparison))
    assert markdown.startswith("### Verdict: slower\n")
    assert "| p50 * | 100 µs | 120 µs | +20.0% | +20.0% to +20.0% |\n" in markdown
    assert "- failed: p50 changed by +20.0%" in markdown
    first = next(csv.DictReader(io.StringIO(csv_of(sheet_of(comparison)))))
    assert (first["quantity"], first["unit"]) == ("p50", "µs")
    assert float(first["change"]) == pytest.approx(0.2)
