"""Kept answers of teachers, and several teachers as a command."""

from dataclasses import replace

import pytest
import torch

from mmkd_app.commands.distill import run_distill
from mmkd_edge.errors import MmkdError
from mmkd_export.inspect.files import inspect_file
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.distillation.answers import AnswerMemory
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.contrast import CrdTerm
from mmkd_models.losses.features import FeatureTerm
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.task import TaskTerm
from mmkd_models.losses.term import Weight, constant
from mmkd_models.networks.teacher import TeacherOutput
from mmkd_models.tensors import read_tensors, write_tensors
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import TeacherFile, file_sha256, read_student
from mmkd_models.training.inputs import TrainingRequest, TrainingRun
from mmkd_models.training.trainings import train_teacher, train_transformer
from tests.edge.said import said
from tests.models.conftest import STUDENT, TEACHER, data_of
from tests.models.judging_rig import write_random_teacher

RUN = TrainingRun(train=TrainConfig(steps=4, batch=8, eval_every=2, seed=3), augment=AugmentConfig())
ONE = constant(1.0)
LOGIT, TASK = LogitTerm(weight=ONE), TaskTerm(weight=ONE)


@pytest.fixture(scope="module")
def data(machines):
    return data_of(machines)


@pytest.fixture(scope="module")
def teacher(data):
    return train_teacher(data, TEACHER, RUN)


def distilled(data, teacher, run, *terms):
    recipe = Recipe(terms=terms)
    return train_transformer(
        TrainingRequest(data, "acc", STUDENT, run, [TeacherFile(checkpoint=teacher, sha256="ab" * 32)], recipe)
    )


def is_same(one, other):
    return all(torch.equal(one.state[name], other.state[name]) for name in one.state)


def turned(path):
    """Writes a memory in which the teacher says the contrary."""
    tensors, document = read_tensors(path, kind="answers")
    contrary = {name: -tensor if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    write_tensors(path, contrary, kind="answers", document=document)


@pytest.mark.parametrize(
    "terms",
    [
        pytest.param((LOGIT,), marks=pytest.mark.slow),
        (TASK, LOGIT, CrdTerm(weight=ONE, width=4, queue=4)),
        pytest.param((TASK, FeatureTerm(weight=ONE, level="embedding")), marks=pytest.mark.slow),
        # Attention is read in the first half: the second half may come from a memory, the first one never does.
        (TASK, LOGIT, EdamTerm(weight=Weight(start=1.0, end=0.0, until=0.5))),
    ],
    ids=["outputs", "queue", "embedding", "attention"],
)
def test_weights_are_bit_equal_with_kept_answers_and_without(data, teacher, tmp_path, terms):
    kept = replace(RUN, answers=tmp_path)
    plain = distilled(data, teacher, RUN, *terms)
    distilled(data, teacher, kept, *(term for term in terms if not isinstance(term, EdamTerm)))
    assert len(list(tmp_path.iterdir())) == 1
    assert is_same(distilled(data, teacher, kept, *terms), plain)
    turned(next(tmp_path.iterdir()))
    assert not is_same(distilled(data, teacher, kept, *terms), plain)  # so it was read


def test_a_damaged_memory_is_not_believed_and_made_anew(data, teacher, tmp_path):
    kept = replace(RUN, answers=tmp_path)
    plain = distilled(data, teacher, kept, LOGIT)
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + b"\0" * 8)
    assert is_same(distilled(data, teacher, kept, LOGIT), plain)
    assert path.read_bytes() == whole


def test_a_part_of_the_steps_is_not_kept(tmp_path):
    memory = AnswerMemory(tmp_path, {"of": "a resumed training"}, steps=2)
    answer = TeacherOutput(logits=torch.zeros(2, 3), embedding=torch.ones(2, 4))
    memory.keep(1, [answer])
    memory.keep(None, [answer])
    memory.write()
    assert memory.recall(1, torch.device("cpu")) is None
    assert list(tmp_path.iterdir()) == []
    memory.keep(0, [answer])
    memory.write()
    again = AnswerMemory(tmp_path, {"of": "a resumed training"}, steps=2)
    assert torch.equal(again.recall(1, torch.device("cpu"))[0].embedding, answer.embedding)
    assert again.recall(None, torch.device("cpu")) is None


@pytest.fixture(scope="module")
def folder(machines, teacher_checkpoint, tmp_path_factory):
    """Teachers of both sensors, of one sensor, and of other weights."""
    folder, gyro = tmp_path_factory.mktemp("teachers"), (machines.spec.modality("gyro"),)
    facts = {"dataset_sha256": machines.sha256, "fold": None}
    for seed, (name, modalities) in enumerate({"all": None, "gyro": gyro, "other": None}.items()):
        write_random_teacher(folder / f"{name}.ckpt", teacher_checkpoint, machines, modalities, seed=seed, **facts)
    return folder


def test_several_teachers_teach_one_student_that_names_them_all(machines, folder, tmp_path, capsys):
    output, paths = tmp_path / "student.ckpt", [folder / f"{name}.ckpt" for name in ("all", "gyro", "other")]
    options = ["--steps", "2", "--no-choose", "--term", "logit", "--term", "edam,member=0", "-o", output]
    with pytest.raises(SystemExit, match="0"):
        run_distill([str(word) for word in (*paths, machines.path, "--modality", "acc", *options)])
    hashes = tuple(map(file_sha256, paths))
    assert read_student(output).facts.teachers_sha256 == hashes
    assert inspect_file(output)["teacher"] == ", ".join(hashes)
    assert " edam " in capsys.readouterr().err


def refusal(*arguments):
    return said(MmkdError, run_distill, [str(argument) for argument in arguments])


def test_what_several_teachers_cannot_do_is_said(machines, folder):
    every, gyro = folder / "all.ckpt", folder / "gyro.ckpt"
    acc = (machines.path, "--modality", "acc", "-o", folder / "student.ckpt")
    assert refusal(every, every, *acc) == (
        "distillation: expected each teacher once, got teacher 0 again as 1; name it once"
    )
    assert refusal(every, gyro, *acc[:-1], gyro) == (
        f"--out {gyro}: expected another file than the teacher's, got the same; choose another name"
    )
    assert refusal(gyro, *acc, "--fold", 1) == (
        f"teacher {gyro}: expected one that was trained on fold 1, as the student is, got one of the dataset's own "
        "split, which may know windows that judge the student; leave --fold out, or train it anew"
    )
