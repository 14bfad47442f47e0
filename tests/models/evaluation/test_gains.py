"""Gains, leaks of labels through time and the score of chance: by hand, by plain loops and by what must hold."""

from typing import get_args

import numpy as np
import pytest

from mmkd_app.words import for_terminal, leak_sentence
from mmkd_documents.figures import OF_CLASSES, Chance, Interval, LabelLeak, Split, Spread
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.data import write_dataset
from mmkd_models.evaluation import gains
from mmkd_models.evaluation.outcome import GroupAnswers, TestedNetwork
from mmkd_models.experiments.summary import mean_gain
from mmkd_models.metrics.scores import Metric, measure_named, metric_of_confusions, scores_from_answers
from tests.models.judging_rig import class_outcome

METRICS = get_args(Metric)


def test_gains_are_differences_of_seeds_and_groups_of_those_that_both_have(monkeypatch):
    truth, groups = np.array([0, 0, 1, 1]), np.arange(4)
    ours, theirs = (class_outcome(truth, said, groups) for said in ([0, 0, 1, 0], [0, 1, 1, 0]))
    assert gains.gain_on_windows(ours, theirs, "accuracy", seed=0) == Interval(mean=25.0)
    right, half = (class_outcome([0, 1], answers, [7, 7]) for answers in ([0, 1], [0, 0]))
    gain = gains.gain_over_seeds([right, right], [half, right], "accuracy")
    assert (gain.per_seed, gain.mean) == ((50.0, 0.0), 25.0)
    assert gain.std == pytest.approx(35.355, abs=1e-3)
    monkeypatch.setattr("mmkd_models.evaluation.gains.MIN_GROUPS", 1)
    ours, theirs = ([class_outcome([0, 1], answers, [group] * 2) for group in (1, 2)] for answers in ([0, 1], [0, 0]))
    gain = gains.gain_over_seeds(ours, theirs, "accuracy")
    assert (gain.mean, gain.low, gain.high) == (50.0, 50.0, 50.0)
    assert all(np.isnan(metric_of_confusions(np.zeros((1, 2, 2)), metric)[0]) for metric in METRICS)


@pytest.mark.parametrize("metric", METRICS)
def test_the_interval_is_that_of_a_plain_loop_over_the_same_draws(metric):
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(6), 20)
    truth = rng.integers(3, size=120)
    ours, theirs = (np.where(rng.uniform(size=120) < share, truth, rng.integers(3, size=120)) for share in (0.8, 0.6))
    gain = gains.gain_on_windows(*(class_outcome(truth, one, groups, 3) for one in (ours, theirs)), metric, seed=3)
    drawn = []
    for weights in np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), size=2000):
        rows = np.concatenate([np.flatnonzero(groups == group) for group in np.repeat(np.arange(6), weights)])
        scores = [scores_from_answers(truth[rows], answers[rows], 3).metric(metric) for answers in (ours, theirs)]
        drawn.append(100 * (scores[0] - scores[1]))
    assert (gain.low, gain.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-9)
    assert gain.low < gain.mean < gain.high


def test_few_groups_give_no_interval_modalities_are_drawn_together_and_spreads_are_of_samples(fold_result, monkeypatch):
    truth = np.arange(12) % 2
    for groups in (1, gains.MIN_GROUPS - 1, gains.MIN_GROUPS):
        owners = np.arange(12) % groups
        right, wrong = (class_outcome(truth, said, owners) for said in (truth, 1 - truth))
        gain = gains.gain_on_windows(right, wrong, "accuracy", seed=0)
        assert gain.mean == 100.0
        assert (gain.low is None) == (groups < gains.MIN_GROUPS)
    monkeypatch.setattr("mmkd_models.evaluation.gains.MIN_GROUPS", 1)
    # What acc gains gyro loses, in every group: drawn together nothing is left, drawn apart there would be an interval.
    acc, gyro = ({1: 9, 2: 4}, {1: 4, 2: 5}), ({1: 4, 2: 5}, {1: 9, 2: 4})
    table = fold_result(seed=0, windows={1: 10, 2: 10}, teacher={1: 1, 2: 1}, students={"acc": acc, "gyro": gyro})
    for names, expected in ((("acc", "gyro"), (0.0, 0.0, 0.0)), (("acc",), (20.0, -10.0, 50.0))):
        gain = mean_gain(table, names, measure_named("accuracy"))
        assert (gain.mean, gain.low, gain.high) == pytest.approx(expected, abs=1e-9)
    found = gains.spread([0.5, 0.75, 1.0])
    assert (found.mean, found.std, found.per_seed) == (0.75, 0.25, (0.5, 0.75, 1.0))  # ddof 0 would give 0.204
    assert gains.spread([0.5]) == Spread(mean=0.5, std=None, per_seed=(0.5,))


def make_windows(path, labels, groups):
    rng = np.random.default_rng(0)

    def split(labels, groups):
        values = rng.normal(size=(len(labels), 8, 1)).astype(np.float32)
        return {"acc": values, "labels": np.array(labels), "groups": np.array(groups)}

    splits = {"train": split(labels, groups), "valid": split([0, 1], [90, 90]), "test": split([0, 1], [91, 91])}
    acc = ModalitySpec(name="acc", channels=("x",), rate_hz=8.0, samples=8)
    return write_dataset(path, name="rig", labels=["a", "b"], modalities=[acc], splits=splits).split("train")


def test_a_hidden_label_is_that_of_the_nearer_seen_one_of_its_group(tmp_path):
    #        group 1: seen 0 and 4    group 2: none seen, so the commoner seen label, 0
    train = make_windows(tmp_path / "rig", [0, 0, 0, 1, 1, 1, 1, 0], [1] * 6 + [2] * 2)
    judged = gains.labels_spread_in_time(train.with_labels(np.array([0, -1, -1, -1, 1, -1, -1, -1])), train.labels)
    # Row 1 is nearer to 0; row 2 lies in the middle, where the first class wins; 3 and 5 are nearer to 4; the rows of
    # group 2 get the mean of both seen labels, of which the first class wins again. Only row 6 is wrong.
    assert judged.class_scores.confusion == ((3, 0), (1, 2))


def test_there_is_nothing_to_judge_where_all_labels_are_seen_or_none(tmp_path):
    train = make_windows(tmp_path / "rig", [0, 0, 1, 1], [1, 1, 2, 2])
    assert gains.labels_spread_in_time(train, train.labels) is None
    assert gains.labels_spread_in_time(train.with_labels(np.full(4, -1)), train.labels) is None


@pytest.mark.parametrize(("run", "leaks"), [(40, True), (1, False)])
def test_long_runs_of_one_label_leak_and_shuffled_labels_do_not(tmp_path, run, leaks):
    groups = np.repeat(np.arange(8), 80)
    ordered = np.arange(640) // run % 2
    labels = ordered if run > 1 else np.random.default_rng(3).integers(0, 2, 640)
    train = make_windows(tmp_path / "rig", labels.tolist(), groups.tolist())
    seen = np.random.default_rng(0).random(640) < 0.1
    judged = gains.labels_spread_in_time(train.with_labels(np.where(seen, labels, -1)), train.labels)
    found = gains.leak_of([judged], "accuracy")
    assert found.leaks is leaks
    assert found.figure.mean > 0.85 if leaks else found.figure.mean < 0.6


def test_a_leak_is_said_with_what_to_do():
    leak = LabelLeak(
        figure=Spread(mean=0.727), chance=Chance(figure=0.52, low=0.7, high=0.75, is_better=True), leaks=True
    )
    groups = Split(by="groups", judged_on="people", resampled="whole groups")
    assert for_terminal(leak_sentence(leak, 0.1, OF_CLASSES[0], split=groups)) == (
        "A random 10 % of labels leaks through time: labels of neighbouring windows reach accuracy 72.7 % on the "
        "unlabelled ones without any sensor (chance: 52.0 %). Label whole groups instead (--labelled-groups)."
    )
    assert for_terminal(
        leak_sentence(leak, 0.1, OF_CLASSES[0], split=Split(by="own split", judged_on="its own", resampled="blocks"))
    ).endswith("Write groups.npy, and label whole groups instead (--labelled-groups).")
    assert leak_sentence(leak, None, OF_CLASSES[0], split=groups) == ""


def numbers(windows):
    """Truth and answer of every window by group."""
    return TestedNetwork(
        task=TaskSpec(kind="regression", labels=("level",), unit="mm"),
        answers=tuple(
            GroupAnswers(group=group, truth=tuple((t,) for t, _ in pairs), answers=tuple((a,) for _, a in pairs))
            for group, pairs in windows.items()
        ),
    )


LABELS = TestedNetwork(
    task=TaskSpec(kind="multi_label", labels=("a", "b")),
    answers=(GroupAnswers(group=0, truth=((1, 0), (1, 0), (1, 1), (0, 0)), answers=((9, -9),) * 4),),
)


NUMBERS = numbers({0: [(0.0, 1.0), (0.0, 2.0)], 1: [(10.0, 9.0)]})
CLASSES = class_outcome([0, 0, 0, 0, 1, 1, 2, 2], [0] * 8, [0] * 8, classes=3)


@pytest.mark.parametrize(
    ("judged", "metric", "expected"),
    [
        (CLASSES, "accuracy", 0.5),  # the commonest class
        (CLASSES, "balanced_accuracy", 1 / 3),
        # Each class equally often: precision is its share, 1/2, 1/4 and 1/4, and it finds a third of itself.
        (CLASSES, "macro_f1", (2 * (1 / 6) / (5 / 6) + 2 * (2 * (1 / 12) / (7 / 12))) / 3),
        (LABELS, "macro_f1", (2 * 0.75 / 1.75 + 2 * 0.25 / 1.25) / 2),  # always on: precision is the label's share
        (LABELS, "mean_average_precision", (0.75 + 0.25) / 2),
        (LABELS, "subset_accuracy", 0.5),  # the commonest set is a alone
        (NUMBERS, "mae", 10 / 3),  # the median 0 is off by 0, 0 and 10; the mean by 40/9
        (NUMBERS, "rmse", np.std([0.0, 0.0, 10.0])),  # the mean
        (NUMBERS, "r2", 0.0),
        (NUMBERS, "pearson", 0.0),
    ],
)
def test_guessing_is_the_best_constant_answer(judged, metric, expected):
    assert gains.guessed_figure(judged, metric) == pytest.approx(expected)


ALTERNATE = [0, 1] * 10


@pytest.mark.parametrize(
    ("groups", "wrong", "low", "high", "is_better"),
    [
        # Ten groups, each with one window in ten wrong or none: every draw lies between 80 and 100 %.
        ([n // 2 for n in range(20)], [3, 8], 0.75, 1.0, True),
        ([n // 2 for n in range(20)], [0, 2, 4, 6, 8, 10, 11, 12, 14], 0.3, 0.8, False),
        # One person: groups alone would give an interval of no width above 50 %.
        ([0] * 20, [0, 2, 4, 6, 8, 10, 11, 12, 14], 0.3, 0.8, False),
        ([0] * 20, [3], 0.8, 1.0, True),
    ],
)
def test_a_model_is_better_than_guessing_where_its_whole_interval_is(groups, wrong, low, high, is_better):
    answers = [1 - label if number in wrong else label for number, label in enumerate(ALTERNATE)]
    found = gains.compare_with_chance([class_outcome(ALTERNATE, answers, groups)], "accuracy")
    assert found.figure == 0.5
    assert low <= found.low <= found.high <= high
    assert found.is_better == is_better


def test_errors_seeds_and_gaps_count_the_way_that_is_better():
    found = gains.compare_with_chance([numbers({group: [(0.0, 1.0), (10.0, 9.0)] for group in range(6)})], "mae")
    assert (found.figure, found.low, found.high, found.is_better) == (5.0, 1.0, 1.0, True)
    far = numbers({group: [(0.0, 5.0 + group), (10.0, 5.0)] for group in range(6)})
    assert not gains.compare_with_chance([far], "mae").is_better
    right, half = class_outcome([0, 1], [0, 1], [0, 1]), class_outcome([0, 1, 0, 1], [0, 1, 1, 0], [2, 2, 3, 3])
    found = gains.compare_with_chance([right, half], "accuracy")
    assert found.figure == 0.5
    assert found.low <= 0.75 <= found.high

    def off(errors):
        return numbers({group: [(0.0, error)] for group, error in enumerate(errors)})

    assert gains.gap_recovered([off([6] * 5)], [off([10] * 5)], [off([2] * 5)], "mae") == pytest.approx(0.5)
    # In one of eleven draws of five four or more are the groups of 12.
    assert gains.gap_recovered([off([6] * 5)], [off([10] * 5)], [off([12, 12, 2, 2, 2])], "mae") is None


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1"])
def test_a_model_that_always_gives_one_answer_is_never_better_than_guessing(metric):
    judged = class_outcome([0, 1, 2] * 7, [1] * 21, [n // 3 for n in range(21)], classes=3)
    assert not gains.compare_with_chance([judged] * 3, metric).is_better


def by_right(rights, windows=10):
    """A group of ten windows for each count of right answers."""
    truth = [0] * (windows * len(rights))
    answers = [int(number >= right) for right in rights for number in range(windows)]
    return class_outcome(truth, answers, [group for group in range(len(rights)) for _ in range(windows)])


@pytest.mark.parametrize(
    ("baseline", "teacher", "student", "expected"),
    [
        ([5] * 5, [9, 7, 8, 8, 8], [6] * 5, 1 / 3),
        ([5] * 5, [9, 5, 5, 5, 5], [6] * 5, None),  # a third of the draws have no gap at all
        ([5] * 5, [9, 4, 4, 4, 4], [6] * 5, None),
        ([5] * 5, [4] * 5, [6] * 5, None),
        ([5] * 4, [9] * 4, [6] * 4, None),  # of four groups there is no interval
    ],
)
def test_the_gap_is_told_where_it_is_larger_than_its_uncertainty(baseline, teacher, student, expected):
    found = gains.gap_recovered([by_right(student)], [by_right(baseline)], [by_right(teacher)], "accuracy")
    assert found == (None if expected is None else pytest.approx(expected))
