"""Novelty: p-values by hand, the status `unknown`, and bundles that have none."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_edge import EdgePredictor, ModalitySpec, UsageError, example_bundle
from mmkd_edge.bundle.manifest import Novelty
from mmkd_edge.bundle.statistics import MagnitudeLimits
from mmkd_edge.predict.novelty import NoveltyRule, magnitude_fault, novelty_rule, smallest_level
from mmkd_edge.predict.postprocess import SensorError
from mmkd_edge.testing import fake_entry, fake_predictor
from tests.edge.said import said

pytestmark = pytest.mark.usefixtures("quick_openings")

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=10.0, samples=4)
LABELS = ("ok", "worn")
FOUR = Novelty(scores=(0.5, 1.0, 1.0, 3.0), max_error=0.0, tolerance=1e-3)
WINDOW = np.zeros((4, 2))


@pytest.mark.parametrize(
    ("score", "expected"),
    [(0.0, 1.0), (0.5, 1.0), (0.7, 0.8), (1.0, 0.8), (2.0, 0.4), (3.0, 0.4), (9.0, 0.2), (np.inf, 0.2), (np.nan, 0.2)],
)
def test_a_p_value_counts_the_validation_windows_that_are_as_far_out(score, expected):
    assert NoveltyRule(calibration=FOUR).p_value(score) == pytest.approx(expected)


def test_of_windows_like_those_of_the_validation_at_most_the_level_is_unknown():
    rng, level = np.random.default_rng(0), 0.05
    unknown = []
    for _ in range(400):
        scores = np.sort(rng.exponential(size=99))
        rule = NoveltyRule(calibration=msgspec.structs.replace(FOUR, scores=tuple(scores)), unknown_level=level)
        unknown += [rule.p_value(score) <= level for score in rng.exponential(size=20)]
    # The share is 0.05 in expectation; 400 calibrations of 20 windows each have a standard error of about 0.0027.
    assert np.mean(unknown) == pytest.approx(level, abs=0.01)


UNLIKE = "unlike what training saw: p-value 0.5, at most 0.5 is unknown"


@pytest.mark.parametrize(
    ("score", "window", "expected"),
    [
        (2.0, WINDOW, ("unknown", 0.5, "worn", UNLIKE)),
        (0.5, WINDOW, ("ok", 1.0, "worn", "")),
        (2.0, np.array([[0.0, np.nan]] * 4), ("unknown", 0.5, "worn", f"{UNLIKE}; channel 'y' is missing")),
        (2.0, np.full((4, 2), np.nan), ("invalid", None, "", f"all values are missing; {UNLIKE}")),
    ],
)
def test_a_window_unlike_training_is_unknown(score, window, expected):
    found = fake_predictor([0.1, 0.9], modality=ACC, labels=LABELS, novelty=score).predict(window)
    assert (found.status, found.novelty, found.label, found.reason) == expected


def test_the_policy_and_the_level_decide_on_an_unknown_answer():
    held = fake_predictor([0, 1], modality=ACC, labels=LABELS, novelty=2.0, policy="abstain").predict(WINDOW)
    assert (held.status, held.label, held.index, held.novelty) == ("unknown", "", -1, 0.5)
    with pytest.raises(SensorError, match=r"\Amodality 'acc': unknown: unlike what training saw: p-value 0\.5"):
        fake_predictor([0, 1], modality=ACC, labels=LABELS, novelty=2.0, policy="raise").predict(WINDOW)
    path = Path(__file__).parents[2] / "files" / "student.edge"
    with EdgePredictor.open(path, backend="ort") as predictor:
        assert not predictor.entry.has_novelty
        assert predictor.predict(np.zeros(predictor.modality.shape, dtype=np.float32)).novelty is None
    place = "'acc/model.fp32.onnx': unknown_level=0.01"
    lacks = "got one without; train and export it again, or open without unknown_level"
    told = said(UsageError, EdgePredictor.open, path, backend="ort", unknown_level=0.01)
    assert told == f"{path}: {place}: expected a student with novelty, {lacks}"
    few = "because 4 windows calibrated it; choose a higher level, or validate on more windows"
    entry = entry_with(FOUR)
    told = said(UsageError, novelty_rule, entry, entry.artifacts[0], 0.01, where="press.edge")
    assert told == f"press.edge: {place}: expected 0.2 or more, {few}"
    assert smallest_level(len(FOUR.scores)) == 0.2
    assert novelty_rule(entry, entry.artifacts[0], 0.2) == NoveltyRule(calibration=FOUR, unknown_level=0.2)


def entry_with(novelty):
    entry = fake_entry(modality=ACC, labels=LABELS, novelty=True)
    artifact = msgspec.structs.replace(entry.artifacts[0], novelty=novelty)
    return msgspec.structs.replace(entry, artifacts=(artifact,))


LIMITS = MagnitudeLimits(usual=(1.0, 2.0), lowest=0.25, highest=4.0, outside_rate=0.0)


def fault_of(window):
    values = np.array([window], dtype=np.float32)
    present = np.isfinite(values).astype(np.float32)
    fault = magnitude_fault(LIMITS, np.where(present > 0, values, np.float32(0)), present, modality="acc")
    return "" if fault is None else f"{fault.status}: {fault.reason}"


@pytest.mark.parametrize(
    ("window", "times"),
    [
        ([[1.0, 2.0]] * 4, None),
        ([[-4.0, 8.0]] * 4, None),
        ([[8.0, 16.0]] * 4, "8"),
        ([[0.125, 0.25]] * 4, "0.125"),
        ([[0.0, 0.0]] * 4, "0"),
        ([[np.nan, 16.0]] * 4, "8"),  # of what is there
        ([[np.nan, np.nan]] * 4, None),
        ([[1.0, 2.0]] * 3 + [[1.0, 1e38]], "1.77e+37"),  # 1e38 / 2 / sqrt(4 rows) / sqrt(2 channels)
    ],
)
def test_a_wrong_unit_is_seen_by_the_magnitude_of_all_channels(window, times):
    expected = (
        f"unknown: acc has {times} times its usual size in training, expected 0.25 to 4 times; check its unit and scale"
    )
    assert fault_of(window) == ("" if times is None else expected)


@pytest.mark.parametrize(("factor", "times"), [(101.97, "109"), (1 / 8, "0.134")])
def test_the_shipped_bundle_says_that_its_unit_is_wrong(factor, times):
    with EdgePredictor.open(example_bundle(), backend="ort") as predictor:
        windows = predictor.bundle.golden("acc").windows[:120]
        assert {predictor.predict(window).status for window in windows[:40]} == {"ok"}
        found = [predictor.predict(window * np.float32(factor)) for window in windows]
        health = predictor.health()
    assert {one.status for one in found} == {"unknown"}
    told = f"acc has {times} times its usual size in training, expected 0.25 to 3.3 times; check its unit and scale"
    assert found[0].reason == told
    assert found[0].label  # the answer is there
    told = "100 of the last 100 windows are far from the training data; check unit and scale of acc"
    assert health.unlike_training == told


def test_one_value_that_cannot_be_is_never_ok_and_one_that_is_missing_may_be():
    with EdgePredictor.open(example_bundle(), backend="ort") as predictor:
        windows = np.repeat(predictor.bundle.golden("acc").windows[:1], 3, axis=0)
        windows[:, 77, 1] = np.nan, np.inf, 500.0  # inside of the range, 880 g
        statuses = [predictor.predict(window).status for window in windows]
    assert statuses == ["ok", "ok", "unknown"]
