"""Return on investment: from detected faults and assumptions to each option's net present value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import UsageError
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.gains import MIN_GROUPS, draw_groups, interval_of
from mmkd_models.evaluation.suites.cost_model import (
    CostFile,
    evaluate_option,
    net_present_value,
    read_cost,
    values_to_enter,
)
from mmkd_models.evaluation.suites.inputs import Answers, ModelUnderTest, Suite, SuiteInputs, check_classes
from mmkd_models.metrics.likelihood import Floats
from mmkd_report.schema.cost import (
    EITHER_WAY,
    FRACTIONS,
    WHOLE,
    Assumption,
    CostFacts,
    CostOption,
    Equipment,
    Mark,
    Plant,
    Swing,
    example_text,
)
from mmkd_report.schema.judging import SuiteResult, SuiteTable

_DRAWS = 1000
_RATES = ("detection", "false_alarms")


@dataclass(frozen=True, kw_only=True, eq=False)
class Detection:
    """Counts of episodes or windows by group, (G,) each."""

    seen: Floats
    faults: Floats
    alarms: Floats
    healthy: Floats

    def rates(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return detection and false alarms (D,) with group weights (D, G); NaN without any."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (
                np.asarray((weights @ self.seen) / (weights @ self.faults)),
                np.asarray((weights @ self.alarms) / (weights @ self.healthy)),
            )


def check(inputs: SuiteInputs) -> None:
    """Raise UsageError as `check_cost`."""
    assert inputs.cost is not None
    check_cost(inputs.windows, inputs.cost)


def check_cost(windows: Windows, file: Path) -> None:
    """Raise UsageError for an invalid file, or windows whose faults cannot be counted."""
    check_classes(windows, "cost")
    faults_of(windows, healthy_labels(windows, read_cost(file)[0].healthy))


def run(inputs: SuiteInputs) -> SuiteResult:
    """Compute the figures of each option."""
    inputs.on_part("cost")
    return describe(evaluate_cost(inputs))


def describe(facts: CostFacts) -> SuiteResult:
    """Return verdict and tables."""
    example = f"{example_text(facts.to_enter)}. " if facts.to_enter else ""
    widest = [f"{swing.path} ({swing.at_low:,.0f} to {swing.at_high:,.0f})" for swing in facts.swings[:3]]
    notes = [f"healthy: {', '.join(facts.healthy)}; detection and false alarms are fractions of {facts.unit}"]
    notes += [f"largest effects on the net present value: {'; '.join(widest)}"] if widest else []
    return SuiteResult(
        title=f"Does it pay?{' An example' if example else ''}",
        lead=f"{example}In {facts.currency}, compared with doing nothing.",
        facts=facts,
        verdict=tuple(_verdict(facts)),
        tables=(_table(facts),),
        notes=tuple(notes),
    )


def evaluate_cost(inputs: SuiteInputs) -> CostFacts:
    """Compute results, ranges and swings."""
    assert inputs.cost is not None
    entered, paths = read_cost(inputs.cost)
    windows, plant = inputs.windows, entered.plant
    healthy = healthy_labels(windows, entered.healthy)
    detections = {
        option: detection_of(windows, model.answers(windows), healthy) for option, model in _models_of(inputs).items()
    }
    equipment: dict[CostOption, Equipment] = {}
    for option in get_args(CostOption):
        if (made := _equipment(entered, option, detections.get(option))) is not None:
            equipment[option] = made
    measured = {path: ends for path, ends in _measured_ranges(detections, inputs.seed).items() if path not in paths}
    assumptions = tuple(_assumptions(entered, equipment, paths, {**measured, **entered.ranges}))
    return CostFacts(
        currency=entered.currency,
        unit="windows" if windows.episodes is None else "episodes",
        healthy=healthy,
        plant=plant,
        equipment=equipment,
        assumptions=assumptions,
        results={name: evaluate_option(plant, option) for name, option in equipment.items()},
        swings=tuple(swings_of(plant, equipment, assumptions)),
        to_enter=values_to_enter(entered, paths, equipment),
    )


# --- faults that are detected -----------------------------------------------------------------------------------------


def healthy_labels(windows: Windows, names: Sequence[str]) -> tuple[str, ...]:
    """Return the labels without action. Raise UsageError for an unknown name, or if no fault is left."""
    labels = windows.spec.task.labels
    for name in names:
        if name not in labels:
            raise UsageError(f"--cost: 'healthy': expected labels of {', '.join(labels)}, got {name!r}; correct it")
    if names and set(names) == set(labels):
        raise UsageError("--cost: 'healthy': at least one label must need action; remove one")
    return tuple(names) or labels[:1]


def faults_of(windows: Windows, healthy: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return (N,) windows with a fault. Raise UsageError if all or none have one."""
    fault = ~np.isin(windows.labels, [windows.spec.task.labels.index(name) for name in healthy])
    if not fault.any() or fault.all():
        missing = "faults" if not fault.any() else "healthy windows"
        raise UsageError(
            f"--suite cost: the windows to judge have no {missing}; name other 'healthy' labels, or another --split"
        )
    return fault


def detection_of(windows: Windows, answers: Answers, healthy: Sequence[str]) -> Detection:
    """Count faults, detected faults and alarms by group, and by episode if known.

    An episode is a stretch of one class in a recording; it raises an alarm if most of its windows do.
    """
    fault = faults_of(windows, healthy)
    alarm = ~np.isin(answers.argmax(axis=1), [windows.spec.task.labels.index(name) for name in healthy])
    group = np.unique(windows.groups, return_inverse=True)[1]
    if windows.episodes is not None:
        order = np.lexsort((windows.rows if windows.times is None else windows.times, windows.episodes, group))
        keys = np.stack([group, windows.episodes, windows.labels])[:, order]
        episode = np.zeros(len(order), dtype=np.int64)
        episode[order[1:]] = np.cumsum((np.diff(keys, axis=1) != 0).any(axis=0))
        first = np.unique(episode, return_index=True)[1]
        alarm = np.bincount(episode, weights=alarm) * 2 > np.bincount(episode)
        fault, group = fault[first], group[first]
    seen, faults, alarms, fine = (
        np.bincount(group, weights=rows, minlength=int(group.max()) + 1).astype(np.float64)
        for rows in (fault & alarm, fault, ~fault & alarm, ~fault)
    )
    return Detection(seen=seen, faults=faults, alarms=alarms, healthy=fine)


def _models_of(inputs: SuiteInputs) -> dict[CostOption, ModelUnderTest]:
    models: dict[CostOption, ModelUnderTest] = {}
    for model in inputs.models:
        option: CostOption = "student"
        if model.facts.role == "teacher":
            option = "teacher"
        elif model.name == inputs.baseline or model.facts.role == "rival":
            option = "rival"
        models.setdefault(option, model)
    return models


def _equipment(entered: CostFile, option: CostOption, detection: Detection | None) -> Equipment | None:
    section = getattr(entered, option)
    if section is None:
        return None
    values = msgspec.to_builtins(section)
    if detection is not None:
        measured = detection.rates(np.ones((1, len(detection.faults))))
        for key, rate in zip(_RATES, measured, strict=True):
            values[key] = float(rate[0]) if values[key] is None else values[key]
    return None if values["detection"] is None or values["false_alarms"] is None else Equipment(**values)


def _measured_ranges(detections: Mapping[CostOption, Detection], seed: int) -> dict[str, tuple[float, float]]:
    ranges: dict[str, tuple[float, float]] = {}
    for option, detection in detections.items():
        groups = len(detection.faults)
        if groups >= MIN_GROUPS:
            weights = draw_groups(groups, np.random.default_rng(seed), _DRAWS).astype(np.float64)
            for key, rates in zip(_RATES, detection.rates(weights), strict=True):
                ranges[f"{option}.{key}"] = interval_of(rates)
    return ranges


# --- assumptions and what they decide ---------------------------------------------------------------------------------


def _assumptions(
    entered: CostFile,
    equipment: Mapping[CostOption, Equipment],
    paths: frozenset[str],
    ranges: Mapping[str, tuple[float, float]],
) -> Iterator[Assumption]:
    for section, values in (("plant", entered.plant), *equipment.items()):
        for key, value in msgspec.to_builtins(values).items():
            path = f"{section}.{key}"
            mark: Mark = "entered" if path in paths else "measured" if key in _RATES else "default"
            assumption = assume(path, float(value), mark)
            if path in ranges:
                low, high = ranges[path]
                assumption = msgspec.structs.replace(assumption, low=low, high=high, follows=False)
            yield assumption


def assume(path: str, value: float, mark: Mark) -> Assumption:
    """Return an assumption with the default range."""
    key = path.partition(".")[2]
    reach = 0.0 if key in WHOLE else EITHER_WAY
    high = value * (1 + reach)
    return Assumption(
        path=path,
        value=value,
        mark=mark,
        low=value * (1 - reach),
        high=min(1.0, high) if key in FRACTIONS else high,
        follows=True,
    )


def swings_of(
    plant: Plant, equipment: Mapping[CostOption, Equipment], assumptions: Sequence[Assumption]
) -> list[Swing]:
    """Return the tornado of the student, or the first option, widest first.

    `templates/cost.js` has the same; a test compares them.
    """
    if not equipment:
        return []
    name: CostOption = "student" if "student" in equipment else next(iter(equipment))
    swings = []
    for assumption in assumptions:
        section, _, key = assumption.path.partition(".")
        if assumption.low < assumption.high and section in ("plant", name):
            low, high = (
                net_present_value(msgspec.structs.replace(plant, **{key: end}), equipment[name])
                if section == "plant"
                else net_present_value(plant, msgspec.structs.replace(equipment[name], **{key: end}))
                for end in (assumption.low, assumption.high)
            )
            if low != high:
                swings.append(Swing(path=assumption.path, at_low=low, at_high=high))
    return sorted(swings, key=lambda swing: -abs(swing.at_high - swing.at_low))


# --- table and verdict ------------------------------------------------------------------------------------------------


def _table(facts: CostFacts) -> SuiteTable:
    rows = []
    for name, result in facts.results.items():
        sums = [f"{value:,.0f}" for value in (result.investment, result.yearly, result.net_present_value)]
        ends = ["never" if end is None else str(end) for end in (result.payback_month, result.break_even_stations)]
        option = facts.equipment[name]
        rates = [f"{option.detection:.1%}", f"{option.false_alarms:.2%}"]
        rows.append((name, *sums, *ends, f"{result.cost_per_station_year:,.0f}", *rates))
    return SuiteTable(
        caption=f"{'Example, not a verdict: costs' if facts.to_enter else 'Costs'} and gains in {facts.currency}",
        heads=(
            "all stations with",
            "investment",
            "gain per year",
            "net present value",
            "payback month",
            "break-even stations",
            "cost per station and year",
            "detection",
            "false alarms",
        ),
        rows=tuple(rows),
    )


def _verdict(facts: CostFacts) -> Iterator[str]:
    if not facts.results:
        yield "Whether it pays is unknown: no option has both a section in the file and a detection rate"
        return
    if facts.to_enter:
        yield example_text(facts.to_enter)
        return
    best = max(facts.results, key=lambda name: facts.results[name].net_present_value)
    result, currency = facts.results[best], facts.currency
    value = round(result.net_present_value)
    if value <= 0:
        yield f"Do not invest on these assumptions: the best option, {best}, has a net present value of {value:,} "
        f"{currency}"
    else:
        month = "" if result.payback_month is None else f", pays back in month {result.payback_month}"
        yield (
            f"On these assumptions {best} is the best option: {value:,} {currency} in {facts.plant.years:g} "
            f"years{month}, break-even at {result.break_even_stations} stations"
        )
    defaults = sum(assumption.mark == "default" for assumption in facts.assumptions)
    if defaults:
        yield f"{defaults} of {len(facts.assumptions)} assumptions are defaults: enter your own before you decide"


SUITE = Suite(check=check, run=run, needs="cost")
