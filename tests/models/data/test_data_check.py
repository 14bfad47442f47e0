from __future__ import annotations

import numpy as np
import pytest

from mmkd_edge.errors import DatasetError
from mmkd_models.data import open_dataset, shipped_dataset
from mmkd_models.data.checking.describe import describe_dataset, headline
from mmkd_models.data.checking.findings import check_dataset


def _refusal(path) -> str:
    open_dataset(path)  # only the full check sees these
    with pytest.raises(DatasetError) as error:
        check_dataset(path)
    return str(error.value)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (None, "rig: 48 windows, 3 classes, 8 groups"),
        (shipped_dataset(), "watch_exercises: 2229 windows, 7 classes, 10 groups, 5 folds"),
    ],
    ids=["rig", "shipped"],
)
def test_a_sound_dataset_has_no_findings(rig, path, line):
    report = check_dataset(path or rig.path)
    assert (headline(report.windows), report.findings) == (line, ())


def test_missing_and_invalid_values_are_counted(rig, edit, splits):
    temp = splits["train"]["temp"].copy()
    temp[0] = np.nan
    temp[1, :2] = np.nan
    temp[2, 0] = 500.0
    np.save(rig.path / "train" / "temp.npy", temp)
    edit(lambda document: document["modalities"][1].update(range=[-40, 85]))
    facts = describe_dataset(open_dataset(rig.path))["channels"][3]
    assert facts.missing == {"train": pytest.approx(8 / 120), "valid": 0.0, "test": 0.0}  # 5 + 2 + 1 of 24 * 5
    assert facts.high < 85


def test_without_groups_the_check_says_what_is_assumed(write, splits):
    for arrays in splits.values():
        del arrays["groups"]
    (note,) = check_dataset(write(splits).path).findings
    assert (note.kind, note.level) == ("leak", "note")
    assert note.text == (
        "no groups: scores are of windows of the dataset's own test split, which may share people and machines with "
        "training; write groups.npy (the person, machine or session of each window)"
    )


def test_a_window_copied_into_another_split(rig, splits):
    for name in ("vib", "temp"):
        array = splits["test"][name].copy()
        array[4] = splits["train"][name][17]
        np.save(rig.path / "test" / f"{name}.npy", array)
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: train window 17 and test window 4 are the same window (1 in all); splits must not share"
        " windows; remove the copies (split.drop_copies = true in a recipe), or give both one group"
    )


def test_a_modality_without_any_value_in_train(rig):
    np.save(rig.path / "train" / "temp.npy", np.full((24, 5, 1), np.nan, dtype=np.float32))
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: modality 'temp' has no valid value in train; correct its values or its range,"
        " or remove it"
    )


def test_two_folds_are_too_few(rig):
    for split, groups in (("train", range(4)), ("valid", range(4, 6)), ("test", range(6, 8))):
        np.save(rig.path / split / "folds.npy", np.repeat(np.array(groups) % 2, 6))
    assert _refusal(rig.path) == (f"dataset {rig.path}: folds: expected 3 or more, got 2; deal the groups into more")


def test_what_may_spoil_training_is_a_warning(write, splits):
    splits["valid"]["labels"][splits["valid"]["labels"] == 2] = 0
    for arrays in splits.values():
        arrays["temp"][:] = 21.5
    rig = write(splits)
    np.save(rig.path / "train" / "sound.npy", np.zeros(3))
    findings = check_dataset(rig.path).findings
    assert [(finding.level, finding.kind, finding.text) for finding in findings] == [
        ("problem", "balance", "valid has no window of worn; move groups, or label more"),
        (
            "problem",
            "dead channel",
            "channel temp t is 21.5 in every window; leave the channel out, or check its cable",
        ),
        ("note", "unused file", "train/sound.npy: this file is not used; describe it in dataset.json or remove it"),
    ]


def test_infinite_values(rig, splits):
    vib = splits["valid"]["vib"].copy()
    vib[3, 0, :2] = np.inf
    vib[9, 5, 0] = -np.inf
    np.save(rig.path / "valid" / "vib.npy", vib)
    assert _refusal(rig.path) == (
        f"dataset {rig.path}: valid/vib.npy: 3 infinite values in 2 windows of valid, the first in window 3;"
        " store NaN, missing"
    )
