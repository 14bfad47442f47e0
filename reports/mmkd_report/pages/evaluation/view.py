"""The page of `mmkd-evaluate`: what is left of a model when sensors, samples and whole spans are missing.

Owns the sentences, the curves and the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from mmkd_report.charts.plots import Axis, LineChart, PlotSeries, axis, line_chart, tight_axis
from mmkd_report.documents.evaluation import (
    DataFacts,
    EvaluationDocument,
    Judgement,
    ModelFacts,
    ShareJudgement,
    read_evaluation,
)
from mmkd_report.documents.figures import ClassScores
from mmkd_report.pages.page import render_page
from mmkd_report.words.formats import (
    NOTHING,
    count,
    interval,
    is_figure,
    listed,
    magnitude,
    percent,
    points,
    share,
    with_unit,
)
from mmkd_report.words.guessing import beside_guessing, is_refuted
from mmkd_report.words.measures import told


@dataclass(frozen=True, kw_only=True)
class Row:
    """One condition of the table, as written; `width` is the metric in percent of the full bar."""

    name: str
    accuracy: str
    balanced_accuracy: str
    macro_f1: str
    width: float
    other: str
    gain: str
    interval: str


def render_evaluation(document: Mapping[str, Any]) -> str:
    """The page of one evaluation as HTML: one file without scripts or requests, for light, dark and paper.

    Args:
        document: What `mmkd-evaluate --json` writes.

    Returns:
        The whole file. Equal documents give equal bytes.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    found = read_evaluation(document)
    role = "teacher" if found.model.kind == "teacher" else "student"
    name, other = _names(found)
    charts = tuple(_charts(found, role))
    return render_page(
        "evaluation.html.j2",
        {
            "found": found,
            "measure": found.measure.words,
            "name": name,
            "other": other,
            "role": role,
            "answer": tuple(_answer(found)),
            "charts": charts,
            "groups": [(title, rows) for title, rows in _groups(found) if rows],
            "facts": _facts(found),
        },
    )


def _names(found: EvaluationDocument) -> tuple[str, str | None]:
    """The two models by their files' names, or by their paths where these are the same."""
    if found.against is None:
        return PurePath(found.model.path).name, None
    ours, theirs = (PurePath(model.path).name for model in (found.model, found.against))
    return (ours, theirs) if ours != theirs else (found.model.path, found.against.path)


def _score(found: EvaluationDocument, scores: ClassScores | None) -> float | None:
    return None if scores is None else float(getattr(scores, found.metric))


def _answer(found: EvaluationDocument) -> Iterator[str]:
    """What a reader wants to know first."""
    measure, name = found.measure, _names(found)[0]
    if found.complete.guessing is not None and is_refuted(found.complete.guessing):
        figures = beside_guessing(measure.words, _score(found, found.complete.scores), found.complete.guessing, measure)
        yield f"{name} is not better than guessing, so nothing is concluded ({figures})."
        return
    yield f"With everything there, {name} reaches {_told(found, found.complete)} {measure.words}{_beside(found)}."
    singles = [one for one in found.subsets if len(one.modalities) == 1 and len(found.model.modalities) > 1]
    if singles:
        best = max(singles, key=lambda one: _score(found, one.scores) or 0.0)
        yield f"With {best.modalities[0]} alone, its best single sensor, {_left(found, best)}."
    for name, judged in (("half of the samples", found.samples), ("a burst of half of the window", found.bursts)):
        half = next((one for one in judged if abs(one.share - 0.5) < 1e-9), None)
        if half is not None:
            yield f"With {name} missing, {_left(found, half)}."


def _told(found: EvaluationDocument, one: Judgement) -> str:
    return told(_score(found, one.scores), found.measure)


def _left(found: EvaluationDocument, one: Judgement) -> str:
    guess = one.guessing
    worse = f", no better than guessing ({told(guess.figure, found.measure)})" if guess and is_refuted(guess) else ""
    return f"{_told(found, one)} are left{worse}{_beside(found, one)}"


def _beside(found: EvaluationDocument, one: Judgement | None = None) -> str:
    """What the model is better or worse by than the other one, with the certainty that the interval allows."""
    gain, other = (one or found.complete).gain, _names(found)[1]
    if gain is None or other is None:
        return ""
    text = f": {points(gain.points)} points beside {other}"
    if gain.low is None or gain.high is None:
        return f"{text}, with no interval to judge it by"
    doubt = ", no certain difference" if gain.low <= 0 <= gain.high else ""
    return f"{text}{doubt} (95 % interval {interval(gain.low, gain.high)})"


def _charts(found: EvaluationDocument, role: str) -> Iterator[LineChart]:
    judged = [one for part in (found.samples, found.bursts) for one in part]
    values = [_score(found, scores) for one in judged for scores in (one.scores, one.against)]
    over = axis(values, floor=0.0, ceiling=1.0)
    parts = (("Missing samples", "samples missing, %", found.samples), ("Bursts", "window missing, %", found.bursts))
    for title, label, part in parts:
        if part:
            yield _chart(found, role, title, label, part, over)


def _chart(
    found: EvaluationDocument, role: str, title: str, label: str, part: Sequence[ShareJudgement], over: Axis
) -> LineChart:
    shares = [one.share for one in part]
    name, other = _names(found)
    series = [PlotSeries(role=role, name=name, x=shares, y=[_score(found, one.scores) for one in part])]
    if other is not None:
        beside = [_score(found, one.against) for one in part]
        series.insert(0, PlotSeries(role="baseline", name=other, x=shares, y=beside))
    spoken = "; ".join(f"{one.name} {' '.join(percent(value) for value in one.y)}" for one in series)
    return line_chart(
        series,
        title=title,
        description=f"At {' '.join(percent(share, 0) for share in shares)} percent missing: {spoken}.",
        x_label=label,
        x_axis=tight_axis(shares),
        y_axis=over,
        x_text=lambda value: percent(value, 0),
        y_text=lambda value: percent(value, 0),
    )


def _groups(found: EvaluationDocument) -> Iterator[tuple[str, list[Row]]]:
    yield "Everything there", [_row(found, " + ".join(found.model.modalities), found.complete)]
    subsets = [one for one in found.subsets if len(one.modalities) < len(found.model.modalities)]
    yield "Sensors missing", [_row(found, " + ".join(one.modalities), one) for one in subsets]
    yield "Samples missing", [_row(found, with_unit(percent(one.share, 0), "%"), one) for one in _gone(found.samples)]
    yield "A burst missing", [_row(found, with_unit(percent(one.share, 0), "%"), one) for one in _gone(found.bursts)]


def _gone(part: Sequence[ShareJudgement]) -> list[ShareJudgement]:
    return [one for one in part if one.share > 0]


def _row(found: EvaluationDocument, name: str, one: Judgement) -> Row:
    score = _score(found, one.scores)
    return Row(
        name=name,
        accuracy=percent(one.scores.accuracy),
        balanced_accuracy=percent(one.scores.balanced_accuracy),
        macro_f1=percent(one.scores.macro_f1),
        width=round(100 * score, 1) if is_figure(score) else 0.0,
        other=percent(_score(found, one.against)),
        gain=NOTHING if one.gain is None else points(one.gain.points),
        interval=NOTHING if one.gain is None else interval(one.gain.low, one.gain.high),
    )


def _facts(found: EvaluationDocument) -> list[tuple[str, list[tuple[str, str]]]]:
    data = found.data
    of_data = [
        ("name", data.name),
        ("windows", f"{count(data.windows)} {data.part}, {data.apart}"),
        ("SHA-256", data.sha256),
    ]
    name, other = _names(found)
    groups = [("Data", of_data), (name, _model_facts(found.model, data))]
    if found.against is not None and other is not None:
        groups.append((other, _model_facts(found.against, data)))
    return groups


def _model_facts(model: ModelFacts, data: DataFacts) -> list[tuple[str, str]]:
    taught = "by a teacher" if model.distilled else "by labels alone"
    practised = (
        (model.modality_dropout, "a modality in {} of the windows"),
        (model.span_dropout, "a span in {} of the windows"),
        (model.channel_dropout, "{} of the channels"),
    )
    hidden = listed([text.format(share(value)) for value, text in practised if value > 0]) or "nothing"
    trained = "this dataset" if model.dataset_sha256 == data.sha256 else f"another dataset, {model.dataset_sha256}"
    return [
        ("what", f"{model.kind} of {' + '.join(model.modalities)}, {magnitude(model.parameters)} parameters"),
        ("taught", taught),
        ("hidden in training", hidden),
        ("trained on", trained),
        ("file", model.path),
        ("SHA-256", model.sha256),
    ]
