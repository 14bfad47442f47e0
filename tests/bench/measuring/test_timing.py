from __future__ import annotations

import time
from threading import Event, Timer

import numpy as np
import pytest

from mmkd_bench.measuring.timing import CallTimes, closed_loop, is_steady, paced_loop, time_windows, warm_up


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def _samples(latency_ns: list[int], *, gap_ns: int = 0) -> CallTimes:
    latency = np.array(latency_ns, dtype=np.int64)
    start = np.concatenate([[0], np.cumsum(latency + gap_ns)[:-1]])
    return CallTimes(start_ns=start, latency_ns=latency, elapsed_ns=int(latency.sum() + gap_ns * len(latency)))


def test_a_closed_loop_keeps_every_call_in_order() -> None:
    seen: list[int] = []
    samples = closed_loop(seen.append, [1, 2, 3], duration_s=0.02, stop=Event())
    assert len(samples) == len(seen)
    assert seen[:6] == [1, 2, 3, 1, 2, 3]
    assert (np.diff(samples.start_ns) >= samples.latency_ns[:-1]).all()
    assert samples.elapsed_ns >= 0.02e9


def test_a_closed_loop_measures_the_call_and_nothing_else() -> None:
    samples = closed_loop(_sleep, [0.002], duration_s=0.05, stop=Event())
    assert samples.latency_ns.min() >= 2e6
    assert samples.latency_ns.sum() <= samples.elapsed_ns


def test_a_closed_loop_calls_once_even_without_time() -> None:
    assert len(closed_loop(_sleep, [0.0], duration_s=0.0, stop=Event())) == 1


def test_stop_ends_a_closed_loop_between_two_calls() -> None:
    stop = Event()
    Timer(0.05, stop.set).start()
    samples = closed_loop(_sleep, [0.001], duration_s=60.0, stop=stop)
    assert samples.elapsed_ns < 10e9


def test_a_paced_loop_keeps_its_schedule() -> None:
    paced = paced_loop(_sleep, [0.0], rate_hz=100.0, duration_s=0.2, stop=Event())
    assert len(paced.samples) == 20
    assert (paced.lateness_ns >= 0).all()
    scheduled = np.arange(20) * 1e7
    np.testing.assert_array_equal(paced.samples.start_ns - paced.lateness_ns, scheduled.astype(np.int64))
    assert not paced.overloaded


def test_a_stall_shows_in_every_call_that_it_delays() -> None:
    delays = [0.055] + [0.0] * 19
    paced = paced_loop(_sleep, delays, rate_hz=100.0, duration_s=0.2, stop=Event())
    # The first call blocks calls 1 to 5, which were due after 10, 20, ... 50 ms: they answer at 55 ms or later.
    due_ns = np.arange(6) * 1e7
    assert (paced.response_ns[:6] >= 55e6 - due_ns).all()
    assert len(paced.samples) == 20


def test_a_loop_that_cannot_keep_up_says_so_and_ends() -> None:
    paced = paced_loop(_sleep, [0.02], rate_hz=500.0, duration_s=0.1, stop=Event())
    assert paced.overloaded
    assert len(paced.samples) < 50


def test_warm_up_goes_on_until_three_slices_agree() -> None:
    calls = iter([0.004] * 30 + [0.001] * 100_000)
    warm = warm_up(lambda _: time.sleep(next(calls)), [None], limit_s=10.0, stop=Event())
    assert warm.stable
    assert warm.calls >= 60
    assert warm.seconds >= 0.15


def test_warm_up_ends_at_its_limit() -> None:
    warm = warm_up(_sleep, [0.001], limit_s=0.05, stop=Event())
    assert not warm.stable
    assert 0.05 <= warm.seconds < 5.0


@pytest.mark.parametrize(
    ("values", "steady"),
    [([100.0, 100.0, 100.0], True), ([90.0, 100.0, 110.0], True), ([88.0, 100.0, 112.0], False), ([5.0], True)],
)
def test_steady_means_within_ten_percent_of_the_mean(values: list[float], steady: bool) -> None:
    assert is_steady(values) is steady


def test_windows_cut_a_loop_into_equal_times() -> None:
    samples = _samples([1000] * 60 + [3000] * 20)
    first, second = time_windows(samples, parts=2)
    assert (first.count, second.count) == (60, 20)
    assert (first.p50_us, second.p50_us) == (1.0, 3.0)
    assert (first.p90_us, second.p90_us) == (1.0, 3.0)


def test_windows_without_a_call_are_left_out() -> None:
    samples = _samples([10_000_000])
    assert len(time_windows(samples, parts=4)) == 1
