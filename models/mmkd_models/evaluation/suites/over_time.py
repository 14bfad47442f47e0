"""What a stream's filter of answers over time gains on recordings as recorded, and how late it follows a change."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from mmkd_documents.figures import Interval, Measure
from mmkd_documents.judging import SuiteResult, SuiteTable
from mmkd_edge.bundle.manifest import HopRule
from mmkd_edge.errors import UsageError
from mmkd_edge.stream.over_time import nearest_rule
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.gains import gain_on_windows
from mmkd_models.evaluation.outcome import TestedNetwork, outcome_on
from mmkd_models.evaluation.suites.inputs import (
    ModelUnderTest,
    Suite,
    SuiteInputs,
    cell_text,
    check_classes,
    gain_cell,
    heading_text,
    interval_text,
    points_text,
)
from mmkd_models.metrics.likelihood import Floats, fitted_temperature, probabilities_of
from mmkd_models.metrics.over_time import (
    Rows,
    delays_along,
    filter_runs,
    hop_of,
    in_changing_groups,
    runs_of,
    usual_delays,
)


class WindowsFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of single answers and of those over time on some groups' windows."""

    windows: int
    groups: int
    single: float
    over_time: float
    gain: Interval


class OverTimeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The rule of these windows' hop, and its figures.

    Attributes:
        figures: by `as recorded`, `shuffled`, whose windows come in a random order, and `one state`: groups that never
            change it, where any average gains.
        delays: answers until a change of state is followed, each change, by `single` and `over time`.
    """

    measure: Measure
    hop_s: float
    rule: HopRule
    figures: dict[str, WindowsFigures]
    delays: dict[str, tuple[int, ...]]


def check(inputs: SuiteInputs) -> None:
    """Raise UsageError for a model without rules, or windows without an order."""
    check_classes(inputs.windows, "over_time")
    if inputs.over_time is None or not _runs(inputs):
        raise UsageError(
            f"--suite over_time: expected a student that weighs in earlier answers and recordings with times, got "
            f"{inputs.first.name} and {inputs.windows.spec.name!r}; leave the suite out"
        )


def run(inputs: SuiteInputs) -> SuiteResult:
    """Judge the first model's answers over time."""
    inputs.on_part("over_time")
    facts = judge_over_time(inputs)
    measure = heading_text(facts.measure)
    scores = [
        (
            name,
            str(row.groups),
            cell_text(row.single, facts.measure),
            cell_text(row.over_time, facts.measure),
            gain_cell(row.gain, facts.measure),
        )
        for name, row in facts.figures.items()
    ]
    delays = [
        (name, str(len(counts)), *(f"{one:g}" for one in usual_delays(counts))) for name, counts in facts.delays.items()
    ]
    return SuiteResult(
        title="Answers over time",
        lead=(
            f"A stream weighs in earlier answers, here every {facts.hop_s:g} s. Groups that change their state are "
            "judged as recorded; beside them the same windows in a random order, where nothing can be gained, and "
            "groups of one state, where any average gains."
        ),
        facts=facts,
        verdict=(_verdict(inputs.first.name, facts),),
        tables=(
            SuiteTable(
                caption="Single answers and answers over time",
                heads=("windows", "groups", f"{measure}: single", "over time", "gain"),
                rows=tuple(scores),
            ),
            SuiteTable(
                caption="Answers until a change of state is followed",
                heads=("answers", "changes", "median", "9 of 10 within"),
                rows=tuple(delays),
            ),
        ),
    )


def judge_over_time(inputs: SuiteInputs) -> OverTimeFacts:
    """Return the figures of the first model."""
    model, windows = inputs.models[0], inputs.windows
    assert model.over_time is not None
    modality, runs, clock_s = windows.spec.modality(model.facts.modalities[0]), _runs(inputs), windows.clock_s
    assert clock_s is not None
    hop_s = hop_of(windows, runs)
    rule = nearest_rule(model.over_time, hop_s / modality.duration_s)
    answers, prior = _probabilities(model, windows, inputs.calibration), np.asarray(model.over_time.prior)

    def filtered(given: Floats) -> Floats:
        (found,) = filter_runs(given, prior, runs, clock_s, [rule], window_s=modality.duration_s)
        return np.asarray(found)

    moves = in_changing_groups(windows, runs)
    over_time, order = filtered(answers), _shuffled(len(windows), runs, seed=inputs.seed)
    in_random_order = np.empty_like(answers)
    in_random_order[order] = filtered(answers[order])
    figures = {}
    for name, shown, after in (
        ("as recorded", moves, over_time),
        ("shuffled", moves, in_random_order),
        ("one state", ~moves, over_time),
    ):
        if shown.any():
            part = windows.subset(shown)
            pair = outcome_on(part, after[shown]), outcome_on(part, answers[shown])
            figures[name] = _figures(*pair, inputs.measure, windows=len(part), seed=inputs.seed)
    delays = {
        name: delays_along(runs, windows.labels, each) for name, each in (("single", answers), ("over time", over_time))
    }
    return OverTimeFacts(measure=inputs.measure, hop_s=hop_s, rule=rule, figures=figures, delays=delays)


def _runs(inputs: SuiteInputs) -> list[Rows]:
    modality = inputs.windows.spec.modality(inputs.first.modalities[0])
    runs = runs_of(inputs.windows, window_s=modality.duration_s)
    return runs if any(len(run) > 1 for run in runs) else []


def _shuffled(count: int, runs: Sequence[Rows], *, seed: int) -> Rows:
    rng, order = np.random.default_rng(seed), np.arange(count)
    for one in runs:
        order[one] = rng.permutation(one)
    return order


def _probabilities(model: ModelUnderTest, windows: Windows, calibration: Windows) -> Floats:
    logits = model.answers(windows)
    if model.calibration is None:  # a checkpoint's answers; those of a bundle are calibrated
        own = np.asarray(model.answers(calibration), dtype=np.float64)
        logits = logits / fitted_temperature(own, calibration.labels, kind="classification")
    return probabilities_of(logits, kind="classification")


def _figures(
    after: TestedNetwork, before: TestedNetwork, measure: Measure, *, windows: int, seed: int
) -> WindowsFigures:
    return WindowsFigures(
        windows=windows,
        groups=len(before.by_group),
        single=before.scores.metric(measure.name),
        over_time=after.scores.metric(measure.name),
        gain=gain_on_windows(after, before, measure.name, seed=seed),
    )


def _verdict(name: str, facts: OverTimeFacts) -> str:
    row = facts.figures.get("as recorded")
    if row is None:
        return f"No group of these windows changes its state: they cannot judge {name}'s answers over time"
    (single, _), (after, most) = (usual_delays(facts.delays[kind]) for kind in ("single", "over time"))
    return (
        f"Answers over time change {facts.measure.words} of {name} by {points_text(row.gain.mean, facts.measure)} "
        f"({interval_text(row.gain, facts.measure)}); they follow a change of state after {after:g} answers, 9 of 10 "
        f"within {most:g} (single answers {single:g})"
    )


SUITE = Suite(check=check, run=run, needs="over_time")
