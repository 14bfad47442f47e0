"""The page of a fleet: rows by device and bundle, medians, the slowest, and alerts against a budget."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mmkd_report import DocumentError, render_fleet
from mmkd_report.pages.fleet import group_fleet
from mmkd_report.schema.bench import read_bench

Document = dict[str, Any]


def _bench() -> ModuleType:
    """The documents that the page of single runs is tested with."""
    path = Path(__file__).with_name("test_bench_page.py")
    spec = importlib.util.spec_from_file_location("bench_page_documents", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BENCH = _bench()


def run_of(p50_us: float, **changes: Any) -> Document:
    document: Document = BENCH.run_of(p50_us, **changes)
    return document


@pytest.fixture
def fleet() -> dict[str, Document]:
    """Three Orins, of which one is slow, one with another bundle, and a Pi that is interrupted and unstable."""
    other = copy.deepcopy(run_of(150.0))
    other["subject"] |= {"sha256": "cd" * 32, "bundle": "old.edge"}
    shaky = run_of(900.0, board="Raspberry Pi 5")
    shaky["stability"] |= {"stable": False, "findings": ["launches differ by 30 %"]}
    return {
        "a.json": run_of(200.0),
        "b.json": run_of(210.0),
        "c.json": run_of(400.0),
        "d.json": other,
        "pi.json": shaky,
    }


def test_runs_of_a_device_and_a_bundle_share_a_row(fleet: dict[str, Document]) -> None:
    found = group_fleet([read_bench(one) for one in fleet.values()], list(fleet), budget_ms=None)
    told = [(group.first.machine.name, group.names, group.p50_us, group.slowest) for group in found.groups]
    assert told == [
        ("Raspberry Pi 5", ["pi.json"], 900.0, ("pi.json", 900.0)),
        ("Orin Nano", ["a.json", "b.json", "c.json"], 210.0, ("c.json", 400.0)),
        ("Orin Nano", ["d.json"], 150.0, ("d.json", 150.0)),
    ]
    assert [group.p99_us for group in found.groups] == [1800.0, 800.0, 300.0]
    assert [group.unsteady for group in found.groups] == [1, 0, 0]
    assert [group.over for group in found.groups] == [None] * 3


def test_what_was_asked_in_another_manner_has_a_row_of_its_own(fleet: dict[str, Document]) -> None:
    fleet["b.json"]["configuration"] |= {"threads": 4}
    fleet["c.json"]["machine"] |= {"power_mode": "7W"}
    found = group_fleet([read_bench(one) for one in fleet.values()], list(fleet), budget_ms=None)
    assert sorted(group.names for group in found.groups) == [[name] for name in sorted(fleet)]


def test_a_budget_is_held_against_99_of_100_calls(fleet: dict[str, Document]) -> None:
    fleet["few.json"] = run_of(100.0, count=500)
    found = group_fleet([read_bench(one) for one in fleet.values()], list(fleet), budget_ms=0.5)
    told = [(one.name, one.device, one.text, one.over_budget) for one in found.alerts]
    assert told == [
        ("c.json", "Orin Nano", "99 of 100 calls take up to 0.8 ms, the budget is 0.5 ms", True),
        ("pi.json", "Raspberry Pi 5", "99 of 100 calls take up to 1.8 ms, the budget is 0.5 ms", True),
        ("few.json", "Orin Nano", "500 calls are too few to tell whether 99 of 100 keep 0.5 ms", True),
        ("pi.json", "Raspberry Pi 5", "unstable: launches differ by 30 %", False),
    ]
    assert [group.over for group in found.groups] == [1, 2, 0]


def test_the_page_says_it_all(fleet: dict[str, Document], parse: Any) -> None:
    page = parse(render_fleet(list(fleet.values()), names=list(fleet), budget_ms=0.5))
    sections = {one.attrs["aria-labelledby"]: one for one in page.all("section")}
    assert [one.text for one in sections["answer"].all("p")] == [
        "The slowest are Raspberry Pi 5 in 25W with student.edge (abababab): 900\u202fµs at the median.",
        "2 of 5 exceed the budget of 0.5 ms for 99 of 100 calls.",
    ]
    rows = [[cell.text for cell in row.all("td")] for row in sections["devices"].all("tr")[1:]]
    assert rows[1] == ["3", "210\u202fµs", "400\u202fµs, c.json", "800\u202fµs", "0", "1"]
    alerts = [[cell.text for cell in row.all("td")] for row in sections["alerts"].all("tr")[1:]]
    assert alerts[0] == ["Orin Nano", "99 of 100 calls take up to 0.8 ms, the budget is 0.5 ms"]
    assert "a.json, b.json, c.json" in sections["members"].text


def test_without_a_budget_there_is_no_column_for_it(fleet: dict[str, Document], parse: Any) -> None:
    text = render_fleet([fleet["a.json"]], names=["a.json"])
    assert "budget" not in text.lower()
    assert "None." in parse(text).text


def test_a_hostile_name_is_text(fleet: dict[str, Document]) -> None:
    text = render_fleet([fleet["a.json"]], names=[BENCH.HOSTILE])
    assert "<script>alert(1)" not in text


def test_a_thousand_reports_are_one_page(fleet: dict[str, Document]) -> None:
    documents = [fleet["a.json"]] * 1000
    text = render_fleet(documents, names=[f"station-{number}.json" for number in range(1000)], budget_ms=0.1)
    assert "800 more are left out." in text
    assert len(text) < 200_000


def test_no_report_is_refused() -> None:
    with pytest.raises(DocumentError) as caught:
        render_fleet([], names=[])
    assert str(caught.value) == "fleet page: expected 1 to 10\u202f000 documents, got 0; choose some"
