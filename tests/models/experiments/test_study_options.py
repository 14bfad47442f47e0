"""`mmkd-study`: what its options of labels, of teachers and of the work to be done change."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from mmkd_models.commands.study import run_study
from mmkd_models.data import Dataset
from mmkd_models.data.labelled import Labelled
from mmkd_models.training.checkpoint import read_student
from mmkd_report.schema.study import StudyDocument

SHORT = "--modality acc --grid --seeds 1 --steps 6 --teacher-steps 6 --teacher tiny --student tiny --no-latency"
OPTIONS = [*SHORT.split(), "--method", "logit", "--learning-rate", "0.01", "--rival", "extra_trees"]


def studied(machines: Dataset, out: Path, *options: str) -> StudyDocument:
    with pytest.raises(SystemExit) as ended:
        run_study([str(machines.path), "-o", str(out), *OPTIONS, *options])
    assert ended.value.code == 0
    return msgspec.json.decode((out / "study.json").read_bytes(), type=StudyDocument)


def trainers(out: Path) -> set[int]:
    """The processes that trained: TensorBoard names each log `events.out.tfevents.TIME.HOST.PROCESS.NUMBER`."""
    return {int(path.name.split(".")[-2]) for path in out.glob("t*/*/run/**/events.*")}


@pytest.mark.parametrize(
    ("options", "labelled", "generations"),
    [
        (["--label-fraction", "0.5", "--no-self-training"], Labelled(fraction=0.5), 1),
        (["--labelled-groups", "2", "--self-training"], Labelled(groups=2), 2),
    ],
    ids=["a share of the windows", "whole groups"],
)
def test_labels_that_are_hidden_teach_nobody_and_self_training_uses_the_windows(
    machines: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    labelled: Labelled,
    generations: int,
) -> None:
    facts = studied(machines, tmp_path / "study", *options).facts
    shown = facts.labelled_groups
    assert (facts.label_fraction, shown and shown.labelled) == (None if labelled.groups else 0.5, labelled.groups)
    students = [read_student(path) for path in tmp_path.glob("study/trials/*/student.ckpt")]
    assert [one.facts.labelled for one in students] == [labelled] * 2
    (teacher,) = tmp_path.glob("study/teachers/*/run")
    assert len({path.parent for path in teacher.rglob("events.*")}) == generations
    assert trainers(tmp_path / "study") == {os.getpid()}


@pytest.mark.slow
def test_several_workers_train_in_processes_of_their_own(
    machines: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = studied(machines, tmp_path / "study", "--workers", "2")
    assert document.coverage.complete
    assert trainers(tmp_path / "study")
    assert os.getpid() not in trainers(tmp_path / "study")
