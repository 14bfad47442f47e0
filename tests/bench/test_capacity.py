from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mmkd_bench import capacity
from mmkd_bench.capacity import Question, launch_s, measure_capacity
from mmkd_bench.commands.cli import main
from mmkd_bench.commands.sheets import make_sheet, render_sheet
from mmkd_bench.measuring.opening import Choice
from mmkd_edge.errors import UsageError
from mmkd_edge.machine import usable_cores
from mmkd_report.schema.bench import CapacityReport


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "MIN_LAUNCH_S", 0.3)
    monkeypatch.setattr(capacity, "MAX_LAUNCH_S", 0.3)


@pytest.mark.usefixtures("short")
def test_a_light_load_is_carried(bundle: Path) -> None:
    lines: list[str] = []
    question = Question(rate_hz=20.0, deadline_ms=5000.0, streams=4)
    report = measure_capacity(Choice(bundle=str(bundle), backend="ort"), question, progress=lines.append)
    assert lines == ["4 streams for 0.3 s"] * 3
    assert len(report.launches) == 3  # all carried it: two more could not change that
    assert report.at_answer is not None
    assert report.at_answer.due == sum(level.due for level in report.launches)
    assert report.streams == 4
    assert report.at_answer is not None
    assert report.at_answer.missed == 0
    assert report.idle_cores is not None
    assert report.idle_cores > 0
    assert (report.servers, report.deadline_ms, report.backend) == (usable_cores(), 5000.0, "ort")
    assert launch_s(20, rate_hz=50.0) == pytest.approx(0.3)


@pytest.mark.usefixtures("short")
def test_a_load_far_beyond_the_device_is_not_carried(slow_bundle: Path) -> None:
    report = measure_capacity(Choice(bundle=str(slow_bundle)), Question(rate_hz=100.0, streams=5000))
    assert report.streams == 0
    assert report.deadline_ms == 10.0  # the period
    assert report.at_answer is not None
    assert report.at_answer.missed > 0


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question(rate_hz=0.0), "rate: expected a number above 0, got 0"),
        (Question(rate_hz=1.0, deadline_ms=-2.0), "deadline-ms: expected a number above 0, got -2"),
        (Question(rate_hz=1.0, streams=0), "streams: expected a whole number from 1 to 1000000, got 0"),
    ],
)
def test_questions_that_make_no_sense_are_refused(bundle: Path, question: Question, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        measure_capacity(Choice(bundle=str(bundle)), question)
    assert str(caught.value) == message


@pytest.mark.slow
def test_the_answer_agrees_with_a_direct_load(slow_bundle: Path) -> None:
    # A deadline of a tenth of a second: what else runs on a shared machine must not decide the answer.
    choice, question = Choice(bundle=str(slow_bundle)), Question(rate_hz=10.0, deadline_ms=100.0)
    report = measure_capacity(choice, question)
    assert report.streams > 0
    assert report.at_answer is not None
    assert report.at_answer.streams == report.streams
    assert (report.at_answer.response.value_us(0.999) or 1e9) <= 100_000

    assert report.refused is not None
    assert report.refused.streams <= 1.05 * report.streams + 1

    def carried(streams: int) -> bool:
        return measure_capacity(choice, replace(question, streams=streams)).streams == streams

    assert carried(round(0.9 * report.streams))
    assert not carried(round(1.1 * report.streams))


@pytest.mark.usefixtures("short")
def test_what_ran_beside_it_is_named(bundle: Path) -> None:
    with spinning():
        question = Question(rate_hz=20.0, deadline_ms=5000.0, streams=1)
        report = measure_capacity(Choice(bundle=str(bundle), backend="ort"), question)
    (sentence,) = [one for one in report.disturbances if one.startswith("other processes used ")]
    assert f"at the same time: {sentence}" in printed(report)


@contextmanager
def spinning() -> Iterator[None]:
    """A busy neighbour."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def printed(report: CapacityReport) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(render_sheet(make_sheet(report)))
    return console.export_text()


@pytest.mark.usefixtures("short")
def test_a_device_that_carries_not_even_one_stream_exits_5(
    slow_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["capacity", str(slow_bundle), "--rate", "20", "--deadline-ms", "0.01"]
    monkeypatch.setattr(sys, "argv", ["mmkd-bench", *arguments, "--backend", "ort"])
    with pytest.raises(SystemExit) as caught:
        main()
    ended = capsys.readouterr()
    assert caught.value.code == 5
    assert "within 0.01 ms: not carried" in " ".join(ended.out.split())
    assert ended.err.splitlines()[-1].startswith(f"mmkd-bench: {slow_bundle}: 1 stream not carried: ")
    assert ended.err.splitlines()[-1].endswith(" windows missed the deadline of 0.01 ms")
