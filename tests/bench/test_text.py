from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkd_bench.measuring.timing import summarise
from mmkd_bench.text import duration_lines, duration_text, fact_rows, machine_text, significant
from mmkd_report.schema.bench import BenchReport
from tests.bench.made import make_launch, make_report


@pytest.fixture
def report() -> BenchReport:
    return make_report([make_launch(100.0)] * 5)


@given(st.floats(min_value=1e-3, max_value=1e9))
def test_three_significant_digits_are_within_half_a_percent(value: float) -> None:
    # 1.00 against 1.005: the third digit's half step is at most 0.5 % of the value.
    assert float(significant(value)) == pytest.approx(value, rel=0.00501)


@given(st.floats(min_value=1e-2, max_value=1e11))
def test_a_duration_keeps_its_value_in_its_unit(microseconds: float) -> None:
    number, unit = duration_text(microseconds).split()
    assert float(number) * {"µs": 1.0, "ms": 1e3, "s": 1e6}[unit] == pytest.approx(microseconds, rel=0.006)


def test_a_run_says_how_long_it_takes_for_every_percentile(report: BenchReport) -> None:
    # 5,000 calls in 10 s: 6,636 take 13.3 s, and a tenth more to be sure.
    assert duration_lines(report) == ["enough for p99.9 at this pace: --duration-s 15"]
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
