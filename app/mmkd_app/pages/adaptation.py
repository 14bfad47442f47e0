"""The page of `mmkd-adapt`."""

from __future__ import annotations

from collections.abc import Iterator

from mmkd_app.pages.page import Facts, Page, Row, Section, label, render, table
from mmkd_app.words import count, decimal, percent, points, score_with_unit
from mmkd_documents.adaptation import AdaptationDocument, EstimateKind
from mmkd_documents.figures import MEASURES, OF_CLASSES, Measure

ESTIMATES: dict[EstimateKind, str] = {
    "labels": "agreement with the labels of new windows",
    "agreement": "agreement with the teacher on new windows that were not trained on",
    "weighted": "agreement with the labels of old windows, weighted towards those like new ones; a teacher or labels "
    "give a better estimate",
}
UNCHANGED = "unchanged"
FRACTION = OF_CLASSES[0]


def render_adaptation(adaptation: AdaptationDocument) -> str:
    """Return the page as HTML."""
    new, old = adaptation.new, adaptation.old
    labels = f"{count(adaptation.labels)} labels" if adaptation.labels else "no labels"
    windows = (
        f"New windows: {count(new.learn)} to train, {count(new.judge)} to judge, {labels} used. Windows of {old.name}: "
        f"{count(old.learn)} to train, {count(old.judge)} to judge."
    )
    hashes = [("Student before", adaptation.student_sha256), ("Teacher", adaptation.teacher_sha256)]
    hashes += [(domain.name, domain.sha256) for domain in (new, old)]
    origin = [(name, f"SHA-256 {digest}") for name, digest in hashes if digest]
    return render(
        Page(
            title=f"Adapting to {new.name}",
            kind="adaptation",
            headline=f"Does adapting the student help on {new.name}?",
            lede=[f"{adaptation.modality}.", windows],
            answer=[f"{sentence}." for sentence in answer(adaptation)],
            sections=[
                _methods(adaptation),
                *_classes(adaptation),
                Section("origin", "Files and datasets", [Facts(origin)]),
            ],
            document="the document of mmkd-adapt --json",
        )
    )


def answer(adaptation: AdaptationDocument) -> Iterator[str]:
    """Yield sentences of the verdict, without full stops."""
    chosen, measure, new, old = adaptation.chosen_method, _measure(adaptation), adaptation.new, adaptation.old
    before = score_with_unit(adaptation.estimate, FRACTION)
    old_before = score_with_unit(adaptation.old_score, measure)
    if chosen is None:
        yield (
            f"No method of adapting to {new.name} passed: the reasons are below. The student stays unchanged, at "
            f"{before} there and {old_before} on {old.name}"
        )
        return
    written = f"was written to {adaptation.written}" if adaptation.written else "would be written"
    gain = f"{points(chosen.gain_points)} points, standard error {decimal(chosen.standard_error_points)}"
    yield (
        f"The method {chosen.method!r} {written}: on {new.name} the estimate rises from {before} to "
        f"{score_with_unit(chosen.estimate, FRACTION)} ({gain})"
    )
    yield (
        f"On {old.name} {measure.words} goes from {old_before} to {score_with_unit(chosen.old_score, measure)}; a loss "
        f"of {decimal(adaptation.max_forget_points)} points is allowed"
    )


def _measure(adaptation: AdaptationDocument) -> Measure:
    return next((measure for measure in MEASURES if measure.name == adaptation.metric), FRACTION)


def method_cells(adaptation: AdaptationDocument) -> Iterator[list[str]]:
    """Yield the cells of the unchanged student, then of each method."""
    yield [UNCHANGED, percent(adaptation.estimate), "", percent(adaptation.old_score), "", ""]
    for method in adaptation.methods:
        yield [
            method.method,
            percent(method.estimate),
            f"{points(method.gain_points)} ± {decimal(method.standard_error_points)}",
            percent(method.old_score),
            f"{points(0 - method.forgotten_points)} ± {decimal(method.forgotten_error_points)}",
            "; ".join(method.refusals) or ("chosen" if method.method == adaptation.chosen else "passes"),
        ]


def _methods(adaptation: AdaptationDocument) -> Section:
    roles = {UNCHANGED: "baseline", adaptation.chosen: "student"}
    rows = [Row(cells, roles.get(cells[0], "")) for cells in method_cells(adaptation)]
    lead = (
        f"New: {ESTIMATES[adaptation.estimated_by]}. Old: {_measure(adaptation).words} on unused windows. "
        "A method passes if its gain is significantly above 0, it forgets at most "
        f"{decimal(adaptation.max_forget_points)} points of the old domain, and no class vanishes; of those that pass "
        "the best estimate wins."
    )
    heads = ["Method", "New, %", "Gain, points", "Old, %", "Change, points", label("Verdict", "reason")]
    caption = "Methods with their effect and verdict"
    shown = table(heads, rows, caption=caption, style="results", hide_caption=True)
    return Section("methods", "Methods and verdicts", [shown], lead)


def _classes(adaptation: AdaptationDocument) -> Iterator[Section]:
    if adaptation.classes:
        fractions = {"Reference": adaptation.reference_fractions, UNCHANGED.capitalize(): adaptation.class_fractions}
        fractions |= {method.method.capitalize(): method.class_fractions for method in adaptation.methods}
        shown = {name: values for name, values in fractions.items() if values}
        rows = [
            [name, *(percent(values[number], 0) if number < len(values) else "" for values in shown.values())]
            for number, name in enumerate(adaptation.classes)
        ]
        caption = "Answers to the new judging windows, %. A class above 5 % must not nearly vanish."
        yield Section("classes", "Which classes it answers", [table(["Class", *shown], rows, caption=caption)])
