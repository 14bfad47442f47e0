"""Run twenty stations for hours while `mmkd-run` is killed, its bundle swapped, its broker restarted, its disk full.

    python benchmarks/checks/endurance.py FOLDER --hours 2
    python benchmarks/checks/endurance.py FOLDER --hours 0.01 --stations 3 --every-s 6

Stations read a moving sensor from a mosquitto that this script starts, and write to a file, a webhook and the broker,
with a store in FOLDER. Every `--every-s` seconds comes the next fault; a disk is full for a third of that time (by a
limit of the size of files). Prints Markdown: memory, open files and threads after each, and at the end whether every
record is in the file and at the webhook, once or more and unchanged, without a gap. Exit code 4 if not.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from checks.script import head, row, script_parser
from mmkd_edge import example_bundle
from mmkd_edge.errors import UnavailableError

FAULTS = ("kill", "swap", "broker restarts", "disk full", "none")
BLOCK_S, RATE_HZ = 0.2, 50
Names = dict[tuple[str, str, int], int]  # station, boot and number of a record, and the checksum of its content


class Arrivals:
    """Records that arrived, by name."""

    def __init__(self) -> None:
        self.names: Names = {}
        self.repeats = self.changed = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Note a record."""
        name = record["station"], record["boot"], record["number"]
        content = zlib.crc32(json.dumps(record, sort_keys=True).encode())
        self.repeats += name in self.names
        self.changed += self.names.setdefault(name, content) != content


def main() -> None:
    """Run the stations with their faults, and print what was measured."""
    parser = script_parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the store and the records; emptied")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--stations", type=int, default=20)
    parser.add_argument("--every-s", type=float, default=60.0, help="time between two faults")
    options = parser.parse_args()
    with Plant(options.folder, options.stations) as plant:
        print(head("minutes", "RSS, MB", "files", "threads", "records", "fault"))
        began_s = time.monotonic()
        for fault in itertools.cycle(FAULTS):
            is_last = time.monotonic() - began_s > 3600 * options.hours
            plant.break_by("none" if is_last else fault, options.every_s)
            facts = plant.process_facts()
            print(row(f"{(time.monotonic() - began_s) / 60:.1f}", *facts, "end" if is_last else fault), flush=True)
            if is_last:
                break
        plant.stop()
        sys.exit(plant.report())


class Plant:
    """A broker, sensors, a webhook and `mmkd-run`, in a folder."""

    def __init__(self, folder: Path, stations: int) -> None:
        self._folder = folder
        self._names = [f"station {number}" for number in range(1, stations + 1)]
        self._port = _free_port()
        self._posted = Arrivals()
        self._is_over = threading.Event()
        self._rest = contextlib.ExitStack()

    def __enter__(self) -> Plant:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        (self._folder / "broker.conf").write_text(f"listener {self._port} 127.0.0.1\nallow_anonymous true\n")
        self._start_broker()
        self._rest.callback(self._end_broker)
        hook = self._rest.enter_context(_webhook(self._posted))
        self._write_stations(hook)
        sensors = threading.Thread(target=self._move)
        sensors.start()
        self._rest.callback(sensors.join)
        self._rest.callback(self._is_over.set)
        self._start_run()
        return self

    def __exit__(self, *_: object) -> None:
        self._run.kill()
        self._run.wait()
        self._rest.close()

    def break_by(self, fault: str, seconds: float) -> None:
        """Apply a fault, and wait."""
        end_s = time.monotonic() + seconds
        match fault:
            case "kill":
                self._run.kill()
                self._run.wait()
                self._start_run()
            case "swap":
                self._replace_bundle()
                self._run.send_signal(signal.SIGHUP)
            case "broker restarts":
                self._end_broker()
                time.sleep(seconds / 10)
                self._start_broker()
            case "disk full":
                self._limit_files(1)
                time.sleep(seconds / 3)
                self._limit_files(resource.RLIM_INFINITY)
        time.sleep(max(0.0, end_s - time.monotonic()))
        if self._run.poll() is not None:
            raise SystemExit(f"the stations ended by themselves: {(self._folder / 'log').read_text()[-2000:]}")

    def process_facts(self) -> list[str]:
        """Return the memory in MB, open files, threads and records so far."""
        folder = Path(f"/proc/{self._run.pid}")
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        files = len(list((folder / "fd").iterdir()))
        memory_mb = int(status["VmRSS"].split()[0]) / 1000
        return [f"{memory_mb:.1f}", str(files), status["Threads"].strip(), f"{len(self._posted.names):,}"]

    def stop(self) -> None:
        """End `mmkd-run`, which writes what waits."""
        self._run.terminate()
        self._run.wait(60)

    def report(self) -> int:
        """Print what arrived; return the exit code."""
        written = Arrivals()
        for line in (self._folder / "all.jsonl").read_bytes().splitlines():
            written.add(json.loads(line))
        union = written.names | self._posted.names
        numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
        for station, boot, number in union:
            numbers[station, boot].append(number)
        gaps = sum(max(found) - len(found) for found in numbers.values())
        print("\n" + head("sink", "records", "missing", "changed", "repeats"))
        bad = gaps
        for name, arrivals in {"jsonl": written, "webhook": self._posted}.items():
            missing = len(union) - len(arrivals.names)
            changed = arrivals.changed + sum(union[key] != content for key, content in arrivals.names.items())
            bad += missing + changed
            print(row(name, f"{len(arrivals.names):,}", str(missing), str(changed), f"{arrivals.repeats:,}"))
        print(f"\n{len(self._names)} stations, {len(numbers)} starts of a station, {gaps} gaps")
        return 4 if bad or len({station for station, _ in numbers}) < len(self._names) else 0

    def _start_broker(self) -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
        if program is None:
            raise UnavailableError("mosquitto: expected this broker, got none; install it")
        quiet = subprocess.DEVNULL
        self._broker = subprocess.Popen([program, "-c", self._folder / "broker.conf"], stdout=quiet, stderr=quiet)

    def _end_broker(self) -> None:
        self._broker.kill()
        self._broker.wait()

    def _start_run(self) -> None:
        code = "from mmkd_app.commands.run import main; main()"
        with (self._folder / "log").open("ab") as log:
            self._run = subprocess.Popen(
                [sys.executable, "-c", code, "stations.toml"], cwd=self._folder, stdout=log, stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def _write_stations(self, hook: str) -> None:
        self._replace_bundle()
        broker = f"mqtt://127.0.0.1:{self._port}"
        sinks = ["jsonl:all.jsonl", f"webhook:http://{hook}/", f"{broker}/answers"]
        text = f'store = "store"\nsinks = {json.dumps(sinks)}\n'
        for name in self._names:
            text += f'\n[[stations]]\nname = "{name}"\nbundle = "student.edge"\nsource = "{broker}/{name}"\nhop = 50\n'
        (self._folder / "stations.toml").write_text(text)

    def _replace_bundle(self) -> None:
        copy = self._folder / "next.edge"
        shutil.copyfile(example_bundle(), copy)
        copy.replace(self._folder / "student.edge")

    def _limit_files(self, size_bytes: int) -> None:
        resource.prlimit(self._run.pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))

    def _move(self) -> None:
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        client.reconnect_delay_set(1, 1)
        client.connect_async("127.0.0.1", self._port)
        client.loop_start()
        count = round(BLOCK_S * RATE_HZ)
        for block in itertools.count():
            if self._is_over.wait(BLOCK_S):
                break
            value = [round(0.1 * (block % 7), 1), 0.0, 0.1]
            payload = json.dumps([value] * count)
            for name in self._names:
                client.publish(name, payload, qos=0)
        client.disconnect()
        client.loop_stop()


@contextlib.contextmanager
def _webhook(arrivals: Arrivals) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            for record in json.loads(self.rfile.read(int(self.headers["Content-Length"]))):
                arrivals.add(record)
            with contextlib.suppress(OSError):  # whoever asked was killed
                self.send_response(200)
                self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
