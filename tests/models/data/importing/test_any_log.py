"""Logs of any layout, and warnings about recordings that look odd."""

import re
import sys
import zipfile

import numpy as np
import pytest

from mmkd_app.training.recipes import clock_lines, run_recipe, window_lines
from mmkd_edge.errors import DatasetError, UnavailableError
from mmkd_models.data import open_dataset
from mmkd_models.data.importing.keys import TextTable
from mmkd_models.data.importing.readers.formats import choose_reader
from tests.edge.said import said
from tests.models.data.importing.conftest import START_S, add_columns, refusal, run, temp_source, write_temp

LABELS = 'files = "{machine}/states.csv"'


def add_flags(plant, flags):
    """Add a column `fault` to the logs of these machines: the first five seconds and the last five."""
    add_columns(plant, machines=flags, fault=lambda row, machine: flags[machine][row // 50])


def test_folders_and_files_that_are_excluded_are_not_read(plant, recipe):
    (plant / "M2" / "acc.csv").write_text("broken")
    recipe(("version = 1", 'version = 1\nexclude = ["M2", "M[4]/*", "M4/a*.csv"]'))
    assert refusal(plant) == "'exclude': expected files, found none at DIR/M[4]/*; correct or remove it"
    recipe((' "M[4]/*",', ""), (LABELS, 'files = "{machine}/states.csv"\nunlabelled = "keep"'))
    (plant / "M4" / "states.csv").unlink()
    assert np.unique(run(plant).dataset.everything().groups).tolist() == ["M0", "M1", "M3", "M5"]


@pytest.mark.parametrize("flags", [(0, 1), ("0.0", "1.0")])
def test_flags_get_names(plant, recipe, flags):
    add_flags(plant, dict.fromkeys(range(6), flags))
    recipe((LABELS, 'column = "fault"\nrename = {0 = "ok", 1 = "worn"}'))
    windows = run(plant).dataset.everything()
    assert windows.spec.task.labels == ("ok", "worn")
    assert np.bincount(windows.labels).tolist() == [30, 30]


def test_rows_without_a_label_get_a_name_and_a_new_name_must_be_of_a_label(plant, recipe):
    add_flags(plant, dict.fromkeys(range(6), ("", "worn")))
    recipe((LABELS, 'column = "fault"\nrename = {"" = "ok", worm = "worn"}'))
    assert refusal(plant) == "'labels.rename': expected labels that occur, got 'worm'; they are '', 'worn'"
    recipe((", worm", ", worn"))
    assert np.bincount(run(plant).dataset.everything().labels).tolist() == [30, 30]


def test_labels_that_differ_by_case_are_named_with_their_files(plant, recipe):
    states = plant / "M3" / "states.csv"
    states.write_text(states.read_text().replace("worn", "Worn"))
    assert refusal(plant) == (
        "DIR/M3/states.csv:3: expected one spelling of a label, got 'Worn' and, in DIR/M0/states.csv:3, 'worn'; set"
        ' rename = {"Worn" = "worn"} under [labels], or name both in \'classes\''
    )
    recipe((LABELS, f'{LABELS}\nrename = {{"Worn" = "worn"}}'))
    assert run(plant).dataset.spec.task.labels == ("ok", "worn")


def test_files_that_lack_the_column_of_labels_are_named(plant, recipe):
    add_flags(plant, {1: ("ok", "worn"), 2: ("", ""), 3: ("ok", "worn"), 4: ("ok", "worn"), 5: ("ok", "worn")})
    recipe((LABELS, 'column = "fault"'))  # M0, the first file, has no such column, and that of M2 is empty
    report = run(plant)
    assert report.dataset.spec.left_out == {"without a label": 20}
    assert report.dataset.spec.modality("acc").channels == ("ax", "ay")
    assert "warning: no label: M0/acc.csv, M2/acc.csv; windows are left out (unlabelled = 'drop')" in window_lines(
        report
    )


def test_an_empty_column_of_labels_is_named(plant, recipe):
    add_flags(plant, dict.fromkeys(range(6), ("", "")))
    recipe((LABELS, 'column = "fault"'))
    assert refusal(plant) == (
        "'windows': expected windows, got none (60 without a label); no recording has a label: look at"
        " 'labels.column', 'fault'"
    )


def test_recordings_without_intervals_and_channels_without_values_are_named(plant, recipe):
    for machine in (1, 2, 3, 4):
        file = plant / f"M{machine}" / "acc.csv"
        rows = file.read_text().splitlines()
        file.write_text("\n".join([rows[0], *(f"{row.rpartition(',')[0]}," for row in rows[1:])]))
    for machine in (2, 3):
        (plant / f"M{machine}" / "states.csv").unlink()
    recipe(
        (LABELS, f'{LABELS}\nunlabelled = "keep"'),
        ('group = "machine"', 'group = "machine"\nvalid = ["M4"]\ntest = ["M5"]'),
    )
    assert window_lines(run(plant))[3:] == [
        (
            "warning: no value: channel acc ay in M1/acc.csv, M2/acc.csv, M3/acc.csv and 1 more; it is missing (NaN)"
            " there, unless you leave the recordings out (exclude, below version = 1)"
        ),
        (
            "warning: no label: M2/acc.csv, M3/acc.csv (missing file: M2/states.csv, M3/states.csv); windows are kept"
            " without one"
        ),
    ]


def test_several_sensors_in_the_columns_of_one_file(plant, recipe):
    add_columns(plant, **{"T 1": lambda row, machine: machine + row / 100})
    recipe(('modality = "acc"', 'sensors = {acc = ["ax", "ay"], temp = {t = "T 1"}}'))
    windows = run(plant).dataset.everything()
    assert [(one.name, one.channels, one.rate_hz) for one in windows.spec.modalities] == [
        ("acc", ("ax", "ay"), 10.0),
        ("temp", ("t",), 10.0),
    ]
    row = int(np.flatnonzero((windows.groups == "M3") & (np.asarray(windows.times) == START_S + 3002))[0])
    np.testing.assert_allclose(windows.take([row])["temp"][0, :, 0], 3 + np.arange(20, 30) / 100, rtol=1e-6)


_SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PARTS = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"


def write_workbook(file, rows):
    """Write a workbook of one sheet, as small as the standard (ECMA-376) lets it be."""
    cells = [
        "".join(
            f'<c t="inlineStr"><is><t>{v}</t></is></c>' if isinstance(v, str) else f"<c><v>{v}</v></c>" for v in row
        )
        for row in rows
    ]
    data = "".join(f"<row>{row}</row>" for row in cells)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{_PARTS}/content-types"><Default Extension="rels" ContentType="application/vnd.'
            f'openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml" ContentType="{_TYPE}.'
            f'sheet.main+xml"/><Override PartName="/xl/s.xml" ContentType="{_TYPE}.worksheet+xml"/></Types>',
        )
        link = f'<Relationships xmlns="{_PARTS}/relationships"><Relationship Id="r1" Type="{_LINKS}/'
        archive.writestr("_rels/.rels", f'{link}officeDocument" Target="xl/workbook.xml"/></Relationships>')
        archive.writestr("xl/_rels/workbook.xml.rels", f'{link}worksheet" Target="s.xml"/></Relationships>')
        archive.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{_SHEET}" xmlns:r="{_LINKS}"><sheets><sheet name="a" sheetId="1" r:id="r1"/></sheets>'
            "</workbook>",
        )
        archive.writestr("xl/s.xml", f'<worksheet xmlns="{_SHEET}"><sheetData>{data}</sheetData></worksheet>')


def test_workbooks_become_their_windows(plant, recipe):
    pytest.importorskip("fastexcel")
    recipe()
    expected = run(plant).dataset.everything()
    for machine in range(6):
        file = plant / f"M{machine}" / "acc.csv"
        head, *rows = (line.split(",") for line in file.read_text().splitlines())
        write_workbook(file.with_suffix(".xlsx"), [head, *(list(map(float, row)) for row in rows)])
        file.unlink()
    recipe(("acc.csv", "acc.xlsx"))
    windows = run(plant, "again").dataset.everything()
    np.testing.assert_array_equal(windows.take(np.arange(60))["acc"], expected.take(np.arange(60))["acc"])
    write_workbook(plant / "M3" / "acc.xlsx", [["time", "ax", "ay"], [1_762_154_400.0, 1.0, "bad"]])
    assert said(DatasetError, run, plant, "third") == (
        f"{plant / 'M3' / 'acc.xlsx'}: row 2: column 'ay': expected a number, got 'bad' (1 such from there on); correct"
        " it, or add 'bad' to 'null' if it means missing"
    )


def test_without_its_reader_a_workbook_is_refused(tmp_path, monkeypatch):
    write_workbook(tmp_path / "a.xlsx", [["time"], [1.0]])
    monkeypatch.setitem(sys.modules, "fastexcel", None)
    assert said(UnavailableError, choose_reader("excel", TextTable()).names, tmp_path / "a.xlsx") == (
        "Excel files need fastexcel, which this Python lacks; run: pip install fastexcel"
    )


def test_sensors_of_different_time_zones_are_told_with_their_times(plant, recipe):
    write_temp(plant, np.arange(40) / 4, later_s=3600)
    recipe(temp_source())
    assert refusal(plant) == (
        "'windows': expected windows, got none (60 outside the time that all sensors share); the sensors of M0/acc.csv"
        " share no time: acc from 2025-11-03T06:30:00Z"
        " to 2025-11-03T06:30:09Z, temp from 2025-11-03T07:30:00Z to 2025-11-03T07:30:09Z; correct 'timezone' or"
        " 'offset_s' under [[source]], or set cover = 'any'"
    )
    write_temp(plant, np.arange(40) / 4, machines=range(5))
    lines = window_lines(run(plant))
    assert "warning: no windows: the sensors of M5/acc.csv share no time; correct their times" in lines


def test_clocks_name_the_file_of_their_sensor_and_labels_that_are_numbers_may_be_named(plant, recipe):
    add_flags(plant, dict.fromkeys(range(6), (0, 1)))
    write_temp(plant, np.arange(40) / 4)
    write_temp(plant, np.delete(np.arange(40), 7) / 4, machines=[3])
    recipe((LABELS, 'column = "fault"'), temp_source())
    report = run(plant)
    assert clock_lines(report)[1:] == [
        (
            "temp: 6 files, t, 4 Hz; jitter p99 up to 0.00 ms (M0/temp.csv), drift up to 0 ppm (M0/temp.csv), gaps 1,"
            " the longest 0.5 s (M3/temp.csv)"
        ),
        (
            "warning: missing rows: 1 in {machine}/temp.csv (up to 2.5%, in M3/temp.csv); windows have NaN there (the"
            " longest gap has 0.5 s, in M3/temp.csv); to interpolate them, set max_gap_s = 0.5 under [[source]], or"
            " leave the file out (exclude, below version = 1)"
        ),
    ]
    assert window_lines(report)[-1] == (
        'labels are numbers; to name them, set rename = {"0" = "NAME", "1" = "NAME"} under [labels]'
    )


def test_missing_rows_are_told_by_what_max_gap_s_makes_of_them(plant, recipe):
    write_temp(plant, np.arange(40) / 4)
    write_temp(plant, np.delete(np.arange(40), [7, *range(20, 30)]) / 4, machines=[3])
    recipe(temp_source())
    text = "missing rows: 11 in {machine}/temp.csv (up to 27.5%, in M3/temp.csv); "
    longest = "(the longest gap has 2.75 s, in M3/temp.csv); "
    assert clock_lines(run(plant))[2] == (
        f"warning: {text}windows have NaN there {longest}to interpolate those up to 0.5 s, set max_gap_s = 0.5 under"
        " [[source]], or leave the file out (exclude, below version = 1)"
    )
    recipe(('temp.csv"\ntime = "time"', 'temp.csv"\ntime = "time"\nmax_gap_s = 0.75'))
    assert clock_lines(run(plant, "some"))[2] == (
        f"warning: {text}windows have NaN in 1 gap above max_gap_s = 0.75 {longest}leave the file out (exclude, below"
        " version = 1) if they are many"
    )
    recipe(("max_gap_s = 0.75", "max_gap_s = 2.75"))
    assert clock_lines(run(plant, "all"))[2] == f"{text}all are interpolated (max_gap_s = 2.75)"


def test_gaps_that_no_straight_line_may_bridge_are_named_without_advice_on_max_gap_s(plant, recipe):
    for machine in (1, 3):
        write_temp(plant, np.delete(np.arange(40), range(20, 27 + machine)) / 4, machines=[machine])
    write_temp(plant, np.arange(40) / 4, machines=[0, 2, 4, 5])
    recipe(temp_source())
    assert clock_lines(run(plant))[2] == (
        "warning: missing rows: 18 in {machine}/temp.csv (up to 25.0%, in M3/temp.csv); windows have NaN there (the"
        " longest gap has 2.75 s, in M3/temp.csv; others are in M1/temp.csv), as all are too long to interpolate"
    )


def warnings(plant):
    return [line for line in run_recipe(plant / "recipe.toml", None) if line.startswith("warning: ")]


def test_one_file_in_another_unit_is_named_and_scaled(plant, recipe, caplog):
    file = plant / "M3" / "acc.csv"
    head, *rows = file.read_text().splitlines()
    cells = [row.split(",") for row in rows]
    file.write_text("\n".join([head, *(f"{time},{float(ax) * 1000:.5f},{ay}" for time, ax, ay in cells)]))
    run_recipe(plant / "recipe.toml", None)
    (text,) = caplog.messages
    assert text.startswith("warning: acc in M3/acc.csv: ax has 1,")
    assert text.endswith(
        ', as between mm and m, or mV and V: another unit?; if its unit differs, set file_scale = {"M3/acc.csv" = {ax ='
        ' 0.001}} under its [[source]]; if it is faulty, leave it out: exclude = ["M3/acc.csv"] below version = 1; or'
        " leave it, it may be"
        " real: look at the picture (mmkd-data report -o report.html)"
    )
    caplog.clear()
    recipe(('time = "time"', 'time = "time"\nscale = 2.0\nfile_scale = {"M3/acc.csv" = {ax = 0.001}}'))
    run_recipe(plant / "recipe.toml", plant / "out")
    assert caplog.messages == []
    windows = open_dataset(plant / "out").everything()
    first = int(np.flatnonzero(windows.groups == "M3")[0])
    expected = [[2 * float(ax), 2 * float(ay)] for _, ax, ay in cells[:10]]
    np.testing.assert_allclose(windows.take([first])["acc"][0], expected, rtol=1e-5)


def test_all_channels_in_another_unit_are_named_with_the_file_that_has_them(plant, recipe, caplog):
    write_temp(plant, np.arange(40) / 4)
    for machine in range(6):
        file, factor = plant / f"M{machine}" / "acc.csv", 1000 if machine == 3 else 1
        rows = [list(map(float, row.split(","))) for row in file.read_text().splitlines()[1:]]
        lines = [f"{time:.1f},{factor * ax:.5f},{factor * ay:.5f}" for time, ax, ay in rows]
        (file.parent / "vib.csv").write_text("\n".join(["time,ax,Y 1", *lines]))
    temp = '[[source]]\nmodality = "temp"\nfiles = "{machine}/temp.csv"\ntime = "time"\n'
    recipe(("[[source]]", f"{temp}[[source]]"), ("acc.csv", "vib.csv"))
    run_recipe(plant / "recipe.toml", plant / "first")
    (text,) = caplog.messages
    scale = re.search(r"set (file_scale = .*) under its \[\[source\]\]; if", text)[1]
    assert scale == 'file_scale = {"M3/vib.csv" = {ax = 0.001, "Y 1" = 0.001}}'
    assert open_dataset(plant / "first").spec.episodes[3] == "M3/temp.csv"
    caplog.clear()
    recipe(('vib.csv"', f'vib.csv"\n{scale}'))
    run_recipe(plant / "recipe.toml", plant / "second")
    assert caplog.messages == []


def test_the_value_of_one_file_of_a_tall_table_is_scaled(plant, recipe):
    for machine in range(6):
        values = np.random.default_rng(machine).normal(size=100)
        lines = [f"{START_S + 1000 * machine + k / 10:.1f},{tag},{values[k]}" for k in range(100) for tag in ("A", "B")]
        (plant / f"M{machine}" / "acc.csv").write_text("\n".join(["time,tag,value", *lines]))
    tall = 'time = "time"\ntag = "tag"\nvalue = "value"\nchannels = {a = "A", b = "B"}'
    recipe(('time = "time"', f'{tall}\nrate_hz = 10.0\nfile_scale = {{"M3/acc.csv" = {{b = 0.5}}}}'))
    run_recipe(plant / "recipe.toml", plant / "out")
    windows = open_dataset(plant / "out").everything()
    rows = np.flatnonzero(windows.groups == "M3")
    values = windows.take(rows)["acc"].reshape(-1, 2)
    np.testing.assert_allclose(values[:, 1], values[:, 0] / 2)


def test_a_scale_in_a_source_of_several_sensors_names_their_channels(plant, recipe):
    sensors = 'sensors = {one = ["ax"], two = ["ay"]}\nfile_scale = {"M3/acc.csv" = {ay = 0.5, az = 2}}'
    recipe(('modality = "acc"', sensors))
    assert said(DatasetError, run_recipe, plant / "recipe.toml", None) == (
        f"{plant}/recipe.toml: 'source[0].file_scale': expected channels among ax, ay, got 'az'; correct it"
    )
    recipe((", az = 2", ""))
    run_recipe(plant / "recipe.toml", plant / "half")
    recipe(("0.5", "1"))
    run_recipe(plant / "recipe.toml", plant / "whole")
    half, whole = (open_dataset(plant / name).everything() for name in ("half", "whole"))
    factor = np.where(whole.groups == "M3", 0.5, 1.0)[:, None, None]
    rows = np.arange(len(whole))
    np.testing.assert_array_equal(half.take(rows)["two"], factor * whole.take(rows)["two"])
    np.testing.assert_array_equal(half.take(rows)["one"], whole.take(rows)["one"])


def test_a_trial_names_the_folder_of_the_recipe_and_no_scratch_folder(plant, recipe):
    for name in ("acc.csv", "states.csv"):
        (plant / "M1" / name).write_text((plant / "M0" / name).read_text())
    recipe(('group = "machine"', 'group = "machine"\nvalid = ["M1"]\ntest = ["M2"]'))
    assert said(DatasetError, run_recipe, plant / "recipe.toml", None).startswith(f"dataset {plant.name}: M0/acc.csv ")


def relabel(plant, machine, old, new):
    file = plant / f"M{machine}" / "states.csv"
    file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize("typo", ["worm", "worn "])
def test_a_class_of_one_file_that_looks_like_another_is_named_with_its_cure(plant, typo):
    relabel(plant, 2, "worn", f'"{typo}"' if " " in typo else typo)
    expected = (
        f"warning: {typo!r}, in M2/acc.csv alone, looks like 'worn'; if it is a typo, correct it, or set rename ="
        f' {{"{typo}" = "worn"}} under [labels]'
    )
    assert warnings(plant) == ([] if typo == "worn " else [expected])  # blanks around a label do not count


@pytest.mark.parametrize(("name", "other"), [("worn", "ok"), ("unworn", "worn"), ("state 2", "state 1")])
def test_a_class_of_one_group_is_named_once_and_another_word_or_number_is_no_typo(plant, name, other):
    for machine in range(6):
        relabel(plant, machine, "worn", name if machine == 5 else other)
    assert warnings(plant) == [
        (
            f"warning: {name!r} is in group M5 alone (M5/acc.csv), so that only one split can have it; record it in"
            " more groups, or leave 'split.group' out to split by time: the same group is then in training and test,"
            " and scores do not hold for a new one"
        )
    ]


def test_a_target_that_is_an_input_is_named(plant, recipe):
    recipe(('files = "{machine}/states.csv"', 'task = "regression"\ncolumn = "ay"'))
    assert warnings(plant) == []  # without 'channels' the target is none
    recipe(('time = "time"', 'time = "time"\nchannels = ["ax", "ay"]'))
    assert warnings(plant) == [
        "warning: the target 'ay' is also a channel of acc, which a model can copy; leave it out of 'channels'"
    ]


def test_files_that_end_before_others_of_their_recording_are_named_with_times(plant, recipe):
    write_temp(plant, np.arange(40) / 4)
    write_temp(plant, np.arange(20) / 4, machines=[2])
    write_temp(plant, np.arange(7, 40) / 4, machines=[4])
    for machine, count in ((3, 80), (5, 95)):  # half a second is less than a window
        file = plant / f"M{machine}" / "acc.csv"
        file.write_text("\n".join(file.read_text().splitlines()[: count + 1]))
    recipe(temp_source())
    cure = "copy the file again, or set cover = 'any' under [windows] to keep the windows without it"
    assert [line for line in window_lines(run(plant)) if line.startswith("warning") or "outside" in line] == [
        "left out: 10 windows outside the time that all sensors share",
        f"warning: M2/temp.csv ends at 2025-11-03T07:03:25Z, acc at 2025-11-03T07:03:30Z; {cure}",
        f"warning: M3/acc.csv ends at 2025-11-03T07:20:08Z, temp at 2025-11-03T07:20:10Z; {cure}",
        f"warning: M4/temp.csv begins at 2025-11-03T07:36:41Z, acc at 2025-11-03T07:36:40Z; {cure}",
    ]
    recipe(("length_s = 1.0", "length_s = 1.0\ncover = 'any'"))
    assert [line for line in window_lines(run(plant, "any")) if line.startswith("warning") or "outside" in line] == []


def test_files_with_decimal_commas_among_others_are_read_as_they_are_and_named(plant, recipe):
    run(plant, "points")
    for machine in (1, 4):
        file = plant / f"M{machine}" / "acc.csv"
        file.write_text(file.read_text().replace(",", ";").replace(".", ","))
    report = run(plant, "out")
    assert clock_lines(report)[1:] == ["decimal commas are read in 2 of 6 files of acc: M1/acc.csv, M4/acc.csv"]
    points, windows = open_dataset(plant / "points").everything(), report.dataset.everything()
    rows = np.arange(60)
    assert np.array_equal(windows.take(rows)["acc"], points.take(rows)["acc"])
    assert np.array_equal(windows.times, points.times)


def test_a_comma_that_may_separate_thousands_is_not_guessed(plant, recipe):
    file = plant / "M1" / "acc.csv"
    file.write_text("time;ax;ay\n" + "".join(f"{START_S + k};{k + 1},500;3\n" for k in range(10)))
    says = (
        "DIR/M1/acc.csv:2: column 'ax': expected a number, got '1,500' (10 such from there on); set decimal = ',' if"
        " every file of the source has that sign, or write this file with points and without a thousands separator"
    )
    assert refusal(plant) == says
    file.write_text(file.read_text().replace(",500", ".5"))
    run(plant)
