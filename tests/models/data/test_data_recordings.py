import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge.errors import DatasetError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import open_dataset
from mmkd_models.data.windows import window_starts_s

VIB = ModalitySpec(name="vib", channels=("x", "y", "z"), rate_hz=100.0, samples=20)
TEMP = ModalitySpec(name="temp", channels=("t",), rate_hz=25.0, samples=5)


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


def test_wrong_counts_say_what_the_recordings_give(refusal, line):
    document = json.loads((line.path / "dataset.json").read_text())
    document["splits"]["valid"] = 59
    (line.path / "dataset.json").write_text(json.dumps(document))
    assert refusal(DatasetError, open_dataset, line.path) == (
        f"dataset {line.path}: dataset.json: split 'valid': expected 59 windows, got 60 cut from recordings/;"
        " correct 'splits' or 'recordings.hop_s'"
    )


@pytest.mark.parametrize(
    ("name", "array", "problem"),
    [
        ("splits", np.full(24, 3, dtype=np.int8), "expected 0 train, 1 valid or 2 test, got 3; correct it"),
        ("splits", np.zeros(24), "expected int8, got float64; save it with .astype('int8')"),
        ("lengths", np.full((24, 2), -1), "expected numbers of samples, got -1; correct the lengths"),
        (
            "labels",
            np.full(24, 3),
            (
                "expected -1 (unlabelled) or a class from 0 to 2, got 3 in row 0 (24 in all);"
                " correct the labels or add the classes to dataset.json"
            ),
        ),
        ("vib", np.zeros((7, 3), dtype=np.float32), "expected shape (sum of lengths, C)=(2640, 3), got (7, 3);"),
        ("vib", np.zeros((2640, 3), dtype=np.int16), "int16 samples need 'recordings.scale.vib' in dataset.json;"),
    ],
)
def test_a_wrong_array_says_which_and_why(refusal, line, name, array, problem):
    np.save(line.path / "recordings" / f"{name}.npy", array)
    assert f"recordings/{name}.npy: {problem}" in refusal(DatasetError, open_dataset, line.path)


def test_a_group_in_two_splits_and_two_folds_is_reported_with_both(refusal, recordings, write_line, tmp_path):
    recordings[0] = replace(recordings[0], split="test", fold=2)
    assert refusal(DatasetError, write_line, recordings) == "\n  - ".join(
        [
            f"dataset {tmp_path / 'line'}: 2 problems",
            "group 0 is in train and test (1 in all); splits never share a group: move all its windows into one split",
            "group 0 is in folds 0 and 2 (1 in all); folds hold whole groups: give all its windows one fold",
        ]
    )
    assert list(tmp_path.iterdir()) == []


def test_recordings_that_lack_a_modality_or_some_folds_are_refused(refusal, recordings, write_line, tmp_path):
    recordings[1] = replace(recordings[1], samples={"vib": recordings[1].samples["vib"]}, fold=None)
    assert refusal(DatasetError, write_line, recordings) == "\n  - ".join(
        [
            f"dataset {tmp_path / 'line'}: 2 problems",
            "recordings[1]: expected samples of vib, temp, got vib; give every modality and no other",
            "recordings: expected one or more, with a fold for all or none, got 24, 23 with a fold; complete them",
        ]
    )
