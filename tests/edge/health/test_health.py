"""Counters, running statistics and drift; their text for Prometheus."""

import sys
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest

from mmkd_edge import EdgePredictor, ModalitySpec, TaskSpec, UnavailableError, UsageError
from mmkd_edge.health.prometheus import HealthCollector, metrics_text
from mmkd_edge.health.running import measure_statistics, stability_index
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_edge.testing import FakeBackend, fake_entry
from tests.edge.said import said

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=10.0, samples=50)
LABELS = ("low", "high")
TASK = TaskSpec(labels=LABELS)


def recorded(count, *, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal((1.0, -2.0), (1.0, 0.5), (count, 50, 2))).astype(np.float32)


def measure(windows, shares):
    return measure_statistics(*prepare_batch(windows, ACC), shares, task=TASK)


def answer(feeds):
    return [0.25, 0.75] if feeds["acc"][0, 0, 0] > 1.0 else [0.75, 0.25]


def predictor(*, reference=None, **options):
    entry = fake_entry(modality=ACC, labels=LABELS)
    if reference is not None:
        shares = np.array([answer({"acc": window[None]}) for window in reference], dtype=np.float32)
        entry = msgspec.structs.replace(entry, statistics=measure(reference, shares))
    return EdgePredictor.with_backend(entry, FakeBackend(answer), options=OpenOptions(**options))


def ask(model, windows):
    for window in windows:
        model.predict(window)
        model.backend.feeds.clear()


def test_statistics_are_those_of_the_values_that_are_there_and_their_index_is_the_sum_that_its_source_gives():
    found, expected = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    assert stability_index(found, expected) == pytest.approx(0.25 * np.log(2) + 0.25 * np.log(2))
    assert stability_index(expected, expected) == 0.0
    windows = recorded(30)
    windows[:3, :, 1] = np.nan
    found = measure(windows, np.tile(np.array([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]], np.float32), (10, 1)))
    channel = found.channels[1]
    values = windows[3:, :, 1].astype(np.float64)
    assert channel.mean == pytest.approx(values.mean(), abs=1e-9)
    assert channel.std == pytest.approx(values.std(), abs=1e-9)
    assert channel.missing_fraction == pytest.approx(0.1)
    assert len(channel.edges) == 9
    # Deciles of 1350 values: each bin holds a tenth, but for rounding to whole values.
    np.testing.assert_allclose(channel.fractions, 0.1, atol=2e-3)
    assert found.label_fractions == pytest.approx((1 / 3, 2 / 3))


def test_a_channel_of_few_values_has_few_bins_and_a_silent_one_none():
    windows = recorded(10)
    windows[:, :, 0] = np.random.default_rng(0).integers(0, 2, (10, 50))
    windows[:, :, 1] = np.nan
    found = measure(windows, np.full((10, 2), 0.5, np.float32))
    assert found.channels[0].edges == (0.0, 1.0)
    assert found.channels[0].fractions[0] == 0.0
    assert (found.channels[1].edges, found.channels[1].fractions) == ((), (1.0,))


def test_everything_that_is_given_is_counted_once():
    model = predictor(observe_every=7)
    ask(model, recorded(50))
    half = recorded(1)[0]
    half[:25] = np.nan
    model.predict(half)
    model.predict({"acc": None})
    model.stream(hop=25).push(recorded(2).reshape(-1, 2))
    health = model.health()
    assert health.predictions == {"ok": 53, "warming_up": 1, "degraded": 1, "unknown": 0, "stale": 0, "invalid": 1}
    assert health == model.health()


def test_threads_lose_no_count():
    model = predictor(observe_every=3)
    windows = recorded(20)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: ask(model, np.tile(windows, (10, 1, 1))), range(6)))
    assert model.health().predictions["ok"] == 1200
    # Threads may note at the same moment that a look is due.
    assert 390 <= model.health().models[0].windows_observed <= 450


def test_old_windows_fade_and_inputs_like_the_reference_do_not_drift(monkeypatch):
    model = predictor(reference=recorded(200), observe_every=1)
    ask(model, recorded(300, seed=1))
    health = model.health()
    (found,) = health.models
    assert health.drifting == ()
    assert all(channel.psi is not None and channel.psi < 0.02 for channel in found.channels)
    assert sum(found.label_fractions.values()) == pytest.approx(1.0)
    assert found.label_psi < 0.1
    monkeypatch.setattr("mmkd_edge.health.running._MAX_WINDOWS", 200)
    ask(model, recorded(1000, seed=1))
    ask(model, recorded(200, seed=2) + np.float32(2))
    (found,) = model.health().models
    assert found.windows_observed <= 200
    assert found.channels[0].psi > 0.25


def test_too_little_says_nothing_yet_and_missing_values_are_counted_and_not_compared():
    assert predictor(observe_every=1).health().models[0].channels[0].psi is None
    windows = recorded(100, seed=1)
    windows[:, :25, 0] = np.nan
    model = predictor(reference=recorded(200), observe_every=1)
    ask(model, windows[:49])
    (found,) = model.health().models
    assert ([channel.psi for channel in found.channels], found.label_psi) == ([None, None], None)
    ask(model, windows[49:])
    channel = model.health().models[0].channels[0]
    assert channel.missing_fraction == pytest.approx(0.5)
    assert channel.psi < 0.05


def test_nothing_is_looked_at_when_nobody_asked():
    model = predictor(reference=recorded(200), observe_every=0)
    ask(model, recorded(100))
    assert model.health().models[0].windows_observed == 0
    told = "observe_every: expected a whole number from 0 to 1073741824, got -1"
    assert said(UsageError, predictor, observe_every=-1) == told


def test_the_text_for_prometheus_has_every_figure():
    model = predictor(reference=recorded(200), observe_every=1)
    ask(model, recorded(250, seed=1))
    text = metrics_text(model, name="press 1")
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    health = model.health()
    assert float(lines['mmkd_predictions_total{predictor="press 1",status="ok"}']) == 250
    assert float(lines['mmkd_backend_failures_total{predictor="press 1"}']) == 0
    (found,) = health.models
    assert float(lines['mmkd_input_psi{channel="y",model="acc",predictor="press 1"}']) == found.channels[1].psi
    assert float(lines['mmkd_answer_psi{model="acc",predictor="press 1"}']) == found.label_psi
    share = lines['mmkd_answer_ratio{label="high",model="acc",predictor="press 1"}']
    assert float(share) == found.label_fractions["high"]


def test_without_the_library_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    told = "metrics need prometheus-client, which is not installed; install it with pip install 'mmkd-edge[metrics]'"
    assert said(UnavailableError, HealthCollector, {}) == told
