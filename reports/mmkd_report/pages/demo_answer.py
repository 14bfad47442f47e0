"""The demo's answer in sentences, and key figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mmkd_report import words
from mmkd_report.schema.demo import LABELS_ONLY, DemoDocument, DemoSensor, Gain, LatencyPercentiles
from mmkd_report.schema.figures import MODEL_NAMES, Spread

RIVALS = tuple((key, MODEL_NAMES[key]) for key in ("extra_trees", "mini_rocket", "rocket_and_trees"))
RECIPES: Mapping[str, tuple[str, ...]] = {
    "labels only": ("transformer",),
    MODEL_NAMES["extra_trees"]: ("trees",),
    MODEL_NAMES["mini_rocket"]: ("convolutions",),
    MODEL_NAMES["rocket_and_trees"]: ("convolutions", "trees"),
}
"""The members of a student by the recipe of each rival."""


def question(demo: DemoDocument) -> str:
    """Return the headline."""
    setting = "Everything was recorded."
    if demo.labelled_groups is not None:
        was = "was" if demo.labelled_groups.labelled == 1 else "were"
        setting = f"Everything was recorded, {words.labelled_groups_text(demo.labelled_groups)} {was} labelled."
    elif demo.label_fraction is not None:
        labelled = (
            f"{words.short_percent(demo.label_fraction)} was" if demo.label_fraction < 1 else "and everything was"
        )
        setting = f"Everything was recorded, {labelled} labelled."
    which = "Which one sensor is enough" if len(demo.students) > 1 else "Is one sensor enough"
    return f"{setting} {which}, and what does distillation gain?"


def answer(demo: DemoDocument) -> tuple[str, ...]:
    """Return the answer; no conclusion at chance level."""
    best = demo.best_student
    if best is None:
        return ("No student was measured, so there is no answer yet.",)
    if not is_judged(demo):
        return (recommendation(demo),)
    sentences = (
        _teacher_sentence(demo, best),
        _gain_sentence(demo),
        shipped_text(demo),
        _rival_sentence(demo),
        recommendation(demo),
    )
    return tuple(sentence for sentence in sentences if sentence)


def recommendation(demo: DemoDocument) -> str:
    """Return the recommendation of validation; empty without scores."""
    best = demo.best_student
    if best is None:
        return ""
    if not is_judged(demo):
        measure, students = demo.reported_metric, {best: demo.students[best]} | demo.students
        scores = {name: mean_score(sensor.student.score(measure)) for name, sensor in students.items()}
        judged = [(name, scores[name], sensor.student.chance) for name, sensor in students.items()]
        return f"{words.no_conclusion(judged, measure)}."
    sensor, measure = demo.students[best], demo.chosen_by
    student, rivals = mean_score(sensor.student.valid_score), _validated_rivals(sensor)
    if not words.is_number(student) or not rivals:
        return ""
    own, first = words.score_with_unit(student, measure), leading_rival(demo)
    if first:
        score, members = words.score_with_unit(rivals[first], measure), words.join_words(list(RECIPES[first]))
        return (
            f"Recommended: {members} on labels only for {best}. On validation {first} reaches {score}, the student "
            f"{own}."
        )
    scores_text = words.join_words(
        [f"{name} {words.score_with_unit(score, measure)}" for name, score in rivals.items()]
    )
    return f"Recommended: the {best} student. On validation it reaches {own}, {scores_text}."


def leading_rival(demo: DemoDocument) -> str:
    """Return the rival of the best student that validates at least as well, or an empty name."""
    best = demo.best_student
    rivals = {} if best is None else _validated_rivals(demo.students[best])
    student = None if best is None else mean_score(demo.students[best].student.valid_score)
    if not rivals or not words.is_number(student):
        return ""
    first = max(rivals, key=lambda name: rivals[name])
    return first if rivals[first] >= student else ""


def shipped_text(demo: DemoDocument) -> str:
    """Return the training chosen per sensor; empty without a choice."""
    chosen = {name: sensor.student.shipped for name, sensor in demo.students.items() if sensor.student.shipped}
    if not chosen:
        return ""
    written = [f"{name} {words.join_words(list(dict.fromkeys(trainings)))}" for name, trainings in chosen.items()]
    has_baseline = any(LABELS_ONLY in trainings for trainings in chosen.values())
    reason = " (distillation did not validate better)" if has_baseline else ""
    return f"Shipped, as validation chose: {'; '.join(written)}{reason}."


def leak_text(demo: DemoDocument) -> str:
    """Return a warning if labels leak through time, else empty."""
    return words.leak_sentence(demo.labels_spread_in_time, demo.label_fraction, demo.reported_metric, split=demo.split)


def is_judged(demo: DemoDocument) -> bool:
    """Return whether validation chose a student that beats chance."""
    best = demo.best_student
    return best is not None and not words.is_chance_level(demo.students[best].student.chance)


def mean_score(spread: Spread | None) -> float | None:
    """Return the mean, if any."""
    return None if spread is None else spread.mean


def teacher_network(demo: DemoDocument) -> str:
    """Return the network of the teacher's parameters and latencies."""
    return "the teacher's transformer" if demo.teacher.members else "the teacher"


def _validated_rivals(sensor: DemoSensor) -> dict[str, float]:
    """Labels only is a rival unless validation chose among trainings with it."""
    baseline = [] if sensor.student.shipped else [("labels only", sensor.baseline)]
    models = [*baseline, *((name, getattr(sensor, field)) for field, name in RIVALS)]
    scores = {name: mean_score(model.valid_score) for name, model in models if model is not None}
    return {name: score for name, score in scores.items() if words.is_number(score)}


def _teacher_sentence(demo: DemoDocument, best: str) -> str:
    measure, over = demo.reported_metric, demo.students[best].over_teacher_points
    student, teacher = (mean_score(model.score(measure)) for model in (demo.students[best].student, demo.teacher))
    text = f"The student of {best} alone reaches {measure.words} {words.score_with_unit(student, measure)} on test"
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
    if len(demo.students) > 1:
        return demo.mean_gain_points, f" on average over {len(demo.students)} sensors"
    (name, sensor), *_ = demo.students.items()
    return sensor.gain_points, f" on {name}"


def _gain_sentence(demo: DemoDocument) -> str:
    gain, where = _reported_gain(demo)
    if gain is None or not words.is_number(gain.mean):
        return ""
    return f"{words.gain_verdict(gain.mean, gain.low, gain.high, demo.reported_metric, where)}."


def _rival_sentence(demo: DemoDocument) -> str:
    measure, ahead = demo.reported_metric, []
    for sensor, models in demo.students.items():
        student = mean_score(models.student.score(measure))
        for field, name in RIVALS:
            rival = getattr(models, field)
            score = None if rival is None else mean_score(rival.score(measure))
            if words.is_number(student) and words.is_number(score) and measure.rank(score) > measure.rank(student):
                scores = [words.score_with_unit(value, measure) for value in (score, student)]
                ahead.append(f"{name} on {sensor} ({scores[0]}, student {scores[1]})")
    return f"Ahead of the student on test: {words.join_words(ahead)}." if ahead else ""


def key_figures(demo: DemoDocument) -> Iterator[tuple[str, str]]:
    """Yield number and caption, as far as measured."""
    best = demo.best_student
    if best is None:
        return
    student, measure = demo.students[best].student, demo.reported_metric
    teacher, chance = mean_score(demo.teacher.score(measure)), student.chance
    caption = f"{measure.words} with {best} alone"
    caption += f" · all sensors {words.score_with_unit(teacher, measure)}" if words.is_number(teacher) else ""
    caption += "" if chance is None else f" · chance {words.score_with_unit(chance.figure, measure)}"
    yield words.score_with_unit(mean_score(student.score(measure)), measure), caption
    gain, where = _reported_gain(demo)
    if gain is not None and words.is_number(gain.mean) and not words.is_chance_level(chance):
        yield words.gain_figure(gain.mean, gain.low, gain.high, measure, f"gained by distillation{where}")
    if student.parameters:
        caption = f"parameters · {teacher_network(demo)} {words.magnitude(demo.teacher.parameters)}"
        yield words.magnitude(student.parameters), caption
    if student.latency_ms is not None and words.is_number(student.latency_ms.p50):
        yield words.quantity(student.latency_ms.p50, "ms"), f"median latency of one window{_ratio_text(demo, best)}"


def _ratio_text(demo: DemoDocument, best: str) -> str:
    sensor, teacher = demo.students[best], demo.teacher.latency_ms or LatencyPercentiles()
    if not words.is_number(sensor.latency_ratio):
        return ""
    ratio = words.significant(sensor.latency_ratio, 2) + words.TIMES
    text = f" · {teacher_network(demo)} {words.quantity(teacher.p50, 'ms')}, {ratio}"
    ratios = sensor.latency_ratios
    if ratios is None or not (words.is_number(ratios.min) and words.is_number(ratios.max)):
        return text
    ends = f"{words.significant(ratios.min, 2)} to {words.significant(ratios.max, 2)}"
    return f"{text} ({ends}{', not significant' if ratios.min <= 1 <= ratios.max else ''})"
