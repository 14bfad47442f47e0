from __future__ import annotations

import time
from threading import Event

import numpy as np
import pytest

from mmkd_bench.measuring.clients import beside_each_other, call_together, intervals_ns


def test_calls_of_all_clients_are_in_the_order_of_their_begins() -> None:
    def call(seconds: float) -> None:
        time.sleep(seconds)

    called = call_together([call] * 3, [0.002], rate_hz=None, duration_s=0.1, stop=Event())
    assert (np.diff(called.samples.start_ns) >= 0).all()
    assert set(called.client.tolist()) == {0, 1, 2}
    assert called.paced is None
    assert set(called.arrays()) == {"client", "start_ns", "latency_ns"}
    # Three clients at once make three times the calls of one: at least twice on a busy machine.
    alone = call_together([call], [0.002], rate_hz=None, duration_s=0.1, stop=Event())
    assert len(called.samples) > 2 * len(alone.samples)


def test_each_client_has_its_own_call_and_begins_with_another_window() -> None:
    first: dict[int, list[str]] = {0: [], 1: []}

    def client(number: int) -> object:
        return lambda window: (first[number].append(window), time.sleep(0.001))

    call_together([client(0), client(1)], ["a", "b", "c"], rate_hz=None, duration_s=0.05, stop=Event())  # type: ignore[list-item]
    assert first[0][:4] == ["a", "b", "c", "a"]
    assert first[1][:4] == ["b", "c", "a", "b"]


def test_schedules_do_not_agree_on_when_to_begin() -> None:
    called = call_together([time.sleep] * 3, [0.0], rate_hz=50.0, duration_s=0.2, stop=Event())
    assert called.paced is not None
    scheduled_ms = (called.samples.start_ns - called.paced.lateness_ns) / 1e6
    phases_ms = [float(scheduled_ms[called.client == client][0]) for client in range(3)]
    # The first three numbers of numpy's generator with seed 0, in shares of the period of 20 ms.
    assert phases_ms == pytest.approx([12.739, 5.396, 0.819], abs=0.001)
    assert np.bincount(called.client).tolist() == [10, 10, 10]


def test_one_client_begins_at_once() -> None:
    called = call_together([time.sleep], [0.0], rate_hz=100.0, duration_s=0.05, stop=Event())
    assert called.paced is not None
    assert (called.samples.start_ns - called.paced.lateness_ns).tolist() == [0, 10**7, 2 * 10**7, 3 * 10**7, 4 * 10**7]


def test_intervals_are_those_of_one_client() -> None:
    arrays = {"client": np.array([0, 1, 0, 1, 1]), "start_ns": np.array([0, 3, 10, 15, 30])}
    assert intervals_ns(arrays).tolist() == [10, 12, 15]


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
    assert beside_each_other(lambda number: number + 5, 1, stop=Event()) == [5]
    assert beside_each_other(lambda number: number + 5, 3, stop=Event()) == [5, 6, 7]
