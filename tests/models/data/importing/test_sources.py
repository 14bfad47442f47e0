"""Logs of every form become the windows that their samples say, and what is said of a file that is none."""

from datetime import datetime, timezone

import numpy as np
import polars as pl
import pytest

from mmkd_app.commands.data import run_data
from mmkd_app.training.recipes import window_lines
from mmkd_edge.errors import DatasetError
from mmkd_models.data import check_dataset, open_dataset
from mmkd_models.data.importing.draft import draft_recipe
from mmkd_models.data.importing.keys import TextTable
from mmkd_models.data.importing.readers.formats import choose_reader
from tests.models.data.importing.conftest import START_S, add_columns, by_machine, run, temp_source, write_temp


def values_of(machine):
    """The samples of `conftest.log_lines`, as they are written."""
    return np.round(np.random.default_rng(machine).normal(size=(100, 2)), 5)


def check(plant):
    run(plant)
    found = by_machine(plant)
    assert list(found) == [f"M{machine}" for machine in range(6)]
    for machine in range(6):
        samples, labels = found[f"M{machine}"]
        np.testing.assert_allclose(samples, values_of(machine).astype(np.float32), rtol=1e-6)
        assert labels == [0] * 5 + [1] * 5


def rewrite(plant, write, suffix=".csv"):
    """Put another file in place of each machine's log; `write` gets the file, its start and the samples."""
    for machine in range(6):
        file = plant / f"M{machine}" / "acc.csv"
        file.unlink()
        write(file.with_suffix(suffix), START_S + 1000 * machine, values_of(machine))


def test_a_log_in_utf_8_becomes_its_windows(plant):
    check(plant)
    windows = open_dataset(plant / "out").everything()
    assert windows.times is not None
    assert sorted(windows.times.tolist()) == [START_S + 1000 * m + k for m in range(6) for k in range(10)]
    assert sorted(np.unique(windows.episodes).tolist()) == list(range(6))


def test_a_byte_order_mark_and_blank_lines_change_nothing(plant):
    for file in plant.glob("*/acc.csv"):
        file.write_text("\ufeff" + file.read_text().replace("\n", "\n\n"), encoding="utf-16")
    check(plant)


def test_a_historians_tall_table_of_tags(plant, recipe):
    def write(file, start_s, values):
        rows = ["Timestamp,Tag,Value,Quality"]
        for k, (x, y) in enumerate(values):
            t = f"{start_s + k / 10:.1f}"
            rows += [f"{t},P1.X,{x:.5f},Good", f"{t},P1.Y,{y:.5f},Good", f"{t},P1.Other,9,Bad"]
        rows[4] = rows[4].replace("Good", "Bad")  # X of the second time
        file.write_text("\n".join(rows))

    rewrite(plant, write)
    tall = 'tag = "Tag"\nvalue = "Value"\nquality = "Quality"\nquality_ok = ["Good"]'
    channels = 'channels = {ax = "P1.X", ay = "P1.Y"}'
    recipe(('time = "time"', f'time = "Timestamp"\n{tall}\n{channels}'))
    run(plant)
    for machine, (samples, _) in enumerate(by_machine(plant).values()):
        wanted = values_of(machine).astype(np.float32)
        wanted[1, 0] = np.nan
        np.testing.assert_allclose(samples, wanted, rtol=1e-6)


def test_a_value_that_is_reported_on_change_is_held(plant, recipe):
    def write(file, start_s, _):
        rows = [f"{start_s + k / 10:.1f},X,{start_s - START_S + k}" for k in range(0, 100, 4)]
        file.write_text("\n".join(["time,tag,value", *rows, f"{start_s + 9.9:.1f},X,0"]))

    rewrite(plant, write)
    held = 'tag = "tag"\nvalue = "value"\nchannels = ["X"]\nrate_hz = 10.0\nresample = "hold"\nhold_s = 0.25'
    recipe(('time = "time"', f'time = "time"\n{held}'))
    windows = run(plant).dataset.everything()
    first = windows.take(np.flatnonzero((windows.groups == "M0") & (windows.labels == 0)))["acc"][0, :, 0]
    np.testing.assert_equal(first, [0, 0, 0, np.nan, 4, 4, 4, np.nan, 8, 8])


def test_labels_groups_and_metadata_may_be_columns_of_the_log(plant, recipe):
    states = {"state": lambda row, _: "ok" if row < 50 else "worn", "shift": lambda _, machine: f"S{machine % 2}"}
    add_columns(plant, **states)
    recipe(
        ('files = "{machine}/states.csv"', 'column = "state"'),
        ("length_s = 1.0", 'length_s = 1.0\nmetadata = ["shift", "machine"]'),
    )
    check(plant)
    metadata = open_dataset(plant / "out").everything().metadata
    assert metadata["shift"].tolist() == [f"S{int(name[1]) % 2}" for name in metadata["machine"]]


def test_a_part_of_the_path_and_a_column_make_a_group_together(plant, recipe):
    add_columns(plant, shift=lambda row, _: f"S{row // 50}")
    names = 'valid = ["M4/S0", "M4/S1"]\ntest = ["M5/S0", "M5/S1"]'
    recipe(('group = "machine"', f'group = ["machine", "shift"]\n{names}'))
    windows = run(plant).dataset.everything()
    assert np.unique(windows.groups).tolist() == [f"M{machine}/S{shift}" for machine in range(6) for shift in range(2)]
    assert windows.groups[windows.splits == 1].tolist() == ["M4/S0"] * 5 + ["M4/S1"] * 5


def test_without_groups_each_state_of_a_recording_is_split_by_time_and_overlaps_are_left_out(plant, recipe):
    recipe(('group = "machine"', ""), ("length_s = 1.0", 'length_s = 1.0\nstride_s = 0.5\nmetadata = ["machine"]'))
    report = run(plant)
    # Of nine windows of a state five train, two choose, two judge; those that overlap one of a higher split make way.
    # The window half in one state and half in the other has none.
    assert report.dataset.spec.left_out == {
        "across a change of label (less than 80 % one label: 'purity')": 6,
        "between splits": 24,
    }
    assert report.dataset.spec.splits == {"train": 48, "valid": 12, "test": 24}
    windows = open_dataset(plant / "out").everything()
    assert not windows.has_groups
    for machine in range(6):
        rows = np.flatnonzero(windows.metadata["machine"] == f"M{machine}")
        starts, splits = windows.times[rows], windows.splits[rows]
        for one, other in ((0, 1), (0, 2), (1, 2)):
            apart = np.abs(starts[splits == one][:, None] - starts[splits == other])
            assert apart.min() >= 1.0


def test_a_sensor_of_another_rate_and_an_absent_one(plant, recipe):
    write_temp(plant, np.arange(-8, 48) / 4, machines=range(5))
    recipe(temp_source("resample_hz = 2.0"), ("length_s = 1.0", 'length_s = 1.0\ncover = "any"'))
    report = run(plant)
    assert (
        "warning: missing file: M5/temp.csv (M5/acc.csv is there); without temp, its windows are NaN there (cover ="
        " 'any')"
    ) in window_lines(report)
    windows = open_dataset(plant / "out").everything()
    temp = windows.take(np.arange(len(windows)))["temp"][:, :, 0]
    since = windows.times - np.array([START_S + 1000 * int(name[1]) for name in windows.groups])
    there = windows.groups != "M5"
    np.testing.assert_array_equal(temp[there], (4 * since[there])[:, None] + [0, 2])
    assert (~there).sum() == 10
    assert np.isnan(temp[~there]).all()
    (text,) = [finding.text for finding in check_dataset(plant / "out").findings if finding.sentence.startswith("temp")]
    assert text == (
        f"temp: no value in 10 windows of {len(windows)} ({10 / len(windows):.1%}), in group 'M5'; a student of this "
        "sensor can only guess there; leave them out (cover = 'all' in a recipe)"
    )


def test_the_last_window_of_a_slow_sensor_is_kept_and_those_after_it_stopped_are_counted(plant, recipe):
    # acc: 100 samples at 10 Hz, the last at 9.9 s; temp: 20 at 2 Hz, the last at 9.5 s; both last 10 s, five windows.
    write_temp(plant, np.arange(20) / 2)
    write_temp(plant, np.arange(12) / 2, machines=[0])  # M0's stops after 6 s: three windows
    recipe(temp_source(), ("length_s = 1.0", "length_s = 2.0"))
    report = run(plant)
    windows = open_dataset(plant / "out").everything()
    # The state changes after 5 s: the third window, from 4 to 6 s, is half `ok`.
    assert report.dataset.spec.left_out == {
        "outside the time that all sensors share": 2,
        "across a change of label (less than 80 % one label: 'purity')": 6,
    }
    starts = windows.times - np.array([START_S + 1000 * int(name[1]) for name in windows.groups])
    by_machine = {name: sorted(starts[windows.groups == name].tolist()) for name in np.unique(windows.groups)}
    assert by_machine == {"M0": [0, 2], **{f"M{number}": [0, 2, 6, 8] for number in range(1, 6)}}
    assert all(not np.isnan(values).any() for values in windows.take(np.arange(len(windows))).values())


def test_an_offset_is_corrected(plant, recipe):
    for file in plant.glob("*/acc.csv"):
        rows = [row.split(",", 1) for row in file.read_text().splitlines()[1:]]
        file.write_text("\n".join(["time,ax,ay", *(f"{float(time) + 3:.6f},{rest}" for time, rest in rows)]))
    recipe(('time = "time"', 'time = "time"\nrate_hz = 10.0\noffset_s = -3.0'))
    check(plant)


def test_a_site_that_is_labelled_in_train_alone_keeps_the_windows_of_the_other_splits(plant, recipe):
    rule = 'group = "machine"\nvalid = ["M4"]\ntest = ["M5"]'
    recipe(('files = "{machine}/states.csv"', 'files = "{machine}/states.csv"\nunlabelled = "keep"'))
    recipe(('group = "machine"', rule))
    for machine in (4, 5):
        (plant / f"M{machine}" / "states.csv").write_text("start,end,label\n")
    report = run(plant)
    windows = open_dataset(plant / "out").everything()
    assert report.dataset.spec.left_out is None
    assert [int((windows.splits == number).sum()) for number in range(3)] == [40, 10, 10]
    assert (windows.labels[windows.splits == 0] >= 0).all()
    assert (windows.labels[windows.splits > 0] == -1).all()
    no_label = "has no label; mmkd-adapt takes it, commands that need labels refuse it"
    assert window_lines(report)[-2:] == [f"valid {no_label}", f"test {no_label}"]


def test_recordings_without_any_label_become_a_dataset_without_labels(plant, recipe, capsys):
    recipe(('files = "{machine}/states.csv"', 'classes = ["ok", "worn"]\nunlabelled = "keep"'))
    windows = run(plant).dataset.everything()
    assert len(windows) == 60
    assert (windows.labels == -1).all()
    assert windows.spec.task.labels == ("ok", "worn")
    out = plant / "out"
    told = (
        f"next: mmkd-adapt student.ckpt {out} -o adapted.ckpt with a student that was trained elsewhere; to train here,"
        " label windows of train first"
    )
    for command in ("check", "describe"):
        with pytest.raises(SystemExit, match="0"):
            run_data([command, str(out)])
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1].endswith(told)


def test_a_class_that_a_split_lacks_is_a_warning(plant, recipe):
    recipe(('group = "machine"', 'group = "machine"\nvalid = ["M4"]\ntest = ["M5"]'))
    states = plant / "M5" / "states.csv"
    states.write_text(states.read_text().replace("worn", "ok"))
    assert window_lines(run(plant))[-1] == (
        "warning: test has no window of worn; choose other groups or another 'seed'"
    )


def write_text(file, start_s, values):
    rows = [f"{start_s + k / 10:.1f};{x:.5f};{y:.5f}".replace(".", ",") for k, (x, y) in enumerate(values)]
    file.write_bytes("\r\n".join(["時刻;振動X;振動Y", *rows, ""]).encode("shift_jis"))


def write_parquet(file, start_s, values):
    pl.DataFrame({"time": 1000 * start_s + 100 * np.arange(100), "ax": values[:, 0], "ay": values[:, 1]}).write_parquet(
        file
    )


def write_archive(file, start_s, values):
    np.savez(file, time=start_s + np.arange(100) / 10, acc=values)


def write_tdms(file, start_s, values):
    nptdms = pytest.importorskip("nptdms")
    clock = {"wf_start_time": np.datetime64(start_s, "s").astype("datetime64[us]"), "wf_increment": 0.1}
    slow = {**clock, "wf_increment": 1.0}
    channels = [nptdms.ChannelObject("Motor", name, values[:, n], properties=clock) for n, name in enumerate("xy")]
    with nptdms.TdmsWriter(file) as writer:
        writer.write_segment([*channels, nptdms.ChannelObject("Slow", "temp", np.arange(10.0), properties=slow)])


def test_a_tdms_waveform_without_a_start_counts_from_zero(tmp_path):
    nptdms = pytest.importorskip("nptdms")
    channel = nptdms.ChannelObject("G", "x", np.arange(3.0), properties={"wf_increment": 0.5, "wf_start_offset": 2.0})
    with nptdms.TdmsWriter(tmp_path / "a.tdms") as writer:
        writer.write_segment([channel])
    (block,) = choose_reader("tdms", TextTable()).blocks(tmp_path / "a.tdms", ["time", "G/x"])
    assert block.frame["time"].to_list() == [2.0, 2.5, 3.0]


def write_mdf(file, start_s, values):
    asammdf = pytest.importorskip("asammdf")
    with asammdf.MDF(version="4.10") as made:
        made.start_time = datetime.fromtimestamp(start_s, timezone.utc)
        seconds = np.arange(100) / 10
        made.append([asammdf.Signal(values[:, n], seconds, name=name) for n, name in enumerate("xy")])
        made.append([asammdf.Signal(np.arange(10.0), np.arange(10.0), name="temp")])
        made.save(file, overwrite=True)


def test_mdf_channels_of_two_groups_are_no_single_sensor(refusal, tmp_path):
    write_mdf(tmp_path / "a.mf4", START_S, values_of(0))
    assert refusal(
        DatasetError, list, choose_reader("mdf4", TextTable()).blocks(tmp_path / "a.mf4", ["time", "x", "temp"])
    ) == (
        f"{tmp_path / 'a.mf4'}: expected channels of one group, got x 0, temp 1;"
        " write a [[source]] for each group, with 'channels'"
    )


def write_hdf5(file, start_s, values):
    h5py = pytest.importorskip("h5py")
    with h5py.File(file, "w") as opened:
        opened["run/t"] = start_s + np.arange(100) / 10
        opened["run/acc"] = values


def write_mat(file, start_s, values):
    from scipy.io import savemat

    savemat(file, {"run": {"t": start_s + np.arange(100)[:, None] / 10, "acc": values}, "note": "text"})


def write_new_mat(file, start_s, values):
    h5py = pytest.importorskip("h5py")
    with h5py.File(file, "w", userblock_size=512) as opened:
        opened["t"] = start_s + np.arange(100)[None] / 10
        opened["acc"] = values.T  # as MATLAB writes (100, 2)
    with file.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file")


RUN = '{ax = "run/acc[0]", ay = "run/acc[1]"}'


@pytest.mark.parametrize(
    ("write", "suffix", "channels", "time"),
    [
        (write_text, ".csv", '{ax = "振動X", ay = "振動Y"}', '時刻"\nencoding = "shift_jis"\ndecimal = ",'),
        (write_parquet, ".parquet", '["ax", "ay"]', "time"),
        (write_archive, ".npz", '{ax = "acc[0]", ay = "acc[1]"}', "time"),
        (write_tdms, ".tdms", '{ax = "Motor/x", ay = "Motor/y"}', "time"),  # times from the waveform
        (write_mdf, ".mf4", '{ax = "x", ay = "y"}', "time"),  # times of the channels' group
        (write_hdf5, ".h5", RUN, "run/t"),
        (write_mat, ".mat", RUN, "run/t"),  # structs are groups, vectors are columns
        (write_new_mat, ".mat", '{ax = "acc[0]", ay = "acc[1]"}', "t"),  # MATLAB 7.3 writes the axes turned
    ],
)
def test_logs_of_every_format_become_their_windows(plant, recipe, write, suffix, channels, time):
    rewrite(plant, write, suffix)
    recipe(("acc.csv", f"acc{suffix}"), ('time = "time"', f'time = "{time}"\nchannels = {channels}'))
    check(plant)
    acc = open_dataset(plant / "out").spec.modality("acc")
    assert (acc.channels, acc.rate_hz) == (("ax", "ay"), 10)


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
    assert "# - motor: expected channels of one length, got Motor/x 100, Motor/y 100, Slow/temp 10;" in text
    assert 'files = "motor_{motor}.tdms"' in text
