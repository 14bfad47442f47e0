"""Datasets of sound and video, and of every kind of task."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from mmkd_app.commands.data import run_data
from mmkd_edge.errors import DatasetError, UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.data import Recording, check_dataset, open_dataset, write_dataset, write_recordings
from mmkd_models.data.importing.window_files import import_windows
from mmkd_models.data.labels import hide_labels, is_labelled
from tests.edge.said import said

VOICE = ModalitySpec(name="voice", kind="audio", channels=("mono",), rate_hz=800.0, samples=32)
LIPS = ModalitySpec(name="lips", kind="video", channels=("r", "g", "b"), rate_hz=25.0, samples=8, height=3, width=5)
COUNTS = {"train": 6, "valid": 4, "test": 4}


@pytest.fixture
def talk():
    """Noise, so that a wrong row, frame or sample shows; two classes in turn, a group for each window."""
    rng, splits = np.random.default_rng(5), {}
    for split, first in (("train", 0), ("valid", 6), ("test", 10)):
        number = first + np.arange(COUNTS[split])
        splits[split] = {
            "voice": rng.integers(-32768, 32767, size=(len(number), *VOICE.shape), dtype=np.int16),
            "lips": rng.integers(0, 256, size=(len(number), *LIPS.shape), dtype=np.uint8),
            "labels": number % 2,
            "groups": number,
        }
    return splits


def written(path, talk):
    return write_dataset(path, name="talk", labels=["yes", "no"], modalities=[VOICE, LIPS], splits=talk)


def test_sound_of_int16_is_stored_so_and_read_from_minus_1_to_1(tmp_path, talk):
    talk["train"]["voice"][0, :3, 0] = [16384, -32768, -8192]
    dataset = written(tmp_path / "talk", talk)
    assert np.load(tmp_path / "talk" / "train" / "voice.npy").dtype == np.int16
    got = dataset.split("train").take([0])["voice"]
    assert (got.dtype, got.shape) == (np.float32, (1, 32, 1))
    assert got[0, [0, 2], 0].tolist() == [0.5, -0.25]
    assert np.isnan(got[0, 1, 0])


def test_video_is_bytes_from_the_file_to_the_window(tmp_path, talk):
    dataset = written(tmp_path / "talk", talk)
    got = dataset.split("valid").take([2, 0])["lips"]
    assert type(got) is np.ndarray
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, talk["valid"]["lips"][[2, 0]])
    assert repr(dataset).endswith("test 4: voice (32, 1), lips (8, 3, 5, 3))")


def missing_frames(talk):
    """Frames 1 and 2 of train window 3 are missing, and all of test window 0."""
    for split, row, frames in (("train", 3, [1, 2]), ("test", 0, slice(None))):
        mask = np.zeros(talk[split]["lips"].shape, dtype=bool)
        mask[row, frames] = True
        talk[split]["lips"] = np.ma.MaskedArray(talk[split]["lips"], mask=mask)
    return talk


def test_missing_frames_are_masked_as_a_whole_and_only_where_some_are_missing(tmp_path, talk):
    dataset = written(tmp_path / "talk", missing_frames(talk))
    assert np.load(tmp_path / "talk" / "train" / "lips.frames.npy")[3].tolist() == [1, 0, 0, 1, 1, 1, 1, 1]
    assert not (tmp_path / "talk" / "valid" / "lips.frames.npy").exists()
    train = dataset.split("train")
    assert type(train.take([0, 1])["lips"]) is np.ndarray
    got = train.take([0, 3])["lips"]
    assert isinstance(got, np.ma.MaskedArray)
    assert got.mask.all(axis=(2, 3, 4)).tolist() == [[False] * 8, [False, True, True] + [False] * 5]
    assert got.mask.any(axis=(2, 3, 4)).sum() == 2
    mixed = dataset.everything().take([3, 6, 10])["lips"]  # of all three splits
    assert mixed.mask.any(axis=(2, 3, 4)).sum(axis=1).tolist() == [2, 0, 8]
    np.testing.assert_array_equal(mixed.data[1], talk["valid"]["lips"][0])


def test_windows_are_cut_from_recordings_of_sound_and_video_at_any_offset(tmp_path):
    rng, given = np.random.default_rng(7), []
    for number, split in enumerate(split for split, count in COUNTS.items() for _ in range(count)):
        voice = rng.integers(-30000, 30000, size=(400, 1), dtype=np.int16)  # half a second, as 12 frames
        lips = rng.integers(0, 256, size=(12, *LIPS.shape[1:]), dtype=np.uint8)
        samples = {"voice": voice, "lips": lips}
        given.append(Recording(samples=samples, label=number % 2, group=number, split=split))
    frames = given[1].samples["lips"]
    mask = np.arange(12)[:, None, None, None] + 0 * frames.astype(int) == 9
    given[1] = replace(given[1], samples={**given[1].samples, "lips": np.ma.MaskedArray(frames, mask=mask)})
    dataset = write_recordings(
        tmp_path / "line", name="line", labels=["yes", "no"], modalities=[VOICE, LIPS], recordings=given, hop_s=0.08
    )
    assert dataset.spec.splits == {"train": 18, "valid": 12, "test": 12}  # at 0, 0.08 and 0.16 s, 0 to 4 frames
    taken = dataset.split("train").take([3, 5], shift_s=[0.04, 0.0])  # the second recording from 0.04 and from 0.16 s
    np.testing.assert_array_equal(taken["voice"][0], given[1].samples["voice"][32:64] / np.float32(32768))
    assert isinstance(taken["lips"], np.ma.MaskedArray)
    np.testing.assert_array_equal(taken["lips"].data[0], frames[1:9])
    assert taken["lips"].mask.all(axis=(2, 3, 4)).tolist() == [[False] * 8, [False] * 5 + [True] + [False] * 2]
    np.testing.assert_array_equal(
        open_dataset(tmp_path / "line").split("train").take([0])["lips"][0], given[0].samples["lips"][:8]
    )


def test_the_check_names_clipped_sound_and_windows_without_frames(tmp_path, talk):
    for number in range(5):
        talk["train"]["voice"][number, 4:8] = 32767
    written(tmp_path / "talk", missing_frames(talk))
    sentences = [finding.sentence for finding in check_dataset(tmp_path / "talk").findings]
    assert sentences == [
        "channel voice mono stays at its lowest or highest value in 4.5% of the samples, in 5 windows",
        "lips: no value in 1 window of 14 (7.1%), in group 10",
    ]


def test_the_same_window_in_two_splits_is_refused_whatever_lies_in_its_missing_frames(tmp_path, talk):
    for split in ("train", "test"):
        mask = np.zeros(talk[split]["lips"].shape, dtype=bool)
        mask[0, 3] = True
        talk[split]["lips"] = np.ma.MaskedArray(talk[split]["lips"], mask=mask)
        talk[split]["lips"][0] = np.ma.MaskedArray(talk["train"]["lips"].data[0], mask=mask[0])
        talk[split]["lips"].data[0, 3] = len(split)
    talk["test"]["voice"][0] = talk["train"]["voice"][0]
    problem = said(DatasetError, written, tmp_path / "talk", talk)
    assert "train window 0 and test window 0 are the same window (1 in all)" in problem


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("voice", np.uint8, "floats from -1 to 1 or int16, got uint8"),
        ("lips", np.float32, "uint8, got float32"),
        ("lips", np.int16, "uint8, got int16"),
    ],
)
def test_a_dtype_that_is_none_of_the_kind(tmp_path, talk, name, dtype, expected):
    talk["valid"][name] = np.zeros(talk["valid"][name].shape, dtype=dtype)
    assert said(DatasetError, written, tmp_path / "talk", talk) == (
        f"dataset {tmp_path}/talk: splits['valid'][{name!r}]: expected {expected}; convert it"
    )
    assert not (tmp_path / "talk").exists()


def test_presence_that_is_neither_0_nor_1_and_a_video_that_is_called_a_series(tmp_path, talk):
    written(tmp_path / "talk", missing_frames(talk))
    file = tmp_path / "talk" / "train" / "lips.frames.npy"
    np.save(file, np.load(file) * np.uint8(255))
    assert said(DatasetError, open_dataset, tmp_path / "talk") == (
        f"dataset {tmp_path}/talk: train/lips.frames.npy: expected 1 (the frame is there) or 0 (it is missing), got"
        " 255; correct it"
    )
    np.save(file, np.load(file) // np.uint8(255))
    document = json.loads((tmp_path / "talk" / "dataset.json").read_text())
    document["modalities"][1] = {"name": "lips", "channels": ["r", "g", "b"], "rate_hz": 25.0, "samples": 8}
    (tmp_path / "talk" / "dataset.json").write_text(json.dumps(document))
    assert "train/lips.npy: expected float32, got uint8" in said(DatasetError, open_dataset, tmp_path / "talk")


def npz_of(talk):
    joined = {key: np.concatenate([talk[split][key] for split in COUNTS]) for key in talk["train"]}
    return {
        "x_voice": joined["voice"],
        "kind_voice": "audio",
        "rate_voice": 800.0,
        "channels_voice": ["mono"],
        "x_lips": joined["lips"],
        "rate_lips": 25.0,
        "channels_lips": ["r", "g", "b"],
        "y": joined["labels"],
        "group": joined["groups"],
        "classes": ["yes", "no"],
        "split": np.repeat([0, 1, 2], list(COUNTS.values())),
    }


def test_the_interchange_form_carries_sound_video_and_missing_frames(tmp_path, talk):
    frames = np.ones((14, 8), dtype=np.uint8)
    frames[12, 5] = 0
    np.savez(tmp_path / "talk.npz", **npz_of(talk), frames_lips=frames)
    dataset, form = import_windows(tmp_path / "talk.npz", tmp_path / "talk")
    assert form.left_out == []
    assert dataset.spec.modalities == (VOICE, LIPS)
    got = dataset.split("test").take([2])
    assert got["lips"].mask.all(axis=(2, 3, 4)).tolist() == [[False] * 5 + [True, False, False]]
    np.testing.assert_array_equal(got["voice"][0], talk["test"]["voice"][2] / np.float32(32768))


_VOICE = "expected series or audio of an array of shape (14, 32, 1), got 'a'; correct it, or the array"
_LIPS = "expected video of an array of shape (14, 8, 3, 5, 3), got 'audio'; correct it, or the array"
_FRAMES = "expected 1 or 0 for each frame, (14, 8), got uint8 (14, 9); reshape it"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kind_lips", "audio", _LIPS),
        ("kind_voice", "a", _VOICE),
        ("frames_lips", np.ones((14, 9), dtype=np.uint8), _FRAMES),
    ],
)
def test_an_interchange_file_that_contradicts_itself(tmp_path, talk, key, value, message):
    np.savez(tmp_path / "talk.npz", **{**npz_of(talk), key: value})
    problem = said(DatasetError, import_windows, tmp_path / "talk.npz", tmp_path / "talk")
    assert problem == f"{tmp_path}/talk.npz: {key}: {message}"


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
    return re.sub(r"^dataset \S+?/rig: ", "", said(DatasetError, write, splits, labels=task))


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


TASKS = {
    "labels': expected the name of one target, got 2; make one dataset for each target": {"labels": ("a", "b")},
    "unit': expected none for multi_label, got '%'; only regression has it": {"kind": "multi_label", "unit": "%"},
    "threshold': expected a probability above 0 and below 1, got 1.0; correct it": {
        "kind": "multi_label",
        "threshold": 1.0,
    },
    "range': expected [low, high] with low below high, got [5.0, 5.0]; swap or correct it": {"range": (5.0, 5.0)},
}


@pytest.mark.parametrize(("says", "task"), TASKS.items())
def test_a_task_that_contradicts_itself(write, splits, says, task):
    task = TaskSpec(**{"kind": "regression", "labels": ("a",), **task})
    assert _refusal(write, splits, task) == f"dataset.json: 'task.{says}"


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
    assert open_dataset(tmp_path / "rig").spec.task == TaskSpec(kind="regression", labels=("cooler",), unit="%")
    np.testing.assert_array_equal(open_dataset(tmp_path / "rig").split("train").labels, np.float32([20, 100, 3, 20]))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"target": "oil"}, "target 'oil' is not in it; choose one of cooler, flag"),
        ({"unit": "%"}, "expected a --target that has it, got none; name the target"),
    ],
)
def test_targets_that_cannot_be_imported(archive, tmp_path, options, problem):
    assert said(UsageError, import_windows, archive, tmp_path / "rig", **options).partition(": ")[2] == problem
