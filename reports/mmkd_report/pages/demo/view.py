"""The page of `mmkd-demo`: which one sensor is enough, and what distillation buys.

Joins the checked document, the sentences, the tables and the figures into the template; decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmkd_report.documents.demo import DemoDocument, Network, read_demo
from mmkd_report.pages.demo.answer import answer, best_student, leak, question, teacher_name
from mmkd_report.pages.demo.charts import accuracy_panels, attention_pair, curve_panels, missing_charts
from mmkd_report.pages.demo.key_figures import key_figures
from mmkd_report.pages.demo.tables import (
    Confusion,
    LabelRow,
    confusions,
    facts,
    label_rows,
    latency_rows,
    machine_facts,
    result_groups,
    stage_bars,
    subset_rows,
    written_spread,
)
from mmkd_report.pages.page import render_page
from mmkd_report.words.labelled import what_is_labelled
from mmkd_report.words.measures import labels_in_words, told


def render_demo(document: Mapping[str, Any]) -> str:
    """The page of one demo run as HTML: one file without scripts or requests, for light, dark and paper.

    Args:
        document: What `mmkd-demo --json` writes. Keys that may be absent or null are left out of the page.

    Returns:
        The whole file. Equal documents give equal bytes.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    demo = read_demo(document)
    best = best_student(demo)
    columns, shown, folded = subset_rows(demo)
    return render_page(
        "demo.html.j2",
        {
            "demo": demo,
            "question": question(demo),
            "answer": answer(demo),
            "leak": leak(demo),
            "labelled": "" if demo.labelled_groups is None else what_is_labelled(demo.labelled_groups),
            "best": best,
            "best_bundle": demo.students[best].bundle if best is not None else None,
            "best_reference": demo.students[best].reference if best is not None else None,
            "teacher_name": teacher_name(demo),
            "key_figures": key_figures(demo),
            "groups": result_groups(demo),
            "accuracy_panels": accuracy_panels(demo),
            "teacher_confusion": next(confusions("Teacher", "teacher", demo.teacher, demo.dataset.labels), None),
            "confusion_groups": _confusion_groups(demo),
            "curves": curve_panels(demo),
            "attention": attention_pair(demo),
            "subset_columns": columns,
            "subsets": shown,
            "sensors_failed": any(not all(row.used) for row in (*shown, *folded)),
            "guess": _guess(demo),
            "folded_subsets": folded,
            "missing": missing_charts(demo),
            "latencies": latency_rows(demo),
            "stages": stage_bars(demo.benchmark.stages_us if demo.benchmark else None),
            "benchmark_machine": machine_facts(demo.benchmark.machine if demo.benchmark else None),
            "measure": demo.told_by,
            "chosen_by": demo.chosen_by,
            "labels": labels_in_words(demo.kind, demo.dataset.labels) if demo.dataset.labels else "",
            "label_tables": _label_tables(demo),
            "sizes": [
                (size, written_spread(size.valid_score, demo.seeds, demo.chosen_by))
                for size in demo.teacher.sizes_tried or ()
            ],
            "rates": _learning_rates(demo),
            "bundles": [(name, contest.bundle) for name, contest in demo.students.items() if contest.bundle],
            "versions": facts(demo.versions),
            "machine": machine_facts(demo.machine),
            "one_seed": len(demo.seeds) == 1,
        },
    )


def _guess(demo: DemoDocument) -> str:
    """What guessing scores, the same on every sensor; empty where the document does not say."""
    found = next((one.student.guessing for one in demo.students.values() if one.student.guessing is not None), None)
    return "" if found is None else f"{'scores' if demo.told_by.is_share else 'has'} {told(found.figure, demo.told_by)}"


def _confusion_groups(demo: DemoDocument) -> list[tuple[str, list[Confusion]]]:
    """Baseline and student of each modality, side by side."""
    labels = demo.dataset.labels
    groups = []
    for name, contest in demo.students.items():
        pair = [
            *confusions("Labels only", "baseline", contest.baseline, labels),
            *confusions("Distilled student", "student", contest.student, labels),
        ]
        if pair:
            groups.append((name, pair))
    return groups


def _label_tables(demo: DemoDocument) -> list[tuple[str, tuple[LabelRow, ...]]]:
    """Of several labels: how the teacher and every student answer for each of them."""
    networks: list[tuple[str, Network]] = [("All sensors, teacher", demo.teacher)]
    networks += [(f"{name}, distilled student", contest.student) for name, contest in demo.students.items()]
    tables = [(title, label_rows(network, demo.dataset.labels)) for title, network in networks]
    return [(title, rows) for title, rows in tables if rows]


def _learning_rates(demo: DemoDocument) -> list[tuple[str, list[float]]]:
    """The learning rates that each modality's baseline chose for itself, without repeats, from small to large."""
    rates = []
    for name, contest in demo.students.items():
        chosen = contest.baseline.learning_rate if contest.baseline else None
        known = sorted({rate for rate in chosen or () if rate is not None})
        if known:
            rates.append((name, known))
    return rates
