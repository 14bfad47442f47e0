"""Answers of every kind drawn again by groups: against the plain scores of windows that are written down again."""

import json

import msgspec
import numpy as np
import pytest

from mmkd_documents.figures import OF_CLASSES, Measure
from mmkd_edge.errors import MmkdError
from mmkd_edge.spec import TaskSpec
from mmkd_models.evaluation.gains import gain_draws, gain_over_seeds
from mmkd_models.evaluation.outcome import GroupConfusion, TestedNetwork, drawn_figures, outcome_on
from mmkd_models.metrics.scores import METRICS, Scores, gain_metric, measures_of, scores_from_logits
from tests.edge.said import said

KINDS = pytest.mark.parametrize("kind", ["multi_label", "regression"])


def answers_of(dataset, seed):
    """Noisy answers to the test windows, some of them equal, so that thresholds meet ties."""
    labels, rng = dataset.split("test").labels, np.random.default_rng(seed)
    if dataset.spec.task.kind == "regression":
        return (labels[:, None] + rng.normal(0, 80, (len(labels), 1))).astype(np.float32)
    return np.round(2.0 * labels - 1 + rng.normal(0, 1.2, labels.shape), 1).astype(np.float32)


@KINDS
def test_scores_and_groups_are_those_of_the_windows(rigs, kind):
    test, logits = rigs[kind].split("test"), answers_of(rigs[kind], 0)
    judged = outcome_on(test, logits)
    expected = scores_from_logits(test.labels, logits, test.spec.task)
    for measure in measures_of(test.spec.task):
        assert judged.scores.metric(measure.name) == pytest.approx(expected.metric(measure.name), abs=1e-12)
    assert [one.group for one in judged.by_group] == [11, 12, 13]


@KINDS
def test_a_draw_is_the_score_of_its_groups_windows_written_one_after_another(rigs, kind):
    test, logits = rigs[kind].split("test"), answers_of(rigs[kind], 1)
    judged, groups = outcome_on(test, logits), [11, 12, 13]
    weights = np.array([[1, 1, 1], [3, 0, 0], [0, 2, 1], [1, 0, 2], [0, 0, 0]])
    for measure in measures_of(test.spec.task):
        drawn = drawn_figures(judged, groups, weights, measure.name)
        for row, figure in zip(weights[:-1], drawn, strict=False):
            rows = np.concatenate([np.flatnonzero(test.groups == group) for group in np.repeat(groups, row)])
            expected = scores_from_logits(test.labels[rows], logits[rows], test.spec.task)
            assert figure == pytest.approx(expected.metric(measure.name), abs=1e-9), measure.name
        assert np.isnan(drawn[-1])  # nothing was drawn


def test_a_label_that_no_drawn_window_has_and_a_target_that_never_changes_score_as_in_the_plain_scores():
    labels = judged_of(TaskSpec(kind="multi_label", labels=("a",)), {0: ([[0.0]], [[-1.0]]), 1: ([[1.0]], [[1.0]])})
    weights = np.array([[2, 0], [0, 2]])
    assert drawn_figures(labels, [0, 1], weights, "macro_f1").tolist() == [1.0, 1.0]
    assert drawn_figures(labels, [0, 1], weights, "mean_average_precision").tolist() == [1.0, 1.0]
    numbers = judged_of(
        TaskSpec(kind="regression", labels=("t",)), {0: ([[5.0], [5.0]], [[5.0], [6.0]]), 1: ([[1.0]], [[1.0]])}
    )
    assert drawn_figures(numbers, [0, 1], weights, "r2").tolist() == [0.0, 1.0]
    assert drawn_figures(numbers, [0, 1], weights, "pearson").tolist() == [0.0, 0.0]


def judged_of(task, windows):
    """From truth and answers by group."""
    parts = [{"group": group, "truth": truth, "answers": answers} for group, (truth, answers) in windows.items()]
    document = {"task": msgspec.to_builtins(task), "answers": parts}
    return msgspec.json.decode(json.dumps(document).encode(), type=TestedNetwork)


def test_gains_are_in_points_and_those_of_errors_in_the_targets_unit():
    task = TaskSpec(kind="regression", labels=("level",), unit="mm")
    truth = [[0.0], [10.0]]
    ours = judged_of(task, {0: (truth, [[1.0], [11.0]]), 1: (truth, [[1.0], [11.0]])})  # always 1 mm off
    theirs = judged_of(task, {0: (truth, [[2.0], [12.0]]), 1: (truth, [[5.0], [15.0]])})  # 2 mm, and 5 mm
    assert gain_over_seeds([ours], [theirs], "mae").mean == 2.5  # groups drawn alone: 1 mm and 4 mm
    assert gain_over_seeds([theirs], [ours], "mae").mean == -2.5
    assert gain_over_seeds([ours], [theirs], "r2").mean == pytest.approx((1 - 1 / 25) - (1 - 14.5 / 25))
    assert set(np.unique(gain_draws([ours], [theirs], "mae")).tolist()) == {1.0, 2.5, 4.0}
    task = TaskSpec(kind="multi_label", labels=("a", "b"))
    truth = [[1.0, 0.0], [0.0, 1.0]]
    right, half = [[3.0, -3.0], [-3.0, 3.0]], [[3.0, -3.0], [3.0, 3.0]]
    ours, theirs = (judged_of(task, dict.fromkeys(range(5), (truth, said))) for said in (right, half))
    gain = gain_over_seeds([ours], [theirs], "subset_accuracy")
    assert (gain.mean, gain.low, gain.high) == (50.0, 50.0, 50.0)


def test_what_is_kept_reads_back_and_classes_keep_their_form(rigs, machines):
    for dataset in (*rigs.values(), machines):
        test = dataset.split("test")
        logits = np.eye(3)[test.labels] if dataset is machines else answers_of(dataset, 2)
        judged = outcome_on(test, logits)
        assert msgspec.json.decode(msgspec.json.encode(judged), type=TestedNetwork) == judged
    named = msgspec.structs.replace(judged, confusions=(GroupConfusion(group="振動6", confusion=((1,),)),))
    assert msgspec.json.decode(msgspec.json.encode(named), type=TestedNetwork) == named
    document = json.loads(msgspec.json.encode(judged))
    assert list(document) == ["format_version", "scores", "by_group"]
    assert isinstance(judged.scores, Scores)
    assert document["scores"]["confusion"] == [[4, 0, 0], [0, 4, 0], [0, 0, 4]]


# ---- what figures are called and counted in


@pytest.mark.parametrize("kind", ["classification", "multi_label", "regression"])
def test_everything_that_validation_can_maximise_has_a_measure(kind):
    task = TaskSpec(kind=kind, labels=("a",), unit="mm" if kind == "regression" else None)
    names = [measure.name for measure in measures_of(task)]
    assert set(METRICS[kind]) <= set(names)
    units = {measure.name: (measure.unit, measure.gain_unit, measure.gain_scale) for measure in measures_of(task)}
    shares = dict.fromkeys(names, ("%", "points", 100.0))
    numbers = {"mae": ("mm", "mm", -1.0), "rmse": ("mm", "mm", -1.0), "r2": ("", "", 1.0), "pearson": ("", "", 1.0)}
    assert units == (numbers if kind == "regression" else shares)


def test_a_study_tells_gains_in_the_metric_and_those_of_numbers_in_the_unit():
    assert gain_metric(TaskSpec(labels=("a", "b")), "balanced_accuracy").name == "balanced_accuracy"
    assert gain_metric(TaskSpec(kind="multi_label", labels=("a",)), "subset_accuracy").name == "subset_accuracy"
    found = gain_metric(TaskSpec(kind="regression", labels=("a",), unit="%"), "r2")
    # A fill level is no share of right answers.
    assert (found.name, found.unit, found.is_fraction) == ("mae", "%", False)


def test_pages_of_classes_call_figures_as_the_training_side_does():
    ours = measures_of(TaskSpec(labels=("a", "b")))
    assert [msgspec.to_builtins(measure) for measure in ours] == [msgspec.to_builtins(one) for one in OF_CLASSES]
    assert set(Measure.__struct_fields__) == set(type(OF_CLASSES[0]).__struct_fields__)


@KINDS
def test_answers_that_are_not_finite_are_refused(rigs, kind):
    test = rigs[kind].split("test")
    logits = answers_of(rigs[kind], 0) * np.nan
    assert said(MmkdError, outcome_on, test, logits) == (
        "test windows: expected finite answers, got others; train again with a smaller learning rate"
    )
