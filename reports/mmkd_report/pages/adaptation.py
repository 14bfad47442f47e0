"""The page of `mmkd-adapt`: the methods that were tried, their effect on the old and new domain, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmkd_report.charts import DotPanel, SeedScores, axis, draw_panels, seed_panel
from mmkd_report.page import Cell, Facts, Heads, Page, Picture, Row, Section, Table, label, render, table
from mmkd_report.schema.adaptation import AdaptationDocument, EstimateKind, MethodResult, read_adaptation
from mmkd_report.schema.figures import MEASURES, OF_CLASSES, Measure
from mmkd_report.words import count, fixed, percent, points, score_with_unit

ESTIMATES: dict[EstimateKind, str] = {
    "labels": "agreement with the labels of new windows",
    "agreement": "agreement with the teacher on new windows that were not trained on",
    "weighted": "agreement with the labels of old windows, weighted towards those like new ones; a teacher or labels "
    "give a better estimate",
}
UNCHANGED = "unchanged"
FRACTION = OF_CLASSES[0]


def render_adaptation(document: Mapping[str, Any]) -> str:
    """Return the page of an adaptation as HTML.

    Args:
        document: What `mmkd-adapt --json` writes.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    found = read_adaptation(document)
    new, old = found.new, found.old
    labels = f"{count(found.labels)} labels were used" if found.labels else "no labels of the new windows were used"
    lede = (
        f"{count(new.learn)} new windows for training and {count(new.judge)} for judging; of {old.name} "
        f"{count(old.learn)} and {count(old.judge)}; {labels}."
    )
    return render(
        Page(
            title=f"Adapting to {new.name}",
            kind="adaptation",
            headline=f"Does adapting the student help on {new.name}?",
            lede=[(True, f"{found.modality}."), (False, lede)],
            answer=[f"{sentence}." for sentence in answer(found)],
            sections=[_domains(found), _methods(found), *_classes(found), _origin(found)],
            footer="Made by mmkd-edge from the document of mmkd-adapt --json.",
        )
    )


def answer(found: AdaptationDocument) -> Iterator[str]:
    """Yield what a reader wants to know first, a sentence each without a full stop."""
    chosen, measure = found.chosen_method, _measure(found)
    if chosen is None:
        yield (
            f"No method of adapting to {found.new.name} passed: the reasons are below. The student stays unchanged, at "
            f"{score_with_unit(found.estimate, FRACTION)} there and {score_with_unit(found.old_score, measure)} on "
            f"{found.old.name}"
        )
        return
    what = f"was written to {found.written}" if found.written else "would be written"
    before, after = score_with_unit(found.estimate, FRACTION), score_with_unit(chosen.estimate, FRACTION)
    yield (
        f"The method {chosen.name!r} {what}: on {found.new.name} the estimate rises from {before} to {after} "
        f"({points(chosen.gain_points)} points, standard error {fixed(chosen.standard_error_points)})"
    )
    yield (
        f"On {found.old.name} {measure.words} goes from {score_with_unit(found.old_score, measure)} to "
        f"{score_with_unit(chosen.old_score, measure)}; a loss of {fixed(found.max_forget_points)} points is allowed"
    )


def _measure(found: AdaptationDocument) -> Measure:
    return next((one for one in MEASURES if one.name == found.metric), FRACTION)


def _domains(found: AdaptationDocument) -> Section:
    values = [found.estimate, found.old_score]
    values += [value for one in found.methods for value in (one.estimate, one.old_score)]
    over = axis(values, floor=0.0, ceiling=1.0)

    def panel(title: str, about: str, before: float, after: Sequence[float], measure: Measure) -> DotPanel:
        names = [UNCHANGED, *(one.name for one in found.methods)]
        roles = ["baseline", *("student" if one.method == found.chosen else "other" for one in found.methods)]
        rows = [
            SeedScores(role=role, name=name, mean=value)
            for role, name, value in zip(roles, names, [before, *after], strict=True)
        ]
        return seed_panel(rows, over, measure, title=title, about=about, reference=before)

    estimates, scores = [one.estimate for one in found.methods], [one.old_score for one in found.methods]
    panels = [
        panel(f"New: {found.new.name}", "estimate in percent", found.estimate, estimates, FRACTION),
        panel(f"Old: {found.old.name}", _measure(found).words, found.old_score, scores, _measure(found)),
    ]
    lead = (
        f"New: {ESTIMATES[found.estimated_by]}, in percent. Old: {_measure(found).words} on windows that were not "
        "trained on. The dashed line is the unchanged student."
    )
    picture = Picture(draw_panels(panels, note="", named=True))
    return Section(key="domains", title="New and old, before and after", lead=lead, blocks=[picture])


def _methods(found: AdaptationDocument) -> Section:
    heads: Heads = [label("Method"), "New", "Gain", "Old", "Change"]
    unchanged = Row(UNCHANGED, [percent(found.estimate), "", percent(found.old_score), "", ""], role="baseline")
    rows = [unchanged, *(_row(one, is_chosen=one.method == found.chosen) for one in found.methods)]
    lead = (
        "In percent and points. A method passes if its gain is significantly above 0, it forgets at most "
        f"{fixed(found.max_forget_points)} points of the old domain, and no class vanishes; of those that pass the "
        "best estimate wins."
    )
    methods = table(
        [*heads, label("Verdict", "reason")],
        rows,
        caption="Methods with their effect and verdict",
        style="results",
        hide_caption=True,
    )
    return Section(key="methods", title="Methods and verdicts", lead=lead, blocks=[methods])


def _row(one: MethodResult, *, is_chosen: bool) -> Row:
    cells: list[Cell | str] = [
        percent(one.estimate),
        f"{points(one.gain_points)} ± {fixed(one.standard_error_points)}",
        percent(one.old_score),
        f"{points(0 - one.forgotten_points)} ± {fixed(one.forgotten_error_points)}",
        "; ".join(one.refusals) or ("chosen" if is_chosen else "passes"),
    ]
    return Row(one.name, cells, role="student" if is_chosen else "")


def _classes(found: AdaptationDocument) -> Iterator[Section]:
    """The fraction of each class among the answers before and after."""
    if not found.classes:
        return
    columns = [*([found.right_shares] if found.right_shares else []), found.shares]
    columns += [one.shares for one in found.methods if one.shares]
    heads = [*(["Reference"] if found.right_shares else []), UNCHANGED.capitalize()]
    heads += [one.name.capitalize() for one in found.methods if one.shares]
    rows = [
        Row(name, [percent(one[number], 0) if number < len(one) else "" for one in columns])
        for number, name in enumerate(found.classes)
    ]
    reference = ", compared with the reference labels" if found.right_shares else ""
    lead = (
        f"Fraction of each class among the answers to the new judging windows, in percent{reference}. A class above 5 "
        "% must not nearly vanish."
    )
    shares: Table = table([label("Class"), *heads], rows, caption="Answers by class", hide_caption=True)
    yield Section(key="classes", title="Which classes it answers", lead=lead, blocks=[shares])


def _origin(found: AdaptationDocument) -> Section:
    hashes = [("Student before", found.student_sha256), ("Teacher", found.teacher_sha256)]
    hashes += [(found.new.name, found.new.sha256), (found.old.name, found.old.sha256)]
    rows = [(name, f"SHA-256 {digest}") for name, digest in hashes if digest]
    return Section(key="origin", title="Files and datasets", blocks=[Facts(rows=rows)])
