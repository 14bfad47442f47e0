"""`mmkd-run` as a process: samples in, decisions out, and how it ends."""

import contextlib
import json
import re
import shutil
import signal
import socket
import time
from functools import partialmethod
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_app.commands.run import main
from mmkd_edge import Bundle, example_bundle
from mmkd_edge.derive import derive, derived_modality
from mmkd_edge.errors import UnavailableError, UsageError
from mmkd_edge.install.slots import install, read_slots
from mmkd_edge.testing import fake_predictor
from mmkd_models.data import shipped_dataset
from mmkd_station.outlet import Outlet
from mmkd_station.protocols.base import Source
from tests.station.rig import (
    end,
    feed,
    free_port,
    http_server,
    next_record,
    records_in,
    refusal,
    result,
    run,
    start,
    station_of,
    until,
)

LABELS = ("rest", "raise", "turn")
pytestmark = pytest.mark.usefixtures("quick_openings")


def csv_text(rows, times=None):
    lines = ["time,x,y,z" if times is not None else "x,y,z"]
    for number, row in enumerate(rows):
        first = [] if times is None else [f"{times[number]:.6f}"]
        lines.append(",".join([*first, *(f"{value:.6f}" for value in row)]))
    return "\n".join(lines) + "\n"


def test_a_log_in_another_unit_is_no_ok_and_the_last_line_says_what_to_check(tmp_path, run_here):
    with Bundle.open(example_bundle()) as bundle:
        recorded = np.concatenate(list(bundle.golden("acc").windows[:12]))
    for name, unit in (("g", 1), ("mg", 1000)):
        np.savetxt(tmp_path / f"{name}.csv", unit * recorded, delimiter=",", header="ax,ay,az", comments="")
    found = {
        name: run_here(example_bundle(), "--name", "press 1", "--source", f"csv:{tmp_path / name}.csv", "--hop", 200)
        for name in ("g", "mg")
    }
    assert {one["status"] for one in records_in(found["g"][0])} == {"ok"}
    assert "windows are far" not in found["g"][1]
    assert {one["status"] for one in records_in(found["mg"][0])} == {"unknown"}
    assert found["mg"][1].splitlines()[-1] == (
        "press 1: 12 of 12 windows are far from the training data; check unit and scale of acc"
    )


@pytest.fixture
def rows():
    """Four windows of the test student: 10 Hz, 20 samples of x, y, z."""
    return np.random.default_rng(1).normal(size=(80, 3)).astype(np.float32).round(6)


def test_a_file_of_samples_becomes_the_answers_of_its_windows(bundle_path, tmp_path, rows, kit):
    (tmp_path / "log.csv").write_text(csv_text(rows, times=[1000 + 0.1 * number for number in range(80)]))
    done = run(
        bundle_path, "--name", "press 1", "--source", f"csv:{tmp_path / 'log.csv'}", "--sink", "-", "--hop", "20"
    )
    assert done.returncode == 0, done.stderr
    results = records_in(done.stdout)
    assert [one["status"] for one in results] == ["ok"] * 4
    assert [one["time_s"] for one in results] == [1001.9, 1003.9, 1005.9, 1007.9]
    assert [one["station"] for one in results] == ["press 1"] * 4
    for number, one in enumerate(results):
        shares = kit.answer(rows[20 * number : 20 * number + 20])[1]
        # Six decimals in the file, float32 sums of 20 numbers near 1.
        np.testing.assert_allclose(one["probabilities"], shares, atol=2e-6)
        assert one["label"] == LABELS[int(np.argmax(shares))]
    numbers = [json.loads(line)["number"] for line in done.stdout.splitlines()]
    assert numbers == list(range(1, 7))  # started, four results, stopped
    assert "press 1: 4 results in " in done.stderr
    assert "80 samples\n" in done.stderr
    assert "INFO press 1: stopped: answered what waited\n" in done.stderr


def test_a_derived_sensor_is_fed_by_the_recorded_one_or_comes_as_it_is(kit, acc, tmp_path, rows, run_here):
    modality = derived_modality("acc@1s,5Hz,6bit,-4..4", [acc])
    bundle = kit.parts(modality).write(tmp_path / "cheap.edge")
    cheap = np.concatenate([derive(rows[start : start + 10], modality) for start in range(0, 80, 10)])
    (tmp_path / "rich.csv").write_text(csv_text(rows, times=[0.1 * number for number in range(80)]))
    (tmp_path / "cheap.csv").write_text(csv_text(cheap, times=[0.2 * number for number in range(40)]))
    for options in (("rich.csv", "10", "--modality", "acc"), ("cheap.csv", "5")):
        results = records_in(run_here(bundle, "--source", f"csv:{tmp_path / options[0]}", "--hop", *options[1:])[0])
        assert [(one["status"], one["modality"]) for one in results] == [("ok", modality.name)] * 8
        for number, one in enumerate(results):
            shares = kit.answer(cheap[5 * number : 5 * number + 5])[1]
            np.testing.assert_allclose(one["probabilities"], shares, atol=2e-6)
    output, errors = run_here(bundle, "--source", f"csv:{tmp_path / 'rich.csv'}", "--hop", "5")
    assert records_in(output)[-1]["reason"] == "samples come at 10 Hz, expected 5 Hz"
    assert errors.splitlines()[-2:] == [
        "cheap: 8 of 8 results are of no or limited use:",
        (
            "  8 x samples come at 10 Hz, expected 5 Hz; send samples at the student's rate, or import the sensor's "
            "recordings at its own and train again"
        ),
    ]


def test_what_gave_no_good_result_ends_with_the_commonest_reasons_and_their_cures(
    bundle_path, tmp_path, rows, run_here
):
    rows = rows.copy()
    rows[:, 1] = np.nan
    (tmp_path / "log.csv").write_text(csv_text(rows).replace("nan", ""))
    at = (bundle_path, "--sink", f"jsonl:{tmp_path / 'r.jsonl'}", "--source")
    lost = run_here(*at, f"csv:{tmp_path / 'log.csv'}", "--hop", "20")[0].splitlines()[-2:]
    check = "check the sensor, its cable, and the columns and units of its channels: --map CHANNEL=COLUMN*FACTOR"
    assert lost == ["student: 4 of 4 results are of no or limited use:", f"  4 x channel 'y' is missing; {check}"]
    (tmp_path / "short.csv").write_text("x,y,z\n" + "1,0,0\n" * 9)
    short = run_here(*at, f"csv:{tmp_path / 'short.csv'}")[0].splitlines()[-1]
    assert short == (
        "  1 x 9 of 20 samples are there; let it run for longer than a window, and send without pauses of that length"
    )
    (tmp_path / "none.csv").write_text("x,y,z\nno,sample,here\n")
    assert run_here(*at, f"csv:{tmp_path / 'none.csv'}")[0].splitlines()[-1] == (
        "student: no result, since no sample came, and 1 messages or lines are no samples; check the topic or file, "
        "and what it sends"
    )


def test_reasons_of_one_kind_are_counted_together_and_those_of_good_results_are_not(acc):
    station = station_of(
        fake_predictor([0.25, 0.75], modality=acc, labels=("ok", "worn")), Source(deliveries=iter, live=True)
    )
    stale = [f"no sample for {number}.5 s; channel 'ch{number % 2}' is missing" for number in range(4)]
    for reason in [*stale, "", "12,345 of 20,000 samples were left out because of their times"]:
        station._give(result(0, status="stale" if reason else "ok", reason=reason))
    station._give(result(0, status="unknown", reason="unlike what training saw: p-value 0.01, at most 0.05 is unknown"))
    assert station.facts().reasons == {
        "no sample for 3.5 s": 4,
        "channel 'ch0' is missing": 2,
        "channel 'ch1' is missing": 2,
        "12,345 of 20,000 samples were left out because of their times": 1,
    }


def test_a_source_that_never_connected_ends_with_exit_code_3_and_why(bundle_path, tmp_path):
    pytest.importorskip("paho.mqtt")
    at = f"127.0.0.1:{free_port()}"
    source = ("--source", f"mqtt://{at}/acc", "--sink", f"jsonl:{tmp_path / 'r.jsonl'}", "--for", "1s")
    done = run(bundle_path, *source)
    last = re.sub(r"in \d+\.\d s", "in N s", done.stderr.splitlines()[-1])
    assert done.returncode == 3
    assert last == (
        f"mmkd-run: student: never connected in N s: {at}: connection refused: is the broker running there, on this "
        "port?; correct --source, or make it answer"
    )


def test_two_sensors_of_one_student_come_from_one_source_with_the_channels_of_both(kit, acc, tmp_path, rows, run_here):
    parts = [msgspec.structs.replace(acc, name=name, channels=tuple(own)) for name, own in (("a", "xz"), ("b", "y"))]
    bundle = kit.parts(derived_modality("a+b", parts)).write(tmp_path / "pair.edge")
    rows = np.where(np.arange(80)[:, None] < 40, rows, [1, np.nan, 1]).astype(np.float32)  # then y is lost
    (tmp_path / "log.csv").write_text(csv_text(rows).replace("nan", ""))
    results = records_in(run_here(bundle, "--source", f"csv:{tmp_path / 'log.csv'}", "--hop", "20")[0])
    lost = ("degraded", "sensor 'b' is missing")
    assert [(one["status"], one["reason"]) for one in results] == [("ok", ""), ("ok", ""), lost, lost]
    np.testing.assert_allclose(results[0]["probabilities"], kit.answer(rows[:20, [0, 2, 1]])[1], atol=2e-6)
    sources = [word for name in "ab" for word in ("--source", f"{name}=csv:{tmp_path / 'log.csv'}")]
    assert refusal(UsageError, bundle, *sources) == (
        "station 'pair': --source a=...: the bundle has no such modality; expected a_and_b, with the channels of both "
        "sensors"
    )


def test_times_of_a_named_column_and_unit_count_late_samples_and_a_space_is_a_gap_where_it_is_said(
    bundle_path, tmp_path, rows, run_here, caplog
):
    def results(order, *options):
        text = csv_text(rows[order], times=[1_000_000 + 100 * number for number in order])
        (tmp_path / "log.csv").write_text(text.replace("time,", "when,", 1))
        named = ("--time", "source", "--time-column", "when", "--time-unit", "ms", "--hop", "20", *options)
        return records_in(run_here(bundle_path, "--source", f"csv:{tmp_path / 'log.csv'}", *named)[0])

    swapped = results([1, 0, *range(2, 80)])  # windows of 20 from the second sample on
    assert [one["time_s"] for one in swapped] == [1002.0, 1004.0, 1006.0, 1007.9]
    assert swapped[0]["late"] == 1
    (tmp_path / "log.csv").write_text(csv_text(rows, times=range(len(rows))).replace("time,", "t,", 1))
    caplog.clear()
    run_here(bundle_path, "--source", f"csv:{tmp_path / 'log.csv'}", "--hop", "20")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning == (
        f"{tmp_path}/log.csv: no column 'time', so samples count as evenly spaced and a lost row shifts all after it;"
        " if 't' has their times, pass --time-column t, and --time-unit if they are not in seconds"
    )
    space = [*range(5), *range(9, 80)]
    gap, bridged = results(space)[0], results(space, "--gap", "5")[0]
    assert gap["missing_fraction"] > bridged["missing_fraction"] == 0


def test_lines_of_json_on_the_standard_input_are_read_as_they_come(bundle_path):
    child = start(bundle_path, "--source", "stdin", "--sink", "-", "--hop", "10", "--silence", "9")
    feed(child, '{"x": 1, "y": 0, "z": null}\n' + json.dumps([[1, 0, 0]] * 9) + "\nno sample\n")
    record = next_record(child.stdout, kind="result")
    assert (record["status"], record["reason"]) == ("warming_up", "10 of 20 samples are there")
    feed(child, json.dumps({"samples": [[1, 0, 0]] * 11}) + "\n")
    record = next_record(child.stdout, kind="result")
    assert (record["status"], record["label"]) == ("ok", "rest")
    assert record["missing_fraction"] == pytest.approx(1 / 60)
    assert record["input_age_s"] < 10
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 0, errors
    assert "  21 samples, 1 no samples\n" in errors


def test_a_recording_is_replayed_and_the_summary_is_one_document(tmp_path, run_here):
    options = ["--source", f"recordings:{shipped_dataset()}", "--sink", f"csv:{tmp_path / 'r.csv'}"]
    summary = json.loads(run_here(example_bundle(), *options, "--json", "--hop", "200")[0])
    station = summary["stations"][0]
    assert station["intake"]["samples"] == station["stream"]["samples"] == 244_102
    assert (station["intake"]["dropped"], station["stream"]["late"], station["faults"]) == (0, 0, 0)
    assert station["stream"]["restarts"] == 139  # 140 recordings, a new time line for each but the first
    lines = (tmp_path / "r.csv").read_text().splitlines()
    assert lines[0].startswith("station,number,time_s,decided_s,status,reason,label,")
    assert len(lines) == 1 + sum(station["results"].values())
    assert summary["sinks"][0]["written"] == len(lines) + 1  # the start and the end are records too


@pytest.mark.slow
def test_a_silent_sensor_is_missing_and_then_stale_and_comes_back(bundle_path):
    child = start(
        bundle_path, "--source", "stdin", "--sink", "-", "--hop", "5", "--time", "arrival", "--silence", "0.3",
        "--stale", "1.5",
    )  # fmt: skip
    feed(child, json.dumps([[1, 0, 0]] * 20) + "\n")
    next_record(child.stdout, kind="result", status="ok")
    seen = []
    while (record := next_record(child.stdout, kind="result"))["status"] != "stale":
        seen.append((record["status"], record["missing_fraction"]))
    assert seen[0] == ("degraded", 0.25)
    assert record["reason"].startswith("no sample for 1.")
    assert record["input_age_s"] > 0
    with contextlib.suppress(OSError):
        for _ in range(40):
            feed(child, "[1, 0, 0]\n")
            time.sleep(0.1)
    next_record(child.stdout, kind="result", status="ok")
    output, _ = end(child)
    assert records_in(output, "state")[-1]["state"] == "stopped"


def test_sigterm_answers_what_waits_and_ctrl_c_says_so(bundle_path, rows):
    for number, code, said in ((signal.SIGTERM, 0, ""), (signal.SIGINT, 130, "mmkd-run: interrupted")):
        child = start(bundle_path, "--source", "stdin", "--sink", "-", "--hop", "1")
        feed(child, csv_text(np.tile(rows, (15, 1))))
        next_record(child.stdout, kind="result")
        child.send_signal(number)
        output, errors = child.communicate(timeout=30)
        assert (child.returncode, errors.splitlines()[-1:] == [said] or not said) == (code, True), errors
        assert records_in(output, "state")[-1]["reason"] == "answered what waited"


def test_at_sighup_what_is_installed_in_a_state_folder_takes_over_and_a_damaged_bundle_is_refused(kit, acc, tmp_path):
    state = tmp_path / "state"
    for number in (1, 2):
        kit.parts(acc).with_manifest(release=number).write(tmp_path / f"{number}.edge")
    install(state, tmp_path / "1.edge", prove=lambda _: None)
    child = start(state, "--source", "stdin", "--sink", "-")
    assert next_record(child.stdout, kind="state")["state"] == "started"
    current = install(state, tmp_path / "2.edge", prove=lambda _: None).current
    child.send_signal(signal.SIGHUP)
    record = next_record(child.stdout, kind="state")
    assert (record["state"], record["reason"]) == ("swapped", f"made-up-acc, {current.sha256[:12]}")
    until(lambda: read_slots(state).current.condition == "good")
    slots = read_slots(state)
    fault = f"{current.path(state)}: the bundle is truncated or changed: "
    one = slots.previous
    gone = f"{one.path(state)}: the bundle is truncated or changed: "
    for slot, told in ((current, f"returned to {one}, since {current} failed: {fault}"), (one, gone)):
        (tmp_path / "damaged").write_bytes(slot.path(state).read_bytes()[:-100])
        (tmp_path / "damaged").replace(slot.path(state))
        child.send_signal(signal.SIGHUP)
        record = next_record(child.stdout, kind="state")
        assert record["state"] == "refused"
        assert record["reason"].startswith(told)
    output, _ = end(child)
    assert [one["state"] for one in records_in(output, "state")] == ["stopped"]


def test_systemd_hears_that_it_is_ready_alive_and_ending(bundle_path, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(30)
        child = start(bundle_path, "--source", "stdin", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="2000000")
        assert listening.recv(4096) == b"READY=1"
        assert listening.recv(4096) == b"WATCHDOG=1\nSTATUS=0 results of 1 stations"
        child.send_signal(signal.SIGTERM)
        while (said := listening.recv(4096)) != b"STOPPING=1":
            assert said.startswith(b"WATCHDOG=1\n")
        child.communicate(timeout=30)
        assert child.returncode == 0


def test_several_stations_run_from_one_file(bundle_path, tmp_path, rows, run_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.csv").write_text(csv_text(rows[:40]))
    (tmp_path / "two.csv").write_text(csv_text(rows).replace("x,y,z", "a,b,c"))
    (tmp_path / "stations.toml").write_text(
        'sinks = ["jsonl:all.jsonl"]\n'
        '[[stations]]\nname = "press 1"\nbundle = "student.edge"\nbackend = "ort"\nsource = "csv:one.csv"\nhop = 20\n'
        '[[stations]]\nbundle = "student.edge"\nbackend = "ort"\nsource = "csv:two.csv"\nhop = 20\n'
        'sinks = ["csv:two_results.csv"]\nmap = {x = "a", y = "b", z = "c*1000"}\n'
    )
    summary = json.loads(run_here("stations.toml", "--json")[0])
    assert [(one["station"], one["results"]) for one in summary["stations"]] == [
        ("press 1", {"ok": 2}),
        ("student", {"ok": 4}),
    ]
    results = records_in((tmp_path / "all.jsonl").read_text())
    assert sorted({one["station"] for one in results}) == ["press 1", "student"]
    assert len((tmp_path / "two_results.csv").read_text().splitlines()) == 5


def test_stations_of_one_store_have_every_record_of_both_once_their_sink_works(
    bundle_path, tmp_path, rows, run_here, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmkd_station.outlet.Outlet.close", partialmethod(Outlet.close, drain_s=0.5))
    (tmp_path / "log.csv").write_text(csv_text(rows))
    taken, codes = [], [503]

    def answer(request, body):
        taken.extend(json.loads(body) if codes[-1] == 200 else ())
        return codes[-1], {}

    with http_server(answer) as address:
        (tmp_path / "stations.toml").write_text(
            f'sinks = ["webhook:http://{address}/"]\nstore = "store"\n'
            '[[stations]]\nname = "a"\nbundle = "student.edge"\nbackend = "ort"\nsource = "csv:log.csv"\nhop = 20\n'
            '[[stations]]\nname = "b"\nbundle = "student.edge"\nbackend = "ort"\nsource = "csv:log.csv"\nhop = 10\n'
        )
        assert "0 records written, 16 wait" in run_here("stations.toml")[0]
        codes.append(200)
        run_here("stations.toml")
    for station, count in (("a", 6), ("b", 10)):
        names = [(one["boot"], one["number"]) for one in taken if one["station"] == station]
        boots = list(dict.fromkeys(boot for boot, _ in names))
        assert names == [(boot, number) for boot in boots for number in range(1, count + 1)]
        assert len(boots) == 2


def test_a_file_that_grows_is_followed_over_its_rotation_and_loses_no_line(bundle_path, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("x;y;z\n" + "1,5;0;0\n" * 1280)
    child = start(bundle_path, "--source", f"csv:{log}", "--follow", "--sink", "-", "--hop", "20")
    records = [next_record(child.stdout, kind="result") for _ in range(64)]
    assert (records[-1]["label"], sum(one["dropped"] for one in records)) == ("rest", 0)
    log.rename(tmp_path / "log.csv.1")
    log.write_text("z;y;x\n" + "-1,5;0;-9\n" * 20)
    assert next_record(child.stdout, kind="result")["label"] in LABELS
    _, errors = end(child)
    # On a busy machine a mark of silence may come behind them, and be given up.
    assert "  1,300 samples" in errors, errors


def test_what_cannot_work_is_said_at_once(bundle_path, tmp_path, ran):
    (tmp_path / "log.csv").write_text("x,y\n1,2\n")
    lacking = (
        f"{tmp_path}/log.csv: expected the columns x, y, z, found no z among x, y; "
        "say which is which with --map CHANNEL=COLUMN"
    )
    csv = f"--source csv:{tmp_path}/log.csv"
    none = "none.csv: expected a file of samples, CSV or JSON lines, found no such file; check the path\n"
    cases = {
        "--source csv:none.csv": none,
        csv: lacking,
        f"{csv} --stale 5": f"station 'student': --stale: expected a live source, got csv:{tmp_path}/log.csv, whose "
        "samples have no age; leave it out, or add --follow for a file that grows\n",
        "--source opc:x": "--source opc:x: expected one of csv:FILE, stdin, ",
        "--source stdin --sink out.txt": "--sink out.txt: expected one of -, jsonl:FILE, csv:FILE, webhook:URL, "
        "modbus-write://HOST?at=N, opcua-write://HOST?label=NODE, mqtt://HOST/TOPIC, mqtts://HOST/TOPIC, "
        "sparkplug://HOST/GROUP/NODE, kafka://HOST/TOPIC, influxdb://HOST/DATABASE, postgresql://HOST/DATABASE; "
        "write --sink csv:out.txt for a file\n",
        "--source stdin --sink jsonl:no/such.jsonl": "no/such.jsonl: cannot write it: ",
        "--source stdin --map q=1": "--map q=1: modality 'acc' has no channel 'q'; expected one of x, y, z\n",
        "--source csv:log.csv --follow --replay-speed 2": "'stations[0].replay_speed': cannot be combined with "
        "'follow', since a growing file sets the pace; leave one out\n",
        "--source stdin --json": "--json: expected the standard output for the summary, got --sink - there too; leave "
        "one out\n",
    }
    assert ran(main, "mmkd-run", bundle_path, "--source", "csv:none.csv") == (2, "", "mmkd-run: " + none)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    for arguments, expected in cases.items():
        assert refusal(UsageError, bundle_path, *arguments.split()).startswith(expected.removesuffix("\n"))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers


def test_a_checkpoint_in_place_of_a_bundle_is_named_with_the_command_that_exports_it(tmp_path):
    path = tmp_path / "press 1.ckpt"
    shutil.copy(Path(__file__).parents[1] / "files" / "student.ckpt", path)
    done = run(path, "--source", "stdin")
    assert done.returncode == 6
    assert done.stderr == (
        f"mmkd-run: {path}: expected a bundle written by mmkd-export, got the checkpoint of a student; make its bundle "
        f"with: mmkd-export '{path}'\n"
    )


def test_a_reader_that_goes_away_or_a_closed_input_ends_it(bundle_path, monkeypatch, rows):
    monkeypatch.setattr("sys.stdin", None)
    said = "--source stdin: expected an open standard input, got a closed one; pipe samples into it"
    assert refusal(UsageError, bundle_path, "--source", "stdin") == said
    child = start(bundle_path, "--source", "stdin", "--sink", "-", "--hop", "1")
    child.stdout.close()
    feed(child, csv_text(rows))
    assert child.wait(timeout=30) == 141
    child.communicate()


def test_an_option_that_would_do_nothing_is_refused(bundle_path, tmp_path):
    stations = tmp_path / "stations.toml"
    live = (bundle_path, "--source", "stdin")
    cases = {
        (*live, "--keep-in", "a"): "--keep-in has no effect without --keep-uncertain; "
        "add --keep-uncertain, or leave --keep-in out",
        (*live, "--confirm", "2/3"): "--confirm has no effect without --alarm; add --alarm, or leave --confirm out",
        (bundle_path, "--alarm", "rest", "--tune-alarm", "data", "--release", "3"): "--release cannot be combined "
        "with --tune-alarm, which chooses a rule on recordings and stops; leave it out",
        (stations, "--hop", "5"): f"--hop cannot be combined with {stations}, which has it for each station; "
        "leave it out",
    }
    for arguments, said in cases.items():
        assert refusal(UsageError, *arguments) == said


def test_a_file_of_stations_that_cannot_be_lists_every_problem(tmp_path):
    stations = tmp_path / "stations.toml"
    stations.write_text(
        'store_bytes = 5\n[[stations]]\nbundle = "a.edge"\nsource = "stdin"\nhop = 0\nname = "a"\n'
        '[[stations]]\nbundle = "a.edge"\nsource = "stdin"\nname = "a"\nstale_s = -1.0\n'
        '[[stations.alarms]]\nlabel = "worn"\nconfirm = "6/5"\n'
    )
    assert refusal(UsageError, stations).splitlines() == [
        f"{stations}: 5 problems",
        "  - 'stations': the name 'a' is there 2 times; give each its own",
        "  - 'store_bytes': expected 1,000,000 or more, got 5; correct it",
        "  - 'stations[0].hop': expected 1 sample or more, got 0; correct it",
        "  - 'stations[1].stale_s': expected a number above 0, got -1.0; correct it",
        "  - 'stations[1].alarms' (worn): confirm: expected N/M with 1 <= N <= M <= 1000, got '6/5'; for instance 3/5",
    ]
    stations.write_text('[[stations]]\nbundle = "a.edge"\nsauce = "stdin"\n')
    said = refusal(UsageError, stations)
    assert "unknown field `sauce`" in said or "missing required field `source`" in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_run_that_lost_records_ends_with_a_code_and_a_last_line_that_say_so(
    bundle_path, tmp_path, rows, run_here, monkeypatch
):
    monkeypatch.setattr("mmkd_station.outlet.Outlet.close", partialmethod(Outlet.close, drain_s=0.5))
    (tmp_path / "log.csv").write_text(csv_text(rows))
    at = ("--source", f"csv:{tmp_path}/log.csv", "--hop", "20", "--sink")
    lost = refusal(UnavailableError, bundle_path, *at, "jsonl:/dev/full", "--sink", f"jsonl:{tmp_path}/r.jsonl")
    assert lost == (
        "jsonl:/dev/full: 6 of 6 records were lost: [Errno 28] No space left on device; "
        "make the sink work; --store FOLDER keeps records on disk while it does not"
    )
    assert len(records_in((tmp_path / "r.jsonl").read_text())) == 4
    kept, _ = run_here(bundle_path, *at, "jsonl:/dev/full", "--store", tmp_path / "store")
    assert "0 records written, 6 wait" in kept


@pytest.mark.slow
def test_a_good_bundle_takes_over_at_a_sighup_that_came_while_a_slow_one_was_checked(kit, acc, tmp_path):
    path, slow = tmp_path / "a.edge", tmp_path / "slow"
    (tmp_path / "first").mkdir()
    code = f"import os, time\nwhile os.path.exists({str(slow)!r}): time.sleep(0.1)\nclass checker:"
    (tmp_path / "first" / "onnx.py").write_text(f"{code}\n    check_model = staticmethod(lambda *a, **k: None)\n")
    kit.parts(acc).with_manifest(release=1).write(path)
    places = {"PYTHONPATH": str(tmp_path / "first"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    child = start(path, "--source", "stdin", "--sink", "-", **places)
    assert next_record(child.stdout, kind="state")["state"] == "started"
    slow.touch()
    kit.parts(acc).with_manifest(release=2).write(path)
    child.send_signal(signal.SIGHUP)
    time.sleep(3)  # its check has begun: it ends after ten seconds
    kit.parts(acc).with_manifest(release=3).write(path)
    child.send_signal(signal.SIGHUP)
    record = next_record(child.stdout, kind="state")
    assert (record["state"], "it takes too long" in record["reason"]) == ("refused", True), record
    slow.unlink()
    assert next_record(child.stdout, kind="state")["state"] == "swapped"
    end(child)
