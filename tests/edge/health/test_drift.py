"""The verdict on inputs: against the spread between the training's groups, and by what the student bears."""

import msgspec
import numpy as np
import pytest

from mmkd_edge import EdgePredictor, ModalitySpec
from mmkd_edge.bundle.statistics import GroupReference
from mmkd_edge.health.drift import Drift, DriftWatch, level_changes, rearrangements, window_features
from mmkd_edge.health.prometheus import metrics_text
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.testing import FakeBackend, fake_entry

NAMES = ("ax", "ay", "az")
UNEXPLAINED = "windows unlike any of the training, and no offset, gain or order of the channels explains it"
LEVELS, SCALES = np.array([0.0, 1.0, -0.5]), np.array([1.0, 0.5, 0.25])

# One kind of windows, as of a wrist: levels of 0, 1 and -0.5, scales of 1, 0.5 and 0.25, ax and ay correlated by one
# half, and everything with a spread of 0.1. A perfect fit is 9 ln 10 nats; 8 nats less are still inside.
REFERENCE = GroupReference(
    between="groups",
    groups=8,
    windows=800,
    fewest_windows=4,
    false_alarm_rate=1 / 9,
    scales=tuple(SCALES.tolist()),
    centres=((*LEVELS.tolist(), *np.log(SCALES).tolist(), float(np.arctanh(0.475)), 0.0, 0.0),),
    spreads=((0.1,) * 9,),
    largest_misfit=8.0 - 9 * float(np.log(10)),
    largest_axes=5.0,
    largest_levels=5.0,
)


def window(*, coupled=0.0):
    """(24, 3) with exactly the features of the centre, but for the correlation of ay and az."""
    turn = 2 * np.pi * np.arange(24) / 24
    first, second, third = (np.sqrt(2) * np.cos(n * turn) for n in (1, 2, 3))  # orthogonal, of mean 0 and variance 1
    mixed = 0.5 * first + np.sqrt(0.75) * second
    third = coupled * mixed + np.sqrt(1 - coupled**2) * third
    return (LEVELS + SCALES * np.stack([first, mixed, third], axis=1)).astype(np.float32)


def judged(one, *, reference=REFERENCE, count=4):
    watch = DriftWatch(reference, names=NAMES, unit="g")
    for _ in range(count):
        watch.add(np.nan_to_num(one), np.isfinite(one))
    return watch.judge(watch.due())


def test_features_are_level_scale_and_correlation_of_the_values_that_are_there():
    found = window_features(np.array([[0, 4], [2, 0]], np.float32), np.ones((2, 2), dtype=bool))
    assert found == pytest.approx([1.0, 2.0, np.log(1.0), np.log(2.0), np.arctanh(-0.95)])
    there = np.array([[True, True], [True, False], [True, True]])
    level, other, scale, other_scale, _ = window_features(np.array([[0, 10], [6, 999], [3, 30]], np.float32), there)
    assert (level, other, other_scale) == pytest.approx((3.0, 20.0, np.log(10.0)))
    assert scale == pytest.approx(np.log(np.sqrt(6.0)))


def test_without_values_windows_or_limits_there_is_no_verdict():
    one = window()
    one[:, 1] = np.nan
    assert judged(one).verdict == "as_trained"
    drift = judged(100 * window(), count=3)
    assert (drift.verdict, drift.reason) == ("too_few_windows", "3 of at least 4 windows observed")
    assert drift.distance is None
    drift = judged(100 * window(), reference=None)
    assert drift.verdict == "no_reference"
    assert drift.reason == (
        "the bundle says nothing of the spread between people or machines; train the student again, or export its "
        "checkpoint with --drift-reference"
    )


@pytest.mark.parametrize(("channels", "turns", "changes"), [(1, 1, 20), (2, 7, 60), (3, 47, 80), (7, 0, 20)])
def test_axes_may_be_exchanged_and_turned_and_each_have_an_offset_or_a_gain(channels, turns, changes):
    orders, signs = rearrangements(channels)
    assert orders.shape == signs.shape == (turns, channels)
    assert not ((orders == np.arange(channels)) & (signs > 0)).all(axis=1).any()
    offsets, gains = level_changes(channels)
    assert offsets.shape == gains.shape == (changes, channels)
    assert not ((offsets != 0) & (gains != 0)).any()


def test_the_distance_says_how_far_a_limit_is_passed_and_people_are_as_trained():
    assert judged(window()) == Drift(
        verdict="as_trained",
        reason="inside the spread between the training's 8 groups",
        windows=4,
        distance=0.0,
        false_alarm_rate=1 / 9,
    )
    assert judged(window() + np.array([0.2, 0, 0], np.float32)).verdict == "as_trained"
    # 0.45 from the centre are 4.5 spreads: 10.125 nats, where 8 are inside; without an offset of 0.5 it is 0.125.
    drift = judged(window() + np.array([0.45, 0, 0], np.float32))
    assert drift.distance == pytest.approx(1 + 10.125 - 8, abs=1e-3)


@pytest.mark.parametrize(
    ("changed", "reason", "channels"),
    [
        (window()[:, [0, 2, 1]], "axes look swapped or turned: ay = az, az = ay would fit", ("ay", "az")),
        (window()[:, [1, 2, 0]], "axes look swapped or turned: ax = az, ay = ax, az = ay would fit", NAMES),
        (window() * np.array([1, -1, 1]), "axes look swapped or turned: ay = -ay would fit", ("ay",)),
        (window() * np.array([1, 1, 0]), "az: no signal, or next to none", ("az",)),
        (window(coupled=0.8), UNEXPLAINED, NAMES),
        (window() + np.array([0, 0.8, 0]), "about ay +1 g", ("ay",)),
        (window() * np.array([9.81, 9.81, 9.81]), "about ax times 10, ay times 10, az times 10", NAMES),
    ],
    ids=["swapped", "in a ring", "turned", "dead", "other motion", "offset", "unit"],
)
def test_what_does_harm_drifts_and_is_named(changed, reason, channels):
    drift = judged(changed.astype(np.float32))
    assert (drift.verdict, drift.reason, drift.channels) == ("drifting", reason, channels)


def test_a_drift_is_seen_however_long_all_was_well_and_passes_again():
    watch = DriftWatch(REFERENCE, names=NAMES, unit="g")
    there = np.ones((24, 3), dtype=bool)
    for _ in range(300):
        watch.add(window(), there)
    for swapped in (True, False):
        for _ in range(8):
            watch.add(window()[:, [0, 2, 1]] if swapped else window(), there)
        drift = watch.judge(watch.due())
        assert (drift.verdict, drift.windows) == ("drifting" if swapped else "as_trained", 8)
    watch, found = DriftWatch(msgspec.structs.replace(REFERENCE, fewest_windows=20), names=NAMES, unit="g"), []
    for _ in range(24):  # the verdict is taken again once a tenth of the windows is new
        watch.add(window(), there)
        found.append(watch.verdict(watch.due()).windows)
    assert found == [*range(1, 21), 20, 22, 22, 24]


@pytest.mark.parametrize(("cause", "reason"), [("gain", "inputs drift: worn"), ("dead", ""), ("axes", "")])
def test_a_drift_without_a_faulty_sensor_asks_for_adaptation(cause, reason):
    assert Drift(verdict="drifting", reason="worn", cause=cause).adaptation_reason == reason
    assert Drift(verdict="as_trained", reason="worn").adaptation_reason == ""


def test_health_and_prometheus_name_the_drift():
    modality = ModalitySpec(name="acc", channels=NAMES, rate_hz=10.0, samples=24, unit="g")
    entry = fake_entry(modality=modality, labels=("low", "high"))
    entry = msgspec.structs.replace(entry, group_reference=REFERENCE)
    model = EdgePredictor.with_backend(entry, FakeBackend([0.25, 0.75]), options=OpenOptions(observe_every=1))
    for _ in range(8):
        model.predict(window()[:, [0, 2, 1]])
    health = model.health()
    assert (health.drifting, health.adaptation_due) == (("acc/ay", "acc/az"), ())
    lines = dict(line.rsplit(" ", 1) for line in metrics_text(model).splitlines() if not line.startswith("#"))
    series = 'mmkd_input_drift{model="acc",predictor="mmkd",verdict="%s"}'
    assert (lines[series % "drifting"], lines[series % "as_trained"]) == ("1.0", "0.0")
    distance = lines['mmkd_input_drift_distance{model="acc",predictor="mmkd"}']
    assert float(distance) == health.models[0].drift.distance
