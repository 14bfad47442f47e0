"""Times of samples that cannot be trusted: what is refused, what is believed, and what results say of it."""

import numpy as np
import pytest

from mmkd_station.clock import TimeWatch

UTC = 1_700_000_000.0


def verdicts(time_at, *, every_s=0.1, seconds=30.0, delay_at=lambda _: 0.0, waited=False, watch=None):
    """Why each delivery is refused; `time_at` has its time, `delay_at` how much later it arrives, by the real time."""
    watch = watch or TimeWatch(limit_s=5.0, back_s=2.0)
    reasons = []
    for number in range(round(seconds / every_s)):
        real_s = number * every_s
        arrived_s = real_s + delay_at(real_s)
        times = np.array([time_at(real_s)])
        watch.accept(times, arrived_s=arrived_s, utc_s=UTC + arrived_s, still_s=1.0, waited=waited)
        reasons.append(watch.reason)
    return reasons


@pytest.mark.parametrize("begins_s", [0.0, UTC - 3.0, UTC - 1e6])
@pytest.mark.parametrize(
    ("time_at", "last"),
    [
        (lambda real_s: min(real_s, 3.0), "the times of samples have stood still for 26.9 s"),
        (lambda real_s: 3.0 - abs(real_s - 3.0), "the times of samples went back 26.9 s"),
        (lambda real_s: real_s % 1.0, "the times of samples have stood still for 29.0 s"),
        (lambda real_s: real_s % 3.0, "the times of samples have stood still for 27.0 s"),
    ],
    ids=["still", "backwards", "back 1 s every second", "back 3 s every 3 s"],
)
def test_times_that_do_not_advance_are_refused(begins_s, time_at, last):
    reasons = verdicts(lambda real_s: begins_s + time_at(real_s))
    assert all(reasons[45:])  # three seconds of samples, one of patience
    assert reasons[-1] == last


@pytest.mark.parametrize("begins_s", [0.0, UTC, UTC - 1e6])
def test_times_that_run_faster_than_their_arrival_are_refused(begins_s):
    reasons = verdicts(lambda real_s: begins_s + 10 * real_s)
    assert not any(reasons[:5])
    assert all(reasons[8:])
    assert reasons[-1].startswith("the times of samples are 2")  # 9 x 29.9 s, less what a clock may gain
    assert reasons[-1].endswith(" s ahead of their arrival")


def test_times_in_utc_that_are_of_the_future_are_refused_for_good_and_at_once():
    reasons = verdicts(lambda real_s: UTC + 3600 + real_s)
    assert set(reasons) == {"the times of samples are 3,600.0 s ahead of their arrival"}


@pytest.mark.parametrize("step_s", [-1e5, -3600.0, 1e6])
def test_a_clock_that_was_set_is_believed_after_it_has_kept_pace(step_s):
    reasons = verdicts(lambda real_s: UTC - 10 + real_s + (step_s if real_s >= 10 else 0.0), seconds=20)
    assert (any(reasons[:100]), all(reasons[100:150]), any(reasons[150:])) == (False, True, False)


@pytest.mark.parametrize("begins_s", [0.0, UTC, UTC - 1e6])
def test_delays_jitter_and_clocks_that_drift_are_not_held_against_a_source(begins_s):
    random = np.random.default_rng(0)
    jitter = verdicts(lambda real_s: begins_s + real_s, delay_at=lambda _: float(random.uniform(0, 0.8)))
    stalled = verdicts(lambda real_s: begins_s + real_s, delay_at=lambda real_s: max(0.0, 20 - real_s) * (real_s >= 10))
    assert not any([*jitter, *stalled])
    assert not any(verdicts(lambda real_s: 1000 + 1.01 * real_s, every_s=10.0, seconds=100_000))
    assert not any(verdicts(lambda real_s: 1000 + 0.99 * real_s, every_s=10.0, seconds=100_000))


def test_a_backlog_in_utc_may_catch_up():
    # As what a broker kept for an hour: it comes within a second.
    reasons = verdicts(lambda real_s: UTC - 3600 + min(3600 * real_s, 3600 + real_s), seconds=3, every_s=0.01)
    assert not any(reasons)


def test_lines_of_a_file_that_waited_for_their_reader_may_be_of_any_time():
    replayed = verdicts(lambda real_s: 1000 * real_s, waited=True)
    again = verdicts(lambda real_s: 10 * (real_s % 3.0), waited=True)
    assert not any([*replayed, *again])
