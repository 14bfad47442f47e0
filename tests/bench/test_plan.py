from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkd_bench import plan
from mmkd_bench.measuring.opening import Choice
from mmkd_bench.plan import fit_serial_share, left_out_error, measure_plan, measured_counts, throughput_hz
from mmkd_edge.errors import UsageError


@given(st.floats(0.0, 1.0), st.floats(1.0, 1e6))
def test_the_fit_finds_the_share_that_made_the_figures(share: float, alone_hz: float) -> None:
    figures = {cores: throughput_hz(cores, alone_hz=alone_hz, serial_share=share) for cores in (1, 2, 4, 8)}
    assert fit_serial_share(figures) == pytest.approx(share, abs=1e-9)
    assert left_out_error(figures) == pytest.approx(0.0, abs=1e-9)


def test_more_cores_never_give_less() -> None:
    found = [throughput_hz(cores, alone_hz=100.0, serial_share=0.1) for cores in range(1, 65)]
    assert found == sorted(found)
    assert found[-1] < 100.0 / 0.1  # the limit of Amdahl's law


def test_a_share_stays_a_share() -> None:
    assert fit_serial_share({1: 100.0, 2: 250.0}) == 0.0
    assert fit_serial_share({1: 100.0, 2: 10.0}) == 1.0
    assert fit_serial_share({1: 100.0}) == 0.0


def test_the_error_is_measured_on_the_count_that_was_left_out() -> None:
    # From one core alone the model is linear: 200 expected, 160 measured.
    assert left_out_error({1: 100.0, 2: 160.0}) == pytest.approx(0.25)
    assert left_out_error({1: 100.0}) is None


@pytest.mark.parametrize(("usable", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_counts_double_up_to_all_usable_cores(usable: int, counts: list[int]) -> None:
    assert measured_counts(usable) == counts


def test_a_plan_measures_and_forecasts(slow_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "ROUNDS", 2)
    lines: list[str] = []
    report = measure_plan(
        Choice(bundle=str(slow_bundle)), cores=[1, 16], rate_hz=10.0, duration_s=0.1, progress=lines.append
    )
    assert lines[0] == "round 1 of 2: 1 at once for 0.1 s"
    counts = measured_counts(len(os.sched_getaffinity(0)))
    assert [one.cores for one in report.measured] == counts
    assert len(lines) == 2 * len(counts)
    one, sixteen = report.forecasts
    assert one.throughput_hz == pytest.approx(report.measured[0].throughput_hz)
    assert sixteen.throughput_hz >= one.throughput_hz
    assert one.streams == int(one.throughput_hz / 10.0)
    assert all(entry.low_hz <= entry.throughput_hz <= entry.high_hz for entry in report.measured)


def test_no_cores_are_refused(bundle: Path) -> None:
    with pytest.raises(UsageError) as caught:
        measure_plan(Choice(bundle=str(bundle)), cores=[2, 0])
    assert str(caught.value) == "cores: expected whole numbers from 1 to 1024, got 0"
    with pytest.raises(UsageError) as caught:
        measure_plan(Choice(bundle=str(bundle)), cores=[2], rate_hz=0.0)
    assert str(caught.value) == "rate: expected a number above 0, got 0"
