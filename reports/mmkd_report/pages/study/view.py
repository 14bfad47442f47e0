"""The page of `mmkd-study`: which student to use, what speaks for it, and everything that was tried.

Joins the checked document, the sentences, the tables and the figures into the template; decides nothing itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmkd_report.documents.figures import Measure
from mmkd_report.documents.study import (
    NONE,
    EntryRow,
    ScoreTable,
    StudyDocument,
    TeacherRow,
    TrialRow,
    chosen_entry,
    read_study,
)
from mmkd_report.pages.demo.tables import facts, machine_facts
from mmkd_report.pages.page import render_page
from mmkd_report.pages.study.answer import RIVAL_NAMES, answer, caution, key_figures, question
from mmkd_report.pages.study.charts import effect_panels, entry_name, gain_panels, pareto, score_panels
from mmkd_report.words.formats import NOTHING, count, is_figure, magnitude, plain, share, significant, with_unit
from mmkd_report.words.measures import difference, figure, gain_interval, labels_in_words, spread_of_seeds

_AS_USUAL = (None, "none", "fresh")  # what a recipe says where it asks for nothing special
MOST_TRIALS = 300
"""More of them are told by their number: the document has them all."""


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One written row of the main table; `scores` are those of the document's measures."""

    role: str
    name: str
    mark: str
    scores: tuple[str, ...]
    gain: str
    gain_interval: str
    gap_recovered: str
    parameters: str
    latency: str
    rates: str


def render_study(document: Mapping[str, Any]) -> str:
    """The page of one study as HTML: one file without scripts or requests, for light, dark and paper.

    Args:
        document: What `study.json` holds.

    Returns:
        The whole file. Equal documents give equal bytes.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    study = read_study(document)
    best, latency = chosen_entry(study), study.recommendation.latency
    return render_page(
        "study.html.j2",
        {
            "study": study,
            "told": study.facts,
            "data": study.dataset,
            "best": best,
            "measure": study.told_by,
            "chosen_by": study.chosen_by,
            "labels": labels_in_words(study.dataset.kind, study.dataset.labels),
            "question": question(study),
            "answer": answer(study),
            "caution": caution(study),
            "key_figures": key_figures(study),
            "groups": _groups(study),
            "score_panels": score_panels(study),
            "gain_panels": gain_panels(study),
            "effect_panels": effect_panels(study),
            "pareto": pareto(study),
            "sizes": _sizes(study),
            "methods": [(method.name, _recipe_in_words(method.recipe)) for method in study.methods],
            "trials": [_trial(trial, study.chosen_by) for trial in _best_first(study.trials)[:MOST_TRIALS]],
            "hidden_trials": max(0, len(study.trials) - MOST_TRIALS),
            "hashes": _hashes(study),
            "versions": facts(study.versions),
            "machine": machine_facts(latency.machine if latency is not None else None),
            "one_seed": len(study.facts.seeds) == 1,
        },
    )


def _groups(study: StudyDocument) -> list[tuple[str, list[TableRow]]]:
    """Teachers, then every student size with labels alone first, then the rivals."""
    groups: list[tuple[str, list[TableRow]]] = []
    if study.teachers:
        groups.append(
            (
                "teachers",
                [
                    _other(
                        "teacher",
                        one.name,
                        one.test,
                        magnitude(one.parameters),
                        measures=study.measures,
                        mark=_mark(one, study),
                    )
                    for one in study.teachers
                ],
            )
        )
    for size in dict.fromkeys(entry.student for entry in study.entries):
        rows = [_row(entry, study) for entry in study.entries if entry.student == size]
        groups.append((f"{size} student", rows))
    rivals = [
        _other("extra_trees", RIVAL_NAMES.get(one.name, one.name), one.test, NOTHING, measures=study.measures)
        for one in study.rivals
        if one.test is not None
    ]
    if rivals:
        groups.append(("without a network", rivals))
    return groups


def _row(entry: EntryRow, study: StudyDocument) -> TableRow:
    measure = study.told_by
    gain = None if entry.gain_points is None else entry.gain_points[measure.name]
    return TableRow(
        role="baseline" if entry.method == NONE else "student" if entry.chosen else "candidate",
        name=entry_name(entry, study),
        mark="chosen" if entry.chosen else "",
        scores=_scores(entry.test, study.measures),
        gain=NOTHING if gain is None else difference(gain.mean, measure) + _spread_of_gain(gain.std, measure),
        gain_interval=NOTHING if gain is None else gain_interval(gain.low, gain.high, measure),
        gap_recovered=NOTHING if entry.gap_recovered is None else share(round(entry.gap_recovered, 2)),
        parameters=magnitude(entry.parameters),
        latency=with_unit(significant(entry.latency_ms), "ms"),
        rates=", ".join(plain(rate) for rate in dict.fromkeys(entry.learning_rates)),
    )


def _spread_of_gain(std: float | None, measure: Measure) -> str:
    return f" ± {difference(std, measure).lstrip('+')}" if is_figure(std) else ""


def _mark(teacher: TeacherRow, study: StudyDocument) -> str:
    """Where several sizes can be compared, which one is the smallest within half a point of the best on validation."""
    single = [one for one in study.teachers if one.valid_score is not None]
    return "smallest near the best" if teacher.is_reference and len(single) > 1 else ""


def _other(
    role: str, name: str, test: ScoreTable, parameters: str, *, measures: Sequence[Measure], mark: str = ""
) -> TableRow:
    return TableRow(
        role=role,
        name=name,
        mark=mark,
        scores=_scores(test, measures),
        gain=NOTHING,
        gain_interval=NOTHING,
        gap_recovered=NOTHING,
        parameters=parameters,
        latency=NOTHING,
        rates="",
    )


def _scores(test: ScoreTable, measures: Sequence[Measure]) -> tuple[str, ...]:
    return tuple(spread_of_seeds(test[one.name].mean, test[one.name].std, one) for one in measures)


def _sizes(study: StudyDocument) -> list[tuple[str, str, str, str, str, str]]:
    rows = []
    for size in study.students:
        times = size.latency.student_ms if size.latency is not None else {}
        rows.append(
            (
                size.preset,
                count(size.parameters),
                significant(size.mflops),
                significant(times.get("p50")),
                significant(times.get("p99")),
                size.excluded,
            )
        )
    return rows


def _recipe_in_words(recipe: Mapping[str, Any] | None) -> str:
    """The terms of a recipe with their weights, and whatever else it says."""
    if recipe is None:
        return "cross-entropy against the labels"
    terms = [_term_in_words(term) for term in recipe.get("terms", ())]
    more = [
        f"{name.replace('_', ' ')} {_value(value)}"
        for name, value in recipe.items()
        if name != "terms" and value not in _AS_USUAL
    ]
    return "; ".join([*terms, *more])


def _term_in_words(term: Mapping[str, Any]) -> str:
    weight = term.get("weight") or {}
    start, end, until = (weight.get(name) for name in ("start", "end", "until"))
    written = plain(start) if start == end else f"{plain(start)} to {plain(end)}"
    if start != end and until is not None and until < 1:
        written += f" after {share(until)}"
    more = [
        f"{name.replace('_', ' ')} {_value(value)}"
        for name, value in term.items()
        if name not in ("type", "weight") and value is not None
    ]
    return f"{term.get('type')} {written}" + (f" ({', '.join(more)})" if more else "")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return plain(float(value))
    if isinstance(value, Mapping):
        return " ".join(f"{name} {_value(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(_value(inner) for inner in value)
    return str(value)


def _best_first(trials: tuple[TrialRow, ...]) -> list[TrialRow]:
    return sorted(trials, key=lambda trial: math.inf if trial.score is None else -trial.score)


def _trial(trial: TrialRow, measure: Measure) -> tuple[str, ...]:
    state = f"{trial.state}: {trial.reason}" if trial.reason else trial.state
    return (
        trial.method,
        trial.student,
        trial.teacher or NOTHING,
        plain(trial.learning_rate),
        str(trial.seed),
        figure(trial.score, measure),
        state,
    )


def _hashes(study: StudyDocument) -> list[tuple[str, str]]:
    rows = [("dataset", study.dataset.sha256)]
    if study.recommendation.sha256 is not None:
        rows.append(("student.ckpt", study.recommendation.sha256))
    for teacher in study.teachers:
        each = max(1, len(teacher.sha256) // max(1, len(teacher.seeds)))  # several together have several files a seed
        rows += [
            (f"teacher {teacher.name}, seed {teacher.seeds[number // each]}", digest)
            for number, digest in enumerate(teacher.sha256)
        ]
    return rows
