from __future__ import annotations

import time
from threading import Event, Timer

import numpy as np
import pytest

from mmkd_bench.measuring.timing import (
    CallTimes,
    call_loop,
    call_together,
    is_steady,
    run_threads,
    time_windows,
    warm_up,
)


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def _samples(latency_ns: list[int], *, gap_ns: int = 0) -> CallTimes:
    latency = np.array(latency_ns, dtype=np.int64)
    start = np.concatenate([[0], np.cumsum(latency + gap_ns)[:-1]])
    return CallTimes(
        start_ns=start,
        latency_ns=latency,
        lateness_ns=None,
        client=np.zeros(len(latency), dtype=np.int64),
        elapsed_ns=int(latency.sum() + gap_ns * len(latency)),
    )


def test_a_closed_loop_keeps_every_call_in_order() -> None:
    seen: list[int] = []
    samples = call_loop(seen.append, [1, 2, 3], duration_s=0.02, stop=Event())
    assert len(samples) == len(seen)
    assert seen[:6] == [1, 2, 3, 1, 2, 3]
    assert (np.diff(samples.start_ns) >= samples.latency_ns[:-1]).all()
    assert samples.elapsed_ns >= 0.02e9


def test_a_closed_loop_measures_the_call_and_nothing_else() -> None:
    samples = call_loop(_sleep, [0.002], duration_s=0.05, stop=Event())
    assert samples.latency_ns.min() >= 2e6
    assert samples.latency_ns.sum() <= samples.elapsed_ns


def test_a_closed_loop_calls_once_even_without_time() -> None:
    assert len(call_loop(_sleep, [0.0], duration_s=0.0, stop=Event())) == 1


def test_stop_ends_a_closed_loop_between_two_calls() -> None:
    stop = Event()
    Timer(0.05, stop.set).start()
    samples = call_loop(_sleep, [0.001], duration_s=60.0, stop=stop)
    assert samples.elapsed_ns < 10e9


def test_a_paced_loop_keeps_its_schedule() -> None:
    paced = call_loop(_sleep, [0.0], rate_hz=100.0, duration_s=0.2, stop=Event())
    assert len(paced) == 20
    assert paced.lateness_ns is not None
    assert (paced.lateness_ns >= 0).all()
    scheduled = np.arange(20) * 1e7
    np.testing.assert_array_equal(paced.start_ns - paced.lateness_ns, scheduled.astype(np.int64))
    assert not paced.overloaded


def test_a_stall_shows_in_every_call_that_it_delays() -> None:
    delays = [0.055] + [0.0] * 19
    paced = call_loop(_sleep, delays, rate_hz=100.0, duration_s=0.2, stop=Event())
    assert paced.lateness_ns is not None
    # The first call blocks calls 1 to 5, which were due after 10, 20, ... 50 ms: they answer at 55 ms or later.
    due_ns = np.arange(6) * 1e7
    assert ((paced.lateness_ns + paced.latency_ns)[:6] >= 55e6 - due_ns).all()
    assert len(paced) == 20


def test_a_loop_that_cannot_keep_up_says_so_and_ends() -> None:
    paced = call_loop(_sleep, [0.02], rate_hz=500.0, duration_s=0.1, stop=Event())
    assert paced.overloaded
    assert len(paced) < 50


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


def test_calls_of_all_clients_are_in_the_order_of_their_begins() -> None:
    def call(seconds: float) -> None:
        time.sleep(seconds)

    called = call_together([call] * 3, [0.002], rate_hz=None, duration_s=0.1, stop=Event())
    assert (np.diff(called.start_ns) >= 0).all()
    assert set(called.client.tolist()) == {0, 1, 2}
    assert called.lateness_ns is None
    assert set(called.arrays()) == {"client", "start_ns", "latency_ns"}
    # Three clients at once make three times the calls of one: at least twice on a busy machine.
    alone = call_together([call], [0.002], rate_hz=None, duration_s=0.1, stop=Event())
    assert len(called) > 2 * len(alone)


def test_each_client_has_its_own_call_and_begins_with_another_window() -> None:
    first: dict[int, list[str]] = {0: [], 1: []}

    def client(number: int) -> object:
        return lambda window: (first[number].append(window), time.sleep(0.001))

    call_together([client(0), client(1)], ["a", "b", "c"], rate_hz=None, duration_s=0.05, stop=Event())  # type: ignore[list-item]
    assert first[0][:4] == ["a", "b", "c", "a"]
    assert first[1][:4] == ["b", "c", "a", "b"]


def test_schedules_do_not_agree_on_when_to_begin() -> None:
    called = call_together([time.sleep] * 3, [0.0], rate_hz=50.0, duration_s=0.2, stop=Event())
    assert called.lateness_ns is not None
    scheduled_ms = (called.start_ns - called.lateness_ns) / 1e6
    phases_ms = [float(scheduled_ms[called.client == client][0]) for client in range(3)]
    # The first three numbers of numpy's generator with seed 0, in shares of the period of 20 ms.
    assert phases_ms == pytest.approx([12.739, 5.396, 0.819], abs=0.001)
    assert np.bincount(called.client).tolist() == [10, 10, 10]


def test_one_client_begins_at_once() -> None:
    called = call_together([time.sleep], [0.0], rate_hz=100.0, duration_s=0.05, stop=Event())
    assert called.lateness_ns is not None
    assert (called.start_ns - called.lateness_ns).tolist() == [0, 10**7, 2 * 10**7, 3 * 10**7, 4 * 10**7]


def test_an_error_of_one_client_stops_the_others_and_is_raised() -> None:
    def call(window: int) -> None:
        time.sleep(0.001)
        if window == 7:
            raise ValueError("seven")

    begin = time.monotonic()
    with pytest.raises(ValueError, match="seven"):
        call_together([call, call], [1, 7], rate_hz=None, duration_s=60.0, stop=Event())
    assert time.monotonic() - begin < 10


def test_one_alone_runs_in_this_thread() -> None:
    assert run_threads(lambda number: number + 5, 1, stop=Event()) == [5]
    assert run_threads(lambda number: number + 5, 3, stop=Event()) == [5, 6, 7]
