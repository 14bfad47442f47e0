"""Recipes and files that are wrong, ask for too much, or for what is not theirs: refused with the whole message."""

import pytest

from mmkd_app.commands.data import run_data
from mmkd_edge.errors import UsageError
from mmkd_models.data.importing.from_recipe import import_recipe
from mmkd_models.data.importing.patterns import RecipeFolder, match_segment
from mmkd_models.data.importing.recipe import read_recipe
from tests.edge.said import LFS_POINTER, said
from tests.models.data.importing.conftest import refusal, run

TIME = 'time = "time"'
FILES = 'files = "{machine}/acc.csv"'
LABELS = 'files = "{machine}/states.csv"'


def test_the_limit_of_what_is_written_can_be_changed(plant, recipe):
    recipe(("length_s = 1.0", "length_s = 1.0\nstride_s = 0.1"))
    assert refusal(plant, most_bytes=10_000) == (
        "M1/acc.csv: expected at most 1e-05 GB to write, got 1.58e-05 GB for windows every 0.1 s; lengthen"
        " 'windows.stride_s', or allow more with --max-gb"
    )
    assert run(plant, most_bytes=200_000).recordings[5:]


@pytest.mark.parametrize(
    ("segment", "text", "parts"),
    [
        ("{a}_{b}.csv", "x_y_z.csv", {"a": "x", "b": "y_z"}),
        ("*_{run}.csv", "acc_x_7.csv", {"run": "7"}),
        ("{person}_*_{run}.csv", "ann_x_y_7.csv", {"person": "ann", "run": "7"}),
        ("a?c*", "abc", {}),
        ("a?c", "ac", None),
        ("{n}", "", None),
        ("{n}.csv", ".csv", None),
        ("{p}_acc.csv", "x_acc.csv", {}),
        ("{p}_acc.csv", "y_acc.csv", None),
        ("*", "", {}),
        ("[a].csv", "a.csv", None),
    ],
)
def test_a_name_matches_or_does_not(segment, text, parts):
    assert match_segment(segment, text, {"p": "x"} if "{p}" in segment else {}) == parts


def test_patterns_find_what_globs_find_in_a_time_that_does_not_grow(tmp_path):
    for name in ("acc.csv", "M1/acc.csv", "M1/b/acc.csv", "M1/b/c/acc.csv", "M2/gyro.csv", ".x/acc.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "M1" / "b" / "loop").symlink_to(tmp_path)
    folder = RecipeFolder(tmp_path)
    for pattern in ("**/acc.csv", "*/*.csv", "M1/**/*.csv", "M?/**/**/acc.csv", "**/b/**/*", "M1/acc.csv", "none/*"):
        expected = sorted(file for file in tmp_path.glob(pattern) if file.is_file() and "loop" not in file.parts)
        assert sorted(file.path for file in folder.files(pattern, key="files")) == expected, pattern
    nine = "x".join(f"{{a{number}}}" for number in range(9))
    assert match_segment(f"{nine}y", "x" * 250, {}) is None  # a regular expression tries 10^15 ways
    assert match_segment("*a" * 120 + "b", "a" * 250, {}) is None


def outside(plant):
    folder = plant.parent / f"{plant.name}-archive"
    folder.mkdir()
    (folder / "acc.csv").write_bytes((plant / "M0" / "acc.csv").read_bytes())
    (folder / "secret.csv").write_text("root:x:0:0\n")
    return folder


@pytest.mark.parametrize(
    ("old", "new", "key", "name"),
    [
        (FILES, 'files = "../ARCHIVE/{machine}.csv"', "source[0].files", "ARCHIVE"),
        (LABELS, 'table = "../ARCHIVE/secret.csv"', "labels.table", "ARCHIVE/secret.csv"),
        (LABELS, 'files = "../ARCHIVE/secret.csv"', "labels.files", "ARCHIVE/secret.csv"),
    ],
)
def test_a_recipe_reads_nothing_outside_its_folder(plant, recipe, old, new, key, name):
    archive = outside(plant)
    recipe((old, new.replace("ARCHIVE", archive.name)))
    assert refusal(plant).replace("DIR-archive", "ARCHIVE").replace(archive.name, "ARCHIVE") == (
        f"{key!r}: expected a file inside DIR, got '../{name}', which leads to {name}; move it there, or pass"
        " --allow-outside ARCHIVE"
    )


def test_a_link_that_leads_outside_is_not_followed_unless_that_is_allowed(plant):
    archive = outside(plant)
    (plant / "M0" / "acc.csv").unlink()
    (plant / "M0" / "acc.csv").symlink_to(archive / "acc.csv")
    assert refusal(plant) == (
        "'source[0].files': expected a file inside DIR, got 'M0/acc.csv', which leads to DIR-archive/acc.csv; move it"
        " there, or pass --allow-outside DIR-archive"
    )
    assert run(plant, outside=[archive]).recordings[5:]


def test_trying_a_recipe_writes_nothing_where_its_dataset_is_called(plant, recipe):
    target = plant.parent / f"{plant.name}-target"
    recipe(("[split]", f'[dataset]\nname = "{target}"\n[split]'))
    import_recipe(read_recipe(plant / "recipe.toml"), plant, None)
    assert not target.exists()


def test_the_command_reads_a_folder_outside_where_that_is_allowed(plant, recipe):
    archive = outside(plant)
    for machine in range(6):
        (plant / f"M{machine}" / "acc.csv").rename(archive / f"M{machine}.csv")
    (archive / "acc.csv").unlink()
    (archive / "secret.csv").unlink()
    recipe((FILES, f'files = "../{archive.name}/{{machine}}.csv"'))
    file, none = str(plant / "recipe.toml"), f"{archive}/none"
    for options, says in (
        (["--allow-outside", none], f"--allow-outside {none}: expected a folder, found none there; check the path"),
        (["--max-gb", "0"], "--max-gb 0: expected a number above 0; give the disk space in GB"),
    ):
        assert said(UsageError, run_data, ["import", file, "--check", *options]) == says
    with pytest.raises(SystemExit, match="0"):
        run_data(["import", file, "-o", str(plant / "out"), "--allow-outside", str(archive)])
    assert (plant / "out" / "dataset.json").is_file()


def line(number, text):
    """Put another line in place of one, counted from 1."""

    def change(content):
        lines = content.split("\n")
        lines[number - 1] = text
        return "\n".join(lines)

    return change


def with_shift(machine):
    """A column beside the samples; of machine 2 it is empty in the second half."""

    def change(content):
        header, *rows = content.splitlines()
        shifts = ["" if machine == 2 and number >= 50 else f"S{machine}" for number in range(len(rows))]
        return "\n".join([f"{header},shift", *(f"{row},{shift}" for row, shift in zip(rows, shifts, strict=True))])

    return change


def local_log(*times):
    return "\n".join(["time,ax,ay", *(f"{one},{number}.5,{number}.25" for number, one in enumerate(times))]).encode()


def rows(times):
    return "\n".join(["time,ax,ay", *(f"{time:.9g},{number}.5,1" for number, time in enumerate(times))]).encode()


def every_machine(message, values="- - - - - -"):
    """The faults of all six machines, each with the machine and a value."""
    faults = [message.format(f"M{machine}", value) for machine, value in enumerate(values.split())]
    return "\n  - ".join(["recordings: 6 problems", *faults])


BERLIN = {TIME: f'{TIME}\ntimezone = "Europe/Berlin"'}
SECONDS = {TIME: f'{TIME}\ntime_unit = "s"'}
ACC = "DIR/recipe.toml: 'source[0].{}' (acc): expected "
MODALITY = 'modality = "acc"'
NAME = (
    "expected a name of letters, digits and _ that starts with a letter and is none of labels, groups, folds, lengths,"
    " splits, times, starts, episodes; rename it"
)
WORTH = "expected at most 0.268 GB to write, got {}, or allow more with --max-gb"
YEARS = "DIR/M2/acc.csv:2: column 'time': expected a time within 146 years of 1970, got {}; correct it"
POINTER = "got a Git LFS pointer in place of the file; run git lfs pull in its repository"
NOT_UTF8 = "DIR/recipe.toml: expected TOML in UTF-8, got "
BOOK = b"line,start,end,label\nM1,1762152400,1762152405,ok\nM1,1762152400,1762152405,worn\n"
LOG, STATES = "M2/acc.csv", "M2/states.csv"
# What is said of a plant with changes of its recipe or of files (bytes: the whole one); `DIR` is its folder.
CASES = {
    "DIR/M2/acc.csv:7: column 'ax': expected a number, got 'fault' (1 such from there on); correct it, or add 'fault'"
    " to 'null' if it means missing": {LOG: line(7, "1762153400.5,fault,1.0")},
    "DIR/M2/acc.csv:2: column 'time': expected a time in ISO 8601, got '1762153400,0'; correct it, or set decimal ="
    " 'auto', which reads each file by its own sign": {
        TIME: f'{TIME}\ndecimal = "."',
        LOG: lambda text: text.replace(",", ";").replace(".", ","),
    },
    "DIR/M2/acc.csv:5: column 'time': expected a time as a number, got 'noon'; correct it, or remove the line": {
        LOG: line(5, "noon,0.5,1.0")
    },
    "DIR/M2/acc.csv:3: column 'time': expected a time in ISO 8601 with an offset, as others in this file, got 'noon';"
    " correct it, or remove the line": {LOG: b"time,ax,ay\n2025-11-03T07:00:00Z,2,3\nnoon,2,3\n"},
    "DIR/M2/acc.csv:2: column 'time': expected a time as a number, got 'noon'; correct it, or remove 'time_unit' if"
    " times are text": {**SECONDS, LOG: b"time,ax,ay\nnoon,2,3\n"},
    "DIR/M2/acc.csv:5: column 'ax': expected a number, got '1.299,5' (1 such from there on); set decimal = ',' if"
    " every file of the source has that sign, or write this file with points and without a thousands separator": {
        LOG: line(5, '1762153400.3,"1.299,5",1.0')
    },
    every_machine(
        "DIR/{}/acc.csv:2: column 'ax': expected a number, got '{}' (100 such from there on); set decimal ="
        " 'auto', which reads each file by its own sign",
        "0.12573 0.34558 0.18905 2.04092 -0.65179 -0.80193",
    ): {
        TIME: f'{TIME}\ndecimal = ","\ndelimiter = ";"',
        **{f"M{machine}/acc.csv": lambda text: text.replace(",", ";") for machine in range(6)},
    },
    "DIR/M2/acc.csv:6: expected 3 fields separated by ',', got 1; this line has another separator, ';'; write all"
    " lines with one": {LOG: line(6, "1762153400.4;0.5;0.25")},
    "DIR/M2/acc.csv:101: expected 3 fields separated by ',', got 2; the file seems cut off there; remove the line, or"
    " copy the file again": {LOG: lambda text: text[: text.rindex(",")]},
    "DIR/M2/acc.csv: expected a table, got an empty file; remove it, or write it again": {LOG: b""},
    "DIR/M2/acc.csv: has no rows; remove the file, or write it again": {LOG: b"time,ax,ay\n"},
    "DIR/M0/acc.csv:1: expected the names of the columns, got numbers, '1762151400.0,0.12573,-0.13210'; write a"
    " header, or set header = false and name columns by their"
    " numbers, '1', '2'...": {"M0/acc.csv": lambda text: text.partition("\n")[2]},
    "DIR/M0/acc.csv:1: expected different names of columns, got 'ax' for columns 2 and 3; rename one": {
        "M0/acc.csv": line(1, "time,ax,ax")
    },
    "DIR/M2/acc.csv:1: expected column 'ay' as in DIR/M0/acc.csv, got 'time', 'ax', 'az'; correct the name in the"
    ' recipe, or the file; or leave the recording out: exclude = ["M2/acc.csv"] below version = 1': {
        LOG: line(1, "time,ax,az")
    },
    "DIR/M2/acc.csv:2: expected text in utf-8, got byte 0x89; set encoding = 'shift_jis' if all files of the source"
    " have it, or write the file as UTF-8": {LOG: "time,ax,ay\n1,2,温度\n".encode("shift_jis")},
    "DIR/M2/acc.csv:3: expected text in utf-8, got byte 0x89; the file mixes encodings, as lines before it are utf-8:"
    " write this line in utf-8 too": {LOG: "time,ax,温度\n1,2,3\n".encode() + "2,3,温度\n".encode("shift_jis")},
    "DIR/M2/acc.csv:1: expected text in utf-8, got a ZIP file, as Excel's are; save the sheet as CSV": {
        LOG: b"PK\x03\x04\x14\x00\x06\x00\xb4\xff"
    },
    f"DIR/M2/acc.csv: expected a table, {POINTER}": {LOG: LFS_POINTER.encode()},
    f"DIR/M2/states.csv: expected a table, {POINTER}": {STATES: LFS_POINTER.encode()},
    f"DIR/M0/acc.parquet: expected a Parquet file, {POINTER}": {
        "acc.csv": "acc.parquet",
        "M0/acc.parquet": LFS_POINTER.encode(),
    },
    f"DIR/M0/acc.npz: expected a NumPy archive (.npz), {POINTER}": {
        "acc.csv": "acc.npz",
        "M0/acc.npz": LFS_POINTER.encode(),
    },
    f"{NOT_UTF8}UTF-16, as Windows PowerShell and Notepad may write; save the recipe as UTF-8": {
        "recipe.toml": 'version = 1\nname = "ü"\n'.encode("utf-16")
    },
    f"{NOT_UTF8}byte 0xfc in line 2; save the recipe as UTF-8": {
        "recipe.toml": 'version = 1\nname = "ü"\n'.encode("cp1252")
    },
    "recipe: 'labels.files': 'machine' is no part of all paths; the paths have none; write {machine} into 'files' of"
    ' acc, such as files = "{machine}/acc.csv" in place of "*/acc.csv"': {FILES: 'files = "*/acc.csv"'},
    "recipe: 'machine' is neither a part of the path nor a column of a source; the paths have none; write {machine}"
    ' into \'files\' of acc, such as files = "{machine}/acc.csv" in place of "*/acc.csv"': {
        FILES: 'files = "*/acc.csv"',
        LABELS: 'classes = ["ok"]\nunlabelled = "keep"',
    },
    "DIR/M3/acc.csv:2: timestamps go back to 2025-11-03T06:30:00.000Z from 2025-11-03T07:03:29.900Z, the end of"
    " DIR/M2/acc.csv; both are one recording, as files that differ in no part of 'files' follow each other: write a"
    ' part, such as files = "{run}/acc.csv" in place of "*/acc.csv", or set unsorted = \'sort\'': {
        FILES: 'files = "*/acc.csv"',
        LABELS: 'classes = ["ok"]\nunlabelled = "keep"',
        'group = "machine"': "",
        "M3/acc.csv": rows([1762151400 + number / 10 for number in range(100)]),
    },
    every_machine(
        "DIR/{}/acc.csv: expected 10 Hz, as 'rate_hz' or the first file says, got 0.01 Hz by the times; set"
        " time_unit = 'ms'"
    ): {
        TIME: f'{TIME}\ntime_unit = "s"\nrate_hz = 10.0',
        **{f"M{machine}/acc.csv": rows(range(0, 10_000, 100)) for machine in range(6)},
    },
    "'windows.length_s': expected 2 samples or more in a window, got 0.01: acc has 0.01 Hz by its times; lengthen it,"
    " or set time_unit = 'ms' if its times are in ms": {
        **SECONDS,
        **{f"M{machine}/acc.csv": rows(range(0, 10_000, 100)) for machine in range(6)},
    },
    "DIR/M2/acc.csv:2: column 'time': expected a time within 146 years of 1970, got '1762153400000'; correct it, or set"
    " time_unit = 'ms'": {**SECONDS, LOG: b"time,ax,ay\n1762153400000,2,3\n"},
    "DIR/M2/acc.csv:2: column 'time': expected a time as a number, got '0,1'; correct it, or set decimal = 'auto',"
    " which reads each file by its own sign": {
        TIME: f'{TIME}\ntime_unit = "s"\ndecimal = "."',
        LOG: b"time;ax;ay\n0,1;2;3\n",
    },
    "DIR/M0/acc.csv:1: expected text in utf-16, got no byte order mark; correct 'encoding'": {
        TIME: f'{TIME}\nencoding = "utf-16"'
    },
    "DIR/M2/acc.csv:2: expected text in utf-16, got an odd byte at its end; copy the file again": {
        LOG: "time,ax,ay\n1,2,3\n".encode("utf-16")[:-1]
    },
    "DIR/M2/acc.csv:8: timestamps go back: 2025-11-03T07:03:20.200Z after 2025-11-03T07:03:20.500Z (1 such from there"
    " on); sort the file, or set unsorted = 'sort'": {LOG: line(8, "1762153400.2,0.5,0.25")},
    "DIR/M2/acc.csv:8: timestamps repeat: 2025-11-03T07:03:20.500Z again (1 such from there on); set duplicates ="
    " 'first', 'last' or 'mean', or correct the times": {LOG: line(8, "1762153400.5,0.5,0.25")},
    "DIR/M2/acc.csv:101: column 'time': expected a time until now, got 2100-01-01T00:00:00.000Z; correct 'time_unit'"
    " or 'time_format', or the clock": {LOG: line(101, "4102444800.0,0.5,0.25")},
    "DIR/M2/acc.csv:8: column 'time': expected a time, got none; remove the line, or write its time": {
        LOG: line(8, ",0.5,0.25")
    },
    "DIR/M0/acc.csv:2: column 'time': expected a time since 1970, got 0; set time_unit to 's', 'ms', 'us' or 'ns' if"
    " it counts from the start": {"M0/acc.csv": b"time,ax,ay\n0.0,1,2\n0.1,2,3\n"},
    "DIR/M0/acc.csv:2: column 'time': expected an offset or a time zone, got local time 2025-11-03T06:30:00; set"
    " timezone, such as 'Europe/Berlin', or 'UTC', under the [[source]] or [labels] of this file": {
        "M0/acc.csv": local_log("2025-11-03 06:30:00", "2025-11-03 06:30:01")
    },
    "DIR/M0/acc.csv:3: column 'time': expected a time that came once in Europe/Berlin, got 2025-10-26T02:30:00, when"
    " clocks were set back; set ambiguous = 'infer', or log in UTC": {
        **BERLIN,
        "M0/acc.csv": local_log("2025-10-26 01:30:00", "2025-10-26 02:30:00", "2025-10-26 03:30:00"),
    },
    "DIR/M0/acc.csv:3: column 'time': expected a time that there was in Europe/Berlin, got 2025-03-30T02:30:00, when"
    " clocks were set forward; set timezone; 'Etc/GMT-1' is UTC+1 all year": {
        **BERLIN,
        "M0/acc.csv": local_log("2025-03-30 01:30:00", "2025-03-30 02:30:00", "2025-03-30 03:30:00"),
    },
    every_machine(
        "DIR/{}/acc.csv: expected 10.2 Hz, as 'rate_hz' or the first file says, got 10 Hz by the times; correct"
        " 'rate_hz', or 'time_unit'"
    ): {TIME: f"{TIME}\nrate_hz = 10.2"},
    "DIR/M2/states.csv:3: expected intervals apart, got 'worn' that shares 1 s with 'ok' of DIR/M2/states.csv:2;"
    " correct one of them": {STATES: b"start,end,label\n1762153400,1762153406,ok\n1762153405,1762153410,worn\n"},
    "DIR/M2/states.csv:2: expected an interval that ends after its start, got one of -10 s; correct the line": {
        STATES: b"start,end,label\n1762153400,1762153390,ok\n"
    },
    "recipe: DIR/M9/states.csv:2: there is no recording of machine 'M9'; the paths have machine 'M0', 'M1', 'M2', 'M3',"
    " 'M4'; correct or remove the line": {"M9/states.csv": b"start,end,label\n1762153400,1762153405,ok\n"},
    "recipe: DIR/book.csv:2: there is no recording of machine 'N1'; the paths have machine '1', '0', '2', '3', '4'; no"
    " line has a recording: correct 'labels.match'": {
        FILES: 'files = "M{machine}/acc.csv"',
        LABELS: 'files = "book.csv"\nmatch = {machine = "line"}',
        "book.csv": BOOK.replace(b"M1", b"N1"),
    },
    "DIR/book.csv:3: expected intervals apart, got 'worn' that shares 5 s with 'ok' of DIR/book.csv:2; correct one of"
    " them, or name the recording of each line: set match = {PART = 'COLUMN'} under [labels]": {
        LABELS: 'files = "book.csv"',
        "book.csv": BOOK,
    },
    "DIR: 'source[0].files': expected files, found none at DIR/{machine}/vib.csv, but there is M5/acc.csv; correct the"
    " pattern": {"{machine}/acc.csv": "{machine}/vib.csv"},
    "DIR/recipe.toml: 'windows.length_s': expected a number, got text; docs/your-own-data.md lists every key": {
        "length_s = 1.0": 'length_s = "1 s"'
    },
    "DIR/recipe.toml: expected TOML, got Expected ']' at the end of a table declaration (at line 8, column 9); correct"
    " that line": {"[windows]": "[windows"},
    "DIR/recipe.toml: unknown key 'label', perhaps 'labels' is meant; docs/your-own-data.md lists every key": {
        "[labels]": "[label]"
    },
    "DIR/recipe.toml: 'split': unknown key 'exclude'; write it above the first [[source]]; docs/your-own-data.md lists"
    " every key": {'group = "machine"': 'group = "machine"\nexclude = ["M7"]'},
    "DIR/recipe.toml: 'windows': unknown key 'max_gap_s'; write it under [[source]]; docs/your-own-data.md lists every"
    " key": {"length_s = 1.0": "length_s = 1.0\nmax_gap_s = 1.0"},
    "DIR/recipe.toml: expected TOML, got a key again, 'exclude = [\"M2\"]' in line 3; join both lines into one": {
        "version = 1": 'version = 1\nexclude = ["M1"]\nexclude = ["M2"]'
    },
    "DIR/recipe.toml: 'version': expected 1, got 2; use the mmkd-edge that wrote it": {"version = 1": "version = 2"},
    "'split.group': expected 7 values of 'machine' or more, got 6 (M0, M1, M2, M3, M4, M5); record more, choose"
    " another group, or leave it out to split by time": {'group = "machine"': 'group = "machine"\nfolds = 7'},
    "'split.group': expected 3 values of 'machine' or more, got 2 (M0, M1); 4 of 6 recordings have no window (40"
    " without a label): correct their times or labels; record more, choose another group, or leave it out to split by"
    " time": {f"M{n}/states.csv": b"start,end,label\n1762100000,1762100005,ok\n" for n in range(2, 6)},
    "'split.test': expected values of 'machine', each in one split, got 'M7'; choose among M0, M1, M2, M3, M4, M5": {
        'group = "machine"': 'group = "machine"\ntest = ["M7"]'
    },
    "dataset DIR/out: class 'stuck' (1) has no window in train; move a group that has it, or remove it": {
        'group = "machine"': 'group = "machine"\nvalid = ["M1"]\ntest = ["M5"]',
        "M5/states.csv": b"start,end,label\n1762156400,1762156405,stuck\n",
    },
    "'windows': expected windows, got none; 'length_s' is 60 s, and the longest recording, M0/acc.csv, has 10 s;"
    " shorten it": {"length_s = 1.0": "length_s = 60.0"},
    "'windows': expected windows, got none (60 without a label); the labels of M0/acc.csv are from"
    " 2025-11-03T09:30:00Z to 2025-11-03T09:30:10Z, its samples from 2025-11-03T06:30:00Z to 2025-11-03T06:30:10Z;"
    " correct 'timezone', or set offset_s, perhaps to 0, under [labels]": {
        'files = "{machine}/states.csv"': 'files = "{machine}/states.csv"\noffset_s = 10800'
    },
    "DIR/recipe.toml: 'windows': unknown key 'lenght_s', perhaps 'length_s' is meant; docs/your-own-data.md lists"
    " every key": {"length_s": "lenght_s"},
    "'labels.files': expected files, found none at DIR/{machine}/labels.csv; correct the pattern, or set 'path',"
    " 'column' or 'table' where labels are not in files of intervals, or classes = [...] and unlabelled = 'keep'"
    " without any": {"states.csv": "labels.csv"},
    "DIR/M0/acc.parquet: expected a Parquet file, got parquet: File out of specification: A Parquet file must contain"
    " a header and footer with at least 12 bytes; copy it again": {"acc.csv": "acc.parquet", "M0/acc.parquet": b"PAR1"},
    "DIR/M0/acc.npz: expected a NumPy archive (.npz), got another format; write it with numpy.savez": {
        "acc.csv": "acc.npz",
        "M0/acc.npz": b"PK",
    },
    "M2/acc.csv: expected a value of 'shift', the group, for every window, got none at 2025-11-03T07:03:25.000Z (5"
    " such); fill it in, or choose another 'split.group'": {
        'group = "machine"': 'group = "shift"',
        'time = "time"': 'time = "time"\nchannels = ["ax", "ay"]',
        **{f"M{machine}/acc.csv": with_shift(machine) for machine in range(6)},
    },
    f"{ACC.format('files')}a path from the folder of the recipe, with '/' between folders, got '/etc/*.csv';"
    " correct it": {FILES: 'files = "/etc/*.csv"'},
    f"{ACC.format('files')}names of letters, digits and _ in braces, each once in a folder's or file's name,"
    " got {1} in '{1}'; rename it, or write *": {FILES: 'files = "{1}/acc.csv"'},
    f"{ACC.format('files')}a path without control characters, got 'a\\x00.csv'; correct it": {
        FILES: 'files = "a\\u0000.csv"'
    },
    f"{ACC.format('encoding')}the name of a text encoding, such as 'utf-8' or 'shift_jis', got 'punycode';"
    " correct it": {TIME: f'{TIME}\nencoding = "punycode"'},
    f"{ACC.format('offset_s')}-4e+09 to 4e+09 s, got nan; correct it": {TIME: f"{TIME}\noffset_s = nan"},
    f"{ACC.format('start')}parts of the path, got {{1}}; 'files' has machine": {TIME: 'rate_hz = 10.0\nstart = "{1}"'},
    f"{ACC.format('timezone')}a name such as 'Europe/Berlin' or 'UTC', got 'Europe'; correct it": {
        TIME: f'{TIME}\ntimezone = "Europe"'
    },
    f"{ACC.format('delimiter')}one ASCII character other than a quote, got '\"'; correct it": {
        TIME: f"{TIME}\ndelimiter = '\"'"
    },
    "DIR/recipe.toml: 'split.seed': expected 0 or more, got -1; correct it": {"[split]": "[split]\nseed = -1"},
    f"DIR/recipe.toml: 'source[0].modality' (../../PWN): {NAME}": {'"acc"': '"../../PWN"'},
    "DIR/recipe.toml: 'source[0]': expected 'modality', or 'sensors' with the columns of each, got none; name one of"
    " them": {MODALITY: ""},
    "DIR/recipe.toml: 'source[0]' (acc): expected 'modality', or 'sensors' with the columns of each, got both; name one"
    " of them": {MODALITY: f'{MODALITY}\nsensors = {{acc = ["ax"]}}'},
    "DIR/recipe.toml: 'source[0].channels': not with 'sensors', which name the columns; remove them": {
        MODALITY: 'sensors = {acc = ["ax"]}\nchannels = ["ay"]'
    },
    "DIR/recipe.toml: 'source[0].sensors': expected the columns of 'acc', got none; write acc = ['COLUMN']": {
        MODALITY: "sensors = {acc = []}"
    },
    f"DIR/recipe.toml: 'source[0].sensors': {NAME}": {MODALITY: 'sensors = {groups = ["ax"]}'},
    f"{ACC.format('file_scale')}factors from -1e+30 to 1e+30, got inf; correct it": {
        TIME: f'{TIME}\nfile_scale = {{"M3/acc.csv" = {{ax = inf}}}}'
    },
    "DIR: 'source[0].file_scale': expected files of the source, got 'M9/acc.csv'; correct its path": {
        TIME: f'{TIME}\nfile_scale = {{"M9/acc.csv" = {{ax = 0.001}}}}'
    },
    "'file_scale' of M3/acc.csv: expected column 'az', got 'ax', 'ay'; correct the name in the recipe, or the file": {
        TIME: f'{TIME}\nfile_scale = {{"M3/acc.csv" = {{az = 0.001}}}}'
    },
    "DIR/recipe.toml: expected a recipe of at most 1,048,576 bytes, got 1,048,577; name the right file": {
        "recipe.toml": b"#" * ((1 << 20) + 1)
    },
    "M0/acc.csv: sensor 'acc': " + WORTH.format("8 GB for 1e+07 s at 100 Hz; correct the times or 'resample_hz'"): {
        TIME: f'{TIME}\ntime_unit = "s"\nrate_hz = 100.0',
        "length_s = 1.0": "length_s = 1e3",
        "M0/acc.csv": rows([1e7 / 9 * number for number in range(10)]),
    },
    "'windows.stride_s': expected 0.1 s or more, a sample of the fastest sensor, got 1e-06; lengthen it": {
        "length_s = 1.0": "length_s = 1.0\nstride_s = 1e-6"
    },
    "DIR/M0/acc.csv: expected 'resample_hz' of 0.01 or more for 10 Hz, got 0.0001; raise it, or set resample ="
    " 'linear'": {TIME: f'{TIME}\nresample = "polyphase"\nresample_hz = 1e-4', "length_s = 1.0": "length_s = 1e5"},
    "DIR/M2/acc.csv:1: expected lines of at most 1,048,576 bytes, got a longer one; write line ends into the file": {
        LOG: b"1" * 3_000_000
    },
    "DIR/M2/acc.csv:1: expected at most 4,096 columns, got 100,001; split the file": {
        LOG: ",".join(["time", *map(str, range(100_000))]).encode() + b"\n"
    },
    "DIR/M0/acc.csv:3: expected text in utf-8, got a NUL byte; set 'encoding', or 'format' if it is no text": {
        **SECONDS,
        "M0/acc.csv": b"time,ax,ay\n1,2,3\n1,\0,3\n",
    },
    "DIR/M0/acc.csv:2: expected fields with closed quotes, of at most 131,072 characters, got field larger than field"
    " limit (131072); correct the quotes of the file": {**SECONDS, "M0/acc.csv": b'time,ax,ay\n1,2,"' + b"3" * 200_000},
    YEARS.format("'1e300'") + ", or 'time_unit'": {**SECONDS, LOG: b"time,ax,ay\n1e300,2,3\n"},
    YEARS.format("'9999-12-31T00:00:00Z'"): {LOG: b"time,ax,ay\n9999-12-31T00:00:00Z,2,3\n"},
}


def change_plant(plant, changes):
    """Replace texts of the recipe, and change files or write them (bytes)."""
    for name, change in changes.items():
        file = plant / ("recipe.toml" if isinstance(change, str) else name)
        file.parent.mkdir(exist_ok=True)
        if isinstance(change, str):
            assert file.read_text().count(name) == 1, name
            file.write_text(file.read_text().replace(name, change))
            continue
        file.write_bytes(change if isinstance(change, bytes) else change(file.read_text()).encode())


@pytest.mark.parametrize(("says", "changes"), CASES.items(), ids=range(len(CASES)))
def test_a_fault_is_told_with_its_place_and_its_cure(says, changes, plant):
    change_plant(plant, changes)
    assert refusal(plant) == says
    assert sum(file.stat().st_size for file in plant.rglob("*") if file.is_file()) < 4 << 20
