from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_bench.measuring.timing import CONFIDENCE, QUANTILES, percentile, sample_floor, summarise, upper_bound_rank

LATENCIES = st.lists(st.integers(min_value=1, max_value=10**12), min_size=64, max_size=400)


@given(LATENCIES)
@settings(max_examples=40, deadline=None)
def test_percentiles_equal_numpys_on_the_raw_samples(latencies: list[int]) -> None:
    samples = np.array(latencies, dtype=np.int64)
    summary = summarise(samples)
    for quantile in (0.5, 0.9):
        assert summary.value_us(quantile) == pytest.approx(np.percentile(samples, 100 * quantile) / 1e3, rel=1e-12)
    assert summary.mean_us == pytest.approx(samples.mean() / 1e3, rel=1e-12)
    assert (summary.min_us, summary.max_us) == (samples.min() / 1e3, samples.max() / 1e3)
    assert summary.count == len(samples)


@given(LATENCIES)
@settings(max_examples=40, deadline=None)
def test_the_bound_is_one_of_the_samples_and_not_below_the_percentile(latencies: list[int]) -> None:
    found = percentile(np.array(latencies, dtype=np.int64), 0.9)
    assert found.upper_us is not None
    assert found.value_us is not None
    assert found.upper_us in {value / 1e3 for value in latencies}
    assert found.upper_us >= found.value_us


def test_below_its_floor_a_percentile_is_not_quoted() -> None:
    samples = np.arange(1, 664, dtype=np.int64)
    assert percentile(samples[:661], 0.99).value_us is None
    assert percentile(samples[:661], 0.99).upper_us is None
    assert percentile(samples[:662], 0.99).value_us is not None


def test_floors_are_those_of_the_mlperf_rules() -> None:
    floors = {quantile: sample_floor(quantile) for quantile in QUANTILES}
    assert floors == {0.5: 11, 0.9: 64, 0.95: 130, 0.99: 662, 0.999: 6636}


def test_at_the_floor_the_bound_is_the_second_largest_sample() -> None:
    for quantile in QUANTILES:
        assert upper_bound_rank(sample_floor(quantile), quantile) == 1


@pytest.mark.parametrize(("count", "quantile"), [(64, 0.9), (500, 0.9), (700, 0.99), (900, 0.5), (3000, 0.95)])
def test_the_bound_follows_from_exact_binomial_sums(count: int, quantile: float) -> None:
    above = 1 - quantile

    def cumulative(rank: int) -> float:
        return sum(comb(count, j) * above**j * quantile ** (count - j) for j in range(rank + 1))

    rank = upper_bound_rank(count, quantile)
    assert rank is not None
    assert cumulative(rank) <= 1 - CONFIDENCE < cumulative(rank + 1)


def test_too_few_samples_have_no_bound() -> None:
    # 0.9 ** 43 > 0.01: even the largest of 43 samples may lie below the true p90.
    assert upper_bound_rank(43, 0.9) is None
    assert upper_bound_rank(44, 0.9) == 0


def test_the_bound_covers_the_true_percentile_as_often_as_it_says() -> None:
    samples = np.random.default_rng(0).exponential(1e6, size=(2000, 300)).astype(np.int64)
    true_p90_us = -np.log(0.1) * 1e3
    covered = np.mean([(percentile(row, 0.9).upper_us or 0.0) >= true_p90_us for row in samples])
    # 99 % by construction, slightly more because ranks are whole; 2000 draws have a standard error of 0.2 %.
    assert covered >= CONFIDENCE - 0.006


def test_no_samples_are_an_error() -> None:
    with pytest.raises(ValueError) as caught:
        summarise(np.array([], dtype=np.int64))
    assert str(caught.value) == "latencies_ns: expected at least one sample, got none"


def test_an_outlier_stays_in_the_summary() -> None:
    summary = summarise(np.array([1000] * 99 + [10**9], dtype=np.int64))
    assert summary.max_us == 1e6
    assert summary.mean_us == pytest.approx((99 * 1 + 1e6) / 100)
