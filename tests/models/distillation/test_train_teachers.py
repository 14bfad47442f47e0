"""`mmkd-distill` with several teachers, as a command."""

import pytest

from mmkd_edge.errors import MmkdError
from mmkd_export.inspect.files import inspect_file
from mmkd_models.commands.distill import run_distill
from mmkd_models.commands.train import run_train
from mmkd_models.training.checkpoint import file_sha256, read_student


@pytest.fixture(scope="module")
def folder(machines, tmp_path_factory):
    """Teachers of both sensors, of one sensor, and of another seed, each trained for two steps."""
    folder = tmp_path_factory.mktemp("teachers")
    common = [str(machines.path), "--preset", "tiny", "--steps", "2", "--members", "transformer", "--json"]
    for name, options in {"all": (), "gyro": ("--modality", "gyro"), "other": ("--seed", "1")}.items():
        with pytest.raises(SystemExit):
            run_train(["teacher", *common, *options, "-o", str(folder / f"{name}.ckpt")])
    return folder


def distilled(folder, dataset, *options, teachers):
    paths = [str(folder / f"{name}.ckpt") for name in teachers]
    arguments = [*paths, str(dataset.path), "--modality", "acc", "--steps", "2", *options]
    with pytest.raises(SystemExit) as ended:
        run_distill(arguments)
    assert ended.value.code in (0, None)


def test_several_teachers_teach_one_student_that_names_them_all(machines, folder, tmp_path, capsys):
    output = tmp_path / "student.ckpt"
    options = ["--term", "logit", "--term", "edam,member=0", "-o", str(output)]
    distilled(folder, machines, *options, teachers=("all", "gyro", "other"))
    facts = read_student(output).facts
    hashes = tuple(file_sha256(folder / f"{name}.ckpt") for name in ("all", "gyro", "other"))
    assert facts.teachers_sha256 == hashes
    assert inspect_file(output)["teacher"] == ", ".join(hashes)
    assert " edam " in capsys.readouterr().err


def message_of(run, *arguments):
    with pytest.raises(MmkdError) as caught:
        run([str(argument) for argument in arguments])
    return str(caught.value)


def test_what_several_teachers_cannot_do_is_said(machines, dataset, folder):
    every, gyro = folder / "all.ckpt", folder / "gyro.ckpt"
    acc = (machines.path, "--modality", "acc")
    assert message_of(run_distill, every, every, *acc) == (
        "distillation: expected each teacher once, got teacher 0 again as 1; name it once"
    )
    assert message_of(run_distill, every, gyro, *acc, "-o", gyro) == (
        f"--out {gyro}: expected another file than the teacher's, got the same; choose another name"
    )
    assert message_of(run_distill, gyro, *acc, "--fold", 1) == (
        f"teacher {gyro}: expected one that was trained on fold 1, as the student is, got one of the dataset's own "
        "split, which may know windows that judge the student; leave --fold out, or train it anew"
    )
