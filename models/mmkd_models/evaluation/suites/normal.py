"""Scores of normal running: false alarms on new machines and, where faults are labelled, what they find.

Position in a recording, or the campaign, may give faults away; a score that is no better than either shows nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_documents.figures import Interval
from mmkd_documents.judging import SuiteResult, SuiteTable
from mmkd_edge.errors import UsageError
from mmkd_models.data.folds import is_unknown, values_by
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.gains import MIN_GROUPS, gain_on_windows, interval_over_groups
from mmkd_models.evaluation.outcome import outcome_on
from mmkd_models.evaluation.suites.inputs import ModelUnderTest, Suite, SuiteInputs, gain_cell
from mmkd_models.metrics.normal import threshold, within_auroc
from mmkd_models.metrics.scores import NO_ORDER, measure_named, normal_scores, weighted_auroc, weighted_mean

RATE = 0.05
"""Of rivals, and of students that promise no other."""
_DRAWS = 1000
_EXPLAINS = 0.6  # AUROC from which a position or a campaign is worth a warning

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Delay(msgspec.Struct, frozen=True, kw_only=True):
    """Runs of windows with a known fault, and how long the first alarm takes."""

    runs: int
    found: int
    median: float | None  # of found runs, in `unit`; 0 if the first window alarms
    unit: str


class NormalFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a model; those of faults are None without labelled ones."""

    level: float  # of its alarms, a p-value
    window_rate: Interval  # of normal windows that alarm
    groups_above: float  # fraction of groups of which more than twice the level alarm
    auroc: Interval | None = None
    within: float | None = None  # AUROC of pairs of windows with one value of `by`
    detection: Interval | None = None  # fraction of fault windows that alarm
    delay: Delay | None = None
    gain: Interval | None = None  # of the first model's AUROC over this one's


class NormalSuiteFacts(msgspec.Struct, frozen=True, kw_only=True):
    """False alarms and detection by model; `alone` is the AUROC of what is no sensor."""

    by: str | None
    groups: int  # with normal windows
    normal: int
    faults: int
    models: dict[str, NormalFigures]
    alone: dict[str, float]
    warnings: tuple[str, ...]


def check(inputs: SuiteInputs) -> None:
    """Raise UsageError unless normal windows can be judged."""
    windows = inputs.windows
    if windows.spec.task.kind != "normal":
        raise UsageError(
            f"--suite normal: expected a dataset of normal running, got {windows.spec.name!r} of the kind "
            f"{windows.spec.task.kind}; leave the suite out"
        )
    if not (windows.labels == 0).any():
        raise UsageError("--suite normal: expected normal windows, got known faults alone; name another --split")
    if inputs.by is not None:
        values_by(windows, inputs.by, suite="normal")


def run(inputs: SuiteInputs) -> SuiteResult:
    """Judge false alarms and detection."""
    inputs.on_part("normal running")
    facts = judge_normal(inputs)
    return SuiteResult(
        title="How often does it alarm, and what does it find?",
        lead=(
            "False alarms are normal windows at or below the level of the p-value; detection is the fraction of "
            "windows with a known fault that alarm. Intervals resample groups."
        ),
        facts=facts,
        verdict=tuple(_verdict(inputs.first.name, facts)),
        tables=tuple(_tables(facts)),
        notes=tuple(_notes(inputs, facts)),
    )


def judge_normal(inputs: SuiteInputs) -> NormalSuiteFacts:
    """Measure every model on normal windows and known faults."""
    windows = inputs.windows
    faulty = windows.labels > 0
    has_faults = bool(faulty.any())
    strata = None if inputs.by is None else values_by(windows, inputs.by, suite="normal")
    names, owner = np.unique(windows.groups, return_inverse=True)
    interval = partial(interval_over_groups, count=len(names), seed=inputs.seed, draws=_DRAWS)
    first, models = None, dict[str, NormalFigures]()
    for model in inputs.models:
        answers = model.answers(windows)[:, :1].astype(np.float64)
        scores, (level, limit) = answers[:, 0], alarm_limit(model, inputs.calibration)
        alarms, outcome = scores >= limit, outcome_on(windows, answers)
        rates = np.array([alarms[~faulty & (owner == number)].mean() for number in np.unique(owner[~faulty])])
        figures = NormalFigures(
            level=level,
            window_rate=interval(partial(weighted_mean, alarms[~faulty], owner[~faulty])),
            groups_above=float((rates > 2 * level).mean()),
        )
        if has_faults:
            figures = msgspec.structs.replace(
                figures,
                auroc=interval(partial(weighted_auroc, faulty, scores, owner)),
                within=None if strata is None else within_auroc(faulty, scores, strata),
                detection=interval(partial(weighted_mean, alarms[faulty], owner[faulty])),
                delay=measure_delay(windows, alarms),
                gain=None if first is None else gain_on_windows(first, outcome, "auroc", seed=inputs.seed),
            )
        models[model.name] = figures
        first = first or outcome
    alone = explain_by_place(windows, inputs.by) if has_faults else {}
    return NormalSuiteFacts(
        by=inputs.by,
        groups=len(np.unique(owner[~faulty])),
        normal=int((~faulty).sum()),
        faults=int(faulty.sum()),
        models=models,
        alone=alone,
        warnings=tuple(explained(alone, models[inputs.first.name].auroc)),
    )


def alarm_limit(model: ModelUnderTest, valid: Windows) -> tuple[float, float]:
    """Return a model's level, and the log score from which it alarms; a rival's by normal validation windows."""
    if model.normal is not None:
        return model.normal.level, math.log(threshold(np.array(model.normal.scores), model.normal.level))
    return RATE, threshold(model.answers(valid.subset(valid.labels == 0))[:, 0].astype(np.float64), RATE)


def measure_delay(windows: Windows, alarms: Flags) -> Delay:
    """Measure the time from the first window of each run of faults to its first alarm."""
    times = windows.clock_s
    place = np.arange(len(windows), dtype=np.float64) if times is None else times
    owners = windows.groups if windows.episodes is None else windows.episodes
    delays: list[float] = []
    runs = 0
    for name in np.unique(owners):
        rows = np.flatnonzero(owners == name)
        rows = rows[np.argsort(place[rows], kind="stable")]
        edges = np.flatnonzero(np.diff(windows.labels[rows])) + 1
        for run in np.split(rows, edges):
            if windows.labels[run[0]] == 0:
                continue
            runs += 1
            if alarms[run].any():
                found = int(alarms[run].argmax())
                delays.append(float(found if times is None else place[run[found]] - place[run[0]]))
    median = float(np.median(delays)) if delays else None
    return Delay(runs=runs, found=len(delays), median=median, unit="windows" if times is None else "s")


def explain_by_place(windows: Windows, by: str | None) -> dict[str, float]:
    """Return the AUROC of a window's place in its recording, and of its value of `by`, without any sensor."""
    faulty, place = windows.labels > 0, np.zeros(len(windows))
    owners = windows.groups if windows.episodes is None else windows.episodes
    times = windows.clock_s
    order = windows.rows if times is None else times
    for name in np.unique(owners):
        rows = np.flatnonzero(owners == name)
        place[rows[np.argsort(order[rows], kind="stable")]] = (np.arange(len(rows)) + 0.5) / len(rows)
    late = normal_scores(faulty, place).auroc
    alone = {"The position in the recording": max(late, 1 - late)}
    if by not in (None, "group"):
        value, group = (
            np.unique(one, return_inverse=True)[1] for one in (values_by(windows, by, suite="normal"), windows.groups)
        )
        pair = np.unique(value * len(windows) + group, return_inverse=True)[1]
        # Counts of windows, and of faults, that have the value and another group.
        count, found = (np.bincount(value, n)[value] - np.bincount(pair, n)[pair] for n in (faulty >= 0, faulty))
        fractions = np.where(count > 0, found / np.maximum(count, 1), faulty.mean())
        alone[f"The {by}"] = normal_scores(faulty, fractions).auroc
    return alone


def explained(alone: dict[str, float], auroc: Interval | None) -> Iterator[str]:
    """Yield a warning for what reaches an AUROC within the score's interval, without any sensor."""
    for what, area in alone.items():
        least = auroc.mean if auroc is not None and auroc.low is None else auroc.low if auroc is not None else None
        if least is not None and area >= max(least, _EXPLAINS):
            yield (
                f"{what} alone reaches an AUROC of {area:.2f}, as much as the score or more: record normal "
                "running in the same places, or judge within them"
            )


def _ends(interval: Interval, *, percent: bool) -> str:
    def text(value: float) -> str:
        return f"{value:.1%}" if percent else f"{value:.3f}"

    if interval.low is None or interval.high is None:
        return text(interval.mean)
    return f"{text(interval.mean)} ({text(interval.low)} to {text(interval.high)})"


def _tables(facts: NormalSuiteFacts) -> Iterator[SuiteTable]:
    heads = ["model", "Level", "False alarms, windows (95 % CI)", "Groups above twice the level"]
    rows = [
        (name, f"{one.level:.0%}", _ends(one.window_rate, percent=True), f"{one.groups_above:.0%}")
        for name, one in facts.models.items()
    ]
    yield SuiteTable(caption="Normal running", heads=tuple(heads), rows=tuple(rows))
    heads = ["model", "AUROC (95 % CI)", *([f"Within {facts.by}"] if facts.by else [])]
    heads += ["Detection (95 % CI)", "Runs found", "Delay, median"]
    heads += ["Gain of AUROC over it (95 % CI)"] if len(facts.models) > 1 else []
    found = []
    for name, model in facts.models.items():
        if model.auroc is None or model.detection is None or model.delay is None:
            return
        delay, within = model.delay, model.within
        cells = [name, _ends(model.auroc, percent=False)]
        cells += [] if facts.by is None else ["-" if within is None else f"{within:.3f}"]
        cells += [_ends(model.detection, percent=True), f"{delay.found} of {delay.runs}"]
        cells.append("-" if delay.median is None else f"{delay.median:g} {delay.unit}")
        if len(facts.models) > 1:
            cells.append("" if model.gain is None else gain_cell(model.gain, measure_named("auroc")))
        found.append(tuple(cells))
    yield SuiteTable(caption="Known faults", heads=tuple(heads), rows=tuple(found))


def _verdict(name: str, facts: NormalSuiteFacts) -> Iterator[str]:
    judged = facts.models[name]
    yield (
        f"{name} alarms in {_ends(judged.window_rate, percent=True)} of the normal windows at the level "
        f"{judged.level:.0%}; {judged.groups_above:.0%} of {facts.groups} groups are above {2 * judged.level:.0%}"
    )
    if judged.auroc is None or judged.detection is None:
        yield "No window has a known fault: what it finds is unknown"
        return
    chance = "" if judged.auroc.low is None or judged.auroc.low > NO_ORDER else ", no better than chance"
    yield (
        f"Known faults: AUROC {_ends(judged.auroc, percent=False)}{chance}, and it finds "
        f"{_ends(judged.detection, percent=True)} of their windows"
    )
    yield from facts.warnings


def _notes(inputs: SuiteInputs, facts: NormalSuiteFacts) -> Iterator[str]:
    groups = len(np.unique(inputs.windows.groups))
    if groups < MIN_GROUPS:
        yield f"too few groups for an interval: {groups}, at least {MIN_GROUPS} are needed; new ones may differ"
    if facts.by is not None and is_unknown(values_by(inputs.windows, facts.by, suite="normal")).any():
        yield f"windows without a value of {facts.by} count as one value"
    for what, area in facts.alone.items():
        yield f"{what} alone, without a sensor: AUROC {area:.3f}"


SUITE = Suite(run=run, check=check)
