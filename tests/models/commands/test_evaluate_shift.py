"""`mmkd-evaluate --suite shift`: trained anew in a folder, gone on with after a kill, and refused in whole messages."""

import json
import subprocess
import sys
import time

import pytest

from tests.models.judging_rig import write_random_student, write_random_teacher
from tests.report.rendered import render_judging


@pytest.fixture
def student(sites, student_checkpoint, tmp_path):
    """A student of `acc` with random weights."""
    return write_random_student(tmp_path / "student.ckpt", student_checkpoint, sites)


def line(student, sites, out):
    options = ["--suite", "shift", "--by", "site", "--steps", "4", "--json"]
    return [str(student), str(sites.path), *options, "-o", str(out)]


def started(arguments, log):
    code = "from mmkd_models.commands.evaluate import main; main()"
    with log.open("wb") as out:
        return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=out, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_equal_figures(run, student, sites, tmp_path):
    out, log = tmp_path / "killed", tmp_path / "log"
    process = started(line(student, sites, out), log)
    deadline = time.monotonic() + 300
    while not (teachers := list(out.glob("shift/teachers/tiny-seed1-*/teacher.json"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -9
    assert not list(out.glob("shift/folds/*.json"))
    (teacher,) = teachers
    before = teacher.stat().st_mtime_ns
    code, printed, err = run(*line(student, sites, out))
    assert code == 0, err
    assert "seed 0 teacher" not in err  # it was made before
    assert teacher.stat().st_mtime_ns == before
    code, whole, err = run(*line(student, sites, tmp_path / "whole"))
    assert code == 0, err
    resumed, uninterrupted = json.loads(printed), json.loads(whole)
    assert resumed == uninterrupted
    shift = resumed["suites"]["shift"]["facts"]
    assert [one["name"] for one in shift["domains"]] == ["east", "north", "south"]
    assert list(shift["models"])[:3] == ["teacher", "student", "labels only"]
    assert resumed["verdict"][0].startswith("On the site that was left out ")
    assert resumed["verdict"][-1].startswith("Record next: more like site ")
    page = render_judging(resumed)
    assert "On unseen domains" in page
    again = [word for word in line(student, sites, out) if word != "--json"]
    code, table, err = run(*again)
    assert (code, err) == (0, "")
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
