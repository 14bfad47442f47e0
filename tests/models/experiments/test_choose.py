"""`mmkd-study --choose` with a committee: validation chooses every student, distilled from several members."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmkd_edge.errors import UsageError
from mmkd_models.commands.study import run_study
from mmkd_models.data import Dataset
from mmkd_models.training.checkpoint import read_student, read_teacher

SHORT = "--modality acc --grid --seeds 1 --steps 6 --teacher-steps 6 --student tiny --no-latency --method logit --json"
OPTIONS = [*SHORT.split(), "--learning-rate", "0.01", "--rival", "extra_trees", "--choose"]


@pytest.mark.slow
def test_students_are_winners_of_a_race_and_the_committee_teaches_them(
    rigs: dict[str, Dataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    arguments = [str(rigs["multi_label"].path), "-o", str(out), "--teacher", "tiny,committee"]
    with pytest.raises(SystemExit) as ended:
        run_study([*arguments, *OPTIONS])
    assert ended.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert document["facts"]["choose"] is True
    assert [one["name"] for one in document["teachers"]] == ["acc+gyro:tiny,committee"]
    (teacher,) = out.glob("teachers/*/teacher.ckpt")
    committee = read_teacher(teacher).committee
    assert committee is not None
    assert [member.kind for member in committee.members] == ["transformer", "rocket", "trees"]
    students = {path.parent.name.partition("-")[0]: read_student(path) for path in out.glob("trials/*/student.ckpt")}
    assert set(students) == {"none", "logit"}
    for student in students.values():
        names = [contender.name for contender in student.facts.tried or ()]
        assert "convolutional features" in names
        assert "labels only" not in names  # it is an entry of the table
        assert student.facts.shipped in names
    assert (students["none"].facts.teacher_sha256, students["logit"].facts.teacher_sha256 is None) == (None, False)
    assert "Validation chose every student among" in (out / "report.html").read_text()


@pytest.mark.parametrize(("name", "limit"), [("--max-parameters", "1000"), ("--max-latency-ms", "2.5")])
def test_limits_are_refused_beside_a_race(rigs: dict[str, Dataset], tmp_path: Path, name: str, limit: str) -> None:
    options = [one for one in OPTIONS if one != "--no-latency"]
    arguments = [str(rigs["multi_label"].path), "-o", str(tmp_path / "study"), name, limit, *options]
    with pytest.raises(UsageError) as refused:
        run_study(arguments)
    assert str(refused.value) == (
        f"{name} {limit}: expected no --choose beside it, whose students are larger and slower than the transformer of "
        "their size; leave one of them out"
    )
    assert not (tmp_path / "study").exists()
