"""Every broken rule of a dataset directory, with its whole message."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from mmkd_edge.errors import DatasetError
from mmkd_models.data import open_dataset
from mmkd_models.data.checking.check import check_dataset


def _refusal(path) -> str:
    with pytest.raises(DatasetError) as error:
        open_dataset(path)
    with pytest.raises(DatasetError) as checked:
        check_dataset(path)
    assert str(checked.value) == str(error.value)  # what cannot be opened, check refuses in the same words
    return str(error.value)


def test_a_path_that_is_not_there(tmp_path):
    path = tmp_path / "nothing"
    assert _refusal(path) == f"{path}: expected a dataset directory, found none there; check the path"


def test_a_directory_without_dataset_json(tmp_path):
    assert _refusal(tmp_path) == (
        f"{tmp_path}: expected a dataset directory, got one without dataset.json;"
        " make one with mmkd-data import or write_dataset"
    )


def test_an_unknown_key_is_named_with_its_place(rig, edit):
    edit(lambda document: document["modalities"][1].update(colour="red"))
    assert _refusal(rig.path) == (
        f"{rig.path}/dataset.json: Object contains unknown field `colour` - at `$.modalities[1]`;"
        " correct the file, docs/datasets.md describes every key"
    )


def test_a_missing_key_and_a_wrong_type_are_named_with_their_place(rig, edit):
    edit(lambda document: document.pop("name"))
    assert _refusal(rig.path) == (
        f"{rig.path}/dataset.json: Object missing required field `name`;"
        " correct the file, docs/datasets.md describes every key"
    )
    edit(lambda document: document.update(name="rig", splits={"train": "many"}))
    assert _refusal(rig.path) == (
        f"{rig.path}/dataset.json: Expected `int`, got `str` - at `$.splits[...]`;"
        " correct the file, docs/datasets.md describes every key"
    )


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b""])
def test_a_dataset_json_that_is_no_json_object(rig, content):
    (rig.path / "dataset.json").write_bytes(content)
    message = _refusal(rig.path)
    assert message.startswith(f"{rig.path}/dataset.json: ")
    assert message.endswith("; correct the file, docs/datasets.md describes every key")


def test_a_newer_format_is_refused_before_its_unknown_keys(rig, edit):
    edit(lambda document: document.update(format_version=2, novelty=True))
    assert _refusal(rig.path) == (
        f"{rig.path}/dataset.json: expected format_version 1, got 2; use the mmkd-edge that wrote it, or a newer one"
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"kind": "video", "channels": ["gray"], "width": 8},
            "expected a height from 1 to 1024 pixels, got none; give that of the stored frames",
        ),
        (
            {"kind": "video", "channels": ["gray"], "width": 8, "height": 4320},
            "expected a height from 1 to 1024 pixels, got 4320; give that of the stored frames",
        ),
        (
            {"kind": "video", "channels": ["b", "g", "r"], "width": 8, "height": 8},
            "expected the channels gray, or r, g and b, got ['b', 'g', 'r']; frames have no others",
        ),
        (
            {"kind": "video", "channels": ["gray"], "width": 8, "height": 8, "range": [0, 255]},
            "expected no range of kind 'video', got [0.0, 255.0]; it is 0 to 255: remove it",
        ),
        ({"width": 8}, 'expected no width of kind \'series\', got 8; remove it, or say "kind": "video"'),
        ({"kind": "audio", "rate_hz": 384000}, "expected a rate_hz of sound up to 192000, got 384000; resample it"),
        (
            {"kind": "audio", "normalise": "per_group"},
            "expected no normalise of kind 'audio', got 'per_group'; only series have it",
        ),
    ],
)
def test_what_a_kind_does_not_allow(rig, edit, change, problem):
    edit(lambda document: document["modalities"][0].update(change))
    assert _refusal(rig.path) == f"dataset {rig.path}: dataset.json: 'modalities[0]' (vib): {problem}"


_SPLIT_FILES = ("valid/temp.npy", *(f"{split}/labels.npy" for split in ("train", "valid", "test")))
_RECORDING_FILES = tuple(f"recordings/{name}.npy" for name in ("splits", "labels", "lengths", "vib"))


@pytest.mark.parametrize("file", [*_SPLIT_FILES, *_RECORDING_FILES])
def test_a_missing_file_is_one_problem(request, file):
    path = request.getfixturevalue("rig" if file in _SPLIT_FILES else "line").path
    (path / file).unlink()
    assert _refusal(path) == f"dataset {path}: {file}: the file is missing; write it or take it out of dataset.json"


@pytest.mark.parametrize("dtype", ["float64", ">f4"])
def test_a_wrong_dtype_or_byte_order(rig, splits, dtype):
    np.save(rig.path / "train" / "vib.npy", splits["train"]["vib"].astype(dtype))
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: train/vib.npy: expected float32, got {dtype}; save it with .astype('float32')"
    )


def test_a_wrong_shape_and_a_transposed_one(rig, splits):
    np.save(rig.path / "test" / "vib.npy", splits["test"]["vib"][:, :-1])
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: test/vib.npy: expected shape (N, T, C)=(12, 20, 3), got (12, 19, 3);"
        " correct the array or dataset.json"
    )
    np.save(rig.path / "test" / "vib.npy", splits["test"]["vib"].transpose(0, 2, 1))
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: test/vib.npy: expected shape (N, T, C)=(12, 20, 3), got (12, 3, 20); transpose it"
    )


def test_a_label_out_of_range(rig, splits):
    labels = splits["train"]["labels"].copy()
    labels[[4, 7]] = (3, -2)
    np.save(rig.path / "train" / "labels.npy", labels)
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: train/labels.npy: expected -1 (unlabelled) or a class from 0 to 2, got 3 in row 4"
        " (2 in all); correct the labels or add the classes to dataset.json"
    )


def test_unlabelled_windows_outside_train(rig, splits):
    labels = splits["valid"]["labels"].copy()
    labels[:5] = -1
    np.save(rig.path / "valid" / "labels.npy", labels)
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: valid/labels.npy: rows of valid are unlabelled (-1), 5 of 12; only train may have some;"
        " label them, move their groups to train, or take all labels of valid out"
    )


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_whole_split_may_be_without_labels(rig, splits, split):
    np.save(rig.path / split / "labels.npy", np.full_like(splits[split]["labels"], -1))
    check_dataset(rig.path)
    assert not open_dataset(rig.path).split(split).labelled.any()


def test_overlapping_groups(rig):
    np.save(rig.path / "test" / "groups.npy", np.repeat([3, 7], 6))
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: group 3 is in train and test (1 in all); splits never share a group:"
        " move all its windows into one split"
    )


def test_groups_in_some_splits_only(rig):
    (rig.path / "valid" / "groups.npy").unlink()
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: valid/groups.npy: missing while another split has groups.npy;"
        " write it for all splits or none"
    )


def test_a_fold_that_tears_a_group(rig):
    for split, count in (("train", 24), ("valid", 12), ("test", 12)):
        np.save(rig.path / split / "folds.npy", np.arange(count) % 4)
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: group 0 is in folds 0 and 1 and 2 and 3 (8 in all); folds hold whole groups:"
        " give all its windows one fold"
    )


def test_an_empty_split(rig, edit):
    edit(lambda document: document["splits"].update(valid=0))
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: dataset.json: split 'valid' is empty; expected one window or more;"
        " move whole groups into it"
    )


def test_a_split_array_without_rows(rig):
    np.save(rig.path / "valid" / "vib.npy", np.zeros((0, 20, 3), dtype=np.float32))
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: valid/vib.npy: expected shape (N, T, C)=(12, 20, 3), got (0, 20, 3);"
        " correct the array or dataset.json"
    )


def test_splits_of_other_names(rig, edit):
    edit(lambda document: document.update(splits={"train": 1, "dev": 1}))
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: dataset.json: 'splits': expected train, valid and test, got dev, train;"
        " give the number of windows of each"
    )


class _Trap:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


def test_a_pickle_named_npy_is_not_run(rig):
    (rig.path / "train" / "temp.npy").write_bytes(pickle.dumps(_Trap()))
    message = _refusal(rig.path)
    assert message.startswith(
        f"dataset {rig.path}: train/temp.npy: expected a .npy array, got something numpy cannot read ("
    )
    assert message.endswith("); write it again")


def test_a_truncated_array(rig):
    file = rig.path / "train" / "temp.npy"
    file.write_bytes(file.read_bytes()[:200])
    assert _refusal(rig.path).startswith(f"dataset {rig.path}: train/temp.npy: expected a .npy array, got something")


def test_per_group_without_groups(rig, edit):
    edit(lambda document: document["modalities"][1].update(normalise="per_group"))
    for split in ("train", "valid", "test"):
        (rig.path / split / "groups.npy").unlink()
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: modality 'temp' is normalised per group, which needs groups.npy; write the groups"
    )


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"rate_hz": 0.0}, "expected a rate_hz above 0, got 0.0; give samples per second"),
        ({"samples": 0}, "expected samples of 1 or more, got 0; give the length of one window"),
        ({"range": [5, 5]}, "expected range [low, high] with low below high, got [5.0, 5.0]; swap or correct it"),
        ({"channels": ["x", "x"]}, "expected one or more different channels, got ['x', 'x']; name each column"),
    ],
)
def test_a_modality_that_makes_no_sense(rig, edit, changed, problem):
    edit(lambda document: document["modalities"][0].update(changed))
    assert _refusal(rig.path) == f"dataset {rig.path}: dataset.json: 'modalities[0]' (vib): {problem}"


@pytest.mark.parametrize("name", ["../vib", "labels", "1st", "", "a b"])
def test_a_name_that_cannot_be_a_file_and_a_tensor(rig, edit, name):
    edit(lambda document: document["modalities"][0].update(name=name))
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: dataset.json: 'modalities[0]' ({name}): expected a name of letters, digits and _ that"
        " starts with a letter and is none of labels, groups, folds, lengths, splits, times, episodes; rename it"
    )


def test_all_problems_of_dataset_json_come_together(rig, edit):
    def spoil(document):
        document["task"]["labels"] = ["idle", "idle"]
        document["modalities"].append(dict(document["modalities"][0]))
        document["recordings"] = {"hop_s": 0, "scale": {"sound": [1.0], "vib": [1.0, 0.0, 1.0]}}

    edit(spoil)
    assert _refusal(rig.path) == "\n  - ".join(
        [
            f"dataset {rig.path}: 5 problems",
            (
                "dataset.json: 'task.labels': expected two or more different classes, got ['idle', 'idle'];"
                " name each class"
            ),
            "dataset.json: 'modalities': 'vib' is there 2 times; give each its own name",
            "dataset.json: 'recordings.hop_s': expected seconds above 0, got 0.0; correct it",
            "dataset.json: 'recordings.scale': modality 'sound' is not in 'modalities'; remove it",
            (
                "dataset.json: 'recordings.scale.vib': expected 3 numbers above 0, got [1.0, 0.0, 1.0];"
                " give one per channel"
            ),
        ]
    )


def test_all_problems_of_the_arrays_come_together(rig, splits):
    (rig.path / "test" / "labels.npy").unlink()
    np.save(rig.path / "train" / "labels.npy", splits["train"]["labels"].astype(np.int32))
    np.save(rig.path / "train" / "vib.npy", np.zeros((3, 20, 3)))
    assert _refusal(rig.path) == "\n  - ".join(
        [
            f"dataset {rig.path}: 4 problems",
            "test/labels.npy: the file is missing; write it or take it out of dataset.json",
            "train/vib.npy: expected float32, got float64; save it with .astype('float32')",
            "train/vib.npy: expected shape (N, T, C)=(24, 20, 3), got (3, 20, 3); correct the array or dataset.json",
            "train/labels.npy: expected int64, got int32; save it with .astype('int64')",
        ]
    )


def test_a_kind_of_task_that_there_is_not(rig, edit):
    edit(lambda document: document["task"].update(kind="multi-label"))
    assert _refusal(rig.path) == (
        f"{rig.path}/dataset.json: Invalid enum value 'multi-label' - at `$.task.kind`; correct the file,"
        " docs/datasets.md describes every key"
    )


def test_recordings_that_nothing_describes(line):
    file = line.path / "dataset.json"
    document = json.loads(file.read_text())
    del document["recordings"]
    file.write_text(json.dumps(document))
    assert _refusal(line.path) == (
        f"dataset {line.path}: dataset.json: 'recordings': expected how windows are cut, since recordings/ is there;"
        " add it"
    )


def test_a_key_that_is_there_twice(rig):
    file = rig.path / "dataset.json"
    file.write_text(file.read_text().replace('"licence"', '"name": "other", "licence"', 1))
    assert _refusal(rig.path) == (
        f"{file}: name: expected once, got it twice; correct the file, docs/datasets.md describes every key"
    )


def test_nesting_without_end(rig):
    file = rig.path / "dataset.json"
    file.write_text('{"name": ' + "[" * 100_000)
    assert _refusal(rig.path).startswith(f"{file}: ")


def test_names_that_would_mislead_whoever_reads_them(rig, edit):
    def change(document):
        document["task"]["labels"][0] = "\x1b[2Jok"
        document["modalities"][0]["channels"][0] = "x\ny"

    edit(change)
    wanted = "expected text without control characters and line breaks, got"
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: 2 problems\n"
        f"  - dataset.json: 'task.labels': {wanted} '\\x1b[2Jok'; rename it\n"
        f"  - dataset.json: 'modalities[0].channels': {wanted} 'x\\ny'; rename it"
    )
