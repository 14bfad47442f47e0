"""Rivals of a student, and confidence in answers."""

import itertools
import math

import msgspec
import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmkd_edge.bundle.manifest import Confidence
from mmkd_edge.predict.novelty import label_set, least_probability
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import write_dataset
from mmkd_models.data.checking.scan import window_statistics
from mmkd_models.evaluation import confidence
from mmkd_models.evaluation.rivals import Rivals, averaged, calibration
from mmkd_models.metrics.likelihood import probabilities_of
from mmkd_models.training.choosing import log_prior

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


@pytest.fixture
def swings(tmp_path):
    """Gives training and test windows of 64 samples: class 1 swings four times as fast as class 0."""

    def split(seed, unlabelled):
        rng = np.random.default_rng(seed)
        labels = np.arange(16) % 2
        time = np.arange(64) / 64
        values = np.sin(2 * np.pi * (3 + 9 * labels)[:, None, None] * time[:, None] + rng.uniform(0, 6, (16, 1, 1)))
        values += 0.1 * rng.standard_normal(values.shape)
        values[::3, 5:9] = np.nan
        if unlabelled:  # windows that would teach the opposite
            labels = np.concatenate([labels, np.full(16, -1)])
            values = np.concatenate([values, values[::-1]])
        return {"acc": values, "labels": labels}

    def make(*, unlabelled=False):
        splits = {"train": split(0, unlabelled), "valid": split(1, False), "test": split(2, False)}
        acc = ModalitySpec(name="acc", channels=("x",), rate_hz=64.0, samples=64)
        path, names = tmp_path / f"swings-{unlabelled}", {"name": "swings", "labels": ["slow", "fast"]}
        dataset = write_dataset(path, **names, modalities=[acc], splits=splits)
        return dataset.split("train"), dataset.split("test")

    return make


def statistics_by_loops(window):
    """What `window_statistics` gives for one window (T, 1), value by value."""
    series = [float(value) for value in window[:, 0]]
    known = [value for value in series if not math.isnan(value)]
    if not known:
        return [0.0] * 10 + [math.log(1e-6)] * min(32, len(series) // 2)
    mean = sum(known) / len(known)
    std = math.sqrt(sum((value - mean) ** 2 for value in known) / len(known))
    steps = [abs(b - a) for a, b in itertools.pairwise(series) if not (math.isnan(a) or math.isnan(b))]
    step = sum(steps) / len(steps) if steps else 0.0
    power = []
    for bin_number in range(1, min(32, len(series) // 2) + 1):
        real = imaginary = 0.0
        for sample, value in enumerate(series):
            height = 0.0 if math.isnan(value) else value - mean
            angle = -2 * math.pi * bin_number * sample / len(series)
            real, imaginary = real + height * math.cos(angle), imaginary + height * math.sin(angle)
        power.append(math.log(real**2 + imaginary**2 + 1e-6))
    return [mean, std, *np.quantile(known, QUANTILES).tolist(), step, *power]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    window=hnp.arrays(
        np.float32,
        st.tuples(st.integers(2, 24), st.just(1)),
        elements=st.one_of(st.floats(-100, 100, width=32), st.just(np.nan)),
    )
)
def test_statistics_are_those_of_plain_loops_over_the_known_samples(window):
    found = window_statistics(window[None])[0]
    assert np.isfinite(found).all()
    # Near the floor of 1e-6 rounding decides the logarithm of a power that should be 0: float64 sums of squares up to
    # 1e4 times 24 samples are off by 1e-9 or so, which is 1e-3 of the floor.
    np.testing.assert_allclose(found, statistics_by_loops(window), rtol=1e-6, atol=2e-3)


def test_channels_keep_their_own_statistics_and_one_sample_has_finite_ones():
    windows = np.random.default_rng(0).normal(size=(3, 20, 2)).astype(np.float32)
    both = window_statistics(windows)
    first, second = (window_statistics(windows[..., channel : channel + 1]) for channel in (0, 1))
    assert both.shape == (3, 2 * (10 + 10))
    np.testing.assert_allclose(
        np.sort(both, axis=1), np.sort(np.concatenate([first, second], axis=1), axis=1), atol=1e-9
    )
    assert np.isfinite(window_statistics(np.array([[[2.0]], [[np.nan]]], dtype=np.float32))).all()


def judged_by(rival, train, *parts, **options):
    return Rivals(train=train, parts=parts, modality="acc", seed=0, **options).judge(rival)


def test_extra_trees_tell_slow_from_fast(swings):
    train, test = swings()
    for judged in judged_by("extra_trees", train, test, test):  # once trained, twice asked
        assert judged.class_scores.confusion == ((8, 0), (0, 8))


def test_windows_without_labels_teach_the_trees_nothing(swings):
    plain, test = swings()
    mixed, _ = swings(unlabelled=True)
    assert len(mixed) == 2 * len(plain)
    expected = judged_by("extra_trees", plain.subset(np.arange(3)), test)
    hidden = mixed.with_labels(np.where(np.arange(32) < 3, mixed.labels, -1))
    for train in (hidden, hidden):  # and the same seed answers the same
        assert judged_by("extra_trees", train, test) == expected


@pytest.mark.slow  # compiling it takes half a minute; the others have spectra in its place
def test_mini_rocket_answers_as_the_classifier_of_aeon_does_and_leaves_torch_its_threads(swings):
    rockets = pytest.importorskip("aeon.classification.convolution_based")
    train, test = swings()
    threads = torch.get_num_threads()
    for judged in judged_by("mini_rocket", train, test, train):
        assert judged.scores.metric("accuracy") == 1.0
    assert torch.get_num_threads() == threads
    # Other kinds of numba's threads bring a second OpenMP beside torch's, which slows every later training.
    assert numba.threading_layer() == "workqueue"
    (judged,) = judged_by("mini_rocket", train.subset(np.arange(5)), test)
    series = [np.nan_to_num(one.take(np.arange(len(one)))["acc"]).transpose(0, 2, 1) for one in (train, test)]
    classifier = rockets.MiniRocketClassifier(random_state=0).fit(series[0][:5], train.labels[:5])
    assert judged.scores.metric("accuracy") == np.mean(classifier.predict(series[1]) == test.labels)


def test_a_rocket_learns_from_a_teacher_on_windows_without_labels(swings, quick_rocket):
    pytest.importorskip("aeon")
    train, test = swings()
    few = train.with_labels(np.where(np.arange(16) < 2, train.labels, -1))
    wrong = np.eye(2)[1 - train.labels]
    with quick_rocket():
        judged = judged_by("distilled_rocket", few, test, test, teach=lambda windows: wrong)
    assert judged[1].scores.metric("accuracy") < 0.2  # guessing has a half, the labels would give nearly all
    assert judged_by("distilled_rocket", few, test, test) == "there is no teacher here that could teach it"


@pytest.mark.parametrize("rival", ["extra_trees", "mini_rocket", "rocket_and_trees"])
def test_a_rival_that_has_learnt_answers_other_windows_as_it_answered_those_that_judged(swings, rival, quick_rocket):
    pytest.importorskip("aeon")
    train, test = swings()
    rivals = Rivals(train=train.subset(np.arange(6)), parts=(train, test), modality="acc", seed=0)
    with quick_rocket():
        ask, judged = rivals.answerer(rival), rivals.judge(rival)
        answers = np.concatenate([ask(test.subset(test.labels == label)) for label in (0, 1)])
    right = answers.argmax(1) == np.repeat([0, 1], 8)
    assert right.mean() == judged[1].scores.metric("accuracy") > 0.5


def test_rockets_and_trees_are_averaged_as_probabilities():
    certain, unsure = np.log([[0.9, 0.1]]), np.log([[0.5, 0.5]])
    mean = probabilities_of(averaged(certain, unsure, kind="classification"), kind="classification")
    np.testing.assert_allclose(mean, [[0.7, 0.3]])
    np.testing.assert_allclose(averaged(np.array([[1.0]]), np.array([[4.0]]), kind="regression"), [[2.5]])


def test_settling_changes_no_answer_of_classes(swings):
    train, test = swings()
    raw = np.random.default_rng(0).normal(size=(16, 2))
    settled = calibration(raw, train=train, valid=test, metric="accuracy")(raw)
    np.testing.assert_array_equal(settled.argmax(1), raw.argmax(1))
    assert settled[0, 0] / raw[0, 0] == pytest.approx(settled[5, 1] / raw[5, 1])


def test_rivals_are_adjusted_for_unequal_labels_as_networks_are(swings):
    """Labels of seven to one hide class 1 in these answers; taking all of that back finds it again."""
    train, test = swings()
    few = train.with_labels(np.where(np.cumsum(train.labels == 1) > 1, np.minimum(train.labels, 0), train.labels))
    prior = log_prior(few.labels, 2)
    raw = np.where(test.labels[:, None] == np.arange(2), 0.9, 0.0) * -prior[1] + prior
    plain = calibration(raw, train=few, valid=test, metric="accuracy")(raw)
    adjusted = calibration(raw, train=few, valid=test, metric="balanced_accuracy")(raw)
    assert (plain.argmax(1) == 0).all()
    np.testing.assert_array_equal(adjusted.argmax(1), test.labels)


FOUR = Confidence(temperature=2.0, true_probabilities=(0.2, 0.4, 0.6, 0.8))


def test_calibration_errors_and_intervals_of_shares_by_hand():
    # Two windows answered with 0.9, one of them wrong: a gap of 0.4. Two with 0.6, both right: a gap of 0.4 as well,
    # on the other side. One with exactly 1, right: none.
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.6, 0.4], [1.0, 0.0]])
    found = confidence.reliability(probabilities, np.array([0, 0, 0, 0, 0]))
    assert found.calibration_error == pytest.approx((2 * 0.4 + 2 * 0.4) / 5)
    assert found.log_loss == pytest.approx(-(math.log(0.9) + math.log(0.1) + 2 * math.log(0.6)) / 5)
    # 8 of 10: centre (0.8 + z2/20) / (1 + z2/10) with z2 = 3.8415.
    low, high = confidence.fraction_interval(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert confidence.fraction_interval(10, 10) == (pytest.approx(0.7225, abs=1e-4), pytest.approx(1.0))
    assert confidence.fraction_interval(0, 10)[0] == 0.0
    shares = np.full((3, 2), 0.5, dtype=np.float32)
    assert confidence.confidence_facts(FOUR, shares, shares, np.array([-1, -1, -1])) is None


def test_coverage_is_what_label_sets_do_window_by_window():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(40, 3)).astype(np.float32) * 2
    probabilities = probabilities_of(logits / 2, kind="classification").astype(np.float32)
    labels = rng.integers(-1, 3, size=40)
    facts = confidence.confidence_facts(FOUR, logits, probabilities, labels, error_levels=(0.6, 0.25, 0.1))
    known = [row for row in range(40) if labels[row] >= 0]
    assert (facts.temperature, facts.calibrated_by, facts.windows) == (2.0, 4, len(known))
    assert [one.error_level for one in facts.coverages] == [0.25, 0.6]  # four windows cannot support 0.1
    for coverage in facts.coverages:
        least = least_probability(FOUR, coverage.error_level)
        sets = {row: label_set(probabilities[row].tolist(), "abc", least=least) for row in known}
        right = {row: "abc"[labels[row]] in sets[row] for row in known}
        single = [row for row in known if len(sets[row]) == 1]
        assert coverage.least_probability == least
        assert coverage.covered == sum(right.values())
        assert coverage.coverage == pytest.approx(sum(right.values()) / len(known))
        assert coverage.mean_set_size == pytest.approx(sum(map(len, sets.values())) / len(known))
        assert coverage.single_fraction == pytest.approx(len(single) / len(known))
        assert coverage.single_accuracy == pytest.approx(sum(right[row] for row in single) / len(single))
    assert facts.before == confidence.reliability(probabilities_of(logits[known], kind="classification"), labels[known])
    assert facts.after == confidence.reliability(probabilities[known], labels[known])


def test_the_words_give_the_figures():
    probabilities = np.array([[0.7, 0.3], [0.7, 0.3], [0.5, 0.5], [0.1, 0.9]], dtype=np.float32)
    facts = confidence.confidence_facts(
        FOUR, np.log(probabilities), probabilities, np.array([0, 1, 1, 1]), error_levels=(0.5,)
    )
    (coverage,) = facts.coverages
    # At 0.5 the second smallest of 0.2, 0.4, 0.6, 0.8 counts: sets {a}, {a}, {a, b}, {b}.
    assert confidence.coverage_cells(coverage) == ("0.5", "75.0%", "30.1% to 95.4%", "1.25", "75.0%", "66.7%")
    # The gaps of the bins: 2 x |0.5 - 0.7|, |0 - 0.5| (the first of two equal ones is answered), |1 - 0.9|.
    assert confidence.reliability_text(facts) == (
        "temperature 2.00 from 4 windows; on 4 others the calibration error is 0.250 before and 0.250 after, the log "
        "loss 0.590 and 0.590"
    )
    assert confidence.reliability_text(msgspec.structs.replace(facts, temperature=1.0)) == (
        "probabilities are not corrected (softmax temperature 1); on 4 windows the calibration error is 0.250, the log "
        "loss 0.590"
    )
