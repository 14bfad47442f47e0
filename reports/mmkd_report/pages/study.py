"""The page of `mmkd-study`: which student to use, the evidence for it, and everything that was tried."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmkd_report.charts import Point, SeedScores, axis, draw_panels, scatter, scatter_key, seed_panel
from mmkd_report.page import (
    Block,
    Cell,
    Code,
    Column,
    Columns,
    Details,
    Drawing,
    Facts,
    Heading,
    Heads,
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
from mmkd_report.pages.demo import facts, machine_facts
from mmkd_report.pages.study_answer import RACE, answer, caution, entry_name, key_figures, question, result_groups
from mmkd_report.schema.figures import Measure
from mmkd_report.schema.study import NONE, EntryRow, StudyDocument, TrialRow, chosen_entry, read_study, teacher_of
from mmkd_report.words import (
    NOTHING,
    count,
    counted,
    duration,
    is_number,
    join_words,
    labelled_groups_sentence,
    plain,
    score_text,
    score_with_unit,
    share,
    significant,
    task_labels_text,
    tick,
    with_unit,
)

SHAPES = {"baseline": "circle", "student": "square", "teacher": "diamond"}
ROLE_NAMES = {"baseline": "Labels only", "student": "Distilled", "teacher": "Chosen by validation"}
USUAL = (None, "none", "fresh")  # values of a recipe that ask for nothing special
MOST_TRIALS = 300


def render_study(document: Mapping[str, Any]) -> str:
    """Return the page of one study as HTML.

    Args:
        document: The content of `study.json`.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    study = read_study(document)
    warning = caution(study)
    sections = [_table(study), *_gains(study), _scores(study), *_pareto(study), _tried(study)]
    return render(
        Page(
            title=f"{study.dataset.name}, {study.facts.modality}: which student is best?",
            kind="study",
            headline=question(study),
            lede=[(True, f"{study.dataset.name}."), *((False, sentence) for sentence in _lede(study))],
            answer=answer(study),
            cautions=[warning] if warning else [],
            key_figures=key_figures(study),
            has_contents=True,
            sections=[*sections, _reproduce(study)],
            footer="Made by mmkd-edge. The same figures, unrounded, are in study.json.",
        )
    )


def _seed_words(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def _lede(study: StudyDocument) -> Iterator[str]:
    data, setup = study.dataset, study.facts
    labels = task_labels_text(data.kind, data.labels)
    groups = f", {counted(data.groups, 'group')}" if data.groups else ""
    yield (
        f"{labels[:1].upper()}{labels[1:]}, {count(data.windows)} windows{groups}; teachers see "
        f"{join_words(data.modalities)}."
    )
    if data.split:
        yield f"Judged on {data.split.judged_on}."
    if setup.labelled_groups is not None:
        yield labelled_groups_sentence(setup.labelled_groups)
    elif setup.label_share is not None and setup.label_share < 1:
        yield f"{share(setup.label_share)} of the training labels are used, the same for every model."
    if setup.mode == "search" and setup.search_seeds == setup.seeds:
        yield "A search used the validation windows; the table shows its results on the test windows."
    elif setup.mode == "search":
        yield (
            f"A search on {_seed_words(setup.search_seeds)} chose what was trained on {_seed_words(setup.seeds)}; the "
            "table is of the latter only."
        )
    else:
        yield f"Everything was trained on {_seed_words(setup.seeds)}; each is another fold."


def _table(study: StudyDocument) -> Section:
    measure, setup = study.reported_metric, study.facts
    columns = [label("Method"), *(Column(one.heading) for one in study.measures)]
    columns += [Column(measure.gain_heading, style="gain"), Column("Gap recovered")]
    columns += [Column("Parameters"), Column("Latency, p50")]
    groups = []
    for title, rows in result_groups(study):
        made = []
        for row in rows:
            ends = "" if row.gain_interval == NOTHING else row.gain_interval
            cells: list[Cell | str] = [
                *row.scores,
                Cell(row.gain, note=ends),
                row.gap_recovered,
                row.parameters,
                row.latency,
            ]
            made.append(Row(Cell(row.name, note=row.mark, role=row.role), cells, role=row.role))
        groups.append((title, made))
    seeds = (
        "one seed, no spread" if len(setup.seeds) == 1 else f"mean ± standard deviation over {len(setup.seeds)} seeds"
    )
    unit = f"{measure.gain_unit} of " if measure.gain_unit else ""
    above = ", and above 0 where the error is smaller" if measure.lower_is_better else ""
    resampled = study.dataset.split.resampled if study.dataset.split else "whole groups"
    interval = (
        f"its 95 % interval resamples {resampled}"
        if study.has_intervals
        else f"it has no interval, which resamples {resampled} and needs five"
    )
    caption = (
        f"Test windows, {seeds}. The gain is in {unit}{measure.words}{above}, paired with labels only of the same "
        f"size, seed, labels, augmentation and steps; {interval}."
    )
    rates = ", ".join(plain(rate) for rate in setup.learning_rates)
    by = "of the search" if setup.mode == "search" else "of each fold"
    note = (
        f"Every method, labels only too, chose its learning rate among {rates} by validation {by}. Gap recovered: how "
        "much of the distance from labels only to the teacher the student makes up."
    )
    results = Table(columns=columns, groups=groups, caption=caption, style="results")
    blocks: list[Block] = [results, Text(note, style="notes")]
    return Section(key="table", title="Every method compared with labels only", link="The table", blocks=blocks)


# --- charts -----------------------------------------------------------------------------------------------------------


def _sizes(study: StudyDocument) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry.student for entry in study.entries))


def _scores(study: StudyDocument) -> Section:
    """One panel per student size: the score of every entry, one dot per seed, the best teacher as a line."""
    measure = study.reported_metric
    teachers = [teacher.test[measure.name].mean for teacher in study.teachers]
    values = [value for entry in study.entries for value in entry.test[measure.name].per_seed]
    over = axis([*values, *teachers], floor=measure.floor, ceiling=measure.ceiling)
    panels = []
    for size in _sizes(study):
        entries = [entry for entry in study.entries if entry.student == size]
        known = [one for one in (teacher_of(study, entry.teacher) for entry in entries) if one is not None]
        best = max((one.test[measure.name].mean for one in known), key=measure.rank, default=None)
        rows = [
            SeedScores(
                role="baseline" if entry.method == NONE else "student",
                name=entry_name(entry, study),
                mean=entry.test[measure.name].mean,
                std=entry.test[measure.name].std,
                seeds=entry.seeds,
                per_seed=entry.test[measure.name].per_seed,
            )
            for entry in entries
        ]
        about = f"{measure.title}, mean over seeds"
        panels.append(seed_panel(rows, over, measure, title=f"{size} student", about=about, reference=best))
    note = f"{measure.title} on the test windows{f', {measure.unit}' if measure.unit else ''}"
    lead = "One dot is one seed, the bar is the mean; the dashed line is the best teacher of the panel."
    chart = draw_panels(panels, note=note, named=True)
    return Section(key="scores", title="Scores, seed by seed", link="Scores", lead=lead, blocks=[Picture(chart)])


def _gains(study: StudyDocument) -> Iterator[Section]:
    """One panel per student size: the gain of every method over labels only, seed by seed."""
    measure = study.reported_metric
    gains = {
        size: [
            (entry, entry.gain_points[measure.name])
            for entry in study.entries
            if entry.student == size and entry.gain_points is not None
        ]
        for size in _sizes(study)
    }
    over = axis([0.0, *(value for rows in gains.values() for _, gain in rows for value in gain.per_seed)])
    panels = []
    for size, pairs in gains.items():
        rows = [
            SeedScores(
                role="student",
                name=entry_name(entry, study),
                mean=gain.mean,
                std=gain.std,
                seeds=entry.seeds,
                per_seed=gain.per_seed,
            )
            for entry, gain in pairs
        ]
        if rows:
            about, title = _in_unit("Gain over labels only", measure), f"{size} student"
            panels.append(seed_panel(rows, over, measure, title=title, about=about, reference=0.0, are_gains=True))
    if panels:
        unit = f"{measure.gain_unit} of " if measure.gain_unit else ""
        note = f"{unit[:1].upper()}{unit[1:]}{measure.words}" if measure.is_share else f"Gain in {unit}{measure.words}"
        yield Section(
            key="gains",
            title="Gain of each method, seed by seed",
            link="Gains, seed by seed",
            lead="One dot is one seed, the bar is the mean; the dashed line is no gain over labels only.",
            blocks=[Picture(draw_panels(panels, note=f"{note} on the test windows", named=True))],
        )


def _in_unit(what: str, measure: Measure) -> str:
    return f"{what} in {measure.gain_unit}" if measure.gain_unit else what


def _pareto(study: StudyDocument) -> Iterator[Section]:
    """The score of every entry against the latency of its student. Better is up: an error's axis is upside down."""
    measure = study.reported_metric
    timed = [(entry, entry.latency_ms) for entry in study.entries if is_number(entry.latency_ms)]
    if not timed:
        return
    points = []
    for entry, latency in sorted(timed, key=lambda pair: pair[0].chosen):
        score, role = entry.test[measure.name].mean, _role(entry)
        written = f"{score_with_unit(score, measure)} in {with_unit(significant(latency), 'ms')}"
        title = f"{entry.student}, {entry_name(entry, study)}: {written}"
        points.append(Point(role=role, shape=SHAPES[role], title=title, x=latency, y=measure.rank(score)))
    best = max(points, key=lambda point: point.y)
    ends = measure.rank(measure.floor), measure.rank(measure.ceiling)
    chart = scatter(
        points,
        title=f"{measure.title} against latency",
        description=f"{len(points)} entries; the best on test is {best.title}.",
        x_label="median latency of one window, ms",
        x_axis=axis([0.0, *(point.x for point in points)]),
        y_axis=axis((point.y for point in points), floor=min(ends), ceiling=max(ends)),
        x_text=significant,
        y_text=lambda value: tick(measure.rank(value), measure),
    )
    roles = [role for role in SHAPES if any(point.role == role for point in points)]
    legend = scatter_key((role, SHAPES[role], ROLE_NAMES[role], False) for role in roles)
    limit_ms = study.facts.max_latency_ms
    limit = "" if limit_ms is None else f", and {with_unit(significant(limit_ms), 'ms')} was the limit"
    yield Section(
        key="pareto",
        title=f"{'Accuracy' if measure.is_share else measure.title} against latency",
        lead="Up and to the left is better. The line is the best score for a latency. Students of one size are equally "
        "fast, whatever they were trained with; latencies are of the exported student, one thread, on this "
        f"machine{limit}.",
        blocks=[Columns(items=[[Picture(chart)], [Drawing(legend)]], style="pareto")],
    )


def _role(entry: EntryRow) -> str:
    if entry.chosen:
        return "teacher"  # the page's second accent; no teacher is drawn here
    return "baseline" if entry.method == NONE else "student"


# --- what was tried, reproduction -------------------------------------------------------------------------------------


def _tried(study: StudyDocument) -> Section:
    setup, coverage, best = study.facts, study.coverage, chosen_entry(study)
    ended = [f"{counted(coverage.finished, 'training')} finished"]
    ended += [f"{count(coverage.failed)} failed"] if coverage.failed else []
    race = f" {RACE}" if setup.choose else ""
    lead = (
        f"{', '.join(ended)}. Every student had {count(setup.student_steps)} steps, every teacher "
        f"{count(setup.teacher_steps)}.{race}"
    )
    rows = []
    for size in study.students:
        times = size.latency.student_ms if size.latency is not None else {}
        cells = [count(size.parameters), significant(times.get("p50")), significant(times.get("p99"))]
        rows.append(Row(size.preset, cells, role="student" if size.preset == best.student else ""))
    excluded = [f"{size.preset} was left out: {size.excluded}." for size in study.students if size.excluded]
    methods = [(method.name, _recipe_text(method.recipe)) for method in study.methods]
    heads: Heads = [label("Size"), "Parameters", "p50, ms", "p99, ms"]
    sizes = table(heads, rows, caption="Student sizes with their costs", style="compact", hide_caption=True)
    blocks: list[Block] = [
        Heading("Student sizes"),
        sizes,
        *(Text(text, style="notes") for text in excluded),
        Facts(title="Methods", rows=methods),
    ]
    if study.skipped:
        columns = [label(name) for name in ("Method", "Student", "Teacher", "Reason")]
        skipped = [Row(one.method, [one.student, one.teacher or NOTHING, one.reason]) for one in study.skipped]
        caption = "Combinations that cannot be trained"
        reasons = table(columns, skipped, caption=caption, style="compact", hide_caption=True)
        summary = f"{counted(len(study.skipped), 'combination')} that cannot be trained"
        blocks.append(Details(summary=summary, blocks=[reasons]))
    trials = sorted(study.trials, key=lambda trial: math.inf if trial.score is None else -trial.score)
    unit = ", %" if study.chosen_by.is_share else ""
    columns = [label(name) for name in ("Method", "Student", "Teacher")]
    columns += [Column(name) for name in ("Rate", "Seed", f"Validation{unit}")]
    columns.append(label("State"))
    made = [_trial(trial, study.chosen_by) for trial in trials[:MOST_TRIALS]]
    listed = table(columns, made, caption="Trainings with their validation score", style="compact", hide_caption=True)
    hidden = len(trials) - MOST_TRIALS
    more = [Text(f"{counted(hidden, 'more training')} in study.json.")] if hidden > 0 else []
    summary = f"{counted(len(trials), 'training')}, the best first"
    blocks.append(Details(summary=summary, blocks=[listed, *more]))
    return Section(key="tried", title="What was tried", lead=lead, blocks=blocks)


def _trial(trial: TrialRow, measure: Measure) -> Row:
    state = f"{trial.state}: {trial.reason}" if trial.reason else trial.state
    cells = [trial.student, trial.teacher or NOTHING, plain(trial.learning_rate), str(trial.seed)]
    return Row(trial.method, [*cells, score_text(trial.score, measure), state])


def _recipe_text(recipe: Mapping[str, Any] | None) -> str:
    """Return the terms of a recipe with their weights, and its unusual options."""
    if recipe is None:
        return "cross-entropy against the labels"
    terms = [_term_text(term) for term in recipe.get("terms", ())]
    more = [
        f"{name.replace('_', ' ')} {_value(value)}"
        for name, value in recipe.items()
        if name != "terms" and value not in USUAL
    ]
    return "; ".join([*terms, *more])


def _term_text(term: Mapping[str, Any]) -> str:
    weight = term.get("weight") or {}
    start, end, until = (weight.get(name) for name in ("start", "end", "until"))
    written = plain(start) if start == end else f"{plain(start)} to {plain(end)}"
    if start != end and until is not None and until < 1:
        written += f" after {share(until)}"
    more = [
        f"{name.replace('_', ' ')} {_value(value)}"
        for name, value in term.items()
        if name not in ("type", "weight") and value is not None
    ]
    return f"{term.get('type')} {written}" + (f" ({', '.join(more)})" if more else "")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return plain(float(value))
    if isinstance(value, Mapping):
        return " ".join(f"{name} {_value(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_value(inner) for inner in value)
    return str(value)


def _reproduce(study: StudyDocument) -> Section:
    data, latency = study.dataset, study.recommendation.latency
    rows = [("name", data.name), ("source", data.source or ""), ("licence", data.licence or "")]
    items: list[list[Block]] = [[Facts(title="Data", rows=[row for row in rows if row[1]])]]
    for title, found in (
        ("Versions", facts(study.versions)),
        ("Machine", machine_facts(latency.machine if latency is not None else None)),
    ):
        items += [[Facts(title=title, rows=found)]] if found else []
    hashes = [("dataset", data.sha256)]
    if study.recommendation.sha256 is not None:
        hashes.append(("student.ckpt", study.recommendation.sha256))
    for teacher in study.teachers:
        files = max(1, len(teacher.sha256) // max(1, len(teacher.seeds)))  # a committee has several files per seed
        hashes += [
            (f"teacher {teacher.name}, seed {teacher.seeds[number // files]}", digest)
            for number, digest in enumerate(teacher.sha256)
        ]
    took = (
        f"Took {duration(study.duration_s)} in this run; trainings finished by an earlier run are not included. The "
        f"same versions, machine and {counted(study.facts.threads, 'thread')} give the same weights, bit by bit."
    )
    blocks: list[Block] = [*([Code(study.command)] if study.command else []), Text(took), Columns(items=items)]
    blocks.append(Facts(title="SHA-256", rows=hashes, hashes=True))
    return Section(key="reproduce", title="How to reproduce", link="Reproduce", blocks=blocks)
