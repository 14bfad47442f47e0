"""What is said of left-out domains follows from their figures."""

import msgspec

from mmkd_documents.figures import Interval
from mmkd_documents.judging import DomainFigures, ShiftFacts
from mmkd_models.evaluation.suites.shift import describe
from mmkd_models.metrics.scores import measure_named


def facts(student, labels, *, teacher_gain, gain, **more):
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
                DomainFigures(name=name, windows=30, shared_groups=0, figures={"student": a, "labels only": b})
                for name, a, b in zip(names, student, labels, strict=True)
            ),
            "models": {"student": Interval(mean=sum(student) / 2, low=0.0, high=1.0)},
            "worst": {"student": names[student.index(min(student))]},
            "gains": {"labels only": gain},
            "teacher_gain": teacher_gain,
            "absent": {},
            **more,
        }
    )


CERTAIN = Interval(mean=6.0, low=2.0, high=10.0)
UNCERTAIN = Interval(mean=1.0, low=-3.0, high=5.0)


def test_gains_are_judged_by_what_is_certain_and_a_better_rival_is_named():
    found = facts([0.8, 0.7], [0.74, 0.68], teacher_gain=CERTAIN, gain=Interval(mean=4.0, low=0.5, high=7.5))
    assert list(describe(found).verdict) == [
        (
            "On the machine that was left out distillation helps: the student of acc has 75.0% balanced accuracy, +4.0 "
            "points compared with labels only (95 % CI +0.5 to +7.5, 2 domains)"
        ),
        "The teacher gains 6.0 points there (95 % CI +2.0 to +10.0); the student keeps 4.0 points",
        "Its worst machine is press 2, with 70.0%",
    ]
    assert describe(found).record == ("more like machine press 2",)
    found = facts([0.8, 0.7], [0.74, 0.68], teacher_gain=UNCERTAIN, gain=UNCERTAIN)
    first, teacher, *_ = describe(found).verdict
    assert first.startswith("On the machine that was left out the effect of distillation is not significant: ")
    assert teacher == (
        "The teacher's own gain over labels only is not significant there: +1.0 points (95 % CI -3.0 to +5.0)"
    )
    worse = Interval(mean=-5.0, low=-8.0, high=-2.0)
    gains = {"labels only": worse, "MiniRocket": worse}
    found = facts([0.6, 0.7], [0.7, 0.7], teacher_gain=CERTAIN, gain=worse, gains=gains)
    said = list(describe(found).verdict)
    assert said[0].startswith("On the machine that was left out distillation hurts: ")
    assert said[-1] == (
        "MiniRocket on the same sensor is better there than the student, by +5.0 points (95 % CI +2.0 to +8.0): "
        "take it, or record another machine"
    )
    worse = Interval(mean=-1.2, low=-3.0, high=0.6)
    found = facts([0.6, 0.7], [0.7, 0.7], teacher_gain=CERTAIN, gain=worse)
    assert list(describe(found).verdict)[1].endswith("(95 % CI +2.0 to +10.0); the student keeps nothing")


def test_the_page_says_what_the_dataset_says_and_which_groups_trained():
    found = facts([0.8, 0.7], [0.74, 0.68], teacher_gain=CERTAIN, gain=CERTAIN)
    assert "The groups that choose are not trained on either. Intervals" in describe(found).lead
    about = describe(msgspec.structs.replace(found, has_groups=False, unknown=12)).lead
    assert "not trained on" not in about
    assert (
        "The dataset has no groups: its own validation windows choose, and may come from any domain. 12 windows "
        "without a value of machine were left out."
    ) in about
    first, second = found.domains
    shared = msgspec.structs.replace(second, shared_groups=3)
    found = facts([0.8, 0.7], [0.74, 0.68], teacher_gain=CERTAIN, gain=CERTAIN, domains=(first, shared))
    assert describe(found).verdict[-1] == (
        "3 groups of left-out domains have windows in training too, in other domains: these figures do not include "
        "the effect of a new group"
    )
