"""The page of `mmkd-study`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmkd_report import words
from mmkd_report.page import (
    Block,
    Cell,
    Code,
    Column,
    Facts,
    Heading,
    Note,
    Page,
    Row,
    Section,
    Table,
    columns,
    label,
    markdown,
    render,
    table,
)
from mmkd_report.pages.head import facts, lede
from mmkd_report.pages.study_answer import CHOICE, answer, caution, entry_name, judged_on, key_figures, question
from mmkd_report.schema.figures import MODEL_NAMES, Measure
from mmkd_report.schema.study import (
    NONE,
    ScoreTable,
    SeedGain,
    StudyDocument,
    chosen_entry,
    read_study,
)


def render_study(document: Mapping[str, Any]) -> str:
    """Return HTML; raise DocumentError for a broken document."""
    study = read_study(document)
    warning = caution(study)
    sections = [_table(study), _sizes_and_methods(study)]
    return render(
        Page(
            title=f"{study.dataset.name}, {study.facts.modality}: which student is best?",
            kind="study",
            headline=question(study),
            lede=_lede(study),
            answer=answer(study),
            cautions=[warning] if warning else [],
            key_figures=key_figures(study),
            sections=[*sections, _reproduce(study)],
            document="study.json",
        )
    )


def _lede(study: StudyDocument) -> Iterator[str]:
    data, setup = study.dataset, study.facts
    yield from lede(
        data.name,
        kind=data.kind,
        labels=data.labels,
        groups=data.groups,
        split=data.split,
        label_fraction=setup.label_fraction,
        labelled_groups=setup.labelled_groups,
    )
    yield f"{words.count(data.windows)} windows; teachers see {words.join_words(data.modalities)}."
    if setup.mode == "search" and setup.search_seeds == setup.seeds:
        yield "A search used the validation windows; the table shows its results on the test windows."
    elif setup.mode == "search":
        search = words.number_nouns("seed", setup.search_seeds)
        yield f"A search on {search} chose what the table shows for {_seeds(study)}."
    else:
        yield f"Everything was trained on {_seeds(study)}; each is another fold."


def _seeds(study: StudyDocument) -> str:
    return words.number_nouns("seed", study.facts.seeds)


def results_table(study: StudyDocument) -> Table:
    """Return groups: teachers, student sizes with labels only first, then rivals."""
    measure, setup = study.reported_metric, study.facts

    def row(role: str, name: str, mark: str, test: ScoreTable, *cells: Cell | str) -> Row:
        scores = [words.score_with_std(test[measure.name], measure) for measure in study.measures]
        more = cells or [words.NOTHING] * 4
        return Row([Cell(name, note=mark, role=role), *scores, *more], role)

    several = len(study.teachers) > 1
    groups: dict[str, list[Row]] = {"teachers": []}
    for teacher in study.teachers:
        mark = "smallest near the best" if teacher.is_reference and several else ""
        size = words.magnitude(teacher.parameters)
        groups["teachers"].append(
            row("teacher", teacher.name, mark, teacher.test, words.NOTHING, words.NOTHING, size, words.NOTHING)
        )
    for entry in study.entries:
        role = "baseline" if entry.method == NONE else "student" if entry.chosen else "candidate"
        made = row(
            role,
            entry_name(entry, study),
            "chosen" if entry.chosen else "",
            entry.test,
            _gain_cell(None if entry.gain_points is None else entry.gain_points[measure.name], measure),
            words.percent(entry.gap_recovered, 0),
            words.magnitude(entry.parameters),
            words.significant(entry.latency_ms),
        )
        groups.setdefault(f"{entry.student} student", []).append(made)
    rivals = [
        row("extra_trees", MODEL_NAMES.get(rival.name, rival.name), "", rival.test)
        for rival in study.rivals
        if rival.test
    ]
    groups["without a network"] = rivals
    seeds = (
        f"mean ± standard deviation over {len(setup.seeds)} seeds" if len(setup.seeds) > 1 else "one seed, no spread"
    )
    resampled = study.dataset.split.resampled if study.dataset.split else "whole groups"
    interval = f"its 95 % interval resamples {resampled}"
    if not study.has_intervals:
        interval = f"it has no interval, which resamples {resampled} and needs five"
    return table(
        [
            label("Method"),
            *(measure.heading for measure in study.measures),
            Column(measure.gain_heading, style="gain"),
            *("Gap recovered, %", "Parameters", "Latency p50, ms"),
        ],
        groups=[(title, rows) for title, rows in groups.items() if rows],
        caption=f"Test windows, {seeds}. The gain in {measure.words} is over labels only of the same size, seed, "
        f"labels, augmentation and steps; {interval}.",
        style="results",
    )


def _gain_cell(gain: SeedGain | None, measure: Measure) -> Cell:
    if gain is None:
        return Cell(words.NOTHING)
    std = f" ± {words.signed_gain(gain.std, measure).lstrip('+')}" if words.is_number(gain.std) else ""
    ends = words.gain_interval(gain.low, gain.high, measure)
    return Cell(words.signed_gain(gain.mean, measure) + std, note="" if ends == words.NOTHING else ends)


def _table(study: StudyDocument) -> Section:
    rates = ", ".join(words.plain(rate) for rate in study.facts.learning_rates)
    by = "of the search" if study.facts.mode == "search" else "of each fold"
    note = (
        f"Every method and labels only chose its learning rate among {rates} by validation {by}. Gap recovered: the "
        "student's gain as a fraction of the teacher's lead over labels only."
    )
    return Section("table", "Every method compared with labels only", [results_table(study), Note(note)])


def study_section(study: StudyDocument) -> str:
    """Return a Markdown section: heading, command, table and answer."""
    facts = study.facts
    labelled = words.labelled_title(facts.label_fraction, facts.labelled_groups)
    title = f"{study.dataset.name}, {facts.modality}, {labelled}"
    table = results_table(study)
    chosen = CHOICE if facts.choose else ""
    notes = [f"Judged on {judged_on(study)}. {table.caption}", chosen, *answer(study), caution(study)]
    lines = "\n".join(filter(None, notes))
    text = f"## {title}\n\n```sh\n{study.command}\n```\n\n{markdown(table)}\n{lines}\n"
    return words.for_terminal(text)


def _sizes_and_methods(study: StudyDocument) -> Section:
    setup, coverage, best = study.facts, study.coverage, chosen_entry(study)
    ended = [f"{words.count_noun(coverage.finished, 'training')} finished"]
    ended += [f"{words.count(coverage.failed)} failed"] if coverage.failed else []
    ended += [f"{words.count_noun(len(study.skipped), 'combination')} cannot be trained"] if study.skipped else []
    lead = (
        f"{', '.join(ended)}, all in study.json. Every student had {words.count(setup.student_steps)} steps, "
        f"every teacher {words.count(setup.teacher_steps)}.{f' {CHOICE}' if setup.choose else ''}"
    )
    rows = []
    for size in study.students:
        times = size.latency.student_ms if size.latency is not None else {}
        numbers = (times.get("p50"), times.get("p99"))
        cells = [size.preset, words.count(size.parameters), *map(words.significant, numbers), size.excluded]
        rows.append(Row(cells, "student" if size.preset == best.student else ""))
    heads = ["Size", "Parameters", "p50, ms", "p99, ms", label("Left out", "reason")]
    methods = facts({method.name: method.recipe or "labels only" for method in study.methods})
    blocks: list[Block] = [
        Heading("Student sizes"),
        table(heads, rows, caption="Student sizes with their costs", style="compact", hide_caption=True),
        Facts(methods, "Methods"),
    ]
    return Section("tried", "Sizes and methods", blocks, lead)


def _reproduce(study: StudyDocument) -> Section:
    data, latency = study.dataset, study.recommendation.latency
    rows = [("name", data.name), ("source", data.source or ""), ("licence", data.licence or "")]
    groups = {
        "Data": [row for row in rows if row[1]],
        "Versions": facts(study.versions),
        "Machine": facts(latency.machine if latency is not None else None),
    }
    hashes = [("dataset", data.sha256), ("student.ckpt", study.recommendation.sha256)]
    for teacher in study.teachers:
        pairs = zip(teacher.seeds, teacher.sha256, strict=False)
        hashes += [(f"teacher {teacher.name}, seed {seed}", digest) for seed, digest in pairs]
    took = (
        f"Took {words.duration(study.duration_s)}, without trainings of earlier runs. The same versions, machine and "
        f"{words.count_noun(study.facts.threads, 'thread')} give the same weights, bit by bit."
    )
    blocks: list[Block] = [Code(study.command)] if study.command else []
    blocks += [took, columns(Facts(found, title) for title, found in groups.items() if found)]
    return Section("reproduce", "How to reproduce", [*blocks, Facts(hashes, "SHA-256", hashes=True)])
