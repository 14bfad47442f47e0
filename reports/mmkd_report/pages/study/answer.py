"""The recommendation of the study page in words, with the evidence for it: what the figures say, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from mmkd_report.documents.figures import Measure, Spread
from mmkd_report.documents.study import (
    NONE,
    EntryRow,
    SeedGain,
    StudyDocument,
    baseline_of,
    chosen_entry,
    teacher_of,
)
from mmkd_report.words.formats import TIMES, is_figure, magnitude, share, significant, things, with_unit
from mmkd_report.words.guessing import beside_guessing, is_refuted
from mmkd_report.words.key_figure import KeyFigure
from mmkd_report.words.labelled import leak_sentence
from mmkd_report.words.measures import difference, figure, gain_interval, size_of, told, with_gain_unit

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

    Where the student that validation chose is not better than guessing, nothing is concluded from anything.
    """
    if is_refuted(chosen_entry(study).guessing):
        return (verdict(study),)
    sentences = (
        verdict(study),
        _gain(study),
        _selection(study),
        _against_teacher(study),
        _against_rivals(study),
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


def written(spread: Spread, measure: Measure) -> str:
    """A score in its unit with its spread."""
    return told(spread.mean, measure) + (f" (± {figure(spread.std, measure)})" if is_figure(spread.std) else "")


def method_words(entry: EntryRow) -> str:
    """What taught a student, as part of a sentence."""
    if entry.method == NONE or entry.teacher is None:
        return "trained on labels alone"
    return f"distilled with {entry.method} from the teacher {entry.teacher}"


def verdict(study: StudyDocument) -> str:
    """What to use, a rival that is as good on validation, or that nothing can be judged."""
    entry, measure = chosen_entry(study), study.told_by
    name = f"the {entry.student} student {method_words(entry)}"
    if entry.guessing is not None and not entry.guessing.is_better:
        figures = beside_guessing(measure.words, entry.test[measure.name].mean, entry.guessing, measure)
        return f"No student can be judged: {name}, which validation chose, is not better than guessing ({figures})."
    ahead = max(_validated_rivals(study), default=None)
    if ahead is not None and ahead[0] >= ahead[1]:
        theirs, own = told(ahead[0], study.chosen_by), told(ahead[1], study.chosen_by)
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
    among = things(len(study.trials), "training")
    on = "the search's validation windows" if study.facts.mode == "search" else "the validation windows of all folds"
    if entry.method == NONE:
        return (
            f"Use the {entry.student} student trained on labels alone: of {among}, no distillation did better on {on}."
        )
    return f"Use the {entry.student} student {method_words(entry)}: of {among}, it was best on {on}."


def _gain(study: StudyDocument) -> str:
    entry, measure = chosen_entry(study), study.told_by
    score = written(entry.test[measure.name], measure)
    scored = f"On test windows of {things(len(entry.seeds), 'fold')} it {_scores(score, measure)}"
    baseline = baseline_of(study, entry.student)
    if entry.gain_points is None or baseline is None:
        return f"{scored}."
    alone = written(baseline.test[measure.name], measure)
    verdict = _verdict(entry.gain_points[measure.name], measure)
    return f"{scored}, labels alone with the same budget {alone}: {verdict}."


def _scores(score: str, measure: Measure) -> str:
    return f"scores {score} {measure.words}" if measure.is_share else f"has a {measure.words} of {score}"


def _verdict(gain: SeedGain, measure: Measure) -> str:
    mean = with_gain_unit(difference(gain.mean, measure), measure)
    if not (is_figure(gain.low) and is_figure(gain.high)):
        return f"{mean}, from too few groups to say how certain"
    span = f"interval {gain_interval(gain.low, gain.high, measure)}"
    more, less = ("takes off", "adds") if measure.lower_is_better else ("adds", "costs")
    if gain.low > 0:
        return f"distillation {more} {size_of(gain.mean, measure)} ({span})"
    if gain.high < 0:
        return f"distillation {less} {size_of(gain.mean, measure)} ({span})"
    return f"{mean}, no certain effect, since the {span} includes 0"


def _selection(study: StudyDocument) -> str:
    if study.selection is None or len(study.facts.seeds) == 1:
        return ""
    gain = study.selection.gain_points[study.told_by.name]
    return (
        "One fold validates on what another one tests on, so this choice may flatter itself; "
        f"chosen anew inside every fold, {_verdict(gain, study.told_by)}."
    )


def _against_teacher(study: StudyDocument) -> str:
    entry, measure, latency = chosen_entry(study), study.told_by, study.recommendation.latency
    teacher = teacher_of(study, entry.teacher)
    if teacher is None:
        return ""
    verb = "scores" if measure.is_share else "has"
    sentence = f"The teacher {teacher.name} {verb} {written(teacher.test[measure.name], measure)}"
    times = f"{significant(teacher.parameters / entry.parameters)} times as many parameters"
    sentence += f" with {times}" + (f" and in {significant(latency.ratio)} times the time" if latency else "")
    if entry.gap_recovered is None:
        return f"{sentence}; its lead over labels alone is not certain."
    return f"{sentence}; the student goes {share(round(entry.gap_recovered, 2))} of the way from labels alone to it."


def _against_rivals(study: StudyDocument) -> str:
    measure = study.told_by
    own = chosen_entry(study).test[measure.name]
    sentences = []
    for rival in study.rivals:
        if rival.test is None:
            continue
        name, score = _in_words(rival.name), rival.test[measure.name]
        told_score, verb = written(score, measure), "score" if measure.is_share else "have"
        if rival.teacher is None and measure.rank(score.mean) > measure.rank(own.mean):
            better = f"{told_score}, the student {written(own, measure)}"
            sentences.append(f"But on test {name} of the same sensor are ahead: {better}.")
        else:
            sentences.append(f"{name[:1].upper()}{name[1:]} of the same sensor {verb} {told_score}.")
    return " ".join(sentences)


def key_figures(study: StudyDocument) -> tuple[KeyFigure, ...]:
    """The figures at the head of the page."""
    entry, measure, latency = chosen_entry(study), study.told_by, study.recommendation.latency
    figures = [
        KeyFigure(
            figure=told(entry.test[measure.name].mean, measure),
            caption=f"{measure.words} of the chosen student on test windows",
        )
    ]
    if entry.gain_points is not None and not is_refuted(entry.guessing):
        gain = entry.gain_points[measure.name]
        better = f"{measure.gain_unit} better than" if measure.lower_is_better else f"{measure.gain_unit} over"
        span = f", {gain_interval(gain.low, gain.high, measure)}" if is_figure(gain.low) else ""
        caption = f"{better.lstrip()} labels alone{span}"
        figures.append(KeyFigure(figure=difference(gain.mean, measure), caption=caption))
    figures.append(KeyFigure(figure=magnitude(entry.parameters), caption="parameters"))
    if latency is not None:
        median = with_unit(significant(latency.student_ms["p50"]), "ms")
        figures.append(KeyFigure(figure=median, caption="median latency of one window, exported, one thread"))
        ratio, word = (latency.ratio, "faster") if latency.ratio >= 1 else (1 / latency.ratio, "slower")
        figures.append(KeyFigure(figure=f"{significant(ratio)}{TIMES}", caption=f"{word} than its teacher"))
    return tuple(figures)
