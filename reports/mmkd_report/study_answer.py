"""The recommendation of the study page in words, with the evidence for it: what the figures say, and no more."""

from __future__ import annotations

from collections.abc import Iterator

from mmkd_report.formats import (
    TIMES,
    fixed,
    interval,
    is_figure,
    magnitude,
    percent,
    points,
    share,
    significant,
    things,
    with_unit,
)
from mmkd_report.key_figure import KeyFigure
from mmkd_report.study_document import (
    NONE,
    EntryRow,
    PairedGain,
    SeedSpread,
    StudyDocument,
    baseline_of,
    chosen_entry,
    teacher_of,
)

METRIC_NAMES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}
RIVAL_NAMES = {"extra_trees": "extra-trees", "mini_rocket": "MiniRocket"}
_RIVALS_IN_WORDS = {
    "extra_trees": "extra-trees on window statistics",
    "mini_rocket": "MiniRocket's features on windows",
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
    """The answer, a sentence each: what to use, what it gains, what it costs, what rivals do."""
    sentences = (
        _use(study),
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
    return " ".join(said)


def written(spread: SeedSpread) -> str:
    """A score in percent with its spread."""
    return with_unit(percent(spread.mean), "%") + (f" (± {percent(spread.std)})" if is_figure(spread.std) else "")


def method_words(entry: EntryRow) -> str:
    """What taught a student, as part of a sentence."""
    if entry.method == NONE or entry.teacher is None:
        return "trained on labels alone"
    return f"distilled with {entry.method} from the teacher {entry.teacher}"


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
    entry, metric = chosen_entry(study), study.facts.metric
    score = entry.test.metric(metric)
    scored = f"On test windows of {things(len(entry.seeds), 'fold')} it scores {written(score)} {METRIC_NAMES[metric]}"
    baseline = baseline_of(study, entry.student)
    if entry.gain_points is None or baseline is None:
        return f"{scored}."
    alone = written(baseline.test.metric(metric))
    return f"{scored}, labels alone with the same budget {alone}: {_verdict(entry.gain_points[metric])}."


def _verdict(gain: PairedGain) -> str:
    span = f"interval {interval(gain.low, gain.high)}"
    if gain.low > 0:
        return f"distillation adds {fixed(gain.mean)} points ({span})"
    if gain.high < 0:
        return f"distillation costs {fixed(abs(gain.mean))} points ({span})"
    return f"{points(gain.mean)} points, no certain effect, since the {span} includes 0"


def _selection(study: StudyDocument) -> str:
    if study.selection is None or len(study.facts.seeds) == 1:
        return ""
    gain = study.selection.gain_points[study.facts.metric]
    return (
        "One fold validates on what another one tests on, so this choice may flatter itself; "
        f"chosen anew inside every fold, {_verdict(gain)}."
    )


def _against_teacher(study: StudyDocument) -> str:
    entry, metric, latency = chosen_entry(study), study.facts.metric, study.recommendation.latency
    teacher = teacher_of(study, entry.teacher)
    if teacher is None:
        return ""
    sentence = f"The teacher {teacher.name} scores {written(teacher.test.metric(metric))}"
    times = f"{significant(teacher.parameters / entry.parameters)} times as many parameters"
    sentence += f" with {times}" + (f" and in {significant(latency.ratio)} times the time" if latency else "")
    if entry.gap_recovered is None:
        return f"{sentence}."
    return f"{sentence}; the student goes {share(round(entry.gap_recovered, 2))} of the way from labels alone to it."


def _against_rivals(study: StudyDocument) -> str:
    metric = study.facts.metric
    own = chosen_entry(study).test.metric(metric)
    sentences = []
    for rival in study.rivals:
        if rival.test is None:
            continue
        name, score = _RIVALS_IN_WORDS.get(rival.name, rival.name), rival.test.metric(metric)
        if score.mean > own.mean:
            sentences.append(f"But {name} of the same sensor do better: {written(score)}, the student {written(own)}.")
        else:
            sentences.append(f"{name[:1].upper()}{name[1:]} of the same sensor score {written(score)}.")
    return " ".join(sentences)


def key_figures(study: StudyDocument) -> tuple[KeyFigure, ...]:
    """The figures at the head of the page."""
    entry, metric, latency = chosen_entry(study), study.facts.metric, study.recommendation.latency
    figures = [
        KeyFigure(
            figure=with_unit(percent(entry.test.metric(metric).mean), "%"),
            caption=f"{METRIC_NAMES[metric]} of the chosen student on test windows",
        )
    ]
    if entry.gain_points is not None:
        gain = entry.gain_points[metric]
        figures.append(
            KeyFigure(figure=points(gain.mean), caption=f"points over labels alone, {interval(gain.low, gain.high)}")
        )
    figures.append(KeyFigure(figure=magnitude(entry.parameters), caption="parameters"))
    if latency is not None:
        median = with_unit(significant(latency.student_ms["p50"]), "ms")
        figures.append(KeyFigure(figure=median, caption="median latency of one window, exported, one thread"))
        figures.append(KeyFigure(figure=f"{significant(latency.ratio)}{TIMES}", caption="faster than its teacher"))
    return tuple(figures)
