"""A drafted recipe says what the files tell and can be carried out; a folder of logs becomes its dataset."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmkd_app.commands.data import run_data
from mmkd_app.training.recipes import run_recipe
from mmkd_edge import EdgePredictor
from mmkd_edge.errors import DatasetError, UsageError
from mmkd_models.data import open_dataset, shipped_dataset
from mmkd_models.data.checking.findings import check_dataset
from mmkd_models.data.importing.draft import draft_recipe
from mmkd_models.data_report.report import report_on
from tests.models.data.importing.conftest import run
from tests.models.data.importing.raw_logs import write_flags, write_two_rates

NO_LABELS = (
    "# - labels: no column, folder or file of labels was found; name one; if all is normal running, write"
    " task = 'normal' in place of the keys of [labels]; or leave it so: nothing is labelled"
)


def mmkd_data(capsys, *arguments):
    with pytest.raises(SystemExit, match="0"):
        run_data(list(map(str, arguments)))
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out.splitlines()


def write_csv(file, head, *rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([head, *rows]) + "\n")


def import_draft(folder, text):
    (folder / "recipe.toml").write_text(text)
    return run(folder)


def test_a_draft_of_a_plant_can_be_carried_out(plant):
    (plant / "recipe.toml").unlink()
    text = draft_recipe(plant)
    labels = ["[labels]", 'files = "M{m}/states.csv"', 'start = "start"', 'end = "end"', 'label = "label"', ""]
    windows = ["[windows]", "length_s = 3.2", "stride_s = 1.6", ""]
    assert text.splitlines()[10:] == ["", *labels, *windows, "[split]", 'group = "m"']
    assert np.bincount(import_draft(plant, text).dataset.split("train").labels).tolist() == [8, 8]


def test_a_draft_sees_separators_encodings_local_times_and_columns_of_labels(tmp_path):
    rows = [f"03.11.2025;{k // 3},5;{'良' if k < 4 else '不良'};2025-11-03 07:30:{k:02d}" for k in range(9)]
    (tmp_path / "press.csv").write_bytes("\n".join(["日付;圧力;状態;時刻", *rows]).encode("shift_jis"))
    assert draft_recipe(tmp_path).splitlines() == [
        "# Drafted by mmkd-data recipe; docs/your-own-data.md lists every key. Please decide:",
        "# - press: times in '時刻' have no offset: which timezone, such as 'Europe/Berlin'?",
        "# - length_s: is a window long enough to show the difference between classes?",
        "# - split: no part of the path differs between recordings, so each is split by time: is it one machine?",
        "version = 1",
        "",
        "[[source]]",
        'modality = "press"',
        'files = "press.csv"    # 1 files',
        'time = "時刻"    # 1 Hz in the first rows',
        'timezone = "UTC"',
        'encoding = "shift_jis"    # it is not UTF-8',
        'channels = ["圧力"]',
        'unit = ""',
        "",
        "[labels]",
        'column = "状態"',
        "",
        "[windows]",
        "length_s = 32.0",
        "stride_s = 16.0",
    ]


def test_a_draft_of_elapsed_seconds_in_two_folders_joins_runs_by_number_and_takes_the_folder_as_label(tmp_path):
    write_two_rates(tmp_path)
    text = draft_recipe(tmp_path)
    assert text.splitlines() == [
        "# Drafted by mmkd-data recipe; docs/your-own-data.md lists every key. Please decide:",
        "# - process, vibration: times in 'time' count from a start: is their unit 's'?",
        "# - length_s: is a window long enough to show the difference between classes?",
        (
            "# - split: which part must be whole in one split, such as a machine or a person: 'run' (16 groups of"
            " 1 recording)?"
        ),
        "version = 1",
        "",
        "[[source]]",
        'modality = "process"',
        'files = "process/{folder}/b_{run}.csv"    # 15 files',
        'time = "time"    # 5 Hz in the first rows',
        'time_unit = "s"',
        'unit = ""    # of current, temperature',
        "",
        "[[source]]",
        'modality = "vibration"',
        'files = "vibration/{folder}/a_{run}.csv"    # 16 files',
        'time = "time"    # 100 Hz in the first rows',
        'time_unit = "s"',
        'unit = ""    # of ax, ay, az',
        "",
        "[labels]",
        'path = "folder"    # loose, normal',
        "",
        "[windows]",
        "length_s = 6.4",
        "stride_s = 3.2",
        "",
        "[split]",
        'group = "run"',
    ]
    report = import_draft(tmp_path, text.replace("6.4", "2.0").replace("3.2", "2.0"))
    assert [(recording.name, recording.absent) for recording in report.recordings if recording.absent] == [
        ("vibration/normal/a_05.csv", ("process",))
    ]
    windows = report.dataset.everything()  # 12 s, 6 windows of 2 s: 8 loose runs, 7 normal ones
    assert windows.spec.task.labels == ("loose", "normal")
    assert np.bincount(windows.labels).tolist() == [48, 42]


def test_a_draft_takes_flags_as_labels_and_never_as_channels(tmp_path):
    write_flags(tmp_path)
    lines = draft_recipe(tmp_path).splitlines()
    assert lines[1:5] == [
        "# - sensor: times in 'datetime' have no offset: which timezone, such as 'Europe/Berlin'?",
        "# - labels: which are they, column = 'anomaly' or column = 'changepoint'?",
        "# - length_s: is a window long enough to show the difference between classes?",
        (
            "# - split: which part must be whole in one split, such as a machine or a person: 'line' (4 groups of"
            ' 4 recordings), \'file\' (4 groups of 4 recordings) or ["line", "file"] (16 groups of 1 recording)?'
        ),
    ]
    assert 'channels = ["vibration", "current", "pressure", "flow"]' in lines
    names = 'rename = {"0" = "normal", "1" = "anomaly"}'
    assert {'modality = "sensor"', 'column = "anomaly"', names, 'group = "line"'} < {*lines}
    above = draft_recipe(tmp_path, prefix="logs").splitlines()
    assert {'modality = "sensor"', 'files = "logs/line{line}/{file}.csv"    # 16 files'} < {*above}


@pytest.mark.usefixtures("few_trees")
def test_files_with_lost_rows_copies_and_another_unit_are_imported_by_a_draft_and_one_line(tmp_path, caplog):
    write_flags(tmp_path)
    (tmp_path / "recipe.toml").write_text(draft_recipe(tmp_path) + "drop_copies = true\n")
    lines = run_recipe(tmp_path / "recipe.toml", tmp_path / "out")
    assert lines[0].startswith("sensor: 16 files, vibration current pressure flow, 1 Hz; ")
    spec = open_dataset(tmp_path / "out").spec
    assert spec.task.labels == ("anomaly", "normal")
    assert "sharing samples with another split or group" in spec.left_out
    (copies,) = [text for text in caplog.messages if "have different labels" in text]
    assert copies.startswith("warning: line1/1.csv 2026-03-01T11:0")
    assert " equals line4/3.csv 2026-03-04T13:0" in copies
    assert "pressure has 998 times the usual level (median RMS of its windows 2,394, of the others 2.399)" in "".join(
        caplog.messages
    )
    suspect = report_on(open_dataset(tmp_path / "out"), on_part=lambda _: None).label_suspects[0]
    assert (suspect.label, suspect.likely) == ("normal", "anomaly")  # of the section that nobody marked
    assert suspect.place.startswith("line4/3.csv 2026-03-04T13:0")


@pytest.mark.parametrize(
    ("jitter_s", "lost"),
    [
        (0.0, range(9, 500, 11)),  # evenly, as rounded times of a slower clock
        (0.001, range(9, 500, 11)),
        (0.002, (4, 9, 17, 40, 41, 90, 120, 300, 301, 302, 401, 402, 480, 495, 496)),
    ],
)
def test_a_draft_writes_the_rate_without_missing_rows_which_its_import_takes(tmp_path, jitter_s, lost):
    for machine in range(4):
        rng = np.random.default_rng(machine)
        times = np.arange(600) / 50 + rng.uniform(-jitter_s, jitter_s, 600)
        rows = [f"{time:.4f},{rng.normal():.4f}" for time in times]
        rows = [row for k, row in enumerate(rows) if machine or k not in lost]  # of the first file alone
        write_csv(tmp_path / f"m{machine}.csv", "time,x", *rows)
    text = draft_recipe(tmp_path)
    (line,) = [line for line in text.splitlines() if line.startswith("rate_hz = ")]
    rate, _, told = line.removeprefix("rate_hz = ").partition("    # commonest interval; ")
    assert float(rate) == pytest.approx(50, rel=2e-3)
    assert told == f"of the first 600 rows {len(lost)} are missing"
    assert import_draft(tmp_path, text).dataset.spec.modalities[0].rate_hz == float(rate)


@pytest.mark.parametrize("label", ["task = 'normal'", "column = 'state'"])
def test_a_draft_of_one_recording_makes_a_dataset_without_problems(tmp_path, caplog, label):
    rng = np.random.default_rng(0)
    rows = [f"{k / 50:.2f},{x:.4f},{'worn' if k % 2000 >= 1000 else 'ok'}" for k, x in enumerate(rng.normal(size=6000))]
    write_csv(tmp_path / "spindle.csv", "time_s,x,state", *rows)
    text = draft_recipe(tmp_path)
    assert "length_s = 2.0\nstride_s = 1.0\n" in text
    report = import_draft(tmp_path, re.sub(r"\[labels\]\n(.+\n)+", f"[labels]\n{label}\n", text))
    assert caplog.messages == []
    windows = report.dataset.everything()
    ends = {split: windows.starts[windows.splits == split] for split in range(3)}
    for first, second in ((0, 1), (0, 2), (1, 2)):  # no window of 2 s shares a sample with another split
        assert np.abs(ends[first][:, None] - ends[second]).min() >= 2
    findings = check_dataset(tmp_path / "out").findings
    assert [finding.text for finding in findings if finding.kind == "leak"] == [
        (
            "one recording, spindle.csv: scores are of other times of it, and say nothing of another machine or day;"
            " record others, and set split.group to the part of their path that tells them apart"
        )
    ]
    assert {finding.level for finding in findings} == {"note"}


def test_a_draft_does_not_misread_a_header_above_text_in_another_encoding_and_asks_for_milliseconds(refusal, tmp_path):
    (tmp_path / "a.csv").write_bytes("time,größe\n0,1.5\n".encode() + "100,für\n".encode("cp1252"))
    assert refusal(UsageError, draft_recipe, tmp_path) == (
        f"{tmp_path}/a.csv:3: expected text in utf-8, got byte 0xfc; the file mixes encodings, as lines before it are"
        " utf-8: write this line in utf-8 too"
    )
    write_csv(tmp_path / "a.csv", "time,x", *(f"{20 * k},{k / 7:.3f}" for k in range(9)))
    asked = "# - a: times in 'time' count from a start: is their unit 's' (0.05 Hz) or 'ms' (50 Hz)?"
    assert asked in draft_recipe(tmp_path)


def test_a_unit_in_the_header_is_drafted(tmp_path):
    write_machines(tmp_path, "a.csv", "b.csv", head="time,ax [g]")
    assert 'unit = "g"' in draft_recipe(tmp_path).splitlines()


def write_machines(folder, *names, head="time,x"):
    for number, name in enumerate(names):
        rows = np.random.default_rng(number).normal(size=200)
        write_csv(folder / name, head, *(f"{k / 10:.1f},{x:.4f}" for k, x in enumerate(rows)))


def questions(text):
    return [line for line in text.splitlines() if line.startswith("# - ") and "length_s" not in line]


def test_a_draft_offers_parts_and_combinations_with_their_recordings(tmp_path):
    names = [f"site{site}/m{machine}/run{run}.csv" for site in (1, 2) for machine in (1, 2) for run in range(machine)]
    write_machines(tmp_path, *names)
    text = draft_recipe(tmp_path)
    assert questions(text)[-1] == (
        "# - split: which part must be whole in one split, such as a machine or a person: 'site' (2 groups of 3"
        " recordings), 'm' (2 groups of 2 to 4 recordings), 'run' (2 groups of 2 to 4 recordings),"
        ' ["site", "m"] (4 groups of 1 to 2 recordings), ["site", "run"] (4 groups of 1 to 2 recordings),'
        ' ["m", "run"] (3 groups of 2 recordings) or ["site", "m", "run"] (6 groups of 1 recording)?'
    )
    assert 'group = ["site", "m"]' in text
    assert len(np.unique(import_draft(tmp_path, text).dataset.everything().groups)) == 4


@pytest.mark.parametrize(
    ("name", "head", "told", "groups"),
    [
        ("m7_again.csv", "time,x", "m7_again.csv: is taken as m '7_again' of m{m}.csv, is that right", 5),
        (
            "m7b.csv",
            "time,speed",
            "m7b.csv: is left out, is that right? It has other columns than m{m}.csv: time, speed in place of time, x",
            4,
        ),
        (
            "hall.csv",
            "time,temp",
            "hall.csv: is left out, is that right? It is one file, and m{m}.csv has one for each recording",
            4,
        ),
    ],
)
def test_a_draft_does_not_make_a_source_of_a_single_file_among_recordings(tmp_path, name, head, told, groups):
    write_machines(tmp_path, *(f"m{machine}.csv" for machine in range(4)))
    write_machines(tmp_path, name, head=head)
    text = draft_recipe(tmp_path)
    assert f"# - {told}" in questions(text)
    assert f"'m' ({groups} groups of 1 recording)?" in questions(text)[-1]
    rows = np.random.default_rng(9).normal(size=200)  # the file is another recording
    write_csv(tmp_path / name, head, *(f"{k / 10:.1f},{x:.4f}" for k, x in enumerate(rows)))
    assert len(np.unique(import_draft(tmp_path, text).dataset.everything().groups)) == groups


def write_sites(folder):
    """Two sites of two lines, each with three days of a class, and a table with the class of every recording."""
    names = [f"site_{site}/line_{line}/day_0{day}" for site in "AB" for line in (1, 2) for day in (1, 2, 3)]
    write_machines(folder, *(f"{name}/vib.csv" for name in names))
    rows = [f"{name.replace('/', ',')},{('ok', 'worn', 'jam')[number % 3]}" for number, name in enumerate(names)]
    write_csv(folder / "labels.csv", "site,line,day,state", *rows)


SITES = (
    "# - split: which part must be whole in one split, such as a machine or a person: 'site' (2 groups of 6"
    " recordings), 'line' (2 groups of 6 recordings), 'day' (3 groups of 4 recordings), [\"site\", \"line\"] (4 groups"
    ' of 3 recordings), ["site", "day"] (6 groups of 2 recordings), ["line", "day"] (6 groups of 2 recordings) or'
    ' ["site", "line", "day"] (12 groups of 1 recording)?'
)


def test_a_draft_takes_a_table_of_labels_by_the_parts_of_the_path_and_machines_of_two_sites_as_groups(tmp_path):
    write_sites(tmp_path)
    text = draft_recipe(tmp_path)
    assert questions(text) == [
        "# - vib: times in 'time' count from a start: is their unit 's'?",
        SITES,
    ]
    match = 'match = {"site" = "site", "line" = "line", "day" = "day"}'
    assert f'[labels]\ntable = "labels.csv"\nlabel = "state"\n{match}\n' in text
    windows = import_draft(tmp_path, text).dataset.everything()
    assert windows.spec.task.labels == ("jam", "ok", "worn")
    assert np.unique(windows.groups).tolist() == ["A/1", "A/2", "B/1", "B/2"]
    assert {split: len(np.unique(windows.groups[windows.splits == split])) for split in range(3)} == {0: 2, 1: 1, 2: 1}


def test_a_draft_offers_groups_with_the_part_that_it_takes_as_label(tmp_path):
    write_sites(tmp_path)
    (tmp_path / "labels.csv").unlink()
    text = draft_recipe(tmp_path)
    assert 'path = "site"    # A, B' in text
    assert questions(text)[-1] == SITES.replace("'site' (2 groups of 6 recordings), ", "")
    assert 'group = ["line", "day"]' in text
    assert len(np.unique(import_draft(tmp_path, text).dataset.everything().groups)) == 6


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "site_A,line_2,day_01",
            "site_A,line_2,day_09",
            "5: {}site 'site_A', line 'line_2', day 'day_09', found none; the paths have day '01', '02', '03'; {}",
        ),
        (
            "site_",
            "hall_",
            (
                "2: {}site 'hall_A', line 'line_1', day 'day_01', found none; the paths have site 'A', 'B'; no line has"
                " a recording: correct 'labels.match'"
            ),
        ),
        (
            "day_03,jam\nsite_B,line_2",
            "day_03,jam\nsite_C,line_2",
            "11: {}site 'site_C', line 'line_2', day 'day_01', found none; the paths have site 'A', 'B'; {}",
        ),
    ],
)
def test_a_line_of_labels_without_a_recording_is_told_with_the_nearest_names(refusal, tmp_path, old, new, says):
    write_sites(tmp_path)
    (tmp_path / "recipe.toml").write_text(draft_recipe(tmp_path))
    labels = tmp_path / "labels.csv"
    labels.write_text(labels.read_text().replace(old, new))
    says = says.format("expected a recording of ", "correct it, or remove the line")
    assert refusal(DatasetError, run, tmp_path) == f"{labels}:{says}"


def test_a_draft_says_which_sensors_share_no_part_of_the_path(tmp_path):
    write_machines(tmp_path, *(f"vib/m{machine}.csv" for machine in range(4)))
    write_machines(tmp_path, *(f"temp/day{10 + day}.csv" for day in range(4)), head="time,temp")
    assert questions(draft_recipe(tmp_path))[-1] == (
        "# - split: temp/day{day}.csv and vib/m{m}.csv share no part, so that all files are one recording: which part"
        " is the same?"
    )


CUT = "cut.csv:2: expected 2 fields separated by ',', got 3; correct the line"


def test_a_draft_leaves_out_notes_and_refuses_logs_that_it_cannot_read(refusal, tmp_path):
    write_csv(tmp_path / "cut.csv", "start,end,label", "0,1,ok", "1,2,worn")
    none = f"{tmp_path}: expected logs with columns of numbers, found none; "
    assert refusal(UsageError, draft_recipe, tmp_path) == f"{none}name the folder that has them"
    write_csv(tmp_path / "cut.csv", "time,x", "0,1.5,2")
    assert refusal(UsageError, draft_recipe, tmp_path) == f"{tmp_path}/{CUT}"
    write_csv(tmp_path / "notes.txt", "made by me", "on a Monday")
    assert refusal(UsageError, draft_recipe, tmp_path) == f"{none}{tmp_path}/{CUT}"
    write_csv(tmp_path / "log.csv", "time,x", "0,1.5", "1,2.5")
    lines = draft_recipe(tmp_path).splitlines()
    assert lines[1:3] == [
        f"# - cut.csv: cannot be read and is left out, is that right? {tmp_path}/{CUT}",
        "# - notes.txt: is left out, is that right? It has no columns of numbers",
    ]
    assert [line for line in lines if line.startswith("files")] == ['files = "log.csv"    # 1 files']


def test_files_of_one_kind_whose_names_differ_by_a_word_may_be_classes(tmp_path):
    for person in range(3):
        for state in ("run", "walk"):
            for number in (1, 2):
                write_csv(tmp_path / f"p{person}" / f"{state}_{number}.csv", "time,x", "0,1.5", "1,2.5")
    text = draft_recipe(tmp_path)
    assert (
        "# - run, walk: have the same columns: if they are shifts, runs or classes of one sensor, write one source,"
        " files = 'p{p}/{file}_{file3}.csv'\n"
    ) in text
    assert 'files = "p{p}/walk_{run}.csv"    # 6 files' in text


def test_a_column_of_texts_or_parts_of_two_values_each_are_the_group(tmp_path):
    rows = [f"{k},{k}.5,M{k // 3},{'ok' if k % 3 else 'bad'}" for k in range(9)]
    write_csv(tmp_path / "one" / "all.csv", "time,x,machine,state", *rows)
    asked = "# - split: which part must be whole in one split, such as a machine or a person: 'machine' (3 values)?"
    assert {'column = "state"', 'group = "machine"', asked} < {*draft_recipe(tmp_path / "one").splitlines()}
    for site in "ab":
        for number in (1, 2):
            write_csv(tmp_path / "two" / site / f"run{number}.csv", "time,x,state", "0,1.5,ok", "1,2.5,ok")
    assert 'group = ["folder", "run"]' in draft_recipe(tmp_path / "two").splitlines()


@pytest.mark.parametrize(
    ("name", "values", "key"),
    [
        ("state", [0, 0, 0], "column"),  # the first file has one state alone
        ("faultCode", [1, 2, 3], "column"),
        ("event", ["", "start", ""], "column"),
        ("estate", [0, 1, 2], "channel"),  # another word
        ("state", range(30), "channel"),  # too many values
    ],
)
def test_columns_of_few_values_with_the_name_of_a_label_are_labels(tmp_path, name, values, key):
    write_csv(tmp_path / "log.csv", f"time,x,{name}", *(f"{k},{k / 7:.3f},{value}" for k, value in enumerate(values)))
    lines = draft_recipe(tmp_path).splitlines()
    assert (f'column = "{name}"' in lines) == (key == "column")
    assert (f'unit = ""    # of x, {name}' in lines) == (key == "channel")


@pytest.mark.parametrize(
    ("times", "keys"),
    [
        (["03.11.2025 07:30:00", "03.11.2025 07:30:02"], ['timezone = "UTC"', "%d.%m.%Y %H:%M:%S%.f"]),
        (["11/13/2025 07:30:00", "11/13/2025 07:30:02"], ['timezone = "UTC"', "%m/%d/%Y %H:%M:%S%.f"]),
        (["0", "2"], ['time_unit = "s"', None]),
    ],
)
def test_a_draft_finds_other_forms_of_time(tmp_path, times, keys):
    write_csv(tmp_path / "log.csv", "time,x", *(f"{time},{k}.5" for k, time in enumerate(times)))
    lines = draft_recipe(tmp_path).splitlines()
    assert 'time = "time"    # 0.5 Hz in the first rows' in lines
    assert keys[0] in lines
    assert (f'time_format = "{keys[1]}"' in lines) == (keys[1] is not None)


def test_sensors_of_one_file_name_in_two_folders_are_told_apart_by_their_columns(tmp_path):
    for folder, columns in (("accel", "time,ax,ay"), ("heat", "time,temp")):
        for number in range(4):
            rows = (",".join([str(k)] + [f"{number}.{k}"] * columns.count(",")) for k in range(5))
            write_csv(tmp_path / folder / f"{number}.csv", columns, *rows)
    lines = draft_recipe(tmp_path).splitlines()
    assert [line for line in lines if line.startswith(("modality", "files"))] == [
        'modality = "accel"',
        'files = "accel/{file}.csv"    # 4 files',
        'modality = "heat"',
        'files = "heat/{file}.csv"    # 4 files',
    ]
    assert lines[lines.index("[labels]") + 1 :][:2] == [
        'classes = ["normal", "fault"]    # your classes',
        'unlabelled = "keep"',
    ]
    assert NO_LABELS in lines


@pytest.mark.parametrize(
    ("head", "values", "key"),
    [
        ("run,state", "0,1,2,3", 'match = {"run" = "run"}'),
        ("clip,state", "run0.csv,run1.csv,run2.csv,run3.csv", 'file = "clip"'),
    ],
)
def test_a_draft_knows_a_table_with_a_line_for_each_recording(tmp_path, head, values, key):
    for number in range(4):
        write_csv(tmp_path / f"run{number}.csv", "time,x", *(f"{k},{number}.{k}" for k in range(64)))
    rows = [f"{value},{'worn' if number % 2 else 'ok'}" for number, value in enumerate(values.split(","))]
    write_csv(tmp_path / "states.csv", head, *rows)
    text = draft_recipe(tmp_path)
    lines = text.splitlines()
    assert lines[lines.index("[labels]") + 1 :][:3] == ['table = "states.csv"', 'label = "state"', key]
    assert import_draft(tmp_path, text).dataset.spec.task.labels == ("ok", "worn")


def test_a_folder_without_logs_a_file_in_its_place_and_a_command_after_its_argument_are_refused(refusal, tmp_path):
    assert refusal(UsageError, draft_recipe, tmp_path) == (
        f"{tmp_path}: expected files that end in .csv, .txt, .tsv, .xlsx, .xlsm, .xlsb, .xls, .ods, .parquet, .wav,"
        " .flac, .ogg, .mp4, .m4v, .mov, .mkv, .webm, .avi, .mpg, .mpeg, .tdms, .mf4, .mdf, .h5, .hdf5, .mat, found"
        " none; name their folder"
    )

    file = tmp_path / "acc.csv"
    assert (
        refusal(UsageError, draft_recipe, file)
        == f"{file}: expected a folder of logs, found none there; check the path"
    )
    file.touch()
    assert refusal(UsageError, draft_recipe, file) == f"{file}: expected a folder of logs, got a file; name its folder"
    assert refusal(UsageError, run_data, ["plant", "recipe"]) == (
        "plant: expected a command first, got 'recipe' after it; swap the two"
    )


def test_the_commands_draft_try_and_import(plant, capsys):
    assert mmkd_data(capsys, "recipe", plant, "-o", plant / "draft.toml") == [
        (
            f"wrote {plant / 'draft.toml'}; answer the questions at its top; next: mmkd-data import"
            f" {plant / 'draft.toml'} --check"
        )
    ]
    figures = [
        "acc: 6 files, ax ay, 10 Hz; jitter p99 up to 0.00 ms (M0/acc.csv), drift up to 0 ppm (M0/acc.csv), gaps 0",
        "windows of 6 recordings (train 40, valid 10, test 10)",
        "  ok: train 20, valid 5, test 5",
        "  worn: train 20, valid 5, test 5",
    ]
    assert mmkd_data(capsys, "import", plant / "recipe.toml", "--check") == [
        figures[0],
        f"{plant.name}: 60 {figures[1]}",
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
    draft = f"mmkd-data recipe {plant} -o {plant}/recipe.toml"
    for words, says in {
        (file,): "-o: expected the directory to make, got none; name one",
        (
            file,
            "--check",
            "--target",
            "x",
        ): f"{file}: the options for .npz files cannot be combined with a recipe; leave them out",
        ("some.npz", "--check"): "--check: expected a recipe (.toml), got some.npz; leave the option out",
        (
            str(plant),
            "-o",
            "out",
        ): f"{plant}: expected a recipe (.toml) or windows (.npz), got a folder; draft a recipe: {draft}",
        (str(plant / "M1" / "acc.csv"),): f"{plant}/M1/acc.csv: expected a recipe (.toml) or windows (.npz), got a log;"
        f" draft a recipe of the folder that holds all recordings: {draft}",
    }.items():
        assert refusal(UsageError, run_data, ["import", *words]) == says
    assert not (plant / "out").exists()
    elsewhere = plant / "M1" / "recipe.toml"
    assert refusal(UsageError, run_data, ["recipe", str(plant), "-o", str(elsewhere)]) == (
        f"-o {elsewhere}: expected a recipe in the folder of the logs, {plant}, or in one above it; write -o {plant}/"
        "recipe.toml"
    )


ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs" / "your-own-data.md"
QUICK = {
    "mmkd-train": ["--preset", "tiny", "--steps", "2", "--batch", "8"],
    "mmkd-distill": ["--preset", "tiny", "--steps", "2", "--batch", "8"],
    "mmkd-export": ["--precision", "fp32"],
}


def command(words, folder):
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


def _lines():
    block = re.search(r"^```sh\n(python .*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    lines = [shlex.split(line, comments=True) for line in block[1].splitlines()]
    assert [words[0] for words in lines] == ["python", "mmkd-data", "mmkd-train", "mmkd-distill", "mmkd-export"]
    return [[lines[0][0], str(ROOT / lines[0][1]), *lines[0][2:], "--people", "4"], *lines[1:]]


@pytest.mark.slow
def test_four_commands_lead_from_logs_of_two_clocks_to_windows_and_an_exported_student(tmp_path):
    """The first window of a person is the beginning of their first set, but for jitter, rounding and lost samples."""
    for words in _lines():
        command(words, tmp_path)
    with EdgePredictor.open(tmp_path / "student.edge") as predictor:
        window = open_dataset(tmp_path / "shoulder").split("test").take([0])["acc"][0]
        assert predictor.predict(window).label in open_dataset(tmp_path / "shoulder").spec.task.labels
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


def test_a_draft_reads_the_times_of_a_log_book_as_it_reads_those_of_logs(tmp_path):
    for unit in range(3):
        rows = [f"2026-05-05T06:0{k // 60}:{k % 60:02d}Z,{k % 7}.5" for k in range(120)]
        write_csv(tmp_path / f"unit{unit}" / "vib.csv", "time,ax", *rows)
    write_csv(tmp_path / "book.csv", "from;to;state", "05.05.2026 06:00:00.000;05.05.2026 06:01:00.000;ok")
    text = draft_recipe(tmp_path)
    assert "# - labels: times in 'from' have no offset: which timezone, such as 'Europe/Berlin'?\n" in text
    labels = ['files = "book.csv"', 'start = "from"', 'end = "to"', 'label = "state"']
    clock = ['time_format = "%d.%m.%Y %H:%M:%S%.f"', 'timezone = "UTC"']
    assert "\n".join(["[labels]", *labels, *clock, ""]) in text
