"""Datasets as they are written; windows of folders, and those that are cut from recordings."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import check_dataset, open_dataset, shipped_dataset, write_dataset
from mmkd_models.data.windows import window_starts_s
from tests.edge.said import said
from tests.models.data.conftest import TEMP, VIB

TEMP_PER_GROUP = ModalitySpec(
    name="temp", channels=("t",), rate_hz=25.0, samples=5, normalise="per_group", range=(0.0, 100.0)
)


def test_windows_are_taken_by_number_labels_and_modalities_as_new_float32(rig, splits):
    windows = rig.split("valid")
    index = np.array([11, 0, 3])
    taken = windows.take(index)
    for name in ("vib", "temp"):
        np.testing.assert_array_equal(taken[name], splits["valid"][name][index])
        assert (taken[name].dtype, taken[name].flags.owndata) == (np.float32, True)
    taken["vib"][:] = 0  # belongs to the caller
    np.testing.assert_array_equal(windows.take(index)["vib"], splits["valid"]["vib"][index])
    windows = rig.everything()
    index = np.array([47, 0, 24, 23, 36, 35])  # 24 + 12 + 12 windows
    expected = np.concatenate([splits[split]["temp"] for split in ("train", "valid", "test")])
    np.testing.assert_array_equal(windows.take(index)["temp"], expected[index])
    np.testing.assert_array_equal(windows.groups, np.repeat(np.arange(8), 6))
    assert len(windows) == 48
    windows = rig.split("train").subset(np.array([3, 5, 7, 9])).subset(np.array([False, True, False, True]))
    np.testing.assert_array_equal(windows.take(np.array([1, 0]))["vib"], splits["train"]["vib"][[9, 5]])
    np.testing.assert_array_equal(windows.labels, splits["train"]["labels"][[5, 9]])
    windows = rig.split("train")
    assert (windows.with_labels(np.full(24, -1)).labels == -1).all()
    assert (windows.labels >= 0).all()
    problem = "labels: expected shape (N,)=(24,), got (3,); give one for each window"
    assert said(UsageError, windows.with_labels, np.zeros(3, dtype=np.int64)) == problem
    assert list(windows.with_modalities(["temp", "vib"]).take(np.arange(2))) == ["temp", "vib"]
    assert list(windows.with_modalities(["temp"]).take(np.arange(2))) == ["temp"]
    problem = "modalities: expected one or more names, got none; name a modality of the dataset"
    assert said(UsageError, windows.with_modalities, []) == problem


def test_per_group_modalities_come_z_scored_with_the_statistics_of_their_group(write, splits):
    splits["train"]["temp"][0, 0, 0] = np.nan
    splits["train"]["temp"][1, 0, 0] = 5000.0  # out of range: no part of the statistics
    windows = write(splits, modalities=(VIB, TEMP_PER_GROUP)).split("train")
    raw = splits["train"]["temp"].astype(np.float64)
    raw[1, 0, 0] = np.nan
    taken = windows.take(np.arange(24))["temp"]
    for group in range(4):
        rows = slice(6 * group, 6 * group + 6)
        expected = (raw[rows] - np.nanmean(raw[rows])) / np.nanstd(raw[rows])
        np.testing.assert_allclose(taken[rows], expected, atol=1e-5)  # float32 values of size 3
    np.testing.assert_array_equal(windows.take(np.array([0]))["vib"], splits["train"]["vib"][:1])


def test_a_shipped_dataset_is_opened_by_its_name_unless_a_directory_has_it(tmp_path, monkeypatch, write, splits):
    monkeypatch.chdir(tmp_path)
    assert open_dataset("grid_words").path == shipped_dataset("grid_words")
    assert check_dataset("grid_words").findings == ()
    write(splits).path.rename(tmp_path / "grid_words")
    assert open_dataset("grid_words").spec.name == "rig"
    assert said(DatasetError, open_dataset, "grid_wordz") == (
        "grid_wordz: expected a dataset directory, found none there; check the path"
    )
    assert said(UsageError, shipped_dataset, "nothing") == (
        "shipped dataset 'nothing': the name is unknown; choose one of grid_words, watch_exercises"
    )


def test_an_unknown_split_names_what_there_is(rig):
    assert said(UsageError, rig.split, "dev") == "split 'dev': expected train, valid or test; choose one of them"


def test_the_hash_follows_the_content_and_not_the_place(rig, tmp_path):
    first = rig.sha256
    moved = tmp_path / "elsewhere"
    rig.path.rename(moved)
    assert open_dataset(moved).sha256 == first
    (moved / "NOTES.md").write_text("a file that nothing reads")
    assert open_dataset(moved).sha256 == first
    values = np.load(moved / "train" / "vib.npy")
    values[0, 0, 0] += 1
    np.save(moved / "train" / "vib.npy", values)
    assert open_dataset(moved).sha256 != first


def test_a_dataset_and_its_windows_show_themselves_in_a_line(rig):
    shapes = "vib (20, 3), temp (5, 1)"
    assert repr(rig) == f"Dataset({str(rig.path)!r}, 'rig', train 24, valid 12, test 12: {shapes})"
    assert repr(rig.split("valid")) == f"Windows(12 of 'rig': {shapes})"
    assert repr(rig.everything().with_modalities(["temp"])) == "Windows(48 of 'rig': temp (5, 1))"


def test_a_dataset_that_is_cut_short_in_use_is_told_and_ends_nothing(rig):
    windows = rig.split("train")
    windows.take([0])
    os.truncate(rig.path / "train" / "vib.npy", 64)
    problem = said(DatasetError, windows.take, [0])
    assert problem.endswith("; copy the dataset again, and replace its files, never write into them")
    assert "vib.npy: the file was cut short while it was in use: " in problem


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells what is resident of a mapping")
def test_pages_of_a_large_file_that_were_read_are_let_go(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    splits = {
        name: {"imu": rng.normal(size=(count, 1024, 4)).astype(np.float32), "labels": np.arange(count) % 2}
        for name, count in (("train", 300), ("valid", 4), ("test", 4))
    }
    imu = ModalitySpec(name="imu", channels=("a", "b", "c", "d"), rate_hz=100.0, samples=1024)
    dataset = write_dataset(tmp_path / "large", name="large", labels=("a", "b"), modalities=[imu], splits=splits)
    windows = dataset.split("train")

    def resident_kb():
        lines = Path("/proc/self/smaps").read_text().splitlines()
        start = next(row for row, line in enumerate(lines) if line.endswith("/large/train/imu.npy"))
        return next(int(line.split()[1]) for line in lines[start:] if line.startswith("Rss:"))

    kept = windows.take(np.arange(300))["imu"]
    assert resident_kb() > 4000  # of 4915: a small file stays
    monkeypatch.setattr("mmkd_models.data.windows.LARGE_BYTES", 1 << 20)
    again = windows.take(np.arange(300))["imu"]
    assert resident_kb() < 200
    assert again.tobytes() == kept.tobytes() == splits["train"]["imu"].tobytes()


def test_windows_and_their_labels_follow_the_recording_by_hops_and_shifts(line):
    # The first recording of train lasts 1.0 s: windows of 0.2 s start at 0.0, 0.1 ... 0.8. Its values: 100 + seconds.
    taken = line.split("train").take(np.arange(9))
    np.testing.assert_allclose(taken["vib"][:, 0, 0] - 100, np.arange(9) * 0.1, atol=1e-5)
    np.testing.assert_allclose(taken["vib"][:, -1, 1] - 110, np.arange(9) * 0.1 + 0.19, atol=1e-5)
    # temp has a sample every 0.04 s: the one nearest to the start, halves to the even number
    np.testing.assert_allclose(taken["temp"][:, 0, 0] - 100, np.rint(np.arange(9) * 2.5) * 0.04, atol=1e-5)
    # 9, 10 and 11 windows of the recordings of 1.0, 1.1 and 1.2 s, for each group
    assert line.spec.splits == {"train": 120, "valid": 60, "test": 60}
    valid = line.split("valid")
    np.testing.assert_array_equal(valid.labels, np.tile(np.repeat([0, 1, 2], [9, 10, 11]), 2))
    np.testing.assert_array_equal(valid.groups, np.repeat([4, 5], 30))
    np.testing.assert_array_equal(valid.folds, np.repeat([0, 1], 30))
    windows = line.split("train")
    index = np.array([3, 3, 0, 8, 9])  # window 8 is the last of its recording, 9 the first of the next
    taken = windows.take(index, shift_s=np.array([0.05, -0.05, -0.05, 0.05, -9.0]))
    starts = taken["vib"][:, 0, 0] - np.array([100, 100, 100, 100, 200])
    np.testing.assert_allclose(starts, [0.35, 0.25, 0.0, 0.8, 0.0], atol=1e-4)
    assert windows.max_shift_s == 0.05


@settings(max_examples=50, deadline=None)
@given(lengths=st.tuples(st.integers(0, 300), st.integers(0, 80)), hop_s=st.floats(0.01, 2.0))
def test_every_start_fits_and_the_next_one_does_not(lengths, hop_s):
    starts = window_starts_s(lengths, (VIB, TEMP), hop_s=hop_s)

    def fits(start_s):
        return round(start_s * 100.0) + 20 <= lengths[0] and round(start_s * 25.0) + 5 <= lengths[1]

    assert all(fits(start) for start in starts)
    assert not fits(len(starts) * hop_s)
    assert starts == [number * hop_s for number in range(len(starts))]


def test_int16_counts_are_scaled_and_the_lowest_count_is_missing(recordings, write_line):
    scale = (0.5, 0.25, 2.0)
    counted = []
    for item in recordings:
        row = np.arange(len(item.samples["vib"]), dtype=np.int16) + 100 * item.group
        counts = np.stack([row, np.full_like(row, -32768), row], axis=1)
        counted.append(replace(item, samples={**item.samples, "vib": counts}))
    line = write_line(counted, scale={"vib": scale})
    assert np.load(line.path / "recordings" / "vib.npy").dtype == np.int16
    taken = line.split("train").take(np.array([1]))["vib"][0]  # starts at sample 10 of the first recording
    np.testing.assert_array_equal(taken[:2], [[5.0, np.nan, 20.0], [5.5, np.nan, 22.0]])
    assert taken.dtype == np.float32


def test_folders_of_splits_win_over_recordings(line, rig):
    for split in ("train", "valid", "test"):
        (rig.path / split).rename(line.path / split)
    document = json.loads((line.path / "dataset.json").read_text())
    (line.path / "dataset.json").write_text(json.dumps({**document, "splits": rig.spec.splits}))
    windows = open_dataset(line.path).split("train")
    assert (len(windows), windows.max_shift_s) == (24, 0.0)


def test_wrong_counts_say_what_the_recordings_give(line):
    document = json.loads((line.path / "dataset.json").read_text())
    document["splits"]["valid"] = 59
    (line.path / "dataset.json").write_text(json.dumps(document))
    assert said(DatasetError, open_dataset, line.path) == (
        f"dataset {line.path}: dataset.json: split 'valid': expected 59 windows, got 60 cut from recordings/;"
        " correct 'splits' or 'recordings.hop_s'"
    )


WRONG = {
    "splits.npy: expected 0 train, 1 valid or 2 test, got 3; correct it": np.full(24, 3, dtype=np.int8),
    "splits.npy: expected int8, got float64; save it with .astype('int8')": np.zeros(24),
    "lengths.npy: expected numbers of samples, got -1; correct the lengths": np.full((24, 2), -1),
    "labels.npy: expected -1 (unlabelled) or a class from 0 to 2, got 3 in row 0 (24 in all); correct": np.full(24, 3),
    "vib.npy: expected shape (sum of lengths, C)=(2640, 3), got (7, 3);": np.zeros((7, 3), dtype=np.float32),
    "vib.npy: int16 samples need 'recordings.scale.vib' in dataset.json;": np.zeros((2640, 3), dtype=np.int16),
}


@pytest.mark.parametrize(("problem", "array"), WRONG.items(), ids=range(len(WRONG)))
def test_a_wrong_array_says_which_and_why(line, problem, array):
    np.save(line.path / "recordings" / problem.partition(":")[0], array)
    assert f"recordings/{problem}" in said(DatasetError, open_dataset, line.path)


def test_a_group_in_two_splits_and_two_folds_is_reported_with_both(recordings, write_line, tmp_path):
    recordings[0] = replace(recordings[0], split="test", fold=2)
    assert said(DatasetError, write_line, recordings).split("\n  - ") == [
        f"dataset {tmp_path / 'line'}: 2 problems",
        "group 0 is in train and test (1 in all); splits never share a group: move all its windows into one split",
        "group 0 is in folds 0 and 2 (1 in all); folds hold whole groups: give all its windows one fold",
    ]
    assert list(tmp_path.iterdir()) == []


def test_recordings_that_lack_a_modality_or_some_folds_are_refused(recordings, write_line, tmp_path):
    recordings[1] = replace(recordings[1], samples={"vib": recordings[1].samples["vib"]}, fold=None)
    assert said(DatasetError, write_line, recordings).split("\n  - ") == [
        f"dataset {tmp_path / 'line'}: 2 problems",
        "recordings[1]: expected samples of vib, temp, got vib; give every modality and no other",
        "recordings: expected one or more, with a fold for all or none, got 24, 23 with a fold; complete them",
    ]


def test_the_directory_holds_the_files_of_the_contract_and_no_other(rig):
    names = sorted(file.relative_to(rig.path).as_posix() for file in rig.path.rglob("*") if file.is_file())
    parts, arrays = ("test", "train", "valid"), ("groups", "labels", "temp", "vib")
    assert names == ["dataset.json", *(f"{part}/{name}.npy" for part in parts for name in arrays)]
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


def test_an_existing_path_is_never_replaced(rig, write, splits):
    before = rig.sha256
    assert said(UsageError, write, splits) == f"{rig.path}: already exists; remove it or choose another path"
    assert open_dataset(rig.path).sha256 == before


def test_arrays_that_break_the_contract_leave_nothing_behind(write, splits, tmp_path):
    splits["train"]["vib"] = splits["train"]["vib"].transpose(0, 2, 1)
    splits["test"]["groups"] = splits["test"]["groups"] - 6
    assert said(DatasetError, write, splits) == (
        f"dataset {tmp_path / 'rig'}: train/vib.npy: expected shape (N, T, C)=(24, 20, 3), got (24, 3, 20);"
        " transpose it"
    )
    assert list(tmp_path.iterdir()) == []


def test_wrong_names_and_kinds_of_arrays_come_together(write, splits, tmp_path):
    del splits["train"]["temp"]
    splits["valid"]["sound"] = np.zeros((12, 4, 1))
    splits["test"]["labels"] = ["idle"] * 12
    assert said(DatasetError, write, splits).split("\n  - ") == [
        f"dataset {tmp_path / 'rig'}: 3 problems",
        "splits['train']: array 'temp' is missing; give one per modality and labels",
        (
            "splits['valid']: 'sound' is no modality and not one of labels, groups, folds, times, starts, episodes,"
            " metadata; describe it in 'modalities' or leave it out"
        ),
        "splits['test']['labels']: expected numbers that fit int64, got <U4; convert it",
    ]


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


def test_windows_too_large_to_train_on_are_refused_with_what_to_do(write, splits, tmp_path):
    sound = ModalitySpec(name="sound", channels=("left", "right"), rate_hz=48_000.0, samples=1_440_000)
    assert said(DatasetError, write, splits, modalities=(sound,)) == (
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
