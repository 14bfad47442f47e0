from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from mmkd_bench.commands.app import make_app
from mmkd_report.schema.bench import (
    BenchReport,
    Clocks,
    Comparison,
    Configuration,
    Energy,
    Interference,
    LatencyHistogram,
    LatencySummary,
    MachineFacts,
    Pace,
    Percentile,
    ProcessStart,
    QuantityChange,
    Result,
    Settings,
    Stability,
    Stage,
    Subject,
    Temperature,
    TimeWindow,
    WarmUp,
)
from mmkd_report.schema.bench_others import (
    CapacityReport,
    Forecast,
    FramesReport,
    Level,
    MeasuredThroughput,
    OverheadReport,
    PairReport,
    PlanReport,
    RepeatSpread,
    RivalEngine,
    RivalsReport,
    SensorCost,
    TeacherReport,
)

DOCS = Path(__file__).parents[2] / "docs"
METHOD = (DOCS / "benchmark-method.md").read_text()
TYPES: tuple[type[msgspec.Struct], ...] = (
    BenchReport,
    Clocks,
    Configuration,
    Energy,
    LatencyHistogram,
    Interference,
    LatencySummary,
    ProcessStart,
    MachineFacts,
    Pace,
    Percentile,
    Result,
    Settings,
    Stability,
    Stage,
    Subject,
    Temperature,
    TimeWindow,
    WarmUp,
)


def test_every_field_of_a_report_is_in_its_table() -> None:
    table = METHOD[METHOD.index("## The report") : METHOD.index("## The other documents")]
    documented = set(re.findall(r"`(\w+)`", table))
    fields = {name for struct in TYPES for name in struct.__struct_fields__}
    assert fields - documented == set()


@pytest.mark.parametrize(
    ("command", "types"),
    [
        ("compare", (Comparison, QuantityChange)),
        ("pair", (PairReport,)),
        ("overhead", (OverheadReport,)),
        ("frames", (FramesReport,)),
        ("teacher", (TeacherReport, SensorCost)),
        ("rivals", (RivalsReport, RivalEngine)),
        ("capacity", (CapacityReport, Level)),
        ("plan", (PlanReport, MeasuredThroughput, Forecast)),
    ],
)
def test_every_field_of_another_document_is_in_its_row(command: str, types: tuple[type[msgspec.Struct], ...]) -> None:
    part = METHOD[METHOD.index("## The other documents") : METHOD.index("## What it does not do")]
    (row,) = re.findall(rf"^\| `{command}`, `([\w.]+)` \| (.*) \|$", part, flags=re.MULTILINE)
    assert row[0] == f"{types[0].__module__}.{types[0].__name__}"
    everywhere = {"format_version", "complete", "subject", "machine"}
    fields = {name for struct in types for name in struct.__struct_fields__} - everywhere
    assert fields - set(re.findall(r"`(\w+)`", row[1])) == set()
    assert types[0].__struct_defaults__[0] == 1  # the version that the text names
    msgspec.json.schema(types[0])


def test_the_words_for_a_spread_are_its_fields() -> None:
    sentence = re.search(r"A spread is (.*?)\.\n", METHOD)
    assert sentence is not None
    assert tuple(re.findall(r"`(\w+)`", sentence[1])) == RepeatSpread.__struct_fields__


def test_every_command_is_in_the_list() -> None:
    commands = {command.name for command in make_app().registered_commands}
    listed = set(re.findall(r"^mmkd-bench (\w+)", METHOD, flags=re.MULTILINE))
    assert commands == listed


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", METHOD):
        assert (DOCS / link).exists(), link
