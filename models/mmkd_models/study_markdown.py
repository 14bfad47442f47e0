"""The table of a study as Markdown, with its command above it and its coverage below: for a page of results."""

from __future__ import annotations

from collections.abc import Sequence

from mmkd_models.fold_result import Spread
from mmkd_models.study_document import EntryRow, ScoreTable, StudyDocument

_HEAD = (
    "| model | accuracy, % | balanced accuracy, % | macro-F1, % | gain, points (95 % interval) | gap recovered "
    "| parameters | latency, ms |"
)


_RIVALS = {"extra_trees": "extra-trees", "mini_rocket": "MiniRocket"}


def study_section(document: StudyDocument) -> str:
    """Gives a section: heading, command, table, coverage and choice."""
    facts, dataset = document.facts, document.dataset
    lines = [
        f"## {dataset.name}, {facts.modality}, {facts.label_share:.0%} labelled",
        "",
        "```sh",
        document.command,
        "```",
        "",
        _HEAD,
        "|---" * 8 + "|",
        *(_teacher_row(teacher.name, teacher.test, teacher.parameters) for teacher in document.teachers),
        *(_teacher_row(_RIVALS[rival.name], rival.test, None) for rival in document.rivals if rival.test is not None),
        *(_entry_row(row, facts.metric) for row in document.entries),
        "",
        *_notes(document),
    ]
    return "\n".join(lines) + "\n"


def _notes(document: StudyDocument) -> list[str]:
    facts, coverage, chosen = document.facts, document.coverage, document.recommendation
    expected = f" of {coverage.expected}" if coverage.expected is not None else ""
    how = "a grid" if facts.mode == "grid" else f"a search on seeds {_listed(facts.search_seeds)}"
    end = "." if coverage.complete else "; not complete."
    rates = ", ".join(f"{rate:g}" for rate in facts.learning_rates)
    covered = (
        f"Coverage: {how}; seeds {_listed(facts.seeds)}; {coverage.finished}{expected} trainings finished, "
        f"{coverage.pruned} given up as hopeless, {coverage.failed} failed{end}"
    )
    notes = [covered]
    notes.append(
        f"Students had {facts.student_steps} steps, teachers {facts.teacher_steps}; every method chose its learning "
        f"rate by validation among {rates}."
    )
    if chosen is not None:
        notes.append(f"Chosen by validation: {chosen.method}, {chosen.student}.")
    if document.selection is not None and len(facts.seeds) > 1:
        gain = document.selection.gain_points[facts.metric]
        notes.append(
            f"Chosen anew inside every fold, the gain is {gain.mean:+.1f} points ({gain.low:+.1f} to {gain.high:+.1f})."
        )
    return notes


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _teacher_row(name: str, test: ScoreTable, parameters: int | None) -> str:
    size = "" if parameters is None else f"{parameters:,}"
    return f"| {name} | {_scores(test)} | | | {size} | |"


def _entry_row(row: EntryRow, metric: str) -> str:
    name = f"{row.student}, {'labels alone' if row.teacher is None else f'{row.method}, {row.teacher}'}"
    name = f"**{name}**" if row.chosen else name
    gain = "" if row.gain_points is None else _gain(row, metric)
    gap = "" if row.gap_recovered is None else f"{row.gap_recovered:.0%}"
    latency = "" if row.latency_ms is None else f"{row.latency_ms:.3f}"
    return f"| {name} | {_scores(row.test)} | {gain} | {gap} | {row.parameters:,} | {latency} |"


def _gain(row: EntryRow, metric: str) -> str:
    assert row.gain_points is not None  # asked for before
    gain = row.gain_points[metric]
    std = "" if gain.std is None else f" ± {gain.std:.1f}"
    return f"{gain.mean:+.1f}{std} ({gain.low:+.1f} to {gain.high:+.1f})"


def _scores(test: ScoreTable) -> str:
    return " | ".join(_spread(one) for one in (test.accuracy, test.balanced_accuracy, test.macro_f1))


def _spread(spread: Spread) -> str:
    return f"{100 * spread.mean:.1f}" + ("" if spread.std is None else f" ± {100 * spread.std:.1f}")
