from __future__ import annotations

import re
from pathlib import Path

import msgspec

from mmkd_bench.commands_cli import make_app
from mmkd_bench.interference import Interference
from mmkd_bench.machine import Clocks, MachineFacts, Temperature
from mmkd_bench.percentiles import LatencySummary, Percentile
from mmkd_bench.report import (
    BenchReport,
    Configuration,
    Energy,
    Histogram,
    Launch,
    Pace,
    Result,
    Stability,
    Stage,
    Subject,
)
from mmkd_bench.timing import TimeWindow, WarmUp

DOCS = Path(__file__).parents[2] / "docs"
METHOD = (DOCS / "benchmark-method.md").read_text()
TYPES: tuple[type[msgspec.Struct], ...] = (
    BenchReport,
    Clocks,
    Configuration,
    Energy,
    Histogram,
    Interference,
    LatencySummary,
    Launch,
    MachineFacts,
    Pace,
    Percentile,
    Result,
    Stability,
    Stage,
    Subject,
    Temperature,
    TimeWindow,
    WarmUp,
)


def test_every_field_of_a_report_is_in_its_table() -> None:
    table = METHOD[METHOD.index("## The report") : METHOD.index("## What it does not do")]
    documented = set(re.findall(r"`(\w+)`", table))
    fields = {name for struct in TYPES for name in struct.__struct_fields__}
    assert fields - documented == set()


def test_every_command_is_in_the_list() -> None:
    commands = {command.name for command in make_app().registered_commands}
    listed = set(re.findall(r"^mmkd-bench (\w+)", METHOD, flags=re.MULTILINE))
    assert commands == listed


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", METHOD):
        assert (DOCS / link).exists(), link
