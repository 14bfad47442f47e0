"""The last good bundle answers: on a full or read-only disk, and where an installed bundle was damaged."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge import Bundle, BundleError, EdgePredictor, UsageError
from mmkd_edge.install.slots import read_slots
from tests.edge.install.conftest import HELD, conditions, returned
from tests.edge.said import said

# Runs in a mount namespace of its own, on a small disk. Prints one JSON line for each thing that it saw.
ON_A_DISK = """
import json, subprocess, sys
from pathlib import Path
import numpy as np
from mmkd_edge import Bundle, EdgePredictor, MmkdError
from mmkd_edge.install.slots import install, read_slots, rollback, start

disk, old, new = map(Path, sys.argv[1:4])
state = disk / "state"

def started():
    try:
        with EdgePredictor.open(state, backend="ort") as predictor:
            predictor.predict(np.zeros((20, 3)))
            print(json.dumps([predictor.bundle.manifest.release, predictor.health().returned]))
    except MmkdError as error:
        print(json.dumps([type(error).__name__, str(error)]))

def fill():
    with (disk / "full").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass

def conditions():
    slots = read_slots(state)
    print(json.dumps([[slot.release, slot.condition] for slot in (slots.current, slots.previous)]))

def whole(path):
    Bundle.open(path).close()

install(state, old, prove=whole)
started()
install(state, new, prove=whole)
"""


def on_a_small_disk(script, releases, tmp_path):
    """What a script printed in a namespace where a folder is a disk of half a megabyte, and its log."""
    disk = tmp_path / "disk"
    disk.mkdir(exist_ok=True)
    mount = 'mount -t tmpfs -o size=512k tmpfs "$1" && shift && exec "$@"'
    words = [disk, sys.executable, "-c", ON_A_DISK + script, disk, releases[1], releases[2]]
    program = ["unshare", "-rm", "bash", "-c", mount, "-", *map(str, words)]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    if not ended.stdout and ("unshare" in ended.stderr or "mount" in ended.stderr):
        pytest.skip("needs user namespaces")
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr


def install_and_start_both(put, state):
    for number in (1, 2):
        put(number)
        EdgePredictor.open(state, backend="ort").close()
    return read_slots(state)


def test_a_disk_that_fills_up_after_an_installation_stops_neither_a_start_nor_a_rollback(releases, tmp_path):
    script = "fill(); started(); conditions(); rollback(state); conditions(); started(); rollback(state); started()"
    seen, log = on_a_small_disk(script, releases, tmp_path)
    rolled_back = [[1, "good"], [2, "rolled back"]]
    assert seen == [[1, ""], [2, ""], [[2, "good"], [1, "good"]], rolled_back, [1, ""], [2, ""]]
    assert log == ""


def test_on_a_full_disk_the_bundle_before_answers_where_the_first_start_does_not_end_or_fails(releases, tmp_path):
    script = """
fill()
lines = "import os, sys, pathlib", "from mmkd_edge.install.slots import start"
code = "\\n".join((*lines, "with start(pathlib.Path(sys.argv[1])): os._exit(9)"))
subprocess.run([sys.executable, "-c", code, state])
started()
rollback(state)
read_slots(state).current.path(state).write_bytes(b"")
started()
"""
    seen, log = on_a_small_disk(script, releases, tmp_path)
    assert [release for release, _ in seen] == [1, 1, 1]
    assert seen[1][1].endswith(" failed: its first start did not end")
    assert seen[2][1].endswith(": expected a bundle written by mmkd-export, got an empty file")
    assert log.count("\n") == 2
    assert all(returned in log for _, returned in seen[1:])


@pytest.mark.parametrize("disk", ["full", "read-only"])
def test_where_nothing_can_be_recorded_each_start_finds_out_by_itself(disk, releases, tmp_path):
    closed = {
        "full": "(state / 'reserve').unlink(); fill()",
        "read-only": "subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)",
    }[disk]
    seen, log = on_a_small_disk(f"{closed}; started()", releases, tmp_path)
    assert seen == [[1, ""], [2, ""]]
    assert "; this start goes on without a record of it\n" in log

    damage = "read_slots(state).current.path(state).write_bytes(b'')"
    seen, log = on_a_small_disk(f"{damage}; {closed}; started(); started(); conditions()", releases, tmp_path)
    assert [release for release, _ in seen[:3]] == [1, 1, 1]
    assert seen[1] == seen[2]
    assert seen[2][1].endswith(": expected a bundle written by mmkd-export, got an empty file")
    assert seen[3] == [[2, "new"], [1, "good"]]


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, None])
def test_where_a_good_bundle_was_damaged_or_is_gone_the_one_before_answers_with_one_log_line_and_a_note(
    place, state, put, caplog
):
    slots = install_and_start_both(put, state)
    assert conditions(slots) == [(2, "good"), (1, "good")]
    path = slots.current.path(state)
    path.unlink() if place is None else flip(path, place)
    with pytest.raises((BundleError, UsageError)) as damage:
        Bundle.open(path)
    with caplog.at_level(logging.INFO, "mmkd_edge"), EdgePredictor.open(state, backend="ort") as predictor:
        assert predictor.predict(np.zeros((20, 3))).status == "ok"
        assert predictor.bundle.manifest.release == 1
        info, note = predictor.info(), predictor.health().returned
    assert info.sandbox_check == returned(slots, str(damage.value)) == f"{HELD}; {note}"
    assert caplog.messages == [f"{state}: {note}"]
    assert conditions(read_slots(state)) == [(1, "good"), (2, "failed")]


def test_where_both_are_damaged_the_error_names_both(state, put):
    slots = install_and_start_both(put, state)
    one, two = slots.previous.path(state), slots.current.path(state)
    for path in (one, two):
        path.write_bytes(b"")
    assert said(BundleError, lambda: EdgePredictor.open(state)) == (
        f"{two}: expected a bundle written by mmkd-export, got an empty file; the bundle before cannot answer either: "
        f"{one}: expected a bundle written by mmkd-export, got an empty file"
    )


LOOP, LARGE = "too many levels of symbolic links", "expected at most 1048576 bytes, got more"
NOT_READ = {
    "dangling": (lambda path: path.symlink_to("nowhere"), "no such file or directory; check the path"),
    "loop": (lambda path: path.symlink_to(path), f"{LOOP}; a link of the path leads back to itself; correct it"),
    "folder": (Path.mkdir, "it is no regular file"),
    "large": (lambda path: path.write_bytes(bytes((1 << 20) + 1)), f"{LARGE}; remove comments"),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_where_the_list_of_revoked_keys_cannot_be_read_nothing_opens_and_no_bundle_is_blamed(
    name, state, releases, put, tmp_path
):
    pytest.importorskip("cryptography")
    from mmkd_edge.install.keys import make_keys

    keys = tmp_path / "keys"
    keys.mkdir(mode=0o755)
    make_keys(keys / "key")
    make, reason = NOT_READ[name]
    make(keys / "revoked.txt")
    put(1, 2)
    before = (state / "slots.json").read_bytes()
    for path in (releases[1], state):
        told = f"{keys / 'revoked.txt'}: the list of revoked keys cannot be read, so no bundle is opened: {reason}"
        assert said(UsageError, EdgePredictor.open, path, backend="ort", keys=keys) == told
    assert (state / "slots.json").read_bytes() == before
