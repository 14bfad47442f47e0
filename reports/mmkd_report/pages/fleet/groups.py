"""Runs of many devices, grouped by what device they ran on and what was run, and held against a budget.

A report names no station: nothing in it identifies the machine. Its file does, so that runs come with names.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mmkd_report.documents.bench import BenchReport

BUDGET_QUANTILE = 0.99
"""A budget is kept where 99 of 100 calls keep it."""


@dataclass(frozen=True, kw_only=True)
class Alert:
    """What is wrong with one run. `over_budget` says that it is its latency, or that too few calls tell it."""

    name: str
    device: str
    text: str
    over_budget: bool


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs of one kind of device with one bundle, asked in one manner.

    Attributes:
        first: the first of its runs: what all of them share is read from it.
        names: of its runs.
        p50_us: the median of the runs' medians; None where no run has enough calls for one.
        slowest: name of the run with the largest median, and that median.
        p99_us: the largest of the runs' p99; None where no run has enough calls for one.
        over: how many runs are over the budget; None without one.
        unsteady: how many are unstable or incomplete.
    """

    first: BenchReport
    names: tuple[str, ...]
    p50_us: float | None
    slowest: tuple[str, float] | None
    p99_us: float | None
    over: int | None
    unsteady: int


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """All groups, the slowest first, and all that is wrong."""

    groups: tuple[Group, ...]
    alerts: tuple[Alert, ...]


def fleet_of(runs: Sequence[BenchReport], names: Sequence[str], *, budget_ms: float | None) -> Fleet:
    """Group runs, and say what is wrong.

    Args:
        runs: of any devices and bundles.
        names: of each, as people know it.
        budget_ms: what 99 of 100 calls may take; None for no limit.
    """
    together: dict[tuple[object, ...], list[tuple[str, BenchReport]]] = {}
    for name, run in zip(names, runs, strict=True):
        together.setdefault(_kind(run), []).append((name, run))
    groups = [_group(members, budget_ms) for members in together.values()]
    groups.sort(key=lambda group: -(group.p50_us or 0.0))
    alerts = [alert for name, run in zip(names, runs, strict=True) for alert in _alerts(name, run, budget_ms)]
    return Fleet(groups=tuple(groups), alerts=tuple(sorted(alerts, key=lambda alert: not alert.over_budget)))


def _kind(run: BenchReport) -> tuple[object, ...]:
    """What is the same in all runs of a group: the device, the bundle's bytes, and how it was asked."""
    how = run.configuration
    asked = (how.backend, how.precision, how.threads, how.clients, how.batch, how.hop, how.rate_hz, how.jitter)
    return (run.machine.name, run.machine.power_mode, run.subject.sha256, run.subject.model, *asked)


def _group(members: Sequence[tuple[str, BenchReport]], budget_ms: float | None) -> Group:
    medians = [(value, name) for name, run in members if (value := run.result.latency.value_us(0.5)) is not None]
    tails = [value for _, run in members if (value := run.result.latency.value_us(BUDGET_QUANTILE)) is not None]
    slowest = max(medians, default=None)
    over = None if budget_ms is None else sum(_over(run, budget_ms) is not None for _, run in members)
    return Group(
        first=members[0][1],
        names=tuple(name for name, _ in members),
        p50_us=statistics.median(value for value, _ in medians) if medians else None,
        slowest=None if slowest is None else (slowest[1], slowest[0]),
        p99_us=max(tails, default=None),
        over=over,
        unsteady=sum(not _steady(run) for _, run in members),
    )


def _over(run: BenchReport, budget_ms: float) -> str | None:
    """How a run breaks the budget; None where it keeps it."""
    p99_us = run.result.latency.value_us(BUDGET_QUANTILE)
    if p99_us is None:
        return f"{run.result.latency.count} calls are too few to tell whether 99 of 100 keep {budget_ms:g} ms"
    if p99_us > 1e3 * budget_ms:
        return f"99 of 100 calls take up to {p99_us / 1e3:.3g} ms, the budget is {budget_ms:g} ms"
    return None


def _steady(run: BenchReport) -> bool:
    return run.complete and run.stability.stable


def _alerts(name: str, run: BenchReport, budget_ms: float | None) -> list[Alert]:
    device, found = run.machine.name, []
    if budget_ms is not None and (text := _over(run, budget_ms)) is not None:
        found.append(Alert(name=name, device=device, text=text, over_budget=True))
    pace = run.result.pace
    if pace is not None and pace.missed:
        text = f"{pace.missed} of {pace.response.count} deadlines missed"
        found.append(Alert(name=name, device=device, text=text, over_budget=False))
    if not _steady(run):
        why = "; ".join(run.stability.findings) if run.complete else "interrupted"
        found.append(Alert(name=name, device=device, text=f"unstable: {why}", over_budget=False))
    return found
