"""The table of a study as Markdown, with its command above it and its coverage below: for a page of results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmkd_report.documents.study import StudyDocument
from mmkd_report.pages.study.answer import RACE, study_leak
from mmkd_report.pages.study.table import TableRow, result_groups
from mmkd_report.words.formats import NOTHING, for_terminal, is_figure, listed, plain, things
from mmkd_report.words.labelled import labelled_title
from mmkd_report.words.measures import difference, gain_interval, with_gain_unit


def study_section(study: StudyDocument) -> str:
    """A section: heading, command, table, coverage and choice."""
    facts, told = study.facts, study.told_by
    head = ["model", *(f"{one.words}, {one.unit}" if one.unit else one.words for one in study.measures)]
    head += [f"{told.gain_heading.lower()} (95 % interval)", "gap recovered", "parameters", "latency"]
    lines = [
        f"## {study.dataset.name}, {facts.modality}, {labelled_title(facts.label_share, facts.labelled_groups)}",
        "",
        "```sh",
        study.command,
        "```",
        "",
        _line(head),
        "|---" * len(head) + "|",
        *(_line(_cells(title, row)) for title, rows in result_groups(study) for row in rows),
        "",
        *_notes(study),
    ]
    return for_terminal("\n".join(lines)) + "\n"


def judged_on(study: StudyDocument) -> str:
    """What a study is judged on, behind the name of a measure: what the windows are, and of how many folds."""
    split, folds = study.dataset.split, len(study.facts.seeds)
    of_folds = "" if split is not None and split.by == "own split" else f" ({things(folds, 'fold')})"
    windows = "people and machines never seen" if split is None else split.judged_on
    return f"{windows}{of_folds}, {labelled_title(study.facts.label_share, study.facts.labelled_groups)}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join('' if cell == NOTHING else cell for cell in cells)} |"


def _cells(title: str, row: TableRow) -> tuple[str, ...]:
    name = f"{title.removesuffix(' student')}, {row.name}" if title.endswith(" student") else row.name
    gain = row.gain if row.gain_interval == NOTHING else f"{row.gain} ({row.gain_interval})"
    name = f"**{name}**" if row.mark == "chosen" else name
    return (name, *row.scores, gain, row.gap_recovered, row.parameters, row.latency)


def _notes(study: StudyDocument) -> Iterator[str]:
    facts, coverage, chosen, told = study.facts, study.coverage, study.recommendation, study.told_by
    resampled = "whole groups" if study.dataset.split is None else study.dataset.split.resampled
    needed = f"no intervals, which resample {resampled} and need five"
    intervals = f"intervals by resampling {resampled}" if study.has_intervals else needed
    yield f"Judged on {judged_on(study)}; {intervals}."
    expected = f" of {coverage.expected}" if coverage.expected is not None else ""
    end = "." if coverage.complete else "; not complete."
    how = "a grid" if facts.mode == "grid" else f"a search on seeds {_numbers(facts.search_seeds)}"
    yield (
        f"Coverage: {how}; seeds {_numbers(facts.seeds)}; {coverage.finished}{expected} trainings finished, "
        f"{coverage.pruned} given up as hopeless, {coverage.failed} failed{end}"
    )
    yield (
        f"Students had {facts.student_steps} steps, teachers {facts.teacher_steps}; every method chose its learning "
        f"rate by validation among {listed([plain(rate) for rate in facts.learning_rates])}."
    )
    if facts.choose:
        yield RACE
    if leak := study_leak(study):
        yield leak
    yield f"Chosen by validation: {chosen.method}, {chosen.student}."
    if study.selection is not None and len(facts.seeds) > 1:
        gain = study.selection.gain_points[told.name]
        written = with_gain_unit(difference(gain.mean, told), told)
        span = f" ({gain_interval(gain.low, gain.high, told)})" if is_figure(gain.low) else ""
        yield f"Chosen anew inside every fold, the gain is {written}{span}."


def _numbers(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
