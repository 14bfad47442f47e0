"""The interchange form, and the metadata that it and a dataset carry."""

import numpy as np
import pytest

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_models.data import check_dataset, open_dataset
from mmkd_models.data.checking.findings import describe_dataset
from mmkd_models.data.importing.window_files import import_windows
from tests.edge.said import said


def _import(tmp_path, arrays, **options):
    file = tmp_path / "press.npz"
    np.savez_compressed(file, **arrays)
    return import_windows(file, tmp_path / "press", **options)


def _refusal(tmp_path, arrays, **options):
    message = said(UsageError, _import, tmp_path, arrays, **options)
    assert not (tmp_path / "press").exists()
    return message.replace(f"{tmp_path / 'press.npz'}: ", "", 1)


def test_windows_labels_groups_folds_and_facts_arrive(tmp_path, arrays):
    arrays |= {"unit_vib": np.array("m/s^2"), "range_vib": np.array([-90.0, 90.0]), "targets": np.zeros(12)}
    dataset, form = _import(tmp_path, arrays, per_group=["temp"], source="the press", licence="CC0")
    spec = dataset.spec
    assert spec.splits == {"train": 4, "valid": 4, "test": 4}
    train = dataset.split("train")  # rows 4 to 7
    np.testing.assert_array_equal(train.take(np.arange(4))["vib"], arrays["x_vib"][4:8].astype(np.float32))
    np.testing.assert_array_equal(train.groups, [2, 2, 3, 3])
    np.testing.assert_array_equal(train.folds, [1, 1, 1, 1])
    np.testing.assert_array_equal(train.labels, [0, 1, 0, 1])
    vib, temp = spec.modalities
    assert (spec.name, spec.source, spec.licence) == ("press", "the press", "CC0")
    assert (vib.rate_hz, vib.channels, vib.unit, vib.range, vib.samples) == (0.1, ("a", "b"), "m/s^2", (-90.0, 90.0), 8)
    assert (temp.normalise, vib.normalise) == ("per_group", "none")
    assert (form.infinite, form.left_out) == ({}, ["targets"])


FORM = "docs/datasets.md describes the form"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y": None, "rate_vib": None, "channels_temp": None},
         f"expected arrays y, rate_vib, channels_temp, which are missing; {FORM}"),
        (dict.fromkeys(("y", "classes", "split", "x_vib", "x_temp")),
         f"expected arrays y, classes, split, x_<modality>, which are missing; {FORM}"),
        ({"x_temp": np.zeros((11, 4, 1))},
         "x_temp: expected one row for each of the 12 labels in y, got shape (11, 4, 1); make them equally long"),
        ({"x_temp": np.zeros((12, 4))},
         "x_temp: expected numbers of shape (N, T, C), got float64 (12, 4); reshape it"),
        ({"x_temp": np.full((12, 4, 1), "a")},
         "x_temp: expected numbers of shape (N, T, C), got <U1 (12, 4, 1); reshape it"),
        ({"split": np.arange(12) % 4}, "split: expected 0 train, 1 valid or 2 test, got 3; correct it"),
        ({"rate_vib": np.array("fast")},
         "modality 'vib': rate_ or range_ cannot be read (could not convert string to float: 'fast'); correct it"),
        ({"classes": np.array(["ok", "worn"], dtype=object)},
         ("expected plain arrays, numpy cannot read them (Object arrays cannot be loaded when allow_pickle=False);"
         " write it again")),
    ],
)  # fmt: skip
def test_a_wrong_archive_is_refused_with_what_is_wrong(tmp_path, arrays, change, says):
    changed = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    assert _refusal(tmp_path, changed) == says


def test_a_modality_that_is_not_there_a_missing_file_and_a_broken_contract_are_refused(tmp_path, arrays):
    file = tmp_path / "press.npz"
    assert said(UsageError, import_windows, file, tmp_path / "press") == (
        f"{file}: expected an interchange file (.npz), found no such file; check the path"
    )
    file.write_text("acc,label\n")
    assert said(DatasetError, import_windows, file, tmp_path / "press") == (
        f"{file}: expected an interchange file (.npz), got another format; write it with numpy.savez"
    )
    problem = "modality 'eda' is not in it; choose one of vib, temp"
    assert _refusal(tmp_path, arrays, per_group=["temp", "eda"]) == problem
    arrays["group"][:] = 7
    assert _refusal(tmp_path, arrays).startswith(
        f"dataset {tmp_path / 'press'}: 2 problems\n  - group 7 is in train and"
    )


_START = 1_793_688_000.0  # 2026-11-03T06:40:00Z


@pytest.fixture
def facts(splits):
    """The rig's windows with a machine, a load, a start every 10 s and an episode for each group."""
    row = 0
    for arrays in splits.values():
        count = len(arrays["labels"])
        number = np.arange(row, row + count)
        arrays["metadata"] = {"machine": np.where(number % 2, "M1", "M2"), "load": number / 8, "order": number}
        arrays["times"] = _START + 10.0 * number
        arrays["episodes"] = arrays["groups"]
        row += count
    return splits


def test_metadata_times_and_episodes_come_back_with_their_windows(facts, write):
    windows = write(facts).everything()
    number = np.arange(48)
    assert {name: (values.dtype.kind, values.tolist()) for name, values in windows.metadata.items()} == {
        "machine": ("U", ["M2", "M1"] * 24),
        "load": ("f", (number / 8).tolist()),
        "order": ("i", number.tolist()),
    }
    np.testing.assert_array_equal(windows.times, _START + 10.0 * number)
    np.testing.assert_array_equal(windows.episodes, windows.groups)
    some = windows.subset(np.array([40, 3]))
    assert (some.metadata["order"].tolist(), some.times.tolist()) == ([40, 3], [_START + 400, _START + 30])


def test_check_and_describe_tell_of_them(facts, write):
    dataset = write(facts)
    assert check_dataset(dataset.path).findings == ()
    found = describe_dataset(dataset)
    assert found["metadata"] == {"machine": 2, "load": 48, "order": 48}
    assert found["times"] == "2026-11-03T06:40:00Z to 2026-11-03T06:47:50Z"


def test_every_fault_of_metadata_is_named(facts, write):
    facts["valid"]["metadata"]["machine"] = facts["valid"]["metadata"]["machine"][:-1]
    facts["valid"]["metadata"]["load"] = np.full(12, "low")
    del facts["test"]["metadata"]["order"]
    facts["test"]["times"] = np.full(12, np.nan)
    del facts["train"]["episodes"]
    assert said(DatasetError, write, facts).splitlines()[1:] == [
        "  - valid/metadata.npz:machine: expected shape (N,)=(12,), got (11,); correct the array or dataset.json",
        "  - test/times.npy: expected UTC seconds, got nan in row 0; leave times out, or give all",
        "  - train/episodes.npy: missing while another split has episodes.npy; write it for all splits or none",
        (
            "  - test/metadata.npz: expected the metadata of train, machine, load, order, got machine, load;"
            " write the same for all splits"
        ),
        "  - metadata 'load': expected one kind in all splits, text or numbers, got several; convert it",
    ]


def test_times_beyond_every_calendar_are_refused(facts, write):
    facts["valid"]["times"] = np.full(12, 1e300)
    assert said(DatasetError, write, facts).endswith(
        "valid/times.npy: expected UTC seconds, got 1e+300 in row 0; leave times out, or give all"
    )


def test_metadata_of_objects_and_a_damaged_archive_of_it_are_refused(facts, write):
    dataset = write(facts)
    (dataset.path / "valid" / "metadata.npz").write_bytes(b"PK")
    damaged = said(DatasetError, open_dataset, dataset.path)
    assert "valid/metadata.npz: expected a .npz array, got something numpy cannot read (" in damaged
    dataset.path.rename(dataset.path.with_name("damaged"))
    facts["train"]["metadata"]["machine"] = np.array([None] * 24)
    assert said(DatasetError, write, facts).endswith(
        "splits['train']['metadata']['machine']: expected text or numbers, got object; convert it"
    )


def test_the_interchange_form_carries_them(tmp_path, arrays):
    arrays |= {
        "time": _START + np.arange(12),
        "episode": np.arange(12) // 4,
        "column_machine": np.repeat(["M1", "M2", "M3"], 4),
        "column_folder": np.array([f"run{number}" for number in range(12)]),
    }
    dataset, form = _import(tmp_path, arrays)
    train = dataset.split("train")
    assert form.left_out == []
    assert {name: values.tolist() for name, values in train.metadata.items()} == {
        "machine": ["M2"] * 4,
        "folder": ["run4", "run5", "run6", "run7"],
    }
    assert (train.times.tolist(), train.episodes.tolist()) == ([_START + row for row in range(4, 8)], [1] * 4)
