"""The answer of the demo page in sentences, and its key figures."""

from __future__ import annotations

from collections.abc import Iterator

from mmkd_report import words
from mmkd_report.schema.demo import LABELS_ONLY, DemoDocument, DemoSensor, Gain, LatencyPercentiles
from mmkd_report.schema.figures import MODEL_NAMES, Measure, Spread

RIVALS = tuple((key, MODEL_NAMES[key]) for key in ("extra_trees", "mini_rocket", "rocket_and_trees"))
"""Field and name of the rivals that learn from labels only."""

_ALWAYS = ("extra_trees", "mini_rocket")  # rivals that are named even if they were not run
MOST_NAMED = 3


def question(demo: DemoDocument) -> str:
    """Return the headline."""
    setting = "Everything was recorded."
    if demo.labelled_groups is not None:
        was = "was" if demo.labelled_groups.labelled == 1 else "were"
        setting = f"Everything was recorded, {words.labelled_groups_text(demo.labelled_groups)} {was} labelled."
    elif demo.label_fraction is not None:
        labelled = f"{words.share(demo.label_fraction)} was" if demo.label_fraction < 1 else "and everything was"
        setting = f"Everything was recorded, {labelled} labelled."
    which = "Which one sensor is enough" if len(demo.students) > 1 else "Is one sensor enough"
    return f"{setting} {which}, and what does distillation gain?"


def answer(demo: DemoDocument) -> tuple[str, ...]:
    """Return the answer; no conclusion is drawn if the student that validation chose is no better than chance."""
    best = best_student(demo)
    if best is None:
        return ("No student was measured, so there is no answer yet.",)
    if not is_judged(demo):
        return (recommendation(demo),)
    sentences = (
        _teacher_sentence(demo, best),
        _gain_sentence(demo),
        shipped(demo),
        _rival_sentence(demo),
        recommendation(demo),
    )
    return tuple(sentence for sentence in sentences if sentence)


def recommendation(demo: DemoDocument) -> str:
    """Return what validation says for or against the student; empty if it has no scores to compare."""
    best = best_student(demo)
    if best is None:
        return ""
    if not is_judged(demo):
        return _chance_sentence(demo, best)
    contest, measure = demo.students[best], demo.chosen_by
    student, rivals = mean_of(contest.student.valid_score), _validated_rivals(contest)
    if not words.is_number(student) or not rivals:
        return ""
    own = words.score_with_unit(student, measure)
    first = max(rivals, key=lambda name: rivals[name])
    if rivals[first] >= student:
        score = words.score_with_unit(rivals[first], measure)
        tie = ", which is not higher" if score == own else ""
        return f"Not recommended: on validation {first} scores {score}, the {best} student {own}{tie}."
    scores = words.join_words([f"{words.score_with_unit(score, measure)} ({name})" for name, score in rivals.items()])
    others = "the rivals score" if len(rivals) > 1 else "the rival scores"
    unknown = [
        name for key, name in RIVALS if name not in rivals and (key in _ALWAYS or getattr(contest, key) is not None)
    ]
    tail = f"; not validated: {words.join_words(unknown)}" if unknown else ""
    return f"Recommended: the {best} student. On validation it scores {own}; {others} {scores}{tail}."


def shipped(demo: DemoDocument) -> str:
    """Return which training validation chose for each sensor; empty if it had no choice."""
    chosen = {name: contest.student.shipped for name, contest in demo.students.items() if contest.student.shipped}
    if not chosen:
        return ""
    written = [f"{name} {words.join_words(list(dict.fromkeys(trainings)))}" for name, trainings in chosen.items()]
    has_baseline = any(LABELS_ONLY in trainings for trainings in chosen.values())
    reason = " (distillation did not validate better)" if has_baseline else ""
    return f"Shipped, as validation chose: {'; '.join(written)}{reason}."


def leak(demo: DemoDocument) -> str:
    """Return the warning about labels that leak through time; empty if they do not."""
    return words.leak_sentence(demo.labels_spread_in_time, demo.label_fraction, demo.reported_metric, split=demo.split)


def is_judged(demo: DemoDocument) -> bool:
    """Return whether validation chose a student, and it is better than chance."""
    best = best_student(demo)
    return best is not None and not words.is_chance_level(demo.students[best].student.chance)


def is_chosen_by_validation(demo: DemoDocument) -> bool:
    """Return whether every student that has a test score was validated, so that test scores choose nothing."""
    return all(words.is_number(mean_of(demo.students[name].student.valid_score)) for name in _test_scores(demo))


def best_student(demo: DemoDocument) -> str | None:
    """Return the sensor with the best validation score, or the best test score unless every student was validated.

    None if no student has a test score.
    """
    test = _test_scores(demo)
    valid = {name: mean_of(demo.students[name].student.valid_score) for name in test}
    scores = {name: score for name, score in valid.items() if words.is_number(score)}
    if len(scores) < len(test):
        scores = {name: demo.reported_metric.rank(score) for name, score in test.items()}
    return max(scores, key=lambda name: scores[name], default=None)


def mean_of(spread: Spread | None) -> float | None:
    """Return the mean of a score; None if it is missing."""
    return None if spread is None else spread.mean


def teacher_network(demo: DemoDocument) -> str:
    """Return the network that the teacher's parameters and latencies describe."""
    return "the teacher's transformer" if demo.teacher.members else "the teacher"


def _test_scores(demo: DemoDocument) -> dict[str, float]:
    scores = {name: mean_of(contest.student.score(demo.reported_metric)) for name, contest in demo.students.items()}
    return {name: score for name, score in scores.items() if words.is_number(score)}


def _validated_rivals(contest: DemoSensor) -> dict[str, float]:
    """Return validation scores by rival; labels only is one unless validation chose among trainings with it."""
    baseline = [] if contest.student.shipped else [("labels only", contest.baseline)]
    models = [*baseline, *((name, getattr(contest, field)) for field, name in RIVALS)]
    scores = {name: mean_of(model.valid_score) for name, model in models if model is not None}
    return {name: score for name, score in scores.items() if words.is_number(score)}


def _chance_sentence(demo: DemoDocument, best: str) -> str:
    measure = demo.reported_metric
    students = [name for name, contest in demo.students.items() if not words.is_chance_level(contest.student.chance)]
    models = [("the teacher", demo.teacher)]
    for sensor, contest in demo.students.items():
        fields = [("baseline", "labels only"), *RIVALS]
        models += [(f"{name} on {sensor}", model) for key, name in fields if (model := getattr(contest, key))]
    better = [f"the student of {name}" for name in students]
    better += [name for name, model in models if model.chance is not None and model.chance.is_better]
    head = "No sensor can be judged: no student is better than chance"
    if students:
        head = f"The student of {best}, which validation chooses, is no better than chance, so no conclusion is drawn"
    elif not better:
        head = "No sensor can be judged: nothing here is better than chance"
    scores = [
        words.score_and_chance(name, mean_of(demo.students[name].student.score(measure)), chance, measure)
        for name in ([best] if students else list(demo.students)[:MOST_NAMED])
        if (chance := demo.students[name].student.chance) is not None
    ]
    tail = f" Better than chance: {words.join_words(better)}." if better else ""
    return f"{head} ({measure.words}: {'; '.join(scores)}).{tail}"


def _teacher_sentence(demo: DemoDocument, best: str) -> str:
    """Compare the best student with the teacher, and say if another student is ahead on test."""
    measure, scores = demo.reported_metric, _test_scores(demo)
    first = max(scores, key=lambda name: measure.rank(scores[name]))
    text = f"The student of {best} alone reaches {measure.words} {words.score_with_unit(scores[best], measure)} on test"
    if measure.rank(scores[first]) > measure.rank(scores[best]):
        text += (
            f" (validation chooses it; {first} is ahead on test with {words.score_with_unit(scores[first], measure)})"
        )
    teacher, over = mean_of(demo.teacher.score(measure)), demo.students[best].over_teacher_points
    if not words.is_number(teacher):
        return f"{text}."
    text += f", the teacher with all sensors {words.score_with_unit(teacher, measure)}"
    if over is None or not (words.is_number(over.low) and words.is_number(over.high)):
        return f"{text} (no confidence interval of the difference)."
    verdict = "is significantly better" if over.low > 0 else "does not differ significantly"
    verdict = "is significantly worse" if over.high < 0 else verdict
    ends = words.gain_interval(over.low, over.high, measure)
    return f"{text}; the student {verdict} (95 % interval of the difference {ends})."


def _reported_gain(demo: DemoDocument) -> tuple[Gain | None, str]:
    """Return the gain over several sensors or of the only one, and where it was measured."""
    if len(demo.students) > 1:
        return demo.mean_gain_points, f" on average over {len(demo.students)} sensors"
    (name, contest), *_ = demo.students.items()
    return contest.gain_points, f" on {name}"


def _gain_sentence(demo: DemoDocument) -> str:
    gain, where = _reported_gain(demo)
    if gain is None or not words.is_number(gain.mean):
        return ""
    return f"{words.gain_verdict(gain.mean, gain.low, gain.high, demo.reported_metric, where)}."


def _rival_sentence(demo: DemoDocument) -> str:
    """Return how many students a rival beats on test, and the largest lead."""
    measure, leads = demo.reported_metric, []
    for sensor, student in _test_scores(demo).items():
        models = ((name, getattr(demo.students[sensor], field)) for field, name in RIVALS)
        scores = [(mean_of(model.score(measure)), name) for name, model in models if model is not None]
        known = [(measure.rank(score), score, name) for score, name in scores if words.is_number(score)]
        rank, score, name = max(known, default=(measure.rank(student), student, ""))
        if rank > measure.rank(student):
            ends = f"{words.score_with_unit(score, measure)}, the student {words.score_with_unit(student, measure)}"
            leads.append((abs(score - student), f"{name} on {sensor} ({ends})"))
    if not leads:
        return ""
    students = f"{len(leads)} of {len(demo.students)} students" if len(demo.students) > 1 else "the student"
    return f"On test a rival is better than {students}; the largest lead: {max(leads)[1]}."


def key_figures(demo: DemoDocument) -> Iterator[tuple[str, str]]:
    """Yield number and caption: score, gain, parameters and latency of the best student, as far as measured."""
    best = best_student(demo)
    if best is None:
        return
    student, measure = demo.students[best].student, demo.reported_metric
    teacher, chance = mean_of(demo.teacher.score(measure)), student.chance
    caption = f"{measure.words} with {best} alone"
    caption += f" · all sensors {words.score_with_unit(teacher, measure)}" if words.is_number(teacher) else ""
    caption += "" if chance is None else f" · chance {words.score_with_unit(chance.figure, measure)}"
    yield words.score_with_unit(mean_of(student.score(measure)), measure), caption
    gain, where = _reported_gain(demo)
    if gain is not None and words.is_number(gain.mean) and not words.is_chance_level(chance):
        yield words.signed_gain(gain.mean, measure), _gain_caption(gain, where, measure)
    if student.parameters:
        caption = f"parameters · {teacher_network(demo)} {words.magnitude(demo.teacher.parameters)}"
        yield words.magnitude(student.parameters), caption
    if student.latency_ms is not None and words.is_number(student.latency_ms.p50):
        yield words.quantity(student.latency_ms.p50, "ms"), f"median latency of one window{_ratio_text(demo, best)}"


def _gain_caption(gain: Gain, where: str, measure: Measure) -> str:
    ends = words.gain_interval(gain.low, gain.high, measure)
    unit = f"{measure.gain_unit} " if measure.gain_unit else ""
    return f"{unit}gained by distillation{where}" + (f" · 95 % interval {ends}" if ends != words.NOTHING else "")


def _ratio_text(demo: DemoDocument, best: str) -> str:
    """Return the teacher's latency, its ratio to the student's, and the range of the ratio over repeats."""
    contest, teacher = demo.students[best], demo.teacher.latency_ms or LatencyPercentiles()
    if not words.is_number(contest.latency_ratio):
        return ""
    ratio = words.significant(contest.latency_ratio, 2) + words.TIMES
    text = f" · {teacher_network(demo)} {words.quantity(teacher.p50, 'ms')}, {ratio}"
    ratios = contest.latency_ratios
    if ratios is None or not (words.is_number(ratios.min) and words.is_number(ratios.max)):
        return text
    ends = f"{words.significant(ratios.min, 2)} to {words.significant(ratios.max, 2)} in {ratios.repeats} repeats"
    return f"{text} ({ends}{', not significant' if ratios.min <= 1 <= ratios.max else ''})"
