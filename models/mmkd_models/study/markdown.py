"""The table of a study as Markdown, with its command above it and its coverage below: for a page of results."""

from __future__ import annotations

from collections.abc import Sequence

from mmkd_edge.spec import TaskSpec
from mmkd_models.data.split import OF_GROUPS
from mmkd_models.metrics.measures import figure_text, gain_text, measures_of, with_unit
from mmkd_report.documents.figures import Measure, Spread
from mmkd_report.documents.study import EntryRow, ScoreTable, SeedGain, StudyDocument

_RIVALS = {"extra_trees": "extra-trees", "mini_rocket": "MiniRocket"}


def study_section(document: StudyDocument) -> str:
    """Gives a section: heading, command, table, coverage and choice."""
    facts, dataset = document.facts, document.dataset
    measures = document.measures or measures_of(TaskSpec(labels=dataset.labels))
    told = next(one for one in measures if one.name == (facts.told_by or facts.metric))
    head = ["model", *(_heading(one.words, one.unit) for one in measures)]
    head += [f"{_heading('gain', told.gain_unit)} (95 % interval)", "gap recovered", "parameters", "latency, ms"]
    lines = [
        f"## {dataset.name}, {facts.modality}, {facts.label_share:.0%} labelled",
        "",
        "```sh",
        document.command,
        "```",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
        *(_teacher_row(one.name, one.test, one.parameters, measures) for one in document.teachers),
        *(_teacher_row(_RIVALS[one.name], one.test, None, measures) for one in document.rivals if one.test is not None),
        *(_entry_row(row, told, measures) for row in document.entries),
        "",
        *_notes(document, told),
    ]
    return "\n".join(lines) + "\n"


def judged_on(document: StudyDocument) -> str:
    """Gives what a study is judged on, behind the name of a measure: what the windows are, and of how many folds."""
    folds, split = len(document.facts.seeds), document.dataset.split or OF_GROUPS
    of_folds = "" if split.by == "own split" else f" ({folds} {'fold' if folds == 1 else 'folds'})"
    return f"{split.judged_on}{of_folds}, {document.facts.label_share:.0%} labelled"


def _heading(words: str, unit: str) -> str:
    return f"{words}, {unit}" if unit else words


def _notes(document: StudyDocument, told: Measure) -> list[str]:
    facts, coverage, chosen = document.facts, document.coverage, document.recommendation
    expected = f" of {coverage.expected}" if coverage.expected is not None else ""
    how = "a grid" if facts.mode == "grid" else f"a search on seeds {_listed(facts.search_seeds)}"
    end = "." if coverage.complete else "; not complete."
    rates = ", ".join(f"{rate:g}" for rate in facts.learning_rates)
    covered = (
        f"Coverage: {how}; seeds {_listed(facts.seeds)}; {coverage.finished}{expected} trainings finished, "
        f"{coverage.pruned} given up as hopeless, {coverage.failed} failed{end}"
    )
    notes = [f"Judged on {judged_on(document)}; intervals by resampling {_resampled(document)}.", covered]
    notes.append(
        f"Students had {facts.student_steps} steps, teachers {facts.teacher_steps}; every method chose its learning "
        f"rate by validation among {rates}."
    )
    if chosen is not None:
        notes.append(f"Chosen by validation: {chosen.method}, {chosen.student}.")
    if document.selection is not None and len(facts.seeds) > 1:
        gain = document.selection.gain_points[told.name]
        written = with_unit(gain_text(told, gain.mean), told.gain_unit)
        notes.append(f"Chosen anew inside every fold, the gain is {written} ({_interval(gain, told)}).")
    return notes


def _resampled(document: StudyDocument) -> str:
    return (document.dataset.split or OF_GROUPS).resampled


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _teacher_row(name: str, test: ScoreTable, parameters: int | None, measures: Sequence[Measure]) -> str:
    size = "" if parameters is None else f"{parameters:,}"
    return f"| {name} | {_scores(test, measures)} | | | {size} | |"


def _entry_row(row: EntryRow, told: Measure, measures: Sequence[Measure]) -> str:
    name = f"{row.student}, {'labels alone' if row.teacher is None else f'{row.method}, {row.teacher}'}"
    name = f"**{name}**" if row.chosen else name
    gain = "" if row.gain_points is None else _gain(row.gain_points[told.name], told)
    gap = "" if row.gap_recovered is None else f"{row.gap_recovered:.0%}"
    latency = "" if row.latency_ms is None else f"{row.latency_ms:.3f}"
    return f"| {name} | {_scores(row.test, measures)} | {gain} | {gap} | {row.parameters:,} | {latency} |"


def _gain(gain: SeedGain, told: Measure) -> str:
    std = "" if gain.std is None else f" ± {gain_text(told, gain.std).removeprefix('+')}"
    return f"{gain_text(told, gain.mean)}{std} ({_interval(gain, told)})"


def _interval(gain: SeedGain, told: Measure) -> str:
    return f"{gain_text(told, gain.low)} to {gain_text(told, gain.high)}"


def _scores(test: ScoreTable, measures: Sequence[Measure]) -> str:
    return " | ".join(_spread(test[one.name], one) for one in measures)


def _spread(spread: Spread, measure: Measure) -> str:
    std = "" if spread.std is None else f" ± {figure_text(measure, spread.std)}"
    return figure_text(measure, spread.mean) + std
