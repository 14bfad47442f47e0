"""Several labels at once: figures by hand, what they are compared with, and models of single classes beside."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.data import write_dataset
from mmkd_models.evaluation.suites.combined import SetScores, describe, judge_combined
from mmkd_models.evaluation.suites.models import model_from_checkpoint
from mmkd_models.metrics.likelihood import probabilities_of
from tests.models.judging_rig import suite_inputs, under_test, write_random_student

VIB = ModalitySpec(name="acc", channels=("x",), rate_hz=4.0, samples=8)
LABELS = ("belt", "pump", "valve")
TASK = TaskSpec(kind="multi_label", labels=LABELS, threshold=0.75)
SINGLES = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
TRUTH = np.array([*SINGLES[:2], [1, 1, 0], [0, 1, 1], [1, 1, 0], [1, 0, 1], [1, 1, 1]])


def dataset(path, training=SINGLES, task=TASK, testing=TRUTH):
    def split(labels, name):
        values = np.random.default_rng(ord(name)).normal(size=(len(labels), 8, 1)) * 3
        return {"acc": values, "labels": labels, "groups": [f"{name}{n}" for n in range(len(labels))]}

    splits = {"train": split(training, "a"), "valid": split(training, "b"), "test": split(testing, "c")}
    return write_dataset(path / "rig", name="rig", labels=task, modalities=[VIB], splits=splits)


def model(name, sets):
    """Answers these sets; 0.74 is below the threshold of the task."""
    probabilities = np.where(sets > 0, 0.76, 0.74)
    return under_test(name, lambda windows: np.log(probabilities / (1 - probabilities)))


def judged(data):
    """The judged model misses one label in two windows and adds one to the healthy window; the other answers `belt`."""
    sets = TRUTH.copy()
    sets[0, 2], sets[3, 1], sets[6, 0] = 1, 0, 0
    inputs = suite_inputs(data, model("s", sets), model("belt", np.tile([1, 0, 0], (len(TRUTH), 1))))
    return inputs, inputs.names


def test_figures_by_the_number_of_labels_by_hand(tmp_path):
    inputs, names = judged(dataset(tmp_path))
    facts = judge_combined(inputs)
    # Set-F1 of s: two of five are 2 x 1 / (2 + 1) and 2 x 2 / (3 + 2). Of `belt`: 2/3, 0, 2/3, 2/3, 2/4.
    student, belt = (1 + 2 / 3 + 1 + 1 + 4 / 5) / 5, (3 * 2 / 3 + 1 / 2) / 5
    rows = {row.condition: (row.windows, row.models["s"], row.models["belt"]) for row in facts.rows}

    def scored(set_f1, exact, found):
        return SetScores(set_f1=pytest.approx(set_f1), exact=exact, found=found)

    several = (5, scored(student, 0.6, 9 / 11), scored(belt, 0.0, 4 / 11))
    assert rows == {
        "0 labels": (1, scored(0, 0, None), scored(0, 0, None)),
        "1 label": (1, scored(1, 1, 1), scored(1, 1, 1)),
        "2 labels": (4, scored(11 / 12, 0.75, 7 / 8), scored(0.5, 0, 3 / 8)),
        "3 labels": (1, scored(4 / 5, 0, 2 / 3), scored(0.5, 0, 1 / 3)),
        "two labels or more": several,
        "label sets without a training window": several,
    }
    assert facts.of_one_label == pytest.approx((4 * 2 / 3 + 1 / 2) / 5)
    result = describe(names, facts)
    low, high = facts.interval.low, facts.interval.high
    assert 2 / 3 <= low < student < high <= 1
    gain = facts.gains["belt"]
    assert gain.mean == pytest.approx(100 * (student - belt))
    assert result.verdict == (
        (
            f"On 5 windows with two labels or more s has 89.3% set-F1 (95 % CI {low:.1%} to {high:.1%}); answers "
            "of one label reach at most 63.3%"
        ),
        "0 of 4 labelled training windows have two labels or more",
        f"Compared with belt there: +39.3 points of set-F1 (95 % CI {gain.low:+.1f} to {gain.high:+.1f})",
    )
    assert result.record == ("windows with two labels or more",)
    assert result.tables[0].rows[:3] == (
        ("0 labels", "1", "0.0 / 0.0 / -", "0.0 / 0.0 / -"),
        ("1 label", "1", "100.0 / 100.0 / 100.0", "100.0 / 100.0 / 100.0"),
        ("2 labels", "4", "91.7 / 75.0 / 87.5", "50.0 / 0.0 / 37.5"),
    )


def test_combinations_in_training_are_counted_and_few_groups_have_no_interval(tmp_path):
    inputs, names = judged(dataset(tmp_path, np.array([*SINGLES, [1, 1, 0]])))
    facts = judge_combined(replace(inputs, windows=replace(inputs.windows, groups=np.arange(len(TRUTH)) % 4)))
    assert facts.rows[-1].windows == 3  # two of the five sets are belt and pump, as a training window
    result = describe(names, facts)
    assert result.record == ()
    assert result.verdict == (
        (
            "On 5 windows with two labels or more s has 89.3% set-F1 (too few groups for an interval); answers of one "
            "label reach at most 63.3%"
        ),
        "1 of 5 labelled training windows have two labels or more",
        "Compared with belt there: +39.3 points of set-F1 (too few for an interval)",
    )


def test_a_model_of_single_classes_answers_its_likeliest_class_alone(tmp_path, student_checkpoint):
    windows = dataset(tmp_path, SINGLES[:3, :2], msgspec.structs.replace(TASK, labels=("pump", "belt")), TRUTH[:, :2])
    path, names = tmp_path / "single.ckpt", ("fine", "belt", "pump")
    classes = dataset(tmp_path / "classes", np.arange(3), TaskSpec(labels=names), np.arange(6) % 3)
    write_random_student(path, student_checkpoint, classes, VIB, seed=4)
    judging = windows.split("test")
    as_classes = model_from_checkpoint(str(path), classes.split("test"), "").answers(judging)
    answers = model_from_checkpoint(str(path), judging, "").answers(judging)
    likeliest = np.array(names)[as_classes.argmax(axis=1)]
    assert len(set(likeliest.tolist())) > 1
    np.testing.assert_array_equal(
        probabilities_of(answers, kind="multi_label") >= 0.75, likeliest[:, None] == np.array(["pump", "belt"])
    )
    unknown = dataset(tmp_path / "other", SINGLES)  # has a label that no class is named after
    with pytest.raises(UsageError, match="expected the labels belt, pump, valve of the dataset, got classes fine, "):
        model_from_checkpoint(str(path), unknown.split("test"), "")
