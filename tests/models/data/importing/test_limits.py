"""Recipes and files that are wrong, ask for too much, or for what is not theirs: refused with the whole message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from mmkd_edge.errors import DatasetError, MmkdError
from mmkd_models.commands.data import run_data
from mmkd_models.data.importing.from_recipe import import_recipe
from mmkd_models.data.importing.patterns import RecipeFolder, match_segment
from mmkd_models.data.importing.recipe import read_recipe
from tests.edge.said import said

TIME = 'time = "time"'
FILES = 'files = "{machine}/acc.csv"'
LABELS = 'files = "{machine}/states.csv"'
NAMES = (
    "expected a name of letters, digits and _ that starts with a letter and is none of labels, groups, folds, lengths,"
    " splits, times, starts, episodes; rename it"
)
ENCODING = "expected the name of a text encoding, such as 'utf-8' or 'shift_jis', got "


def run(plant, **options):
    return import_recipe(read_recipe(plant / "recipe.toml"), plant, plant / "out", **options)


def refusal(plant, **options):
    message = said(DatasetError, run, plant, **options)
    assert not (plant / "out").exists()
    return message.replace(str(plant), "DIR")


@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        (
            FILES,
            'files = "/etc/*.csv"',
            "source[0].files",
            "expected a path from the folder of the recipe, with '/' between folders, got '/etc/*.csv'; correct it",
        ),
        (
            FILES,
            'files = "{1}/acc.csv"',
            "source[0].files",
            (
                "expected names of letters, digits and _ in braces, each once in a folder's or file's name, got {1} in"
                " '{1}'; rename it, or write *"
            ),
        ),
        (
            FILES,
            'files = "a\\u0000.csv"',
            "source[0].files",
            "expected a path without control characters, got 'a\\x00.csv'; correct it",
        ),
        (TIME, f'{TIME}\nencoding = "punycode"', "source[0].encoding", f"{ENCODING}'punycode'; correct it"),
        (TIME, f"{TIME}\noffset_s = nan", "source[0].offset_s", "expected -4e+09 to 4e+09 s, got nan; correct it"),
        (
            TIME,
            'rate_hz = 10.0\nstart = "{1}"',
            "source[0].start",
            "expected parts of the path, got {1}; 'files' has machine",
        ),
        (
            TIME,
            f'{TIME}\ntimezone = "Europe"',
            "source[0].timezone",
            "expected a name such as 'Europe/Berlin' or 'UTC', got 'Europe'; correct it",
        ),
        (
            TIME,
            f"{TIME}\ndelimiter = '\"'",
            "source[0].delimiter",
            "expected one ASCII character other than a quote, got '\"'; correct it",
        ),
        ("[split]", "[split]\nseed = -1", "split.seed", "expected 0 or more, got -1; correct it"),
        ('"acc"', '"../../PWN"', "source[0].modality", NAMES),
    ],
)
def test_an_odd_recipe_is_refused_before_any_file_is_opened(plant, recipe, old, new, key, says):
    recipe((old, new))
    sensor = (" (../../PWN)" if "PWN" in new else " (acc)") if key.startswith("source") else ""
    assert refusal(plant) == f"DIR/recipe.toml: '{key}'{sensor}: {says}"


def test_a_recipe_of_megabytes_is_not_read(plant):
    (plant / "recipe.toml").write_bytes(b"#" * ((1 << 20) + 1))
    assert refusal(plant) == (
        "DIR/recipe.toml: expected a recipe of at most 1,048,576 bytes, got 1,048,577; name the right file"
    )


# What is written is bounded by what is there.


def rows(times):
    return "\n".join(["time,ax,ay", *(f"{time:.9g},{number}.5,1" for number, time in enumerate(times))])


@pytest.mark.parametrize(
    ("pairs", "files", "says"),
    [
        (
            [(TIME, f'{TIME}\ntime_unit = "s"\nrate_hz = 100.0'), ("length_s = 1.0", "length_s = 1e3")],
            {"M0/acc.csv": rows([1e7 / 9 * number for number in range(10)])},
            (
                "M0/acc.csv: sensor 'acc': expected at most 1.07 GB to write, got 8 GB for 1e+07 s at 100 Hz; correct"
                " the times or 'resample_hz', or allow more with --max-gb"
            ),
        ),
        (
            [("length_s = 1.0", "length_s = 1.0\nstride_s = 1e-6")],
            {},
            (
                "M0/acc.csv: expected at most 1.07 GB to write, got 3.02 GB for windows every 1e-06 s; lengthen"
                " 'windows.stride_s', or allow more with --max-gb"
            ),
        ),
        (
            [(TIME, f'{TIME}\nresample = "polyphase"\nresample_hz = 1e-4'), ("length_s = 1.0", "length_s = 1e5")],
            {},
            (
                "DIR/M0/acc.csv: expected 'resample_hz' of 0.01 or more for 10 Hz, got 0.0001; raise it, or set"
                " resample = 'linear'"
            ),
        ),
    ],
)
def test_more_than_the_recordings_are_worth_is_not_written(plant, recipe, pairs, files, says):
    recipe(*pairs)
    for name, text in files.items():
        (plant / name).write_text(text)
    assert refusal(plant) == says
    assert sum(file.stat().st_size for file in plant.rglob("*") if file.is_file()) < 1 << 20


def test_the_limit_of_what_is_written_can_be_changed(plant, recipe):
    recipe(("length_s = 1.0", "length_s = 1.0\nstride_s = 0.1"))
    assert refusal(plant, most_bytes=10_000) == (
        "M0/acc.csv: expected at most 1e-05 GB to write, got 3.09e-05 GB for windows every 0.1 s; lengthen"
        " 'windows.stride_s', or allow more with --max-gb"
    )
    assert run(plant, most_bytes=200_000).recordings[5:]


# Files that are larger than they look, or no text.


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "1" * 3_000_000,
            "1: expected lines of at most 1,048,576 bytes, got a longer one; write line ends into the file",
        ),
        (
            ",".join(["time", *map(str, range(100_000))]) + "\n",
            "1: expected at most 4,096 columns, got 100,001; split the file",
        ),
        (
            "time,ax,ay\n1,2,3\n1,\0,3\n",
            "3: expected text in utf-8, got a NUL byte; set 'encoding', or 'format' if it is no text",
        ),
        (
            'time,ax,ay\n1,2,"' + "3" * 200_000,
            (
                "2: expected fields with closed quotes, of at most 131,072 characters, got field larger than field"
                " limit (131072); correct the quotes of the file"
            ),
        ),
        (
            "time,ax,ay\n1e300,2,3\n",
            "2: column 'time': expected a time within 146 years of 1970, got '1e300'; correct it, or 'time_unit'",
        ),
        (
            "time,ax,ay\n9999-12-31T00:00:00Z,2,3\n",
            "2: column 'time': expected a time within 146 years of 1970, got '9999-12-31T00:00:00Z'; correct it",
        ),
    ],
)
def test_a_text_file_that_is_no_table_is_refused(plant, recipe, text, says):
    if "Z" not in text:
        recipe((TIME, f'{TIME}\ntime_unit = "s"'))
    (plant / "M0" / "acc.csv").write_text(text)
    assert refusal(plant) == f"DIR/M0/acc.csv:{says}"


# Patterns.


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


# Folders.


def outside(plant):
    """A folder beside the plant with a log."""
    folder = plant.parent / f"{plant.name}-archive"
    folder.mkdir()
    (folder / "acc.csv").write_bytes((plant / "M0" / "acc.csv").read_bytes())
    (folder / "secret.csv").write_text("root:x:0:0\n")
    return folder


@pytest.mark.parametrize(
    ("pairs", "key", "name", "leads_to"),
    [
        ([(FILES, 'files = "../ARCHIVE/{machine}.csv"')], "source[0].files", "../ARCHIVE", "ARCHIVE"),
        ([(LABELS, 'table = "../ARCHIVE/secret.csv"')], "labels.table", "../ARCHIVE/secret.csv", "ARCHIVE/secret.csv"),
        ([(LABELS, 'files = "../ARCHIVE/secret.csv"')], "labels.files", "../ARCHIVE/secret.csv", "ARCHIVE/secret.csv"),
    ],
)
def test_a_recipe_reads_nothing_outside_its_folder(plant, recipe, pairs, key, name, leads_to):
    archive = outside(plant)
    recipe(*((old, new.replace("ARCHIVE", archive.name)) for old, new in pairs))
    message = refusal(plant)
    name, leads_to = name.replace("ARCHIVE", archive.name), f"{archive}{leads_to.removeprefix('ARCHIVE')}"
    assert message.replace("DIR-archive", str(archive)) == (
        f"{key!r}: expected a file inside DIR, got {name!r}, which leads to {leads_to}; move it there, or pass"
        f" --allow-outside {archive}"
    )
    assert "root" not in message.replace("/root", "")


def test_a_link_that_leads_outside_is_not_followed_unless_that_is_allowed(plant):
    archive = outside(plant)
    (plant / "M0" / "acc.csv").unlink()
    (plant / "M0" / "acc.csv").symlink_to(archive / "acc.csv")
    assert refusal(plant).replace("DIR-archive", str(archive)) == (
        f"'source[0].files': expected a file inside DIR, got 'M0/acc.csv', which leads to {archive}/acc.csv; move it"
        f" there, or pass --allow-outside {archive}"
    )
    assert run(plant, outside=[archive]).recordings[5:]


def test_trying_a_recipe_writes_nothing_where_its_dataset_is_called(plant, recipe):
    target = plant.parent / f"{plant.name}-target"
    recipe(("[split]", f'[dataset]\nname = "{target}"\n[split]'))
    import_recipe(read_recipe(plant / "recipe.toml"), plant, None)
    assert not target.exists()


# The command.


def test_the_command_reads_a_folder_outside_where_that_is_allowed(plant, recipe):
    archive = outside(plant)
    for machine in range(6):
        (plant / f"M{machine}" / "acc.csv").rename(archive / f"M{machine}.csv")
    for name in ("secret.csv", "acc.csv"):
        (archive / name).unlink()
    recipe((FILES, f'files = "../{archive.name}/{{machine}}.csv"'))
    file = str(plant / "recipe.toml")
    leads_out = (
        f"'source[0].files': expected a file inside {plant}, got '../{archive.name}', which leads to {archive};"
        f" move it there, or pass --allow-outside {archive}"
    )
    none = f"{archive}/none"
    for options, says in (
        ([], leads_out),
        (["--allow-outside", none], f"--allow-outside {none}: expected a folder, found none there; check the path"),
        (["--max-gb", "0"], "--max-gb 0: expected a number above 0; give the disk space in GB"),
    ):
        with pytest.raises(MmkdError) as error:
            run_data(["import", file, "--check", *options])
        assert (error.value.exit_code, str(error.value)) == (2, says)
    with pytest.raises(SystemExit, match="0"):
        run_data(["import", file, "-o", str(plant / "out"), "--allow-outside", str(archive)])
    assert (plant / "out" / "dataset.json").is_file()


Change = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Broken:
    """What is changed in a sound plant (bytes: the whole file), and what the import says; `DIR` is the folder."""

    says: str
    recipe: tuple[tuple[str, str], ...] = ()
    files: dict[str, Change | bytes] = field(default_factory=dict)


def line(number, text):
    """Puts another line in place of one, counted from 1."""

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


def every_machine(message, values="- - - - - -"):
    """The faults of all six machines, each with the machine and a value."""
    faults = [message.format(f"M{machine}", value) for machine, value in enumerate(values.split())]
    return "\n  - ".join(["recordings: 6 problems", *faults])


BERLIN = (('time = "time"', 'time = "time"\ntimezone = "Europe/Berlin"'),)
LOG, STATES = "M2/acc.csv", "M2/states.csv"
CASES = [
    Broken(
        files={LOG: line(7, "1762153400.5,fault,1.0")},
        says="DIR/M2/acc.csv:7: column 'ax': expected a number, got 'fault' (1 such from there on);"
        " correct it, or add 'fault' to 'null' if it means missing",
    ),
    Broken(
        files={LOG: lambda text: text.replace(",", ";").replace(".", ",")},
        says="DIR/M2/acc.csv:2: column 'time': expected a time in ISO 8601, got '1762153400,0'; correct"
        " it, or set decimal = ','",
    ),
    Broken(
        files={LOG: line(5, '1762153400.3,"1.299,5",1.0')},
        says="DIR/M2/acc.csv:5: column 'ax': expected a number, got '1.299,5' (1 such from there on);"
        " set decimal = ',' if that is its sign, and write numbers without a thousands separator",
    ),
    Broken(
        recipe=(('time = "time"', 'time = "time"\ndecimal = ","\ndelimiter = ";"'),),
        files={f"M{machine}/acc.csv": lambda text: text.replace(",", ";") for machine in range(6)},
        says=every_machine(
            "DIR/{}/acc.csv:2: column 'ax': expected a number, got '{}' (100 such from there on); set decimal = '.' if"
            " that is its sign, and write numbers without a thousands separator",
            "0.12573 0.34558 0.18905 2.04092 -0.65179 -0.80193",
        ),
    ),
    Broken(
        files={LOG: line(6, "1762153400.4;0.5;0.25")},
        says="DIR/M2/acc.csv:6: expected 3 fields separated by ',', got 1; this line has another"
        " separator, ';'; write all lines with one",
    ),
    Broken(
        files={LOG: lambda text: text[: text.rindex(",")]},
        says="DIR/M2/acc.csv:101: expected 3 fields separated by ',', got 2; the file seems cut off"
        " there; remove the line, or copy the file again",
    ),
    Broken(files={LOG: b""}, says="DIR/M2/acc.csv: expected a table, got an empty file; remove it, or write it again"),
    Broken(files={LOG: b"time,ax,ay\n"}, says="DIR/M2/acc.csv: has no rows; remove the file, or write it again"),
    Broken(
        files={"M0/acc.csv": lambda text: text.partition("\n")[2]},
        says="DIR/M0/acc.csv:1: expected the names of the columns, got numbers, '1762151400.0,0.12573,-0.13210'; write"
        " a header, or set header = false and name columns by their numbers, '1', '2'...",
    ),
    Broken(
        files={"M0/acc.csv": line(1, "time,ax,ax")},
        says="DIR/M0/acc.csv:1: expected different names of columns, got 'ax' for columns 2 and 3; rename one",
    ),
    Broken(
        files={LOG: line(1, "time,ax,az")},
        says="DIR/M2/acc.csv:1: expected column 'ay' as in DIR/M0/acc.csv, got 'time', 'ax', 'az';"
        ' correct the name in the recipe, or the file; or leave the recording out: exclude = ["M2/acc.csv"]',
    ),
    Broken(
        files={LOG: "time,ax,ay\n1,2,温度\n".encode("shift_jis")},
        says="DIR/M2/acc.csv:2: expected text in utf-8, got byte 0x89; set encoding, perhaps to"
        " 'shift_jis', or write the file as UTF-8",
    ),
    Broken(
        files={LOG: "time,ax,ay\n1,2,3\n".encode("utf-16")[:-1]},
        says="DIR/M2/acc.csv:2: expected text in utf-16, got an odd byte at its end; copy the file again",
    ),
    Broken(
        files={LOG: line(8, "1762153400.2,0.5,0.25")},
        says="DIR/M2/acc.csv:8: timestamps go back: 2025-11-03T07:03:20.200Z after"
        " 2025-11-03T07:03:20.500Z (1 such from there on); sort the file, or set unsorted = 'sort'",
    ),
    Broken(
        files={LOG: line(8, "1762153400.5,0.5,0.25")},
        says="DIR/M2/acc.csv:8: timestamps repeat: 2025-11-03T07:03:20.500Z again (1 such"
        " from there on); set duplicates = 'first', 'last' or 'mean', or correct the times",
    ),
    Broken(
        files={LOG: line(101, "4102444800.0,0.5,0.25")},
        says="DIR/M2/acc.csv:101: column 'time': expected a time until now, got"
        " 2100-01-01T00:00:00.000Z; correct 'time_unit' or 'time_format', or the clock",
    ),
    Broken(
        files={LOG: line(8, ",0.5,0.25")},
        says="DIR/M2/acc.csv:8: column 'time': expected a time, got none; remove the line, or write its time",
    ),
    Broken(
        files={"M0/acc.csv": b"time,ax,ay\n0.0,1,2\n0.1,2,3\n"},
        says="DIR/M0/acc.csv:2: column 'time': expected a time since 1970, got 0; set time_unit to 's',"
        " 'ms', 'us' or 'ns' if it counts from the start",
    ),
    Broken(
        files={"M0/acc.csv": local_log("2025-11-03 06:30:00", "2025-11-03 06:30:01")},
        says="DIR/M0/acc.csv:2: column 'time': expected an offset or a time zone, got local time"
        " 2025-11-03T06:30:00; set timezone, such as 'Europe/Berlin', or 'UTC', under the [[source]] or [labels] of"
        " this file",
    ),
    Broken(
        recipe=BERLIN,
        files={"M0/acc.csv": local_log("2025-10-26 01:30:00", "2025-10-26 02:30:00", "2025-10-26 03:30:00")},
        says="DIR/M0/acc.csv:3: column 'time': expected a time that came once in Europe/Berlin, got 2025-10-26T02:30:00"
        ", when clocks were set back; set ambiguous = 'infer', or log in UTC",
    ),
    Broken(
        recipe=BERLIN,
        files={"M0/acc.csv": local_log("2025-03-30 01:30:00", "2025-03-30 02:30:00", "2025-03-30 03:30:00")},
        says="DIR/M0/acc.csv:3: column 'time': expected a time that there was in Europe/Berlin, got"
        " 2025-03-30T02:30:00, when clocks were set forward; set timezone; 'Etc/GMT-1' is UTC+1 all year",
    ),
    Broken(
        recipe=(('time = "time"', 'time = "time"\nrate_hz = 10.2'),),
        says=every_machine(
            "DIR/{}/acc.csv: expected 10.2 Hz, as 'rate_hz' or the first file says, got 10 Hz by the times; correct"
            " 'rate_hz', or 'time_unit'"
        ),
    ),
    Broken(
        files={STATES: b"start,end,label\n1762153400,1762153406,ok\n1762153405,1762153410,worn\n"},
        says="DIR/M2/states.csv:3: expected intervals apart, got 'worn' that shares 1 s with 'ok' of"
        " DIR/M2/states.csv:2; correct one of them",
    ),
    Broken(
        files={STATES: b"start,end,label\n1762153400,1762153390,ok\n"},
        says="DIR/M2/states.csv:2: expected an interval that ends after its start, got one of -10 s; correct the line",
    ),
    Broken(
        files={"M9/states.csv": b"start,end,label\n1762153400,1762153405,ok\n"},
        says="recipe: DIR/M9/states.csv:2: there is no recording of machine 'M9'; correct or remove the line",
    ),
    Broken(
        recipe=(("{machine}/acc.csv", "{machine}/vib.csv"),),
        says="DIR: 'source[0].files': expected files, found none at DIR/{machine}/vib.csv, but there is"
        " M5/acc.csv; correct the pattern",
    ),
    Broken(
        recipe=(("length_s = 1.0", 'length_s = "1 s"'),),
        says="DIR/recipe.toml: 'windows.length_s': expected a number, got text; docs/your-own-data.md lists every key",
    ),
    Broken(
        recipe=(("[windows]", "[windows"),),
        says="DIR/recipe.toml: expected TOML, got Expected ']' at the end of a table declaration (at"
        " line 8, column 9); correct that line",
    ),
    Broken(
        recipe=(("version = 1", "version = 2"),),
        says="DIR/recipe.toml: 'version': expected 1, got 2; use the mmkd-edge that wrote it",
    ),
    Broken(
        recipe=(('group = "machine"', 'group = "machine"\nfolds = 7'),),
        says="'split.group': expected 7 values of 'machine' or more, got 6 (M0, M1, M2, M3, M4, M5);"
        " record more, choose another group, or leave it out to split by time",
    ),
    Broken(
        recipe=(('group = "machine"', 'group = "machine"\ntest = ["M7"]'),),
        says="'split.test': expected values of 'machine', each in one split, got 'M7'; choose among M0,"
        " M1, M2, M3, M4, M5",
    ),
    Broken(
        recipe=(('group = "machine"', 'group = "machine"\nvalid = ["M1"]\ntest = ["M5"]'),),
        files={"M5/states.csv": b"start,end,label\n1762156400,1762156405,stuck\n"},
        says="dataset DIR/out: class 'stuck' (1) has no window in train; move a group that has it, or remove it",
    ),
    Broken(
        recipe=(("length_s = 1.0", "length_s = 60.0"),),
        says="'windows': expected windows, got none; 'length_s' is 60 s, and the longest recording, M0/acc.csv, has 10"
        " s; shorten it",
    ),
    Broken(
        recipe=(('files = "{machine}/states.csv"', 'files = "{machine}/states.csv"\noffset_s = 10800'),),
        says="'windows': expected windows, got none (60 without a label); the labels of M0/acc.csv are from"
        " 2025-11-03T09:30:00Z to 2025-11-03T09:30:10Z, its samples from 2025-11-03T06:30:00Z to 2025-11-03T06:30:10Z;"
        " correct 'timezone', or set offset_s, perhaps to 0, under [labels]",
    ),
    Broken(
        recipe=(("length_s", "lenght_s"),),
        says="DIR/recipe.toml: 'windows': unknown key 'lenght_s', perhaps 'length_s' is meant; docs/your-own-data.md"
        " lists every key",
    ),
    Broken(
        recipe=(("states.csv", "labels.csv"),),
        says="'labels.files': expected files, found none at DIR/{machine}/labels.csv; correct the pattern, or set"
        " 'path', 'column' or 'table' where labels are not in files of intervals, or classes = [...] and"
        " unlabelled = 'keep' without any",
    ),
    Broken(
        recipe=(("acc.csv", "acc.parquet"),),
        files={"M0/acc.parquet": b"PAR1"},
        says="DIR/M0/acc.parquet: expected a Parquet file, got parquet: File out of specification: A"
        " Parquet file must contain a header and footer with at least 12 bytes; copy it again",
    ),
    Broken(
        recipe=(("acc.csv", "acc.npz"),),
        files={"M0/acc.npz": b"PK"},
        says="DIR/M0/acc.npz: expected a NumPy archive (.npz), got another format; write it with numpy.savez",
    ),
    Broken(
        recipe=(('group = "machine"', 'group = "shift"'), ('time = "time"', 'time = "time"\nchannels = ["ax", "ay"]')),
        files={f"M{machine}/acc.csv": with_shift(machine) for machine in range(6)},
        says="M2/acc.csv: expected a value of 'shift', the group, for every window, got none at"
        " 2025-11-03T07:03:25.000Z (5 such); fill it in, or choose another 'split.group'",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_a_fault_is_told_with_its_place_and_its_cure(case, plant, recipe):
    recipe(*case.recipe)
    for name, change in case.files.items():
        file = plant / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(change if isinstance(change, bytes) else change(file.read_text()).encode())
    assert refusal(plant) == case.says
