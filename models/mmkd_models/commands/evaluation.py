"""How `mmkd-evaluate` shows what it measured: of a bundle, of classes, of several labels at once and of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from mmkd_edge.cli.show import json_text, plain_table, show_table
from mmkd_models.data.windows import OF_GROUPS, Windows
from mmkd_models.evaluation.confidence_text import coverage_table, groups_text, reliability_text
from mmkd_models.evaluation.gains import gain_on_windows, interval_needs
from mmkd_models.evaluation.guessing import guessing
from mmkd_models.evaluation.outcome import TestedNetwork, outcome_on
from mmkd_models.metrics.measures import measure_named, measures_of
from mmkd_report.schema.evaluation import (
    BundleEvaluation,
    DataFacts,
    EvaluationDocument,
    Judgement,
    KindEvaluation,
    MeasureGain,
)
from mmkd_report.schema.figures import Measure

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.evaluation.report import Contestant


def show_bundle(report: BundleEvaluation) -> None:
    """Prints the scores of a bundle, its calibration, and label sets at several error levels."""
    from mmkd_report.words import chance_line

    data = report.data
    print(f"{report.bundle}: {report.model_id}, on {data.windows} {data.part} of {data.name} ({data.apart})")
    for caution in report.cautions:
        print(f"caution: {caution}")
    for artifact in report.artifacts:
        scores = artifact.scores
        print(
            f"{artifact.file} in {artifact.backend}: accuracy {scores.accuracy:.1%}, balanced accuracy "
            f"{scores.balanced_accuracy:.1%}, macro-F1 {scores.macro_f1:.1%}"
        )
        print(chance_line(artifact.guessing, measure_named("balanced_accuracy")))
        facts = artifact.confidence
        if facts is None:
            error = artifact.reliability.calibration_error
            print(f"calibration error {error:.3f}; not calibrated: it has no label sets")
            continue
        print(reliability_text(facts))
        show_table(coverage_table(facts.coverages))
        for line in groups_text(facts.coverages):
            print(line)


def show_evaluation(report: EvaluationDocument) -> None:
    """Prints the scores of a teacher or a student on every condition."""
    from mmkd_report.words import chance_line

    model, data = report.model, report.data
    print(
        f"{model.path}: {model.kind} of {', '.join(model.modalities)}, {model.parameters:,} parameters, on "
        f"{data.windows} {data.part} of {data.name} ({data.apart})"
    )
    if report.against is not None:
        gaps = " with the same gaps" if report.samples or report.subsets else ""
        print(f"against {report.against.path}, on the same windows{gaps}")
    headings = ["", "accuracy", "balanced accuracy", "macro-F1"]
    if report.against is not None:
        headings += [f"other's {report.metric.replace('_', ' ')}", "gain, points", "95 % interval"]
    table = plain_table(headings)
    for name, judgement in _rows(report):
        table.add_row(name, *_cells(judgement, report))
    show_table(table)
    measure = measure_named(report.metric)
    print(chance_line(report.complete.guessing, measure))
    if report.complete.gain is not None and report.complete.gain.low is None:
        print(interval_needs(data.split or OF_GROUPS))
    for caution in report.cautions:
        print(f"caution: {caution}")


def _rows(report: EvaluationDocument) -> Iterator[tuple[str, Judgement]]:
    """Every condition once, by its name."""
    yield "everything there", report.complete
    for subset in report.subsets:
        if len(subset.modalities) < len(report.model.modalities):
            yield f"only {' + '.join(subset.modalities)}", subset
    for one in report.samples:
        if one.share > 0:
            yield f"{one.share:.0%} of the samples missing", one
    for one in report.bursts:
        if one.share > 0:
            yield f"a burst of {one.share:.0%} missing", one


def _cells(judgement: Judgement, report: EvaluationDocument) -> Iterator[str]:
    scores = judgement.scores
    yield from (f"{100 * value:.1f}" for value in (scores.accuracy, scores.balanced_accuracy, scores.macro_f1))
    if report.against is None:
        return
    if judgement.against is None or judgement.gain is None:
        yield from ("-", "-", "-")
        return
    gain = judgement.gain
    yield f"{100 * getattr(judgement.against, report.metric):.1f}"
    yield f"{gain.points:+.1f}"
    yield "-" if gain.low is None or gain.high is None else f"{gain.low:+.1f} to {gain.high:+.1f}"


def show_kind(
    contestants: Sequence[Contestant], windows: Windows, *, data: DataFacts, as_json: bool, seed: int
) -> None:
    """Prints the scores of one model, or of two on the same labelled windows and what the first is better by.

    A gain has an interval, by resampling whole groups or blocks, where there are `FEWEST_GROUPS` or more.
    """
    from mmkd_models.evaluation.report import check_contestants, logits_from
    from mmkd_report.words import chance_line, for_terminal, significant

    check_contestants(contestants[0], contestants[1] if len(contestants) > 1 else None, windows)
    judged = {one.path: outcome_on(windows, logits_from(one, windows)) for one in contestants}
    measures = measures_of(windows.spec.task)
    gains = _gains(*judged.values(), measures=measures, seed=seed) if len(judged) > 1 else {}
    beside = {path: guessing([one], measures[0].name, seed=seed) for path, one in judged.items()}
    cautions = list(dict.fromkeys(text for one in contestants for text in one.cautions(data)))
    if as_json:
        document = KindEvaluation(
            data=data,
            seen={one.path: one.seen for one in contestants},
            cautions=tuple(cautions),
            kind=windows.spec.task.kind,
            scores={path: msgspec.to_builtins(one.scores) for path, one in judged.items()},
            guessing={path: {measures[0].name: one} for path, one in beside.items()},
            gains=gains or msgspec.UNSET,
        )
        print(json_text(document))
        return
    table = plain_table(["", *map(_heading, measures)])
    for path, one in judged.items():
        table.add_row(path, *(for_terminal(significant(one.scores.metric(measure.name), 4)) for measure in measures))
    if gains:
        table.add_row("gain", *(_gain_text(gains[measure.name], measure) for measure in measures))
    print(f"{data.windows} {data.part} of {data.name} ({data.apart})")
    show_table(table)
    for path, found in beside.items():
        print(f"{path}: {chance_line(found, measures[0])}")
    if any(gain.low is None for gain in gains.values()):
        print(interval_needs(data.split or OF_GROUPS))
    for caution in cautions:
        print(f"caution: {caution}")


def _heading(measure: Measure) -> str:
    unit = "" if measure.is_share else measure.unit
    return measure.name.replace("_", " ") + (f", {unit}" if unit else "")


def _gains(
    ours: TestedNetwork, theirs: TestedNetwork, *, measures: Sequence[Measure], seed: int
) -> dict[str, MeasureGain]:
    """By measure, in its `gain_unit`: what ours is better by."""
    found = {}
    for measure in measures:
        gain = gain_on_windows(ours, theirs, measure.name, seed=seed)
        found[measure.name] = MeasureGain(gain=gain.points, low=gain.low, high=gain.high, unit=measure.gain_unit)
    return found


def _gain_text(gain: MeasureGain, measure: Measure) -> str:
    from mmkd_report.words import terminal_gain, terminal_interval

    text = terminal_gain(gain.gain, measure) + (" points" if measure.is_share else "")
    return text if gain.low is None else f"{text} ({terminal_interval(gain.low, gain.high, measure)})"
