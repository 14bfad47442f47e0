"""Every fault at every severity, on the same windows for all models.

As on a device, faults precede range limits and normalisation by group, and depend only on window, fault and seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mmkd_documents.figures import Interval
from mmkd_documents.judging import FaultFigures, FaultsFacts, SuiteChart, SuiteResult, SuiteTable
from mmkd_edge.frames import frame_bytes, mask_missing, missing_frames
from mmkd_edge.spec import ModalitySpec, TaskKind
from mmkd_models.data.spec import Values, windows_at_once
from mmkd_models.data.windows import Rows, Windows, WindowSource, mean_and_std, raw_values
from mmkd_models.evaluation.faults import (
    FAULTS,
    NAMES,
    SEVERITIES,
    Fault,
    FaultedChannels,
    FaultName,
    faults_for,
    hit_channels,
)
from mmkd_models.evaluation.gains import MIN_GROUPS, draw_groups, interval_of
from mmkd_models.evaluation.outcome import TestedNetwork, drawn_figures, outcome_on
from mmkd_models.evaluation.suites.inputs import Suite, SuiteInputs, listed

_BLOCKS_MEASURED = 2  # blocks of training windows that measure a sensor's mean and standard deviation
_DRAWS = 500
_HALF = 0.5  # a fault that costs a larger fraction of the score at full severity is named
ERROR_OF: dict[TaskKind, str] = {"classification": "balanced_accuracy", "multi_label": "macro_f1", "regression": "rmse"}
"""The error is 1 minus this metric; for regression the metric itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FaultySource:
    """Another source's windows with a fault of these sensors."""

    source: WindowSource
    name: FaultName
    severity: float
    seed: int
    sensors: Mapping[str, FaultedChannels]

    @property
    def max_shift_s(self) -> float:
        """As of the intact source."""
        return self.source.max_shift_s

    def gather(self, modality: ModalitySpec, rows: Rows, *, shift_s: npt.NDArray[np.float64] | None) -> Values:
        """Return new windows; modalities without the fault are unchanged."""
        fault = FAULTS[self.name]
        if modality.name not in self.sensors or not fault.can_hit(modality):
            return self.source.gather(modality, rows, shift_s=shift_s)
        rngs = [np.random.default_rng([self.seed, NAMES.index(self.name), row]) for row in rows.tolist()]
        if fault.moves:
            reach_s = self.severity * fault.moves * modality.duration_s
            shift_s = reach_s * np.array([rng.choice((-1.0, 1.0)) for rng in rngs]) + (
                0 if shift_s is None else shift_s
            )
            return self.source.gather(modality, rows, shift_s=shift_s)
        values = self.source.gather(modality, rows, shift_s=shift_s)
        sensor = self.sensors[modality.name]
        if modality.kind == "video":
            return _broken_frames(values, fault, sensor, self.severity, rngs)
        broken: Values = values.copy()
        for window, rng in zip(broken, rngs, strict=True):
            hit = hit_channels(fault, window.shape[1], rng)
            channels = FaultedChannels(mean=sensor.mean[hit], std=sensor.std[hit], rate_hz=sensor.rate_hz)
            window[:, hit] = fault.apply(window[:, hit].astype(np.float64), channels, self.severity, rng)
        return np.clip(broken, -1, 1) if modality.kind == "audio" else broken


def _broken_frames(
    values: Values, fault: Fault, sensor: FaultedChannels, severity: float, rngs: Sequence[np.random.Generator]
) -> Values:
    result, missing = frame_bytes(values).copy(), missing_frames(values)
    for number, rng in enumerate(rngs):
        frames = np.where(missing[number, :, None, None, None], np.nan, result[number]).astype(np.float32)
        broken = fault.apply(frames, sensor, severity, rng)
        missing[number] = np.isnan(broken).any(axis=(1, 2, 3))
        result[number] = np.rint(np.nan_to_num(broken))
    return mask_missing(result, missing)


def with_fault(
    windows: Windows, name: FaultName, severity: float, *, seed: int, sensors: Mapping[str, FaultedChannels]
) -> Windows:
    """Return the windows as broken sensors would have recorded them."""
    source = FaultySource(source=windows.source, name=name, severity=severity, seed=seed, sensors=sensors)
    return replace(windows, source=source)


def sensors_of(train: Windows, names: Sequence[str]) -> dict[str, FaultedChannels]:
    """Measure mean and standard deviation on raw training windows; NaN for video."""
    sensors = {}
    for name in names:
        modality = train.spec.modality(name)
        mean = std = np.full(len(modality.channels), np.nan)
        if modality.kind != "video":
            count = min(_BLOCKS_MEASURED * windows_at_once(modality), len(train))
            rows = train.rows[np.unique(np.linspace(0, len(train) - 1, count).round().astype(int))]
            mean, std = mean_and_std(raw_values(train, modality=modality, rows=rows))
        sensors[name] = FaultedChannels(mean=mean, std=std, rate_hz=modality.rate_hz)
    return sensors


def broken_windows(
    inputs: SuiteInputs, severities: Sequence[float] = SEVERITIES
) -> Iterator[tuple[FaultName, list[Windows]]]:
    """Yield each possible fault of the first model's sensors, with windows at each severity."""
    names = inputs.first.modalities
    sensors = sensors_of(inputs.train, names)
    for fault in faults_for(map(inputs.windows.spec.modality, names), cut=inputs.windows.max_shift_s > 0):
        parts = [
            with_fault(inputs.windows, fault, severity, seed=inputs.seed, sensors=sensors) for severity in severities
        ]
        yield fault, parts


def run(inputs: SuiteInputs) -> SuiteResult:
    """Judge the models under all faults."""
    return describe(inputs, judge_faults(inputs))


def describe(inputs: SuiteInputs, facts: FaultsFacts) -> SuiteResult:
    """Return verdict and tables."""
    is_fraction = facts.measure != "rmse"
    measure = facts.measure.replace("_", " ")
    error = f"1 minus {measure}, in %" if is_fraction else "the root mean squared error"
    severities = ", ".join(f"{severity:g}" for severity in facts.severities)
    relative = facts.relative.get(inputs.first.name)
    is_short = relative is not None and relative.low is None
    return SuiteResult(
        title="When a sensor breaks",
        lead=(
            f"Every window of {' + '.join(facts.sensors)} with each fault, in at most half of the channels of a sensor "
            f"(a single channel is hit whole). The error is {error}."
        ),
        facts=facts,
        verdict=tuple(_verdict(inputs, facts)),
        record=(f"{MIN_GROUPS} or more groups to judge with, for an interval under faults",) if is_short else (),
        tables=(_table(inputs, facts, f"Error ({error}), mean of severities {severities}"),),
        charts=tuple(
            SuiteChart(
                title=fault.name,
                x_label=f"severity; 1 is {fault.effect}",
                x=(0.0, *facts.severities),
                lines={name: (facts.intact[name], *errors) for name, errors in fault.errors.items()},
                is_fraction=is_fraction,
            )
            for fault in facts.faults
        ),
    )


def judge_faults(inputs: SuiteInputs) -> FaultsFacts:
    """Measure the error under every fault, the first model's worst first."""
    models, windows, baseline = inputs.models, inputs.windows, inputs.baseline
    kind = windows.spec.task.kind
    intact = {model.name: _error(outcome_on(windows, model.answers(windows)), kind) for model in models}
    outcomes: dict[FaultName, dict[str, list[TestedNetwork]]] = {}
    for fault, parts in broken_windows(inputs):
        inputs.on_part(f"fault: {fault}")
        outcomes[fault] = {model.name: [outcome_on(part, model.answers(part)) for part in parts] for model in models}
    faults = []
    for name, judged in outcomes.items():
        errors = {model: tuple(_error(outcome, kind) for outcome in row) for model, row in judged.items()}
        relative = {}
        if baseline is not None and sum(errors[baseline]) > 0:
            relative = {model: sum(row) / sum(errors[baseline]) for model, row in errors.items() if model != baseline}
        faults.append(FaultFigures(name=name, effect=FAULTS[name].what, errors=errors, relative=relative))
    return FaultsFacts(
        sensors=tuple(inputs.first.modalities),
        severities=SEVERITIES,
        measure=ERROR_OF[kind],
        intact=intact,
        faults=tuple(sorted(faults, key=lambda fault: -sum(fault.errors[inputs.first.name]))),
        relative={}
        if baseline is None
        else {name: _relative(outcomes, name, baseline, kind, inputs.seed) for name in intact if name != baseline},
    )


def _error(outcome: TestedNetwork, kind: TaskKind) -> float:
    figure = outcome.scores.metric(ERROR_OF[kind])
    return figure if kind == "regression" else 1 - figure


def _relative(
    outcomes: Mapping[FaultName, Mapping[str, Sequence[TestedNetwork]]],
    model: str,
    baseline: str,
    kind: TaskKind,
    seed: int,
) -> Interval | None:
    """Mean over faults of summed error over the baseline's (D. Hendrycks and T. Dietterich, ICLR 2019, section 4.2)."""
    sums = [
        [sum(_error(outcome, kind) for outcome in judged[name]) for name in (model, baseline)]
        for judged in outcomes.values()
    ]
    if any(reference <= 0 for _, reference in sums):
        return None
    mean = float(np.mean([error / reference for error, reference in sums]))
    groups = [part.group for part in next(iter(outcomes.values()))[model][0].by_group]
    if len(groups) < MIN_GROUPS:
        return Interval(mean=mean)
    weights = draw_groups(len(groups), np.random.default_rng(seed), _DRAWS)
    drawn = np.zeros(_DRAWS)
    with np.errstate(invalid="ignore", divide="ignore"):
        for judged in outcomes.values():
            figures = [
                np.sum([drawn_figures(each, groups, weights, ERROR_OF[kind]) for each in judged[name]], axis=0)
                for name in (model, baseline)
            ]
            errors, references = figures if kind == "regression" else (len(judged[model]) - each for each in figures)
            drawn += errors / references / len(outcomes)
    low, high = interval_of(np.where(np.isfinite(drawn), drawn, np.nan))
    return Interval(mean=mean, low=low, high=high)


def _table(inputs: SuiteInputs, facts: FaultsFacts, caption: str) -> SuiteTable:
    names, first, baseline = inputs.names, inputs.first.name, inputs.baseline
    scale = 1 if facts.measure == "rmse" else 100
    rows = [["none", *(f"{scale * facts.intact[name]:.3g}" for name in names), *([""] if baseline else [])]]
    for fault in facts.faults:
        errors = [f"{scale * sum(fault.errors[name]) / len(fault.errors[name]):.3g}" for name in names]
        relative = [f"{fault.relative[first]:.0%}" if first in fault.relative else "-"] if baseline else []
        rows.append([fault.name, *errors, *relative])
    heads = ["fault", *names, *([f"of {baseline}'s"] if baseline else [])]
    return SuiteTable(caption=caption, heads=tuple(heads), rows=tuple(map(tuple, rows)))


def _verdict(inputs: SuiteInputs, facts: FaultsFacts) -> Iterator[str]:
    name, worst = inputs.first.name, facts.faults[0]
    if facts.measure == "rmse":
        yield (
            f"The worst fault for {name} is {worst.name}: its error rises from {facts.intact[name]:.3g} to "
            f"{worst.errors[name][-1]:.3g} with {worst.effect}"
        )
    else:
        yield (
            f"The worst fault for {name} is {worst.name}: {facts.measure.replace('_', ' ')} falls from "
            f"{1 - facts.intact[name]:.1%} to {1 - worst.errors[name][-1]:.1%} with {worst.effect}"
        )
        limit = facts.intact[name] + _HALF * (1 - facts.intact[name])
        lost = [fault.name for fault in facts.faults if fault.errors[name][-1] > limit]
        if lost:
            yield f"Do not rely on it if a sensor may show {listed(lost)}: more than half of its score is lost"
    relative = facts.relative.get(name)
    if relative is not None:
        yield _baseline_sentence(name, inputs.baseline, relative)
    for model in inputs.models:
        if model.facts.role == "rival":
            yield from _rival_sentence(name, model.name, facts)


def _baseline_sentence(name: str, baseline: str | None, relative: Interval) -> str:
    figure = f"over all faults the error of {name} is {relative.mean:.0%} of that of {baseline} (labels only"
    if relative.low is None or relative.high is None:
        return f"{figure[:1].upper()}{figure[1:]}; too few groups for an interval)"
    effect = "The effect of distillation under faults is not significant"
    if relative.high < 1:
        effect = "Distillation helps under faults"
    elif relative.low > 1:
        effect = "Distillation hurts under faults"
    return f"{effect}: {figure}; 95 % CI {relative.low:.0%} to {relative.high:.0%})"


def _rival_sentence(name: str, rival: str, facts: FaultsFacts) -> Iterator[str]:
    totals = {model: sum(sum(fault.errors[model]) for fault in facts.faults) for model in (name, rival)}
    better = ["with intact sensors"] if facts.intact[rival] < facts.intact[name] else []
    better += ["over all faults"] if totals[rival] < totals[name] else []
    if better:
        yield f"{rival} needs no teacher and has a lower error than {name} {listed(better, 'and')}: consider it first"


SUITE = Suite(run=run)
