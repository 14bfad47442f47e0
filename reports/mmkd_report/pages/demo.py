"""The page of `mmkd-demo`: which one sensor is enough, and what distillation gains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmkd_report.charts import (
    MAP_SIZE,
    Axis,
    Chart,
    Line,
    SeedScores,
    attention_map,
    axis,
    bar,
    draw_panels,
    element,
    line_chart,
    percent_text,
    seed_panel,
    tight_axis,
)
from mmkd_report.page import (
    Block,
    Cell,
    Code,
    Column,
    Columns,
    Details,
    Facts,
    Heading,
    Heads,
    Legend,
    Page,
    Picture,
    Row,
    Section,
    Table,
    Text,
    label,
    render,
    table,
)
from mmkd_report.pages.demo_answer import (
    answer,
    best_student,
    has_spread,
    key_figures,
    leak,
    mean_of,
    question,
    teacher_network,
)
from mmkd_report.schema.demo import (
    AttentionMaps,
    Contest,
    CurvePoint,
    DemoDocument,
    DemoRival,
    Gain,
    LatencyPercentiles,
    MissingSamples,
    Network,
    SubsetScore,
    read_demo,
)
from mmkd_report.schema.figures import Measure, Spread
from mmkd_report.words import (
    MINUS,
    NOTHING,
    count,
    counted,
    duration,
    fixed,
    gain_interval,
    is_chance_level,
    is_number,
    join_words,
    labelled_groups_sentence,
    magnitude,
    percent,
    plain,
    score_text,
    score_with_std,
    score_with_unit,
    share,
    signed_gain,
    significant,
    task_labels_text,
    tick,
    with_unit,
)

ROLE_NAMES = {
    "teacher": "Teacher",
    "extra_trees": "Extra-trees",
    "mini_rocket": "MiniRocket",
    "rocket_and_trees": "MiniRocket + trees",
    "multi_rocket_hydra": "MultiRocket-Hydra",
    "baseline": "Labels only",
    "taught_rocket": "MiniRocket, taught",
    "student": "Distilled student",
}
ROWS = ("extra_trees", "mini_rocket", "rocket_and_trees", "multi_rocket_hydra", "baseline", "taught_rocket", "student")
ALWAYS_SHOWN = ("extra_trees", "mini_rocket")  # with a reason where they were not run
MOST_MATRIX_LABELS = 20  # above it a matrix is a page of its own, and its largest confusions say more
MOST_SUBSETS = 12  # rows shown at once; the rest folds away
MOST_FOLDED_SUBSETS = 64
# Middle tones, legible on paper and on a dark screen: the maps are pictures and cannot follow the style sheet.
MAP_COLOURS = {"teacher": (191, 110, 24), "student": (45, 125, 200)}


def render_demo(document: Mapping[str, Any]) -> str:
    """Return the page of one demo run as HTML.

    Args:
        document: What `mmkd-demo --json` writes. Keys that may be absent or null are left out of the page.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    demo = read_demo(document)
    data, measure = demo.dataset, demo.reported_metric
    name = data.title or data.name
    leaked = leak(demo)
    parts = (
        [_results(demo), _seeds(demo)],
        _confusion(demo),
        _labels(demo),
        _curves(demo),
        _attention(demo),
        _missing(demo),
        _benchmark(demo),
        [_reproduce(demo), Section(key="glossary", title="Words", blocks=[_glossary(demo, measure)])],
    )
    return render(
        Page(
            title=f"{name}: which one sensor is enough?",
            kind="demonstration",
            headline=question(demo),
            lede=[(True, f"{name}."), *((False, sentence) for sentence in _lede(demo))],
            answer=answer(demo),
            cautions=[leaked] if leaked else [],
            key_figures=key_figures(demo),
            has_contents=True,
            sections=[section for part in parts for section in part],
            footer="Made by mmkd-edge. The same figures, unrounded, are in the JSON document of this run.",
        )
    )


def _lede(demo: DemoDocument) -> Iterator[str]:
    data, windows = demo.dataset, demo.dataset.windows
    if data.modalities:
        sensors = ", ".join(f"{m.name} at {plain(m.rate_hz)} Hz" if m.rate_hz else m.name for m in data.modalities)
        yield f"{counted(len(data.modalities), 'sensor').capitalize()}: {sensors}."
    if data.labels:
        labels = task_labels_text(demo.kind, data.labels)
        groups = f", {counted(data.groups, 'group')}" if data.groups else ""
        yield f"{labels[:1].upper()}{labels[1:]}{groups}."
    if demo.split:
        yield f"Judged on {demo.split.judged_on}."
    if windows:
        few = demo.label_share is not None and demo.label_share < 1
        labelled = f" ({share(demo.label_share)} with a label)" if few else ""
        yield (
            f"Windows: {count(windows.train)} for training{labelled}, {count(windows.valid)} for validation, "
            f"{count(windows.test)} for the test."
        )
    if demo.labelled_groups is not None:
        yield labelled_groups_sentence(demo.labelled_groups)


# --- results ----------------------------------------------------------------------------------------------------------


def _results(demo: DemoDocument) -> Section:
    measure = demo.reported_metric
    columns = [
        label("Model"),
        *(Column(one.heading, style="main" if one is measure else "") for one in demo.measures),
        Column(measure.gain_heading, style="gain"),
        Column("Gap recovered"),
        Column("Parameters"),
        Column("Latency, p50"),
    ]
    groups = [
        (Cell("All sensors", note=join_words(demo.teacher.modalities or ())), [_row("teacher", demo.teacher, demo)])
    ]
    groups += [(Cell(name), list(_rows(contest, demo))) for name, contest in demo.students.items()]
    seeds = len(demo.seeds)
    spread = (
        "One seed, no spread. "
        if seeds == 1
        else f"Mean ± standard deviation over {seeds} seeds; each seed trains and tests on another fold. "
        if seeds
        else ""
    )
    gain = f"how much smaller the student's {measure.words} is than that of labels only"
    if not measure.lower_is_better:
        gain = "student minus labels only" + (f" in {measure.words}" if measure.name != "accuracy" else "")
    caption = f"{spread}Every model of a sensor sees the same labels; the gain is {gain}, with its 95 % interval."
    notes = [Text(note, style="notes") for note in _notes(demo)]
    results = Table(columns=columns, groups=groups, caption=caption, style="results")
    return Section(key="results", title="All results", blocks=[results, *notes])


def _notes(demo: DemoDocument) -> Iterator[str]:
    measure = demo.reported_metric
    if demo.mean_gain_points and demo.mean_gain_points.method:
        yield f"Gain: {demo.mean_gain_points.method}."
    chance = next((one.student.guessing for one in demo.students.values() if one.student.guessing is not None), None)
    if chance is not None:
        verb = "scores" if measure.is_share else "has"
        yield (
            f"Chance {verb} {score_with_unit(chance.figure, measure)}: the commonest answer every time, or all equally "
            "often, whichever is better."
        )
    rates = []
    for name, contest in demo.students.items():
        known = sorted({rate for rate in (contest.baseline.learning_rate if contest.baseline else None) or () if rate})
        if known:
            rates.append(f"{name} {', '.join(plain(rate) for rate in known)}")
    if rates:
        yield (
            "The labels-only baseline has the architecture, augmentation and budget of the student, and chose its own "
            f"learning rate on validation: {'; '.join(rates)}."
        )


def _rows(contest: Contest, demo: DemoDocument) -> Iterator[Row]:
    for role in ROWS:
        model = getattr(contest, role)
        if role == "student":
            yield _row(role, contest.student, demo, gain=contest.gain_points, gap=gap_text(contest))
        elif role in ALWAYS_SHOWN and (model is None or model.reason):
            reason = model.reason if model is not None and model.reason else "no reason was given"
            wide = Cell(f"not run: {reason}", style="reason", span=len(demo.measures) + 4)
            yield Row(Cell(ROLE_NAMES[role], role=role), [wide], role=role)
        elif model is not None and getattr(model, "reason", None):
            wide = Cell(f"not run: {model.reason}", style="reason", span=len(demo.measures) + 4)
            yield Row(Cell(ROLE_NAMES[role], role=role), [wide], role=role)
        elif model is not None:
            yield _row(role, model, demo)


def _row(
    role: str, model: Network | DemoRival, demo: DemoDocument, *, gain: Gain | None = None, gap: str = NOTHING
) -> Row:
    measure = demo.reported_metric
    latency = (model.latency_ms if isinstance(model, Network) else None) or LatencyPercentiles()
    parameters = model.parameters if isinstance(model, Network) else None
    ends = NOTHING if gain is None else gain_interval(gain.low, gain.high, measure)
    cells: list[Cell | str] = [written_score(model.score(one), demo.seeds, one) for one in demo.measures]
    cells += [
        Cell(NOTHING if gain is None else signed_gain(gain.mean, measure), note="" if ends == NOTHING else ends),
        gap,
        magnitude(parameters),
        with_unit(significant(latency.p50), "ms"),
    ]
    return Row(Cell(ROLE_NAMES[role], role=role), cells, role=role)


def written_score(spread: Spread | None, seeds: Sequence[int], measure: Measure) -> str:
    """Return a score in its unit, "71.2 ± 3.1", or the mean alone for a single seed."""
    if spread is None or not is_number(spread.mean):
        return NOTHING
    return score_with_std(spread.mean, spread.std if has_spread(spread, seeds) else None, measure)


def gap_text(contest: Contest) -> str:
    """Return the gap recovered where its interval shows that there is a gap."""
    gap = contest.gap_points
    if gap is None or not is_number(gap.low) or is_chance_level(contest.student.guessing):
        return NOTHING
    if contest.gap_recovered is None or gap.low <= 0:
        return "not measurable"
    return with_unit(percent(contest.gap_recovered, 0), "%")


def _seeds(demo: DemoDocument) -> Section:
    measure, reference = demo.reported_metric, demo.teacher.score(demo.reported_metric)
    groups: list[tuple[str, list[tuple[str, Spread]]]] = [
        ("All sensors", [] if reference is None else [("teacher", reference)])
    ]
    for name, contest in demo.students.items():
        models = ((role, getattr(contest, role)) for role in ROWS)
        scores = [(role, model.score(measure)) for role, model in models if model is not None]
        groups.append((name, [(role, spread) for role, spread in scores if spread is not None]))
    values = [value for _, rows in groups for _, spread in rows for value in (spread.mean, *spread.per_seed)]
    over = axis(values, floor=measure.floor, ceiling=measure.ceiling)
    panels = [
        seed_panel(
            [
                SeedScores(
                    role=role,
                    name=ROLE_NAMES[role],
                    mean=spread.mean,
                    std=spread.std if has_spread(spread, demo.seeds) else None,
                    seeds=demo.seeds if len(demo.seeds) == len(spread.per_seed) else range(len(spread.per_seed)),
                    per_seed=spread.per_seed,
                )
                for role, spread in rows
            ],
            over,
            measure,
            title=title,
            about=f"{measure.title}, mean over seeds",
            reference=mean_of(reference),
            paired=True,
        )
        for title, rows in groups
        if rows
    ]
    dots = "A dot is the one seed." if len(demo.seeds) == 1 else "One dot is one seed, the bar is the mean."
    unit = f", {measure.unit}" if measure.unit else ""
    note = f"{measure.title} on the test windows{unit}{': less is better' if measure.lower_is_better else ''}"
    return Section(
        key="accuracy",
        title=f"{measure.title}, seed by seed",
        link="Seed by seed",
        lead=f"{dots} Thin lines join labels only and the distilled student of the same seed; the dashed line is the "
        "teacher with all sensors.",
        blocks=[Picture(draw_panels(panels, note=note))],
    )


# --- confusion and labels ---------------------------------------------------------------------------------------------


def _confusion(demo: DemoDocument) -> Iterator[Section]:
    labels = demo.dataset.labels
    teacher = _confusion_table("Teacher", "teacher", demo.teacher, labels)
    pairs = [
        (name, [*_confusion_table("Labels only", "baseline", contest.baseline, labels),
                *_confusion_table("Distilled student", "student", contest.student, labels)])
        for name, contest in demo.students.items()
    ]  # fmt: skip
    if not teacher and not any(tables for _, tables in pairs):
        return
    first: list[list[Block]] = []
    if len(labels) <= MOST_MATRIX_LABELS:
        first.append([Facts(title="Classes", rows=[(str(n), label) for n, label in enumerate(labels, start=1)])])
    first += [[Heading("All sensors"), one] for one in teacher]
    blocks: list[Block] = [Columns(items=first)]
    for name, tables in pairs:
        blocks += [Heading(name), Columns(items=[[one] for one in tables])] if tables else []
    summed = ", summed over seeds" if len(demo.seeds) > 1 else ""
    yield Section(
        key="confusion",
        title="What is confused with what",
        link="Confusion",
        lead=f"Rows are the true class, columns the answer; a cell counts test windows{summed}. The stronger the "
        "colour, the larger the fraction of its row.",
        blocks=blocks,
    )


def _confusion_table(title: str, role: str, network: Network | None, labels: Sequence[str]) -> list[Table]:
    """Return the confusion matrix, or for many labels a table of its largest confusions; empty if not counted."""
    if network is None or network.confusion is None:
        return []
    if len(labels) > MOST_MATRIX_LABELS:
        wrong = [
            (cell, labels[row], labels[column])
            for row, cells in enumerate(network.confusion)
            for column, cell in enumerate(cells)
            if row != column and cell
        ]
        rows = [Row(count(cell), [true, given]) for cell, true, given in sorted(wrong, key=lambda o: -o[0])[:8]]
        columns = [label("Windows"), *(Column(one) for one in ("True class", "Answer"))]
        return [table(columns, rows, caption=title, style=f"compact role-{role}")]
    dense = " dense" if len(labels) > 10 else ""
    matrix = []
    for number, cells in enumerate(network.confusion):
        windows = sum(cells) or 1
        shaded = [
            Cell(str(cell), style="right" if number == column else "", shade=cell / windows)
            for column, cell in enumerate(cells)
        ]
        matrix.append(Row(Cell(str(number + 1)), shaded))
    columns = [label("true class", hidden=True)]
    columns += [label(str(number + 1)) for number in range(len(labels))]
    return [table(columns, matrix, caption=title, style=f"confusion role-{role}{dense}")]


def _labels(demo: DemoDocument) -> Iterator[Section]:
    """Multi-label tasks: how the teacher and every student answer for each label."""
    networks: list[tuple[str, Network]] = [("All sensors, teacher", demo.teacher)]
    networks += [(f"{name}, distilled student", contest.student) for name, contest in demo.students.items()]
    items: list[list[Block]] = []
    for title, network in networks:
        if network.counts is not None:
            rows = [
                Row(label, [count(hit + miss), count(hit), count(miss), count(false)])
                for label, (hit, false, miss, _) in zip(demo.dataset.labels, network.counts, strict=True)
            ]
            columns: Heads = [label("Label"), "On", "Found", "Missed", "False"]
            hidden = table(columns, rows, caption=f"{title}: windows by label", style="compact", hide_caption=True)
            items.append([Heading(title), hidden])
    if items:
        summed = ", summed over seeds" if len(demo.seeds) > 1 else ""
        lead = (
            f"Test windows with a label, and how often each network found it, missed it or reported it falsely{summed}."
        )
        yield Section(key="labels", title="Label by label", lead=lead, blocks=[Columns(items=items)])


# --- curves, attention, missing samples -------------------------------------------------------------------------------


def _curves(demo: DemoDocument) -> Iterator[Section]:
    groups: list[tuple[str, dict[str, Network | None]]] = [("Teacher", {"teacher": demo.teacher})]
    groups += [(name, {"baseline": one.baseline, "student": one.student}) for name, one in demo.students.items()]
    measure = demo.chosen_by
    points = [p for _, networks in groups for one in networks.values() if one is not None for p in one.curve or ()]
    scores = axis((point.valid_score for point in points), ceiling=1.0)
    items: list[list[Block]] = []
    for title, networks in groups:
        curves = {role: one.curve for role, one in networks.items() if one is not None and one.curve}
        steps = tight_axis(point.step for curve in curves.values() for point in (CurvePoint(step=0), *curve))
        losses = axis((point.train_loss for curve in curves.values() for point in curve), floor=0.0)
        charts = [
            *_curve(f"{title}: validation score", curves, "valid_score", steps, scores, measure),
            *_curve(f"{title}: training loss", curves, "train_loss", steps, losses, measure),
        ]
        if charts:
            items.append([Heading(title), *(Picture(chart) for chart in charts)])
    if items:
        legend = [("teacher", "Teacher"), ("baseline", "Labels only"), ("student", "Distilled student")]
        yield Section(
            key="curves",
            title="Learning curves",
            lead="One training run of each network. Validation scores share one scale; losses do not compare, since "
            "the student's includes the distillation terms.",
            blocks=[Legend(legend), Columns(items=items)],
        )


def _curve(
    title: str, curves: Mapping[str, tuple[CurvePoint, ...]], field: str, steps: Axis, over: Axis, measure: Measure
) -> Iterator[Chart]:
    lines, ends = [], []
    is_score = field == "valid_score"
    for role, curve in curves.items():
        values = [getattr(point, field) for point in curve]
        known = [value for value in values if is_number(value)]
        if known:
            x = [float(point.step) for point in curve]
            lines.append(Line(role=role, name=ROLE_NAMES[role], x=x, y=values))
            first, last = (score_text(v, measure) if is_score else significant(v) for v in (known[0], known[-1]))
            ends.append(f"{ROLE_NAMES[role]} {first} to {last}")
    if lines:
        unit = "Validation score, %" if measure.is_share else f"Validation {measure.words}"
        yield line_chart(
            lines,
            title=title,
            description=f"From first to last step: {'; '.join(ends)}.",
            x_label="training step",
            x_axis=steps,
            y_axis=over,
            x_text=count,
            y_text=(lambda value: tick(value, measure)) if is_score else plain,
            caption=unit if is_score else "Training loss",
        )


def _attention(demo: DemoDocument) -> Iterator[Section]:
    """Teacher and student attention of the best student, or else of the first that has some."""
    best = best_student(demo)
    order = [*([best] if best is not None else []), *demo.students]
    name = next((name for name in order if demo.students[name].attention is not None), None)
    found = None if name is None else demo.students[name].attention
    if found is None:
        return
    truth = "true class" if demo.kind == "classification" else "true value"
    label = f", {truth} {found.window_label}" if found.window_label else ""
    maps = [[Picture(_map("teacher", found))], [Picture(_map("student", found))]]
    yield Section(
        key="attention",
        title="Where teacher and student look",
        link="Attention",
        lead=f"One test window, the student sees {name}{label}. Each row is a position in the window that asks, each "
        "column a position that it looks at, both in seconds; the stronger the colour, the larger the weight.",
        blocks=[Columns(items=maps, style="maps")],
    )


def _map(role: str, attention: AttentionMaps) -> Chart:
    is_teacher = role == "teacher"
    weights = attention.teacher if is_teacher else attention.student
    layer = attention.teacher_layer if is_teacher else attention.student_layer
    seconds = attention.seconds
    ticks: list[tuple[float, str]] = [(0.0, "start"), (MAP_SIZE, "end")]
    if is_number(seconds) and seconds > 0:
        ticks = [(round(at / seconds * MAP_SIZE, 1), plain(at)) for at in tight_axis((0.0, seconds)).ticks]
    name = role.title()
    return attention_map(
        weights,
        role=role,
        title=f"{name}, {layer}" if layer else name,
        description=f"Attention of the {role}: {len(weights)} positions that ask (down) by {len(weights[0])} positions "
        "that are looked at (across); the stronger the colour, the larger the weight.",
        rgb=MAP_COLOURS[role],
        ticks=ticks,
    )


def _missing(demo: DemoDocument) -> Iterator[Section]:
    measure = demo.reported_metric
    columns, shown, folded = _subsets(demo)
    failed = any(len(one.modalities) < len(columns) for one in (*shown, *folded))
    charts = _missing_charts(demo)
    blocks: list[Block] = []
    if failed:
        bars = "Bars run from 0 to 100 %." if measure.is_share else "Bars run from 0 to the largest."
        about = (
            f"A filled dot is a sensor that is there; a missing one is masked, nothing is made up in its place. {bars}"
        )
        caption = f"{measure.title} of the teacher under subsets of its sensors"
        blocks += [Heading("The teacher with some of its sensors"), Text(about)]
        blocks.append(_subset_table(shown, columns, demo, caption))
        if folded:
            more = _subset_table(folded, columns, demo, "Further subsets")
            blocks.append(Details(summary=counted(len(folded), "further combination"), blocks=[more]))
    if charts:
        unit = " in percent" if measure.is_share else f" in {measure.unit}" if measure.unit else ""
        bands = "; bands are one standard deviation over seeds" if len(demo.seeds) != 1 else ""
        blocks += [
            Heading("One sensor with missing samples"),
            Text(f"{measure.title}{unit} against the fraction of samples missing in every window{bands}."),
            Legend([("baseline", "Labels only"), ("student", "Distilled student")]),
            Columns(items=[[Picture(chart)] for chart in charts]),
        ]
    if blocks:
        title = "When a sensor fails" if failed else "When samples are missing"
        yield Section(
            key="missing", title=title, link="Missing sensors" if failed else "Missing samples", blocks=blocks
        )


def _subsets(demo: DemoDocument) -> tuple[tuple[str, ...], list[SubsetScore], list[SubsetScore]]:
    """Return the teacher's modalities, the subsets to show, and those to fold away, the fullest and best first."""
    scores = demo.teacher.missing or ()
    named = dict.fromkeys(name for score in scores for name in score.modalities)
    order = tuple(demo.teacher.modalities or named)
    columns = (*order, *(name for name in named if name not in order))

    def rank(score: SubsetScore) -> tuple[int, float]:
        mean = mean_of(score.score(demo.reported_metric))
        return -len(score.modalities), -demo.reported_metric.rank(mean) if is_number(mean) else 0.0

    rows = sorted(scores, key=rank)
    if len(rows) <= MOST_SUBSETS:
        return columns, rows, []
    edges = (1, len(columns) - 1, len(columns))
    shown = [row for row in rows if len(row.modalities) in edges]
    return columns, shown, [row for row in rows if len(row.modalities) not in edges][:MOST_FOLDED_SUBSETS]


def _subset_table(rows: Sequence[SubsetScore], names: Sequence[str], demo: DemoDocument, caption: str) -> Table:
    measure = demo.reported_metric
    means = [mean_of(score.score(measure)) for score in demo.teacher.missing or ()]
    widest = 1.0 if measure.is_share else max((mean for mean in means if is_number(mean)), default=1.0) or 1.0
    columns = [label(name, "upright") for name in names]
    columns += [label(f"{measure.title} of the teacher", "wide"), Column(measure.unit)]
    drawn = []
    for row in rows:
        found = row.score(measure)
        dots = [_presence(name in row.modalities) for name in names]
        width = round(100 * min(1.0, max(0.0, (mean_of(found) or 0.0) / widest)), 2)
        text = written_score(found, demo.seeds, measure)
        drawn.append(Row(dots[0], [*dots[1:], Cell(content=bar(width, "teacher")), text]))
    return table(columns, drawn, caption=caption, style="subsets", hide_caption=True)


def _presence(used: bool) -> Cell:
    style, word = ("in", "there") if used else ("out", "missing")
    dot = element("span", aria_hidden="true", class_=style) + element("span", word, class_="hidden")
    return Cell(content=dot, style="member")


def _missing_charts(demo: DemoDocument) -> list[Chart]:
    measure = demo.reported_metric
    tested = {name: one.missing for name, one in demo.students.items() if one.missing is not None}
    spreads = [spread for missing in tested.values() for spread in (*missing.student, *missing.baseline) if spread]
    edges = (value for spread in spreads for value in _edges(spread, demo.seeds, measure))
    over = axis(edges, floor=measure.floor, ceiling=measure.ceiling)
    return [_missing_chart(name, one, over, demo.seeds, measure) for name, one in tested.items() if one.shares]


def _missing_chart(name: str, missing: MissingSamples, over: Axis, seeds: Sequence[int], measure: Measure) -> Chart:
    lines, spoken = [], []
    for role, spreads in (("baseline", missing.baseline), ("student", missing.student)):
        if spreads:
            edges = [_edges(one, seeds, measure) if one is not None else (None, None, None) for one in spreads]
            banded = any(one is not None and has_spread(one, seeds) for one in spreads)
            low, mean, high = ([edge[part] for edge in edges] for part in range(3))
            band = (low, high) if banded else ((), ())
            lines.append(Line(role=role, name=ROLE_NAMES[role], x=missing.shares, y=mean, low=band[0], high=band[1]))
            spoken.append(f"{ROLE_NAMES[role]} {' '.join(score_text(mean_of(one), measure) for one in spreads)}")
    unit = "percent" if measure.is_share else measure.unit
    told = f"{measure.title} in {unit}" if unit else measure.title
    shares = " ".join(percent(one, 0) for one in missing.shares)
    return line_chart(
        lines,
        title=name,
        description=f"{told} at {shares} percent of the samples missing: {'; '.join(spoken)}.",
        x_label="samples missing, %",
        x_axis=tight_axis(missing.shares),
        y_axis=over,
        x_text=percent_text(),
        y_text=lambda value: tick(value, measure),
    )


def _edges(spread: Spread, seeds: Sequence[int], measure: Measure) -> tuple[float | None, float | None, float | None]:
    """Return mean minus one standard deviation, mean, and mean plus one."""
    if not is_number(spread.mean):
        return (None, None, None)
    reach = (spread.std or 0.0) if has_spread(spread, seeds) else 0.0
    return (max(measure.floor, spread.mean - reach), spread.mean, min(measure.ceiling, spread.mean + reach))


# --- benchmark, sizes, reproduction -----------------------------------------------------------------------------------


def _benchmark(demo: DemoDocument) -> Iterator[Section]:
    bench = demo.benchmark
    measured = [("whole prediction", bench.latency_ms if bench else None)]
    measured.append((f"network, {teacher_network(demo).removeprefix('the ')}", demo.teacher.latency_ms))
    measured += [(f"network, {name}", contest.student.latency_ms) for name, contest in demo.students.items()]
    latencies = [(name, one) for name, one in measured if one is not None and is_number(one.p50)]
    if not bench and not latencies:
        return
    items: list[list[Block]] = []
    if latencies:
        rows = [Row(n, [significant(v) for v in (one.p50, one.p90, one.p99)]) for n, one in latencies]
        columns: Heads = [label("ms"), "p50", "p90", "p99"]
        caption = "Percentiles of the latency of one window in milliseconds"
        percentiles = table(columns, rows, caption=caption, style="compact", hide_caption=True)
        items.append([Heading("Latency of one window"), percentiles])
    about = "The bare networks, one window at a time; the runtime was not measured."
    if bench:
        samples = bench.latency_ms.samples if bench.latency_ms else None
        facts = [("samples", count(samples))] if samples else []
        numbers = [("load", bench.load_ms, "ms"), ("first call", bench.first_call_ms, "ms")]
        numbers.append(("memory (RSS)", bench.rss_mb, "MB"))
        facts += [(name, with_unit(significant(value), unit)) for name, value, unit in numbers if value is not None]
        if latencies and facts:
            items[0].append(Facts(rows=facts))
        if stages := _stages(bench.stages_us):
            items.append([Heading("Where the time goes"), stages])
        if machine := machine_facts(bench.machine):
            items.append([Facts(title="Machine", rows=machine)])
        where = [f" {bench.bundle}" if bench.bundle else "", " in the device runtime"]
        where += [f", backend {bench.backend}" if bench.backend else ""]
        where += [f", {counted(bench.threads, 'thread')}" if bench.threads else ""]
        about = f"The exported student{''.join(where)}, one window at a time."
        if bench.stable is False:
            about += " The timings did not settle during the run: read them with care."
    yield Section(key="benchmark", title="On this machine", link="Benchmark", lead=about, blocks=[Columns(items=items)])


def _stages(stages_us: Mapping[str, float | None] | None) -> Table | None:
    known = {name: value for name, value in (stages_us or {}).items() if is_number(value)}
    if not known:
        return None
    widest = max(known.values()) or 1.0
    rows = [
        Row(name, [Cell(content=bar(round(100 * value / widest, 2), "student")), with_unit(fixed(value), "µs")])
        for name, value in known.items()
    ]
    columns: Heads = [label("Stage"), label("Bar", "wide", hidden=True), "Time"]
    caption = "Median time of each stage of one prediction"
    return table(columns, rows, caption=caption, style="stages", hide_caption=True)


def _reproduce(demo: DemoDocument) -> Section:
    data, seeds = demo.dataset, demo.seeds
    machine = machine_facts(demo.machine)
    shown = machine_facts(demo.benchmark.machine if demo.benchmark else None)
    blocks: list[Block] = [Code(demo.command)] if demo.command else []
    named = f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}" if seeds else ""
    if demo.duration_s is not None:
        where = f" on the machine {'above' if machine == shown else 'below'}" if machine else ""
        tail = f", with {named}." if named else "."
        blocks.append(Text(f"Took {duration(demo.duration_s)}{where}{tail}"))
    elif named:
        blocks.append(Text(f"With {named}."))
    rows = [("name", data.name), ("source", data.source or ""), ("licence", data.licence or "")]
    for one in data.modalities:
        text = ", ".join(one.channels) + (f" in {one.unit}" if one.unit else "")
        if one.samples:
            text += f"; {count(one.samples)} samples"
            text += f", {with_unit(significant(one.samples / one.rate_hz), 's')}" if one.rate_hz else ""
        rows.append((one.name, text))
    rows.append(("SHA-256", data.sha256 or ""))
    items: list[list[Block]] = [[Facts(title="Data", rows=[row for row in rows if row[1]])]]
    if versions := facts(demo.versions):
        items.append([Facts(title="Versions", rows=versions)])
    if machine and machine != shown:
        items.append([Facts(title="Machine", rows=machine)])
    blocks.append(Columns(items=items))
    bundles = [(name, one.bundle) for name, one in demo.students.items() if one.bundle]
    if len(bundles) > 1:
        blocks.append(Facts(title="Bundles", rows=bundles))
    best = best_student(demo)
    if best is not None and (bundle := demo.students[best].bundle):
        reference = demo.students[best].reference
        more = f", reference={reference!r}" if reference else ""
        code = f"from mmkd_edge import EdgePredictor\npredictor = EdgePredictor.open({bundle!r}{more})\n"
        blocks += [Heading("Use the student"), Code(f"{code}print(predictor.predict(window))")]
    return Section(key="reproduce", title="How to reproduce", link="Reproduce", blocks=blocks)


def facts(mapping: Mapping[str, object] | None) -> tuple[tuple[str, str], ...]:
    """Return names and values as text; what is null or empty is left out."""
    return tuple((name, _fact(value)) for name, value in (mapping or {}).items() if _is_fact(value))


def machine_facts(mapping: Mapping[str, object] | None) -> tuple[tuple[str, str], ...]:
    """Return the facts of a machine, their names written as words."""
    return tuple((name.replace("_", " "), value) for name, value in facts(mapping))


def _is_fact(value: object) -> bool:
    return value is not None and value not in ("", [], (), {})


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(inner)}" for name, inner in value.items() if _is_fact(inner))
    if isinstance(value, list | tuple):
        return ", ".join(_fact(inner) for inner in value if _is_fact(inner))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return plain(value) if isinstance(value, float) else str(value)


_WORDS: dict[str, str] = {
    "Window": "The stretch of recording that one answer looks at.",
    "Sensor, modality": "One kind of input with its own channels and sampling rate.",
    "Teacher": "The large model that sees all sensors. It is needed for training only.",
    "Distilled student": "The small model that sees one sensor. It learns from the labels and from the teacher's "
    "answers, also on windows that nobody labelled. This is what runs on the device.",
    "Labels only": "The baseline: the same small model with the same augmentation and training budget, without a "
    "teacher. The difference to it is the gain of distillation.",
    "Extra-trees": "A forest of randomised decision trees on simple statistics of each window (Geurts, Ernst, "
    "Wehenkel, 2006): the classical method to beat.",
    "MiniRocket": "A linear model on ten thousand fixed convolution features (Dempster, Schmidt, Webb, 2021): a strong "
    "and fast classical method for time series.",
    "Distillation": "Training a small network to follow a large one: its answers, and where it looks. After Agarwal, "
    "Agrawal, Ferrari and Bremond, “From Multimodal to Unimodal Attention in Transformers using Knowledge "
    "Distillation”, AVSS 2021 (arXiv 2110.08270).",
}
_MEASURE_WORDS: dict[str, dict[str, str]] = {
    "classification": {
        "Accuracy": "The fraction of test windows answered correctly.",
        "Balanced accuracy": "The mean over classes of the fraction answered correctly: rare classes count as much as "
        "common ones.",
        "Macro-F1": "The mean over classes of F1, the harmonic mean of precision and recall.",
    },
    "multi_label": {
        "Macro-F1": "The mean over labels of F1, the harmonic mean of precision and recall.",
        "Mean precision": "The mean over labels of average precision: how well windows with a label come before the "
        "others when ordered by its probability. No threshold matters.",
        "All right": "The fraction of test windows in which every label is answered correctly.",
    },
    "regression": {
        "MAE": "Mean absolute error: how far an answer lies from the truth on average.",
        "RMSE": "Root mean squared error: as MAE, but large errors count more.",
        "R²": "The fraction of the truth's variance that the answers explain: 1 at best, 0 for a constant mean.",
        "Pearson": f"The correlation of answers and truth, from {MINUS}1 to 1.",
    },
}
_MORE_WORDS: dict[str, str] = {
    "±": "One standard deviation over seeds. One seed has none.",
    "Interval": "A 95 % confidence interval over people, machines and seeds. If it includes 0, the gain is not "
    "significant.",
    "Gap recovered": f"(student {MINUS} labels only) / (teacher {MINUS} labels only): how much of the distance to the "
    "teacher the student makes up. Not measurable where the interval of that distance includes 0.",
    "Chance": "The score of an answer that looks at no sensor: the commonest one every time, or all equally often, "
    "whichever is better. A model is better than chance if the whole interval of its score is.",
    "Parameters": "The numbers a network has learned; k is a thousand, M a million.",
    "Latency": "The time for one window. Half of all calls are faster than p50, 90 % faster than p90, 99 % faster than "
    "p99.",
    "Bundle": "The one file that is shipped to a device: the student, its description, and windows with which the "
    "device tests itself.",
}


def _glossary(demo: DemoDocument, measure: Measure) -> Facts:
    own_split = demo.split is not None and demo.split.by == "own split"
    dealt = "other visible labels; the dataset's own split stays" if own_split else "another split of the groups"
    seed = f"One full repetition: other random numbers, and {dealt}."
    point = {"Point": "A percentage point: from 60 % to 63 % is a gain of 3 points."} if measure.is_share else {}
    words = {**_WORDS, **_MEASURE_WORDS[demo.kind], "Seed": seed, **point, **_MORE_WORDS}
    return Facts(rows=list(words.items()), style="glossary")
