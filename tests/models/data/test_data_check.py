"""What the check of a dataset finds, and references of groups."""

import logging

import msgspec
import numpy as np
import pytest

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import open_dataset, shipped_dataset, write_dataset
from mmkd_models.data.checking.findings import check_dataset, describe_dataset, headline
from mmkd_models.data.checking.levels import level_findings
from mmkd_models.data.checking.scan import scan_windows
from mmkd_models.data.for_devices import measure_reference
from tests.edge.said import said
from tests.models.data.conftest import TEMP, VIB


def _refusal(path):
    open_dataset(path)  # only the full check sees these
    return said(DatasetError, check_dataset, path)


def test_a_shipped_dataset_has_no_findings():
    report = check_dataset(shipped_dataset())
    assert headline(report.windows) == "watch_exercises: 2229 windows, 7 classes, 10 groups, 5 folds"
    assert report.findings == ()


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
        "no groups: scores are of windows of the dataset's own test split, which may be of groups that trained; write "
        "groups.npy (the person, machine or session of each window), or set split.group in its recipe"
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
        f"dataset {rig.path}: valid/vib.npy: 3 infinite values in 2 windows of valid, the first in valid window 3;"
        " store NaN, missing"
    )


SPLITS = {"train": range(6), "valid": range(6, 8), "test": range(8, 10)}
LOOK = "leave it, it may be real: look at the picture (mmkd-data report -o report.html)"
ADVICE = (
    "if its unit differs, correct it with 'file_scale' under its [[source]]; if it is faulty, leave the recording out"
    f" (exclude, below version = 1); or {LOOK}"
)


def plant(path, change, *, episode_names=()):
    """Ten machines with twelve windows of two channels, gravity about 9.8 and a movement of 0.5; classes alternate.

    Args:
        change: of the number of the machine, its windows (12, 20, 2) and their labels (12,).
    """
    splits = {}
    for split, machines in SPLITS.items():
        labels = np.arange(12) % 2
        windows = [
            change(number, np.random.default_rng(number).normal([9.8, 0.0], 0.5, (12, 20, 2)), labels)
            for number in machines
        ]
        groups = np.repeat(list(machines), 12)
        splits[split] = {"acc": np.concatenate(windows), "labels": np.tile(labels, len(machines)), "groups": groups}
        splits[split] |= {"episodes": groups} if episode_names else {}
    acc = ModalitySpec(name="acc", channels=("ax", "ay"), rate_hz=10, samples=20)
    return write_dataset(
        path, name="plant", labels=("off", "on"), modalities=[acc], splits=splits, episode_names=episode_names
    )


def warnings_of(path, change):
    return [finding.sentence for finding in level_findings(scan_windows(plant(path / "plant", change).everything()))]


def test_a_recording_in_another_unit_is_named_at_import_by_the_check_and_in_the_report(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        plant(
            tmp_path / "plant",
            lambda number, windows, _: windows * (1000 if number == 3 else 1),
            episode_names=tuple(f"machine M{number}" for number in range(10)),
        )
    told = (
        "acc in machine M3: ax has 1,000 times the usual level (median RMS of its windows 9,798, of the others 9.797),"
        " ay has 980 times the usual level (median RMS of its windows 462.4, of the others 0.4719), as between mm and"
        " m, or mV and V: another unit?"
    )
    (logged,) = [record.getMessage() for record in caplog.records]
    assert logged == f"warning: {told}; {ADVICE}"
    findings = check_dataset(tmp_path / "plant").findings
    assert [(one.kind, one.level, one.text) for one in findings if one.kind == "unit"] == [
        ("unit", "problem", f"{told}; {ADVICE}")
    ]


def test_levels_that_are_no_pair_of_units_are_notes_without_a_factor(tmp_path):
    changes = {
        "dead": lambda number, windows, _: windows * ([1, 0.0021] if number == 3 else 1),
        "load": lambda number, windows, _: windows * ([1, 27.0] if number == 3 else 1),
        "unit of the movement alone": lambda number, windows, _: (
            windows * ([10, 1] if number == 3 else 1) - (np.array([88.2, 0]) if number == 3 else 0)
        ),
    }
    findings = {
        name: [
            (finding.kind, finding.level, finding.text)
            for finding in level_findings(scan_windows(plant(tmp_path / name, change).everything()))
        ]
        for name, change in changes.items()
    }
    out = "if it is faulty, leave the recording out (exclude, below version = 1); or " + LOOK
    assert findings == {
        "dead": [
            (
                "dead channel",
                "note",
                (
                    "acc in group 3: ay has 1/478 of the usual level (median RMS of its windows 0.0009711, of the"
                    " others 0.4641), while acc ax of the same recording moves as usual: dead channel?; check its"
                    f" sensor and cable; {out}"
                ),
            )
        ],
        "load": [
            (
                "unit",
                "note",
                (
                    "acc in group 3: ay has 26 times the usual level (median RMS of its windows 12.49, of the others"
                    " 0.4719); check its unit, gain and operating point; if its unit differs, correct it with"
                    f" 'file_scale' under its [[source]]; {out}"
                ),
            )
        ],
        "unit of the movement alone": [],
    }


def test_an_episode_without_a_name_is_refused(tmp_path):
    names = tuple(f"machine M{number}" for number in range(9))
    assert said(DatasetError, plant, tmp_path / "plant", lambda number, windows, _: windows, episode_names=names) == (
        f"dataset {tmp_path / 'plant'}: test/episodes.npy: expected numbers from 0 to 8, of 'episodes' in dataset.json,"
        " got 8 to 9; name every episode, or none"
    )


def still(number, windows, labels):
    """Each machine stands still in half of its windows, and machine 3 in all of them."""
    off = np.ones(len(labels), dtype=bool) if number == 3 else labels == 0
    return np.where(off[:, None, None], windows * 0.001, windows)


def constant(number, windows, labels):
    """The second channel is 0 but for two machines, and machine 3 has no value in the first."""
    windows[:, :, 1] = windows[:, :, 1] if number in (2, 7) else 0.0
    windows[:, :, 0] = np.nan if number == 3 else windows[:, :, 0]
    return windows


def by_nature(number, windows, labels):
    """Every machine has a level of its own, from 1 to 500."""
    return windows * 2.0**number


@pytest.mark.parametrize("change", [still, constant, by_nature], ids=lambda change: change.__name__)
def test_a_machine_that_is_off_a_constant_channel_and_unlike_machines_are_not_named(change, tmp_path):
    assert warnings_of(tmp_path, change) == []


def test_of_many_odd_recordings_the_first_are_named_and_all_counted(tmp_path):
    def change(number, windows, labels):
        return windows * (1000 if number < 4 else 1)

    *named, last = warnings_of(tmp_path, change)
    assert [f"group {number}" in text for number, text in enumerate(named)] == [True] * 3
    assert last == "acc: 4 recordings in all differ so, the first 3 are named"


PER_GROUP = (VIB, msgspec.structs.replace(TEMP, normalise="per_group", range=(0.0, 100.0)))


@pytest.fixture
def per_group_rig(splits, write):
    splits["train"]["temp"][0, 0, 0] = np.nan
    splits["train"]["temp"][1, 0, 0] = 5000.0  # out of range
    return write(splits, modalities=PER_GROUP)


def _no_reference(per_group_rig, **options):
    return said(UsageError, measure_reference, per_group_rig, **{"modality": "temp", "group": 0, **options})


def test_the_first_windows_alone_count_without_missing_and_invalid_values(per_group_rig, splits):
    measured = measure_reference(per_group_rig, modality="temp", group=0, seconds=0.4)
    values = splits["train"]["temp"][:2].astype(np.float64)
    known = np.concatenate([values[0, 1:, 0], values[1, 1:, 0]])
    np.testing.assert_allclose(measured.reference.mean, [known.mean()], rtol=1e-12)
    np.testing.assert_allclose(measured.reference.std, [known.std()], rtol=1e-12)
    assert measured.windows == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"group": None}, ("group: expected one of the dataset, got none and the dataset has 8; "
         "choose one of 0, 1, 2, 3, 4, 5, 6, 7")),
        ({"group": 99}, ("group: expected one of the dataset, got 99, which is unknown; "
         "choose one of 0, 1, 2, 3, 4, 5, 6, 7")),
        ({"modality": "vib"}, ("modality 'vib': expected one that is normalised per group, got one that takes raw "
         "values; it needs no reference")),
        ({"seconds": 0}, "reference: expected seconds above 0, got 0; take more seconds"),
    ],
)  # fmt: skip
def test_what_has_no_reference_is_refused(per_group_rig, options, says):
    assert _no_reference(per_group_rig, **options) == says


def test_a_group_without_values_gives_no_reference(splits, write):
    splits["valid"]["temp"][:6] = np.nan
    assert _no_reference(write(splits, modalities=PER_GROUP), group=4) == (
        "modality 'temp': a channel has no valid value in the first 6 windows of group 4;"
        " take more seconds or another group"
    )
