"""What is said of left-out domains follows from their figures."""

from __future__ import annotations

import msgspec

from mmkd_models.evaluation.suites.shift import next_of_shift, of_shift
from mmkd_models.metrics.measures import measure_named
from mmkd_report.pages.judging import shift_section
from mmkd_report.schema.evaluation import WindowGain
from mmkd_report.schema.judging import DomainFigures, DomainSpread, ShiftFacts, TimeFigures


def facts(
    student: list[float], labels: list[float], *, teacher_gain: DomainSpread, gain: DomainSpread, **more: object
) -> ShiftFacts:
    names = ("press 1", "press 2")
    return ShiftFacts(
        **{  # type: ignore[arg-type]
            "by": "machine",
            "sensor": "acc",
            "teacher": "tiny",
            "student": "tiny",
            "labels": "all windows labelled",
            "steps": (300, 400),
            "measure": measure_named("balanced_accuracy"),
            "domains": tuple(
                DomainFigures(name=name, windows=30, shared_groups=0, figures={"student": a, "labels alone": b})
                for name, a, b in zip(names, student, labels, strict=True)
            ),
            "models": {"student": DomainSpread(mean=sum(student) / 2, low=0.0, high=1.0)},
            "worst": {"student": names[student.index(min(student))]},
            "gains": {"labels alone": gain},
            "teacher_gain": teacher_gain,
            "absent": {},
            "time": None,
            **more,
        }
    )


CERTAIN = DomainSpread(mean=6.0, low=2.0, high=10.0)
UNCERTAIN = DomainSpread(mean=1.0, low=-3.0, high=5.0)


def test_a_certain_gain_helps_and_keeps_points_of_the_teachers() -> None:
    found = facts([0.8, 0.7], [0.74, 0.68], teacher_gain=CERTAIN, gain=DomainSpread(mean=4.0, low=0.5, high=7.5))
    assert list(of_shift(found)) == [
        (
            "On the machine that was left out distillation helps: the student of acc has 75.0% balanced accuracy, +4.0 "
            "points beside labels alone (95 % interval +0.5 to +7.5 over 2 domains)"
        ),
        "Of the 6.0 points by which the teacher is better there (95 % interval +2.0 to +10.0), it keeps 4.0 points",
        "Its worst machine is press 2, with 70.0%",
    ]
    assert next_of_shift(found) == "more like machine press 2"


def test_what_is_not_certain_is_said_to_be_so() -> None:
    found = facts([0.8, 0.7], [0.74, 0.68], teacher_gain=UNCERTAIN, gain=UNCERTAIN)
    first, teacher, *_ = of_shift(found)
    assert first.startswith("On the machine that was left out it is not certain that distillation helps: ")
    assert teacher == (
        "Whether the teacher itself is better there than labels alone is not certain: +1.0 points (95 % interval -3.0 "
        "to +5.0)"
    )


def test_a_loss_hurts_and_a_better_rival_is_named() -> None:
    worse = DomainSpread(mean=-5.0, low=-8.0, high=-2.0)
    found = facts(
        [0.6, 0.7], [0.7, 0.7], teacher_gain=CERTAIN, gain=worse, gains={"labels alone": worse, "MiniRocket": worse}
    )
    said = list(of_shift(found))
    assert said[0].startswith("On the machine that was left out distillation hurts: ")
    assert said[-1] == (
        "MiniRocket on the same sensor is better there than the student, by +5.0 points (95 % interval +2.0 to +8.0): "
        "take it, or record another machine"
    )


def test_a_student_that_loses_keeps_nothing_of_the_teachers_lead() -> None:
    worse = DomainSpread(mean=-1.2, low=-3.0, high=0.6)
    found = facts([0.6, 0.7], [0.7, 0.7], teacher_gain=CERTAIN, gain=worse)
    assert list(of_shift(found))[1].endswith("(95 % interval +2.0 to +10.0), it keeps nothing")


def test_the_page_says_of_groups_and_missing_values_what_the_dataset_says() -> None:
    found = facts([0.8, 0.7], [0.74, 0.68], teacher_gain=CERTAIN, gain=CERTAIN)
    assert "The groups that choose are not trained on either. Intervals" in shift_section(found).lead
    about = shift_section(msgspec.structs.replace(found, has_groups=False, unknown=12)).lead
    assert "not trained on" not in about
    assert (
        "The dataset has no groups: its own validation windows choose, and whose they are is unknown. 12 windows "
        "without a value of machine were left out."
    ) in about


def test_groups_that_are_in_training_too_and_the_end_of_the_campaign_are_told() -> None:
    found = facts([0.8, 0.7], [0.74, 0.68], teacher_gain=CERTAIN, gain=CERTAIN)
    (first, second), accuracy = found.domains, measure_named("accuracy")
    time = TimeFigures(
        measure=accuracy,
        windows=(90, 30, 30),
        figures={"student": 0.5, "labels alone": 0.55},
        gain=WindowGain(points=-5.0, low=None, high=None),
    )
    shared = DomainFigures(name=second.name, windows=30, shared_groups=3, figures=second.figures)
    found = facts([0.8, 0.7], [0.74, 0.68], teacher_gain=CERTAIN, gain=CERTAIN, domains=(first, shared), time=time)
    assert list(of_shift(found))[-2:] == [
        (
            "3 groups of left-out domains have windows in training too, in other domains: what a new group costs is "
            "not in these figures"
        ),
        (
            "At the end of the campaign, trained on its beginning, it is not known whether distillation helps: the "
            "student has 50.0% accuracy, -5.0 points beside labels alone (too few for an interval)"
        ),
    ]
