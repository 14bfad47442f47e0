from __future__ import annotations

import msgspec
import numpy as np
import pytest

from mmkd_bench.machine.facts import read_machine
from mmkd_bench.measuring.launch import measure_pace
from mmkd_bench.run import join_launches, joined, judge_stability
from mmkd_report.schema.bench import MachineFacts, WarmUp
from tests.bench.made import make_launch


@pytest.fixture(scope="module")
def machine() -> MachineFacts:
    return msgspec.structs.replace(read_machine(), governors=())


def _arrays(latency_us: list[int], lateness_us: list[int]) -> dict[str, np.ndarray]:
    latency = np.array(latency_us, dtype=np.int64) * 1000
    lateness = np.array(lateness_us, dtype=np.int64) * 1000
    start = np.arange(len(latency), dtype=np.int64) * 20_000_000 + lateness
    client = np.zeros(len(latency), dtype=np.int64)
    return {"client": client, "start_ns": start, "latency_ns": latency, "lateness_ns": lateness}


def test_percentiles_come_from_all_samples_together() -> None:
    samples = [{"latency_ns": np.full(100, value, dtype=np.int64)} for value in (1000, 2000, 9000)]
    found = join_launches([make_launch()] * 3, samples, None)
    assert found.latency.count == 300
    assert found.latency.value_us(0.5) == 2.0
    assert found.latency.value_us(0.9) == 9.0


def test_other_figures_are_medians_over_launches() -> None:
    launches = [
        msgspec.structs.replace(make_launch(), load_ms=value, rss_peak_mb=value) for value in (10.0, 20.0, 90.0)
    ]
    found = join_launches(launches, [{"latency_ns": np.full(100, 1000, dtype=np.int64)}] * 3, None)
    assert found.load_ms == 20.0
    assert found.rss_peak_mb == 90.0  # a peak is the largest


def test_samples_are_joined_with_the_number_of_their_launch() -> None:
    together = joined([_arrays([5, 6], [0, 0]), _arrays([7], [1])])
    assert together["launch"].tolist() == [0, 0, 1]
    assert together["latency_ns"].tolist() == [5000, 6000, 7000]
    assert together["lateness_ns"].tolist() == [0, 0, 1000]


def test_missed_deadlines_are_counted_from_the_schedule() -> None:
    arrays = _arrays([100, 100, 900], [0, 950, 50])
    # Answers came 0.1, 1.05 and 0.95 ms after their scheduled times.
    found = [measure_pace(arrays, deadline_ms=deadline_ms, overloaded=False) for deadline_ms in (1.0, 0.9, None)]
    assert [one.missed for one in found if one is not None] == [1, 2, 0]
    assert found[0] is not None
    assert found[0].response.max_us == 1050.0


def test_launches_that_agree_are_stable(machine: MachineFacts) -> None:
    found = judge_stability([make_launch(value) for value in (95.0, 100.0, 105.0)], machine)
    assert found.stable
    assert found.findings == ()


def test_launches_that_differ_are_unstable(machine: MachineFacts) -> None:
    found = judge_stability([make_launch(value) for value in (100.0, 100.0, 130.0)], machine)
    assert not found.stable
    assert found.findings == ("medians of launches ran from 100 to 130 µs",)


def test_a_launch_that_drifts_is_unstable_and_the_counters_say_why(machine: MachineFacts) -> None:
    calm = make_launch()
    hot = msgspec.structs.replace(calm.interference, thermal_events=7, others_cores=0.5)
    drifting = msgspec.structs.replace(calm, thirds_p50_us=(90.0, 100.0, 140.0), interference=hot)
    found = judge_stability([calm, drifting], machine)
    assert found.findings == ("launch 2: medians of its thirds were 90, 100, 140 µs",)
    assert found.disturbances == ("cores slowed down because of heat (7 events)", "other processes used 50% of a core")


def test_a_launch_that_never_warmed_up_is_unstable(machine: MachineFacts) -> None:
    cold = msgspec.structs.replace(make_launch(), warm_up=WarmUp(calls=9, seconds=5.0, stable=False))
    assert judge_stability([cold], machine).findings == ("launch 1 was not steady after 5.0 s of warm-up",)


def test_the_pace_is_that_of_all_launches_together() -> None:
    samples = [_arrays([100] * 100, [10] * 100), _arrays([100] * 100, [30] * 100)]
    one = measure_pace(samples[0], deadline_ms=20.0, overloaded=True)
    launches = [msgspec.structs.replace(make_launch(), pace=one), make_launch()]
    found = join_launches(launches, samples, 20.0).pace
    assert found is not None
    assert (found.lateness.count, found.lateness.min_us, found.lateness.max_us) == (200, 10.0, 30.0)
    assert found.overloaded
