from __future__ import annotations

import time
from threading import Event, Timer

import numpy as np
import pytest

from mmkd_bench.measuring.timing import CallTimes, call_loop, is_steady, time_windows, warm_up


def _samples(latency_ns: list[int]) -> CallTimes:
    latency = np.array(latency_ns, dtype=np.int64)
    start = np.concatenate([[0], np.cumsum(latency)[:-1]])
    return CallTimes(start_ns=start, latency_ns=latency, elapsed_ns=int(latency.sum()))


def test_a_loop_keeps_every_call_in_order() -> None:
    seen: list[int] = []
    samples = call_loop(seen.append, [1, 2, 3], duration_s=0.02, stop=Event())
    assert len(samples.latency_ns) == len(seen)
    assert seen[:6] == [1, 2, 3, 1, 2, 3]
    assert (np.diff(samples.start_ns) >= samples.latency_ns[:-1]).all()
    assert samples.elapsed_ns >= 0.02e9
    assert len(call_loop(seen.append, [0], duration_s=0.0, stop=Event()).latency_ns) == 1  # once even without time


def test_stop_ends_a_loop_between_two_calls() -> None:
    stop = Event()
    Timer(0.05, stop.set).start()
    samples = call_loop(time.sleep, [0.001], duration_s=60.0, stop=stop)
    assert samples.elapsed_ns < 10e9
    assert samples.latency_ns.min() >= 1e6
    assert samples.latency_ns.sum() <= samples.elapsed_ns


def test_warm_up_goes_on_until_three_slices_agree_or_its_limit() -> None:
    calls = iter([0.004] * 30 + [0.001] * 100_000)
    warm = warm_up(lambda _: time.sleep(next(calls)), [None], limit_s=10.0, stop=Event())
    assert warm.stable
    assert warm.calls >= 60
    assert warm.seconds >= 0.15
    warm = warm_up(time.sleep, [0.001], limit_s=0.05, stop=Event())
    assert not warm.stable
    assert 0.05 <= warm.seconds < 5.0


@pytest.mark.parametrize(
    ("values", "steady"),
    [([100.0, 100.0, 100.0], True), ([90.0, 100.0, 110.0], True), ([88.0, 100.0, 112.0], False), ([5.0], True)],
)
def test_steady_means_within_ten_percent_of_the_mean(values: list[float], steady: bool) -> None:
    assert is_steady(values) is steady


def test_windows_cut_a_loop_into_equal_times() -> None:
    first, second = time_windows(_samples([1000] * 60 + [3000] * 20), parts=2)
    assert (first.count, second.count) == (60, 20)
    assert (first.p50_us, second.p50_us) == (1.0, 3.0)
    assert (first.p90_us, second.p90_us) == (1.0, 3.0)
    assert len(time_windows(_samples([10_000_000]), parts=4)) == 1  # without empty ones
