"""The page of `mmkd-evaluate`, with a section per suite."""

from __future__ import annotations

from collections.abc import Mapping

from mmkd_app import words
from mmkd_app.pages import charts
from mmkd_app.pages.page import Block, Facts, Legend, Page, Section, columns, render, table
from mmkd_app.words import count, percent
from mmkd_documents.judging import JudgedModel, JudgingDocument, SuiteChart, SuiteResult


def render_judging(judging: JudgingDocument) -> str:
    """Return the page as HTML."""
    first, *others = judging.models
    data = judging.data
    models = [(model.name, _model_text(model)) for model in judging.models]
    sections = [
        *(_suite(judging, name, result) for name, result in judging.suites.items()),
        Section(
            "origin", "What was judged", [Facts([*models, (data.name, f"SHA-256 {data.sha256}; seed {judging.seed}")])]
        ),
    ]
    lede = [f"{data.name}.", f"{count(data.windows)} {data.part} ({data.apart})."]
    if others:
        lede.append(f"Compared with {words.join_words([model.name for model in others])}, on the same windows.")
    return render(
        Page(
            title=f"Evaluation of {first.name} on {data.name}",
            kind="evaluation",
            headline=f"How good is {first.name}?",
            lede=lede,
            answer=[f"{sentence}." for sentence in judging.verdict],
            cautions=[f"{sentence}." for sentence in judging.cautions],
            sections=sections,
            document="the JSON document of mmkd-evaluate --json",
        )
    )


def assign_roles(judging: JudgingDocument) -> dict[str, str]:
    """Return colour roles: teacher, judged student, baseline, another, further ones dotted."""
    roles: dict[str, str] = {}
    for number, model in enumerate(judging.models):
        if model.role == "teacher":
            roles[model.name] = "teacher"
        elif number == 0:
            roles[model.name] = "student"
        elif model.name == judging.baseline:
            roles[model.name] = "baseline"
        else:
            roles[model.name] = "another" if "other" in roles.values() else "other"
    return roles


def _model_text(model: JudgedModel) -> str:
    trained = {
        "teacher": "teacher",
        "distilled": "distilled from a teacher",
        "labels only": "trained on labels only",
        "normal": "trained on normal running",
        "rival": "a rival trained on the same labels",
    }
    what = f"artifact of a bundle, {trained[model.role]}" if model.artifact else trained[model.role]
    size = "" if model.parameters is None else f", {words.magnitude(model.parameters)} parameters"
    file = f"; {model.path}, SHA-256 {model.sha256}" if model.path else ""
    return f"{what}, {' + '.join(model.modalities)}{size}{file}"


def _suite(judging: JudgingDocument, name: str, result: SuiteResult) -> Section:
    roles = assign_roles(judging)
    blocks: list[Block] = [Legend([(role, model) for model, role in roles.items()])] if result.charts else []
    for suite_table in result.tables:
        blocks.append(
            table(suite_table.heads, suite_table.rows, caption=suite_table.caption, style="results narrow names")
        )
    blocks += [f"{note}." for note in result.notes]
    if result.charts:
        every = [value for chart in result.charts for line in chart.lines.values() for value in line]
        ceiling = 1.0 if result.charts[0].is_fraction else float("inf")
        y_axis = charts.axis(every, floor=0.0, ceiling=ceiling)
        blocks.append(columns(_chart(chart, roles, y_axis) for chart in result.charts))
    return Section(name, result.title, blocks, result.lead, "lines" if result.charts else "")


def _chart(chart: SuiteChart, roles: Mapping[str, str], y_axis: charts.Axis) -> charts.Chart:
    def text(value: float) -> str:
        return percent(value, 0) if chart.is_fraction else f"{value:g}"

    spoken = "; ".join(f"{name} {' '.join(map(text, line))}" for name, line in chart.lines.items())
    return charts.line_chart(
        [charts.Line(role=roles[name], name=name, x=chart.x, y=line) for name, line in chart.lines.items()],
        title=chart.title,
        description=f"{chart.x_label} {' '.join(f'{value:g}' for value in chart.x)}: {spoken}.",
        x_label=chart.x_label,
        x_axis=charts.tight_axis(chart.x),
        y_axis=y_axis,
        y_text=text,
    )
