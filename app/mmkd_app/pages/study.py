"""The page of `mmkd-study`."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from mmkd_app import words
from mmkd_app.pages import page
from mmkd_app.pages.head import facts, lede
from mmkd_documents.figures import MODEL_NAMES, Measure
from mmkd_documents.study import (
    NONE,
    EntryRow,
    ScoreTable,
    SeedGain,
    StudyDocument,
    chosen_entry,
    find_baseline,
    find_teacher,
)

CHOICE = "Validation chose every student among transformers, convolutions, intervals, trees, and averages of them."


def render_study(study: StudyDocument) -> str:
    """Return the page as HTML."""
    warning = caution(study)
    return page.render(
        page.Page(
            title=f"{study.dataset.name}, {study.facts.modality}: which student is best?",
            kind="study",
            headline=question(study),
            lede=_lede(study),
            answer=answer(study),
            cautions=[warning] if warning else [],
            key_figures=key_figures(study),
            sections=[_table(study), _reproduce(study)],
            document="study.json",
        )
    )


def _lede(study: StudyDocument) -> Iterator[str]:
    data, setup = study.dataset, study.facts
    seeds = words.number_nouns("seed", setup.seeds)
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
        yield f"A search on {search} chose what the table shows for {seeds}."
    else:
        yield f"Everything was trained on {seeds}; each is another fold."


def results_table(study: StudyDocument) -> page.Table:
    """Return groups: teachers, student sizes with labels only first, then rivals."""
    measure, setup = study.reported_metric, study.facts

    def row(role: str, name: str, mark: str, test: ScoreTable, *cells: page.Cell | str) -> page.Row:
        scores = [words.score_with_std(test[measure.name], measure) for measure in study.measures]
        more = cells or [words.NOTHING] * 4
        return page.Row([page.Cell(name, note=mark, role=role), *scores, *more], role)

    groups: dict[str, list[page.Row]] = {"teachers": []}
    for teacher in study.teachers:
        size = words.magnitude(teacher.parameters)
        groups["teachers"].append(
            row("teacher", teacher.name, "", teacher.test, words.NOTHING, words.NOTHING, size, words.NOTHING)
        )
    for entry in study.entries:
        role, name = "student" if entry.chosen else "candidate", entry.method
        if entry.method == NONE:
            role, name = "baseline", "labels only"
        elif len(study.teachers) > 1:
            name = f"{entry.method}, {entry.teacher}"
        made = row(
            role,
            name,
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
    return page.table(
        [
            page.label("Method"),
            *(measure.heading for measure in study.measures),
            page.Column(measure.gain_heading, style="gain"),
            *("Gap recovered, %", "Parameters", "Latency p50, ms"),
        ],
        groups=[(title, rows) for title, rows in groups.items() if rows],
        caption=f"Test windows, {seeds}. The gain in {measure.words} is over labels only of the same size, seed, "
        f"labels, augmentation and steps; {interval}.",
        style="results",
    )


def _gain_cell(gain: SeedGain | None, measure: Measure) -> page.Cell:
    if gain is None:
        return page.Cell(words.NOTHING)
    std = f" ± {words.signed_gain(gain.std, measure).lstrip('+')}" if words.is_number(gain.std) else ""
    ends = words.gain_interval(gain.low, gain.high, measure)
    return page.Cell(words.signed_gain(gain.mean, measure) + std, note="" if ends == words.NOTHING else ends)


def _table(study: StudyDocument) -> page.Section:
    setup, coverage = study.facts, study.coverage
    rates = ", ".join(words.plain(rate) for rate in setup.learning_rates)
    by = "of the search" if setup.mode == "search" else "of each fold"
    ended = [f"{words.count_noun(coverage.finished, 'training')} finished"]
    ended += [f"{words.count(coverage.failed)} failed"] if coverage.failed else []
    ended += [f"{words.count_noun(len(study.skipped), 'combination')} cannot be trained"] if study.skipped else []
    lead = (
        f"{', '.join(ended)}, all in study.json with the recipes. Every student had {words.count(setup.student_steps)} "
        f"steps, every teacher {words.count(setup.teacher_steps)}.{f' {CHOICE}' if setup.choose else ''}"
    )
    note = (
        f"Every method and labels only chose its learning rate among {rates} by validation {by}. Gap recovered: the "
        "student's gain as a fraction of the teacher's lead over labels only."
    )
    left_out = "".join(f" Left out: {size.preset} has {size.excluded}." for size in study.students if size.excluded)
    blocks: list[page.Block] = [results_table(study), page.Note(f"{note}{left_out}")]
    return page.Section("table", "Every method compared with labels only", blocks, lead)


def _reproduce(study: StudyDocument) -> page.Section:
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
        f"Took {words.duration(study.duration_s)}, without trainings of earlier runs. The same versions and machine "
        "give the same weights, bit by bit."
    )
    blocks: list[page.Block] = [page.Code(study.command)] if study.command else []
    blocks += [took, page.columns(page.Facts(found, title) for title, found in groups.items() if found)]
    return page.Section("reproduce", "How to reproduce", [*blocks, page.Facts(hashes, "SHA-256", hashes=True)])


def question(study: StudyDocument) -> str:
    """Return the headline."""
    setup = study.facts
    within = "" if setup.max_latency_ms is None else f" within {words.quantity(setup.max_latency_ms, 'ms')}"
    return f"Which student that sees {setup.modality} alone is best{within}, and what does distillation gain?"


def answer(study: StudyDocument) -> tuple[str, ...]:
    """Return the answer; no conclusion at chance level."""
    if words.is_chance_level(chosen_entry(study).chance):
        return (verdict(study),)
    nested, measure = "", study.reported_metric
    if study.selection is not None and len(study.facts.seeds) > 1:
        gain = study.selection.gain_points[measure.name]
        nested = (
            "One fold validates on what another one tests on, so this choice may be optimistic. With a choice inside "
            f"every fold: {words.gain_verdict(gain.mean, gain.low, gain.high, measure)}."
        )
    return tuple(filter(None, (verdict(study), _gain_sentence(study), nested, _rival_sentence(study))))


def caution(study: StudyDocument) -> str:
    """Return what limits the results, or empty."""
    coverage, cautions = study.coverage, []
    if not coverage.complete:
        expected = f" of {coverage.expected}" if coverage.expected is not None else ""
        cautions.append(
            f"The study is not complete: {coverage.finished}{expected} trainings are finished; the same command "
            "continues it."
        )
    if len(study.facts.seeds) == 1:
        cautions.append("One seed has no spread: another fold may give another result.")
    return " ".join(filter(None, [*cautions, study_leak(study)]))


def study_leak(study: StudyDocument) -> str:
    """Return a warning if labels leak through time, else empty."""
    facts = study.facts
    return words.leak_sentence(
        facts.labels_spread_in_time, facts.label_fraction, study.measures[0], split=study.dataset.split
    )


def verdict(study: StudyDocument) -> str:
    """Return the student to use, an equally good rival, or that nothing can be judged."""
    entry, measure = chosen_entry(study), study.reported_metric
    method = "trained on labels only"
    if entry.method != NONE and entry.teacher is not None:
        method = f"distilled with {entry.method} from the teacher {entry.teacher}"
    name = f"the {entry.student} student {method}"
    if entry.chance is not None and not entry.chance.is_better:
        figures = words.score_and_chance(measure.words, entry.test[measure.name].mean, entry.chance, measure)
        return f"No student can be judged: {name}, which validation chose, is no better than chance ({figures})."
    rival = max(_validated_rivals(study, entry), default=None)
    if rival is not None and rival[0] >= rival[1]:
        scores = [words.score_with_unit(score, study.chosen_by) for score in rival[:2]]
        return f"Not recommended: on validation {rival[2]} reaches {scores[0]}, {name} {scores[1]}."
    windows = (
        "the search's validation windows" if study.facts.mode == "search" else "the validation windows of all folds"
    )
    return f"Use {name}: the best of {words.count_noun(len(study.trials), 'training')} on {windows}."


def _validated_rivals(study: StudyDocument, entry: EntryRow) -> Iterator[tuple[float, float, str]]:
    """Yield each undistilled rival's validation score, the student's on the same folds, and the name."""
    own = dict(zip(entry.seeds, entry.valid_score.per_seed, strict=False))
    for rival in study.rivals:
        if rival.teacher is None and rival.valid_score is not None:
            scores = dict(zip(rival.seeds, rival.valid_score.per_seed, strict=False))
            folds = own.keys() & scores.keys()
            if folds:
                name = MODEL_NAMES.get(rival.name, rival.name)
                yield fmean(scores[seed] for seed in folds), fmean(own[seed] for seed in folds), name


def _gain_sentence(study: StudyDocument) -> str:
    entry, measure = chosen_entry(study), study.reported_metric
    scores = {"the student": entry.test}
    if (baseline := find_baseline(study, entry.student)) is not None and entry.method != NONE:
        scores["labels only"] = baseline.test
    if (teacher := find_teacher(study, entry.teacher)) is not None:
        scores["the teacher"] = teacher.test
    written = [f"{name} {words.score_with_unit(test[measure.name].mean, measure)}" for name, test in scores.items()]
    sentence = (
        f"{measure.title} on the test windows of {words.count_noun(len(entry.seeds), 'fold')}: {', '.join(written)}."
    )
    gain = None if entry.gain_points is None else entry.gain_points[measure.name]
    return sentence if gain is None else f"{words.gain_verdict(gain.mean, gain.low, gain.high, measure)}. {sentence}"


def _rival_sentence(study: StudyDocument) -> str:
    measure = study.reported_metric
    own = chosen_entry(study).test[measure.name].mean
    ahead = [
        f"{MODEL_NAMES.get(rival.name, rival.name)} {words.score_with_unit(rival.test[measure.name].mean, measure)}"
        for rival in study.rivals
        if rival.teacher is None and rival.test and measure.rank(rival.test[measure.name].mean) > measure.rank(own)
    ]
    return f"Ahead of the student on test: {words.join_words(ahead)}." if ahead else ""


def key_figures(study: StudyDocument) -> Iterator[tuple[str, str]]:
    """Yield number and caption."""
    entry, measure, latency = chosen_entry(study), study.reported_metric, study.recommendation.latency
    yield (
        words.score_with_unit(entry.test[measure.name].mean, measure),
        f"{measure.words} of the chosen student on test",
    )
    if entry.gain_points is not None and not words.is_chance_level(entry.chance):
        gain = entry.gain_points[measure.name]
        yield words.gain_figure(gain.mean, gain.low, gain.high, measure, "gained over labels only")
    teacher = find_teacher(study, entry.teacher)
    yield (
        words.magnitude(entry.parameters),
        "parameters" + (f" · teacher {words.magnitude(teacher.parameters)}" if teacher else ""),
    )
    if latency is not None:
        times = [words.quantity(times["p50"], "ms") for times in (latency.student_ms, latency.teacher_ms)]
        ratio = f"{words.significant(latency.ratio)}{words.TIMES}"
        yield times[0], f"median latency of one window in ONNX Runtime, one thread · teacher {times[1]}, {ratio}"


def judged_on(study: StudyDocument) -> str:
    """Return the windows, folds and labels that judge."""
    split, facts = study.dataset.split, study.facts
    folds = "" if split is not None and split.by == "own split" else f" ({words.count_noun(len(facts.seeds), 'fold')})"
    windows = "groups never seen" if split is None else split.judged_on
    return f"{windows}{folds}, {words.labelled_title(facts.label_fraction, facts.labelled_groups)}"
