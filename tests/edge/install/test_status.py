"""What a device reports, and the fleet that the reports of many make."""

import contextlib
import json
import os
from functools import partial

import msgspec

from mmkd_app.commands import edge, inspect
from mmkd_edge import GateError, UsageError
from mmkd_edge.install.slots import rollback, start
from mmkd_edge.install.status import DeviceStatus, device_status, read_fleet
from tests.edge.install.conftest import why_returned
from tests.edge.said import said


def test_a_device_reports_its_bundles_and_what_keeps_the_current_one_from_opening(state, put, ran):
    run = partial(ran, edge.main, "mmkd-edge")
    missing = f"{state}: expected a state folder, found nothing there; mmkd-edge install makes one"
    code, out, err = run("status", state, "--json")
    assert (code, err) == (2, f"mmkd-edge: {missing}\n")
    status = msgspec.json.decode(out, type=DeviceStatus)
    assert (status.slots, status.problem, status.device) == (None, missing, os.uname().nodename)

    slots = put(1, 2)
    code, out, err = run("status", state, "--json")
    document = json.loads(out)
    assert (code, err, document["problem"]) == (0, "", "")
    assert (document["slots"]["current"]["release"], document["slots"]["previous"]["release"]) == (2, 1)
    assert document["free_bytes"] > 0
    code, out, _ = run("status", state)
    assert code == 0
    rows = [line.split()[:3] for line in out.splitlines()[1:]]
    assert rows == [["current", "release", "2"], ["previous", "release", "1"]]

    path = slots.current.path(state)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, out, err = run("status", state, "--json")
    problem = json.loads(out)["problem"]
    assert (code, err) == (6, f"mmkd-edge: {problem}\n")
    assert problem.startswith(f"{path}: ")


def test_status_ends_with_6_after_a_failure_until_something_is_installed_or_rolled_back(state, put, ran):
    run = partial(ran, edge.main, "mmkd-edge")

    def fail_next(reason):
        with contextlib.suppress(GateError), start(state) as this_start:
            this_start.open(lambda _: None)
            raise GateError(reason)

    put(1)
    slots = put(2)
    fail_next("it crashed")
    told = f"{state}: {why_returned(slots, 'it crashed')}"
    code, out, err = run("status", state, "--json")
    assert (code, err) == (6, f"mmkd-edge: {told}; install a bundle that starts here\n")
    assert json.loads(out)["problem"] == f"{told}; install a bundle that starts here"
    fail_next("its disk is damaged")
    told = f"{told}; {slots.previous} failed: its disk is damaged; install a bundle that starts here"
    assert run("status", state)[::2] == (6, f"mmkd-edge: {told}\n")
    rollback(state)
    assert run("status", state)[::2] == (0, "")
    fail_next("it crashed")
    assert run("status", state)[0] == 6
    put(3)
    assert run("status", state)[::2] == (0, "")


def test_a_fleet_is_the_last_report_of_each_device(state, put, tmp_path, ran):
    put(1)
    status, _ = device_status(state)
    slot = msgspec.structs.replace(status.slots.current, model_id="acc", sha256="ab" * 32, condition="good")
    slots = msgspec.structs.replace(status.slots, current=slot)
    folder = tmp_path / "reports"
    folder.mkdir()
    told = f"{folder}: expected files of mmkd-edge status --json, found no *.json; check the path"
    assert said(UsageError, read_fleet, folder) == told
    newer = msgspec.structs.replace(slots, current=msgspec.structs.replace(slot, release=2))
    reports = {
        "a": ("press 1", "2026-11-29T00:00:00+00:00", slots, ""),
        "b": ("press 1", "2026-11-30T00:00:00+00:00", newer, ""),
        "c": ("press 10", "2026-11-30T00:00:00+00:00", slots, "acc.edge: damaged"),
        "d": ("press 2\x1b[2J", "2026-11-30T00:00:00+00:00", newer, ""),
        "e": ("press 3", "2026-11-30T00:00:00+00:00", None, "nothing there"),
    }
    for name, (device, time_utc, held, problem) in reports.items():
        facts = {"device": device, "time_utc": time_utc, "slots": held, "problem": problem, "version": "1"}
        report = msgspec.structs.replace(status, **facts)
        (folder / f"{name}.json").write_bytes(msgspec.json.encode(report))
    (folder / "f.json").write_text("ssh: connect to host press4")
    (folder / "g.json").write_text('{"format_version": 2}')
    fleet = read_fleet(folder)
    assert [(one.device, one.slots and one.slots.current.release) for one in fleet.devices] == [
        ("press 1", 2), ("press 10", 1), ("press 2\x1b[2J", 2), ("press 3", None),
    ]  # fmt: skip
    code, out, _ = ran(inspect.main, "mmkd-inspect", "fleet", folder)
    assert code == 0
    assert out.splitlines() == [
        "press 1         2026-11-30T00:00:00+00:00  1  release 2 (acc, abababab)  good",
        "press 10        2026-11-30T00:00:00+00:00  1  release 1 (acc, abababab)  good  problem: acc.edge: damaged",
        "press 2\\x1b[2J  2026-11-30T00:00:00+00:00  1  release 2 (acc, abababab)  good",
        "press 3         2026-11-30T00:00:00+00:00  1  nothing installed  problem: nothing there",
        "f.json          unreadable: not a JSON document: Expecting value: line 1 column 1 (char 0)",
        "g.json          unreadable: format_version: expected 1, got 2",
        "2 of 4 devices: release 2 (acc, abababab)",
        "1 of 4 devices: release 1 (acc, abababab)",
        "1 of 4 devices: nothing installed",
    ]
