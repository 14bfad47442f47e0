"""What a study combines, and that the name of a trial follows from what decides its weights."""

import sys
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import study_cases as cases

from mmkd_edge.errors import UsageError
from mmkd_models.data.folds import LeftOutDomains
from mmkd_models.data.labelled import Labelled
from mmkd_models.distillation.recipe import Method, Recipe
from mmkd_models.experiments.plan import (
    Candidate,
    Entry,
    TeacherChoice,
    Trial,
    candidates,
    check_space,
    entries,
    teacher_name,
    teachers_from_text,
    trial_name,
)
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.term import constant
from mmkd_models.train_config import TrainConfig
from tests.edge.said import said

ALONE = TeacherChoice(modalities=("acc",), preset="small")


def trial(method, *, rate=1e-3, seed=0, student="tiny"):
    teacher = None if method == "none" else cases.TEACHER.name
    return Trial(
        candidate=Candidate(entry=Entry(student=student, method=method, teacher=teacher), learning_rate=rate), seed=seed
    )


def test_plans_name_teachers_by_what_they_are_and_combine_labels_only_with_sizes(machines):
    space = cases.space(teachers=(cases.TEACHER, ALONE), students=("tiny", "small"))
    assert [(entry.student, entry.method, entry.teacher) for entry in entries(space)] == [
        ("tiny", "none", None),
        ("tiny", "logit", "acc+gyro:tiny"),
        ("tiny", "logit", "acc:small"),
        ("small", "none", None),
        ("small", "logit", "acc+gyro:tiny"),
        ("small", "logit", "acc:small"),
    ]
    assert len(candidates(space)) == 12
    out = Entry(student="tiny", method="logit", teacher="acc+gyro:tiny")
    assert [entry.method for entry in entries(cases.space(), [out])] == ["none"]
    teachers = teachers_from_text(["tiny", "gyro+acc:small", "acc:tiny,committee"], machines)
    assert [teacher.name for teacher in teachers] == ["acc+gyro:tiny", "acc+gyro:small", "acc:tiny,committee"]
    assert [teacher.committee[:1] for teacher in teachers] == [(), (), ("transformer",)]
    names = {teacher_name(cases.conditions(machines, modality=name), cases.TEACHER, 0) for name in ("acc", "gyro")}
    assert len(names) == 1
    conditions, space = cases.conditions(machines), cases.space()
    more = cases.space(students=("tiny", "small"), teachers=(cases.TEACHER, ALONE), learning_rates=(1e-3, 5e-3))
    assert trial_name(conditions, space, trial("logit")) == trial_name(conditions, more, trial("logit"))
    longer = cases.conditions(machines, teacher_train=TrainConfig(steps=7))
    assert trial_name(conditions, space, trial("none")) == trial_name(longer, space, trial("none"))


def test_a_name_changes_with_all_that_decides_the_weights(machines):
    conditions, space = cases.conditions(machines), cases.space(students=("tiny", "small"))
    longer = TrainConfig(steps=7, batch=8, eval_every=3)
    stronger = Method(name="logit", recipe=Recipe(terms=(LogitTerm(weight=constant(2.0)),)))
    names = [
        trial_name(conditions, space, trial("logit")),
        trial_name(conditions, space, trial("logit", rate=1e-2)),
        trial_name(conditions, space, trial("logit", seed=1)),
        trial_name(conditions, space, trial("logit", student="small")),
        trial_name(
            conditions, msgspec.structs.replace(space, methods=(*cases.methods("none"), stronger)), trial("logit")
        ),
        *(
            trial_name(cases.conditions(machines, **changed), space, trial("logit"))
            for changed in (
                {"student_train": longer},
                {"teacher_train": longer},
                {"labelled": Labelled(fraction=0.25)},
                {"choose": True},
                {"left_out": LeftOutDomains(by="site")},
                {"modality": "gyro"},
                {"dataset_sha256": "ab" * 32},
            )
        ),
    ]
    assert len(set(names)) == len(names)
    assert names[0].startswith("logit-acc-tiny-0.001-seed0-")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"students": ()}, "--student: expected each once, got none; name each once"),
        ({"learning_rates": (1e-3, 1e-3)}, "--learning-rate: expected each once, got 0.001, 0.001; name each once"),
        ({"learning_rates": (0.0,)}, "--learning-rate: expected above 0, got 0; correct it"),
        (
            {"methods": cases.methods("logit")},
            "--method: expected 'none' among the methods, what others are measured against; add it",
        ),
        (
            {"methods": (Method(name="logit", recipe=None),)},
            "method 'logit': expected a recipe, and none for 'none' alone; correct it",
        ),
        (
            {"methods": (Method(name="../up", recipe=None),)},
            "method '../up': expected letters, digits and -_.+ as in 'edam' or 'edam@last'; rename it",
        ),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(changed, problem):
    assert said(UsageError, check_space, cases.space(**changed)) == problem


@pytest.mark.parametrize("setting", ["ensemble=2", "committee,committee", ""])
def test_a_setting_that_makes_no_sense_is_refused(machines, setting):
    assert said(UsageError, teachers_from_text, [f"acc:tiny,{setting}"], machines) == (
        f"--teacher acc:tiny,{setting}: expected nothing or committee after the size, got {setting!r}; correct it"
    )
