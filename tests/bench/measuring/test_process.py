import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil
import pytest

from mmkd_bench.measuring import process
from mmkd_bench.measuring.jobs import RunJob, RunOutcome
from mmkd_bench.measuring.launch import measure_launch
from mmkd_bench.measuring.opening import Choice
from mmkd_bench.measuring.process import run_launches
from mmkd_edge.errors import BackendError, UsageError
from mmkd_report.schema.bench import Settings
from tests.edge.said import said


def _job(bundle, *, duration_s=0.05):
    return RunJob(choice=Choice(bundle=str(bundle)), settings=Settings(launches=1, duration_s=duration_s))


def _interrupt_after(seconds):
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()


def test_a_job_gives_its_outcome_or_its_error(bundle, tmp_path):
    ended = run_launches(_job(bundle), RunOutcome, limit_s=60)
    assert not ended.interrupted
    assert ended.outcomes[0].launch.complete
    assert len(ended.samples[0]["latency_ns"]) == ended.outcomes[0].launch.latency.count > 0
    assert ended.outcomes[0].end_s - ended.outcomes[0].begin_s >= 0.05
    # Memory of a fresh process: this one carries pytest, onnx and hypothesis as well.
    assert ended.outcomes[0].launch.rss_mb < 150
    assert said(UsageError, lambda: run_launches(_job(tmp_path / "absent.edge"), RunOutcome, limit_s=60)) == (
        f"{tmp_path / 'absent.edge'}: expected a bundle written by mmkd-export, found no such file; check the path"
    )


def test_ctrl_c_brings_what_was_measured(bundle):
    for delay_s in (1.5, 5.0, 20.0):  # on a busy machine the process may need longer to begin
        _interrupt_after(delay_s)
        begin = time.monotonic()
        with suppress(KeyboardInterrupt):  # before anything was measured
            ended = run_launches(_job(bundle, duration_s=600.0), RunOutcome, limit_s=1000)
            break
        assert time.monotonic() - begin < 300
    assert ended.interrupted
    assert not ended.outcomes[0].launch.complete
    assert ended.outcomes[0].launch.latency.count == len(ended.samples[0]["latency_ns"])


def test_ctrl_c_before_anything_was_measured_brings_nothing(bundle, tmp_path, monkeypatch):
    lines = ["import signal, sys, time", "signal.signal(signal.SIGINT, lambda *_: sys.exit(0))", "time.sleep(60)"]
    (tmp_path / "leaves.py").write_text("\n".join(lines))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(process, "WORKER", "leaves")
    _interrupt_after(0.5)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_launches(_job(bundle), RunOutcome, limit_s=120)
    assert time.monotonic() - begin < 30


def test_a_measuring_process_does_not_outlive_the_command(bundle):
    code = "from mmkd_bench.commands.cli import main; main()"
    command = [sys.executable, "-c", code, "run", str(bundle), "--backend", "ort", "--launches", "1"]
    with subprocess.Popen([*command, "--duration-s", "300"], stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stderr is not None
        parent.stderr.readline()
        end_s = time.monotonic() + 60
        while not (children := psutil.Process(parent.pid).children()) and time.monotonic() < end_s:
            time.sleep(0.02)
        (child,) = children
        parent.kill()  # no handler runs
    child.wait(timeout=60)
    assert not child.is_running()


def test_a_process_that_dies_or_takes_too_long_is_told(bundle, tmp_path, monkeypatch):
    assert said(BackendError, lambda: run_launches(_job(bundle, duration_s=60.0), RunOutcome, limit_s=1.0)) == (
        "the measuring process did not end within 1 s before it had a result and printed nothing"
    )
    (tmp_path / "dies.py").write_text("import os, sys\nprint('out of luck', flush=True)\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(process, "WORKER", "dies")
    assert said(BackendError, lambda: run_launches(_job(bundle), RunOutcome, limit_s=60)) == (
        "the measuring process was ended by SIGABRT before it had a result; its last line: out of luck"
    )
    stop = threading.Event()
    stop.set()
    assert measure_launch(_job(bundle, duration_s=60.0), import_ms=0.0, stop=stop) is None
