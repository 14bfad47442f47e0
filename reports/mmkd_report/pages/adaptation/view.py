"""The page of `mmkd-adapt`: what was tried, what the old and the new domain say of it, and what the gate did.

Owns the sentences and the tables; terminals use its words of the estimates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmkd_report.charts.dots import SeedFigures, dot_panel
from mmkd_report.charts.plots import DotPanel, axis
from mmkd_report.documents.adaptation import AdaptationDocument, EstimateKind, WayJudgement, read_adaptation
from mmkd_report.documents.figures import MEASURES, OF_CLASSES, Measure
from mmkd_report.pages.page import render_page
from mmkd_report.words.formats import fixed, percent, points
from mmkd_report.words.measures import told

ESTIMATES: dict[EstimateKind, str] = {
    "labels": "closeness to the labels of new windows",
    "agreement": "closeness to the teacher on new windows that did not teach",
    "weighted": "closeness to the labels of old windows, like new ones counting more; a teacher or labels tell more",
}
_AS_IT_IS = "as it is"
_SHARE = OF_CLASSES[0]


def render_adaptation(document: Mapping[str, Any]) -> str:
    """The page of an adaptation as HTML: one file without scripts or requests, for light, dark and paper.

    Args:
        document: What `mmkd-adapt --json` writes.

    Returns:
        The whole file. Equal documents give equal bytes.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    found = read_adaptation(document)
    return render_page(
        "adaptation.html.j2",
        {
            "found": found,
            "measure": _measure(found),
            "estimate": ESTIMATES[found.estimated_by],
            "answer": tuple(answer(found)),
            "panels": _panels(found),
            "rows": [_row(found, one) for one in found.ways],
            "before": (percent(found.estimate), percent(found.old_score)),
            "share_heads": _share_heads(found),
            "shares": list(_shares(found)),
        },
    )


def answer(found: AdaptationDocument) -> Iterator[str]:
    """Gives what a reader wants to know first, a sentence each."""
    chosen = found.chosen_way
    measure = _measure(found)
    if chosen is None:
        yield (
            f"No way of adapting to {found.new.name} may be written: each is refused below. The student stays as it "
            f"is, at {told(found.estimate, _SHARE)} there and {told(found.old_score, measure)} on {found.old.name}"
        )
        return
    what = f"written to {found.written}" if found.written else "what would be written"
    before, after = told(found.estimate, _SHARE), told(chosen.estimate, _SHARE)
    yield (
        f"The way {chosen.name!r} is {what}: on {found.new.name} the estimate rises from {before} to {after} "
        f"({points(chosen.gain_points)} points, standard error "
        f"{fixed(chosen.standard_error_points)})"
    )
    yield (
        f"On {found.old.name} {measure.words} goes from {told(found.old_score, measure)} to "
        f"{told(chosen.old_score, measure)}; {fixed(found.max_forget_points)} points may be lost"
    )


def _measure(found: AdaptationDocument) -> Measure:
    return next((one for one in MEASURES if one.name == found.metric), _SHARE)


def _panels(found: AdaptationDocument) -> tuple[DotPanel, DotPanel]:
    """The new and the old domain: a row for the student as it is, and for each way."""
    return (
        _panel(
            found,
            f"New: {found.new.name}",
            "estimate in percent",
            found.estimate,
            [one.estimate for one in found.ways],
            _SHARE,
        ),
        _panel(
            found,
            f"Old: {found.old.name}",
            _measure(found).words,
            found.old_score,
            [one.old_score for one in found.ways],
            _measure(found),
        ),
    )


def _panel(
    found: AdaptationDocument, title: str, about: str, before: float, after: Sequence[float], measure: Measure
) -> DotPanel:
    values = [found.estimate, found.old_score]
    values += [value for one in found.ways for value in (one.estimate, one.old_score)]
    names = [_AS_IT_IS, *(one.name for one in found.ways)]
    roles = ["baseline", *("student" if one.way == found.chosen else "other" for one in found.ways)]
    rows = [
        SeedFigures(role=role, name=name, mean=value, std=None, seeds=(), per_seed=())
        for role, name, value in zip(roles, names, [before, *after], strict=True)
    ]
    over = axis(values, floor=0.0, ceiling=1.0)
    return dot_panel(rows, over, measure, title=title, about=about, reference=before)


def _row(found: AdaptationDocument, one: WayJudgement) -> tuple[str, bool, list[str], str]:
    """A way, whether it was chosen, its figures, and what the gate says of it."""
    figures = [
        percent(one.estimate),
        f"{points(one.gain_points)} ± {fixed(one.standard_error_points)}",
        percent(one.old_score),
        points(0 - one.forgotten_points) + _give_or_take(one.forgotten_error_points),
    ]
    is_chosen = one.way == found.chosen
    return one.name, is_chosen, figures, "; ".join(one.refusals) or ("chosen" if is_chosen else "passes")


def _give_or_take(error: float | None) -> str:
    return "" if error is None else f" ± {fixed(error)}"


def _share_heads(found: AdaptationDocument) -> list[str]:
    right = ["taken for right"] if found.right_shares else []
    return [*right, _AS_IT_IS, *(one.name for one in found.ways if one.shares)]


def _shares(found: AdaptationDocument) -> Iterator[tuple[str, list[str]]]:
    """Each class, and its share of what is taken for right and of the answers before and after, in percent."""
    columns = [*([found.right_shares] if found.right_shares else []), found.shares]
    columns += [one.shares for one in found.ways if one.shares]
    for number, name in enumerate(found.classes):
        yield name, [percent(column[number], 0) if number < len(column) else "" for column in columns]
