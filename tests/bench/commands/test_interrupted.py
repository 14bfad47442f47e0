"""Ctrl-C: every command prints what was measured until then and exits 130; nothing measured is nothing printed."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from mmkd_bench import capacity
from mmkd_bench.capacity import Question, measure_capacity
from mmkd_bench.in_turn import measure_overhead, measure_pair, measure_rivals
from mmkd_bench.measuring.jobs import Demand, LoadJob
from mmkd_bench.measuring.load import judge_level, search_load
from mmkd_bench.measuring.opening import Choice
from mmkd_bench.measuring.process import Interrupted
from mmkd_bench.run import measure_bundle
from mmkd_bench.show.sheets import Sentence, sheet_of
from mmkd_bench.show.text import carried_text
from mmkd_report.schema.bench import CapacityReport, Level, Settings

PROGRAM = "from mmkd_bench.commands.cli import main; main()"


def ctrl_c_at(start: str) -> Callable[[str], object]:
    """A progress that meets Ctrl-C when a line begins so."""

    def progress(line: str) -> object:
        if line.startswith(start):
            raise KeyboardInterrupt
        return line

    return progress


def partial_report(measure: Callable[[], object]) -> Any:
    with pytest.raises(Interrupted) as caught:
        measure()
    return caught.value.report


MEASUREMENTS: dict[str, Callable[[Path, Callable[[str], object]], object]] = {
    "pair": lambda path, progress: measure_pair(path, path, launches=3, duration_s=0.3, progress=progress),
    "overhead": lambda path, progress: measure_overhead(path, launches=3, duration_s=0.3, progress=progress),
    "rivals": lambda path, progress: measure_rivals(path, launches=3, duration_s=0.3, progress=progress),
}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_calls_in_turn_keep_the_launches_that_were_over(bundle: Path, name: str) -> None:
    report = partial_report(lambda: MEASUREMENTS[name](bundle, ctrl_c_at("launch 2 of 3")))
    assert not report.complete
    repeats = (
        report.rivals[0].p50_us.repeats
        if name == "rivals"
        else getattr(report, "ratio" if name == "pair" else "overhead_us").repeats
    )
    assert repeats == 5  # those of one launch
    assert sheet_of(report).parts[-1] == Sentence("interrupted: less was measured than asked for", "yellow")


def test_a_run_keeps_the_launches_that_were_over(bundle: Path) -> None:
    settings = Settings(launches=4, duration_s=0.4)
    run = partial_report(
        lambda: measure_bundle(
            Choice(bundle=str(bundle), backend="ort"), settings, energy=False, progress=ctrl_c_at("launch 2")
        )
    )
    assert (run.report.complete, len(run.report.launches)) == (False, 1)
    assert run.report.result.latency.count == len(run.samples["latency_ns"])


def test_before_the_first_launch_there_is_nothing_to_report(bundle: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        measure_pair(bundle, bundle, progress=ctrl_c_at("launch 1"))
    assert not isinstance(caught.value, Interrupted)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIRM_S", "MAX_CONFIRM_S"):
        monkeypatch.setattr(capacity, name, 0.2)


@pytest.mark.usefixtures("quick")
def test_a_load_keeps_the_launches_that_were_over(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[int] = []
    run_launches = capacity.run_launches

    def once(*arguments: Any, **options: Any) -> Any:
        if offered:
            raise KeyboardInterrupt
        offered.append(1)
        return run_launches(*arguments, **options)

    monkeypatch.setattr(capacity, "run_launches", once)
    question = Question(rate_hz=20.0, deadline_ms=5000.0, streams=3, servers=1)
    report: CapacityReport = partial_report(
        lambda: measure_capacity(Choice(bundle=str(bundle), backend="ort"), question)
    )
    assert (report.complete, report.streams, len(report.launches), len(report.trials)) == (False, 0, 1, 1)
    assert carried_text(report) == "not known, interrupted"


@pytest.mark.usefixtures("quick")
def test_capacity_keeps_its_trials_and_what_was_judged(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A search that offers one load only, without its minute; whether this machine carries it is not the question here.
    run_launches = capacity.run_launches

    def one_load(job: LoadJob, *rest: Any, **how: Any) -> Any:
        ended = run_launches(replace(job, streams=job.streams or 4), *rest, **how)
        levels = tuple(replace(level, carried=True) for level in ended.outcomes[0].levels)
        return dataclasses.replace(ended, outcomes=[replace(ended.outcomes[0], levels=levels)])

    monkeypatch.setattr(capacity, "run_launches", one_load)
    choice = Choice(bundle=str(bundle), backend="ort")
    question = Question(rate_hz=20.0, deadline_ms=5000.0, servers=1, launches=1)
    judged: list[str] = []

    def progress(line: str) -> object:
        if line.startswith("judging"):
            judged.append(line)
            if len(judged) == 2:
                raise KeyboardInterrupt
        return line

    report: CapacityReport = partial_report(lambda: measure_capacity(choice, question, progress=progress))
    assert judged[0].startswith("judging 4 streams in up to 1 launch of 0.2 s; at most 1")
    assert (report.complete, report.streams) == (False, 4)
    assert [level.streams for level in report.trials] == [4, 4]  # the search's, then the launch that judged
    assert carried_text(report) == "at least 4 streams, interrupted"


def test_a_short_load_that_is_cut_short_does_not_count() -> None:
    stop = Event()
    zeros = np.zeros(10, dtype=np.int64)
    level = judge_level(
        streams=1,
        demand=Demand(rate_hz=100.0, deadline_ms=50.0, servers=1),
        duration_s=0.1,
        due=10,
        response_ns=zeros,
        wait_ns=zeros,
        unanswered=0,
        cpu_cores=0.0,
    )
    assert level.carried

    def probe(streams: int) -> Level:
        if len(tried) == 3:
            stop.set()
        tried.append(streams)
        return level

    tried: list[int] = []
    found, levels = search_load(probe, first_guess=8, stop=stop)
    assert tried == [8, 8, 10, 10]
    assert (found, len(levels)) == (8, 3)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("compare", "{}", "{}", "--duration-s", "20", "--launches", "100"), "ratio"),
        (("overhead", "{}", "--duration-s", "20", "--launches", "100"), "overhead_us"),
    ],
)
def test_commands_print_what_there_is_and_exit_130(bundle: Path, arguments: tuple[str, ...], key: str) -> None:
    command = [sys.executable, "-c", PROGRAM, *(one.format(bundle) for one in arguments), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.readline()  # so the first of several measurements is over
        process.send_signal(signal.SIGINT)
        output, rest = process.communicate(timeout=120)
    assert process.returncode == 130, rest
    document = json.loads(output)
    assert (document["complete"], bool(document[key])) == (False, True)
    assert rest.splitlines()[-2:] == ["the report has what was measured until then", "mmkd-bench: interrupted"]
