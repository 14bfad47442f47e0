"""Latency and input age: measured from outside, kept in bounded memory, told by `health` and to Prometheus."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge import ModalitySpec, Watched
from mmkd_edge.health.monitor import EDGES, SecondsHistogram
from mmkd_edge.health.prometheus import HealthCollector, metrics_text
from mmkd_edge.testing import fake_predictor

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=10.0, samples=20)
WINDOW = np.zeros((20, 2), dtype=np.float32)


def predictor():
    return fake_predictor([0.25, 0.75], modality=ACC, labels=("ok", "worn"))


def test_figures_are_those_of_the_measurements():
    histogram = SecondsHistogram()
    assert histogram.timing() is None
    for seconds in (0.001, 0.002, 0.004, -1.0):
        histogram.add(seconds)
    timing = histogram.timing()
    assert (timing.count, timing.max_s, timing.sum_s) == (4, 0.004, 0.007)
    assert timing.p50_s == pytest.approx(0.001, rel=0.1)
    assert timing.p99_s == pytest.approx(0.004, rel=0.1)
    # How many took at most so long: one below 10 us, two below 1.1 ms, all below 10 s.
    at_most = dict(zip(EDGES, timing.counts, strict=True))
    assert [at_most[min(EDGES, key=lambda edge: abs(edge - wanted))] for wanted in (1e-5, 1.2e-3, 10.0)] == [1, 2, 4]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(2e-5, 9e3), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_within_a_tenth_of_the_truth(seconds, share):
    histogram = SecondsHistogram()
    for one in seconds:
        histogram.add(one)
    timing = histogram.timing()
    told = {0.5: timing.p50_s, 0.9: timing.p90_s, 0.99: timing.p99_s}[share]
    # Half of a bin is 10 ** (1 / 24) = 1.1007 wide.
    assert told == pytest.approx(float(np.quantile(seconds, share, method="inverted_cdf")), rel=0.101)


def test_what_is_long_past_fades_and_nothing_grows():
    histogram = SecondsHistogram()
    size = len(histogram._all)
    for seconds in [1.0] * 1000 + [0.001] * 100_000:
        histogram.add(seconds)
    timing = histogram.timing()
    assert timing.p99_s == pytest.approx(0.001, rel=0.1)
    assert (timing.count, timing.max_s, len(histogram._all)) == (101_000, 1.0, size)


def test_a_watched_predictor_knows_its_latency_and_a_bare_one_none():
    bare = predictor()
    watched = Watched(bare)
    assert watched.health().latency is None
    for _ in range(5):
        assert watched.predict(WINDOW).label == "worn"
    found = watched.push(bare.stream(hop=10), np.zeros((60, 2)), 0.0, now_s=6.0)
    latency = watched.health().latency
    assert len(found) == 6
    assert latency.count == 6  # one call of push is one measurement, however many predictions it gives
    assert 0 < latency.p50_s <= latency.p99_s <= latency.max_s < 10
    assert latency.sum_s >= latency.max_s
    assert watched.push(bare.stream(hop=10), np.zeros((1, 2))) == []
    assert watched.health().latency == latency
    assert bare.health().latency is None


def test_ages_come_from_streams_and_from_who_asks():
    model = predictor()
    model.predict(WINDOW)
    assert model.health().input_age is None
    model.predict(WINDOW, input_age_s=0.25)
    # The windows end at 1.9 s and at 2.9 s, one second before the moments of their answers.
    stream = model.stream(hop=10)
    stream.push(np.zeros((20, 2)), 0.0, now_s=2.9)
    stream.push(np.zeros((10, 2)), 2.0, now_s=3.9)
    age = model.health().input_age
    assert (age.count, age.max_s) == (3, pytest.approx(1.0))
    assert age.sum_s == pytest.approx(0.25 + 1.0 + 1.0)


def test_prometheus_gets_both_as_histograms():
    watched = Watched(predictor())
    for _ in range(3):
        watched.predict(WINDOW, input_age_s=0.5)
    text = metrics_text(watched, name="press 1")
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    latency = watched.health().latency
    assert float(lines['mmkd_latency_seconds_count{predictor="press 1"}']) == 3
    assert float(lines['mmkd_latency_seconds_sum{predictor="press 1"}']) == latency.sum_s
    buckets = [f'mmkd_input_age_seconds_bucket{{le="{edge}",predictor="press 1"}}' for edge in ("0.464", "1.0", "+Inf")]
    assert [float(lines[bucket]) for bucket in buckets] == [0, 3, 3]
    # Three in each of nine decades, both ends, and everything.
    assert sum(line.startswith("mmkd_latency_seconds_bucket") for line in lines) == 29
    families = {one.name: one for one in HealthCollector({"bare": predictor()}).collect()}
    assert families["mmkd_latency_seconds"].samples == []
