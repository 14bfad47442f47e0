"""The answer of the demo page in sentences, and its key figures: what the figures show, and no more.

Owns the words for gains that are significant, not significant or negative, and for figures without a spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmkd_report.schema.demo import (
    LABELS_ONLY,
    Contest,
    DemoDocument,
    DemoTeacher,
    Gain,
    LatencyPercentiles,
    RatioRange,
)
from mmkd_report.schema.figures import CONTESTANTS, Measure, Spread
from mmkd_report.words import (
    NOTHING,
    TIMES,
    counted,
    gain_interval,
    gain_size,
    is_chance_level,
    is_number,
    join_words,
    labelled_groups_text,
    leak_sentence,
    magnitude,
    score_and_chance,
    score_text,
    score_with_unit,
    share,
    signed_gain,
    significant,
    with_gain_unit,
    with_unit,
)

RIVALS = tuple(
    (key, CONTESTANTS[key]) for key in ("extra_trees", "mini_rocket", "rocket_and_trees", "multi_rocket_hydra")
)
"""Field and name of what learns from labels only; MiniRocket that the teacher taught is no rival of a student."""

_ALWAYS = ("extra_trees", "mini_rocket")  # others are named where they were run
_MORE_AND_LESS = ("adds {}", "costs {}")
MOST_NAMED = 3  # sensors whose gains still read well in one sentence


def question(demo: DemoDocument) -> str:
    """The question of the page in the words of the set."""
    if demo.labelled_groups is not None:
        was = "was" if demo.labelled_groups.labelled == 1 else "were"
        setting = f"Everything was recorded, {labelled_groups_text(demo.labelled_groups)} {was} labelled."
    elif demo.label_share is None:
        setting = "Everything was recorded."
    elif demo.label_share < 1:
        setting = f"Everything was recorded, {share(demo.label_share)} was labelled."
    else:
        setting = "Everything was recorded, and everything was labelled."
    if len(demo.students) > 1:
        return f"{setting} Which one sensor is enough, and what does distillation buy?"
    return f"{setting} Is one sensor enough, and what does distillation buy?"


def answer(demo: DemoDocument) -> tuple[str, ...]:
    """The answer, one sentence each: the sensor, the gain, the rivals, what validation recommends.

    Where the student that validation chose is no better than chance, no conclusion is drawn.
    """
    best = best_student(demo)
    if best is None:
        return ("No student was measured, so there is no answer yet.",)
    if not is_judged(demo):
        return (recommendation(demo),)
    sentences = (
        _sensor_sentence(demo, best),
        _gain_sentence(demo),
        shipped(demo),
        _rival_sentence(demo),
        recommendation(demo),
    )
    return tuple(sentence for sentence in sentences if sentence)


def recommendation(demo: DemoDocument) -> str:
    """What validation says for or against the student: whether it beats its rivals, or who does; empty if unknown."""
    best = best_student(demo)
    if best is None:
        return ""
    if not is_judged(demo):
        return _guessed(demo, best)
    contest, measure = demo.students[best], demo.chosen_by
    student, rivals = mean_of(contest.student.valid_score), validated_rivals(contest)
    if not is_number(student) or not rivals:
        return ""
    own = score_with_unit(student, measure)
    unknown = [
        name for key, name in RIVALS if name not in rivals and (key in _ALWAYS or getattr(contest, key) is not None)
    ]
    first = max(rivals, key=lambda name: rivals[name])
    if rivals[first] >= student:
        theirs = score_with_unit(rivals[first], measure)
        return f"Not recommended: on validation of {best} {first} reaches {theirs}, the student {own}."
    beaten = join_words([f"{name} {score_with_unit(score, measure)}" for name, score in rivals.items()])
    tail = f"; {' and '.join(unknown)} {'was' if len(unknown) == 1 else 'were'} not validated" if unknown else ""
    return f"Recommended: the student of {best}, ahead on validation with {own} of {beaten}{tail}."


def shipped(demo: DemoDocument) -> str:
    """Which way of training validation chose for each sensor, where it had a choice; else empty."""
    chosen = {name: one.student.shipped for name, one in demo.students.items() if one.student.shipped}
    if not chosen:
        return ""
    written = [f"{name} {join_words(list(dict.fromkeys(ways)))}" for name, ways in chosen.items()]
    alone = any(LABELS_ONLY in ways for ways in chosen.values())
    why = " (teaching did not validate better)" if alone else ""
    return f"Shipped, as validation chose: {'; '.join(written)}{why}."


def leak(demo: DemoDocument) -> str:
    """That the share of labels leaks through time, where it does; else empty."""
    return leak_sentence(demo.labels_spread_in_time, demo.label_share, demo.reported_metric, split=demo.split)


def is_judged(demo: DemoDocument) -> bool:
    """Whether there is a student that validation chose, and it is better than chance."""
    best = best_student(demo)
    return best is not None and not is_chance_level(demo.students[best].student.guessing)


def validated_rivals(contest: Contest) -> dict[str, float]:
    """Name and validation score of the classical rivals, where they have one, and of labels only.

    Where validation chose among ways of training, labels only were among them and are no rival any more.
    """
    alone = [] if contest.student.shipped else [("labels only", contest.baseline)]
    rivals = [*alone, *((name, getattr(contest, field)) for field, name in RIVALS)]
    found = {name: mean_of(rival.valid_score) for name, rival in rivals if rival is not None}
    return {name: score for name, score in found.items() if is_number(score)}


def _guessed(demo: DemoDocument, best: str) -> str:
    """Nothing is concluded: what is not better than guessing, with the figures, and what is."""
    measure = demo.reported_metric
    others = [name for name, one in demo.students.items() if not is_chance_level(one.student.guessing)]
    better = [f"the student of {name}" for name in others]
    if (found := demo.teacher.guessing) is not None and found.is_better:
        better.append("the teacher")
    better += [
        f"{name} on {sensor}"
        for sensor, contest in demo.students.items()
        for name, rival in (("labels only", contest.baseline), *((name, getattr(contest, key)) for key, name in RIVALS))
        if rival is not None and rival.guessing is not None and rival.guessing.is_better
    ]
    told_of = [best] if others else list(demo.students)[:MOST_NAMED]
    figures = [
        score_and_chance(name, mean_of(demo.students[name].student.score(measure)), guess, measure)
        for name in told_of
        if (guess := demo.students[name].student.guessing) is not None
    ]
    if others:
        head = f"The student of {best}, which validation chooses, is no better than chance, so no conclusion is drawn"
    elif better:
        head = "No sensor can be judged: no student is better than chance"
    else:
        head = "No sensor can be judged: nothing here is better than chance"
    tail = f" Better than chance: {join_words(better)}." if better else ""
    return f"{head} ({measure.words}: {'; '.join(figures)}).{tail}"


def best_student(demo: DemoDocument) -> str | None:
    """The modality to keep: the highest validation score where every student has one, or else the best on test.

    None where no student has a score. Validation chooses, since a choice by the test windows would flatter itself.
    """
    found = {name: mean_of(one.student.score(demo.reported_metric)) for name, one in demo.students.items()}
    test = {name: score for name, score in found.items() if is_number(score)}
    valid = {name: mean_of(demo.students[name].student.valid_score) for name in test}
    known = {name: score for name, score in valid.items() if is_number(score)}
    if len(known) == len(test):
        return max(known, key=lambda name: known[name], default=None)
    return max(test, key=lambda name: demo.reported_metric.rank(test[name]), default=None)


def mean_of(spread: Spread | None) -> float | None:
    """The mean of a measure; None where it is missing."""
    return None if spread is None else spread.mean


def has_spread(spread: Spread, seeds: Sequence[int]) -> bool:
    """True where more than one seed stands behind a standard deviation."""
    return is_number(spread.std) and max(len(seeds), len(spread.per_seed)) != 1


def teacher_network(demo: DemoDocument) -> str:
    """What parameters and latencies of the teacher are of, as part of a sentence."""
    return "the teacher's transformer" if demo.teacher.members else "the teacher"


def teacher_name(demo: DemoDocument) -> str:
    """The teacher and its sensors, as part of a sentence."""
    used = demo.teacher.modalities or [modality.name for modality in demo.dataset.modalities]
    if not used:
        return "the teacher"
    return (
        f"the teacher with {join_words(used)}"
        if len(used) <= MOST_NAMED
        else f"the teacher with all {len(used)} sensors"
    )


def measured_rivals(contest: Contest, measure: Measure) -> Iterator[tuple[str, float]]:
    """Name and mean score of each rival that was run."""
    for field, name in RIVALS:
        rival = getattr(contest, field)
        score = None if rival is None else mean_of(rival.score(measure))
        if is_number(score):
            yield name, score


def _score(spread: Spread | None, seeds: Sequence[int], measure: Measure, *, name_seeds: bool) -> str:
    """A score with its spread, as part of a sentence."""
    if spread is None or not is_number(spread.mean):
        return "an unknown share" if measure.is_share else "unknown"
    written = score_with_unit(spread.mean, measure)
    if has_spread(spread, seeds):
        over = f" over {counted(len(seeds) or len(spread.per_seed), 'seed')}" if name_seeds else ""
        return f"{written} (± {score_text(spread.std, measure)}{over})"
    single = max(len(seeds), len(spread.per_seed)) == 1
    return f"{written} (one seed, no spread)" if single and name_seeds else written


def _sensor_sentence(demo: DemoDocument, best: str) -> str:
    measure = demo.reported_metric
    student, teachers = demo.students[best].student.score(measure), demo.teacher.score(measure)
    written = _score(student, demo.seeds, measure, name_seeds=True)
    own = (
        f"distilled student is right in {written} of the test windows"
        if measure.name == "accuracy"
        else f"distilled student has a {measure.words} of {written} on the test windows"
    )
    if not is_number(mean_of(student)) or not is_number(mean_of(teachers)):
        return f"With {best} alone, the {own}; there is no teacher to compare it with."
    score = _score(teachers, demo.seeds, measure, name_seeds=False)
    teacher = f"{teacher_name(demo)} {'in' if measure.name == 'accuracy' else 'one of'} {score}"
    return _against_teacher(demo, best, f"{own}, {teacher}")


def _against_teacher(demo: DemoDocument, best: str, scores: str) -> str:
    """What the interval of student minus teacher allows to say; `scores` are those of both."""
    measure, over = demo.reported_metric, demo.students[best].over_teacher_points
    claim = _claim(demo, best, mean_of(demo.students[best].student.score(measure)) or 0.0)
    if over is None or not (is_number(over.low) and is_number(over.high)):
        if len(demo.students) == 1:
            return f"With {best} alone, the {scores}; no interval says which is better."
        return f"Of the single sensors, {claim}: its {scores}; no interval says which is better."
    span = f"difference {gain_interval(over.low, over.high, measure)}"
    if over.low > 0:
        return f"One sensor does better than all together here: with {best} alone, the {scores} ({span})."
    if over.high >= 0:
        return f"With {best} alone, the {scores}: no significant difference ({span})."
    if len(demo.students) == 1:
        return f"One sensor falls short of all together: with {best} alone, the {scores} ({span})."
    return f"Of the single sensors, {claim}: its {scores} ({span})."


def _claim(demo: DemoDocument, best: str, score: float) -> str:
    """Why this sensor: it is ahead on the test windows as well, or validation chose it although another is ahead."""
    measure = demo.reported_metric
    found = {name: mean_of(contest.student.score(measure)) for name, contest in demo.students.items()}
    ahead = {name: mean for name, mean in found.items() if is_number(mean)}
    first = max(ahead, key=lambda name: measure.rank(ahead[name]))
    if measure.rank(ahead[first]) <= measure.rank(score):
        return f"{best} comes closest to all together"
    return (
        f"validation chooses {best} (on the test windows {first} is ahead with "
        f"{score_with_unit(ahead[first], measure)})"
    )


def _gain_sentence(demo: DemoDocument) -> str:
    gains = {name: contest.gain_points for name, contest in demo.students.items() if _is_gain(contest.gain_points)}
    mean = demo.mean_gain_points
    if len(demo.students) > 1 and _is_gain(mean):
        over = f" on average over the {len(demo.students)} sensors"
        return f"{_verdict(mean, over, demo.reported_metric)}{_each(gains, demo.reported_metric)}."
    if len(gains) == 1:
        (name, gain), *_ = gains.items()
        return f"{_verdict(gain, f' on {name}', demo.reported_metric)}."
    return f"What distillation buys{_each(gains, demo.reported_metric)}." if gains else ""


def _is_gain(gain: Gain | None) -> bool:
    return gain is not None and is_number(gain.mean)


def _verdict(gain: Gain | None, where: str, measure: Measure) -> str:
    """What distillation does, with the certainty that the interval allows."""
    assert gain is not None
    mean, low, high = gain.mean or 0.0, gain.low, gain.high
    span, written = gain_interval(low, high, measure), with_gain_unit(signed_gain(mean, measure), measure)
    if not (is_number(low) and is_number(high)):
        what = f"betters the {measure.words}" if measure.lower_is_better else f"changes {measure.words}"
        return f"Distillation {what} by {written}{where} (no confidence interval)"
    more, less = ("takes {} off the error", "adds {} to the error") if measure.lower_is_better else _MORE_AND_LESS
    size = gain_size(mean, measure)
    if low > 0:
        return f"Distillation {more.format(size)}{where} (95 % interval {span})"
    if high < 0:
        return f"Distillation {less.format(size)}{where} (95 % interval {span})"
    return f"The gain of distillation{where} is not significant: {written} (95 % interval {span})"


def _each(gains: dict[str, Gain | None], measure: Measure) -> str:
    """The gains of the single sensors, as the end of a sentence: all of a few, the range of many."""
    written = [(gain.mean or 0.0, name, gain) for name, gain in gains.items() if gain is not None]
    if len(written) < 2:
        return ""
    has_intervals = any(is_number(gain.low) for _, _, gain in written)
    if len(written) <= MOST_NAMED:
        spans = [f" ({_span(gain, measure)})" if has_intervals else "" for _, _, gain in written]
        parts = (f"{name} {signed_gain(mean, measure)}" for mean, name, _ in written)
        return f": {join_words([part + span for part, span in zip(parts, spans, strict=True)])}"
    ordered = sorted(written, key=lambda one: one[0])
    certain = sum(is_number(gain.low) and gain.low > 0 for _, _, gain in written)
    above = f", with an interval above 0 for {certain} of {len(written)} sensors" if has_intervals else ""
    return (
        f": from {signed_gain(ordered[0][0], measure)} ({ordered[0][1]}) to "
        f"{signed_gain(ordered[-1][0], measure)} ({ordered[-1][1]}){above}"
    )


def _span(gain: Gain, measure: Measure) -> str:
    if not (is_number(gain.low) and is_number(gain.high)):
        return "no interval"
    return gain_interval(gain.low, gain.high, measure) + (", includes 0" if gain.low <= 0 <= gain.high else "")


def _rival_sentence(demo: DemoDocument) -> str:
    """Whether a rival that needs no distillation is ahead of a student on test: the reader must hear it here."""
    measure = demo.reported_metric
    leads: list[tuple[float, str]] = []
    losing: set[str] = set()
    met = [name for _, name in RIVALS]
    for sensor, contest in demo.students.items():
        student, rivals = mean_of(contest.student.score(measure)), dict(measured_rivals(contest, measure))
        met = [name for name in met if name in rivals and is_number(student)]
        for rival, score in rivals.items():
            if is_number(student) and measure.rank(score) > measure.rank(student):
                losing.add(sensor)
                theirs, own = score_with_unit(score, measure), score_with_unit(student, measure)
                leads.append((abs(score - student), f"on {sensor} {rival} reaches {theirs}, the student {own}"))
    if leads:
        return _lost(max(leads)[1], len(losing), len(demo.students))
    subject = "no student is" if len(demo.students) > 1 else "the student is not"
    worse = "worse than" if measure.lower_is_better else "below"
    beaten = f"{worse} {' or '.join(met)} trained on the same sensor and labels"
    return f"On the test windows {subject} {beaten}." if met else ""


def _lost(worst: str, losing: int, students: int) -> str:
    """The sentence on rivals that win; `worst` tells of the largest lead."""
    if losing == 1:
        one = "the" if students == 1 else "one"
        return f"But on the test windows a classical rival is ahead of {one} student: {worst}."
    ahead = f"classical rivals are ahead of {losing} of {students} students"
    return f"But on the test windows {ahead}; most of all, {worst}."


def key_figures(demo: DemoDocument) -> tuple[tuple[str, str], ...]:
    """The few figures that a decision hangs on; what was not measured is left out."""
    best = best_student(demo)
    if best is None:
        return ()
    contest, measure = demo.students[best], demo.reported_metric
    what = "right" if measure.name == "accuracy" else measure.words
    figures = [
        (
            score_with_unit(mean_of(contest.student.score(measure)), measure),
            f"{what} with {best} alone{_after(' · all sensors ', demo.teacher, measure)}" + _guess(contest, measure),
        ),
        *_gain_figure(demo, contest),
        *_parameters_figure(demo, contest),
        *_latency_figure(demo, contest),
    ]
    return tuple(figures)


def _after(words: str, teacher: DemoTeacher, measure: Measure) -> str:
    mean = mean_of(teacher.score(measure))
    return f"{words}{score_with_unit(mean, measure)}" if is_number(mean) else ""


def _guess(contest: Contest, measure: Measure) -> str:
    found = contest.student.guessing
    return "" if found is None else f" · chance {score_with_unit(found.figure, measure)}"


def _gain_figure(demo: DemoDocument, contest: Contest) -> Iterator[tuple[str, str]]:
    if is_chance_level(contest.student.guessing):
        return
    several = len(demo.students) > 1
    gain = demo.mean_gain_points if several else contest.gain_points
    if gain is None or not is_number(gain.mean):
        return
    measure = demo.reported_metric
    span = gain_interval(gain.low, gain.high, measure)
    tail = f" · interval {span}" if span != NOTHING else ""
    where = f", mean over {len(demo.students)} sensors" if several else ""
    unit = f"{measure.gain_unit} " if measure.gain_unit else ""
    better = "off the error " if measure.lower_is_better else ""
    yield (signed_gain(gain.mean, measure), f"{unit}{better}from distillation{where}{tail}")


def _parameters_figure(demo: DemoDocument, contest: Contest) -> Iterator[tuple[str, str]]:
    teacher, student = demo.teacher.parameters, contest.student.parameters
    ratio = contest.parameters_ratio or (teacher / student if teacher and student else None)
    if not is_number(ratio) or ratio <= 0:
        return
    sizes = f" · {magnitude(student)} instead of {magnitude(teacher)}" if teacher and student else ""
    word = "fewer" if ratio >= 1 else "more"
    yield (f"{_times(ratio)}{TIMES}", f"{word} parameters than {teacher_network(demo)}{sizes}")


def _latency_figure(demo: DemoDocument, contest: Contest) -> Iterator[tuple[str, str]]:
    student = contest.student.latency_ms or LatencyPercentiles()
    ratio = contest.latency_ratio
    own = with_unit(significant(student.p50), "ms")
    over = contest.latency_ratios
    if over is not None and is_number(over.min) and is_number(over.max) and over.min <= 1 <= over.max:
        yield (own, f"per window, no significant difference to {teacher_network(demo)}{_repeats(1.0, over)}")
    elif is_number(ratio) and ratio > 0:
        word = "faster" if ratio >= 1 else "slower"
        tail = f" · {own} per window" if own != NOTHING else ""
        caption = f"{word} than {teacher_network(demo)}{_repeats(ratio, contest.latency_ratios)}{tail}"
        yield (f"{_times(ratio)}{TIMES}", caption)
    elif own != NOTHING:
        yield (own, "per window, median")


def _repeats(ratio: float, over: RatioRange | None) -> str:
    """The range of a ratio over its repeats, in the direction in which the ratio is told."""
    if over is None or not (is_number(over.min) and is_number(over.max)) or over.min <= 0:
        return ""
    low, high = (over.min, over.max) if ratio >= 1 else (1 / over.max, 1 / over.min)
    repeats = f" in {counted(over.repeats, 'repeat')}" if over.repeats else ""
    return f" ({significant(low, 2)} to {significant(high, 2)}{repeats})"


def _times(ratio: float) -> str:
    return significant(ratio if ratio >= 1 else 1 / ratio, 2)
