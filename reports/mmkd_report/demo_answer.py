"""The answer of the demo page in generated sentences: what the figures say, and no more than they say.

Owns the words for a gain that is certain, uncertain or negative, and for figures without a spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmkd_report.demo_document import Contest, DemoDocument, Gain, Spread, spread_of
from mmkd_report.formats import fixed, interval, is_figure, listed, percent, points, share, things, with_unit

RIVALS = (("extra_trees", "extra-trees"), ("mini_rocket", "MiniRocket"))
MOST_NAMED = 3  # sensors whose gains still read well in one sentence


def question(demo: DemoDocument) -> str:
    """The question of the page in the words of the set."""
    if demo.label_share is None:
        setting = "Everything was recorded."
    elif demo.label_share < 1:
        setting = f"Everything was recorded, {share(demo.label_share)} was labelled."
    else:
        setting = "Everything was recorded, and everything was labelled."
    if len(demo.students) > 1:
        return f"{setting} Which one sensor is enough, and what does distillation buy?"
    return f"{setting} Is one sensor enough, and what does distillation buy?"


def answer(demo: DemoDocument) -> tuple[str, ...]:
    """The answer, one sentence each: the sensor, the gain, the rivals. Without a student's figure, one that says so."""
    best = best_student(demo)
    if best is None:
        return ("No student was measured, so there is no answer yet.",)
    sentences = (_sensor_sentence(demo, best), _gain_sentence(demo), _rival_sentence(demo))
    return tuple(sentence for sentence in sentences if sentence)


def best_student(demo: DemoDocument) -> str | None:
    """The modality to keep: the highest validation score where every student has one, or else the highest accuracy.

    None where no student has an accuracy. Validation chooses, since a choice by the test windows would flatter itself.
    """
    measured = {name: one.student for name, one in demo.students.items() if is_figure(mean_of(one.student.accuracy))}
    valid = {name: mean_of(student.valid_score) for name, student in measured.items()}
    test = {name: mean_of(student.accuracy) for name, student in measured.items()}
    scores = valid if all(is_figure(score) for score in valid.values()) else test
    return max(scores, key=lambda name: scores[name] or 0.0) if scores else None


def mean_of(measure: Spread | float | None) -> float | None:
    """The mean of a measure, None where it is missing."""
    spread = spread_of(measure)
    return None if spread is None else spread.mean


def has_spread(spread: Spread, seeds: Sequence[int]) -> bool:
    """True where more than one seed stands behind a standard deviation."""
    return is_figure(spread.std) and max(len(seeds), len(spread.per_seed)) != 1


def teacher_name(demo: DemoDocument) -> str:
    """The teacher and its sensors, as part of a sentence."""
    used = demo.teacher.modalities or [modality.name for modality in demo.dataset.modalities]
    if not used:
        return "the teacher"
    return (
        f"the teacher with {listed(used)}" if len(used) <= MOST_NAMED else f"the teacher with all {len(used)} sensors"
    )


def measured_rivals(contest: Contest) -> Iterator[tuple[str, float]]:
    """Name and mean accuracy of each rival that was run."""
    for field, name in RIVALS:
        rival = getattr(contest, field)
        score = None if rival is None else mean_of(rival.accuracy)
        if is_figure(score):
            yield name, score


def _accuracy(spread: Spread | None, seeds: Sequence[int], *, name_seeds: bool) -> str:
    """An accuracy with its spread, as part of a sentence."""
    if spread is None or not is_figure(spread.mean):
        return "an unknown share"
    written = with_unit(percent(spread.mean), "%")
    if has_spread(spread, seeds):
        over = f" over {things(len(seeds) or len(spread.per_seed), 'seed')}" if name_seeds else ""
        return f"{written} (± {percent(spread.std)}{over})"
    single = max(len(seeds), len(spread.per_seed)) == 1
    return f"{written} (one seed, no spread)" if single and name_seeds else written


def _sensor_sentence(demo: DemoDocument, best: str) -> str:
    student = demo.students[best].student.accuracy
    own = f"distilled student is right in {_accuracy(student, demo.seeds, name_seeds=True)} of the test windows"
    student_mean, teacher_mean = mean_of(student), mean_of(demo.teacher.accuracy)
    if not is_figure(student_mean) or not is_figure(teacher_mean):
        return f"With {best} alone, the {own}; there is no teacher to compare it with."
    teacher = f"{teacher_name(demo)} in {_accuracy(demo.teacher.accuracy, demo.seeds, name_seeds=False)}"
    if student_mean >= teacher_mean:
        return f"One sensor is enough here: with {best} alone, the {own}, {teacher}."
    if len(demo.students) > 1:
        return f"Of the single sensors, {_claim(demo, best, student_mean)}: its {own}, {teacher}."
    return f"One sensor falls short of all together: with {best} alone, the {own}, {teacher}."


def _claim(demo: DemoDocument, best: str, score: float) -> str:
    """Why this sensor: it is ahead on the test windows as well, or validation chose it although another is ahead."""
    ahead = {name: mean_of(contest.student.accuracy) or 0.0 for name, contest in demo.students.items()}
    first = max(ahead, key=lambda name: ahead[name])
    if ahead[first] <= score:
        return f"{best} comes closest to all together"
    return (
        f"validation chooses {best} (on the test windows {first} is ahead with {with_unit(percent(ahead[first]), '%')})"
    )


def _gain_sentence(demo: DemoDocument) -> str:
    gains = {name: contest.gain_points for name, contest in demo.students.items() if _is_gain(contest.gain_points)}
    mean = demo.mean_gain_points
    if len(demo.students) > 1 and _is_gain(mean):
        return f"{_verdict(mean, f' on average over the {len(demo.students)} sensors')}{_each(gains)}."
    if len(gains) == 1:
        (name, gain), *_ = gains.items()
        return f"{_verdict(gain, f' on {name}')}."
    return f"What distillation buys{_each(gains)}." if gains else ""


def _is_gain(gain: Gain | None) -> bool:
    return gain is not None and is_figure(gain.mean)


def _verdict(gain: Gain | None, where: str) -> str:
    """What distillation does, with the certainty that the interval allows."""
    assert gain is not None
    mean, low, high = gain.mean or 0.0, gain.low, gain.high
    span = interval(low, high)
    if not (is_figure(low) and is_figure(high)):
        return f"Distillation changes accuracy by {points(mean)} points{where}, with no interval to judge it by"
    if low > 0:
        return f"Distillation adds {fixed(mean)} points{where} (interval {span})"
    if high < 0:
        return f"Distillation costs {fixed(abs(mean))} points{where} (interval {span})"
    return f"Distillation has no certain effect{where}: {points(mean)} points, and the interval {span} includes 0"


def _each(gains: dict[str, Gain | None]) -> str:
    """The gains of the single sensors, as the end of a sentence: all of a few, the range of many."""
    written = [(gain.mean or 0.0, name, gain) for name, gain in gains.items() if gain is not None]
    if len(written) < 2:
        return ""
    if len(written) <= MOST_NAMED:
        return ": " + listed([f"{name} {points(mean)} ({_span(gain)})" for mean, name, gain in written])
    ordered = sorted(written, key=lambda one: one[0])
    certain = sum(is_figure(gain.low) and gain.low > 0 for _, _, gain in written)
    return (
        f": from {points(ordered[0][0])} ({ordered[0][1]}) to {points(ordered[-1][0])} ({ordered[-1][1]}), "
        f"with an interval above 0 for {certain} of {len(written)} sensors"
    )


def _span(gain: Gain) -> str:
    if not (is_figure(gain.low) and is_figure(gain.high)):
        return "no interval"
    return interval(gain.low, gain.high) + (", includes 0" if gain.low <= 0 <= gain.high else "")


def _rival_sentence(demo: DemoDocument) -> str:
    """Whether a rival that needs no distillation is better than a student: the reader must hear it here."""
    leads: list[tuple[float, str]] = []
    losing: set[str] = set()
    met = [name for _, name in RIVALS]
    for sensor, contest in demo.students.items():
        student, rivals = mean_of(contest.student.accuracy), dict(measured_rivals(contest))
        met = [name for name in met if name in rivals and is_figure(student)]
        for rival, score in rivals.items():
            if is_figure(student) and score > student:
                losing.add(sensor)
                figures = [with_unit(percent(figure), "%") for figure in (score, student)]
                leads.append((score - student, f"on {sensor} {rival} reaches {figures[0]}, the student {figures[1]}"))
    if leads:
        return _lost(max(leads)[1], len(losing), len(demo.students))
    subject = "No student is" if len(demo.students) > 1 else "The student is not"
    return f"{subject} below {' or '.join(met)} trained on the same sensor and labels." if met else ""


def _lost(worst: str, losing: int, students: int) -> str:
    """The sentence on rivals that win; `worst` tells of the largest lead."""
    if losing == 1:
        return f"But a classical rival does better than {'the' if students == 1 else 'one'} student: {worst}."
    return f"But classical rivals do better than {losing} of {students} students; most of all, {worst}."
