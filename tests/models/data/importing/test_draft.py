"""A drafted recipe says what the files tell and can be carried out; a folder of logs becomes its dataset."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge import EdgePredictor
from mmkd_edge.errors import UsageError
from mmkd_models.commands.data import run_data
from mmkd_models.data import open_dataset, shipped_dataset
from mmkd_models.data.importing.draft import draft_recipe
from mmkd_models.data.importing.from_recipe import import_recipe
from mmkd_models.data.importing.recipe import read_recipe


def mmkd_data(capsys, *arguments: object) -> list[str]:
    """What a command prints on stdout."""
    with pytest.raises(SystemExit, match="0"):
        run_data(list(map(str, arguments)))
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out.splitlines()


def test_a_draft_of_a_plant_can_be_carried_out(plant):
    (plant / "recipe.toml").unlink()
    text = draft_recipe(plant)
    assert text.splitlines() == [
        "# Drafted by mmkd-data recipe; lines with '?' are guesses. docs/your-own-data.md lists every key.",
        "version = 1",
        "",
        "[[source]]",
        'modality = "acc"',
        'files = "M{m}/acc.csv"    # 6 files',
        'time = "time"',
        "rate_hz = 10.0    # ? measured in the first rows",
        'channels = ["ax", "ay"]',
        'unit = ""',
        "",
        "[labels]",
        'files = "M{m}/states.csv"',
        'start = "start"',
        'end = "end"',
        'label = "label"    # ? one of start, end, label',
        "",
        "[windows]",
        "length_s = 2.0    # ? long enough to show the difference between classes",
        "stride_s = 1.0",
        "",
        "[split]",
        'group = "m"    # ? what no two splits share: m',
    ]
    (plant / "recipe.toml").write_text(text)
    report = import_recipe(read_recipe(plant / "recipe.toml"), plant, plant / "out")
    assert np.bincount(report.dataset.split("train").labels).tolist() == [16, 16]


def test_a_draft_sees_separators_encodings_local_times_and_columns_of_labels(tmp_path):
    rows = [f"03.11.2025;{k // 3},5;{'良' if k < 4 else '不良'};2025-11-03 07:30:{k:02d}" for k in range(9)]
    (tmp_path / "press.csv").write_bytes("\n".join(["日付;圧力;状態;時刻", *rows]).encode("shift_jis"))
    assert draft_recipe(tmp_path).splitlines()[3:] == [
        "[[source]]",
        'modality = "press"',
        'files = "press.csv"    # 1 files',
        'time = "時刻"',
        "rate_hz = 1.0    # ? measured in the first rows",
        "timezone = \"UTC\"    # ? such as 'Europe/Berlin'",
        'delimiter = ";"',
        'decimal = ","',
        'encoding = "shift_jis"    # ? it is not UTF-8',
        'channels = ["圧力"]',
        'unit = ""',
        "# ? times are local and have no offset: which time zone?",
        "",
        "[labels]",
        'column = "状態"    # ? columns with few texts: 状態',
        "",
        "[windows]",
        "length_s = 2.0    # ? long enough to show the difference between classes",
        "stride_s = 1.0",
        "",
        "[split]",
        "# ? no part of the path differs between recordings: each is split by time",
    ]


def test_a_folder_without_logs_is_refused(refusal, tmp_path):
    assert refusal(UsageError, draft_recipe, tmp_path) == (
        f"{tmp_path}: expected files that end in .csv, .txt, .tsv, .parquet, .wav, .flac, .ogg, .mp4, .m4v, .mov,"
        " .mkv, .webm, .avi, .mpg, .mpeg, .tdms, .mf4, .mdf, .h5, .hdf5, .mat, found none; name their folder"
    )


def test_the_commands_draft_try_and_import(plant, capsys):
    assert mmkd_data(capsys, "recipe", plant, "-o", plant / "draft.toml") == [
        f"wrote {plant / 'draft.toml'}; look at its guesses; next: mmkd-data import {plant / 'draft.toml'} --check"
    ]
    figures = [
        "acc: 6 files, ax ay, 10 Hz; jitter p99 up to 0.00 ms (machine M0), drift up to 0 ppm (machine M0), gaps 0",
        "windows of 6 recordings (train 40, valid 10, test 10)",
        "  ok: train 20, valid 5, test 5",
        "  worn: train 20, valid 5, test 5",
    ]
    assert mmkd_data(capsys, "import", plant / "recipe.toml", "--check") == [
        figures[0],
        f"dataset: 60 {figures[1]}",
        *figures[2:],
        f"nothing was written; next: mmkd-data import {plant / 'recipe.toml'} -o DIR",
    ]
    assert mmkd_data(capsys, "import", plant / "recipe.toml", "-o", plant / "out") == [
        figures[0],
        f"out: 60 {figures[1]}",
        *figures[2:],
        f"wrote {plant / 'out'}; next: mmkd-data check {plant / 'out'}",
    ]
    assert sorted(path.name for path in plant.iterdir() if path.name.startswith(".")) == []


def test_what_a_recipe_cannot_take_is_refused(refusal, plant):
    file = str(plant / "recipe.toml")
    for words, says in (
        ([file], "-o: expected the directory to make, got none; name one"),
        (
            [file, "--check", "--target", "x"],
            f"{file}: the options for .npz files cannot be combined with a recipe; leave them out",
        ),
        (["some.npz", "--check"], "--check: expected a recipe (.toml), got some.npz; leave the option out"),
    ):
        assert refusal(UsageError, run_data, ["import", *words]) == says
    assert not (plant / "out").exists()


ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs" / "your-own-data.md"
QUICK = {
    "mmkd-train": ["--preset", "tiny", "--steps", "2", "--batch", "8"],
    "mmkd-distill": ["--preset", "tiny", "--steps", "2", "--batch", "8"],
    "mmkd-export": ["--precision", "fp32"],
}


def command(words: list[str], folder: Path) -> str:
    program = [sys.executable] if words[0] == "python" else [str(Path(sys.executable).with_name(words[0]))]
    done = subprocess.run(
        [*program, *words[1:], *QUICK.get(words[0], [])],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _lines() -> list[list[str]]:
    block = re.search(r"^```sh\n(python .*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    lines = [shlex.split(line, comments=True) for line in block[1].splitlines()]
    assert [words[0] for words in lines] == ["python", "mmkd-data", "mmkd-train", "mmkd-distill", "mmkd-export"]
    return [[lines[0][0], str(ROOT / lines[0][1]), *lines[0][2:], "--people", "4"], *lines[1:]]


def test_logs_of_two_clocks_become_the_windows_that_they_were_made_of(tmp_path):
    """The first window of a person is the beginning of their first set, but for jitter, rounding and lost samples."""
    for words in _lines()[:2]:
        command(words, tmp_path)
    dataset, shipped = open_dataset(tmp_path / "shoulder"), open_dataset(shipped_dataset("watch_exercises"))
    windows, known = dataset.everything(), shipped.everything()
    row = np.flatnonzero(windows.groups == "1")[np.argmin(windows.times[windows.groups == "1"])]
    found, wanted = windows.take([row]), known.take([int(np.flatnonzero(known.groups == 1)[0])])
    assert dataset.spec.task.labels == tuple(sorted(shipped.spec.task.labels))
    assert found["acc"].shape == (1, 200, 3)
    assert found["gyro"].shape == (1, 160, 3)
    difference = found["acc"][0] - wanted["acc"][0]
    # The wrist turns slowly: two milliseconds early or late are a few thousandths of a g, a second would be tenths.
    assert np.nanmedian(np.abs(difference)) < 0.01
    slow = np.stack([np.interp(np.arange(160) / 40, np.arange(200) / 50, one) for one in wanted["gyro"][0].T], axis=1)
    assert np.nanmedian(np.abs(found["gyro"][0] - slow)) < 0.05


@pytest.mark.slow
def test_four_commands_lead_from_a_folder_of_logs_to_an_exported_student(tmp_path):
    for words in _lines():
        command(words, tmp_path)
    with EdgePredictor.open(tmp_path / "student.edge") as predictor:
        window = open_dataset(tmp_path / "shoulder").split("test").take([0])["acc"][0]
        assert predictor.predict(window).label in open_dataset(tmp_path / "shoulder").spec.task.labels
