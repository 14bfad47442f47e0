"""Whether one report is slower than another, beyond noise.

The interval is a percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13)
in two stages: launches, then time windows inside each. The median over launches ignores a disturbed one of five.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_documents.bench import BenchReport, Comparison, ProcessStart, QuantityChange, read_bench
from mmkd_documents.errors import DocumentError
from mmkd_edge.bundle.files import read_first
from mmkd_edge.errors import PerformanceError, UsageError

CONFIDENCE = 0.95
MIN_LAUNCHES = 5
_EXPECTED, _MAX_BYTES = "a report of 'mmkd-bench run -o'", 1 << 28
_RESAMPLES = 2000
SEED = 20211108
VERDICT_QUANTITIES = ("p50", "p90")
_VERDICT_LIMIT = 0.05
DEFAULT_CONDITIONS = "p50>+5%,p90>+5%"
_COMPETITION_MARGIN = 0.1  # demand in cores, beyond the machine's, from which processes compete
_CONDITION = re.compile(r"\s*(?P<quantity>[a-z0-9._]+)\s*(?P<sign>[<>])\s*(?P<percent>[+-]?[0-9]+(\.[0-9]+)?)\s*%\s*\Z")


@dataclass(frozen=True, kw_only=True)
class ComparisonLimit:
    """A change that fails the comparison; 0.05 is +5 %."""

    quantity: str
    sign: Literal["<", ">"]
    limit: float

    def __str__(self) -> str:
        return f"{self.quantity}{self.sign}{100 * self.limit:+.4g}%"


@dataclass(frozen=True, kw_only=True)
class _Quantity:
    """Values of a launch or its time windows; competition hardly moves a `robust` one."""

    unit: str
    in_launch: Callable[[ProcessStart], Sequence[float | None]]
    robust: bool = False


_QUANTITIES: dict[str, _Quantity] = {
    "p50": _Quantity(unit="µs", in_launch=lambda launch: [window.p50_us for window in launch.windows], robust=True),
    "p90": _Quantity(unit="µs", in_launch=lambda launch: [window.p90_us for window in launch.windows]),
    "p99": _Quantity(unit="µs", in_launch=lambda launch: (launch.latency.value_us(0.99),)),
    "throughput": _Quantity(unit="1/s", in_launch=lambda launch: (launch.throughput_hz,)),
    "rss": _Quantity(unit="MB", in_launch=lambda launch: (launch.rss_mb,), robust=True),
    "energy": _Quantity(unit="mJ", in_launch=lambda launch: (launch.above_idle_mj,)),
}


def parse_conditions(text: str) -> tuple[ComparisonLimit, ...]:
    """Parse conditions; raise UsageError for an invalid one or an unknown quantity.

    >>> [str(condition) for condition in parse_conditions("p90>+10%,throughput<-5%")]
    ['p90>+10%', 'throughput<-5%']
    """
    conditions = []
    for part in filter(None, map(str.strip, text.split(","))):
        match = _CONDITION.match(part)
        if match is None:
            raise UsageError(f"condition {part!r}: expected a form like 'p90>+10%' or 'throughput<-5%'")
        if match["quantity"] not in _QUANTITIES:
            names = ", ".join(_QUANTITIES)
            raise UsageError(f"condition {part!r}: unknown quantity {match['quantity']!r}; expected one of {names}")
        sign: Literal["<", ">"] = "<" if match["sign"] == "<" else ">"
        limit = float(match["percent"]) / 100
        conditions.append(ComparisonLimit(quantity=match["quantity"], sign=sign, limit=limit))
    return tuple(conditions)


def read_report(path: Path) -> BenchReport:
    """Read a report of `run`; raise UsageError with the path of a fault."""
    data = read_first(path, _MAX_BYTES, expected=_EXPECTED)
    try:
        return read_bench(msgspec.json.decode(data, type=dict))
    except (msgspec.MsgspecError, UnicodeDecodeError, DocumentError) as error:
        raise UsageError(f"{path}: expected {_EXPECTED}, cannot read it: {error}") from error


def compare(before: BenchReport, after: BenchReport, *, conditions: Sequence[ComparisonLimit]) -> Comparison:
    """Compare two runs; raise UsageError below five complete launches, or for a quantity that was not measured."""
    named = (("first", before), ("second", after))
    for name, report in named:
        complete = sum(launch.complete for launch in report.launches)
        if complete < MIN_LAUNCHES:
            raise UsageError(
                f"the {name} report: expected at least {MIN_LAUNCHES} complete launches, got {complete}; "
                f"run mmkd-bench run --launches {MIN_LAUNCHES} again"
            )
    unstable = [
        f"the {name} run was unstable: {'; '.join(report.stability.findings + report.stability.disturbances)}"
        for name, report in named
        if not report.stability.stable
    ]
    competing = [sentence for name, report in named if (sentence := _competition(name, report))]
    changes = {
        name: msgspec.structs.replace(_change(name, quantity, before, after), judged=quantity.robust or not competing)
        for name, quantity in _QUANTITIES.items()
    }
    failures = [_failure(condition, changes[condition.quantity]) for condition in conditions]
    return Comparison(
        verdict=_verdict([changes[name] for name in VERDICT_QUANTITIES]),
        changes=tuple(changes.values()),
        failed=tuple(filter(None, failures)),
        differences=_differences(before, after),
        remarks=(*unstable, *competing),
    )


def require_passed(comparison: Comparison) -> None:
    """Raise PerformanceError if a condition holds."""
    if comparison.failed:
        raise PerformanceError("the comparison failed: " + "; ".join(comparison.failed))


def _change(name: str, quantity: _Quantity, before: BenchReport, after: BenchReport) -> QuantityChange:
    first, second = _groups(quantity, before), _groups(quantity, after)
    start, end = (
        None if groups is None else float(np.median(list(map(np.median, groups)))) for groups in (first, second)
    )
    change = QuantityChange(
        quantity=name, unit=quantity.unit, before=start, after=end, change=None, low=None, high=None
    )
    if first is None or second is None or start is None or end is None or start <= 0:
        return change
    random = np.random.default_rng(SEED)
    after_resampled, before_resampled = _resample_medians(second, random), _resample_medians(first, random)
    if (before_resampled <= 0).any():
        return change  # energy above idle may be 0 or negative by noise: no ratio
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(after_resampled / before_resampled - 1, [tail, 1 - tail])
    return msgspec.structs.replace(change, change=end / start - 1, low=float(low), high=float(high))


def _groups(quantity: _Quantity, report: BenchReport) -> list[NDArray[np.float64]] | None:
    groups = [list(quantity.in_launch(launch)) for launch in report.launches if launch.complete]
    if any(value is None for group in groups for value in group):
        return None
    return [np.array(group, dtype=np.float64) for group in groups]


def _resample_medians(groups: Sequence[NDArray[np.float64]], random: np.random.Generator) -> NDArray[np.float64]:
    """Return the statistic (R,) of resampled launches and windows."""
    count = len(groups)
    drawn = random.integers(count, size=(_RESAMPLES, count))
    medians = np.empty((count, _RESAMPLES, count))
    for number, group in enumerate(groups):
        inside = random.integers(len(group), size=(_RESAMPLES, count, len(group)))
        medians[number] = np.median(group[inside], axis=2)
    picked = np.take_along_axis(medians, drawn[None], axis=0)[0]  # (R, L): launch drawn[r, l], as resampled for (r, l)
    return np.asarray(np.median(picked, axis=1))


def _verdict(changes: Sequence[QuantityChange]) -> Literal["equal", "slower", "faster"]:
    judged = [change for change in changes if change.judged]
    if any(change.low is not None and change.low > _VERDICT_LIMIT for change in judged):
        return "slower"
    if any(change.high is not None and change.high < -_VERDICT_LIMIT for change in judged):
        return "faster"
    return "equal"


def _failure(condition: ComparisonLimit, change: QuantityChange) -> str:
    if change.change is None:
        raise UsageError(
            f"condition '{condition}': {condition.quantity} was not measured in both reports, or is 0 in "
            "the first; leave the condition out, or measure longer and on a machine that shows it"
        )
    above = condition.sign == ">"
    nearest = change.change if change.low is None or change.high is None else (change.low if above else change.high)
    holds = nearest > condition.limit if above else nearest < condition.limit
    if not holds or not change.judged:
        return ""
    interval = "" if change.low is None else f" (95 % interval {change.low:+.1%} to {change.high:+.1%})"
    return f"{condition.quantity} changed by {change.change:+.1%}{interval}, which fails '{condition}'"


def _differences(before: BenchReport, after: BenchReport) -> tuple[str, ...]:
    def facts(report: BenchReport) -> dict[str, object]:
        how, machine = report.configuration, report.machine
        names = ("backend", "precision", "threads", "hop")
        return {
            "bundle": report.subject.sha256[:12],
            "model": report.subject.model,
            **{name: getattr(how, name) for name in names},
            "cpu": machine.cpu,
            "board": machine.board,
            "usable cores": machine.usable_cores,
            "governors": ", ".join(machine.governors),
            "moving clocks": "; ".join(machine.moving_clocks or ()),
            "GPUs": "; ".join(machine.gpus),
            "power mode": machine.power_mode,
            "system": machine.os,
            "python": machine.python,
        }

    first, second = facts(before), facts(after)
    libraries = sorted(before.machine.versions.keys() | after.machine.versions.keys())
    pairs = [
        *((name, first[name], second[name]) for name in first),
        *((name, before.machine.versions.get(name), after.machine.versions.get(name)) for name in libraries),
    ]
    return tuple(f"{name}: {old or 'none'} -> {new or 'none'}" for name, old, new in pairs if old != new)


def _competition(name: str, report: BenchReport) -> str:
    loads = [launch.interference for launch in report.launches if launch.complete]
    others = float(np.median([(load.others_cores or 0.0) + (load.steal_cores or 0.0) for load in loads]))
    if others + report.configuration.threads <= report.machine.cores + _COMPETITION_MARGIN:
        return ""
    judged = ", ".join(quantity for quantity, facts in _QUANTITIES.items() if facts.robust)
    used = f"{others:.2f} of {report.machine.cores} cores"
    return f"in the {name} run other processes used {used} and competed with it: only {judged} are judged"
