import os
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge.bundle.reference import Reference
from mmkd_edge.errors import DatasetError, UsageError
from mmkd_edge.predict.preprocess import prepare
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import check_dataset, open_dataset, shipped_dataset, write_dataset

VIB = ModalitySpec(name="vib", channels=("x", "y", "z"), rate_hz=100.0, samples=20)
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
    relabelled = windows.with_labels(np.full(24, -1))
    assert (relabelled.labels == -1).all()
    assert (windows.labels >= 0).all()
    with pytest.raises(UsageError) as error:
        windows.with_labels(np.zeros(3, dtype=np.int64))
    assert str(error.value) == "labels: expected shape (N,)=(24,), got (3,); give one for each window"
    windows = rig.split("train")
    assert list(windows.with_modalities(["temp", "vib"]).take(np.arange(2))) == ["temp", "vib"]
    assert list(windows.with_modalities(["temp"]).take(np.arange(2))) == ["temp"]
    with pytest.raises(UsageError) as error:
        windows.with_modalities(["sound"])
    assert str(error.value) == "dataset 'rig': modality 'sound' is not in it; choose one of vib, temp"
    with pytest.raises(UsageError) as error:
        windows.with_modalities([])
    assert str(error.value) == "modalities: expected one or more names, got none; name a modality of the dataset"


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


def test_a_device_with_the_groups_reference_sees_the_same_numbers(write, splits):
    windows = write(splits, modalities=(VIB, TEMP_PER_GROUP)).split("test")
    row = int(np.flatnonzero(windows.statistics.groups == 6)[0])
    mean, std = windows.statistics.mean["temp"][row], windows.statistics.std["temp"][row]
    reference = Reference(modality="temp", mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    values, _ = prepare(splits["test"]["temp"][2], TEMP_PER_GROUP, reference)
    np.testing.assert_array_equal(windows.take(np.array([2]))["temp"][0], values[0])


def test_a_shipped_dataset_is_opened_by_its_name_unless_a_directory_has_it(tmp_path, monkeypatch, write, splits):
    monkeypatch.chdir(tmp_path)
    assert open_dataset("grid_words").path == shipped_dataset("grid_words")
    assert check_dataset("grid_words").findings == ()
    write(splits).path.rename(tmp_path / "grid_words")
    assert open_dataset("grid_words").spec.name == "rig"
    with pytest.raises(DatasetError) as error:
        open_dataset("grid_wordz")
    assert str(error.value) == "grid_wordz: expected a dataset directory, found none there; check the path"


def test_an_unknown_shipped_dataset_and_split_name_what_there_is(refusal, rig):
    with pytest.raises(UsageError) as error:
        shipped_dataset("nothing")
    assert str(error.value) == (
        "shipped dataset 'nothing': the name is unknown; choose one of grid_words, watch_exercises"
    )
    assert refusal(UsageError, rig.split, "dev") == "split 'dev': expected train, valid or test; choose one of them"


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
    name = rig.spec.modalities[0].name
    windows.take([0])
    path = rig.path / "train" / f"{name}.npy"
    os.truncate(path, 64)
    with pytest.raises(DatasetError) as caught:
        windows.take([0])
    assert str(caught.value).endswith("; copy the dataset again, and replace its files, never write into them")
    assert f"{name}.npy: the file was cut short while it was in use: " in str(caught.value)


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
