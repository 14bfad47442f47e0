"""`mmkd-evaluate --suite shift`: trained anew in a folder, read again by the same command, and refused whole."""

import json

import pytest

from tests.app.pages.rendered import render_judging
from tests.models.judging_rig import write_random_student, write_random_teacher


@pytest.fixture
def student(sites, student_checkpoint, tmp_path):
    return write_random_student(tmp_path / "student.ckpt", student_checkpoint, sites)


@pytest.mark.slow
def test_domains_are_judged_and_the_same_command_reads_what_it_made(run, student, sites, tmp_path):
    line = (student, sites.path, "--suite", "shift", "--by", "site", "--steps", "4", "-o", tmp_path / "out")
    code, printed, err = run(*line, "--json")
    assert code == 0, err
    document = json.loads(printed)
    shift = document["suites"]["shift"]["facts"]
    assert [one["name"] for one in shift["domains"]] == ["east", "north", "south"]
    assert list(shift["models"])[:3] == ["teacher", "student", "labels only"]
    assert document["verdict"][0].startswith("On the site that was left out ")
    assert document["verdict"][-1].startswith("Record next: more like site ")
    assert "On unseen domains" in render_judging(document)
    code, table, err = run(*line)
    assert (code, err) == (0, "")  # nothing is trained again
    assert "Balanced accuracy, % on the site that was left out:" in table


def test_what_the_suite_cannot_take_is_refused_whole(run, student, sites, machines, teacher_checkpoint, tmp_path):
    def refused(*options, model=student):
        code, out, err = run(model, sites.path, *options)
        assert (code, out) == (2, "")
        return err.removeprefix("mmkd-evaluate: ").rstrip("\n")

    shift = ("--suite", "shift")
    assert refused(*shift) == "--suite shift needs -o DIR, the folder for its trainings; add it"
    shift += ("-o", str(tmp_path / "eval"))
    assert refused(*shift, "--by", "plant") == (
        "--by plant: dataset 'sites' has no such metadata; choose one of group, site, single"
    )
    assert refused(*shift, "--by", "site", "--label-fraction", "0") == (
        "--label-fraction 0: expected above 0 and up to 1; 0.1 uses a tenth of the labels"
    )
    for option, value in {"--steps": "4", "--label-fraction": "0.5", "--workers": "2"}.items():
        for suite in ((), ("--suite", "faults"), ("--suite", "all")):
            needs = f"{option} needs --suite shift; add it, or leave {option} out"
            assert refused(*suite, option, value) == needs
    for option, value in {"--fold": "1", "--split": "valid"}.items():
        assert refused(*shift, "--by", "site", option, value) == (
            "--split and --fold have no effect on --suite shift, which judges on each domain; leave them out"
        )
    teacher = write_random_teacher(tmp_path / "teacher.ckpt", teacher_checkpoint, sites, seed=0)
    assert refused(*shift, model=teacher) == (
        "--suite shift: expected a student or a bundle first, got a teacher of acc and gyro; name the teacher by "
        "--against"
    )
    assert not (tmp_path / "eval").exists()
