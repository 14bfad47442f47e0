"""How a stream filters answers is chosen where recordings show that it helps, and by what others choose."""

from collections.abc import Callable

import numpy as np
import pytest

from mmkd_edge.bundle.manifest import HopRule
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.data.spec import DatasetSpec
from mmkd_models.data.windows import StoredWindows, Windows
from mmkd_models.metrics.over_time import changes_of, delays_of, filter_runs, runs_of
from mmkd_models.training import over_time
from mmkd_models.training.over_time import choose_over_time

WINDOW_S = 2.0
ACC = ModalitySpec(name="acc", channels=("x",), rate_hz=10.0, samples=20)
SPEC = DatasetSpec(name="line", task=TaskSpec(labels=("a", "b", "c")), modalities=(ACC,), splits={}, licence="CC0")


def windows_of(labels, *, hop_s=1.0, groups=None, clock=True):
    """Recordings (G, L) of labels, one of each group, whose windows begin every `hop_s`."""
    labels = np.asarray(labels)
    count, length = labels.shape
    owner = np.repeat(np.arange(count) if groups is None else groups, length)
    rows = np.arange(count * length)
    return Windows(
        spec=SPEC,
        labels=labels.reshape(-1).astype(np.int64),
        groups=owner,
        has_groups=True,
        splits=np.ones(len(rows), dtype=np.int64),
        folds=None,
        source=StoredWindows(parts={}, offsets=np.zeros(1, np.int64)),
        rows=rows,
        starts=np.tile(np.arange(length) * hop_s, count) if clock else None,
        episodes=np.repeat(np.arange(count), length),
    )


def slow_states(count=6, length=240, stays=40, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([np.repeat(rng.permutation(length // stays) % 3, stays) for _ in range(count)])


def unsure(windows, *, sure=1.0, seed=1) -> Callable[[], np.ndarray]:
    """Logits that are right on average, with independent errors."""
    truth = np.eye(3)[np.maximum(windows.labels, 0)] * sure
    return lambda: truth + np.random.default_rng(seed).normal(size=truth.shape)


def chosen(windows, answer=None):
    return choose_over_time(answer or unsure(windows), windows, window_s=WINDOW_S, metric="balanced_accuracy")


def test_slow_states_are_followed_with_a_rule_for_each_hop_and_its_price():
    windows = windows_of(slow_states())
    found = chosen(windows)
    assert [rule.hop_fraction for rule in found.rules] == [0.5, 1.0]
    assert found.changes == sum(len(changes_of(windows.labels[run])) for run in runs_of(windows, window_s=WINDOW_S))
    for rule in found.rules:
        assert rule.gain_points > 15
        assert rule.dwell_s > 2 * WINDOW_S
        assert rule.delay[0] > rule.single_delay[0]
        assert rule.delay[0] <= rule.delay[1]
    assert sum(found.prior) == pytest.approx(1.0, abs=0.01)


def test_the_gain_is_that_of_rules_which_other_groups_chose():
    windows = windows_of(slow_states())
    found = chosen(windows)
    rule = found.rules[0]
    answers = over_time.calibrated(unsure(windows)(), windows)
    runs = runs_of(windows, window_s=WINDOW_S)
    (filtered,) = filter_runs(answers, np.array(found.prior), runs, windows.starts, [rule], window_s=WINDOW_S)

    def score(each):
        right = each.argmax(1) == windows.labels
        return 100 * np.mean([right[windows.labels == label].mean() for label in range(3)])

    assert rule.gain_points == pytest.approx(score(filtered) - score(answers), abs=3.0)


@pytest.mark.parametrize("why", ["no order", "no clock", "one state each", "two groups", "few changes", "sure"])
def test_nothing_is_filtered_where_it_does_not_help_or_nothing_can_judge(why):
    labels = slow_states()
    if why == "no order":
        labels = np.random.default_rng(3).permuted(labels, axis=1)
    elif why == "one state each":
        labels = np.repeat(np.arange(6)[:, None] % 3, 240, axis=1)
    elif why == "two groups":
        labels = labels[:2]
    elif why == "few changes":
        labels = np.stack([np.repeat([0, 1], 60), np.repeat([1, 2], 60), np.repeat([0, 2], 60), np.full(120, 1)])
    windows = windows_of(labels, clock=why != "no clock")
    assert chosen(windows, unsure(windows, sure=30.0) if why == "sure" else None) is None


def test_a_task_of_numbers_and_answers_nobody_asks_for_cost_nothing():
    def refuse():
        raise AssertionError("no answers are needed")

    assert choose_over_time(refuse, windows_of(slow_states()[:1]), window_s=WINDOW_S, metric="accuracy") is None


def test_windows_follow_one_another_in_a_recording_until_a_silence():
    labels = np.zeros((2, 6), dtype=np.int64)
    windows = windows_of(labels)
    shuffled = windows.subset(np.random.default_rng(0).permutation(12))
    runs = runs_of(shuffled, window_s=WINDOW_S)
    assert [shuffled.rows[run].tolist() for run in runs] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    late = windows_of(labels)
    late.starts[3:6] += 3.0  # 4 s after the start before: two windows
    late.starts[9:] += 3.1
    assert [len(run) for run in runs_of(late, window_s=WINDOW_S)] == [6, 3, 3]


def test_changes_and_delays_are_counted_as_by_hand():
    labels = np.array([0, 0, 1, 1, -1, 2, 2, 2, 0])
    assert changes_of(labels).tolist() == [2, 8]  # from no label to one is none
    answers = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    assert delays_of(labels, answers) == [2, 1]
    assert delays_of(labels, np.zeros(9, dtype=np.int64)) == [2, 1]
    assert delays_of(np.array([0, 1, 1, 1]), np.zeros(4, dtype=np.int64)) == [3]


def test_runs_are_filtered_as_a_stream_would():
    windows = windows_of(np.array([[0, 0, 1], [1, 1, 2]]))
    windows.starts[5] += 0.5
    answers = np.random.default_rng(0).dirichlet(np.ones(3), size=6)
    rules = [
        HopRule(hop_fraction=0.5, dwell_s=dwell, exponent=0.5, gain_points=0, delay=(1, 1), single_delay=(1, 1))
        for dwell in (2.0, 30.0)
    ]
    prior = np.array([0.5, 0.3, 0.2])
    runs = runs_of(windows, window_s=WINDOW_S)
    found = filter_runs(answers, prior, runs, windows.starts, rules, window_s=WINDOW_S)
    for number, rule in enumerate(rules):
        for run in runs:
            belief = np.full(3, 1 / 3)
            for place, row in enumerate(run):
                if place:
                    stay = np.exp(-(windows.starts[row] - windows.starts[run[place - 1]]) / rule.dwell_s)
                    belief = stay * belief + (1 - stay) / 3
                belief = belief * (answers[row] / prior) ** 0.5
                belief /= belief.sum()
                np.testing.assert_allclose(found[number, row], belief)
