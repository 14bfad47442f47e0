"""Limits from the training's groups: what they find, and how rarely they are wrong on people never seen."""

import numpy as np
import pytest

from mmkd_edge.health.drift import ROWS, DriftWatch, window_features
from mmkd_edge.predict.novelty import channel_magnitudes, magnitude
from mmkd_models.data import open_dataset, shipped_dataset
from mmkd_models.training.references import fit_reference, group_reference, magnitude_limits

NAMES = ("ax", "ay", "az")


@pytest.fixture(scope="module")
def people():
    """The accelerometer's windows of each of ten people."""
    everything = open_dataset(shipped_dataset()).everything()
    rows = {int(person): np.flatnonzero(everything.groups == person) for person in np.unique(everything.groups)}
    return {person: everything.take(found)["acc"] for person, found in rows.items()}


@pytest.fixture(scope="module")
def references(people):
    """Each from eight people, and the two whom it does not know."""
    features = {person: features_of(windows) for person, windows in people.items()}
    found = []
    for out in ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10)):
        known = [features[person] for person in people if person not in out]
        found.append((fit_reference(known, channels=3, between="groups"), out))
    return found


def features_of(windows):
    step = max(1, windows.shape[1] // ROWS)
    rows, there = windows[:, ::step], np.isfinite(windows[:, ::step])
    return np.array([window_features(one, present) for one, present in zip(rows, there, strict=True)])


def judged(reference, windows):
    return DriftWatch(reference, names=NAMES, unit="g").judge(features_of(windows))


def test_people_never_seen_are_as_trained_whatever_they_do(people, references):
    verdicts = [judged(reference, people[person]).verdict for reference, out in references for person in out]
    assert verdicts.count("as_trained") >= 9  # of ten, at a rate of one in nine
    # A hundred windows in a row are three of the seven exercises.
    rows = [judged(reference, people[person][:100]).verdict for reference, out in references for person in out]
    assert rows.count("as_trained") >= 9


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (lambda x: x[:, :, [1, 0, 2]], "axes"),
        (lambda x: x[:, :, [2, 1, 0]], "axes"),
        (lambda x: x[:, :, [0, 2, 1]], "axes"),
        (lambda x: x * np.array([1, 0, 1], np.float32), "dead"),
        (lambda x: x + np.array([0, 0, 1], np.float32), "offset"),
        (lambda x: x * np.float32(9.81), "gain"),
    ],
    ids=["x and y swapped", "x and z swapped", "y and z swapped", "y dead", "offset of z", "another unit"],
)
def test_what_is_wrong_is_found_and_named(people, references, fault, cause):
    found = [judged(reference, fault(people[person])) for reference, out in references for person in out]
    assert [drift.verdict for drift in found] == ["drifting"] * 10
    assert sum(cause == drift.cause for drift in found) >= 8


def test_without_groups_blocks_take_their_place_and_the_reference_says_so():
    everything = open_dataset(shipped_dataset()).everything()
    lonely = everything.subset(everything.groups <= 2)
    reference = group_reference(lonely, lonely.subset(np.arange(0)), "acc")
    assert (reference.between, reference.groups) == ("blocks", 10)


def test_a_channel_without_values_or_signal_is_never_far():
    rng = np.random.default_rng(0)
    groups = [np.concatenate([rng.normal(size=(20, 1)), np.full((20, 1), np.nan)], axis=1) for _ in range(6)]
    features = [np.concatenate([one, one, np.full((20, 1), np.nan)], axis=1) for one in groups]
    reference = fit_reference(features, channels=2, between="groups")
    watch = DriftWatch(reference, names=("a", "b"), unit="")
    assert watch.judge(np.concatenate(features)).verdict == "as_trained"
    limits = magnitude_limits([np.array([[np.nan, 3.0, 0.0]] * 5)] * 4)
    assert limits.usual == (1.0, 3.0, 1.0)
    assert magnitude((np.nan, 3.0, 0.0), limits.usual) == np.sqrt(0.5)


def test_people_never_seen_are_within_the_limits_and_a_wrong_unit_is_not(people):
    of_people = {person: channel_magnitudes(one, np.ones_like(one)) for person, one in people.items()}
    for person, found in of_people.items():
        limits = magnitude_limits([one for other, one in of_people.items() if other != person])

        def outside(factor):
            sizes = np.array([magnitude(factor * row, limits.usual) for row in found])  # noqa: B023 - called here alone
            return float(((sizes < limits.lowest) | (sizes > limits.highest)).mean())  # noqa: B023

        assert outside(1) <= 0.02
        assert [outside(factor) for factor in (8, 1 / 8, 1000 / 9.81)] == [1, 1, 1]
        assert limits.outside_rate <= 0.02


def test_the_limits_are_those_of_groups_twice_as_far_out_and_the_rate_is_that_of_groups_left_out():
    usual = [np.full((10, 1), 1.0) for _ in range(9)]
    limits = magnitude_limits([*usual, np.array([[1.0]] * 9 + [[80.0]])])
    # Of the tenth group 1 in 100 is above 1 + 0.91 x 79 = 72.89; of groups 5 in 100 above 1 + 0.55 x 71.89.
    assert (limits.usual, limits.lowest) == ((1.0,), 0.5)
    assert limits.highest == pytest.approx(2 * (1 + 0.55 * 71.89))
    assert limits.outside_rate == 0.01  # without the tenth group its one window is outside
