"""What a window that fails in part is called, by every policy and in every precision."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge import EdgePredictor, ModalitySpec, SensorChecks, SensorError, UsageError
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.predict.preprocess import prepare
from mmkd_edge.predict.sensors import WindowFault, find_fault, worse
from mmkd_edge.testing import fake_predictor
from tests.edge.said import said

ACC = ModalitySpec(name="acc", channels=("x", "y", "z"), rate_hz=10.0, samples=40, range=(-16.0, 16.0))
LABELS = ("a", "b")


def window(seed=0):
    return np.random.default_rng(seed).normal(size=(40, 3)).astype(np.float32)


def judged(values, **options):
    return fake_predictor([0.25, 0.75], modality=ACC, labels=LABELS, **options).predict(values)


def test_absent_values_are_told_and_nothing_else_is_looked_for():
    values = window()
    values[:5] = np.inf
    values[5:10, 0] = 20.0
    values[10:14, 1] = np.nan
    assert judged(values).reason == "20.0% of the values are missing: 15 infinite, 5 outside -16 to 16"
    assert judged(np.full((40, 3), 99.0)).reason == "all values are missing: 120 outside -16 to 16"
    prediction = judged({"acc": None})
    assert (prediction.status, prediction.reason) == ("invalid", "modality 'acc' is absent")
    assert (prediction.label, prediction.missing_fraction) == ("", 1.0)
    assert judged(np.ones((40, 3))).status == "ok"
    assert judged(np.ones((40, 3)), checks=SensorChecks()).status == "ok"


def test_a_flat_channel_degrades_and_a_flat_sensor_is_dead():
    values = window()
    values[:, 1] = 2.5
    values[3, 1] = np.nan
    checks = SensorChecks(flat=True)
    assert judged(values, checks=checks).reason == "channel 'y' is flat at 2.5"
    dead = judged(np.full((40, 3), 9.81), checks=checks)
    assert (dead.status, dead.label, dead.reason) == ("invalid", "", "every channel is flat: the sensor is dead")
    assert judged(window(), checks=checks).status == "ok"


@pytest.mark.parametrize(("length", "status"), [(9, "ok"), (10, "degraded")])
@pytest.mark.parametrize("start", [0, 13, 30])
def test_a_channel_is_stuck_after_the_time_that_was_set(length, status, start):
    values = window()
    values[start : start + length, 2] = values[start, 2]
    prediction = judged(values, checks=SensorChecks(stuck_s=1.0))
    assert prediction.status == status
    assert prediction.reason == ("" if status == "ok" else "channel 'z' repeated one value for 1 s")


DURATION = "expected more than one sample and at most one window of 'acc', 0.1 to 4 s; got"


@pytest.mark.parametrize(
    ("checks", "fault"),
    [
        ("flat", "checks: expected a SensorChecks, got 'flat'; write checks=SensorChecks(flat=True)"),
        (True, "checks: expected a SensorChecks, got True; write checks=SensorChecks(flat=True)"),
        ({"flat": "yes"}, "flat: expected True or False, got 'yes'; write flat=True to look for it"),
        ({"stuck_s": 5.0}, f"stuck_s: {DURATION} 5.0"),
        ({"stuck_s": "yes"}, f"stuck_s: {DURATION} 'yes'"),
    ],
)
def test_checks_that_no_window_can_have_are_refused(checks, fault):
    checks = SensorChecks(**checks) if isinstance(checks, dict) else checks
    assert said(UsageError, lambda: judged(window(), checks=checks)) == fault


def test_a_policy_abstains_raises_or_is_refused():
    values = window()
    values[:20] = np.nan
    prediction = judged(values, policy="abstain")
    assert (prediction.status, prediction.label, prediction.index) == ("degraded", "", -1)
    assert prediction.probabilities.tolist() == [0.0, 0.0]
    assert judged(window(), policy="abstain").label == "b"
    with pytest.raises(SensorError, match=r"\Amodality 'acc': degraded: 50\.0% of the values are missing\Z") as caught:
        judged(values, policy="raise")
    assert caught.value.predictions[0].label == "b"
    assert judged(window(), policy="raise").status == "ok"
    told = "policy: expected 'predict', 'abstain' or 'raise', got 'hope'; choose one of them"
    assert said(UsageError, lambda: judged(window(), policy="hope")) == told
    degraded, stale = WindowFault(status="degraded", reason="one"), WindowFault(status="stale", reason="two")
    assert worse(degraded, stale) == worse(stale, degraded) == WindowFault(status="stale", reason="two; one")
    assert worse(None, degraded) is degraded
    assert worse(degraded, None) is degraded


@pytest.mark.parametrize(
    ("age_s", "status", "reason"),
    [
        (0.5, "ok", ""),
        (-0.5, "ok", ""),  # clocks never agree wholly
        (2.0, "stale", "the newest sample is 2 s old"),
        (-3600.0, "stale", "the newest sample is 3.6e+03 s in the future: the clocks disagree"),
    ],
)
def test_an_input_that_is_old_or_as_far_in_the_future_is_stale(age_s, status, reason):
    fake = fake_predictor([0.25, 0.75], modality=ACC, labels=LABELS)
    model = EdgePredictor.with_backend(fake.entry, fake.backend, options=OpenOptions(stale_s=1.0))
    found = model.predict(window(), input_age_s=age_s)
    assert (found.status, found.reason, found.input_age_s, found.label) == (status, reason, age_s, "b")


@pytest.mark.parametrize("value", [float("nan"), "soon", True, np.float32("nan")])
def test_ages_and_moments_that_nothing_compares_with_are_refused(value):
    model = fake_predictor([0.25, 0.75], modality=ACC, labels=LABELS)
    told = f"deadline_s: expected a moment of time.monotonic(), or None; got {value!r}"
    assert said(UsageError, lambda: model.predict(window(), deadline_s=value)) == told
    told = f"input_age_s: expected seconds, or None; got {value!r}"
    assert said(UsageError, lambda: model.predict(window(), input_age_s=value)) == told
    stream = model.stream(hop=1)
    for call in (
        lambda: stream.push(window(), 0.0, now_s=value),
        lambda: stream.flush(now_s=value),
        lambda: stream.latest(value),
    ):
        assert said(UsageError, call) == f"now_s: expected seconds, or None; got {value!r}"


def test_an_answer_after_the_deadline_is_stale_and_a_passed_one_spares_the_engine():
    deadline_s = time.monotonic() + 60

    def answer(feeds):
        clock.setattr("time.monotonic", lambda: deadline_s + 1)  # the answer took so long
        return [1.0, 0.0]

    model = fake_predictor(answer, modality=ACC, labels=LABELS)
    with pytest.MonkeyPatch.context() as clock:
        passed = model.predict(window(), deadline_s=0.0)
        assert (passed.status, passed.label) == ("stale", "")
        assert passed.reason == "the deadline passed before the engine was asked"
        assert model.backend.feeds == []
        late = model.predict(window(), deadline_s=deadline_s)
        assert (late.status, late.label, late.reason) == ("stale", "a", "the answer came after the deadline")
        assert model.predict(window(), deadline_s=float("inf")).status == "ok"


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 39), st.integers(1, 40)), max_size=4),
    st.sampled_from([0.2, 0.3, 0.7, 1.5, 4.0, None]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_window_without_gaps_is_judged_alike_the_short_way_and_the_long_one(seed, runs, stuck_s, flat):
    values = np.random.default_rng(seed).integers(0, 3, size=(40, 3)).astype(np.float32)  # many chance repetitions
    for channel, start, length in runs:
        values[start : start + length, channel] = 1.5
    checks = SensorChecks(flat=flat, stuck_s=stuck_s)
    _, present = prepare(values, ACC)
    assert present is prepare(window(), ACC)[1]
    # Presence that is not the shared array of a whole window takes the long way.
    assert find_fault(values, present, ACC, checks) == find_fault(values, present.copy(), ACC, checks)
