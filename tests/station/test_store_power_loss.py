"""What a disk has of the store after power was lost: all that was flushed, and of the rest what it pleases.

The calls of a process with a store are recorded by strace. After each call some of the disks that could be left are
made and opened: any write that was not flushed may be missing, or be cut at a sector; a name whose folder was not
flushed may be absent.
"""

import ast
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmkd_station.outlet import Outlet
from mmkd_station.records import AlarmRecord
from mmkd_station.store import Store
from tests.station.rig import ENVIRONMENT, alarm, quick, state

STRACE = shutil.which("strace")
SECTOR = 512
# One sink takes records and says so, another never takes any, so all of them stay on the disk.
CHILD = """
import os, sys, time
from pathlib import Path
from mmkd_station.outlet import Outlet
from mmkd_station.store import Store
from tests.station.rig import alarm, quick, state
class Seen:
    def write(self, records):
        os.write(1, b"".join(b"SEEN %d " % record.number for record in records))
class Away:
    def write(self, records): raise ConnectionError
store = Store(Path(sys.argv[1]), most_bytes=10**9)
store.rows("PRAGMA wal_autocheckpoint = 6")
outlets = Outlet("seen", Seen(), store=store, backoff=quick), Outlet("away", Away(), store=store, backoff=quick)
for number in range(1, int(sys.argv[2]) + 1):
    store.put(alarm(number) if number % 5 == 0 else state(number), [outlet.queue for outlet in outlets])
    time.sleep(0.02)
time.sleep(0.5)
os._exit(0)
"""
CALL = re.compile(r"\d+ +(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<name>\w+)\((?P<given>.*))")
TEXT = re.compile(r'[<"]((?:\\x[0-9a-f]{2})*)[>"]')


class Disk:
    """Files below a folder, as flushed and with what was written since."""

    def __init__(self, root):
        self.root = root
        self.flushed: dict[str, bytes] = {}
        self.pending: dict[str, list[tuple[int, bytes | None]]] = {}  # place and data; None cuts the file there
        self.names: dict[str, str] = {}  # flushed, or made or deleted since its folder was flushed
        self.seen = 0

    def call(self, name, given, pid, waits):
        texts = [ast.literal_eval(f'b"{text}"') for text in TEXT.findall(given)]
        path = texts[name == "openat"].decode(errors="replace") if texts else ""
        if name == "write" and texts[-1].startswith(b"SEEN"):
            self.seen = int(texts[-1].split()[-1])
        elif not path.startswith(str(Path(self.root).parent)) or " = -1 " in given:
            return
        elif "sync" in name and "<unfinished" in given:
            waits[pid] = path
        elif "sync" in name:
            self.sync(path)
        elif name == "mkdir" or "O_CREAT" in given:
            self.names.setdefault(path, "made")
        elif name == "unlink":
            self.names[path] = "deleted"
        elif name in ("pwrite64", "ftruncate"):
            place = int(re.findall(r", (\d+)(?:\)| <)", given)[-1])
            self.pending.setdefault(path, []).append((place, texts[1] if name == "pwrite64" else None))

    def sync(self, path):
        for name in [name for name in self.names if str(Path(name).parent) == path]:
            if self.names[name] == "deleted":
                del self.names[name]
            else:
                self.names[name] = "flushed"
        if path in self.pending:
            self.flushed[path] = changed(self.flushed.get(path, b""), self.pending.pop(path))

    def left(self, dice, folder):
        """Make one of the disks that a loss of power could leave now."""
        chance = dice.choice((0.0, 0.5, 1.0))
        present = {name for name, state in self.names.items() if state == "flushed" or dice.random() < chance}
        for path in sorted(present, key=len):
            if path == self.root:
                (folder / "store").mkdir(parents=True)
            elif self.root in present and path.startswith(f"{self.root}/"):
                kept = [change for change in self.pending.get(path, ()) if dice.random() < chance]
                kept = [(place, cut(data, dice) if chance == 0.5 else data) for place, data in kept]
                (folder / "store" / Path(path).name).write_bytes(changed(self.flushed.get(path, b""), kept))
        return folder / "store"


def cut(data, dice):
    return None if data is None else data[: SECTOR * dice.randrange(len(data) // SECTOR + 1)] or data


def changed(content, changes):
    for place, data in changes:
        content = content[:place].ljust(place, b"\0") + (b"" if data is None else data + content[place + len(data) :])
    return content


def check(folder, seen):
    """What waits for the sink that takes none is all that the other has seen, whole and in order."""
    store = Store(folder, most_bytes=10**9)
    taken = []

    class Taking:
        def write(self, records):
            taken.extend(records)

        def close(self): ...

    outlet = Outlet("away", Taking(), store=store, backoff=quick)
    outlet.close()
    last = [record.number for record in store.last_alarms()]
    store.close()
    assert taken == [alarm(number) if number % 5 == 0 else state(number) for number in range(1, len(taken) + 1)]
    assert len(taken) >= seen
    assert last == [record.number for record in taken if isinstance(record, AlarmRecord)][-1:]
    assert not list(folder.glob("*.damaged"))


@pytest.mark.skipif(STRACE is None, reason="needs strace")
@pytest.mark.parametrize(("records", "most"), [(20, 60), pytest.param(200, 2000, marks=pytest.mark.slow)])
def test_no_loss_of_power_takes_a_record_that_a_sink_has_seen(records, most, tmp_path, record_property):
    root, trace, dice = tmp_path / "made" / "store", tmp_path / "trace", random.Random(records)
    calls = "trace=mkdir,openat,write,pwrite64,ftruncate,fsync,fdatasync,unlink,rename"
    command = [STRACE, "-f", "-y", "-xx", "-s", "1000000", "-e", calls, "-e", "signal=none", "-o", trace]
    ran = subprocess.run(
        [*command, sys.executable, "-c", CHILD, root, str(records)], env=ENVIRONMENT, capture_output=True
    )
    assert ran.returncode == 0, ran.stderr.decode()
    disk, waits, disks = Disk(str(root)), {}, 0
    lines = trace.read_text().splitlines()
    lines = lines[next(number for number, line in enumerate(lines) if "mkdir(" in line) :]
    for line in lines:
        call, pid = CALL.match(line), line.split()[0]
        if call and call["name"]:
            disk.call(call["name"], call["given"], pid, waits)
        elif call and pid in waits:
            disk.sync(waits.pop(pid))
        if dice.random() < most / len(lines):
            check(disk.left(dice, tmp_path / f"disk{disks}"), disk.seen)
            shutil.rmtree(tmp_path / f"disk{disks}", ignore_errors=True)
            disks += 1
    assert disk.seen == records
    record_property("disks", disks)
