"""The page of `mmkd-demo`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mmkd_app import words
from mmkd_app.pages import charts, demo_answer, page
from mmkd_app.pages.head import facts, lede
from mmkd_documents.demo import (
    DemoBenchmark,
    DemoDocument,
    DemoRival,
    DemoSensor,
    Gain,
    LatencyPercentiles,
    Network,
    SubsetScore,
)
from mmkd_documents.figures import Measure, Spread

ROLE_NAMES = {
    "teacher": "Teacher",
    "extra_trees": "Extra-trees",
    "mini_rocket": "MiniRocket",
    "rocket_and_trees": "MiniRocket + trees",
    "baseline": "Labels only",
    "distilled_rocket": "Distilled MiniRocket",
    "student": "Distilled student",
}
ROWS = ("extra_trees", "mini_rocket", "rocket_and_trees", "baseline", "distilled_rocket", "student")
ALWAYS_SHOWN = ("extra_trees", "mini_rocket")  # with a reason if they were not run
PAIR = [("baseline", "Labels only"), ("student", "Distilled student")]
MAX_MATRIX_LABELS = 20  # beyond, the largest confusions are clearer
MAX_SUBSETS = 12


def render_demo(demo: DemoDocument) -> str:
    """Return the page as HTML."""
    name = demo.dataset.name
    leaked, labelled = demo_answer.leak_text(demo), words.labelled_title(demo.label_fraction, demo.labelled_groups)
    parts = ([_results(demo)], _confusion(demo), _labels(demo), _gaps(demo), _benchmark(demo), [_reproduce(demo)])
    return page.render(
        page.Page(
            title=f"{', '.join(filter(None, [name, labelled]))}: which one sensor is enough?",
            kind="demonstration",
            headline=demo_answer.question(demo),
            lede=_lede(demo, name),
            answer=demo_answer.answer(demo),
            cautions=[leaked] if leaked else [],
            key_figures=demo_answer.key_figures(demo),
            sections=[section for part in parts for section in part],
            document="the JSON document of this run",
        )
    )


def _lede(demo: DemoDocument, name: str) -> Iterator[str]:
    data, windows = demo.dataset, demo.dataset.windows
    if first_look := demo_answer.first_look_text(demo):
        yield first_look
    yield from lede(
        name,
        kind=demo.kind,
        labels=data.labels,
        groups=data.groups,
        split=demo.split,
        label_fraction=demo.label_fraction,
        labelled_groups=demo.labelled_groups,
    )
    if data.modalities:
        sensors = [f"{m.name} at {words.plain(m.rate_hz)} Hz" if m.rate_hz else m.name for m in data.modalities]
        yield f"Sensors: {', '.join(sensors)}."
    if windows:
        train, valid, test = map(words.count, (windows.train, windows.valid, windows.test))
        first, every = (f" of seed {demo.seeds[0]}", " of all seeds") if len(demo.seeds) > 1 else ("", "")
        yield f"Windows: {train} to train and {valid} to validate{first}, {test} to test{every}."


def _results(demo: DemoDocument) -> page.Section:
    measure, seeds = demo.reported_metric, len(demo.seeds)
    heads = [
        "Model",
        *(page.Column(column.heading, style="main" if column is measure else "") for column in demo.measures),
        page.Column(measure.gain_heading, style="gain"),
        "Gap recovered, %",
        "Parameters",
    ]
    groups: list[tuple[page.Cell | str, list[page.Row]]] = [
        (
            page.Cell("All sensors", note=words.join_words(demo.teacher.modalities or ())),
            [_row("teacher", demo.teacher, demo)],
        )
    ]
    groups += [(name, list(_rows(sensor, demo))) for name, sensor in demo.students.items()]
    spread = f"Mean ± standard deviation over {seeds} seeds, each on another fold." if seeds else ""
    caption = (
        f"{'One seed, so no standard deviation.' if seeds == 1 else spread} Every model of a sensor sees the same "
        f"labels. The gain is that of the distilled student over labels only in {measure.words}, with its 95 % "
        "interval."
    )
    blocks: list[page.Block] = [page.table(heads, groups=groups, caption=caption.strip(), style="results")]
    if demo.mean_gain_points and demo.mean_gain_points.method:
        blocks.append(page.Note(f"Gain: {demo.mean_gain_points.method}."))
    chance = next(
        (sensor.student.chance for sensor in demo.students.values() if sensor.student.chance is not None), None
    )
    if chance is not None:
        level = words.score_with_unit(chance.figure, measure)
        blocks.append(page.Note(f"Chance, the better of a constant and a uniform answer, has {measure.words} {level}."))
    if demo_answer.is_judged(demo) and (note := demo_answer.enough_note(demo)):
        blocks.append(page.Note(note))
    if demo_answer.is_judged(demo) and demo_answer.recommendation(demo):
        blocks.append(page.Note("The recommendation uses validation only; test scores are for checking."))
    return page.Section("results", "All results", blocks)


def _rows(sensor: DemoSensor, demo: DemoDocument) -> Iterator[page.Row]:
    for role in ROWS:
        model = getattr(sensor, role)
        reason = getattr(model, "reason", None)
        if role == "student":
            yield _row(role, sensor.student, demo, gain=sensor.gain_points, gap=gap_text(sensor))
        elif reason or (model is None and role in ALWAYS_SHOWN):
            wide = page.Cell(f"not run: {reason or 'no reason was given'}", style="reason", span=len(demo.measures) + 3)
            yield page.Row([page.Cell(ROLE_NAMES[role], role=role), wide], role)
        elif model is not None:
            yield _row(role, model, demo)


def _row(
    role: str, model: Network | DemoRival, demo: DemoDocument, *, gain: Gain | None = None, gap: str = words.NOTHING
) -> page.Row:
    measure = demo.reported_metric
    gained = page.Cell(words.NOTHING)
    if gain is not None:
        ends = words.gain_interval(gain.low, gain.high, measure)
        gained = page.Cell(words.signed_gain(gain.mean, measure), note="" if ends == words.NOTHING else ends)
    size = words.magnitude(model.parameters) if isinstance(model, Network) else words.NOTHING
    scores = [words.score_with_std(model.score(measure), measure) for measure in demo.measures]
    return page.Row(
        [page.Cell(ROLE_NAMES[role], role=role), *scores, gained, gap.removesuffix(f"{words.THIN}%"), size], role
    )


def gap_text(sensor: DemoSensor) -> str:
    """Return the gap recovered with its unit, if its interval shows a gap."""
    gap = sensor.gap_points
    if gap is None or not words.is_number(gap.low) or words.is_chance_level(sensor.student.chance):
        return words.NOTHING
    if sensor.gap_recovered is None or gap.low <= 0:
        return "not measurable"
    return words.with_unit(words.percent(sensor.gap_recovered, 0), "%")


def _confusion(demo: DemoDocument) -> Iterator[page.Section]:
    labels = demo.dataset.labels
    teacher = _confusion_table("Teacher", "teacher", demo.teacher, labels)
    pairs = {
        name: [
            *_confusion_table("Labels only", "baseline", sensor.baseline, labels),
            *_confusion_table("Distilled student", "student", sensor.student, labels),
        ]
        for name, sensor in demo.students.items()
    }
    if not teacher and not any(pairs.values()):
        return
    first: list[list[page.Block]] = []
    if len(labels) <= MAX_MATRIX_LABELS:
        first.append([page.Facts([(str(number), name) for number, name in enumerate(labels, start=1)], "Classes")])
    first += [[page.Heading("All sensors"), matrix] for matrix in teacher]
    blocks: list[page.Block] = [page.Columns(first)]
    for name, tables in pairs.items():
        blocks += [page.Heading(name), page.columns(tables)] if tables else []
    lead = (
        f"Rows are the true class, columns the answer. A cell counts test windows{_seeds_text(demo)}; the stronger the "
        "colour, the larger the fraction of its row."
    )
    yield page.Section("confusion", "What is confused with what", blocks, lead)


def _seeds_text(demo: DemoDocument) -> str:
    return ", summed over seeds" if len(demo.seeds) > 1 else ""


def _confusion_table(title: str, role: str, network: Network | None, labels: Sequence[str]) -> list[page.Table]:
    if network is None or network.confusion is None:
        return []
    if len(labels) > MAX_MATRIX_LABELS:
        wrong = [
            (cell, labels[row], labels[column])
            for row, cells in enumerate(network.confusion)
            for column, cell in enumerate(cells)
            if row != column and cell
        ]
        largest = [(words.count(cell), *names) for cell, *names in sorted(wrong, key=lambda row: -row[0])[:8]]
        return [page.table(["Windows", "True class", "Answer"], largest, caption=title, style=f"compact role-{role}")]
    matrix: list[list[page.Cell | str]] = [
        [
            str(number + 1),
            *(
                page.Cell(str(cell), style="right" if number == column else "", shade=cell / (sum(cells) or 1))
                for column, cell in enumerate(cells)
            ),
        ]
        for number, cells in enumerate(network.confusion)
    ]
    heads = [page.label("true class", hidden=True), *(page.label(str(number + 1)) for number in range(len(labels)))]
    dense = " dense" if len(labels) > 10 else ""
    return [page.table(heads, matrix, caption=title, style=f"confusion role-{role}{dense}")]


def _labels(demo: DemoDocument) -> Iterator[page.Section]:
    networks: dict[str, Network] = {"All sensors, teacher": demo.teacher}
    networks |= {f"{name}, distilled student": sensor.student for name, sensor in demo.students.items()}
    items: list[list[page.Block]] = []
    for title, network in networks.items():
        if network.counts is not None:
            rows = [
                [name, words.count(hit + miss), words.count(hit), words.count(miss), words.count(false)]
                for name, (hit, false, miss, _) in zip(demo.dataset.labels, network.counts, strict=True)
            ]
            heads = ["Label", "On", "Found", "Missed", "False"]
            caption = f"{title}: windows by label"
            items.append(
                [page.Heading(title), page.table(heads, rows, caption=caption, style="compact", hide_caption=True)]
            )
    if items:
        lead = f"Test windows{_seeds_text(demo)}."
        yield page.Section("labels", "Label by label", [page.Columns(items)], lead)


def _gaps(demo: DemoDocument) -> Iterator[page.Section]:
    measure, (names, shown) = demo.reported_metric, _subsets(demo)
    failed = any(len(subset.modalities) < len(names) for subset in shown)
    blocks: list[page.Block] = []
    if failed:
        caption = f"{measure.title} of the teacher with subsets of its sensors"
        about = (
            "A filled dot is a sensor that is present; a missing one is masked. What one sensor alone reaches is the "
            "score of its student."
        )
        blocks += [page.Heading("The teacher with some of its sensors"), about]
        blocks.append(_subset_table(shown, names, demo, caption))
    if drawn := _missing_charts(demo):
        unit = f", {measure.unit}" if measure.unit else ""
        bands = "; bands are one standard deviation over seeds" if len(demo.seeds) != 1 else ""
        about = f"{measure.title}{unit} by the fraction of samples missing in every window{bands}."
        blocks += [page.Heading("One sensor with missing samples"), about, page.Legend(PAIR), page.columns(drawn)]
    if blocks:
        yield page.Section("missing", "When a sensor fails" if failed else "When samples are missing", blocks)


def _subsets(demo: DemoDocument) -> tuple[list[str], list[SubsetScore]]:
    scores = demo.teacher.missing or ()
    names = [*(demo.teacher.modalities or ()), *(name for score in scores for name in score.modalities)]
    names = list(dict.fromkeys(names))
    scores = tuple(score for score in scores if len(score.modalities) > 1)  # a student is the figure of one sensor

    def rank(score: SubsetScore) -> tuple[int, float]:
        mean = demo_answer.mean_score(score.score(demo.reported_metric))
        return -len(score.modalities), -demo.reported_metric.rank(mean) if words.is_number(mean) else 0.0

    edges = (len(names) - 1, len(names))
    shown = [score for score in scores if len(scores) <= MAX_SUBSETS or len(score.modalities) in edges]
    return names, sorted(shown, key=rank)


def _subset_table(subsets: Sequence[SubsetScore], names: Sequence[str], demo: DemoDocument, caption: str) -> page.Table:
    measure = demo.reported_metric
    means = [demo_answer.mean_score(subset.score(measure)) or 0.0 for subset in demo.teacher.missing or ()]
    widest = 1.0 if measure.is_fraction else max(means, default=1.0) or 1.0
    heads = [*(page.label(name, "upright") for name in names), page.BAR, page.Column(measure.heading)]
    rows: list[list[page.Cell | str]] = []
    for subset in subsets:
        score = subset.score(measure)
        dots = [_presence(name in subset.modalities) for name in names]
        rows.append(
            [
                *dots,
                page.bar_cell((demo_answer.mean_score(score) or 0.0) / widest, "teacher"),
                words.score_with_std(score, measure),
            ]
        )
    return page.table(heads, rows, caption=caption, style="subsets", hide_caption=True)


def _presence(is_present: bool) -> page.Cell:
    style, word = ("in", "there") if is_present else ("out", "missing")
    dot = charts.element("span", aria_hidden="true", class_=style) + charts.element("span", word, class_="hidden")
    return page.Cell(content=dot)


def _missing_charts(demo: DemoDocument) -> list[charts.Chart]:
    measure = demo.reported_metric
    measured = {name: sensor.missing for name, sensor in demo.students.items()}
    tested = {name: missing for name, missing in measured.items() if missing and missing.fractions}
    bands = {
        name: {
            role: [_band(score, measure) for score in scores]
            for role, scores in (("baseline", missing.baseline), ("student", missing.student))
            if scores
        }
        for name, missing in tested.items()
    }
    ends = (end for roles in bands.values() for band in roles.values() for point in band for end in point)
    over = charts.axis(ends, floor=measure.floor, ceiling=measure.ceiling)
    drawn = []
    for name, missing in tested.items():
        lines, spoken = [], []
        for role, band in bands[name].items():
            low, mean, high = zip(*band, strict=True)
            edges = {} if low == high else {"low": low, "high": high}
            lines.append(charts.Line(role=role, name=ROLE_NAMES[role], x=missing.fractions, y=mean, **edges))
            spoken.append(f"{ROLE_NAMES[role]} {' '.join(words.score_text(value, measure) for value in mean)}")
        fractions = " ".join(words.percent(fraction, 0) for fraction in missing.fractions)
        chart = charts.line_chart(
            lines,
            title=name,
            description=f"{measure.heading} at {fractions} percent of the samples missing: {'; '.join(spoken)}.",
            x_label="samples missing, %",
            x_axis=charts.tight_axis(missing.fractions),
            y_axis=over,
            x_text=lambda value: words.percent(value, 0),
            y_text=lambda value: words.tick(value, measure),
        )
        drawn.append(chart)
    return drawn


def _band(score: Spread | None, measure: Measure) -> tuple[float | None, float | None, float | None]:
    if score is None:
        return None, None, None
    reach = score.std if words.is_number(score.std) and len(score.per_seed) != 1 else 0.0
    return max(measure.floor, score.mean - reach), score.mean, min(measure.ceiling, score.mean + reach)


def _benchmark(demo: DemoDocument) -> Iterator[page.Section]:
    bench = demo.benchmark or DemoBenchmark()
    config = [bench.bundle, bench.backend, words.count_noun(bench.threads, "thread") if bench.threads else ""]
    facts = [
        ("config", ", ".join(filter(None, config))),
        ("calls", words.count(bench.latency_ms.samples if bench.latency_ms else None)),
        ("load", words.quantity(bench.load_ms, "ms")),
        ("first call", words.quantity(bench.first_call_ms, "ms")),
        ("memory (RSS)", words.quantity(bench.rss_mb, "MB")),
    ]
    shown = [(name, value) for name, value in facts if value not in ("", words.NOTHING)]
    whole = "One prediction with checks of the input, by the engine that EdgePredictor.open chooses here."
    networks = {demo_answer.teacher_network(demo): demo.teacher.latency_ms}
    networks |= {f"student of {name}": sensor.student.latency_ms for name, sensor in demo.students.items()}
    alone = f"Networks alone in ONNX Runtime, one thread. {demo_answer.ratio_text(demo)}"
    tables = _latencies({"whole prediction": bench.latency_ms}, whole)
    blocks: list[page.Block] = [page.columns([*tables, page.Facts(shown)])] if tables else []
    blocks += _latencies(networks, alone.strip())
    unstable = (
        "" if bench.stable is not False else "The timings were unstable: repeat the benchmark on an idle machine."
    )
    if blocks:
        yield page.Section("benchmark", "On this machine", blocks, unstable)


def _latencies(measured: Mapping[str, LatencyPercentiles | None], caption: str) -> list[page.Table]:
    """Return a table of one engine, if anything was measured."""
    rows = [
        [name, *map(words.significant, (latency.p50, latency.p90, latency.p99))]
        for name, latency in measured.items()
        if latency is not None and words.is_number(latency.p50)
    ]
    heads = ["Latency of one window, ms", "p50", "p90", "p99"]
    return [page.table(heads, rows, caption=caption, style="compact")] if rows else []


def _reproduce(demo: DemoDocument) -> page.Section:
    data = demo.dataset
    rows = [("name", data.name), ("source", data.source or ""), ("licence", data.licence or "")]
    for modality in data.modalities:
        text = ", ".join(modality.channels) + (f" in {modality.unit}" if modality.unit else "")
        if modality.samples:
            text += f"; {words.count(modality.samples)} samples"
            text += f", {words.quantity(modality.samples / modality.rate_hz, 's')}" if modality.rate_hz else ""
        rows.append((modality.name, text))
    rows.append(("SHA-256", data.sha256 or ""))
    run = [("took", words.duration(demo.duration_s)), ("seeds", ", ".join(map(str, demo.seeds)))]
    groups = {
        "Data": rows,
        "Run": run,
        "Versions": facts(demo.versions),
        "Machine": facts(demo.machine),
        "Bundles": [(name, sensor.bundle or "") for name, sensor in demo.students.items()],
    }
    known = {title: [row for row in group if row[1] not in ("", words.NOTHING)] for title, group in groups.items()}
    blocks: list[page.Block] = [page.Code(demo.command)] if demo.command else []
    blocks.append(page.columns(page.Facts(group, title) for title, group in known.items() if group))
    best = demo.best_student
    if best is not None and (bundle := demo.students[best].bundle):
        reference = demo.students[best].reference
        more = f", reference={reference!r}" if reference else ""
        code = (
            "import numpy as np\n"
            "from mmkd_edge import EdgePredictor\n"
            f"predictor = EdgePredictor.open({bundle!r}{more})\n"
            "shape, dtype = predictor.modality.shape, predictor.modality.dtype\n"
            "window = np.zeros(shape, dtype)  # replace it with raw values of the sensor\n"
            "print(predictor.predict(window))"
        )
        blocks += [page.Heading("Use the student"), page.Code(code)]
    return page.Section("reproduce", "How to reproduce", blocks)
