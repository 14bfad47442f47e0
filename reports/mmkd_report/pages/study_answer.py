"""The recommendation of a study in sentences, its table of results, and both as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from mmkd_report.schema.figures import CONTESTANTS, Measure, Spread
from mmkd_report.schema.study import (
    NONE,
    EntryRow,
    ScoreTable,
    SeedGain,
    StudyDocument,
    baseline_of,
    chosen_entry,
    teacher_of,
)
from mmkd_report.words import (
    NOTHING,
    TIMES,
    counted,
    for_terminal,
    gain_interval,
    gain_size,
    is_chance_level,
    is_number,
    join_words,
    labelled_title,
    leak_sentence,
    magnitude,
    plain,
    score_and_chance,
    score_text,
    score_with_std,
    score_with_unit,
    share,
    signed_gain,
    significant,
    with_gain_unit,
    with_unit,
)

RACE = (
    "Every student is the winner of a race on validation: transformers of mixed and of unmixed windows, convolutional "
    "features, and both in one."
)
_RIVALS_IN_WORDS = {
    "extra_trees": "extra-trees on window statistics",
    "mini_rocket": "MiniRocket's features on windows",
    "rocket_and_trees": "MiniRocket and extra-trees averaged",
    "multi_rocket_hydra": "MultiRocket's and Hydra's features on windows",
    "taught_rocket": "MiniRocket's features, taught by the same teacher,",
}


def question(study: StudyDocument) -> str:
    """The question of the page."""
    limits = list(_limits(study))
    within = f" within {' and '.join(limits)}" if limits else ""
    return f"Which student that sees {study.facts.modality} alone is best{within}, and what does distillation buy?"


def _limits(study: StudyDocument) -> Iterator[str]:
    if study.facts.max_latency_ms is not None:
        yield with_unit(significant(study.facts.max_latency_ms), "ms")
    if study.facts.max_parameters is not None:
        yield f"{magnitude(study.facts.max_parameters)} parameters"


def answer(study: StudyDocument) -> tuple[str, ...]:
    """The answer, a sentence each: what to use, what it gains, what it costs, what rivals do.

    Where the student that validation chose is no better than chance, no conclusion is drawn.
    """
    if is_chance_level(chosen_entry(study).guessing):
        return (verdict(study),)
    sentences = (
        verdict(study),
        _gain_sentence(study),
        _nested_sentence(study),
        _teacher_sentence(study),
        _rival_sentence(study),
    )
    return tuple(sentence for sentence in sentences if sentence)


def caution(study: StudyDocument) -> str:
    """What the reader must know before the figures; empty where there is nothing."""
    said = []
    if not study.coverage.complete:
        done = f"{study.coverage.finished} trainings are finished"
        expected = f" of {study.coverage.expected}" if study.coverage.expected is not None else ""
        said.append(f"The study is not complete: {done}{expected}; the same command continues it.")
    if len(study.facts.seeds) == 1:
        said.append("One seed has no spread: another fold may say something else.")
    said.append(study_leak(study))
    return " ".join(one for one in said if one)


def study_leak(study: StudyDocument) -> str:
    """That the share of labels leaks through time, where it does; else empty."""
    facts = study.facts
    leak, share_of_labels = facts.labels_spread_in_time, facts.label_share
    return leak_sentence(leak, share_of_labels, study.measures[0], split=study.dataset.split)


def written_score(spread: Spread, measure: Measure) -> str:
    """A score in its unit with its spread."""
    return score_with_unit(spread.mean, measure) + (
        f" (± {score_text(spread.std, measure)})" if is_number(spread.std) else ""
    )


def method_words(entry: EntryRow) -> str:
    """What taught a student, as part of a sentence."""
    if entry.method == NONE or entry.teacher is None:
        return "trained on labels only"
    return f"distilled with {entry.method} from the teacher {entry.teacher}"


def verdict(study: StudyDocument) -> str:
    """What to use, a rival that is as good on validation, or that nothing can be judged."""
    entry, measure = chosen_entry(study), study.reported_metric
    name = f"the {entry.student} student {method_words(entry)}"
    if entry.guessing is not None and not entry.guessing.is_better:
        figures = score_and_chance(measure.words, entry.test[measure.name].mean, entry.guessing, measure)
        return f"No student can be judged: {name}, which validation chose, is no better than chance ({figures})."
    ahead = max(_validated_rivals(study), default=None)
    if ahead is not None and ahead[0] >= ahead[1]:
        theirs, own = score_with_unit(ahead[0], study.chosen_by), score_with_unit(ahead[1], study.chosen_by)
        return f"Not recommended: on validation {_in_words(ahead[2])} reach {theirs}, {name} {own}."
    return _use(study)


def _validated_rivals(study: StudyDocument) -> Iterator[tuple[float, float, str]]:
    """Each rival's score on validation, that of the chosen student on the same folds, and the rival's name."""
    entry = chosen_entry(study)
    own = dict(zip(entry.seeds, entry.valid_score.per_seed, strict=False))
    for rival in study.rivals:
        if rival.teacher is not None:
            continue  # it is what this study is for as well
        found = rival.valid_score
        theirs = {} if found is None else dict(zip(rival.seeds, found.per_seed, strict=False))
        both = [seed for seed in own if seed in theirs]
        if both:
            yield fmean(theirs[seed] for seed in both), fmean(own[seed] for seed in both), rival.name


def _in_words(rival: str) -> str:
    return _RIVALS_IN_WORDS.get(rival, rival)


def _use(study: StudyDocument) -> str:
    entry = chosen_entry(study)
    among = counted(len(study.trials), "training")
    on = "the search's validation windows" if study.facts.mode == "search" else "the validation windows of all folds"
    if entry.method == NONE:
        return (
            f"Use the {entry.student} student trained on labels only: of {among}, no distillation did better on {on}."
        )
    return f"Use the {entry.student} student {method_words(entry)}: of {among}, it was best on {on}."


def _gain_sentence(study: StudyDocument) -> str:
    entry, measure = chosen_entry(study), study.reported_metric
    score = written_score(entry.test[measure.name], measure)
    scored = f"On test windows of {counted(len(entry.seeds), 'fold')} it {_scores(score, measure)}"
    baseline = baseline_of(study, entry.student)
    if entry.gain_points is None or baseline is None:
        return f"{scored}."
    alone = written_score(baseline.test[measure.name], measure)
    verdict = _verdict(entry.gain_points[measure.name], measure)
    return f"{scored}, labels only with the same budget {alone}: {verdict}."


def _scores(score: str, measure: Measure) -> str:
    return f"scores {score} {measure.words}" if measure.is_share else f"has a {measure.words} of {score}"


def _verdict(gain: SeedGain, measure: Measure) -> str:
    mean = with_gain_unit(signed_gain(gain.mean, measure), measure)
    if not (is_number(gain.low) and is_number(gain.high)):
        return f"{mean}, from too few groups for a confidence interval"
    span = f"95 % interval {gain_interval(gain.low, gain.high, measure)}"
    more, less = ("takes off", "adds") if measure.lower_is_better else ("adds", "costs")
    if gain.low > 0:
        return f"distillation {more} {gain_size(gain.mean, measure)} ({span})"
    if gain.high < 0:
        return f"distillation {less} {gain_size(gain.mean, measure)} ({span})"
    return f"{mean}, not significant ({span})"


def _nested_sentence(study: StudyDocument) -> str:
    if study.selection is None or len(study.facts.seeds) == 1:
        return ""
    gain = study.selection.gain_points[study.reported_metric.name]
    return (
        "One fold validates on what another one tests on, so this choice may flatter itself; "
        f"chosen anew inside every fold, {_verdict(gain, study.reported_metric)}."
    )


def _teacher_sentence(study: StudyDocument) -> str:
    entry, measure, latency = chosen_entry(study), study.reported_metric, study.recommendation.latency
    teacher = teacher_of(study, entry.teacher)
    if teacher is None:
        return ""
    verb = "scores" if measure.is_share else "has"
    sentence = f"The teacher {teacher.name} {verb} {written_score(teacher.test[measure.name], measure)}"
    times = f"{significant(teacher.parameters / entry.parameters)} times as many parameters"
    sentence += f" with {times}" + (f" and in {significant(latency.ratio)} times the time" if latency else "")
    if entry.gap_recovered is None:
        return f"{sentence}; its lead over labels only is not significant."
    return f"{sentence}; the student goes {share(round(entry.gap_recovered, 2))} of the way from labels only to it."


def _rival_sentence(study: StudyDocument) -> str:
    measure = study.reported_metric
    own = chosen_entry(study).test[measure.name]
    sentences = []
    for rival in study.rivals:
        if rival.test is None:
            continue
        name, score = _in_words(rival.name), rival.test[measure.name]
        told_score, verb = written_score(score, measure), "score" if measure.is_share else "have"
        if rival.teacher is None and measure.rank(score.mean) > measure.rank(own.mean):
            better = f"{told_score}, the student {written_score(own, measure)}"
            sentences.append(f"But on test {name} of the same sensor are ahead: {better}.")
        else:
            sentences.append(f"{name[:1].upper()}{name[1:]} of the same sensor {verb} {told_score}.")
    return " ".join(sentences)


def key_figures(study: StudyDocument) -> tuple[tuple[str, str], ...]:
    """The figures at the head of the page."""
    entry, measure, latency = chosen_entry(study), study.reported_metric, study.recommendation.latency
    figures = [
        (
            score_with_unit(entry.test[measure.name].mean, measure),
            f"{measure.words} of the chosen student on test windows",
        )
    ]
    if entry.gain_points is not None and not is_chance_level(entry.guessing):
        gain = entry.gain_points[measure.name]
        better = f"{measure.gain_unit} better than" if measure.lower_is_better else f"{measure.gain_unit} over"
        span = f", {gain_interval(gain.low, gain.high, measure)}" if is_number(gain.low) else ""
        caption = f"{better.lstrip()} labels only{span}"
        figures.append((signed_gain(gain.mean, measure), caption))
    figures.append((magnitude(entry.parameters), "parameters"))
    if latency is not None:
        median = with_unit(significant(latency.student_ms["p50"]), "ms")
        figures.append((median, "median latency of one window, exported, one thread"))
        ratio, word = (latency.ratio, "faster") if latency.ratio >= 1 else (1 / latency.ratio, "slower")
        figures.append((f"{significant(ratio)}{TIMES}", f"{word} than its teacher"))
    return tuple(figures)


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One written row of the table of results; `scores` are those of the document's measures."""

    role: str
    name: str
    scores: tuple[str, ...]
    mark: str = ""
    gain: str = NOTHING
    gain_interval: str = NOTHING
    gap_recovered: str = NOTHING
    parameters: str = NOTHING
    latency: str = NOTHING


def result_groups(study: StudyDocument) -> list[tuple[str, list[TableRow]]]:
    """Return titled groups of rows: teachers, then every student size with labels only first, then the rivals."""
    measures = study.measures
    several = len([one for one in study.teachers if one.valid_score is not None]) > 1
    teachers = [
        TableRow(
            role="teacher",
            name=one.name,
            scores=_written_scores(one.test, measures),
            parameters=magnitude(one.parameters),
            mark="smallest near the best" if one.is_reference and several else "",
        )
        for one in study.teachers
    ]
    groups = [("teachers", teachers)]
    for size in dict.fromkeys(entry.student for entry in study.entries):
        groups.append((f"{size} student", [_row(one, study) for one in study.entries if one.student == size]))
    rivals = [
        TableRow(
            role="extra_trees", name=CONTESTANTS.get(one.name, one.name), scores=_written_scores(one.test, measures)
        )
        for one in study.rivals
        if one.test is not None
    ]
    return [(title, rows) for title, rows in [*groups, ("without a network", rivals)] if rows]


def entry_name(entry: EntryRow, study: StudyDocument) -> str:
    """Return the method, and the teacher if there are several."""
    if entry.method == NONE:
        return "labels only"
    return entry.method if len(study.teachers) < 2 else f"{entry.method}, {entry.teacher}"


def _row(entry: EntryRow, study: StudyDocument) -> TableRow:
    measure = study.reported_metric
    gain = None if entry.gain_points is None else entry.gain_points[measure.name]
    std = f" ± {signed_gain(gain.std, measure).lstrip('+')}" if gain is not None and is_number(gain.std) else ""
    return TableRow(
        role="baseline" if entry.method == NONE else "student" if entry.chosen else "candidate",
        name=entry_name(entry, study),
        mark="chosen" if entry.chosen else "",
        scores=_written_scores(entry.test, study.measures),
        gain=NOTHING if gain is None else signed_gain(gain.mean, measure) + std,
        gain_interval=NOTHING if gain is None else gain_interval(gain.low, gain.high, measure),
        gap_recovered=NOTHING if entry.gap_recovered is None else share(round(entry.gap_recovered, 2)),
        parameters=magnitude(entry.parameters),
        latency=with_unit(significant(entry.latency_ms), "ms"),
    )


def _written_scores(test: ScoreTable, measures: Sequence[Measure]) -> tuple[str, ...]:
    return tuple(score_with_std(test[one.name].mean, test[one.name].std, one) for one in measures)


def study_section(study: StudyDocument) -> str:
    """A section: heading, command, table, coverage and choice."""
    facts, metric = study.facts, study.reported_metric
    head = ["model", *(f"{one.words}, {one.unit}" if one.unit else one.words for one in study.measures)]
    head += [f"{metric.gain_heading.lower()} (95 % interval)", "gap recovered", "parameters", "latency"]
    lines = [
        f"## {study.dataset.name}, {facts.modality}, {labelled_title(facts.label_share, facts.labelled_groups)}",
        "",
        "```sh",
        study.command,
        "```",
        "",
        _line(head),
        "|---" * len(head) + "|",
        *(_line(_cells(title, row)) for title, rows in result_groups(study) for row in rows),
        "",
        *_notes(study),
    ]
    return for_terminal("\n".join(lines)) + "\n"


def judged_on(study: StudyDocument) -> str:
    """What a study is judged on, behind the name of a measure: what the windows are, and of how many folds."""
    split, folds = study.dataset.split, len(study.facts.seeds)
    of_folds = "" if split is not None and split.by == "own split" else f" ({counted(folds, 'fold')})"
    windows = "people and machines never seen" if split is None else split.judged_on
    return f"{windows}{of_folds}, {labelled_title(study.facts.label_share, study.facts.labelled_groups)}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join('' if cell == NOTHING else cell for cell in cells)} |"


def _cells(title: str, row: TableRow) -> tuple[str, ...]:
    name = f"{title.removesuffix(' student')}, {row.name}" if title.endswith(" student") else row.name
    gain = row.gain if row.gain_interval == NOTHING else f"{row.gain} ({row.gain_interval})"
    name = f"**{name}**" if row.mark == "chosen" else name
    return (name, *row.scores, gain, row.gap_recovered, row.parameters, row.latency)


def _notes(study: StudyDocument) -> Iterator[str]:
    facts, coverage, chosen, metric = study.facts, study.coverage, study.recommendation, study.reported_metric
    resampled = "whole groups" if study.dataset.split is None else study.dataset.split.resampled
    needed = f"no intervals, which resample {resampled} and need five"
    intervals = f"intervals by resampling {resampled}" if study.has_intervals else needed
    yield f"Judged on {judged_on(study)}; {intervals}."
    expected = f" of {coverage.expected}" if coverage.expected is not None else ""
    end = "." if coverage.complete else "; not complete."
    how = "a grid" if facts.mode == "grid" else f"a search on seeds {_numbers(facts.search_seeds)}"
    yield (
        f"Coverage: {how}; seeds {_numbers(facts.seeds)}; {coverage.finished}{expected} trainings finished, "
        f"{coverage.failed} failed{end}"
    )
    yield (
        f"Students had {facts.student_steps} steps, teachers {facts.teacher_steps}; every method chose its learning "
        f"rate by validation among {join_words([plain(rate) for rate in facts.learning_rates])}."
    )
    if facts.choose:
        yield RACE
    if leak := study_leak(study):
        yield leak
    yield f"Chosen by validation: {chosen.method}, {chosen.student}."
    if study.selection is not None and len(facts.seeds) > 1:
        gain = study.selection.gain_points[metric.name]
        written = with_gain_unit(signed_gain(gain.mean, metric), metric)
        span = f" ({gain_interval(gain.low, gain.high, metric)})" if is_number(gain.low) else ""
        yield f"Chosen anew inside every fold, the gain is {written}{span}."


def _numbers(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
