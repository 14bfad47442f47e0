"""Formats of measuring programs: the same samples from each of them, and what is said of a file that is none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge.errors import DatasetError
from mmkd_models.data import open_dataset
from mmkd_models.data.importing.draft import draft_recipe
from mmkd_models.data.importing.from_recipe import import_recipe
from mmkd_models.data.importing.keys import TextTable
from mmkd_models.data.importing.readers.formats import choose_reader
from mmkd_models.data.importing.recipe import read_recipe

START_S = 1_762_151_400
Write = Callable[[Path, int, np.ndarray], None]


def values_of(machine: int) -> np.ndarray:
    """The samples of `conftest.log_lines`, as they are written."""
    return np.round(np.random.default_rng(machine).normal(size=(100, 2)), 5)


def check(plant: Path, recipe, write: Write, *, suffix: str, channels: str, extra: str = "") -> None:
    """Puts another file in place of each machine's log, and expects the windows of the log."""
    for machine in range(6):
        folder = plant / f"M{machine}"
        (folder / "acc.csv").unlink()
        write(folder / f"acc{suffix}", START_S + 1000 * machine, values_of(machine))
    recipe(("acc.csv", f"acc{suffix}"), ('time = "time"', f"{extra}\nchannels = {channels}"))
    import_recipe(read_recipe(plant / "recipe.toml"), plant, plant / "out")
    dataset = open_dataset(plant / "out")
    assert dataset.spec.modality("acc").channels == ("ax", "ay")
    assert dataset.spec.modality("acc").rate_hz == 10
    windows = dataset.everything()
    for machine in range(6):
        rows = np.flatnonzero(windows.groups == f"M{machine}")
        rows = rows if windows.times is None else rows[np.argsort(windows.times[rows])]
        samples = windows.take(rows)["acc"].reshape(-1, 2)
        np.testing.assert_allclose(samples, values_of(machine).astype(np.float32), rtol=1e-6)
        assert windows.labels[rows].tolist() == [0] * 5 + [1] * 5


def write_tdms(file: Path, start_s: int, values: np.ndarray) -> None:
    nptdms = pytest.importorskip("nptdms")
    clock = {"wf_start_time": np.datetime64(start_s, "s").astype("datetime64[us]"), "wf_increment": 0.1}
    slow = {**clock, "wf_increment": 1.0}
    channels = [nptdms.ChannelObject("Motor", name, values[:, n], properties=clock) for n, name in enumerate("xy")]
    with nptdms.TdmsWriter(file) as writer:
        writer.write_segment([*channels, nptdms.ChannelObject("Slow", "temp", np.arange(10.0), properties=slow)])


def test_tdms_has_its_times_from_the_waveform(plant, recipe):
    check(plant, recipe, write_tdms, suffix=".tdms", channels='{ax = "Motor/x", ay = "Motor/y"}', extra='time = "time"')


def test_a_tdms_waveform_without_a_start_counts_from_zero(tmp_path):
    nptdms = pytest.importorskip("nptdms")
    channel = nptdms.ChannelObject("G", "x", np.arange(3.0), properties={"wf_increment": 0.5, "wf_start_offset": 2.0})
    with nptdms.TdmsWriter(tmp_path / "a.tdms") as writer:
        writer.write_segment([channel])
    (block,) = choose_reader("tdms", TextTable()).blocks(tmp_path / "a.tdms", ["time", "G/x"])
    assert block.frame["time"].to_list() == [2.0, 2.5, 3.0]


def write_mdf(file: Path, start_s: int, values: np.ndarray) -> None:
    asammdf = pytest.importorskip("asammdf")
    with asammdf.MDF(version="4.10") as made:
        made.start_time = datetime.fromtimestamp(start_s, timezone.utc)
        seconds = np.arange(100) / 10
        made.append([asammdf.Signal(values[:, n], seconds, name=name) for n, name in enumerate("xy")])
        made.append([asammdf.Signal(np.arange(10.0), np.arange(10.0), name="temp")])
        made.save(file, overwrite=True)


def test_mdf_has_the_times_of_the_channels_group(plant, recipe):
    check(plant, recipe, write_mdf, suffix=".mf4", channels='{ax = "x", ay = "y"}', extra='time = "time"')


def test_mdf_channels_of_two_groups_are_no_single_sensor(tmp_path):
    write_mdf(tmp_path / "a.mf4", START_S, values_of(0))
    with pytest.raises(DatasetError) as raised:
        list(choose_reader("mdf4", TextTable()).blocks(tmp_path / "a.mf4", ["time", "x", "temp"]))
    assert str(raised.value) == (
        f"{tmp_path / 'a.mf4'}: expected channels of one group, got x 0, temp 1;"
        " write a [[source]] for each group, with 'channels'"
    )


def write_hdf5(file: Path, start_s: int, values: np.ndarray) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(file, "w") as opened:
        opened["run/t"] = start_s + np.arange(100) / 10
        opened["run/acc"] = values


def test_hdf5_arrays_are_columns(plant, recipe):
    channels = '{ax = "run/acc[0]", ay = "run/acc[1]"}'
    check(plant, recipe, write_hdf5, suffix=".h5", channels=channels, extra='time = "run/t"')


def write_mat(file: Path, start_s: int, values: np.ndarray) -> None:
    from scipy.io import savemat

    savemat(file, {"run": {"t": start_s + np.arange(100)[:, None] / 10, "acc": values}, "note": "text"})


def test_matlab_structs_are_groups_and_its_vectors_columns(plant, recipe):
    channels = '{ax = "run/acc[0]", ay = "run/acc[1]"}'
    check(plant, recipe, write_mat, suffix=".mat", channels=channels, extra='time = "run/t"')


def write_new_mat(file: Path, start_s: int, values: np.ndarray) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(file, "w", userblock_size=512) as opened:
        opened["t"] = start_s + np.arange(100)[None] / 10
        opened["acc"] = values.T  # as MATLAB writes (100, 2)
    with file.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file")


def test_axes_of_matlab_7_3_are_turned_back(plant, recipe):
    channels = '{ax = "acc[0]", ay = "acc[1]"}'
    check(plant, recipe, write_new_mat, suffix=".mat", channels=channels, extra='time = "t"')


WRITERS = {"tdms": write_tdms, "mdf4": write_mdf, "hdf5": write_hdf5}
WORDS = {"tdms": "a TDMS file", "mdf4": "an MDF 4 file", "hdf5": "an HDF5 or MATLAB file"}


@pytest.mark.parametrize(
    ("form", "share"), [("mdf4", 0.0), *((form, share) for form in ("tdms", "hdf5") for share in (0.0, 0.02, 0.5, 0.9))]
)
def test_a_truncated_file_is_named(tmp_path, form, share):
    file = tmp_path / ("a.mf4" if form == "mdf4" else "a")
    WRITERS[form](file, START_S, values_of(0))
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    reader = choose_reader(form, TextTable())
    with pytest.raises(DatasetError) as raised:
        list(reader.blocks(file, reader.names(file)[-1:]))
    assert str(raised.value).startswith(f"{file}: expected {WORDS[form]}")


def test_a_draft_says_which_channels_have_clocks_of_their_own(tmp_path):
    for machine in range(2):
        write_tdms(tmp_path / f"motor_{machine}.tdms", START_S, values_of(machine))
    text = draft_recipe(tmp_path)
    assert "# ? expected channels of one length, got Motor/x 100, Motor/y 100, Slow/temp 10;" in text
    assert 'files = "motor_{motor}.tdms"' in text
