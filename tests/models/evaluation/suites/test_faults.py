"""Faults of sensors: each by hand, the same for every model, and what they cost beside labels only."""

import numpy as np
import pytest

from mmkd_models.evaluation.faults import FAULTS, NAMES, SEVERITIES, FaultedChannels, hit_channels
from mmkd_models.evaluation.suites.faults import judge_faults, sensors_of, with_fault
from tests.models.judging_rig import suite_inputs, under_test

SENSOR = FaultedChannels(mean=np.array([1.0]), std=np.array([2.0]), rate_hz=200.0)
RAMP = np.arange(10.0)[:, None]


def broken(name, severity, x=RAMP, sensor=SENSOR, seed=0):
    return FAULTS[name].apply(x, sensor, severity, np.random.default_rng(seed))


SAMPLED = [name for name in NAMES if "video" not in FAULTS[name].kinds]


@pytest.mark.parametrize("name", SAMPLED)
def test_a_fault_leaves_its_argument_alone_and_is_the_same_again(name):
    x = np.random.default_rng(1).normal(size=(20, FAULTS[name].channels))
    sensor = FaultedChannels(mean=np.zeros(x.shape[1]), std=np.ones(x.shape[1]), rate_hz=100.0)
    before = x.copy()
    first = broken(name, 1.0, x, sensor)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(first, broken(name, 1.0, x, sensor))
    assert not np.array_equal(first, x, equal_nan=True)


@pytest.mark.parametrize(
    "name", [name for name in SAMPLED if name not in ("gap", "lost channel", "stuck", "time shift")]
)
def test_what_is_missing_stays_missing(name):
    x = np.full((20, 2), np.nan)
    assert np.isnan(broken(name, 1.0, x, FaultedChannels(mean=np.zeros(2), std=np.ones(2), rate_hz=100.0))).all()


def test_faults_have_the_sizes_that_severity_says():
    assert set(np.abs(broken("offset", 1.0) - RAMP).ravel()) == {0.75 * 2}
    np.testing.assert_allclose(np.abs(broken("drift", 0.5) - RAMP).ravel(), np.linspace(0, 1.0, 10))
    assert sorted(np.abs(broken("spike", 1.0) - RAMP).ravel())[-2:] == [0.0, 15.0]
    long = np.zeros((40_000, 1))
    assert abs(broken("noise", 0.5, long).std() - 1.0) < 0.02  # 40,000 draws: a standard error of 0.4 %
    second = np.zeros((200, 1))  # of a sensor of 200 Hz: line k of its spectrum is k Hz
    spectra = [np.abs(np.fft.rfft(broken("hum", 1.0, second, seed=seed)[:, 0])) for seed in range(20)]
    assert {int(spectrum.argmax()) for spectrum in spectra} == {50, 60}
    for spectrum in spectra:
        assert spectrum.max() == pytest.approx(2.0 * 200 / 2)  # a sine of two standard deviations, and nothing else
        assert sorted(spectrum)[-2] == pytest.approx(0.0, abs=1e-9)
    x = np.array([[-3.0], [1.0], [5.0]])
    assert broken("gain up", 1.0, x).ravel().tolist() == [-7, 1, 9]
    assert broken("gain down", 1.0, x).ravel().tolist() == [0, 1, 2]
    assert broken("clipping", 1.0, x).ravel().tolist() == [-1, 1, 3]
    assert broken("clipping", 0.5, x).ravel().tolist() == [-3, 1, 5]
    assert broken("stuck", 0.4).ravel().tolist() == [0, 1, 2, 3, 4, 5, 5, 5, 5, 5]
    assert np.isnan(broken("gap", 1.0)).sum() == 5
    assert np.isnan(broken("lost channel", 0.3)).ravel().tolist() == [False] * 7 + [True] * 3
    np.testing.assert_array_equal(broken("time shift", 0.4).ravel(), [np.nan, np.nan, 0, 1, 2, 3, 4, 5, 6, 7])


def test_clocks_converters_and_broken_channels_by_hand():
    x = np.arange(9.0)[:, None]
    np.testing.assert_allclose(broken("time stretch", 1.0, x).ravel(), 4 + (np.arange(9) - 4) / 5)
    rates = {float(np.nanmean(np.diff(broken("sample rate", 1.0, x, seed=seed).ravel()))) for seed in range(8)}
    np.testing.assert_allclose(sorted(rates)[0], 0.9)
    np.testing.assert_allclose(sorted(rates)[-1], 1.1)
    found = broken("quantisation", 1.0, np.linspace(-8, 10, 200)[:, None])
    assert np.unique(np.diff(np.unique(found))).tolist() == [3.0]  # 2 x 3 x 2 over 4
    rng = np.random.default_rng(0)
    counts = {n: {len(hit_channels(FAULTS["noise"], n, rng)) for _ in range(9)} for n in (1, 2, 3, 6)}
    assert counts == {1: {1}, 2: {1}, 3: {1}, 6: {3}}
    assert len(hit_channels(FAULTS["channel swap"], 3, rng)) == 2


def test_a_window_has_the_same_fault_in_every_subset(machines):
    test = machines.split("test")
    sensors = sensors_of(machines.split("train"), ["acc"])
    whole = with_fault(test, "noise", 0.6, seed=3, sensors=sensors).take([5])
    part = with_fault(test.subset(np.array([5, 7])), "noise", 0.6, seed=3, sensors=sensors).take([0])
    np.testing.assert_array_equal(whole["acc"], part["acc"])
    np.testing.assert_array_equal(whole["gyro"], test.take([5])["gyro"])
    changed = ~np.isclose(whole["acc"], test.take([5])["acc"], equal_nan=True)
    assert changed.any(axis=1).sum() == 1  # of two channels one is hit
    other = with_fault(test, "noise", 0.6, seed=4, sensors=sensors).take([5])
    assert not np.array_equal(whole["acc"], other["acc"], equal_nan=True)


def model(name, right):
    """Answers the class that its mean level says, always right on the windows named."""

    def ask(windows):
        answers = np.zeros((len(windows), 3))
        answers[np.arange(len(windows)), windows.labels] = np.isin(np.arange(len(windows)), right)
        answers[:, 2] += 0.5
        return answers

    return under_test(name, ask)


def test_error_is_relative_to_that_of_the_baseline(machines):
    ours, theirs = model("ours", range(12)), model("labels", [])
    found = judge_faults(suite_inputs(machines, ours, theirs))
    assert found.intact == {"ours": 0.0, "labels": pytest.approx(2 / 3)}  # it always says the third class
    (noise,) = [one for one in found.faults if one.name == "noise"]
    assert noise.errors == {"ours": (0.0,) * 5, "labels": (pytest.approx(2 / 3),) * 5}
    assert noise.relative == {"ours": 0.0}
    relative = found.relative["ours"]
    assert (relative.mean, relative.low) == (0.0, None)  # two groups are too few
    assert (found.severities, len(found.faults)) == (SEVERITIES, 16)


@pytest.mark.parametrize(("kind", "measure"), [("regression", "rmse"), ("multi_label", "macro_f1")])
def test_numbers_and_several_labels_have_errors_of_their_own(kind, measure, rigs):
    rig = rigs[kind]

    def ask(windows):
        truth = windows.labels.reshape(len(windows), -1).astype(np.float64)
        return truth + 30.0 if kind == "regression" else 20 * truth - 10

    found = judge_faults(suite_inputs(rig, under_test("ours", ask)))
    assert found.measure == measure
    assert found.intact["ours"] == pytest.approx(30.0 if kind == "regression" else 0.0)
    assert found.relative == {}
