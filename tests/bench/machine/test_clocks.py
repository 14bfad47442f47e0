from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmkd_bench.machine.facts import parse_jetson_clocks, read_clocks
from mmkd_report.schema.bench import Clocks

RECORDED = Path(__file__).parents[1] / "recorded"


def _recorded(name: str) -> str:
    return (RECORDED / f"jetson_clocks_{name}.txt").read_text()


def test_clocks_that_may_move_are_named_with_their_limits() -> None:
    found = parse_jetson_clocks(_recorded("jp6_orin_nano_free"))
    assert found is not None
    assert found.source == "jetson_clocks"
    assert found.moving == (
        *(f"cpu{number} 730 to 1344 MHz" for number in range(6)),
        "GPU 306 to 918 MHz",
        "EMC 204 to 3199 MHz",
    )


def test_held_clocks_are_those_with_one_limit_and_memory_that_is_overridden() -> None:
    assert parse_jetson_clocks(_recorded("jp6_orin_nano_held")) == Clocks(source="jetson_clocks", moving=())


def test_an_older_format_is_read_too() -> None:
    found = parse_jetson_clocks(_recorded("jp4_nano"))
    assert found is not None
    assert found.moving[-2:] == ("GPU 77 to 922 MHz", "EMC 204 to 1600 MHz")
    assert len(found.moving) == 6


def test_a_core_that_is_off_does_not_move() -> None:
    text = "cpu4: Online=0 Governor=schedutil MinFreq=729600 MaxFreq=1344000 CurrentFreq=0 IdleStates: WFI=1\n"
    assert parse_jetson_clocks(text + "GPU MinFreq=5 MaxFreq=5 CurrentFreq=5\n") == Clocks(
        source="jetson_clocks", moving=()
    )


def test_what_names_no_clock_says_nothing() -> None:
    assert parse_jetson_clocks("Error: please run as root\n") is None


def _tree(root: Path, limits: dict[str, tuple[int, int]]) -> None:
    for core, (low, high) in limits.items():
        folder = root / "sys/devices/system/cpu" / core / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_min_freq").write_text(f"{low}\n")
        (folder / "scaling_max_freq").write_text(f"{high}\n")


def test_without_the_tool_the_kernel_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _tree(tmp_path, {"cpu0": (800_000, 3_000_000), "cpu1": (2_000_000, 2_000_000)})
    gpu = tmp_path / "sys/class/devfreq/17000000.gpu"
    gpu.mkdir(parents=True)
    (gpu / "min_freq").write_text("306000000\n")
    (gpu / "max_freq").write_text("918000000\n")
    assert read_clocks(tmp_path) == Clocks(source="kernel", moving=("cpu0 800 to 3000 MHz", "GPU 306 to 918 MHz"))


def test_a_machine_that_shows_no_clock_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_clocks(tmp_path) is None


def test_a_tool_that_is_denied_leaves_it_to_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/jetson_clocks"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'Error: run as root' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    _tree(tmp_path, {"cpu0": (1_000_000, 1_000_000)})
    assert read_clocks(tmp_path) == Clocks(source="kernel", moving=())


def test_the_tool_is_asked_where_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "jetson_clocks"
    program.write_text(f'#!/bin/sh\n[ "$1" = --show ] && cat {RECORDED}/jetson_clocks_jp6_orin_nano_held.txt\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert read_clocks(tmp_path) == Clocks(source="jetson_clocks", moving=())
