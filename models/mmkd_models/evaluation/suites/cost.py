"""Each option's net present value, from detected faults and assumptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_documents.cost import Assumption, CostFacts, CostOption, Equipment, Mark, example_text
from mmkd_documents.judging import SuiteResult, SuiteTable
from mmkd_edge.errors import UsageError
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.gains import MIN_GROUPS, draw_groups, interval_of
from mmkd_models.evaluation.suites import cost_model
from mmkd_models.evaluation.suites.inputs import Answers, ModelUnderTest, Suite, SuiteInputs, check_classes
from mmkd_models.metrics.likelihood import Floats

_DRAWS = 1000
_EITHER_WAY = 0.3  # default range of a number: this fraction of it up and down
_MAX_VARIED = 12  # assumptions in the table that varies them
_RATES = ("detection", "false_alarms")


def check_cost(windows: Windows, file: Path) -> None:
    """Raise UsageError for an invalid file, or windows whose faults cannot be counted."""
    check_classes(windows, "cost")
    find_faults(windows, cost_model.read_cost(file)[0].healthy)


def run(inputs: SuiteInputs) -> SuiteResult:
    """Compute the figures of each option."""
    inputs.on_part("cost")
    return describe(evaluate_cost(inputs))


def evaluate_cost(inputs: SuiteInputs) -> CostFacts:
    """Measure detection, and compute results and the effect of each assumption."""
    assert inputs.cost is not None
    entered, paths = cost_model.read_cost(inputs.cost)
    windows, plant, models = inputs.windows, entered.plant, dict[CostOption, ModelUnderTest]()
    healthy, _ = find_faults(windows, entered.healthy)
    for model in inputs.models:
        is_rival = model.name == inputs.baseline or model.facts.role == "rival"
        models.setdefault("teacher" if model.facts.role == "teacher" else "rival" if is_rival else "student", model)
    equipment, ranges = dict[CostOption, Equipment](), dict(entered.ranges)
    for option in get_args(CostOption):
        section = getattr(entered, option)
        values = msgspec.to_builtins(section)
        if section is not None and option in models:
            counts = count_detection(windows, models[option].answers(windows), healthy)
            weights = np.ones((1, len(counts)))
            if len(counts) >= MIN_GROUPS:
                weights = np.concatenate(
                    [weights, draw_groups(len(counts), np.random.default_rng(inputs.seed), _DRAWS)]
                )
            for key, (rate, *drawn) in zip(_RATES, detection_rates(counts, weights).T, strict=True):
                values[key] = float(rate) if values[key] is None else values[key]
                if drawn and f"{option}.{key}" not in paths:
                    ranges.setdefault(f"{option}.{key}", interval_of(np.array(drawn)))
        if section is not None and values["detection"] is not None and values["false_alarms"] is not None:
            equipment[option] = Equipment(**values)
    return CostFacts(
        currency=entered.currency,
        unit="windows" if windows.episodes is None else "episodes",
        healthy=healthy,
        plant=plant,
        equipment=equipment,
        assumptions=tuple(_assumptions(entered, equipment, paths, ranges)),
        results={name: cost_model.evaluate_option(plant, option) for name, option in equipment.items()},
        to_enter=cost_model.values_to_enter(entered, paths, equipment),
    )


def find_faults(windows: Windows, names: Sequence[str]) -> tuple[tuple[str, ...], npt.NDArray[np.bool_]]:
    """Return labels without action, and (N,) faults. Raise UsageError for an unknown label, or no or only faults."""
    labels = windows.spec.task.labels
    healthy = tuple(names) or labels[:1]
    for name in healthy:
        if name not in labels:
            raise UsageError(f"--cost: 'healthy': expected labels of {', '.join(labels)}, got {name!r}; correct it")
    fault = ~np.isin(windows.labels, [labels.index(name) for name in healthy])
    if not fault.any() or fault.all():
        missing = "faults" if not fault.any() else "healthy windows"
        raise UsageError(
            f"--suite cost: the windows to judge have no {missing}; name other 'healthy' labels, or another --split"
        )
    return healthy, fault


def count_detection(windows: Windows, answers: Answers, healthy: Sequence[str]) -> Floats:
    """Count detected faults, faults, false alarms and healthy windows, (G, 4), by group, and by episode if known.

    An episode is a stretch of one class in a recording; it raises an alarm if most of its windows do.
    """
    _, fault = find_faults(windows, healthy)
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
    counts = np.zeros((int(group.max()) + 1, 4))
    np.add.at(counts, group, np.stack([fault & alarm, fault, ~fault & alarm, ~fault], axis=1).astype(np.float64))
    return counts


def detection_rates(counts: Floats, weights: Floats) -> Floats:
    """Return detection and false alarms (D, 2) with group weights (D, G); NaN without any."""
    sums = weights @ counts
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[:, ::2] / sums[:, 1::2])


def _assumptions(
    entered: cost_model.CostFile,
    equipment: Mapping[CostOption, Equipment],
    paths: frozenset[str],
    ranges: Mapping[str, tuple[float, float]],
) -> Iterator[Assumption]:
    plant, varied = entered.plant, "student" if "student" in equipment else next(iter(equipment), None)
    for section, values in (("plant", plant), *equipment.items()):
        for key, value in msgspec.to_builtins(values).items():
            path, reach = f"{section}.{key}", 0.0 if key in cost_model.WHOLE else _EITHER_WAY
            high = value * (1 + reach)
            low, high = ranges.get(path, (value * (1 - reach), min(1.0, high) if key in cost_model.FRACTIONS else high))
            at_ends: list[float | None] = [None, None]
            if low < high and varied is not None and section in ("plant", varied):
                option = equipment[varied]
                at_ends = [
                    cost_model.net_present_value(msgspec.structs.replace(plant, **{key: end}), option)
                    if section == "plant"
                    else cost_model.net_present_value(plant, msgspec.structs.replace(option, **{key: end}))
                    for end in (low, high)
                ]
            mark: Mark = "entered" if path in paths else "measured" if key in _RATES else "default"
            yield Assumption(
                path=path, value=float(value), mark=mark, low=low, high=high, at_low=at_ends[0], at_high=at_ends[1]
            )


def describe(facts: CostFacts) -> SuiteResult:
    """Return verdict and tables."""
    example = f"{example_text(facts.to_enter)}. " if facts.to_enter else ""
    rows = []
    for name, result in facts.results.items():
        sums = [f"{value:,.0f}" for value in (result.investment, result.yearly, result.net_present_value)]
        ends = ["never" if end is None else str(end) for end in (result.payback_month, result.break_even_stations)]
        option = facts.equipment[name]
        rows.append((name, *sums, *ends, f"{option.detection:.1%}", f"{option.false_alarms:.2%}"))
    heads = "all stations with", "investment", "gain per year", "net present value", "payback month"
    costs = SuiteTable(
        caption=f"{'Example, not a verdict: costs' if facts.to_enter else 'Costs'} and gains in {facts.currency}",
        heads=(*heads, "break-even stations", "detection", "false alarms"),
        rows=tuple(rows),
    )
    effects = [
        (abs(row.at_high - row.at_low), row)
        for row in facts.assumptions
        if row.at_low is not None and row.at_high is not None and row.at_low != row.at_high
    ]
    widest = [row for _, row in sorted(effects, key=lambda effect: -effect[0])[:_MAX_VARIED]]
    varied = SuiteTable(
        caption="Net present value of the student (else the first option) with one assumption at the ends of its range",
        heads=("assumption", "value", "from", "low end", "high end", "value at the low end", "at the high end"),
        rows=tuple(
            (
                row.path.replace("_", " ").replace(".", ": "),
                *(f"{row.value:,.6g}", row.mark, f"{row.low:,.6g}", f"{row.high:,.6g}"),
                *(f"{row.at_low:,.0f}", f"{row.at_high:,.0f}"),
            )
            for row in widest
        ),
    )
    return SuiteResult(
        title=f"Does it pay?{' An example' if example else ''}",
        lead=f"{example}In {facts.currency}, compared with doing nothing.",
        facts=facts,
        verdict=tuple(_verdict(facts)),
        tables=(costs, *([varied] if widest else [])),
        notes=(f"healthy: {', '.join(facts.healthy)}; detection and false alarms are fractions of {facts.unit}",),
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


def _check(inputs: SuiteInputs) -> None:
    assert inputs.cost is not None
    check_cost(inputs.windows, inputs.cost)


SUITE = Suite(check=_check, run=run, needs="cost")
