"""The page of a fleet's benchmark runs: a row for each kind of device and bundle, and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmkd_report.documents.bench import read_bench
from mmkd_report.errors import DocumentError
from mmkd_report.pages.bench.charts import time_text
from mmkd_report.pages.bench.view import manner_text
from mmkd_report.pages.fleet.groups import Fleet, Group, fleet_of
from mmkd_report.pages.page import render_page
from mmkd_report.words.formats import NOTHING, count

MOST_FLEET_RUNS = 10_000
MOST_ALERTS = 200


def render_fleet(
    documents: Sequence[Mapping[str, Any]], *, names: Sequence[str], budget_ms: float | None = None
) -> str:
    """The page of many benchmark runs as HTML: one file without scripts or requests, for light, dark and paper.

    Args:
        documents: What `mmkd-bench run --json` printed, one per run.
        names: Of each run, as people know it: its file or its station.
        budget_ms: What 99 of 100 calls may take; None for no limit.

    Returns:
        The whole file. Equal documents give equal bytes.

    Raises:
        DocumentError: A document breaks its contract, or there is none, or more than a page can hold.
    """
    if not 1 <= len(documents) <= MOST_FLEET_RUNS:
        raise DocumentError(
            f"fleet page: expected 1 to {count(MOST_FLEET_RUNS)} documents, got {len(documents)}; choose some"
        )
    fleet = fleet_of([read_bench(document) for document in documents], names, budget_ms=budget_ms)
    devices = {(group.first.machine.name, group.first.machine.power_mode) for group in fleet.groups}
    return render_page(
        "fleet.html.j2",
        {
            "runs": len(documents),
            "kinds": len(devices),
            "bundles": len({group.first.subject.sha256 for group in fleet.groups}),
            "answer": _answer(fleet, budget_ms),
            "heads": ["Reports", "p50", "Slowest p50", "Largest p99", "Unsteady"]
            + ([] if budget_ms is None else ["Over budget"]),
            "rows": [_row(group) for group in fleet.groups],
            "alerts": fleet.alerts[:MOST_ALERTS],
            "alerts_left_out": max(0, len(fleet.alerts) - MOST_ALERTS),
            "members": [(_title(group), ", ".join(group.names)) for group in fleet.groups],
        },
    )


def _answer(fleet: Fleet, budget_ms: float | None) -> list[str]:
    found = []
    slowest = fleet.groups[0]
    if slowest.slowest is not None:
        found.append(f"The slowest are {_title(slowest)}: {time_text(slowest.p50_us)} at the median.")
    if budget_ms is not None:
        over = sum(group.over or 0 for group in fleet.groups)
        runs = sum(len(group.names) for group in fleet.groups)
        told = "All keep" if over == 0 else f"{count(over)} of {count(runs)} do not keep"
        found.append(f"{told} the budget of {budget_ms:g} ms for 99 of 100 calls.")
    return found or ["Too few samples to say: a median needs eleven calls."]


def _title(group: Group) -> str:
    machine, subject = group.first.machine, group.first.subject
    mode = f" in {machine.power_mode}" if machine.power_mode else ""
    return f"{machine.name}{mode} with {subject.bundle} ({subject.sha256[:8]})"


def _row(group: Group) -> tuple[str, str, tuple[str, ...]]:
    """Title, manner, and the figures under the heads of the table."""
    slowest = NOTHING if group.slowest is None else f"{time_text(group.slowest[1])}, {group.slowest[0]}"
    figures = [
        count(len(group.names)),
        time_text(group.p50_us),
        slowest,
        time_text(group.p99_us),
        count(group.unsteady),
    ]
    return _title(group), manner_text(group.first), (*figures, *([] if group.over is None else [count(group.over)]))
