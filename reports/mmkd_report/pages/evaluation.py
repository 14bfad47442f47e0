"""The page of `mmkd-evaluate`: how good a model is, and how it does if sensors, samples or whole spans are missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from mmkd_report.charts import Axis, Chart, Line, axis, bar, line_chart, percent_text, tight_axis
from mmkd_report.page import (
    Cell,
    Column,
    Columns,
    Facts,
    Legend,
    Page,
    Picture,
    Row,
    Section,
    Table,
    Text,
    label,
    render,
)
from mmkd_report.schema.evaluation import (
    DataFacts,
    EvaluationDocument,
    Judgement,
    ModelFacts,
    ShareJudgement,
    read_evaluation,
)
from mmkd_report.schema.figures import ClassScores
from mmkd_report.words import (
    NOTHING,
    count,
    counted,
    interval,
    is_chance_level,
    is_number,
    join_words,
    magnitude,
    percent,
    points,
    score_and_chance,
    score_with_unit,
    share,
    with_unit,
)


def render_evaluation(document: Mapping[str, Any]) -> str:
    """Return the page of one evaluation as HTML.

    Args:
        document: What `mmkd-evaluate --json` writes.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    found = read_evaluation(document)
    data, (name, baseline) = found.data, _names(found)
    failing = found.has_failures
    classes = counted(len(data.labels), "class", "classes")
    same_gaps = " with the same gaps" if failing else ""
    compared = f"Compared with {baseline}, on the same windows{same_gaps}."
    return render(
        Page(
            title=f"{name}: {'how it does when sensors fail' if failing else 'how good it is'}",
            kind="evaluation",
            headline=f"How well does {name} work when sensors fail?" if failing else f"How good is {name}?",
            lede=[
                (True, f"{data.name}."),
                (False, f"{count(data.windows)} {data.part} ({data.apart}), {classes}."),
                *([(False, compared)] if baseline else []),
            ],
            cautions=[f"{sentence}." for sentence in found.cautions],
            answer=list(_answer(found)),
            sections=[*_curves(found), _results(found), _origin(found)],
            footer="Made by mmkd-edge. The same figures, unrounded, are in the JSON document of mmkd-evaluate --json.",
        )
    )


def _names(found: EvaluationDocument) -> tuple[str, str | None]:
    """Return the two models' file names, or their paths if the names are equal."""
    if found.against is None:
        return PurePath(found.model.path).name, None
    first, second = (PurePath(model.path).name for model in (found.model, found.against))
    return (first, second) if first != second else (found.model.path, found.against.path)


def _role(found: EvaluationDocument) -> str:
    return "teacher" if found.model.kind == "teacher" else "student"


def _score(found: EvaluationDocument, scores: ClassScores | None) -> float | None:
    return None if scores is None else float(getattr(scores, found.metric))


def _answer(found: EvaluationDocument) -> Iterator[str]:
    measure, name, complete = found.measure, _names(found)[0], found.complete
    if complete.guessing is not None and is_chance_level(complete.guessing):
        figures = score_and_chance(measure.words, _score(found, complete.scores), complete.guessing, measure)
        yield f"{name} is no better than chance, so no conclusion is drawn ({figures})."
        return
    yield f"With all data present, {name} reaches {_written(found, complete)} {measure.words}{_gain(found, complete)}."
    singles = [one for one in found.subsets if len(one.modalities) == 1 and len(found.model.modalities) > 1]
    if singles:
        best = max(singles, key=lambda one: _score(found, one.scores) or 0.0)
        yield f"With {best.modalities[0]} alone, its best single sensor, it reaches {_left(found, best)}."
    for what, judged in (("half of the samples", found.samples), ("a burst of half of the window", found.bursts)):
        half = next((one for one in judged if abs(one.share - 0.5) < 1e-9), None)
        if half is not None:
            yield f"With {what} missing, it reaches {_left(found, half)}."


def _written(found: EvaluationDocument, one: Judgement) -> str:
    return score_with_unit(_score(found, one.scores), found.measure)


def _left(found: EvaluationDocument, one: Judgement) -> str:
    chance = one.guessing
    level = chance is not None and is_chance_level(chance)
    worse = f", no better than chance ({score_with_unit(chance.figure, found.measure)})" if chance and level else ""
    return f"{_written(found, one)}{worse}{_gain(found, one)}"


def _gain(found: EvaluationDocument, one: Judgement) -> str:
    """Return the difference to the baseline with its interval, as the end of a sentence."""
    gain, baseline = one.gain, _names(found)[1]
    if gain is None or baseline is None:
        return ""
    text = f": {points(gain.points)} points compared with {baseline}"
    if gain.low is None or gain.high is None:
        return f"{text} (no confidence interval)"
    doubt = ", not significant" if gain.low <= 0 <= gain.high else ""
    return f"{text}{doubt} (95 % interval {interval(gain.low, gain.high)})"


def _curves(found: EvaluationDocument) -> Iterator[Section]:
    judged = [one for part in (found.samples, found.bursts) for one in part]
    over = axis(
        (_score(found, scores) for one in judged for scores in (one.scores, one.against)), floor=0.0, ceiling=1.0
    )
    parts = (("Missing samples", "samples missing, %", found.samples), ("Bursts", "window missing, %", found.bursts))
    charts = [_chart(found, title, label, part, over) for title, label, part in parts if part]
    if charts:
        name, baseline = _names(found)
        legend = [*([("baseline", baseline)] if baseline else []), (_role(found), name)]
        words = found.measure.words
        yield Section(
            key="curves",
            title="Curves",
            lead=f"{words[:1].upper()}{words[1:]} in percent. Missing samples are drawn one by one with that "
            "probability; "
            "a burst is one span of every window, missing as a whole. Missing samples are masked; nothing is made up "
            "in their place.",
            blocks=[Legend(legend), Columns(items=[[Picture(chart)] for chart in charts])],
        )


def _chart(found: EvaluationDocument, title: str, label: str, part: Sequence[ShareJudgement], over: Axis) -> Chart:
    shares = [one.share for one in part]
    name, baseline = _names(found)
    lines = [Line(role=_role(found), name=name, x=shares, y=[_score(found, one.scores) for one in part])]
    if baseline is not None:
        lines.insert(0, Line(role="baseline", name=baseline, x=shares, y=[_score(found, one.against) for one in part]))
    spoken = "; ".join(f"{line.name} {' '.join(percent(value) for value in line.y)}" for line in lines)
    return line_chart(
        lines,
        title=title,
        description=f"At {' '.join(percent(one, 0) for one in shares)} percent missing: {spoken}.",
        x_label=label,
        x_axis=tight_axis(shares),
        y_axis=over,
        x_text=percent_text(),
        y_text=percent_text(),
    )


def _results(found: EvaluationDocument) -> Section:
    name, baseline = _names(found)
    columns = [label("Condition"), *(Column(t) for t in ("Accuracy", "Balanced", "Macro-F1"))]
    columns.append(label(f"Bar of the {found.measure.words}", "wide", hidden=True))
    caption = "In percent."
    if baseline:
        columns += [Column(baseline), Column("Gain, points", style="gain")]
        split = found.data.split
        caption = (
            f"In percent; the gain is {name} minus {baseline} in points of {found.measure.words}, its interval "
            f"resamples {split.resampled if split else 'whole groups'}."
        )
    subsets = [one for one in found.subsets if len(one.modalities) < len(found.model.modalities)]
    groups = [
        ("All data present", [_row(found, " + ".join(found.model.modalities), found.complete)]),
        ("Sensors missing", [_row(found, " + ".join(one.modalities), one) for one in subsets]),
        ("Samples missing", _share_rows(found, found.samples)),
        ("A burst missing", _share_rows(found, found.bursts)),
    ]
    shown = [(title, rows) for title, rows in groups if rows]
    return Section(key="results", title="All figures", blocks=[Table(columns=columns, groups=shown, caption=caption)])


def _share_rows(found: EvaluationDocument, part: Sequence[ShareJudgement]) -> list[Row]:
    return [_row(found, with_unit(percent(one.share, 0), "%"), one) for one in part if one.share > 0]


def _row(found: EvaluationDocument, name: str, one: Judgement) -> Row:
    score, gain = _score(found, one.scores), one.gain
    width = round(100 * score, 1) if is_number(score) else 0.0
    cells: list[Cell | str] = [percent(one.scores.accuracy), percent(one.scores.balanced_accuracy)]
    cells += [percent(one.scores.macro_f1), Cell(content=bar(width, _role(found)))]
    if found.against is not None:
        ends = NOTHING if gain is None else interval(gain.low, gain.high)
        text = NOTHING if gain is None else points(gain.points)
        cells += [percent(_score(found, one.against)), Cell(text, note="" if ends == NOTHING else ends)]
    return Row(name, cells)


def _origin(found: EvaluationDocument) -> Section:
    data, (name, baseline) = found.data, _names(found)
    windows = f"{count(data.windows)} {data.part}, {data.apart}"
    items = [
        [Facts(title="Data", rows=[("name", data.name), ("windows", windows), ("SHA-256", data.sha256)])],
        [Facts(title=name, rows=_model_facts(found.model, data))],
    ]
    if found.against is not None and baseline is not None:
        items.append([Facts(title=baseline, rows=_model_facts(found.against, data))])
    seed = [Text(f"Seed {found.seed} chooses which samples go missing.")] if found.has_failures else []
    return Section(key="origin", title="Where it comes from", blocks=[Columns(items=items), *seed])


def _model_facts(model: ModelFacts, data: DataFacts) -> list[tuple[str, str]]:
    hidden = (
        (model.modality_dropout, "a modality in {} of the windows"),
        (model.span_dropout, "a span in {} of the windows"),
        (model.channel_dropout, "{} of the channels"),
    )
    trained = "this dataset" if model.dataset_sha256 == data.sha256 else f"another dataset, {model.dataset_sha256}"
    return [
        ("what", f"{model.kind} of {' + '.join(model.modalities)}, {magnitude(model.parameters)} parameters"),
        ("trained by", "a teacher and labels" if model.distilled else "labels only"),
        (
            "hidden in training",
            join_words([text.format(share(value)) for value, text in hidden if value > 0]) or "nothing",
        ),
        ("trained on", trained),
        ("file", model.path),
        ("SHA-256", model.sha256),
    ]
