"""What a study combines, and that the name of a trial follows from what decides its weights."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import study_cases as cases

from mmkd_edge.errors import UsageError
from mmkd_models.data.folds import Labelled, LeftOutDomains
from mmkd_models.distillation.recipe import Method, Recipe
from mmkd_models.experiments import plan
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.term import constant
from mmkd_models.train_config import TrainConfig
from tests.edge.said import said

ALONE = plan.TeacherChoice(modalities=("acc",), preset="small")


def trial(method, *, rate=1e-3, seed=0, student="tiny"):
    teacher = None if method == "none" else cases.TEACHER.name
    entry = plan.Entry(student=student, method=method, teacher=teacher)
    return plan.Trial(candidate=plan.Candidate(entry=entry, learning_rate=rate), seed=seed)


def test_plans_name_teachers_by_what_they_are_and_combine_labels_only_with_sizes(machines):
    space = cases.space(teachers=(cases.TEACHER, ALONE), students=("tiny", "small"))
    methods = (("none", None), ("logit", "acc+gyro:tiny"), ("logit", "acc:small"))
    combined = [(size, *method) for size in ("tiny", "small") for method in methods]
    assert [(entry.student, entry.method, entry.teacher) for entry in plan.entries(space)] == combined
    assert len(plan.candidates(space)) == 12
    out = plan.Entry(student="tiny", method="logit", teacher="acc+gyro:tiny")
    assert [entry.method for entry in plan.entries(cases.space(), [out])] == ["none"]
    teachers = plan.teachers_from_text(["tiny", "gyro+acc:small", "acc:tiny,committee"], machines)
    assert [teacher.name for teacher in teachers] == ["acc+gyro:tiny", "acc+gyro:small", "acc:tiny,committee"]
    assert [teacher.committee[:1] for teacher in teachers] == [(), (), ("transformer",)]
    names = {plan.teacher_name(cases.conditions(machines, modality=name), cases.TEACHER, 0) for name in ("acc", "gyro")}
    assert len(names) == 1
    conditions, space = cases.conditions(machines), cases.space()
    more = cases.space(students=("tiny", "small"), teachers=(cases.TEACHER, ALONE), learning_rates=(1e-3, 5e-3))
    assert plan.trial_name(conditions, space, trial("logit")) == plan.trial_name(conditions, more, trial("logit"))
    longer = cases.conditions(machines, teacher_train=TrainConfig(steps=7))
    assert plan.trial_name(conditions, space, trial("none")) == plan.trial_name(longer, space, trial("none"))


def test_a_name_changes_with_all_that_decides_the_weights(machines):
    conditions, space = cases.conditions(machines), cases.space(students=("tiny", "small"))
    longer = TrainConfig(steps=7, batch=8, eval_every=3)
    stronger = Method(name="logit", recipe=Recipe(terms=(LogitTerm(weight=constant(2.0)),)))
    others = cases.space(methods=(*cases.methods("none"), stronger), students=("tiny", "small"))
    trials = (trial("logit", **changed) for changed in ({}, {"rate": 1e-2}, {"seed": 1}, {"student": "small"}))
    names = [plan.trial_name(conditions, space, one) for one in trials]
    names.append(plan.trial_name(conditions, others, trial("logit")))
    for changed in (
        {"student_train": longer},
        {"teacher_train": longer},
        {"labelled": Labelled(fraction=0.25)},
        {"choose": True},
        {"left_out": LeftOutDomains(by="site")},
        {"modality": "gyro"},
        {"dataset_sha256": "ab" * 32},
    ):
        names.append(plan.trial_name(cases.conditions(machines, **changed), space, trial("logit")))
    assert len(set(names)) == len(names)
    assert names[0].startswith("logit-acc-tiny-0.001-seed0-")


@pytest.mark.parametrize(
    ("problem", "changed"),
    {
        "--student: expected each once, got none; name each once": {"students": ()},
        "--learning-rate: expected each once, got 0.001, 0.001; name each once": {"learning_rates": (1e-3, 1e-3)},
        "--learning-rate: expected above 0, got 0; correct it": {"learning_rates": (0.0,)},
        "--method: expected 'none' among the methods, what others are measured against; add it": {
            "methods": cases.methods("logit")
        },
        "method 'logit': expected a recipe, and none for 'none' alone; correct it": {
            "methods": (Method(name="logit", recipe=None),)
        },
        "method '../up': expected letters, digits and -_.+ as in 'edam' or 'edam@last'; rename it": {
            "methods": (Method(name="../up", recipe=None),)
        },
    }.items(),
)
def test_a_space_that_makes_no_sense_is_refused(problem, changed):
    assert said(UsageError, plan.check_space, cases.space(**changed)) == problem


@pytest.mark.parametrize("setting", ["ensemble=2", "committee,committee", ""])
def test_a_setting_that_makes_no_sense_is_refused(machines, setting):
    assert said(UsageError, plan.teachers_from_text, [f"acc:tiny,{setting}"], machines) == (
        f"--teacher acc:tiny,{setting}: expected nothing or committee after the size, got {setting!r}; correct it"
    )
