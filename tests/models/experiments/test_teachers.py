"""Teachers of a study: ensembles and mixtures, and teachers that are only compared."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import study_cases as cases

from mmkd_edge.errors import UsageError
from mmkd_models.data import Dataset
from mmkd_models.data.labelled import Labelled
from mmkd_models.experiments.folder import Folder, fold_data
from mmkd_models.experiments.plan import teachers_from_text
from mmkd_models.experiments.runs import teacher_results
from mmkd_models.experiments.study import study
from mmkd_models.experiments.table import score_table, smallest_near_best
from mmkd_models.metrics.classes import scores_from_answers
from mmkd_models.training.checkpoint import read_student, read_teacher
from mmkd_models.training.predict import logits_of
from mmkd_report.schema.study import StudyDocument, TeacherRow

ONE, MIXED = "tiny", "tiny,ensemble=2/gyro:tiny"


def space_of(machines: Dataset) -> dict[str, object]:
    return {
        "teachers": teachers_from_text([ONE, MIXED], machines),
        "methods": cases.methods("none", "logit", "edam@last"),
        "learning_rates": (1e-3,),
    }


@pytest.fixture(scope="module")
def mixed(machines: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyDocument]:
    """A grid on one seed with three kinds of teachers, beside one that is only compared."""
    out = tmp_path_factory.mktemp("study") / "mixed"
    options = cases.options(
        machines, seeds=1, space=cases.space(**space_of(machines)), compared=teachers_from_text(["acc:tiny"], machines)
    )
    return out, study(machines, options, out=out)


def folder_of(machines: Dataset, out: Path) -> Folder:
    space = cases.space(**space_of(machines))
    return Folder(out=out, dataset=machines, conditions=cases.conditions(machines), space=space)


def test_teachers_have_names_of_what_they_are(machines: Dataset) -> None:
    texts = [ONE, "gyro+acc:small", "acc:tiny,ensemble=3", MIXED]
    assert [one.name for one in teachers_from_text(texts, machines)] == [
        "acc+gyro:tiny",
        "acc+gyro:small",
        "acc:tiny,ensemble=3",
        "acc+gyro:tiny,ensemble=2/gyro:tiny",
    ]


@pytest.mark.parametrize("setting", ["ensemble=1", "ensemble=x", "members=2", "ensemble"])
def test_a_setting_that_makes_no_sense_is_refused(machines: Dataset, setting: str) -> None:
    with pytest.raises(UsageError) as caught:
        teachers_from_text([f"acc:tiny,{setting}"], machines)
    assert str(caught.value) == (
        f"--teacher acc:tiny,{setting}: expected committee, or ensemble=N of 2 or more after the size, "
        f"got {setting!r}; correct it"
    )


def test_a_committee_is_named(machines: Dataset) -> None:
    (one,) = teachers_from_text(["acc:tiny,committee"], machines)
    assert one.name == "acc:tiny,committee"
    assert one.committee[0] == "transformer"


def test_every_kind_of_teacher_is_a_pair_of_its_own(mixed: tuple[Path, StudyDocument]) -> None:
    _, document = mixed
    pairs = {(row.method, row.teacher) for row in document.entries}
    together = "acc+gyro:tiny,ensemble=2/gyro:tiny"
    assert pairs == {
        ("none", None),
        ("logit", "acc+gyro:tiny"),
        ("edam@last", "acc+gyro:tiny"),
        ("logit", together),
    }
    assert document.coverage.complete
    (skipped,) = document.skipped
    assert (skipped.method, skipped.teacher) == ("edam@last", together)
    assert "looks into one teacher, and there are 3" in skipped.reason


def test_members_are_trained_once_each_and_from_other_seeds(
    machines: Dataset, mixed: tuple[Path, StudyDocument]
) -> None:
    out, _ = mixed
    # one teacher, which is the first of the ensemble too; its second member; gyro; the compared one
    assert len(list(out.glob("teachers/*/teacher.json"))) == 4
    folder = folder_of(machines, out)
    first, second, gyro = folder.space.teachers[1].members
    assert first == folder.space.teachers[0]
    states = [read_teacher(folder.of_teacher(one, 0) / "teacher.ckpt").state["head.weight"] for one in (first, second)]
    assert not torch.equal(*states)
    student = next(
        read_student(path)
        for path in out.glob("trials/logit-*/student.ckpt")
        if read_student(path).facts.further_teachers_sha256
    )
    hashes = [result.sha256 for one in (second, gyro) for result in teacher_results(folder, one, 0) or ()]
    assert list(student.facts.further_teachers_sha256 or ()) == hashes


def test_teachers_together_are_judged_by_their_mean_probabilities(
    machines: Dataset, mixed: tuple[Path, StudyDocument]
) -> None:
    out, document = mixed
    folder, test = folder_of(machines, out), fold_data(machines, seed=0, labelled=Labelled(share=0.5)).test
    total = np.zeros((len(test), 3))
    for one in folder.space.teachers[1].members:
        network = read_teacher(folder.of_teacher(one, 0) / "teacher.ckpt").network()
        logits = logits_of(network, test.with_modalities(one.modalities), modality=None)
        total += np.exp(logits - logits.max(1, keepdims=True)) / np.exp(logits - logits.max(1, keepdims=True)).sum(
            1, keepdims=True
        )
    expected = scores_from_answers(test.labels, total.argmax(1), 3)
    row = next(row for row in document.teachers if row.name == "acc+gyro:tiny,ensemble=2/gyro:tiny")
    assert row.test["accuracy"].mean == expected.accuracy
    assert (row.valid_score, row.is_reference, row.modalities) == (None, False, ("acc", "gyro"))
    one = next(row for row in document.teachers if row.name == "acc+gyro:tiny")
    assert row.parameters > 2 * one.parameters


def test_a_compared_teacher_has_figures_and_teaches_nobody(mixed: tuple[Path, StudyDocument]) -> None:
    _, document = mixed
    row = next(row for row in document.teachers if row.name == "acc:tiny")
    assert row.valid_score is not None
    assert all(entry.teacher != "acc:tiny" for entry in document.entries)


def test_several_teachers_are_not_compared_as_one(machines: Dataset, tmp_path: Path) -> None:
    options = cases.options(machines, compared=teachers_from_text([MIXED], machines))
    with pytest.raises(UsageError) as caught:
        study(machines, options, out=tmp_path / "study")
    assert str(caught.value) == (
        "--compare-teacher acc+gyro:tiny,ensemble=2/gyro:tiny: expected a single teacher, got several; name them apart"
    )


def teacher_row(name: str, parameters: int, score: float | None) -> TeacherRow:
    from mmkd_models.evaluation.gains import spread

    return TeacherRow(
        name=name,
        modalities=("acc",),
        preset="tiny",
        parameters=parameters,
        seeds=(0,),
        valid_score=None if score is None else spread([score]),
        test=score_table([scores_from_answers(np.array([0, 1]), np.array([0, 1]), 2)]),
        sha256=("ab" * 32,),
    )


def test_the_reference_is_the_smallest_within_half_a_point_of_the_best() -> None:
    rows = [teacher_row("base", 9000, 0.9), teacher_row("small", 900, 0.8951), teacher_row("tiny", 90, 0.8949)]
    assert smallest_near_best(rows) == "small"
    assert smallest_near_best([*rows, teacher_row("together", 9, None)]) == "small"
    assert smallest_near_best([]) is None
