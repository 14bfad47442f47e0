"""Ctrl-C: a run prints what was measured until then; every command exits 130."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmkd_bench.in_turn import measure_pair
from mmkd_bench.measuring.opening import Choice
from mmkd_bench.measuring.process import Interrupted
from mmkd_bench.run import measure_bundle
from mmkd_report.schema.bench import Settings

PROGRAM = "from mmkd_bench.commands.cli import main; main()"


def ctrl_c_at(start: str) -> Callable[[str], object]:
    """A progress that meets Ctrl-C when a line begins so."""

    def progress(line: str) -> object:
        if line.startswith(start):
            raise KeyboardInterrupt
        return line

    return progress


def test_a_run_keeps_the_launches_that_were_over(bundle: Path) -> None:
    choice, settings = Choice(bundle=str(bundle), backend="ort"), Settings(launches=4, duration_s=0.4)
    with pytest.raises(Interrupted) as caught:
        measure_bundle(choice, settings, energy=False, progress=ctrl_c_at("launch 2"))
    report = caught.value.report
    assert (report.complete, len(report.launches)) == (False, 1)
    assert report.result.latency.count == report.launches[0].latency.count


@pytest.mark.parametrize("launch", [1, 2])
def test_other_measurements_end_without_a_report(bundle: Path, launch: int) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        measure_pair(bundle, bundle, launches=3, duration_s=0.3, progress=ctrl_c_at(f"launch {launch}"))
    assert not isinstance(caught.value, Interrupted)


def test_a_comparison_that_is_interrupted_prints_nothing_and_exits_130(bundle: Path) -> None:
    line = ["compare", str(bundle), str(bundle), "--duration-s", "300", "--json"]
    command = [sys.executable, "-c", PROGRAM, *line]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("launch 1 of 3")
        process.send_signal(signal.SIGINT)
        output, rest = process.communicate(timeout=200)
    assert (process.returncode, output, rest) == (130, "", "mmkd-bench: interrupted\n")
