"""A small device: a user who is not root, 256 MB of memory, no home; systemd's watchdog."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge import example_bundle
from tests.station.rig import ENVIRONMENT, MMKD_RUN, feed, next_record

NOBODY, LIMIT_BYTES = 65534, 256 << 20
MMKD_EDGE = [sys.executable, "-c", "from mmkd_edge.commands.edge import main; main()"]
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
