"""The page of `mmkd-evaluate`, with a section per suite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from mmkd_report import charts, words
from mmkd_report.page import (
    BAR,
    TEMPLATES,
    Block,
    Cell,
    Details,
    Facts,
    Heading,
    Legend,
    Page,
    Row,
    Section,
    columns,
    render,
    table,
)
from mmkd_report.schema.cost import EITHER_WAY, FRACTIONS, WHOLE, Assumption, CostFacts, Swing
from mmkd_report.schema.judging import JudgedModel, JudgingDocument, SuiteChart, SuiteResult, read_judging
from mmkd_report.words import count, percent

MAX_SWINGS = 12
COST_FIGURES = {
    "investment": "Investment",
    "yearly": "Gain a year",
    "net_present_value": "Net present value",
    "payback_month": "Payback month",
    "break_even_stations": "Break-even stations",
    "cost_per_station_year": "Cost per station and year",
}


def render_judging(document: Mapping[str, Any]) -> str:
    """Return HTML; raise DocumentError for a broken document."""
    judging = read_judging(document)
    first, *others = judging.models
    data = judging.data
    models = [(model.name, _model_text(model)) for model in judging.models]
    sections = [
        *(
            _suite(judging, name, result) if name != "cost" or judging.cost is None else _cost(judging.cost, result)
            for name, result in judging.suites.items()
        ),
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
            script="" if "cost" not in judging.suites else (TEMPLATES / "cost.js").read_text(encoding="utf-8"),
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


# --- cost -------------------------------------------------------------------------------------------------------------


def _cost(cost: CostFacts, result: SuiteResult) -> Section:
    """The page's script recomputes the figures with the same formulas."""
    rows = []
    for option, figures in cost.results.items():
        values = msgspec.to_builtins(figures)
        cells = [
            Cell("never" if values[key] is None else count(values[key]), data={"way": option, "figure": key})
            for key in COST_FIGURES
        ]
        rows.append(Row([option, *cells]))
    blocks: list[Block] = [
        table(
            ["Option", *COST_FIGURES.values()],
            rows,
            caption="Costs and gains of each option",
            style="results",
            hide_caption=True,
        )
    ]
    for number, section in enumerate(["plant", *cost.equipment]):
        assumptions = [assumption for assumption in cost.assumptions if assumption.path.partition(".")[0] == section]
        sliders = charts.element("div", *(_slider(assumption) for assumption in assumptions), class_="sliders")
        blocks.append(Details(f"Assumptions: {section}", [sliders], is_open=number == 0))
    if cost.swings:
        blocks += [Heading("What decides"), *_swings(cost.swings[:MAX_SWINGS])]
    state = {
        "plant": msgspec.to_builtins(cost.plant),
        "equipment": msgspec.to_builtins(cost.equipment),
        "assumptions": [
            {"path": assumption.path, "low": assumption.low, "high": assumption.high, "follows": assumption.follows}
            for assumption in cost.assumptions
        ],
        "fractions": FRACTIONS,
        "whole": WHOLE,
        "either_way": EITHER_WAY,
        "most_swings": MAX_SWINGS,
    }
    blocks.append(_json_script(state))
    lead = (
        f"{result.lead} Detection and false alarms are fractions of {cost.unit}; healthy is "
        f"{', '.join(cost.healthy)}. Move a slider, and this table and “What decides” follow."
    )
    return Section("cost", result.title, blocks, lead)


def _json_script(state: Mapping[str, object]) -> Any:
    """Escape `<`, `>` and `&`, so that no text can end the element."""
    from jinja2.utils import htmlsafe_json_dumps
    from markupsafe import Markup

    return Markup('<script type="application/json" id="cost-data">{}</script>').format(htmlsafe_json_dumps(state))


def _slider(assumption: Assumption) -> Any:
    key = assumption.path.partition(".")[2]
    most = 1.0 if key in FRACTIONS else max(2 * assumption.high, 2 * assumption.value, 1.0)
    is_whole = key in WHOLE
    slider = charts.element(
        "input",
        type="range",
        disabled="disabled",
        min=1 if is_whole else 0,
        max=f"{round(most) if is_whole else most:.10g}",
        step="1" if is_whole else "any",
        value=f"{assumption.value:.10g}",
        data_path=assumption.path,
    )
    mark = charts.element("span", assumption.mark, class_=f"mark-{assumption.mark}")
    return charts.element(
        "label", f"{key.replace('_', ' ')} ", mark, slider, charts.element("output", f"{assumption.value:.10g}")
    )


def _swings(swings: Sequence[Swing]) -> Iterator[Block]:
    ends = [0.0, *(value for swing in swings for value in (swing.at_low, swing.at_high))]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return round(100 * (value - low) / span, 2)

    rows = []
    for swing in swings:
        start, end = sorted((swing.at_low, swing.at_high))
        zero, width = f"{place(0)}%", f"{round(100 * (end - start) / span, 2)}%"
        drawn = charts.element(
            "svg",
            charts.element("rect", class_="bar-track", width="100%", height=12, rx=2),
            charts.element("rect", class_="bar-fill", x=f"{place(start)}%", width=width, height=12, rx=2),
            charts.element("line", class_="limit", x1=zero, x2=zero, y1=-2, y2=14),
            class_="bar role-student",
            aria_hidden="true",
            width="100%",
            height=12,
        )  # fmt: skip
        name = swing.path.replace("_", " ").replace(".", ": ")
        cells: list[Cell | str] = [name, count(swing.at_low), count(swing.at_high), Cell(content=drawn)]
        rows.append(Row(cells, data={"swing": swing.path}))
    yield (
        "Net present value of the student, or of the first option, with one assumption at the ends of its range; "
        "the widest first. The line is 0."
    )
    heads = ["Assumption", "At its low end", "At its high end", BAR]
    yield table(heads, rows, caption="Assumptions by their effect", hide_caption=True, body_id="swings")
