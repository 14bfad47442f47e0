from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from mmkd_bench import capacity
from mmkd_bench.capacity import Question, confirm_s, measure_capacity
from mmkd_bench.commands.cli import main
from mmkd_bench.measuring.opening import Choice
from mmkd_bench.sheets import make_sheet, render_sheet
from mmkd_bench.text import carried_text
from mmkd_edge.errors import UsageError
from mmkd_report.schema.bench import CapacityReport


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "CONFIRM_S", 0.3)
    monkeypatch.setattr(capacity, "MAX_CONFIRM_S", 0.3)


@pytest.mark.usefixtures("short")
def test_a_light_load_is_carried(bundle: Path) -> None:
    lines: list[str] = []
    question = Question(rate_hz=20.0, deadline_ms=5000.0, streams=4, servers=1, launches=3)
    report = measure_capacity(Choice(bundle=str(bundle), backend="ort"), question, progress=lines.append)
    assert lines == ["judging 4 streams in up to 3 launches of 0.3 s; at most 120 s left"]
    assert len(report.launches) == 2  # both carried it: the third could not change that
    assert report.at_answer is not None
    assert report.at_answer.due == sum(level.due for level in report.launches)
    assert report.streams == 4
    assert report.at_answer is not None
    assert report.at_answer.missed == 0
    assert report.idle_cores is not None
    assert report.idle_cores > 0
    assert (report.servers, report.deadline_ms, report.backend) == (1, 5000.0, "ort")


@pytest.mark.usefixtures("short")
def test_a_load_far_beyond_the_device_is_not_carried(slow_bundle: Path) -> None:
    report = measure_capacity(Choice(bundle=str(slow_bundle)), Question(rate_hz=100.0, streams=5000, launches=1))
    assert report.streams == 0
    assert report.deadline_ms == 10.0  # the period
    assert report.at_answer is not None
    assert report.at_answer.missed > 0


@pytest.mark.parametrize(
    ("streams", "seconds"),
    # 1.05 times 6636 windows at 50 a second and stream; at least 3 s, at most a minute.
    [(1, 60.0), (20, 6.9678), (1000, 3.0)],
)
def test_a_confirmation_is_long_enough_for_the_percentile_that_decides(streams: int, seconds: float) -> None:
    assert confirm_s(streams, rate_hz=50.0) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question(rate_hz=0.0), "rate: expected a number above 0, got 0"),
        (Question(rate_hz=1.0, deadline_ms=-2.0), "deadline-ms: expected a number above 0, got -2"),
        (Question(rate_hz=1.0, servers=0), "servers: expected a whole number from 1 to 256, got 0"),
        (Question(rate_hz=1.0, launches=4), "launches: expected an odd number from 1 to 99, got 4"),
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


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_a_budget_that_is_over_keeps_the_best_answer_and_says_so(bundle: Path) -> None:
    lines: list[str] = []
    question = Question(rate_hz=20.0, deadline_ms=5000.0, servers=1, launches=3, budget_s=2.0)
    report = measure_capacity(Choice(bundle=str(bundle), backend="ort"), question, progress=lines.append)
    assert (report.complete, report.settled, report.streams, report.budget_s) == (True, False, 0, 2.0)
    assert report.estimate is not None  # 0 where this machine was too busy for the first load
    first = max(1, report.estimate)
    assert lines[0] == "searching for the largest load that is carried, for up to 1 s; at most 2 s left"
    assert lines[1:] == [
        f"judging {first} {'stream' if first == 1 else 'streams'} in up to 3 launches of 0.2 s; at most 0 s left"
    ]
    known = f"; {report.estimate} streams in short loads that do not count" if report.estimate > 1 else ""
    assert carried_text(report).startswith(f"not known, the budget of 2 s was over{known}")
    # The first launch is always held, and lasts a tenth of the budget.
    judged = report.trials[-1]
    assert judged.due == pytest.approx(judged.streams * 20.0 * 0.2, rel=0.1)


def test_what_ran_beside_it_is_named(bundle: Path) -> None:
    with spinning():
        question = Question(rate_hz=20.0, deadline_ms=5000.0, streams=1, servers=1, launches=1, budget_s=5.0)
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


def test_one_stream_that_is_refused_is_one(bundle: Path) -> None:
    question = Question(rate_hz=20.0, deadline_ms=5000.0, streams=1, servers=1, launches=1, budget_s=2.0)
    report = measure_capacity(Choice(bundle=str(bundle), backend="ort"), question)
    refused = msgspec.structs.replace(report.trials[0], missed=1, due=4)
    lines = printed(msgspec.structs.replace(report, refused=refused)).splitlines()
    assert "1 stream was not carried: 25.00% missed" in lines
    assert "1 load tried, 1 thread answered" in lines
    refused = msgspec.structs.replace(refused, streams=2)
    assert "2 streams were not carried: 25.00% missed" in printed(msgspec.structs.replace(report, refused=refused))


@pytest.mark.usefixtures("short")
def test_a_device_that_carries_not_even_one_stream_exits_5(
    slow_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["capacity", str(slow_bundle), "--rate", "20", "--deadline-ms", "0.01", "--launches", "1"]
    monkeypatch.setattr(sys, "argv", ["mmkd-bench", *arguments, "--backend", "ort", "--budget-s", "8"])
    with pytest.raises(SystemExit) as caught:
        main()
    ended = capsys.readouterr()
    assert caught.value.code == 5
    assert "within 0.01 ms: not carried" in " ".join(ended.out.split())
    assert ended.err.splitlines()[-1].startswith(f"mmkd-bench: {slow_bundle}: 1 stream not carried: ")
    assert ended.err.splitlines()[-1].endswith(" windows missed the deadline of 0.01 ms")
