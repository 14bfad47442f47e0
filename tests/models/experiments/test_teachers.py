"""Teachers of a study: which sensors they see, committees, and the smallest that is good enough."""

from __future__ import annotations

import numpy as np
import pytest

from mmkd_edge.errors import UsageError
from mmkd_models.data import Dataset
from mmkd_models.evaluation.gains import spread
from mmkd_models.experiments.plan import teachers_from_text
from mmkd_models.experiments.table import score_table, smallest_near_best
from mmkd_models.metrics.scores import scores_from_answers
from mmkd_report.schema.study import TeacherRow


def test_teachers_have_names_of_what_they_are(machines: Dataset) -> None:
    texts = ["tiny", "gyro+acc:small", "acc:tiny,committee"]
    teachers = teachers_from_text(texts, machines)
    assert [one.name for one in teachers] == ["acc+gyro:tiny", "acc+gyro:small", "acc:tiny,committee"]
    assert [one.committee[:1] for one in teachers] == [(), (), ("transformer",)]


@pytest.mark.parametrize("setting", ["ensemble=2", "committee,committee", ""])
def test_a_setting_that_makes_no_sense_is_refused(machines: Dataset, setting: str) -> None:
    with pytest.raises(UsageError) as caught:
        teachers_from_text([f"acc:tiny,{setting}"], machines)
    assert str(caught.value) == (
        f"--teacher acc:tiny,{setting}: expected nothing or committee after the size, got {setting!r}; correct it"
    )


def teacher_row(name: str, parameters: int, score: float) -> TeacherRow:
    return TeacherRow(
        name=name,
        modalities=("acc",),
        preset="tiny",
        parameters=parameters,
        seeds=(0,),
        valid_score=spread([score]),
        test=score_table([scores_from_answers(np.array([0, 1]), np.array([0, 1]), 2)]),
        sha256=("ab" * 32,),
    )


def test_the_reference_is_the_smallest_within_half_a_point_of_the_best() -> None:
    rows = [teacher_row("base", 9000, 0.9), teacher_row("small", 900, 0.8951), teacher_row("tiny", 90, 0.8949)]
    assert smallest_near_best(rows) == "small"
    assert smallest_near_best(rows[::-1]) == "small"
    assert smallest_near_best([]) is None
