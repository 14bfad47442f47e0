"""The page of `mmkd-study`: which student to use, what speaks for it, and everything that was tried.

Joins the checked document, the sentences, the tables and the figures into the template; decides nothing itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmkd_report.documents.figures import Measure
from mmkd_report.documents.study import (
    StudyDocument,
    TrialRow,
    chosen_entry,
    read_study,
)
from mmkd_report.pages.demo.tables import facts, machine_facts
from mmkd_report.pages.page import render_page
from mmkd_report.pages.study.answer import RACE, answer, caution, key_figures, question
from mmkd_report.pages.study.charts import effect_panels, gain_panels, pareto, score_panels
from mmkd_report.pages.study.table import result_groups
from mmkd_report.words.formats import NOTHING, count, plain, share, significant
from mmkd_report.words.labelled import what_is_labelled
from mmkd_report.words.measures import figure, labels_in_words

_AS_USUAL = (None, "none", "fresh")  # what a recipe says where it asks for nothing special
MOST_TRIALS = 300
"""More of them are told by their number: the document has them all."""


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
    groups = study.facts.labelled_groups
    return render_page(
        "study.html.j2",
        {
            "study": study,
            "race": RACE if study.facts.choose else "",
            "told": study.facts,
            "data": study.dataset,
            "best": best,
            "measure": study.told_by,
            "chosen_by": study.chosen_by,
            "labels": labels_in_words(study.dataset.kind, study.dataset.labels),
            "question": question(study),
            "labelled": "" if groups is None else what_is_labelled(groups),
            "answer": answer(study),
            "caution": caution(study),
            "key_figures": key_figures(study),
            "groups": result_groups(study),
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
