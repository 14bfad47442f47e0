import time
from math import comb
from threading import Event, Timer

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_bench.measuring.timing import (
    CONFIDENCE,
    QUANTILES,
    CallTimes,
    call_loop,
    is_steady,
    percentile,
    sample_floor,
    summarise,
    time_windows,
    upper_bound_rank,
    warm_up,
)
from tests.edge.said import said


def _samples(latency_ns):
    latency = np.array(latency_ns, dtype=np.int64)
    start = np.concatenate([[0], np.cumsum(latency)[:-1]])
    return CallTimes(start_ns=start, latency_ns=latency, elapsed_ns=int(latency.sum()))


def test_a_loop_keeps_every_call_in_order_until_it_is_stopped():
    seen = []
    samples = call_loop(seen.append, [1, 2, 3], duration_s=0.02, stop=Event())
    assert len(samples.latency_ns) == len(seen)
    assert seen[:6] == [1, 2, 3, 1, 2, 3]
    assert (np.diff(samples.start_ns) >= samples.latency_ns[:-1]).all()
    assert samples.elapsed_ns >= 0.02e9
    assert len(call_loop(seen.append, [0], duration_s=0.0, stop=Event()).latency_ns) == 1  # once even without time
    stop = Event()
    Timer(0.05, stop.set).start()
    samples = call_loop(time.sleep, [0.001], duration_s=60.0, stop=stop)
    assert samples.elapsed_ns < 10e9
    assert samples.latency_ns.min() >= 1e6
    assert samples.latency_ns.sum() <= samples.elapsed_ns


def test_warm_up_goes_on_until_three_slices_agree_or_its_limit():
    calls = iter([0.004] * 30 + [0.001] * 100_000)
    warm = warm_up(lambda _: time.sleep(next(calls)), [None], limit_s=10.0, stop=Event())
    assert warm.stable
    assert warm.calls >= 60
    assert warm.seconds >= 0.15
    warm = warm_up(time.sleep, [0.001], limit_s=0.05, stop=Event())
    assert not warm.stable
    assert 0.05 <= warm.seconds < 5.0


def test_steady_means_within_ten_percent_of_the_mean():
    values = [100.0, 100.0, 100.0], [90.0, 100.0, 110.0], [5.0], [88.0, 100.0, 112.0]
    assert list(map(is_steady, values)) == [True, True, True, False]


def test_windows_cut_a_loop_into_equal_times():
    first, second = time_windows(_samples([1000] * 60 + [3000] * 20), parts=2)
    assert (first.count, second.count) == (60, 20)
    assert (first.p50_us, second.p50_us) == (1.0, 3.0)
    assert (first.p90_us, second.p90_us) == (1.0, 3.0)
    assert len(time_windows(_samples([10_000_000]), parts=4)) == 1  # without empty ones


LATENCIES = st.lists(st.integers(min_value=1, max_value=10**12), min_size=64, max_size=400)


@given(LATENCIES)
@settings(max_examples=40, deadline=None)
def test_percentiles_equal_numpys_on_the_raw_samples(latencies):
    samples = np.array(latencies, dtype=np.int64)
    summary = summarise(samples)
    for quantile in (0.5, 0.9):
        assert summary.value_us(quantile) == pytest.approx(np.percentile(samples, 100 * quantile) / 1e3, rel=1e-12)
    assert summary.mean_us == pytest.approx(samples.mean() / 1e3, rel=1e-12)
    assert (summary.min_us, summary.max_us) == (samples.min() / 1e3, samples.max() / 1e3)
    assert summary.count == len(samples)


def test_percentiles_have_floors_and_bounds_or_none():
    samples = np.arange(1, 664, dtype=np.int64)
    assert percentile(samples[:661], 0.99).value_us is None
    assert percentile(samples[:661], 0.99).upper_us is None
    assert percentile(samples[:662], 0.99).value_us is not None
    floors = {quantile: sample_floor(quantile) for quantile in QUANTILES}
    assert floors == {0.5: 11, 0.9: 64, 0.95: 130, 0.99: 662, 0.999: 6636}
    for quantile in QUANTILES:
        assert upper_bound_rank(sample_floor(quantile), quantile) == 1
    # 0.9 ** 43 > 0.01: even the largest of 43 samples may lie below the true p90.
    assert upper_bound_rank(43, 0.9) is None
    assert upper_bound_rank(44, 0.9) == 0
    nothing = np.array([], dtype=np.int64)
    assert said(ValueError, summarise, nothing) == "latencies_ns: expected at least one sample, got none"
    summary = summarise(np.array([1000] * 99 + [10**9], dtype=np.int64))
    assert summary.max_us == 1e6
    assert summary.mean_us == pytest.approx((99 * 1 + 1e6) / 100)


@pytest.mark.parametrize(("count", "quantile"), [(64, 0.9), (500, 0.9), (700, 0.99), (900, 0.5), (3000, 0.95)])
def test_the_bound_follows_from_exact_binomial_sums(count, quantile):
    above = 1 - quantile

    def cumulative(rank):
        return sum(comb(count, j) * above**j * quantile ** (count - j) for j in range(rank + 1))

    rank = upper_bound_rank(count, quantile)
    assert cumulative(rank) <= 1 - CONFIDENCE < cumulative(rank + 1)


def test_the_bound_covers_the_true_percentile_as_often_as_it_says():
    samples = np.random.default_rng(0).exponential(1e6, size=(2000, 300)).astype(np.int64)
    true_p90_us = -np.log(0.1) * 1e3
    covered = np.mean([(percentile(row, 0.9).upper_us or 0.0) >= true_p90_us for row in samples])
    # 99 % by construction, slightly more because ranks are whole; 2000 draws have a standard error of 0.2 %.
    assert covered >= CONFIDENCE - 0.006
