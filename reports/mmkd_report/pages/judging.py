"""The page of `mmkd-evaluate --suite`: the verdict, and a section for each suite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from mmkd_report.charts import Chart, Line, axis, element, line_chart, tight_axis
from mmkd_report.page import (
    TEMPLATES,
    Block,
    Cell,
    Column,
    Columns,
    Details,
    Drawing,
    Facts,
    Heading,
    Heads,
    Legend,
    Page,
    Picture,
    Row,
    Section,
    Text,
    label,
    render,
    table,
)
from mmkd_report.schema.cost import EITHER_WAY, SHARES, WHOLE, Assumption, CostFacts, Swing, example_text
from mmkd_report.schema.figures import Measure
from mmkd_report.schema.judging import (
    ConfidenceRow,
    DomainSpread,
    FaultFigures,
    FaultsFacts,
    Gap,
    GroupsFacts,
    JudgedModel,
    JudgingDocument,
    ShiftFacts,
    TrustFacts,
    read_judging,
)
from mmkd_report.words import (
    NOTHING,
    count,
    fixed,
    gain_interval,
    is_number,
    join_words,
    magnitude,
    percent,
    score_text,
    significant,
)

MOST_SWINGS = 12
COST_FIGURES = {
    "investment": "Investment",
    "yearly": "Gain a year",
    "net_present_value": "Net present value",
    "payback_month": "Payback month",
    "break_even_stations": "Break-even stations",
    "cost_per_station_year": "Cost per station and year",
}


def render_judging(document: Mapping[str, Any]) -> str:
    """Return the page of models judged side by side as HTML.

    Args:
        document: What `mmkd-evaluate --suite ... --json` writes.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    found = read_judging(document)
    first, *others = found.models
    data = found.data
    sections = [
        *([] if found.faults is None else [_faults(found, found.faults)]),
        *([] if found.shift is None else [shift_section(found.shift)]),
        *([] if found.groups is None else [_groups(found, found.groups)]),
        *([] if found.confidence is None else [_confidence(found, found.confidence)]),
        *([] if found.cost is None else [_cost(found.cost)]),
        Section(
            key="origin",
            title="What was judged",
            blocks=[
                Facts(
                    rows=[
                        *((one.name, _model_text(one)) for one in found.models),
                        (data.name, f"SHA-256 {data.sha256}; seed {found.seed}"),
                    ]
                )
            ],
        ),
    ]
    compared = f"Compared with {join_words([one.name for one in others])}, on the same windows."
    return render(
        Page(
            title=f"Judged before it is bought: {first.name} on {data.name}",
            kind="evaluation",
            headline=f"Can {first.name} be relied on?",
            lede=[
                (True, f"{data.name}."),
                (False, f"{count(data.windows)} {data.part} ({data.apart})."),
                *([(False, compared)] if others else []),
            ],
            answer_title="The verdict",
            answer=[f"{sentence}." for sentence in found.verdict],
            cautions=[f"{sentence}." for sentence in found.cautions],
            sections=sections,
            footer="Made by mmkd-edge. The same figures, unrounded, are in the JSON document of mmkd-evaluate --suite "
            "--json.",
            script="" if found.cost is None else (TEMPLATES / "cost.js").read_text(encoding="utf-8"),
        )
    )


def assign_roles(found: JudgingDocument) -> dict[str, str]:
    """Return the role that colours each model: teacher, judged student, baseline, another, all further ones dotted."""
    roles: dict[str, str] = {}
    for number, one in enumerate(found.models):
        if one.role == "teacher":
            roles[one.name] = "teacher"
        elif number == 0:
            roles[one.name] = "student"
        elif one.name == found.baseline:
            roles[one.name] = "baseline"
        else:
            roles[one.name] = "another" if "other" in roles.values() else "other"
    return roles


def _model_text(one: JudgedModel) -> str:
    trained = {
        "teacher": "teacher",
        "distilled": "distilled from a teacher",
        "labels alone": "trained on labels only",
        "rival": "a rival trained on the same labels",
    }
    what = f"artifact of a bundle, {trained[one.role]}" if one.artifact else trained[one.role]
    size = "" if one.parameters is None else f", {magnitude(one.parameters)} parameters"
    file = f"; {one.path}, SHA-256 {one.sha256}" if one.path else ""
    return f"{what}, {' + '.join(one.modalities)}{size}{file}"


# --- faults -----------------------------------------------------------------------------------------------------------


def _faults(found: JudgingDocument, faults: FaultsFacts) -> Section:
    names, roles = [one.name for one in found.models], assign_roles(found)
    is_share = faults.measure != "rmse"
    write = percent if is_share else significant
    measure = faults.measure.replace("_", " ")
    error = (
        f"Error is the distance to full {measure}, in percent." if is_share else "Error is the root mean squared error."
    )
    blocks: list[Block] = []
    if faults.relative:
        relative = "; ".join(
            f"{name} {NOTHING if one is None else f'{percent(one.mean, 0)} %' + _ends(one.low, one.high)}"
            for name, one in faults.relative.items()
        )
        text = f"Mean over faults of the summed error, relative to {found.baseline} (labels only): {relative}."
        blocks.append(Text(f"{text} Below 100 % is better."))
    heads: Heads = [label("Fault"), *names]
    heads += ["Of labels only, %"] if found.baseline else []
    relative_cell = [NOTHING] if found.baseline else []
    rows = [Row("none", [*(write(faults.sound[name]) for name in names), *relative_cell, NOTHING])]
    for one in faults.faults:
        errors = [write(sum(one.errors[name]) / len(one.errors[name])) for name in names]
        relative_cell = [percent(one.relative.get(names[0]), 0)] if found.baseline else []
        practised = one.practised.get(names[0])
        trained = NOTHING if practised is None else "practised" if practised else "unseen"
        rows.append(Row(Cell(one.name, note=one.what), [*errors, *relative_cell, trained]))
    charts = Columns(items=[[Picture(_fault_chart(one, faults, names, roles))] for one in faults.faults])
    blocks += [
        Legend([(role, name) for name, role in roles.items()]),
        table(
            [*heads, label("In training")],
            rows,
            caption=f"Mean error over severities, the worst fault for {names[0]} first.",
            style="results narrow names",
        ),
        charts,
    ]
    lead = (
        f"Every window of {' + '.join(faults.sensors)} with each fault, in at most half of the channels of a sensor (a "
        f"single one is hit whole), at severities 0.2 to 1. {error}"
    )
    return Section(key="faults", title="When a sensor breaks", lead=lead, blocks=blocks, style="lines")


def _ends(low: float | None, high: float | None) -> str:
    return f" ({percent(low, 0)} to {percent(high, 0)})" if is_number(low) and is_number(high) else ""


def _fault_chart(one: FaultFigures, faults: FaultsFacts, names: Sequence[str], roles: Mapping[str, str]) -> Chart:
    is_share = faults.measure != "rmse"
    severities = [0.0, *faults.severities]
    curves = {name: [faults.sound[name], *one.errors[name]] for name in names}
    every = [value for other in faults.faults for errors in other.errors.values() for value in errors]

    def text(value: float) -> str:
        return percent(value, 0) if is_share else f"{value:g}"

    spoken = "; ".join(f"{name} {' '.join(text(value) for value in curve)}" for name, curve in curves.items())
    return line_chart(
        [Line(role=roles[name], name=name, x=severities, y=curve) for name, curve in curves.items()],
        title=one.name,
        description=f"Error at severities {' '.join(f'{value:g}' for value in severities)}: {spoken}.",
        x_label=f"severity; 1 is {one.what}",
        x_axis=tight_axis(severities),
        y_axis=axis([*every, *faults.sound.values()], floor=0.0, ceiling=1.0 if is_share else float("inf")),
        y_text=text,
    )


# --- shift and groups -------------------------------------------------------------------------------------------------


def shift_section(found: ShiftFacts) -> Section:
    """Return the section on models judged on a domain that was left out of training."""
    names, measure = tuple(found.models), found.measure
    rows = [
        Row(
            Cell(one.name, note=f"{one.shared_groups} groups in training too" if one.shared_groups else ""),
            [count(one.windows), *(score_text(one.figures[name], measure) for name in names)],
        )
        for one in found.domains
    ]
    means = [_spread(found.models[name], measure) for name in names]
    gains = [_gain(found.gains.get(name), measure) for name in names]
    rows += [
        Row(Cell("mean", note="95 % interval"), ["", *means]),
        Row(Cell("student better by", note=measure.gain_unit), ["", *gains]),
    ]
    chosen = (
        "The groups that choose are not trained on either."
        if found.has_groups
        else "The dataset has no groups: its own validation windows choose, and whose they are is unknown."
    )
    unknown = f" {count(found.unknown)} windows without a value of {found.by} were left out." if found.unknown else ""
    lead = (
        f"Trained again without one {found.by} at a time and judged on it: a {found.teacher} teacher of all sensors "
        f"({found.steps[0]} steps), and for {found.sensor} a {found.student} student distilled from it and one trained "
        f"on labels only ({found.steps[1]} steps each), {found.labels}. {chosen}{unknown} Intervals are 95 % over "
        "domains, by Student's t."
    )
    title = f"{measure.title}, {measure.unit}" if measure.unit else measure.title
    domains = table(
        [label(found.by), "Windows", *names],
        rows,
        caption=f"{title} on the {found.by} that was left out.",
        style="results narrow names",
    )
    texts = [*(f"{name}: {why}" for name, why in found.absent.items()), *_time(found)]
    more = [Text(text) for text in texts]
    return Section(key="shift", title="On unseen domains", lead=lead, blocks=[domains, *more])


def _time(found: ShiftFacts) -> Iterator[str]:
    if found.time is not None:
        train, valid, test = (count(windows) for windows in found.time.windows)
        measure = found.time.measure
        figures = ", ".join(f"{name} {score_text(value, measure)}" for name, value in found.time.figures.items())
        title = f"{measure.title}, {measure.unit}" if measure.unit else measure.title
        yield (
            f"Trained on the first {train} windows of the campaign, chosen by the {valid} after them, judged on the "
            f"last {test}: {title} {figures}."
        )


def _spread(one: DomainSpread, measure: Measure) -> str:
    mean = score_text(one.mean, measure)
    if not (is_number(one.low) and is_number(one.high)):
        return mean
    return f"{mean} ({score_text(one.low, measure)} to {score_text(one.high, measure)})"


def _gain(one: DomainSpread | None, measure: Measure) -> str:
    if one is None:
        return NOTHING
    write = fixed if measure.is_share else significant
    known = is_number(one.low) and is_number(one.high)
    return f"{write(one.mean)}{f' ({gain_interval(one.low, one.high, measure)})' if known else ''}"


def _groups(found: JudgingDocument, groups: GroupsFacts) -> Section:
    names = [one.name for one in found.models]
    blocks: list[Block] = []
    for measure in groups.values[0].figures[names[0]]:
        rows = [
            Row(
                Cell(one.value, note="" if one.is_judged else "not judged"),
                [count(one.windows), *(percent(one.figures[name][measure]) for name in names)],
            )
            for one in groups.values
        ]
        gaps = groups.gaps.get(measure)
        if gaps is not None:
            rows.append(Row(Cell("gap", note="points"), ["", *(_gap(gaps[name]) for name in names)]))
        heads: Heads = [label(groups.by), "Windows", *names]
        blocks.append(table(heads, rows, caption=measure.capitalize(), style="results narrow names"))
    for one in groups.changes:
        ends = f"{fixed(100 * one.low)} to {fixed(100 * one.high)}"
        gap = f"The gap of {one.measure} of {names[0]}, compared with that of {found.baseline}"
        blocks.append(Text(f"{gap}: {one.change} ({ends} points)."))
    unknown = f" {count(groups.unknown)} windows have no value and are not judged here." if groups.unknown else ""
    lead = (
        f"By {groups.by}, in percent. Recall is the mean over the classes that occur; the calibration error is large "
        f"by chance for few windows. Values with fewer than {groups.least_windows} windows are shown and not judged. "
        "The gap is the best value minus the worst, with a 95 % interval that resamples blocks of windows inside each "
        f"value.{unknown}"
    )
    return Section(key="groups", title="Who is served worse?", lead=lead, blocks=blocks)


def _gap(gap: Gap | None) -> str:
    return NOTHING if gap is None else f"{percent(gap.gap)} ({percent(gap.low)} to {percent(gap.high)})"


# --- confidence -------------------------------------------------------------------------------------------------------


def _confidence(found: JudgingDocument, trust: TrustFacts) -> Section:
    names = [one.name for one in found.models]
    models = [trust.models[name] for name in names]
    heads: Heads = [label("Condition")]
    for name in names:
        heads += [f"{name}: estimated", "true", "calibration error", "true label in the set"]
    rows = [
        Row(of_all[0].condition, [cell for one in of_all for cell in _condition(one, trust.misleads_beyond)])
        for of_all in zip(*(one.rows for one in models), strict=True)
    ]
    blocks: list[Block] = [
        table(heads, rows, caption="Estimated and true accuracy", style="results narrow names", hide_caption=True)
    ]
    sets = [
        Row(
            name,
            [
                f"{one.error_level:g}",
                percent(one.coverage),
                f"{percent(one.low)} to {percent(one.high)}",
                fixed(one.mean_set_size, 2),
            ],
        )
        for name, facts in zip(names, models, strict=True)
        for one in facts.coverages
    ]
    if sets:
        caption = "How often label sets made from the validation windows hold the true label, in percent."
        columns: Heads = [label("Model"), "Error level", "Inside", "Interval", "Labels in a set"]
        blocks.append(table(columns, sets, caption=caption, style="results narrow names"))
    lead = (
        "The accuracy that a device would estimate without labels (the mean probability of its answers), and the true "
        f"one, in percent: with sound sensors and under each fault at severity {trust.severity:g}. Estimates more than "
        f"{percent(trust.misleads_beyond, 0)} points from the truth are marked. Label sets made from the validation "
        f"windows, with sound sensors, promise the true label in {percent(1 - trust.set_level, 0)}."
    )
    return Section(key="confidence", title="Can its own estimate be trusted?", lead=lead, blocks=blocks)


def _condition(row: ConfidenceRow, beyond: float) -> list[Cell | str]:
    style = "bad" if abs(row.estimated - row.accuracy) > beyond else ""
    covered = "-" if row.covered is None else percent(row.covered)
    return [Cell(percent(row.estimated), style=style), percent(row.accuracy), percent(row.calibration_error), covered]


# --- cost -------------------------------------------------------------------------------------------------------------


def _cost(found: CostFacts) -> Section:
    """Figures of each option, sliders and what decides; the page's script recomputes them with the same formulas."""
    rows = []
    for option, result in found.results.items():
        values = msgspec.to_builtins(result)
        cells = [
            Cell("never" if values[key] is None else count(values[key]), data={"way": option, "figure": key})
            for key in COST_FIGURES
        ]
        rows.append(Row(option, cells))
    beats = found.student_beats_teacher
    drawn = "" if beats is None or found.to_enter else percent(beats, 0)
    example = f"{example_text(found.to_enter)}. " if found.to_enter else ""
    blocks: list[Block] = [
        table(
            [label("Option"), *COST_FIGURES.values()],
            rows,
            caption="Costs and gains of each option",
            style="results",
            hide_caption=True,
        )
    ]
    for number, section in enumerate(["plant", *found.equipment]):
        assumptions = [one for one in found.assumptions if one.path.partition(".")[0] == section]
        sliders = element("div", *(_slider(one) for one in assumptions), class_="sliders")
        blocks.append(Details(summary=f"Assumptions: {section}", blocks=[Drawing(sliders)], is_open=number == 0))
    if found.swings:
        blocks += [Heading("What decides"), *_swings(found.swings[:MOST_SWINGS])]
    state = {
        "plant": msgspec.to_builtins(found.plant),
        "equipment": msgspec.to_builtins(found.equipment),
        "assumptions": [
            {"path": one.path, "low": one.low, "high": one.high, "follows": one.follows} for one in found.assumptions
        ],
        "shares": SHARES,
        "whole": WHOLE,
        "either_way": EITHER_WAY,
        "most_swings": MOST_SWINGS,
    }
    blocks.append(Drawing(_json_script(state)))
    better = (
        f"The student is worth more than the teacher in {drawn} % of the draws of groups and ranges. " if drawn else ""
    )
    kept = "; the percentage of draws stays as it was entered" if drawn else ""
    lead = (
        f"{example}In {found.currency}, compared with doing nothing. Detection and false alarms are counted in "
        f"{found.unit}; healthy is {', '.join(found.healthy)}. {better}Move a slider, and this table and “What "
        f"decides” follow{kept}."
    )
    return Section(key="cost", title=f"Does it pay?{' An example' if example else ''}", lead=lead, blocks=blocks)


def _json_script(state: Mapping[str, object]) -> Any:
    """Return data for the page's script; `<`, `>` and `&` are escaped so that no text can end the element."""
    from jinja2.utils import htmlsafe_json_dumps
    from markupsafe import Markup

    return Markup('<script type="application/json" id="cost-data">{}</script>').format(htmlsafe_json_dumps(state))


def _slider(one: Assumption) -> Any:
    key = one.path.partition(".")[2]
    most = 1.0 if key in SHARES else max(2 * one.high, 2 * one.value, 1.0)
    is_whole = key in WHOLE
    slider = element(
        "input",
        type="range",
        disabled="disabled",
        min=1 if is_whole else 0,
        max=f"{round(most) if is_whole else most:.10g}",
        step="1" if is_whole else "any",
        value=f"{one.value:.10g}",
        data_path=one.path,
    )
    mark = element("span", one.mark, class_=f"mark-{one.mark}")
    return element("label", f"{key.replace('_', ' ')} ", mark, slider, element("output", f"{one.value:.10g}"))


def _swings(swings: Sequence[Swing]) -> Iterator[Block]:
    ends = [0.0, *(value for one in swings for value in (one.at_low, one.at_high))]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return round(100 * (value - low) / span, 2)

    rows = []
    for one in swings:
        start, end = sorted((one.at_low, one.at_high))
        zero, width = f"{place(0)}%", f"{round(100 * (end - start) / span, 2)}%"
        drawn = element(
            "svg",
            element("rect", class_="bar-track", width="100%", height=12, rx=2),
            element("rect", class_="bar-fill", x=f"{place(start)}%", width=width, height=12, rx=2),
            element("line", class_="limit", x1=zero, x2=zero, y1=-2, y2=14),
            class_="bar role-student",
            aria_hidden="true",
            width="100%",
            height=12,
        )  # fmt: skip
        name = one.path.replace("_", " ").replace(".", ": ")
        rows.append(Row(name, [count(one.at_low), count(one.at_high), Cell(content=drawn)], data={"swing": one.path}))
    columns = [label("Assumption"), Column("At its low end"), Column("At its high end")]
    columns.append(label("Bar", "wide", hidden=True))
    yield Text(
        "Net present value of the student, or of the first option, with one assumption at the ends of its range; "
        "the widest first. The line is 0."
    )
    yield table(columns, rows, caption="Assumptions by their effect", hide_caption=True, body_id="swings")
