"""`mmkd-edge commission`: a student of normal data is fitted to one machine, and answers as before without it."""

import contextlib
import json
import re
import subprocess
import sys
import time
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from mmkd_app.commands.edge import run_edge
from mmkd_edge import EdgePredictor, GateError, UsageError, read_reference
from mmkd_edge.bundle.reference import Reference, write_reference
from mmkd_edge.bundle.statistics import GroupReference, MagnitudeLimits
from mmkd_edge.install.slots import install
from mmkd_edge.predict.commissioning import MachineRun, block_rates, run_faults
from mmkd_edge.predict.student import commissioned_entry
from mmkd_edge.testing import fake_entry
from mmkd_export.inspect.files import inspect_file
from tests.edge.said import said
from tests.export.students import ACC, export_student, make_normal_student
from tests.station.rig import ENVIRONMENT, feed, free_port


@pytest.fixture(scope="module")
def folder(tmp_path_factory, quick_exports):
    """A bundle, and four minutes of a machine that is half as loud again as those of training."""
    folder = tmp_path_factory.mktemp("commission")
    student = make_normal_student()
    limits = MagnitudeLimits(usual=(0.8,) * 3, lowest=0.4, highest=2.5, outside_rate=0.01)
    reference = GroupReference(
        between="groups", groups=2, windows=240, fewest_windows=100, false_alarm_rate=0.05, scales=(0.8,) * 3,
        centres=((0.0,) * 9,), spreads=((1.0,) * 9,), largest_misfit=1.0, largest_axes=1.0, largest_levels=1.0,
        magnitude=limits,
    )  # fmt: skip
    export_student(
        folder, replace(student, facts=msgspec.structs.replace(student.facts, group_reference=reference)), name="s"
    )
    rows = 1.5 * np.nan_to_num(student.carried.windows[:188]).reshape(-1, 3)
    np.save(folder / "rows.npy", rows)
    write_log(folder / "log.csv", *machine(folder))
    return folder


def machine(folder):
    """Times and rows of the machine."""
    rows = np.load(folder / "rows.npy")
    return np.arange(len(rows)) / 50, rows


def write_log(path, times, rows):
    table = np.column_stack([times, rows])
    np.savetxt(path, table, delimiter=",", header="time,x,y,z", comments="", fmt="%.6g")


@pytest.fixture(scope="module")
def reference_file(folder):
    """What was fitted to a result every two seconds."""
    file = folder / "every-two-seconds.json"
    run_edge(["commission", str(folder / "s.edge"), "--source", f"csv:{folder / 'log.csv'}", "--hop", "100", str(file)])
    return file


def test_results_come_after_so_many_samples(reference_file):
    reference = read_reference(reference_file)
    assert reference.normal.windows == 121  # of 241 every second
    assert reference.normal.hours == pytest.approx(121 / 1800)


def unknown(path, **options):
    with EdgePredictor.open(path, **options) as predictor:
        rows = np.loadtxt(path.with_name("log.csv"), delimiter=",", skiprows=1)[:, 1:]
        found = [one.status for one in predictor.stream(hop=50).push(rows.astype(np.float32))]
    return found[1:].count("unknown") / len(found[1:])


def test_a_machine_gets_its_own_scores_and_the_bundle_stays(folder, capsys):
    bundle, file = folder / "s.edge", folder / "machine.json"
    before = bundle.read_bytes()
    run_edge(["commission", str(bundle), "--source", f"csv:{folder / 'log.csv'}", "--minutes", "30", str(file)])
    output, errors = capsys.readouterr()
    reference = read_reference(file)
    assert reference.normal
    assert reference.commissioned
    assert (reference.mean, reference.std) == ((0.0,) * 3, (1.0,) * 3)
    assert (reference.normal.groups, reference.normal.level, reference.normal.windows) == (20, 0.05, 241)
    assert reference.normal.hours == pytest.approx(241 / 3600)
    assert reference.commissioned.source == f"csv:{folder / 'log.csv'}"
    assert reference.commissioned.unlike > 0.5
    lines = output.splitlines()
    limit = reference.normal.scores[-12]  # 11 larger ones: (1 + 11) / 242
    assert lines[0].startswith(f"unknown at a p-value of at most 0.05, a score above {limit:.4g}: ")
    assert lines[0].endswith(" of 20 blocks have more than 10%; 241 windows, 0.0669 h")
    assert lines[1] == (
        f"wrote {file}, without which the bundle answers as before, and {file}.md; next: mmkd-run {bundle} --source "
        f"csv:{folder / 'log.csv'} --reference {file}"
    )
    facts = reference.commissioned
    expected = {
        "student": f"{facts.model_id}, modality acc",
        "recorded": f"from csv:{folder / 'log.csv'}, {facts.minutes:.3g} minutes until {facts.ended_utc}",
        "normal": lines[0],
        "unlike": f"{facts.unlike:.0%} of these windows are unknown by the bundle's own scores",
        "judgement": f"passed, with warnings: {errors.removeprefix('warning: ').rstrip()}",
        "undo": "open the bundle without this file: it answers as before",
    }
    card = [f"- {name}: {value}" for name, value in expected.items()]
    assert (folder / "machine.json.md").read_text().splitlines() == ["# machine", "", *card]
    assert inspect_file(file) == {"kind": "reference", "modality": "acc"} | expected
    install(folder / "state", bundle, prove=lambda path: None)
    write_reference(folder / "state" / "press 1.json", reference)
    run_edge(["list", str(folder / "state")])
    line = "press 1.json: " + "; ".join(f"{name} {value}" for name, value in expected.items())
    assert capsys.readouterr().out.splitlines()[1:] == [line]
    run_edge(["status", str(folder / "state"), "--json"])
    assert json.loads(capsys.readouterr().out)["machines"] == {"press 1.json": expected}
    run_edge(["status", str(folder / "state")])
    assert capsys.readouterr().out.splitlines()[2:] == [line]
    assert errors == (
        f"warning: {facts.unlike:.0%} of the windows are unlike the normal ones of training: does the machine run "
        "normally?\n"
    )
    assert bundle.read_bytes() == before
    assert unknown(bundle) > 0.5
    assert unknown(bundle, reference=file) == pytest.approx(0.05, abs=0.02)


def test_rates_of_blocks_are_of_p_values_among_the_others():
    # Of the last block's p-values only that of 9 is at most a fifth: (1 + 0) / (1 + 6); of 6.5 it is (1 + 1) / 7.
    scores = np.array([1.0, 4.0, 7.0, 2.0, 5.0, 3.0, 6.5, 9.0, 0.5])
    assert block_rates(scores, blocks=3, level=0.2).tolist() == [0.0, 0.0, pytest.approx(1 / 3)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--minutes", "1"),
            (
                "csv:{log}: expected 100 windows of normal running with an answer, or more, got 59 in 1 minutes; "
                "record longer (--minutes), or mend the sensor"
            ),
        ),
        (("--minutes", "0"), "--minutes 0: expected a number above 0; for instance 30"),
        (("--map", "x"), "--map x: expected CHANNEL=COLUMN, got no '='; write it like ax=accel.x"),
    ],
)
def test_what_cannot_be_fitted_is_refused(folder, arguments, expected):
    source, output = f"csv:{folder / 'log.csv'}", folder / "refused.json"
    words = ["commission", str(folder / "s.edge"), "--source", source, *arguments, str(output)]
    assert said(UsageError, run_edge, words) == expected.format(log=folder / "log.csv")
    assert not output.exists()


def quiet(rows, channel):
    """Rows of which a channel has next to no signal."""
    factors = np.ones(3)
    factors["xyz".index(channel)] = 1e-3
    return rows * factors


GAPS = (
    "% of the time is without a sound answer, expected 10% at most; mend the sensor or its connection, and record "
    "without pauses"
)
LEFT_OUT = (
    "% of the samples were left out because of their times, expected 10% at most; mend the sensor's clock, which "
    "stands still, goes back or jumps"
)
FAULTS = {
    "dead": (
        lambda times, rows: (times, 0 * rows),
        "channel 'x' is constant at 0, 'y' is constant at 0, 'z' is constant at 0; check the sensor and its cable",
    ),
    "dead in part": (
        lambda times, rows: (times, quiet(rows, "y")),
        "channel 'y' has a standard deviation of 0.0012, in training 0.8; check the sensor and its cable",
    ),
    "saturated": (
        lambda times, rows: (times, np.clip(rows, -0.9, 0.9)),
        (
            "channel 'x' is at -0.9 or 0.9, its limits, in 54% of the samples, 'y' is at -0.9 or 0.9, its limits, in "
            "58% of the samples, 'z' is at -0.9 or 0.9, its limits, in 54% of the samples; choose a larger "
            "range of the sensor"
        ),
    ),
    "another unit": (
        lambda times, rows: (times, 100 * rows),
        (
            "acc has 143 times its usual size in training, expected 0.4 to 2.5 times; check its unit and scale; with "
            "this file too, windows like these stay unknown"
        ),
    ),
    "half missing": (
        lambda times, rows: (times, np.where(times[:, None] < 120, np.nan, rows)),
        f"49{GAPS}",
    ),
    "a pause": (
        lambda times, rows: (times + 60 * (times > 100), rows),
        f"20{GAPS}",
    ),
    "a clock that stands still": (
        lambda times, rows: (np.minimum(times, 150), rows),
        f"38{LEFT_OUT}",
    ),
    "a clock that goes back": (
        lambda times, rows: (times - np.floor(times / 2), rows),
        f"38{GAPS}; 50{LEFT_OUT}",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_sensor_or_clock_is_refused_with_its_figure_and_the_last_file_stays(name, folder):
    alter, expected = FAULTS[name]
    log, output = folder / "faulty.csv", folder / "kept.json"
    write_log(log, *alter(*machine(folder)))
    output.write_text("the last good one")
    refused = said(GateError, run_edge, ["commission", str(folder / "s.edge"), "--source", f"csv:{log}", str(output)])
    assert refused == f"csv:{log}: expected a sound sensor and clock, got faults: {expected}; nothing is written"
    assert output.read_text() == "the last good one"


@pytest.mark.parametrize(
    ("changes", "is_coarse", "offset", "expected"),
    [
        ({"lowest": np.zeros(3)}, False, 0.0, "'z' is constant at 0"),
        ({"lowest": np.zeros(3)}, True, 0.0, None),  # a switch may rest
        ({"lowest": np.zeros(3), "highest": np.zeros(3)}, True, 0.0, "'x' is constant at 0"),
        ({"at_limits": np.full(3, 0.3)}, True, 0.0, None),
        ({"mean": np.full(3, 36.0)}, False, 36.0, None),  # of a modality normalised per group
        ({"mean": np.full(3, 46.0)}, False, 36.0, "acc has 12.5 times its usual size"),
    ],
)
def test_channels_are_judged_by_what_training_had(changes, is_coarse, offset, expected, folder):
    with EdgePredictor.open(folder / "s.edge") as predictor:
        entry = predictor.entry
    if is_coarse:
        channels = [msgspec.structs.replace(channel, edges=(0.5,)) for channel in entry.statistics.channels]
        entry = msgspec.structs.replace(entry, statistics=msgspec.structs.replace(entry.statistics, channels=channels))
    usual = {"lowest": -np.ones(3), "highest": np.array([1.0, 1.0, 0.0]), "mean": np.zeros(3), "std": np.full(3, 0.8)}
    facts = {"scores": np.ones(200), "unlike": 0.0, "without_answer": 0.0, "left_out": 0.0, "jumps": 0}
    run = MachineRun(**facts, **({"at_limits": np.zeros(3)} | usual | changes))
    faults = "; ".join(run_faults(entry, run, Reference(modality="acc", mean=(offset,) * 3, std=(1.0,) * 3)))
    assert faults == "" if expected is None else expected in faults


WARNINGS = {
    "one state": (
        lambda times, rows: (times, np.resize(rows[:50], rows.shape)),
        "scores vary by 0%, and by 76% in training: did the machine run in all of its states?",
    ),
    "a clock that was set": (
        lambda times, rows: (times - 3600 * (times > 100), rows),
        "jumps of the times, or silences longer than a window: 1; check the sensor's clock",
    ),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_what_is_odd_is_warned_of_and_in_the_file(name, folder, capsys):
    alter, expected = WARNINGS[name]
    log, output = folder / "odd.csv", folder / "odd.json"
    write_log(log, *alter(*machine(folder)))
    run_edge(["commission", str(folder / "s.edge"), "--source", f"csv:{log}", str(output)])
    warnings = capsys.readouterr().err.splitlines()
    assert warnings[1:] == [f"warning: {expected}"]
    judgement = "; ".join(line.removeprefix("warning: ") for line in warnings)
    assert read_reference(output).commissioned.judgement == f"passed, with warnings: {judgement}"


def commission(folder, *arguments):
    words = [sys.executable, "-c", "from mmkd_app.commands.edge import main; main()", "commission"]
    words += [folder / "s.edge", folder / "live.json", *arguments]
    return subprocess.Popen(
        list(map(str, words)), env=ENVIRONMENT, text=True, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.slow
def test_a_live_clock_that_stands_still_ends_with_code_4_and_no_file(folder):
    child = commission(folder, "--source", "stdin", "--minutes", "0.05")
    with contextlib.suppress(BrokenPipeError):
        feed(child, "time,x,y,z\n")
        for number in range(2000):
            feed(child, f"{min(number, 5) / 50},{','.join(map(str, np.sin(number + np.arange(3))))}\n")
            time.sleep(0.02)
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()
    child.stdin = None
    errors = child.communicate(timeout=60)[1]
    assert child.returncode == 4, errors
    faults = rf"100{re.escape(GAPS)}; \d\d{re.escape(LEFT_OUT)}"
    expected = f"mmkd-edge: stdin: expected a sound sensor and clock, got faults: {faults}; nothing is written"
    assert re.fullmatch(expected, errors.splitlines()[-1])
    assert not (folder / "live.json").exists()


def test_a_source_that_never_connects_ends_with_code_3(folder):
    source = f"mqtt://127.0.0.1:{free_port()}/press"
    child = commission(folder, "--source", source, "--minutes", "0.01")
    errors = child.communicate(timeout=60)[1]
    assert child.returncode == 3, errors
    assert re.search(r"s: never connected in \d\.\d s: .*; correct --source, or make it answer$", errors.rstrip())


def test_a_classifier_is_refused(bundle_path):
    words = ["commission", str(bundle_path), "m.json", "--source", "csv:log.csv"]
    assert said(UsageError, run_edge, words) == (
        f"{bundle_path}: expected a student of normal data, got one of classes rest, raise, turn; only scores of "
        "normal running can be fitted to a machine"
    )


def test_a_reference_of_another_student_is_refused(folder, reference_file):
    document = json.loads(reference_file.read_bytes())
    document["commissioned"] |= {"student_sha256": "5" * 64, "model_id": "other"}
    (folder / "other.json").write_text(json.dumps(document))
    assert said(UsageError, EdgePredictor.open, folder / "s.edge", reference=folder / "other.json") == (
        "reference of modality 'acc': expected one of this student, got one of other; run mmkd-edge commission again "
        "with this bundle"
    )
    classifier = fake_entry(modality=ACC, labels="ab")
    assert said(UsageError, lambda: commissioned_entry(classifier, read_reference(reference_file))) == (
        "reference of modality 'acc': expected no normal running for classes a, b; open the bundle without it"
    )
    del document["commissioned"]
    (folder / "half.json").write_text(json.dumps(document))
    assert said(UsageError, read_reference, folder / "half.json") == (
        f"{folder / 'half.json'}: not a reference: normal: expected it together with 'commissioned', got one of them; "
        "make it again with mmkd-data reference"
    )
