"""Every broken rule of a dataset directory, with its whole message."""

import json
import os
import pickle

import numpy as np
import pytest

from mmkd_edge.errors import DatasetError
from mmkd_models.data import open_dataset
from mmkd_models.data.checking.findings import check_dataset
from tests.edge.said import LFS_POINTER, said

_CURE = "; correct the file, docs/datasets.md describes every key"
_NAME = (
    "expected a name of letters, digits and _ that starts with a letter and is none of labels, groups, folds, lengths,"
    " splits, times, starts, episodes; rename it"
)


def _refusal(path):
    message = said(DatasetError, open_dataset, path)
    assert said(DatasetError, check_dataset, path) == message
    return message.replace(str(path), "DIR")


def _update(path, key, values):
    """Update the part of `dataset.json` at a key such as `modalities.0`; None removes a value."""
    document = part = json.loads((path / "dataset.json").read_text())
    for name in key.split(".") if key else ():
        part = part[int(name) if name.isdecimal() else name]
    part.update(values)
    for name in [name for name, value in values.items() if value is None]:
        del part[name]
    (path / "dataset.json").write_text(json.dumps(document))


def test_links_are_followed_to_folders_and_regular_files_and_to_nothing_else(rig, tmp_path):
    labels = rig.path / "train" / "labels.npy"
    labels.rename(tmp_path / "labels.npy")
    labels.symlink_to(tmp_path / "labels.npy")
    (tmp_path / "link").symlink_to(rig.path)
    assert open_dataset(tmp_path / "link").sha256 == open_dataset(rig.path).sha256 == rig.sha256
    for place in (labels, rig.path / "dataset.json"):
        for target in ("/dev/zero", place.name, "pipe"):  # endless, of itself, and waiting for a writer
            place.unlink()
            if target == "pipe":
                os.mkfifo(place)
            else:
                place.symlink_to(target)
            assert (place.name if place == labels else "got one without dataset.json") in _refusal(rig.path)
        place.unlink()
        place.symlink_to(tmp_path / "labels.npy")


def test_a_path_without_a_dataset(tmp_path):
    assert _refusal(tmp_path / "nothing") == "DIR: expected a dataset directory, found none there; check the path"
    assert _refusal(tmp_path) == (
        "DIR: expected a dataset directory, got one without dataset.json; make one with mmkd-data import or"
        " write_dataset"
    )
    for name, cure in (
        ("student.ckpt", "a model; name the dataset here, and the model before it where a command takes both"),
        ("log.csv", "a file; make a dataset of it with mmkd-data import"),
    ):
        (tmp_path / name).touch()
        assert _refusal(tmp_path / name) == f"DIR: expected a dataset directory, got {cure}"


@pytest.mark.parametrize(
    ("key", "values", "says"),
    [
        ("modalities.1", {"colour": "red"}, f"Object contains unknown field `colour` - at `$.modalities[1]`{_CURE}"),
        ("", {"name": None}, f"Object missing required field `name`{_CURE}"),
        ("", {"splits": {"train": "many"}}, f"Expected `int`, got `str` - at `$.splits[...]`{_CURE}"),
        ("task", {"kind": "multi-label"}, f"Invalid enum value 'multi-label' - at `$.task.kind`{_CURE}"),
        (
            "",
            {"format_version": 2, "novelty": True},  # a newer format is refused before its unknown keys
            "expected format_version 1, got 2; use the mmkd-edge that wrote it, or a newer one",
        ),
    ],
)
def test_a_document_that_cannot_be_read(rig, key, values, says):
    _update(rig.path, key, values)
    assert _refusal(rig.path) == f"DIR/dataset.json: {says}"


@pytest.mark.parametrize("content", ["{", "[]", "\udcff", "", '{"name": ' + "[" * 100_000])
def test_a_dataset_json_that_is_no_json_object(rig, content):
    (rig.path / "dataset.json").write_text(content, errors="surrogateescape")
    message = _refusal(rig.path)
    assert message.startswith("DIR/dataset.json: ")
    assert message.endswith(_CURE)


VIDEO = {"kind": "video", "channels": ["gray"], "width": 8, "height": 8}
MODALITIES = {
    "expected a rate_hz above 0, got 0.0; give samples per second": {"rate_hz": 0.0},
    "expected samples of 1 or more, got 0; give the length of one window": {"samples": 0},
    "expected range [low, high] with low below high, got [5.0, 5.0]; swap or correct it": {"range": [5, 5]},
    "expected one or more different channels, got ['x', 'x']; name each column": {"channels": ["x", "x"]},
    "expected a height from 1 to 1024 pixels, got none; give that of the stored frames": VIDEO | {"height": None},
    "expected the channels gray, or r, g and b, got ['b', 'g', 'r']; frames have no others": VIDEO
    | {"channels": ["b", "g", "r"]},
    "expected no range of kind 'video', got [0.0, 255.0]; it is 0 to 255: remove it": VIDEO | {"range": [0, 255]},
    'expected no width of kind \'series\', got 8; remove it, or say "kind": "video"': {"width": 8},
    "expected a rate_hz of sound up to 192000, got 384000; resample it": {"kind": "audio", "rate_hz": 384000},
    "expected no normalise of kind 'audio', got 'per_group'; only series have it": {
        "kind": "audio",
        "normalise": "per_group",
    },
}


@pytest.mark.parametrize(
    ("problem", "changed"), [*MODALITIES.items(), *((_NAME, {"name": name}) for name in ("../vib", "labels", ""))]
)
def test_a_modality_that_makes_no_sense(rig, problem, changed):
    _update(rig.path, "modalities.0", changed)
    name = changed.get("name", "vib")
    assert _refusal(rig.path) == f"dataset DIR: dataset.json: 'modalities[0]' ({name}): {problem}"


def test_splits_that_make_no_sense(rig):
    _update(rig.path, "", {"splits": {"train": 24, "valid": 0, "test": 12}})
    assert _refusal(rig.path) == (
        "dataset DIR: dataset.json: split 'valid' is empty; expected one window or more; move whole groups into it"
    )
    _update(rig.path, "", {"splits": {"train": 1, "dev": 1}})
    assert _refusal(rig.path) == (
        "dataset DIR: dataset.json: 'splits': expected train, valid and test, got dev, train; give the number of"
        " windows of each"
    )


def test_all_problems_of_dataset_json_come_together(rig):
    vib = json.loads((rig.path / "dataset.json").read_text())["modalities"][0]
    _update(rig.path, "task", {"labels": ["idle", "idle"]})
    scale = {"sound": [1.0], "vib": [1.0, 0.0, 1.0]}
    _update(rig.path, "", {"modalities": [vib, vib], "recordings": {"hop_s": 0, "scale": scale}})
    twice = "expected two or more different classes, got ['idle', 'idle']; name each class"
    assert _refusal(rig.path).split("\n  - ") == [
        "dataset DIR: 5 problems",
        f"dataset.json: 'task.labels': {twice}",
        "dataset.json: 'modalities': 'vib' is there 2 times; give each its own name",
        "dataset.json: 'recordings.hop_s': expected seconds above 0, got 0.0; correct it",
        "dataset.json: 'recordings.scale': modality 'sound' is not in 'modalities'; remove it",
        "dataset.json: 'recordings.scale.vib': expected 3 numbers above 0, got [1.0, 0.0, 1.0]; give one per channel",
    ]


def test_names_that_would_mislead_whoever_reads_them(rig):
    _update(rig.path, "task", {"labels": ["\x1b[2Jok", "b", "c"]})
    _update(rig.path, "modalities.0", {"channels": ["x\ny", "y", "z"]})
    expected = "expected text without control characters and line breaks, got"
    assert _refusal(rig.path).split("\n  - ") == [
        "dataset DIR: 2 problems",
        f"dataset.json: 'task.labels': {expected} '\\x1b[2Jok'; rename it",
        f"dataset.json: 'modalities[0].channels': {expected} 'x\\ny'; rename it",
    ]


def test_recordings_that_nothing_describes(line):
    _update(line.path, "", {"recordings": None})
    assert _refusal(line.path) == (
        "dataset DIR: dataset.json: 'recordings': expected how windows are cut, since recordings/ is there; add it"
    )


_SPLIT_FILES = ("valid/temp.npy", *(f"{split}/labels.npy" for split in ("train", "valid", "test")))
_RECORDING_FILES = tuple(f"recordings/{name}.npy" for name in ("splits", "labels", "lengths", "vib"))


@pytest.mark.parametrize("file", [*_SPLIT_FILES, *_RECORDING_FILES])
def test_a_missing_file_is_one_problem(request, file):
    path = request.getfixturevalue("rig" if file in _SPLIT_FILES else "line").path
    (path / file).unlink()
    assert _refusal(path) == f"dataset DIR: {file}: the file is missing; write it or take it out of dataset.json"


_SHAPE = "expected shape (N, T, C)=(12, 20, 3), got"
ARRAYS = {
    f"test/vib.npy: {_SHAPE} (12, 19, 3); correct the array or dataset.json": np.zeros((12, 19, 3), np.float32),
    f"test/vib.npy: {_SHAPE} (12, 3, 20); transpose it": np.zeros((12, 3, 20), np.float32),
    "train/labels.npy: expected -1 (unlabelled) or a class from 0 to 2, got 3 in row 4 (2 in all); correct the labels"
    " or add the classes to dataset.json": np.array([0] * 4 + [3, 0, 0, -2] + [0] * 16),
    "valid/labels.npy: rows of valid are unlabelled (-1), 5 of 12; only train may have some; label them, move their"
    " groups to train, or take all labels of valid out": np.array([-1] * 5 + [0] * 7),
    "group 3 is in train and test (1 in all); splits never share a group: move all its windows into one"
    " split": np.repeat([3, 7], 6),
}


@pytest.mark.parametrize(("says", "array"), ARRAYS.items(), ids=range(len(ARRAYS)))
def test_an_array_that_breaks_a_rule(rig, says, array):
    np.save(rig.path / ("test/groups.npy" if says.startswith("group") else says.partition(":")[0]), array)
    assert _refusal(rig.path) == f"dataset DIR: {says}"


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_whole_split_may_be_without_labels(rig, splits, split):
    np.save(rig.path / split / "labels.npy", np.full_like(splits[split]["labels"], -1))
    check_dataset(rig.path)
    assert not open_dataset(rig.path).split(split).labelled.any()


def test_groups_and_folds_that_do_not_fit(rig):
    for split, count in (("train", 24), ("valid", 12), ("test", 12)):
        np.save(rig.path / split / "folds.npy", np.arange(count) % 4)
    assert _refusal(rig.path) == (
        "dataset DIR: group 0 is in folds 0 and 1 and 2 and 3 (8 in all); folds hold whole groups:"
        " give all its windows one fold"
    )
    for file in rig.path.glob("*/folds.npy"):
        file.unlink()
    (rig.path / "valid" / "groups.npy").unlink()
    assert _refusal(rig.path) == (
        "dataset DIR: valid/groups.npy: missing while another split has groups.npy; write it for all splits or none"
    )
    _update(rig.path, "modalities.1", {"normalise": "per_group"})
    for file in rig.path.glob("*/groups.npy"):
        file.unlink()
    assert _refusal(rig.path) == (
        "dataset DIR: modality 'temp' is normalised per group, which needs groups.npy; write the groups"
    )


class _Trap:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


def test_a_pickle_named_npy_is_not_run(rig):
    (rig.path / "train" / "temp.npy").write_bytes(pickle.dumps(_Trap()))
    message = _refusal(rig.path)
    assert message.startswith("dataset DIR: train/temp.npy: expected a .npy array, got something numpy cannot read (")
    assert message.endswith("); write it again")


def test_a_git_lfs_pointer_is_no_array(rig):
    (rig.path / "train" / "temp.npy").write_text(LFS_POINTER)
    assert _refusal(rig.path) == (
        "dataset DIR: train/temp.npy: expected a .npy array, got a Git LFS pointer in place of the file; run git lfs"
        " pull in its repository"
    )


def test_all_problems_of_the_arrays_come_together(rig, splits):
    (rig.path / "test" / "labels.npy").unlink()
    np.save(rig.path / "train" / "labels.npy", splits["train"]["labels"].astype(np.int32))
    np.save(rig.path / "train" / "vib.npy", np.zeros((3, 20, 3)))
    assert _refusal(rig.path).split("\n  - ") == [
        "dataset DIR: 4 problems",
        "test/labels.npy: the file is missing; write it or take it out of dataset.json",
        "train/vib.npy: expected float32, got float64; save it with .astype('float32')",
        "train/vib.npy: expected shape (N, T, C)=(24, 20, 3), got (3, 20, 3); correct the array or dataset.json",
        "train/labels.npy: expected int64, got int32; save it with .astype('int64')",
    ]
