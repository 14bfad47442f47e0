"""Logs and recipes that are wrong, each with the whole message: where, what was expected, what came, what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mmkd_edge.errors import MmkdError
from mmkd_models.data.importing.from_recipe import import_recipe
from mmkd_models.data.importing.recipe import read_recipe

Change = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Broken:
    """What is changed in a sound plant, and what the import says; `DIR` stands for the folder.

    Attributes:
        recipe: texts of the recipe and what stands in their place.
        files: by name, what becomes of its text; of bytes, what is written.
    """

    says: str
    recipe: tuple[tuple[str, str], ...] = ()
    files: dict[str, Change | bytes] = field(default_factory=dict)


def line(number: int, text: str) -> Change:
    """Puts another line in place of one, counted from 1."""

    def change(content: str) -> str:
        lines = content.split("\n")
        lines[number - 1] = text
        return "\n".join(lines)

    return change


def with_shift(machine: int) -> Change:
    """A column beside the samples; of machine 2 it is empty in the second half."""

    def change(content: str) -> str:
        header, *rows = content.splitlines()
        shifts = ["" if machine == 2 and number >= 50 else f"S{machine}" for number in range(len(rows))]
        return "\n".join([f"{header},shift", *(f"{row},{shift}" for row, shift in zip(rows, shifts, strict=True))])

    return change


def local_log(*times: str) -> bytes:
    return "\n".join(["time,ax,ay", *(f"{one},{number}.5,{number}.25" for number, one in enumerate(times))]).encode()


def every_machine(message: str, values: str = "- - - - - -") -> str:
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
        " it, or set 'time_format'",
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
        " correct the name in the recipe, or the file",
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
        " 2025-11-03T06:30:00; set timezone, such as 'Europe/Berlin', or 'UTC'",
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
        recipe=(('files = "{machine}/states.csv"', 'files = "{machine}/states.csv"\nclasses = ["ok", "worn"]'),),
        files={STATES: b"start,end,label\n1762153400,1762153405,broken\n"},
        says="DIR/M2/states.csv:2: expected a label of ok, worn, got 'broken'; add it to"
        " 'labels.classes', or to 'labels.ignore'",
    ),
    Broken(
        files={"M9/states.csv": b"start,end,label\n1762153400,1762153405,ok\n"},
        says="recipe: DIR/M9/states.csv:2: there is no recording of machine 'M9'; correct or remove the line",
    ),
    Broken(
        recipe=(("{machine}/acc.csv", "{machine}/vib.csv"),),
        says="DIR: 'source[0].files': expected files, found none at DIR/{machine}/vib.csv; correct the pattern",
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
        recipe=(('time = "time"', 'time = "time"\ntimezone = "Berlin"\nencoding = "sjis-x"'),),
        says="DIR/recipe.toml: 2 problems\n  - 'source[0].timezone' (acc): expected a name such as"
        " 'Europe/Berlin' or 'UTC', got 'Berlin'; correct it\n  - 'source[0].encoding' (acc):"
        " expected the name of a text encoding, such as 'utf-8' or 'shift_jis', got 'sjis-x'; correct it",
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
        says="'windows': expected windows, got none; shorten 'length_s', or look at the times of sensors and labels",
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
        says="machine M2: expected a value of 'shift', the group, for every window, got none at"
        " 2025-11-03T07:03:25.000Z (5 such); fill it in, or choose another 'split.group'",
    ),
    Broken(
        files={LOG: b"", "M3/acc.csv": line(3, "1762154400.1,x,1.0")},
        says="recordings: 2 problems\n  - DIR/M2/acc.csv: expected a table, got an empty file; remove"
        " it, or write it again\n  - DIR/M3/acc.csv:3: column 'ax': expected a number, got 'x' (1"
        " such from there on); correct it, or add 'x' to 'null' if it means missing",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_a_fault_is_told_with_its_place_and_its_cure(case, plant, recipe):
    assert said(case, plant, recipe) == case.says
    assert not (plant / "out").exists()


def said(case: Broken, plant: Path, recipe: Callable[..., None]) -> str:
    recipe(*case.recipe)
    for name, change in case.files.items():
        file = plant / name
        file.parent.mkdir(exist_ok=True)
        if isinstance(change, bytes):
            file.write_bytes(change)
        else:
            file.write_text(change(file.read_text()))
    with pytest.raises(MmkdError) as error:
        import_recipe(read_recipe(plant / "recipe.toml"), plant, plant / "out")
    return str(error.value).replace(str(plant), "DIR")
