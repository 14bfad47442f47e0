"""Members of committees, and features of intervals."""

import math

import msgspec
import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

from mmkd_edge.errors import CheckpointError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.metrics.likelihood import log_likelihood, probabilities_of, significantly_likelier
from mmkd_models.networks.committee import MemberFacts
from mmkd_models.networks.intervals import (
    IntervalFeatures,
    apply_intervals,
    fit_intervals,
    fits_intervals,
    interval_sizes,
)
from mmkd_models.networks.members import Trees, check_member
from mmkd_models.networks.trees import Forest, grow_arrays
from mmkd_models.training.committee import fit_pool, joining_sensor, mixture_weights
from tests.edge.said import said

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=20.0, samples=40)
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(80, 6)).astype(np.float32)
CLASSES = (FEATURES[:, 0] + FEATURES[:, 1] * FEATURES[:, 2] > 0).astype(np.int64) + (FEATURES[:, 3] > 0.8)
ASKED = np.concatenate([FEATURES[:10], RNG.normal(size=(200, 6)).astype(np.float32)])


def windows(missing):
    """Values and presence (7, 40, 2); the last window has no sample in its second channel."""
    rng = np.random.default_rng(1)
    present = (rng.uniform(size=(7, 40, 2)) >= missing).astype(np.float32)
    present[-1, :, 1] = 0
    values = rng.normal(3.0, 2.0, size=(7, 40, 2)).astype(np.float32) * present
    return torch.from_numpy(values), torch.from_numpy(present)


def grow(features, labels, *, classes, kind, seed=4):
    return Forest(grow_arrays(features, labels, trees=30, classes=classes, kind=kind, seed=seed), kind=kind)


@pytest.mark.parametrize("depth", [1, 3, None])
def test_trees_answer_as_scikit_learn_does(depth, monkeypatch):
    forest = ExtraTreesClassifier(n_estimators=30, max_depth=depth, random_state=4).fit(FEATURES, CLASSES)
    monkeypatch.setattr("sklearn.ensemble.ExtraTreesClassifier", lambda **_: forest)
    votes = grow(FEATURES, CLASSES, classes=3, kind="classification").votes(torch.from_numpy(ASKED))
    # The same leaf each time; the fractions in it are float32.
    np.testing.assert_allclose(votes.numpy(), forest.predict_proba(ASKED), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "labels", "classes"),
    [
        ("multi_label", np.stack([CLASSES > 0, FEATURES[:, 4] > 0], axis=1).astype(np.uint8), 2),
        ("regression", FEATURES[:, 1] * 100, 1),
    ],
)
def test_shares_of_labels_and_numbers_are_means_of_leaves(kind, labels, classes):
    forest = ExtraTreesRegressor(n_estimators=30, random_state=4).fit(FEATURES, labels)
    votes = grow(FEATURES, labels, classes=classes, kind=kind).votes(torch.from_numpy(ASKED)).numpy()
    np.testing.assert_allclose(votes, forest.predict(ASKED).reshape(-1, classes), rtol=1e-6, atol=1e-7)


def test_a_statistic_at_a_threshold_goes_left_and_the_next_float_right():
    asked = torch.tensor([[0.5], [np.nextafter(np.float32(0.5), np.float32(1))]])
    assert Trees([ACC], stump(), kind="classification").votes(asked).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def stump():
    """One tree of one question: is the first statistic at most a half?"""
    return {
        "roots": torch.tensor([0], dtype=torch.int32),
        "feature": torch.tensor([0, -1, -1], dtype=torch.int32),
        "threshold": torch.tensor([0.5, 0.0, 0.0]),
        "left": torch.tensor([1, 0, 1], dtype=torch.int32),
        "right": torch.tensor([2, 0, 0], dtype=torch.int32),
        "fractions": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    }


def test_votes_are_smoothed_and_a_class_without_a_window_gets_its_spread_vote_alone():
    inputs = {"acc": (torch.ones(1, 40, 2), torch.ones(1, 40, 2))}  # its mean, the first statistic, is above a half
    classes = Trees([ACC], stump(), kind="classification")(inputs).exp()
    labels = Trees([ACC], stump(), kind="multi_label")(inputs).sigmoid()
    numbers = Trees([ACC], {**stump(), "fractions": torch.tensor([[3.0], [7.0]])}, kind="regression")(inputs)
    assert classes[0].tolist() == pytest.approx([0.25, 0.75])  # (0 + 1/2) / 2, (1 + 1/2) / 2
    assert labels[0].tolist() == pytest.approx([0.25, 0.75])
    assert numbers.tolist() == [[7.0]]
    grown = grow(FEATURES, CLASSES * 2, classes=5, kind="classification")
    assert grown.fractions.shape[1] == 5
    assert not grown.fractions[:, [1, 3]].any()


def test_the_same_seed_grows_the_same_sound_trees():
    one, same, other = (
        grow(FEATURES, CLASSES, classes=3, kind="classification", seed=seed).state_dict() for seed in (4, 4, 5)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["threshold"][:50], other["threshold"][:50])
    features = TREES.features["acc"](*windows(0.2)).numpy()
    assert features.shape == (7, 264) == (7, interval_sizes(ACC)[2])
    check_trees(grow(features, np.arange(7) % 2, classes=2, kind="classification").state_dict())


TREES = Trees([ACC], stump(), kind="classification")


def check_trees(arrays):
    facts = MemberFacts(kind="trees", seed=0, temperature=1.0, weight=1.0, score=0.0, log_likelihood=0.0)
    state = {name: value for name, value in TREES.state_dict().items() if name.startswith("features.")} | arrays
    check_member(facts, state, [ACC], TaskSpec(labels=("a", "b")), path="member 1")


def test_trees_read_the_features_of_all_modalities_in_order():
    second = msgspec.structs.replace(ACC, name="gyro")
    stumps = {**stump(), "feature": torch.tensor([264, -1, -1], dtype=torch.int32)}  # the mean of the first channel
    trees = Trees([ACC, second], stumps, kind="classification")
    low, high = ((torch.full((1, 40, 2), value), torch.ones(1, 40, 2)) for value in (0.25, 0.75))
    assert trees({"acc": low, "gyro": high}).exp()[0].tolist() == pytest.approx([0.25, 0.75])
    assert trees({"acc": high, "gyro": low}).exp()[0].tolist() == pytest.approx([0.75, 0.25])


LINKS = "expected every node to lead onwards inside its tree and every leaf to its row, got other links"


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("left", [0, 0, 1], LINKS),  # a circle
        ("left", [1, 0, 2], LINKS),  # fractions that are not there
        ("right", [3, 0, 0], LINKS),
        ("right", [2, 1, 0], LINKS),
        ("feature", [264, -1, -1], LINKS),  # acc has 264 features, from 0
        ("feature", [0, -2, -1], LINKS),
        ("roots", [1], LINKS),
        ("roots", [0, 0], LINKS),
        ("roots", [0, 2], LINKS),
        ("threshold", [float("nan"), 0, 0], "tensor 'threshold': expected finite values, got NaN or infinity"),
    ],
)
def test_trees_that_were_altered_are_refused(name, value, fault):
    arrays = stump()
    arrays[name] = torch.tensor(value, dtype=arrays[name].dtype)
    assert said(CheckpointError, check_trees, arrays).startswith(f"member 1: {fault};")


def test_arrays_of_other_kinds_and_shapes_are_refused():
    assert "got missing ['feature', 'fractions', 'left'] and unknown []" in said(
        CheckpointError, check_trees, {"roots": torch.zeros(1)}
    )
    assert "tensor 'threshold': expected shape (3,) of float32, got shape (2,) of float32" in said(
        CheckpointError, check_trees, {**stump(), "threshold": torch.zeros(2)}
    )
    assert "tensor 'roots': expected shape (1,) of int32" in said(
        CheckpointError, check_trees, {**stump(), "roots": torch.zeros(1)}
    )


LABELS = RNG.integers(0, 3, 240)
APART = np.arange(240) % 8 < 5, np.arange(240) % 8 >= 5
GROUPS = np.arange(240) // 40


def member(right, *, seed, sure=3.0):
    """Logits (240, 3) that favour the truth in that share of the windows, else any class."""
    rng = np.random.default_rng(seed)
    said = np.where(rng.uniform(size=240) < right, LABELS, rng.integers(0, 3, 240))
    return sure * np.eye(3)[said]


def test_weights_of_members_by_hand_for_classes_labels_and_numbers():
    """Two answers: the first member says 1 and 1/2, the other 1/2 and 1; both have a group more than the four.

    Then the weights are even for symmetry. With (1, 1/2) against (1/4, 1/2) the second answer tells nothing.
    """
    assert mixture_weights(np.log([[1.0, 0.5], [0.5, 1.0]]), groups=4).tolist() == pytest.approx([0.5, 0.5])
    found = mixture_weights(np.log([[1.0, 0.25], [0.5, 0.5]]), groups=4)
    # At rest w = (4 m + 1) / 6 with m = (w / (w + (1 - w) / 4) + w) / 2, so 4 w = 1 + 2 w / (w + (1 - w) / 4).
    w = found[0]
    assert 4 * w == pytest.approx(1 + 2 * w / (w + (1 - w) / 4), abs=1e-9)
    pool = fit_pool([member(1.0, seed=1), member(0.9, seed=2)], LABELS, GROUPS, kind="classification")
    # At the least loss the mean probability of the truth is 1 - 1 / (n + 2).
    assert math.exp(pool.likelihoods[0]) == pytest.approx(1 - 1 / 242)
    members = [member(0.9, seed=1), member(0.0, seed=2), member(0.9, seed=1)]
    pool = fit_pool(members, LABELS, GROUPS, kind="classification")
    assert pool.weights[1] == 0.0
    assert pool.weights == pytest.approx((0.5, 0.0, 0.5))
    assert pool.likelihoods[1] == pytest.approx(math.log(1 / 3), abs=0.01)
    several = np.stack([LABELS > 0, LABELS > 1], axis=1).astype(np.uint8)
    telling, noise = 4.0 * several - 2 + RNG.normal(0, 1, several.shape), RNG.normal(0, 1, several.shape)
    assert fit_pool([telling, noise], several, GROUPS, kind="multi_label").weights == (1.0, 0.0)
    numbers = LABELS * 100.0
    near, far = numbers[:, None] + RNG.normal(0, 10, (240, 1)), RNG.normal(100, 80, (240, 1))
    found = fit_pool([near, far], numbers, GROUPS, kind="regression")
    assert (found.weights, found.temperatures) == ((1.0, 0.0), (1.0, 1.0))


def test_what_members_say_together_is_likely_by_their_mean_over_groups():
    pool = fit_pool(ones := [member(0.9, seed=1), member(0.4, seed=2)], LABELS, GROUPS, kind="classification")
    shares = [
        weight * probabilities_of(one / heat, kind="classification")
        for one, heat, weight in zip(ones, pool.temperatures, pool.weights, strict=True)
    ]
    assert pool.together == pytest.approx(np.log(sum(shares)[np.arange(240), LABELS]))

    numbers = LABELS * 100.0
    near, far = numbers[:, None] + RNG.normal(0, 10, (240, 1)), numbers[:, None] + RNG.normal(0, 20, (240, 1))
    found = fit_pool([near, far], numbers, GROUPS, kind="regression")
    mean = found.weights[0] * near + found.weights[1] * far
    assert found.together == pytest.approx(log_likelihood(mean, numbers, kind="regression"))
    gain, group = np.array([1.0, 1.0, 1.1]), np.zeros(3)
    assert not significantly_likelier(gain, np.zeros(3), group)
    assert significantly_likelier(gain, np.zeros(3), group, of_one_group=True)


def test_the_sensor_joins_with_which_the_committee_is_likeliest():
    weak, strong = [member(0.4, seed=1), member(0.5, seed=2)], [member(0.2, seed=3), member(0.95, seed=4)]
    alone = {"gyro": [member(0.6, seed=5)], "acc": strong}
    assert joining_sensor(weak, alone, LABELS, GROUPS, kind="classification") == "acc"
    assert joining_sensor(strong, {"gyro": weak}, LABELS, GROUPS, kind="classification") is None
    assert joining_sensor(weak, alone, LABELS, np.zeros(240), kind="classification") is None  # of one group
    # They know five of eight windows, and the other three: the gyroscope is likelier alone and adds nothing.
    most, others = (3.0 * rows[:, None] * np.eye(3)[LABELS] for rows in APART)
    assert joining_sensor([most], {"gyro": [most], "acc": [others]}, LABELS, GROUPS, kind="classification") == "acc"


@pytest.mark.parametrize(
    ("by_group", "sure"),
    [
        ([1.0, 1.0, 1.0], True),
        # Of sums 0, 2, 4 over three groups of one window the mean is 2, and the standard error sqrt(4 / 3).
        ([0.0, 2.0, 4.0], True),
        ([-2.0, 1.0, 4.0], False),  # the mean is 1, the error sqrt(3)
        ([-1.0, -1.0, -1.0], False),
    ],
)
def test_answers_are_surely_likelier_by_more_than_a_standard_error_over_groups(by_group, sure):
    gain = np.array(by_group)
    assert significantly_likelier(gain, np.zeros(3), np.arange(3)) is sure
    # Labels of a window count with their group, as its windows do.
    assert significantly_likelier(np.repeat(gain, 4), np.zeros(12), np.repeat(np.arange(3), 2)) is sure


def imu(samples, channels=3):
    return ModalitySpec(name="imu", channels=tuple("abcdefgh"[:channels]), rate_hz=50.0, samples=samples)


def reference(x, mean, std):
    """The features of one window (T, C) with NaN, one at a time, in float64."""
    samples, channels = x.shape
    series = []
    for channel in range(channels):
        u = np.clip((x[:, channel] - mean[channel]) / std[channel], -8, 8)
        known = u[np.isfinite(u)]
        series.append(np.where(np.isfinite(u), u, known.mean() if len(known) else 0.0))
    depth, bins, _ = interval_sizes(imu(samples, channels))
    features = []
    for u in series:
        for part in (u, np.diff(u)):
            used = part[len(part) - ((len(part) >> depth) << depth) :]
            for halvings in range(depth + 1):
                for interval in np.split(used, 2**halvings):
                    slope = np.polyfit(np.arange(len(interval)), interval, 1)[0]
                    quantiles = np.quantile(interval, [0, 0.25, 0.5, 0.75, 1])
                    features += [interval.mean(), interval.std(), slope, *quantiles]
        power = np.abs(np.fft.rfft(u - u.mean())[1 : bins + 1]) ** 2 / samples
        features += np.log(power + 1e-6).tolist()
    return features


@pytest.mark.parametrize(("samples", "channels"), [(200, 3), (61, 1), (64, 2), (8, 2), (9, 1), (3, 2)])
def test_features_are_those_of_plain_numpy(samples, channels):
    modality = imu(samples, channels)
    mean, std = np.linspace(1, 2, channels).astype(np.float32), np.linspace(2, 1, channels).astype(np.float32)
    windows = RNG.normal(1.0, 2.0, size=(6, samples, channels)).cumsum(1).astype(np.float32)
    windows[1, 2:5] = np.nan
    windows[2, :, 0] = np.nan
    windows[3] = np.nan
    present = np.isfinite(windows).astype(np.float32)
    network = fit_intervals(modality, np.nan_to_num(windows), present, scale=(mean, std))
    expected = np.array([reference(window.astype(np.float64), mean, std) for window in windows])
    got = apply_intervals(network, np.nan_to_num(windows), present)
    assert got.shape == (6, interval_sizes(modality)[2])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-4)
    standard = network.standardised(torch.from_numpy(got)).numpy()
    varies = expected.std(0) > 1e-3
    np.testing.assert_allclose(standard[:, varies].mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(standard[:, varies].std(0), 1, atol=1e-3)


def test_statistics_of_a_ramp_and_of_a_single_sample_by_hand_in_bounded_sizes():
    network = IntervalFeatures(imu(8, 1)).eval()
    features = network(torch.arange(8.0)[None, :, None], torch.ones(1, 8, 1))[0].tolist()
    assert features[:8] == pytest.approx([3.5, 5.25**0.5, 1.0, 0.0, 1.75, 3.5, 5.25, 7.0])
    assert features[8:16] == pytest.approx([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0])  # seven differences of one
    assert len(features) == 16 + 4
    network = IntervalFeatures(imu(1, 2)).eval()
    features = network(torch.tensor([[[2.0, -3.0]]]), torch.tensor([[[1.0, 0.0]]]))[0].tolist()
    assert features == [2.0, 0.0, 0.0, 2.0, 2.0, 2.0, 2.0, 2.0, *[0.0] * 8]
    assert interval_sizes(imu(1, 2)) == (0, 0, 16)
    assert interval_sizes(imu(200)) == (2, 32, 3 * (16 * 7 + 32))
    assert interval_sizes(imu(31, 1)) == (1, 15, 16 * 3 + 15)  # a quarter would have 7 samples
    many = ModalitySpec(name="m", channels=tuple(map(str, range(40))), rate_hz=1.0, samples=64)
    assert interval_sizes(many) == (1, 32, 40 * (16 * 3 + 32))
    assert fits_intervals(imu(8))
    assert not fits_intervals(imu(7))


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_sound_and_video_are_read_as_series(kind):
    size = {"height": 16, "width": 16} if kind == "video" else {}
    rate, samples = (16000.0, 16000) if kind == "audio" else (10.0, 20)
    channels = ("red", "green", "blue") if kind == "video" else ("left",)
    modality = ModalitySpec(name="m", kind=kind, channels=channels, rate_hz=rate, samples=samples, **size)
    values = RNG.integers(0, 256, size=(5, *modality.shape)).astype(np.uint8 if kind == "video" else np.float32)
    present = np.ones((5, samples, 1), dtype=np.float32)
    scale = np.full(len(channels), 120, np.float32), np.full(len(channels), 60, np.float32)
    features = apply_intervals(fit_intervals(modality, values, present, scale=scale), values, present)
    assert features.shape == (5, interval_sizes(modality)[2])
    assert np.isfinite(features).all()
    assert np.ptp(features, axis=0).max() > 0
