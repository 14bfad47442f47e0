"""Recipes and files that ask for too much, or for what is not theirs: refused in a second, with the whole message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import pytest

from mmkd_edge.errors import DatasetError, MmkdError
from mmkd_models.commands.data import run_data
from mmkd_models.data.importing.from_recipe import RecipeReport, import_recipe
from mmkd_models.data.importing.keys import TextTable
from mmkd_models.data.importing.patterns import RecipeFolder, match_segment
from mmkd_models.data.importing.readers.formats import choose_reader
from mmkd_models.data.importing.recipe import read_recipe

TIME = 'time = "time"'
FILES = 'files = "{machine}/acc.csv"'
LABELS = 'files = "{machine}/states.csv"'
NAMES = (
    "expected a name of letters, digits and _ that starts with a letter and is none of labels, groups, folds, lengths,"
    " splits, times, episodes; rename it"
)
ENCODING = "expected the name of a text encoding, such as 'utf-8' or 'shift_jis', got "


def run(plant: Path, **options: Any) -> RecipeReport:
    return import_recipe(read_recipe(plant / "recipe.toml"), plant, plant / "out", **options)


def refusal(plant: Path, **options: Any) -> str:
    with pytest.raises(DatasetError) as error:
        run(plant, **options)
    assert error.value.exit_code == 2
    assert not (plant / "out").exists()
    return str(error.value).replace(str(plant), "DIR")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            FILES,
            'files = "/etc/*.csv"',
            (
                "'source[0].files' (acc): expected a path from the folder of the recipe, with '/' between folders, got"
                " '/etc/*.csv'; correct it"
            ),
        ),
        (
            FILES,
            'files = "{1}/acc.csv"',
            (
                "'source[0].files' (acc): expected names of letters, digits and _ in braces, each once in a folder's or"
                " file's name, got {1} in '{1}'; rename it, or write *"
            ),
        ),
        (
            FILES,
            'files = "a\\u0000.csv"',
            "'source[0].files' (acc): expected a path without control characters, got 'a\\x00.csv'; correct it",
        ),
        (
            FILES,
            f'files = "{"a" * 256}.csv"',
            (
                "'source[0].files' (acc): expected at most 1,024 bytes, and 255 between two '/', got 260 and 260;"
                " shorten it"
            ),
        ),
        *(
            (TIME, f'{TIME}\nencoding = "{name}"', f"'source[0].encoding' (acc): {ENCODING}'{name}'; correct it")
            for name in ("zlib", "punycode")
        ),
        (
            TIME,
            f"{TIME}\noffset_s = nan",
            "'source[0].offset_s' (acc): expected -4e+09 to 4e+09 s, got nan; correct it",
        ),
        (
            TIME,
            "rate_hz = 5e-324",
            "'source[0].rate_hz' (acc): expected 1e-06 to 1e+08 Hz, got 4.94066e-324; correct it",
        ),
        (
            TIME,
            'rate_hz = 10.0\nstart = "{1}"',
            "'source[0].start' (acc): expected parts of the path, got {1}; 'files' has machine",
        ),
        (TIME, f"{TIME}\nscale = 1e300", "'source[0].scale' (acc): expected -1e+30 to 1e+30, got 1e+300; correct it"),
        (
            TIME,
            f'{TIME}\ntimezone = "Europe"',
            "'source[0].timezone' (acc): expected a name such as 'Europe/Berlin' or 'UTC', got 'Europe'; correct it",
        ),
        (
            TIME,
            f"{TIME}\ndelimiter = '\"'",
            "'source[0].delimiter' (acc): expected one ASCII character other than a quote, got '\"'; correct it",
        ),
        (
            "length_s = 1.0",
            "length_s = 1.0\nstride_s = 1e300",
            "'windows.stride_s': expected 1e-08 to 1e+09 s, got 1e+300; correct it",
        ),
        ("[split]", "[split]\ngap_s = nan", "'split.gap_s': expected 0 to 1e+09 s, got nan; correct it"),
        ("[split]", "[split]\nseed = -1", "'split.seed': expected 0 or more, got -1; correct it"),
        ('"acc"', '"../../PWN"', f"'source[0].modality' (../../PWN): {NAMES}"),
    ],
)
def test_an_odd_recipe_is_refused_before_any_file_is_opened(
    plant: Path, recipe: Callable[..., None], old: str, new: str, says: str
) -> None:
    recipe((old, new))
    assert refusal(plant) == f"DIR/recipe.toml: {says}"


def test_a_recipe_of_megabytes_is_not_read(plant: Path) -> None:
    (plant / "recipe.toml").write_bytes(b"#" * ((1 << 20) + 1))
    assert refusal(plant) == (
        "DIR/recipe.toml: expected a recipe of at most 1,048,576 bytes, got 1,048,577; name the right file"
    )


# What is written is bounded by what is there.


def rows(times: Sequence[float]) -> str:
    return "\n".join(["time,ax,ay", *(f"{time:.9g},{number}.5,1" for number, time in enumerate(times))])


@pytest.mark.parametrize(
    ("pairs", "files", "says"),
    [
        (
            [
                (TIME, f'{TIME}\ntime_unit = "s"\nrate_hz = 100.0'),
                ("length_s = 1.0", "length_s = 1e3"),
            ],
            {"M0/acc.csv": rows([1e7 / 9 * number for number in range(10)])},
            (
                "machine M0: sensor 'acc': expected at most 1.07 GB to write, got 8 GB for 1e+07 s at 100 Hz; correct"
                " the times or 'resample_hz', or allow more with --max-gb"
            ),
        ),
        (
            [(TIME, f"{TIME}\nresample_hz = 1e7"), ("length_s = 1.0", "length_s = 0.01")],
            {"M0/acc.csv": rows([1762151400 + 10 * number for number in range(11)])},
            (
                "machine M0: sensor 'acc': expected at most 1.07 GB to write, got 8 GB for 100 s at 1e+07 Hz; correct"
                " the times or 'resample_hz', or allow more with --max-gb"
            ),
        ),
        (
            [("length_s = 1.0", "length_s = 1.0\nstride_s = 1e-6")],
            {},
            (
                "machine M0: expected at most 1.07 GB to write, got 3.02 GB for windows every 1e-06 s; lengthen"
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
def test_more_than_the_recordings_are_worth_is_not_written(
    plant: Path, recipe: Callable[..., None], pairs: list[tuple[str, str]], files: dict[str, str], says: str
) -> None:
    recipe(*pairs)
    for name, text in files.items():
        (plant / name).write_text(text)
    assert refusal(plant) == says
    assert sum(file.stat().st_size for file in plant.rglob("*") if file.is_file()) < 1 << 20


def test_the_limit_of_what_is_written_can_be_changed(plant: Path, recipe: Callable[..., None]) -> None:
    recipe(("length_s = 1.0", "length_s = 1.0\nstride_s = 0.1"))
    assert refusal(plant, most_bytes=10_000) == (
        "machine M0: expected at most 1e-05 GB to write, got 3.09e-05 GB for windows every 0.1 s; lengthen"
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
            'time,ax,ay\n1,2,3\n1,2,"3\n',
            (
                "3: expected fields with closed quotes, of at most 131,072 characters, got unexpected end of data;"
                " correct the quotes of the file"
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
        (
            "time,ax,ay\n0001-01-01T00:00:00.123456789Z,2,3\n",
            (
                "2: column 'time': expected a time within 146 years of 1970, got '0001-01-01T00:00:00.123456789Z';"
                " correct it"
            ),
        ),
    ],
)
def test_a_text_file_that_is_no_table_is_refused(
    plant: Path, recipe: Callable[..., None], text: str, says: str
) -> None:
    if "Z" not in text:
        recipe((TIME, f'{TIME}\ntime_unit = "s"'))
    (plant / "M0" / "acc.csv").write_text(text)
    assert refusal(plant) == f"DIR/M0/acc.csv:{says}"


def test_arrays_of_terabytes_in_a_file_of_kilobytes_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "a.h5"
    with h5py.File(file, "w") as opened:
        opened.create_dataset("x", shape=(10**12,), dtype="f4", chunks=(1 << 20,), compression="gzip")
    size = file.stat().st_size
    with pytest.raises(DatasetError) as error:
        choose_reader("hdf5", TextTable()).names(file)
    assert str(error.value) == (
        f"{file}: array 'x': expected arrays of at most 268,435,456 bytes in a file of {size:,}, got"
        " 4,000,000,000,000; write the file again, without unused space"
    )


def test_arrays_of_another_file_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "a.h5"
    with h5py.File(file, "w") as opened:
        opened.create_dataset("x", shape=(4,), dtype="f4", external=[("/etc/passwd", 0, 16)])
    with pytest.raises(DatasetError) as error:
        choose_reader("hdf5", TextTable()).names(file)
    assert str(error.value) == (
        f"{file}: array 'x': expected values in the file itself, got those of another file; copy them into one"
    )


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
def test_a_name_matches_or_does_not(segment: str, text: str, parts: dict[str, str] | None) -> None:
    assert match_segment(segment, text, {"p": "x"} if "{p}" in segment else {}) == parts


def test_the_time_of_a_match_does_not_grow_with_the_ways_to_match() -> None:
    nine = "x".join(f"{{a{number}}}" for number in range(9))
    assert match_segment(f"{nine}y", "x" * 250, {}) is None  # a regular expression tries 10^15 ways
    assert match_segment("*a" * 120 + "b", "a" * 250, {}) is None


def test_patterns_find_what_globs_find(tmp_path: Path) -> None:
    for name in ("acc.csv", "M1/acc.csv", "M1/b/acc.csv", "M1/b/c/acc.csv", "M2/gyro.csv", ".x/acc.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "M1" / "b" / "loop").symlink_to(tmp_path)
    folder = RecipeFolder(tmp_path)
    for pattern in ("**/acc.csv", "*/*.csv", "M1/**/*.csv", "M?/**/**/acc.csv", "**/b/**/*", "M1/acc.csv", "none/*"):
        expected = sorted(file for file in tmp_path.glob(pattern) if file.is_file() and "loop" not in file.parts)
        assert sorted(file.path for file in folder.files(pattern, key="files")) == expected, pattern


# Folders.


def outside(plant: Path) -> Path:
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
def test_a_recipe_reads_nothing_outside_its_folder(
    plant: Path, recipe: Callable[..., None], pairs: list[tuple[str, str]], key: str, name: str, leads_to: str
) -> None:
    archive = outside(plant)
    recipe(*((old, new.replace("ARCHIVE", archive.name)) for old, new in pairs))
    message = refusal(plant)
    name, leads_to = name.replace("ARCHIVE", archive.name), f"{archive}{leads_to.removeprefix('ARCHIVE')}"
    assert message.replace("DIR-archive", str(archive)) == (
        f"{key!r}: expected a file inside DIR, got {name!r}, which leads to {leads_to}; move it there, or pass"
        f" --allow-outside {archive}"
    )
    assert "root" not in message.replace("/root", "")


def test_a_link_that_leads_outside_is_not_followed_unless_that_is_allowed(plant: Path) -> None:
    archive = outside(plant)
    (plant / "M0" / "acc.csv").unlink()
    (plant / "M0" / "acc.csv").symlink_to(archive / "acc.csv")
    assert refusal(plant).replace("DIR-archive", str(archive)) == (
        f"'source[0].files': expected a file inside DIR, got 'M0/acc.csv', which leads to {archive}/acc.csv; move it"
        f" there, or pass --allow-outside {archive}"
    )
    assert run(plant, outside=[archive]).recordings[5:]


def test_trying_a_recipe_writes_nothing_where_its_dataset_is_called(plant: Path, recipe: Callable[..., None]) -> None:
    target = plant.parent / f"{plant.name}-target"
    recipe(("[split]", f'[dataset]\nname = "{target}"\n[split]'))
    import_recipe(read_recipe(plant / "recipe.toml"), plant, None)
    assert not target.exists()


# The command.


def test_the_command_reads_a_folder_outside_where_that_is_allowed(plant: Path, recipe: Callable[..., None]) -> None:
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
