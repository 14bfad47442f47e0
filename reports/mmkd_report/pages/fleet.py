"""The page of `mmkd-bench page --fleet`: runs by device and bundle, and problems."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmkd_report.errors import DocumentError
from mmkd_report.page import Block, Cell, Facts, Page, Row, Section, label, render, table
from mmkd_report.pages.bench import DOCUMENT, is_steady, manner_text
from mmkd_report.schema.bench import BenchReport, read_bench
from mmkd_report.words import NOTHING, count, count_noun, time_text

MAX_RUNS = 10_000
MAX_ALERTS = 200
BUDGET_QUANTILE = 0.99
"""A budget is kept if 99 of 100 calls keep it."""


@dataclass(frozen=True, kw_only=True)
class Alert:
    """A problem of one run; `over_budget` includes too few calls to judge."""

    name: str
    device: str
    text: str
    over_budget: bool


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs of one bundle on one kind of device, called in one manner.

    Attributes:
        p50_us: Median of the runs' medians; None if no run has enough calls.
        slowest: Run with the largest median, and that median.
        p99_us: Largest; None as above.
        over: Runs over the budget; None without a budget.
    """

    first: BenchReport
    names: Sequence[str]
    p50_us: float | None
    slowest: tuple[str, float] | None
    p99_us: float | None
    over: int | None
    unsteady: int

    @property
    def title(self) -> str:
        """Device and bundle."""
        machine, subject = self.first.machine, self.first.subject
        mode = f" in {machine.power_mode}" if machine.power_mode else ""
        return f"{machine.name}{mode} with {subject.bundle} ({subject.sha256[:8]})"


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Groups, the slowest first; alerts, those over the budget first."""

    groups: Sequence[Group]
    alerts: Sequence[Alert]


def group_fleet(runs: Sequence[BenchReport], names: Sequence[str], *, budget_ms: float | None) -> Fleet:
    """Group runs by device, bundle and manner, and list problems.

    `names` are files or stations; `budget_ms` limits 99 of 100 calls.
    """
    together: dict[tuple[object, ...], list[tuple[str, BenchReport]]] = {}
    alerts = []
    for name, run in zip(names, runs, strict=True):
        how = run.configuration
        manner = (how.backend, how.precision, how.threads, how.hop)
        key = (run.machine.name, run.machine.power_mode, run.subject.sha256, run.subject.model, *manner)
        together.setdefault(key, []).append((name, run))
        alerts += [
            Alert(name=name, device=run.machine.name, text=text, over_budget=over_budget)
            for text, over_budget in _problems(run, budget_ms)
        ]
    return Fleet(
        groups=sorted(
            (_group(group, budget_ms) for group in together.values()), key=lambda group: -(group.p50_us or 0.0)
        ),
        alerts=sorted(alerts, key=lambda alert: not alert.over_budget),
    )


def _group(members: Sequence[tuple[str, BenchReport]], budget_ms: float | None) -> Group:
    medians = [(value, name) for name, run in members if (value := run.result.latency.value_us(0.5)) is not None]
    tails = [value for _, run in members if (value := run.result.latency.value_us(BUDGET_QUANTILE)) is not None]
    slowest = max(medians, default=None)
    return Group(
        first=members[0][1],
        names=[name for name, _ in members],
        p50_us=statistics.median(value for value, _ in medians) if medians else None,
        slowest=None if slowest is None else (slowest[1], slowest[0]),
        p99_us=max(tails, default=None),
        over=None if budget_ms is None else sum(_over_budget(run, budget_ms) is not None for _, run in members),
        unsteady=sum(not is_steady(run) for _, run in members),
    )


def _over_budget(run: BenchReport, budget_ms: float) -> str | None:
    p99_us = run.result.latency.value_us(BUDGET_QUANTILE)
    if p99_us is None:
        return f"{run.result.latency.count} calls are too few to tell whether 99 of 100 keep {budget_ms:g} ms"
    if p99_us > 1e3 * budget_ms:
        return f"99 of 100 calls take up to {p99_us / 1e3:.3g} ms, the budget is {budget_ms:g} ms"
    return None


def _problems(run: BenchReport, budget_ms: float | None) -> Iterator[tuple[str, bool]]:
    if budget_ms is not None and (over := _over_budget(run, budget_ms)) is not None:
        yield over, True
    if not is_steady(run):
        yield f"unstable: {'; '.join(run.stability.findings) if run.complete else 'interrupted'}", False


def render_fleet(
    documents: Sequence[Mapping[str, Any]], *, names: Sequence[str], budget_ms: float | None = None
) -> str:
    """Return HTML; raise DocumentError for a broken document."""
    if not 1 <= len(documents) <= MAX_RUNS:
        raise DocumentError(f"fleet page: expected 1 to {count(MAX_RUNS)} documents, got {len(documents)}; choose some")
    fleet = group_fleet([read_bench(document) for document in documents], names, budget_ms=budget_ms)
    kinds = len({(group.first.machine.name, group.first.machine.power_mode) for group in fleet.groups})
    bundles = len({group.first.subject.sha256 for group in fleet.groups})
    members = [(group.title, ", ".join(group.names)) for group in fleet.groups]
    return render(
        Page(
            title=f"{count(len(documents))} runs of a fleet: benchmark",
            kind="benchmark",
            headline="How fast is the fleet?",
            lede=[
                count_noun(len(documents), "report"),
                f"of {count_noun(kinds, 'kind')} of device and {count_noun(bundles, 'bundle')}.",
            ],
            answer=_answer(fleet, budget_ms),
            sections=[
                _devices(fleet, budget_ms),
                Section("alerts", "Problems", list(_alerts(fleet))),
                Section("members", "Which reports", [Facts(members)]),
            ],
            document=DOCUMENT,
        )
    )


def _answer(fleet: Fleet, budget_ms: float | None) -> Iterator[str]:
    slowest = fleet.groups[0]
    if slowest.slowest is None:
        yield "Too few samples: a median needs eleven calls."
    else:
        yield f"The slowest are {slowest.title}: {time_text(slowest.p50_us)} at the median."
    if budget_ms is not None:
        over = sum(group.over or 0 for group in fleet.groups)
        runs = sum(len(group.names) for group in fleet.groups)
        yield f"{count(over)} of {count(runs)} exceed the budget of {budget_ms:g} ms for 99 of 100 calls."


def _devices(fleet: Fleet, budget_ms: float | None) -> Section:
    rows = []
    for group in fleet.groups:
        slowest = NOTHING if group.slowest is None else f"{time_text(group.slowest[1])}, {group.slowest[0]}"
        cells = [count(len(group.names)), time_text(group.p50_us), slowest, time_text(group.p99_us)]
        cells += [count(group.unsteady), *([] if group.over is None else [count(group.over)])]
        rows.append(Row([Cell(group.title, note=manner_text(group.first)), *cells]))
    heads = ["Device, bundle", "Reports", "p50", "Slowest p50", "Largest p99", "Unsteady"]
    heads += [] if budget_ms is None else ["Over budget"]
    caption = (
        "Runs of one kind of device with the same bundle, called in the same manner, share a row. p50 is the median of "
        "their medians."
    )
    return Section("devices", "By device and bundle", [table(heads, rows, caption=caption, style="results names")])


def _alerts(fleet: Fleet) -> Iterator[Block]:
    if not fleet.alerts:
        yield "None."
        return
    heads = [label(name) for name in ("Report", "Device", "Problem")]
    rows = [
        Row([alert.name, alert.device, alert.text], "student" if alert.over_budget else "")
        for alert in fleet.alerts[:MAX_ALERTS]
    ]
    yield table(heads, rows, caption="Problems, those over the budget first", style="compact", hide_caption=True)
    if len(fleet.alerts) > MAX_ALERTS:
        yield f"{count(len(fleet.alerts) - MAX_ALERTS)} more are left out."
