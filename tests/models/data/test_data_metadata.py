"""Facts beside the label: metadata, times and episodes of windows, written, read, checked and imported."""

from __future__ import annotations

import numpy as np
import pytest

from mmkd_edge.errors import DatasetError
from mmkd_models.data import check_dataset, open_dataset
from mmkd_models.data.checking.describe import describe_dataset
from mmkd_models.data.importing.interchange import import_interchange

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
    with pytest.raises(DatasetError) as error:
        write(facts)
    assert str(error.value).splitlines()[1:] == [
        "  - valid/metadata.npz:machine: expected shape (N,)=(12,), got (11,); correct the array or dataset.json",
        "  - test/times.npy: expected UTC seconds, got nan in row 0; leave times out, or give all",
        "  - train/episodes.npy: missing while another split has episodes.npy; write it for all splits or none",
        (
            "  - test/metadata.npz: expected the metadata of train, machine, load, order, got machine, load;"
            " write the same for all splits"
        ),
        "  - metadata 'load': expected one kind in all splits, text or numbers, got several; convert it",
    ]


def test_metadata_of_objects_is_refused(facts, write):
    facts["train"]["metadata"]["machine"] = np.array([None] * 24)
    with pytest.raises(DatasetError) as error:
        write(facts)
    assert str(error.value).endswith(
        "splits['train']['metadata']['machine']: expected text or numbers, got object; convert it"
    )


def test_a_damaged_archive_of_metadata_is_named(facts, write):
    dataset = write(facts)
    (dataset.path / "valid" / "metadata.npz").write_bytes(b"PK")
    with pytest.raises(DatasetError) as error:
        open_dataset(dataset.path)
    assert "valid/metadata.npz: expected a .npz array, got something numpy cannot read (" in str(error.value)


def test_the_interchange_form_carries_them(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "press.npz",
        x_vib=rng.normal(size=(12, 8, 2)),
        rate_vib=40.0,
        channels_vib=["a", "b"],
        y=np.array([0, 1] * 6),
        classes=["ok", "worn"],
        split=np.repeat([2, 0, 1], 4),
        time=_START + np.arange(12),
        episode=np.arange(12) // 4,
        column_machine=np.repeat(["M1", "M2", "M3"], 4),
        column_folder=np.array([f"run{number}" for number in range(12)]),
    )
    report = import_interchange(tmp_path / "press.npz", tmp_path / "press")
    train = report.dataset.split("train")
    assert report.left_out == ()
    assert {name: values.tolist() for name, values in train.metadata.items()} == {
        "machine": ["M2"] * 4,
        "folder": ["run4", "run5", "run6", "run7"],
    }
    assert (train.times.tolist(), train.episodes.tolist()) == ([_START + row for row in range(4, 8)], [1] * 4)
