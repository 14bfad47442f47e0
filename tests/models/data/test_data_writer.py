import json

import numpy as np
import pytest

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import open_dataset


def test_what_is_written_is_what_is_read(rig, splits):
    dataset = open_dataset(rig.path)
    assert dataset.spec == rig.spec
    assert dataset.spec.splits == {"train": 24, "valid": 12, "test": 12}
    for split, arrays in splits.items():
        windows = dataset.split(split)
        np.testing.assert_array_equal(windows.take(np.arange(len(windows)))["vib"], arrays["vib"])
        np.testing.assert_array_equal(windows.labels, arrays["labels"])
        np.testing.assert_array_equal(windows.groups, arrays["groups"])


def test_the_directory_holds_the_files_of_the_contract_and_no_other(rig):
    names = sorted(file.relative_to(rig.path).as_posix() for file in rig.path.rglob("*") if file.is_file())
    expected = [
        f"{split}/{name}.npy" for split in ("test", "train", "valid") for name in ("groups", "labels", "temp", "vib")
    ]
    assert names == ["dataset.json", *expected]
    document = json.loads((rig.path / "dataset.json").read_text())
    assert document["format_version"] == 1
    assert document["modalities"][0]["channels"] == ["x", "y", "z"]


def test_plain_numbers_become_the_dtypes_of_the_contract(write, splits):
    for arrays in splits.values():
        arrays["vib"] = arrays["vib"].astype(np.float64)
        arrays["labels"] = arrays["labels"].tolist()
        arrays["groups"] = arrays["groups"].astype(np.uint8)
        arrays["folds"] = arrays["groups"].astype(np.int16)
    rig = write(splits)
    assert {
        name: np.load(rig.path / f"train/{name}.npy").dtype.name for name in ("vib", "labels", "groups", "folds")
    } == {"vib": "float32", "labels": "int64", "groups": "int64", "folds": "int64"}


def test_an_existing_path_is_never_replaced(refusal, rig, write, splits):
    before = rig.sha256
    assert refusal(UsageError, write, splits) == (f"{rig.path}: already exists; remove it or choose another path")
    assert open_dataset(rig.path).sha256 == before


def test_arrays_that_break_the_contract_leave_nothing_behind(refusal, write, splits, tmp_path):
    splits["train"]["vib"] = splits["train"]["vib"].transpose(0, 2, 1)
    splits["test"]["groups"] = splits["test"]["groups"] - 6
    assert refusal(DatasetError, write, splits) == (
        f"dataset {tmp_path / 'rig'}: train/vib.npy: expected shape (N, T, C)=(24, 20, 3), got (24, 3, 20);"
        " transpose it"
    )
    assert list(tmp_path.iterdir()) == []


def test_wrong_names_and_kinds_of_arrays_come_together(refusal, write, splits, tmp_path):
    del splits["train"]["temp"]
    splits["valid"]["sound"] = np.zeros((12, 4, 1))
    splits["test"]["labels"] = ["idle"] * 12
    assert refusal(DatasetError, write, splits) == "\n  - ".join(
        [
            f"dataset {tmp_path / 'rig'}: 3 problems",
            "splits['train']: array 'temp' is missing; give one per modality and labels",
            (
                "splits['valid']: 'sound' is no modality and not one of labels, groups, folds, times, starts, episodes,"
                " metadata; describe it in 'modalities' or leave it out"
            ),
            "splits['test']['labels']: expected numbers that fit int64, got <U4; convert it",
        ]
    )


def test_an_interrupted_write_leaves_nothing(write, splits, tmp_path, monkeypatch):
    saved = []

    def save_twice(file, header):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(file)

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", save_twice)
    with pytest.raises(KeyboardInterrupt):
        write(splits)
    assert list(tmp_path.iterdir()) == []


def test_windows_too_large_to_train_on_are_refused_with_what_to_do(refusal, write, splits, tmp_path):
    sound = ModalitySpec(name="sound", channels=("left", "right"), rate_hz=48_000.0, samples=1_440_000)
    assert refusal(DatasetError, write, splits, modalities=(sound,)) == (
        f"dataset {tmp_path / 'rig'}: dataset.json: 'modalities[0]' (sound): expected windows of at most 1,048,576"
        " values, got 1,440,000 samples x 2 channels; cut windows of at most 524,288 samples, or filter and keep one"
        " sample in 3, 16000 Hz"
    )
    assert list(tmp_path.iterdir()) == []


def test_files_are_those_of_numpy(splits, tmp_path, rig):
    for file in rig.path.rglob("*.npy"):
        again = tmp_path / "again.npy"
        np.save(again, np.load(file))
        assert file.read_bytes() == again.read_bytes()
