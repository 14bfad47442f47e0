"""Datasets of several labels and of numbers: what they hold, what is refused, how labels are shared out."""

import re

import numpy as np
import pytest

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_edge.spec import TaskSpec
from mmkd_models.commands.data import run_data
from mmkd_models.data import open_dataset
from mmkd_models.data.importing.interchange import import_interchange
from mmkd_models.data.labels import hide_labels, is_labelled

STATES = TaskSpec(kind="multi_label", labels=("hot", "worn"))
LEVEL = TaskSpec(kind="regression", labels=("level",), unit="%", range=(0.0, 100.0))


@pytest.fixture
def states(splits):
    """The rig with two labels: on in every second and in every third window; three windows of train unlabelled."""
    for arrays in splits.values():
        count = len(arrays["labels"])
        arrays["labels"] = np.stack([np.arange(count) % 2, np.arange(count) % 3 == 0], axis=1)
    splits["train"]["labels"][:3] = 255
    return splits


@pytest.fixture
def levels(splits):
    """The rig with a target that grows by a quarter from window to window; three windows of train unlabelled."""
    for arrays in splits.values():
        arrays["labels"] = np.arange(len(arrays["labels"])) / 4
    splits["train"]["labels"][:3] = np.nan
    return splits


def _refusal(write, splits, task):
    with pytest.raises(DatasetError) as error:
        write(splits, labels=task)
    return re.sub(r"^dataset \S+?/rig: ", "", str(error.value))


@pytest.mark.parametrize(
    ("arrays", "task", "dtype", "rows"),
    [
        ("states", STATES, np.uint8, [[255, 255], [1, 1], [0, 0], [1, 0]]),
        ("levels", LEVEL, np.float32, [np.nan, 0.75, 1.0, 1.25]),
    ],
)
def test_labels_come_back_as_they_were_written(request, write, arrays, task, dtype, rows):
    train = open_dataset(write(request.getfixturevalue(arrays), labels=task).path).split("train")
    assert (train.labels.dtype, len(train.labels)) == (dtype, 24)
    np.testing.assert_array_equal(train.labels[2:6], np.array(rows, dtype=dtype))
    np.testing.assert_array_equal(np.flatnonzero(~train.labelled), [0, 1, 2])


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (
            TaskSpec(kind="regression", labels=("a", "b")),
            "'task.labels': expected the name of one target, got 2; make one dataset for each target",
        ),
        (
            TaskSpec(kind="multi_label", labels=("a",), unit="%"),
            "'task.unit': expected none for multi_label, got '%'; only regression has it",
        ),
        (
            TaskSpec(kind="multi_label", labels=("a",), threshold=1.0),
            "'task.threshold': expected a probability above 0 and below 1, got 1.0; correct it",
        ),
        (
            TaskSpec(kind="regression", labels=("a",), range=(5.0, 5.0)),
            "'task.range': expected [low, high] with low below high, got [5.0, 5.0]; swap or correct it",
        ),
    ],
)
def test_a_task_that_contradicts_itself(write, splits, task, problem):
    assert _refusal(write, splits, task) == f"dataset.json: {problem}"


def test_a_label_that_is_neither_on_nor_off(write, states):
    states["valid"]["labels"] = states["valid"]["labels"].astype(np.uint8)
    states["valid"]["labels"][4, 1] = 255
    assert _refusal(write, states, STATES) == (
        "valid/labels.npy: expected a row of 0 (off) and 1 (on), or all 255 (unlabelled), got [0, 255] in row 4 (1 in"
        " all); correct the labels"
    )
    states["valid"]["labels"] = np.full((12, 2), 2)
    assert _refusal(write, states, STATES) == (
        "splits['valid']['labels']: expected numbers that fit uint8, got int64; convert it"
    )


def test_a_target_that_cannot_be(write, levels):
    levels["test"]["labels"][3] = 101
    assert _refusal(write, levels, LEVEL) == (
        "test/labels.npy: expected NaN (unlabelled) or a number from 0 to 100, got 101.0 in row 3 (1 in all); correct"
        " the targets or 'task.range' in dataset.json"
    )
    levels["test"]["labels"][3] = np.inf
    assert _refusal(write, levels, TaskSpec(kind="regression", labels=("level",))) == (
        "test/labels.npy: expected NaN (unlabelled) or a number, got inf in row 3 (1 in all); correct the targets"
    )
    levels["test"]["labels"][3] = 1.0
    levels["train"]["labels"] = np.full(24, 3.5)
    assert _refusal(write, levels, LEVEL) == (
        "target 'level': expected two different numbers or more in train, got one; move groups, or label more"
    )


def test_labels_that_teach_nothing(write, states):
    states["train"]["labels"] = np.tile([[1, 0]], (24, 1))
    teaches = "in every labelled window of train; move groups, or remove the label"
    assert _refusal(write, states, STATES).splitlines()[1:] == [
        f"  - label 'hot' (0) is on {teaches}",
        f"  - label 'worn' (1) is off {teaches}",
    ]


def test_hidden_labels_are_unlabelled_in_every_form():
    keep = np.array([True, False])
    for labels in (np.array([3, 4]), np.array([[0, 1], [1, 0]], dtype=np.uint8), np.float32([0.5, 1.5])):
        hidden = hide_labels(labels, keep)
        assert hidden.dtype == labels.dtype
        np.testing.assert_array_equal(is_labelled(hidden), keep)
        np.testing.assert_array_equal(hidden[0], labels[0])


@pytest.fixture
def archive(tmp_path, arrays):
    """12 windows with two targets: cooler 3, 20 or 100, and a flag, unknown in the last window."""
    targets = np.stack([np.tile([3.0, 20.0, 100.0], 4), np.tile([0.0, 1.0], 6)], axis=1)
    targets[11, 1] = np.nan
    arrays |= {"targets": targets, "target_names": np.array(["cooler", "flag"])}
    np.savez(tmp_path / "rig.npz", **arrays)
    return tmp_path / "rig.npz"


def test_one_target_is_imported_as_a_regression(archive, tmp_path):
    with pytest.raises(SystemExit, match="0"):
        run_data(["import", str(archive), "-o", str(tmp_path / "rig"), "--target", "cooler", "--unit", "%"])
    spec = open_dataset(tmp_path / "rig").spec
    assert spec.task == TaskSpec(kind="regression", labels=("cooler",), unit="%")
    labels = open_dataset(tmp_path / "rig").split("train").labels
    np.testing.assert_array_equal(labels, np.float32([20, 100, 3, 20]))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"target": "oil"}, "target 'oil' is not in it; choose one of cooler, flag"),
        ({"unit": "%"}, "expected a --target that has it, got none; name the target"),
    ],
)
def test_targets_that_cannot_be_imported(archive, tmp_path, options, problem):
    with pytest.raises(UsageError) as error:
        import_interchange(archive, tmp_path / "rig", **options)
    assert str(error.value).partition(": ")[2] == problem
