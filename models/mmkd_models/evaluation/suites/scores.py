"""Scores on unchanged windows, gains of the first model, and calibration."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from mmkd_documents.figures import Chance, Interval, Measure
from mmkd_documents.judging import ConfidenceFacts, SuiteResult, SuiteTable
from mmkd_models.evaluation.confidence import HEADINGS, confidence_facts, coverage_cells, reliability, reliability_text
from mmkd_models.evaluation.gains import MIN_GROUPS, compare_with_chance, gain_on_windows
from mmkd_models.evaluation.outcome import TestedNetwork, outcome_on
from mmkd_models.evaluation.suites.inputs import (
    Suite,
    SuiteInputs,
    cell_text,
    figure_text,
    gain_cell,
    heading_text,
    interval_text,
    points_text,
)
from mmkd_models.metrics.likelihood import probabilities_of
from mmkd_models.metrics.scores import measures_of


class _ModelScores(msgspec.Struct, frozen=True, kw_only=True):
    scores: dict[str, float]
    chance: Chance
    gain: Interval | None = None
    calibration_error: float | None = None
    confidence: ConfidenceFacts | None = None


class _ScoresFacts(msgspec.Struct, frozen=True, kw_only=True):
    measure: Measure
    models: dict[str, _ModelScores]


def run(inputs: SuiteInputs) -> SuiteResult:
    """Score every model and compare the first with the others."""
    inputs.on_part("scores")
    windows, measure = inputs.windows, inputs.measure
    models: dict[str, _ModelScores] = {}
    first: TestedNetwork | None = None
    for model in inputs.models:
        answers = model.answers(windows)
        outcome, error, confidence = outcome_on(windows, answers), None, None
        if windows.spec.task.kind == "classification":
            probabilities = probabilities_of(answers, kind="classification")
            error = reliability(probabilities, windows.labels).calibration_error
            if (own := model.calibration) is not None:
                confidence = confidence_facts(own, own.temperature * answers, probabilities, windows.labels)
        models[model.name] = _ModelScores(
            scores={each.name: outcome.scores.metric(each.name) for each in measures_of(windows.spec.task)},
            chance=compare_with_chance([outcome], measure.name, seed=inputs.seed),
            gain=None if first is None else gain_on_windows(first, outcome, measure.name, seed=inputs.seed),
            calibration_error=error,
            confidence=confidence,
        )
        first = first or outcome
    facts = _ScoresFacts(measure=measure, models=models)
    lead, notes, tables = "Scores on these windows.", [], [_table(inputs, facts)]
    lead += " A gain is the first model minus the other." if len(facts.models) > 1 else ""
    calibrated = {name: scores.confidence for name, scores in models.items() if scores.confidence is not None}
    if calibrated:
        lead += " A label set has every label that is still plausible; it may miss the true one as often as its error "
        lead += "level."
    for name, own_confidence in calibrated.items():
        notes.append(f"{name}: {reliability_text(own_confidence)}")
        rows = tuple(map(coverage_cells, own_confidence.coverages))
        tables.append(SuiteTable(caption=f"Label sets of {name}", heads=HEADINGS, rows=rows))
    what, over = "groups" if inputs.windows.has_groups else "blocks of windows", ""
    if (count := len(np.unique(inputs.windows.groups))) < MIN_GROUPS:
        few = "groups" if inputs.windows.has_groups else "blocks"
        over = f" of windows of {count} {few.removesuffix('s') if count == 1 else few}:"
        notes.append(f"too few {what} for an interval: {count}, at least {MIN_GROUPS} are needed; new ones may differ")
    return SuiteResult(
        title="How good is it?",
        lead=lead,
        facts=facts,
        verdict=tuple(_verdict(inputs.first.name, facts, over)),
        tables=tuple(tables),
        notes=tuple(notes),
    )


def _table(inputs: SuiteInputs, facts: _ScoresFacts) -> SuiteTable:
    measure, measures = facts.measure, measures_of(inputs.windows.spec.task)
    has_classes = inputs.windows.spec.task.kind == "classification"
    is_compared = len(facts.models) > 1
    rows = []
    for name, model in facts.models.items():
        cells = [cell_text(model.scores[each.name], each) for each in measures]
        cells += [f"{100 * model.calibration_error:.1f}"] if model.calibration_error is not None else []
        cells += ["" if model.gain is None else gain_cell(model.gain, measure)] if is_compared else []
        rows.append((name, *cells))
    heads = ["model", *map(heading_text, measures), *(["Calibration error, %"] if has_classes else [])]
    if is_compared:
        unit = f", {measure.gain_unit} of {measure.words}" if measure.is_fraction else f" in {measure.words}"
        heads.append(f"Gain over it{unit} (95 % CI)")
    return SuiteTable(caption="Scores", heads=tuple(heads), rows=tuple(rows))


def _verdict(name: str, facts: _ScoresFacts, over: str) -> Iterator[str]:
    measure, chance = facts.measure, facts.models[name].chance
    score = facts.models[name].scores[measure.name]
    ends = f"95 % CI{over} {cell_text(chance.low, measure)} to {cell_text(chance.high, measure)}"
    better = "better than chance" if chance.is_better else "no better than chance, so no conclusion is drawn"
    yield (
        f"{name} has {figure_text(score, measure)} {measure.words} ({ends}): {better} "
        f"({figure_text(chance.figure, measure)})"
    )
    for other, model in facts.models.items():
        if model.gain is not None:
            gain = model.gain
            has_zero = gain.low is not None and gain.high is not None and gain.low <= 0 <= gain.high
            ends = interval_text(gain, measure) + (", not significant" if has_zero else "")
            yield f"Compared with {other}: {points_text(gain.mean, measure)} ({ends})"


SUITE = Suite(run=run)
