"""The page of `mmkd-evaluate`: how good a model is, also if sensors, samples or whole spans are missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from mmkd_report import charts, words
from mmkd_report.page import (
    BAR,
    Cell,
    Column,
    Facts,
    Legend,
    Page,
    Row,
    Section,
    bar_cell,
    columns,
    render,
    table,
)
from mmkd_report.schema.evaluation import DataFacts, EvaluationDocument, Judgement, ModelFacts, read_evaluation
from mmkd_report.schema.figures import ClassScores
from mmkd_report.words import NOTHING, count, interval, is_chance_level, percent, points, score_with_unit, share


def render_evaluation(document: Mapping[str, Any]) -> str:
    """Return the page of one evaluation as HTML.

    Args:
        document: What `mmkd-evaluate --json` writes.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    report = read_evaluation(document)
    data, (name, baseline) = report.data, _names(report)
    failing = report.has_failures
    classes = words.counted(len(data.labels), "class", "classes")
    lede = [f"{data.name}.", f"{count(data.windows)} {data.part} ({data.apart}), {classes}."]
    lede += [f"Compared with {baseline}, on the same windows{' with the same gaps' if failing else ''}."] * bool(
        baseline
    )
    return render(
        Page(
            title=f"{name}: {'how it does when sensors fail' if failing else 'how good it is'}",
            kind="evaluation",
            headline=f"How well does {name} work when sensors fail?" if failing else f"How good is {name}?",
            lede=lede,
            cautions=[f"{sentence}." for sentence in report.cautions],
            answer=_answer(report),
            sections=[*_curves(report), _results(report), _origin(report)],
            document="the JSON document of mmkd-evaluate --json",
        )
    )


def _names(report: EvaluationDocument) -> tuple[str, str | None]:
    """Return the two models' file names, or their paths if the names are equal."""
    if report.against is None:
        return PurePath(report.model.path).name, None
    first, second = (PurePath(model.path).name for model in (report.model, report.against))
    return (first, second) if first != second else (report.model.path, report.against.path)


def _role(report: EvaluationDocument) -> str:
    return "teacher" if report.model.kind == "teacher" else "student"


def _score(report: EvaluationDocument, scores: ClassScores | None) -> float | None:
    return None if scores is None else float(getattr(scores, report.metric))


def _answer(report: EvaluationDocument) -> Iterator[str]:
    measure, name, complete = report.measure, _names(report)[0], report.complete
    if complete.guessing is not None and is_chance_level(complete.guessing):
        figures = words.score_and_chance(measure.words, _score(report, complete.scores), complete.guessing, measure)
        yield f"{name} is no better than chance, so no conclusion is drawn ({figures})."
        return
    yield f"With all data present, {name} reaches {measure.words} {_judged(report, complete)}."
    singles = [one for one in report.subsets if len(one.modalities) == 1 and len(report.model.modalities) > 1]
    if singles:
        best = max(singles, key=lambda one: _score(report, one.scores) or 0.0)
        yield f"With {best.modalities[0]} alone, its best single sensor, it reaches {_judged(report, best)}."
    for missing, judged in (("half of the samples", report.samples), ("a burst of half of the window", report.bursts)):
        half = next((one for one in judged if abs(one.share - 0.5) < 1e-9), None)
        if half is not None:
            yield f"With {missing} missing, it reaches {_judged(report, half)}."


def _judged(report: EvaluationDocument, one: Judgement) -> str:
    """Return a score, whether it is no better than chance, and its difference to the baseline."""
    text = score_with_unit(_score(report, one.scores), report.measure)
    if one.guessing is not None and is_chance_level(one.guessing):
        text += f", no better than chance ({score_with_unit(one.guessing.figure, report.measure)})"
    gain, baseline = one.gain, _names(report)[1]
    if gain is None or baseline is None:
        return text
    text += f": {points(gain.points)} points compared with {baseline}"
    if gain.low is None or gain.high is None:
        return f"{text} (no confidence interval)"
    verdict = ", not significant" if gain.low <= 0 <= gain.high else ""
    return f"{text}{verdict} (95 % interval {interval(gain.low, gain.high)})"


def _curves(report: EvaluationDocument) -> Iterator[Section]:
    name, baseline = _names(report)
    parts = {"Missing samples": ("samples missing, %", report.samples), "Bursts": ("window missing, %", report.bursts)}
    judged = [(_score(report, one.scores), _score(report, one.against)) for _, part in parts.values() for one in part]
    over = charts.axis((score for pair in judged for score in pair), floor=0.0, ceiling=1.0)
    models = [*([("baseline", baseline)] if baseline else []), (_role(report), name)]
    drawn = []
    for title, (x_label, part) in parts.items():
        if part:
            shares = [one.share for one in part]
            scores = {name: [_score(report, one.scores) for one in part]}
            if baseline:
                scores[baseline] = [_score(report, one.against) for one in part]
            spoken = "; ".join(f"{model} {' '.join(map(percent, scores[model]))}" for _, model in models)
            chart = charts.line_chart(
                [charts.Line(role=role, name=model, x=shares, y=scores[model]) for role, model in models],
                title=title,
                description=f"At {' '.join(percent(one, 0) for one in shares)} percent missing: {spoken}.",
                x_label=x_label,
                x_axis=charts.tight_axis(shares),
                y_axis=over,
                x_text=charts.percent_text(),
                y_text=charts.percent_text(),
            )
            drawn.append(chart)
    if drawn:
        lead = (
            f"{report.measure.heading}. Missing samples are drawn one by one with that probability; a burst is one "
            "span of every window. Both are masked."
        )
        yield Section("curves", "Curves", [Legend(models), columns(drawn)], lead)


def _results(report: EvaluationDocument) -> Section:
    baseline = _names(report)[1]
    heads: list[object] = ["Condition", "Accuracy, %", "Balanced, %", "Macro-F1, %", BAR]
    caption = f"The bar is {report.measure.words}."
    if baseline:
        heads += [f"{baseline}, %", Column("Gain, points", style="gain")]
        split = report.data.split
        caption = (
            f"The bar and the gain over {baseline} are of {report.measure.words}; the 95 % interval resamples "
            f"{split.resampled if split else 'whole groups'}."
        )
    subsets = [one for one in report.subsets if len(one.modalities) < len(report.model.modalities)]
    groups = {
        "All data present": [_row(report, " + ".join(report.model.modalities), report.complete)],
        "Sensors missing": [_row(report, " + ".join(one.modalities), one) for one in subsets],
    }
    for title, part in (("Samples missing", report.samples), ("A burst missing", report.bursts)):
        groups[title] = [_row(report, f"{percent(one.share, 0)}\u202f%", one) for one in part if one.share > 0]
    shown = [(title, rows) for title, rows in groups.items() if rows]
    return Section("results", "All figures", [table(heads, groups=shown, caption=caption)])


def _row(report: EvaluationDocument, name: str, one: Judgement) -> Row:
    scores = (one.scores.accuracy, one.scores.balanced_accuracy, one.scores.macro_f1)
    cells: list[Cell | str] = [name, *map(percent, scores), bar_cell(_score(report, one.scores) or 0.0, _role(report))]
    if report.against is not None:
        gained = Cell(NOTHING)
        if one.gain is not None:
            ends = interval(one.gain.low, one.gain.high)
            gained = Cell(points(one.gain.points), note="" if ends == NOTHING else ends)
        cells += [percent(_score(report, one.against)), gained]
    return Row(cells)


def _origin(report: EvaluationDocument) -> Section:
    data, (name, baseline) = report.data, _names(report)
    windows = f"{count(data.windows)} {data.part}, {data.apart}"
    rows = [("name", data.name), ("windows", windows), ("SHA-256", data.sha256)]
    rows += [("seed of the missing samples", str(report.seed))] if report.has_failures else []
    items = [Facts(rows, "Data"), Facts(_model_facts(report.model, data), name)]
    if report.against is not None and baseline is not None:
        items.append(Facts(_model_facts(report.against, data), baseline))
    return Section("origin", "Where it comes from", [columns(items)])


def _model_facts(model: ModelFacts, data: DataFacts) -> Sequence[tuple[str, str]]:
    hidden = (
        (model.modality_dropout, "a modality in {} of the windows"),
        (model.span_dropout, "a span in {} of the windows"),
        (model.channel_dropout, "{} of the channels"),
    )
    dropped = words.join_words([text.format(share(value)) for value, text in hidden if value > 0])
    trained = "this dataset" if model.dataset_sha256 == data.sha256 else f"another dataset, {model.dataset_sha256}"
    return [
        ("model", f"{model.kind} of {' + '.join(model.modalities)}, {words.magnitude(model.parameters)} parameters"),
        ("trained by", "a teacher and labels" if model.distilled else "labels only"),
        ("hidden in training", dropped or "nothing"),
        ("trained on", trained),
        ("file", model.path),
        ("SHA-256", model.sha256),
    ]
