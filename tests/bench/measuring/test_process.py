"""Measuring in another process, and under load."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import cycle
from threading import Event

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_bench.capacity import Demand, LoadJob, backlog_growth_ns, do_load_job, offer_load, run_threads, schedule_ns
from mmkd_bench.in_turn import OverheadJob, time_predict
from mmkd_bench.measuring import process
from mmkd_bench.measuring.opening import Choice, open_predictor, raw_windows
from mmkd_bench.measuring.process import MeasuringProcess, run_launches
from mmkd_bench.run import RunJob, RunOutcome, measure_bundle, measure_launch, stream_workload, window_workload
from mmkd_documents.bench import STAGES, Settings
from mmkd_edge.errors import BackendError, UsageError
from mmkd_edge.opening.options import OpenOptions
from tests.edge.said import said


def _job(bundle, *, duration_s=0.05):
    return RunJob(choice=Choice(bundle=str(bundle)), settings=Settings(launches=1, duration_s=duration_s))


def _interrupt_after(seconds):
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()


def test_a_job_gives_its_outcome_or_its_error(bundle, tmp_path):
    ended = run_launches(measure_launch, _job(bundle), RunOutcome, limit_s=60)
    assert not ended.interrupted
    assert ended.outcomes[0].launch.complete
    assert len(ended.samples[0]["latency_ns"]) == ended.outcomes[0].launch.latency.count > 0
    assert ended.outcomes[0].end_s - ended.outcomes[0].begin_s >= 0.05
    # Memory of a fresh process: this one carries pytest, onnx and hypothesis as well.
    assert ended.outcomes[0].launch.rss_mb < 150
    assert said(
        UsageError, lambda: run_launches(measure_launch, _job(tmp_path / "absent.edge"), RunOutcome, limit_s=60)
    ) == (f"{tmp_path / 'absent.edge'}: expected a bundle written by mmkd-export, found no such file; check the path")


def test_ctrl_c_brings_what_was_measured(bundle):
    for delay_s in (1.5, 5.0, 20.0):  # on a busy machine the process may need longer to begin
        _interrupt_after(delay_s)
        begin = time.monotonic()
        with suppress(KeyboardInterrupt):  # before anything was measured
            ended = run_launches(
                measure_launch, _job(bundle, duration_s=600.0), RunOutcome, limit_s=1000, is_partial=True
            )
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
        run_launches(measure_launch, _job(bundle), RunOutcome, limit_s=120)
    assert time.monotonic() - begin < 30


def test_a_measuring_process_does_not_outlive_the_command(bundle):
    code = "from mmkd_app.commands.bench import main; main()"
    command = [sys.executable, "-c", code, "run", str(bundle), "--backend", "ort", "--launches", "1"]
    with subprocess.Popen([*command, "--duration-s", "300"], stderr=subprocess.PIPE, text=True) as parent:
        parent.stderr.readline()
        end_s = time.monotonic() + 60
        while not (children := psutil.Process(parent.pid).children()) and time.monotonic() < end_s:
            time.sleep(0.02)
        (child,) = children
        parent.kill()  # no handler runs
    child.wait(timeout=60)
    assert not child.is_running()


def test_a_process_that_dies_or_takes_too_long_is_told(bundle, tmp_path, monkeypatch):
    assert said(
        BackendError, lambda: run_launches(measure_launch, _job(bundle, duration_s=60.0), RunOutcome, limit_s=1.0)
    ) == ("the measuring process did not end within 1 s before it had a result and printed nothing")
    (tmp_path / "dies.py").write_text("import os, sys\nprint('out of luck', flush=True)\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(process, "WORKER", "dies")
    assert said(BackendError, lambda: run_launches(measure_launch, _job(bundle), RunOutcome, limit_s=60)) == (
        "the measuring process was ended by SIGABRT before it had a result; its last line: out of luck"
    )
    stop = threading.Event()
    stop.set()
    assert measure_launch(_job(bundle, duration_s=60.0), MeasuringProcess(stop=stop)) is None


@given(st.integers(1, 50), st.floats(0.5, 200.0), st.floats(0.01, 3.0))
@settings(max_examples=40, deadline=None)
def test_every_stream_asks_at_its_rate(streams, rate_hz, duration_s):
    due_ns = schedule_ns(streams, rate_hz=rate_hz, duration_s=duration_s)
    assert (np.diff(due_ns) >= 0).all()
    assert len(due_ns) >= 1
    # Each stream has its phase in one period: within one window of rate times duration.
    assert abs(len(due_ns) - streams * rate_hz * duration_s) <= streams + 1
    if len(due_ns) > streams:
        # Windows of one stream are one period apart; nanoseconds are whole.
        np.testing.assert_allclose(due_ns[streams:] - due_ns[:-streams], 1e9 / rate_hz, atol=2)


def test_streams_do_not_agree_on_when_to_begin():
    gaps_ns = np.diff(schedule_ns(100, rate_hz=10.0, duration_s=0.1))
    assert gaps_ns.std() > 0.5 * gaps_ns.mean()


def test_more_than_the_servers_can_do_is_not_carried_and_is_given_up():
    # One server, 10 ms each: 100 a second, and 1000 come due.
    demand = Demand(rate_hz=100.0, deadline_ms=20.0, servers=1)
    begin = time.monotonic()
    level = offer_load(time.sleep, [0.01], streams=10, demand=demand, duration_s=0.3).level
    assert time.monotonic() - begin < 5
    assert not level.carried
    assert level.answered < level.due
    assert level.due - level.answered <= level.missed <= level.due


def test_a_response_counts_from_the_moment_a_window_came_due():
    # Two windows due at nearly the same time, one server: the second waits for the first.
    demand = Demand(rate_hz=1.0, deadline_ms=1000.0, servers=1)
    level = offer_load(time.sleep, [0.05], streams=8, demand=demand, duration_s=1.0).level
    due_ms = schedule_ns(8, rate_hz=1.0, duration_s=1.0) / 1e6
    closest_ms = np.diff(due_ms).min()
    assert closest_ms < 45
    assert level.response.max_us / 1e3 >= 100 - closest_ms


def test_servers_answer_at_the_same_time():
    inside, most, lock = 0, 0, threading.Lock()

    def call(_window):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.02)
        with lock:
            inside -= 1

    demand = Demand(rate_hz=100.0, deadline_ms=1000.0, servers=3)
    offer_load(call, [None], streams=4, demand=demand, duration_s=0.2)
    assert most == 3


def test_a_backlog_grows_by_the_rise_of_the_wait():
    # One server, 10 ms each: 100 a second, and 120 come due. After half a second the wait is 0.1 s of 10 allowed.
    demand = Demand(rate_hz=20.0, deadline_ms=10_000.0, servers=1)
    level = offer_load(time.sleep, [0.01], streams=6, demand=demand, duration_s=0.5).level
    assert level.missed == 0
    assert not level.carried
    wait_ns = np.arange(1000, dtype=np.int64) * 10
    # Medians of 0..99 and 900..999, times ten.
    assert backlog_growth_ns(wait_ns) == 9000.0
    assert backlog_growth_ns(np.array([5], dtype=np.int64)) == 0.0


def test_errors_are_raised_and_one_alone_runs_here():
    def call(_window):
        raise OSError("no sensor")

    demand = Demand(rate_hz=100.0, deadline_ms=10.0, servers=2)
    with pytest.raises(OSError, match="no sensor"):
        offer_load(call, [None], streams=1, demand=demand, duration_s=0.1)
    assert run_threads(lambda number: number + 5, 1, stop=Event()) == [5]
    assert run_threads(lambda number: number + 5, 3, stop=Event()) == [5, 6, 7]


@pytest.fixture(scope="module")
def predictor(bundle):
    return open_predictor(Choice(bundle=str(bundle), options=OpenOptions(backend="ort")))


def _calls(driver, count):
    return [driver.call(argument) for _, argument in zip(range(count), cycle(driver.arguments), strict=False)]


def _names(driver):
    return [stage.name for stage in driver.stages(0.02, Event())]


@pytest.mark.parametrize("hop", [1, 7, 8, 40, 41, 300])
def test_a_push_of_one_hop_gives_one_prediction(predictor, hop):
    found = _calls(stream_workload(predictor, raw_windows(predictor), hop=hop), 30)
    assert [len(predictions) for predictions in found] == [1] * 30
    assert all(predictions[0].index >= 0 for predictions in found)  # the window was full before the first


def test_a_hop_longer_than_all_recordings_is_filled_with_them(predictor):
    windows = raw_windows(predictor)[:1]
    driver = stream_workload(predictor, windows, hop=100)
    samples = driver.arguments[0]
    np.testing.assert_array_equal(samples, np.tile(windows[0], (3, 1))[:100])


@pytest.mark.usefixtures("launched_here")
def test_a_streaming_run_is_reported(bundle):
    settings = Settings(launches=1, duration_s=0.2, hop=8)
    report = measure_bundle(Choice(bundle=str(bundle)), settings, energy=False)
    assert report.configuration.hop == 8
    assert [stage.name for stage in report.result.stages] == ["gather", *STAGES]


def test_of_several_students_the_first_is_measured(several_bundle, predictor):
    windows = raw_windows(predictor)
    with open_predictor(Choice(bundle=str(several_bundle), options=OpenOptions(backend="ort"))) as several:
        expected = [predictor.predict(window).probabilities for window in windows]
        drivers = [window_workload(several, windows), stream_workload(several, windows, hop=40)]
        for driver in drivers:
            assert "run" in _names(driver)
        answers = [drivers[0].call(argument) for argument in drivers[0].arguments]
        for answer, wanted in zip(answers, expected, strict=True):
            np.testing.assert_array_equal(answer.probabilities, wanted)


def test_a_bundle_of_several_students_is_loaded_and_compared(several_bundle):
    choice = Choice(bundle=str(several_bundle), options=OpenOptions(backend="ort", precision="fp32", threads=1))
    demand = Demand(rate_hz=20.0, deadline_ms=5000.0, servers=1)
    job = LoadJob(choice=choice, demand=demand, streams=2, duration_s=0.2)
    assert do_load_job(job)[0].level.answered == 8
    session = Choice(bundle=choice.bundle, options=OpenOptions(backend="ort", precision="fp32", threads=1))
    overhead = OverheadJob(choice=session, is_session=True, threads=1, repeats=1, duration_s=0.05)
    assert time_predict(overhead).count >= 20
