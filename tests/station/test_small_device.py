"""A small device: a user who is not root, 256 MB of memory, no home; systemd's watchdog."""

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge import ModalitySpec, example_bundle
from mmkd_edge.testing import fake_predictor
from mmkd_station.intake import Delivery
from mmkd_station.service import Service
from tests.station.rig import ENVIRONMENT, MMKD_RUN, feed, next_record, station_of, until

NOBODY, LIMIT_BYTES = 65534, 256 << 20
MMKD_EDGE = [sys.executable, "-c", "from mmkd_app.commands.edge import main; main()"]
# Nobody may read what root installed, wherever that is, and write nothing of it.
READS = ("--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search")
AS_NOBODY = ("setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", *READS, "--no-new-privs")


def limit_memory():
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))


class Device:
    """A folder of a user who is not root, and processes that may have 256 MB."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = ENVIRONMENT | {"HOME": "/nonexistent", "TMPDIR": str(folder), "OPENBLAS_NUM_THREADS": "1"}
        self.environment.pop("XDG_CACHE_HOME", None)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)

    def start(self, *words):
        line = [str(word) for word in (*(AS_NOBODY if os.geteuid() == 0 else ()), *words)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        options = {"cwd": self.folder, "env": self.environment, "preexec_fn": limit_memory, "text": True}
        return subprocess.Popen(line, **pipes, **options)

    def run(self, *words):
        output, errors = (child := self.start(*words)).communicate(timeout=60)
        return child.returncode, output, errors


@pytest.fixture
def device(tmp_path):
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("needs setpriv of util-linux")
    folder = tmp_path / "device"
    folder.mkdir()
    return Device(folder)


def samples(count, start=0):
    times = np.arange(start, start + count)
    values = np.stack([times / 50, np.sin(times), np.cos(times), np.sin(3 * times)], axis=1)
    return "".join(",".join(f"{value:.4f}" for value in row) + "\n" for row in values)


@pytest.mark.parametrize("backend", ["native", pytest.param("ort", marks=pytest.mark.slow)])
def test_a_user_who_is_not_root_installs_runs_and_swaps_in_256_megabytes(device, backend):
    code, _, errors = device.run(*MMKD_EDGE, "install", example_bundle(), "state", "--backend", backend)
    assert (code, errors) == (0, "")
    child = device.start(
        *MMKD_RUN, "state", "--source", "stdin", "--sink", "-", "--sink", "jsonl:all.jsonl", "--store", "store",
        "--monitor", "127.0.0.1:0", "--keep-uncertain", "10MB", "--silence", "60", "--backend", backend,
    )  # fmt: skip
    feed(child, "time,ax,ay,az\n" + samples(400))
    assert next_record(child.stdout, kind="result", status="ok")["modality"] == "acc"
    code, _, errors = device.run(*MMKD_EDGE, "install", example_bundle(), "state", "--backend", backend)
    assert (code, errors) == (0, "")
    child.send_signal(signal.SIGHUP)
    assert next_record(child.stdout, kind="state")["state"] == "swapped"
    feed(child, samples(400, start=400))
    assert next_record(child.stdout, kind="result", status="ok")["number"] > 10
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{child.pid}/status").read_text())
    assert int(peak[1]) << 10 < LIMIT_BYTES
    child.stdin.close()
    child.wait(timeout=60)
    errors = child.stderr.read()
    for pipe in (child.stdout, child.stderr):
        pipe.close()
    assert child.returncode == 0, errors


def test_what_a_user_may_not_write_is_said(device, tmp_path):
    (tmp_path / "others").mkdir(mode=0o755)
    place = tmp_path / "others" if os.geteuid() == 0 else "/proc"
    (device.folder / "log.csv").write_text("time,ax,ay,az\n" + samples(400))
    run = (*MMKD_RUN, example_bundle(), "--source", "csv:log.csv")
    denied = "permission denied; choose a path that this user may use"
    for options, told in {
        ("--sink", f"jsonl:{place}/all.jsonl"): f"{place}/all.jsonl: cannot write it: {denied}",
        ("--store", f"{place}/store"): f"{place}/store: expected a folder for records that wait: {denied}",
    }.items():
        assert device.run(*run, *options) == (2, "", f"mmkd-run: {told}\n")


@pytest.fixture
def systemd(monkeypatch):
    """The end of a notify socket that systemd reads, in the abstract name space, and a watchdog of 0.4 s."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0mmkd-{os.getpid()}")
        listening.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@mmkd-{os.getpid()}")
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        yield listening


def signs_of_life(listening, *, within_s):
    """How many come within a time, after what waits already."""
    listening.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            listening.recv(4096)
    time.sleep(within_s)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while listening.recv(4096).startswith(b"WATCHDOG=1\nSTATUS="):
            count += 1
    listening.settimeout(30)
    return count


class Fed:
    """A live source of 20 samples each time that it is told."""

    live = True

    def __init__(self):
        self.told = threading.Semaphore(0)

    def deliveries(self, intake):
        while not intake.stop.is_set():
            if self.told.acquire(timeout=0.05):
                yield Delivery(rows=np.ones((20, 1), np.float32), times=None, arrived_s=time.monotonic(), waited=True)

    def close(self):
        pass


@contextlib.contextmanager
def served(answer):
    """A service with a station of one sensor, whose engine is `answer`."""
    source, stop = Fed(), threading.Event()
    modality = ModalitySpec(name="acc", channels=("x",), rate_hz=100.0, samples=20)
    station = station_of(fake_predictor(answer, modality=modality, labels=("a", "b")), source)
    service = Service(stations=[station], outlets=[], predictors=[])
    thread = threading.Thread(target=service.run, kwargs={"stop": stop, "reload": threading.Event()}, daemon=True)
    thread.start()
    try:
        yield source, station
    finally:
        stop.set()
        thread.join(20)


def test_systemd_hears_nothing_while_an_engine_hangs_and_hears_again_after_it(systemd):
    is_hung, let_go = threading.Event(), threading.Event()

    def engine(feeds):
        if is_hung.is_set():
            let_go.wait(20)
        return [0.25, 0.75]

    with served(engine) as (source, station):
        assert systemd.recv(4096) == b"READY=1"
        source.told.release()
        until(lambda: station.facts().results)
        assert signs_of_life(systemd, within_s=0.5) >= 2  # a silent sensor is no hanging engine
        is_hung.set()
        source.told.release()
        time.sleep(0.4)
        assert signs_of_life(systemd, within_s=0.5) == 0
        let_go.set()
        until(lambda: sum(station.facts().results.values()) >= 2)
        assert signs_of_life(systemd, within_s=0.5) >= 2


def test_a_systemd_that_does_not_read_or_is_gone_holds_up_no_answer_and_no_end(systemd):
    with contextlib.suppress(BlockingIOError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        while True:  # until its queue is full
            other.sendto(b"", f"\0mmkd-{os.getpid()}")
    with served([0.25, 0.75]) as (source, station):
        for count in (1, 2):
            source.told.release()
            until(lambda count=count: sum(station.facts().results.values()) >= count, within_s=5)
            systemd.close()
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 5
