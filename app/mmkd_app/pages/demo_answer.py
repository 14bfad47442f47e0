"""The demo's answer in sentences, and key figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from mmkd_app import words
from mmkd_documents.demo import LABELS_ONLY, DemoDocument, DemoSensor, Gain
from mmkd_documents.figures import MODEL_NAMES, Measure, Spread

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


def first_look_text(demo: DemoDocument) -> str:
    """Return what a quick run leaves out; empty for the full one."""
    if not demo.is_first_look:
        return ""
    return "A first look, with a small teacher and few training steps: scores may change; the full run takes longer."


def answer(demo: DemoDocument) -> tuple[str, ...]:
    """Return the answer; no conclusion at chance level."""
    best = demo.best_student
    if best is None:
        return ("Not decided: no student was measured.",)
    if not is_judged(demo):
        return (f"Not decided. {recommendation(demo)}",)
    sentences = (
        enough_text(demo),
        _winner_sentence(demo, best),
        _gain_sentence(demo),
        _shortfall_sentence(demo),
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


def enough_text(demo: DemoDocument) -> str:
    """Return yes, no or not decided, with the distances to the teacher and to the best rival on test."""
    best, measure = demo.best_student, demo.reported_metric
    if best is None or not is_judged(demo):
        return ""
    sensor = demo.students[best]
    student, teacher = (mean_score(model.score(measure)) for model in (sensor.student, demo.teacher))
    over = sensor.over_teacher_points or _difference(student, teacher, measure)
    most = words.most_loss(teacher, measure)
    verdict = f"Not decided whether {best} alone is enough"
    if over is not None and most is not None and words.is_number(over.low) and words.is_number(over.high):
        verdict = f"Yes, {best} alone is enough" if over.low >= -most else verdict
        verdict = f"No, {best} alone is not enough" if over.high < -most else verdict
    reached = [f"{measure.words} {words.score_with_unit(student, measure)} on test"]
    if over is not None and words.is_number(teacher):
        reached.append(_distance_text(over, "the teacher with all sensors", teacher, measure))
    if rivals := _tested_rivals(sensor, measure):
        name = max(rivals, key=lambda name: measure.rank(rivals[name][0]))
        score, gain = rivals[name]
        reached.append(_distance_text(gain, f"the rival that is best there, {name}", score, measure))
    return f"{verdict}: {words.join_words([', '.join(reached[:2]), *reached[2:]])}."


def enough_note(demo: DemoDocument) -> str:
    """Return what counts as enough; empty without a teacher."""
    most = words.most_loss(mean_score(demo.teacher.score(demo.reported_metric)), demo.reported_metric)
    if most is None:
        return ""
    size = words.with_gain_unit(words.significant(most, 2), demo.reported_metric)
    return f"Enough: a student whose 95 % interval is at most {size} worse than the teacher with all sensors."


def _difference(score: float | None, reference: float | None, measure: Measure) -> Gain | None:
    if not (words.is_number(score) and words.is_number(reference)):
        return None
    return Gain(mean=measure.gain_scale * (score - reference))


def _distance_text(gain: Gain, reference: str, score: float, measure: Measure) -> str:
    """Return `2.5 points worse than the teacher (83.0 %; 95 % interval -6.0 to 1.5)`."""
    mean = gain.mean or 0.0
    size = words.with_gain_unit(words.signed_gain(abs(mean), measure).lstrip("+"), measure)
    facts = f"{words.score_with_unit(score, measure)}; {_interval_text(gain.low, gain.high, measure)}"
    return f"{size} {'worse' if mean < 0 else 'better'} than {reference} ({facts})"


def _interval_text(low: float | None, high: float | None, measure: Measure) -> str:
    ends = words.gain_interval(low, high, measure)
    return "no confidence interval" if ends == words.NOTHING else f"95 % interval {ends}"


def _tested_rivals(sensor: DemoSensor, measure: Measure) -> dict[str, tuple[float, Gain]]:
    """Test score of each rival, and the student's gain over it."""
    student, rivals = mean_score(sensor.student.score(measure)), {}
    for field, name in RIVALS:
        rival = getattr(sensor, field)
        score = None if rival is None else mean_score(rival.score(measure))
        gain = rival and (rival.student_gain_points or _difference(student, score, measure))
        if words.is_number(score) and gain is not None:
            rivals[name] = score, gain
    return rivals


def _winner_sentence(demo: DemoDocument, best: str) -> str:
    measure = demo.reported_metric
    contenders = [
        words.contender(name, score, sensor.student.chance)
        for name, sensor in ({best: demo.students[best]} | demo.students).items()
        if words.is_number(score := mean_score(sensor.student.score(measure)))
    ]
    return words.with_full_stop(words.no_clear_winner(contenders, measure))


def _shortfall_sentence(demo: DemoDocument) -> str:
    measure, teacher = demo.chosen_by, mean_score(demo.teacher.valid_score)
    sentences = [
        words.teacher_shortfall(teacher, mean_score(sensor.baseline.valid_score), measure, f" on {name}")
        for name, sensor in demo.students.items()
        if sensor.baseline is not None
    ]
    return " ".join(words.with_full_stop(sentence) for sentence in sentences if sentence)


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
    measure = demo.reported_metric
    ahead = []
    for sensor, models in demo.students.items():
        for name, (score, gain) in _tested_rivals(models, measure).items():
            if (gain.mean or 0.0) < 0:
                lead = msgspec.structs.replace(
                    gain,
                    **{
                        end: None if value is None else -value
                        for end, value in (("mean", gain.mean), ("low", gain.high), ("high", gain.low))
                    },
                )
                size = words.with_gain_unit(words.signed_gain(lead.mean, measure).lstrip("+"), measure)
                facts = f"{words.score_with_unit(score, measure)}; {_interval_text(lead.low, lead.high, measure)}"
                ahead.append(f"{name} on {sensor} by {size} ({facts})")
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
    bench = demo.benchmark
    if bench is not None and bench.latency_ms is not None and words.is_number(bench.latency_ms.p50):
        engine = f" · by {bench.backend}, the engine that open chooses" if bench.backend else ""
        yield words.time_text(1000 * bench.latency_ms.p50), f"median of one whole prediction{engine}"


def ratio_text(demo: DemoDocument) -> str:
    """Return how much faster the best student's network is than the teacher's, both in ONNX Runtime."""
    best = demo.best_student
    if best is None or not words.is_number(demo.students[best].latency_ratio):
        return ""
    sensor = demo.students[best]
    text = f"The student of {best} takes {words.significant(sensor.latency_ratio, 2)}{words.TIMES} less time than "
    text += teacher_network(demo)
    ratios = sensor.latency_ratios
    if ratios is not None and words.is_number(ratios.min) and words.is_number(ratios.max):
        doubt = ", not significant" if ratios.min <= 1 <= ratios.max else ""
        text += f" ({words.significant(ratios.min, 2)} to {words.significant(ratios.max, 2)}{doubt})"
    return f"{text}."
