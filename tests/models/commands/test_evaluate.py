"""`mmkd-evaluate`: its figures against the functions behind them, its refusals, its page and its last line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.commands.evaluate import main as evaluate_main
from mmkd_models.data import Dataset
from mmkd_models.evaluation.missing import (
    MISSING_SHARES,
    logits_by_missing_share,
    scores_by_missing_share,
    scores_by_subset,
)
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.checkpoint import (
    StudentCheckpoint,
    TeacherCheckpoint,
    file_sha256,
    write_student,
    write_teacher,
)
from mmkd_models.training.predict import scores_of
from mmkd_report import render_evaluation

Ran = tuple[object, str, str]
TASK = TaskSpec(labels=("idle", "ok", "worn"))


@pytest.fixture
def run(ran: Callable[..., Ran]) -> Callable[..., Ran]:
    return partial(ran, evaluate_main, "mmkd-evaluate")


@pytest.fixture
def make_student(machines: Dataset, student_checkpoint: StudentCheckpoint, tmp_path: Path) -> Callable[..., Path]:
    """Writes a student of `acc` with random weights."""

    def make(
        name: str,
        *,
        seed: int,
        modality: ModalitySpec | None = None,
        fold: int | msgspec.UnsetType | None = None,
    ) -> Path:
        spec = machines.spec.modality("acc") if modality is None else modality
        torch.manual_seed(seed)
        state = Student(spec, 3, student_checkpoint.config).state_dict()
        facts = msgspec.structs.replace(student_checkpoint.facts, dataset_sha256=machines.sha256, fold=fold)
        path = tmp_path / name
        made = replace(student_checkpoint, modality=spec, task=TASK, facts=facts, state=state, carried=None)
        write_student(path, made)
        return path

    return make


@pytest.fixture
def make_teacher(machines: Dataset, teacher_checkpoint: TeacherCheckpoint, tmp_path: Path) -> Callable[..., Path]:
    """Writes a teacher with random weights."""

    def make(name: str, *, seed: int) -> Path:
        torch.manual_seed(seed)
        state = Teacher(machines.spec.modalities, 3, teacher_checkpoint.config).state_dict()
        path = tmp_path / name
        made = replace(teacher_checkpoint, modalities=machines.spec.modalities, task=TASK, state=state)
        write_teacher(path, made)
        return path

    return make


def plain(scores: object) -> dict[str, float]:
    return {name: getattr(scores, name) for name in ("accuracy", "balanced_accuracy", "macro_f1")}


def test_a_student_is_judged_under_missing_samples_and_bursts(
    run: Callable[..., Ran], make_student: Callable[..., Path], machines: Dataset
) -> None:
    from mmkd_models.training.checkpoint import read_student

    path = make_student("s.ckpt", seed=0)
    code, out, err = run(path, machines.path, "--missing", "--seed", "4", "--json")
    assert code == 0
    assert err.splitlines() == ["everything there", "missing samples", "bursts"]
    found = json.loads(out)
    network, test = read_student(path).network(), machines.split("test")
    assert found["complete"]["scores"] == plain(scores_of(network, test, modality="acc"))
    expected = scores_by_missing_share(network, test, modality="acc", seed=4)
    assert [(one["share"], one["scores"]) for one in found["samples"]] == [
        (share, plain(scores)) for share, scores in expected.items()
    ]
    assert [one["share"] for one in found["bursts"]] == list(MISSING_SHARES)
    assert found["bursts"][0]["scores"] == found["complete"]["scores"]
    assert found["subsets"] == []
    assert found["against"] is None
    assert found["model"]["sha256"] == file_sha256(path)
    assert found["data"] == {
        "name": "machines",
        "sha256": machines.sha256,
        "part": "test windows",
        "windows": 12,
        "groups": 2,
        "split": {"by": "groups", "judged_on": "people and machines never seen", "resampled": "whole groups"},
        "labels": ["idle", "ok", "worn"],
    }


def test_a_teacher_is_judged_under_every_subset_too(
    run: Callable[..., Ran], make_teacher: Callable[..., Path], machines: Dataset
) -> None:
    from mmkd_models.training.checkpoint import read_teacher

    path = make_teacher("t.ckpt", seed=0)
    found = json.loads(run(path, machines.path, "--missing", "--json")[1])
    expected = scores_by_subset(read_teacher(path).network(), machines.split("test"))
    assert [(tuple(one["modalities"]), one["scores"]) for one in found["subsets"]] == [
        (subset, plain(scores)) for subset, scores in expected.items()
    ]
    assert len(found["samples"]) == len(MISSING_SHARES)


def test_two_models_are_compared_under_every_condition(
    run: Callable[..., Ran], make_student: Callable[..., Path], machines: Dataset
) -> None:
    ours, theirs = make_student("ours.ckpt", seed=0), make_student("theirs.ckpt", seed=1)
    arguments = (machines.path, "--missing", "--metric", "accuracy", "--json")
    both = json.loads(run(ours, *arguments, "--against", theirs)[1])
    alone = json.loads(run(theirs, *arguments)[1])
    for part in ("samples", "bursts"):
        assert [one["against"] for one in both[part]] == [one["scores"] for one in alone[part]]
        for one in both[part]:
            difference = 100 * (one["scores"]["accuracy"] - one["against"]["accuracy"])
            assert one["gain"]["points"] == pytest.approx(difference)
            assert one["gain"]["low"] is None  # of two groups
    itself = json.loads(run(ours, *arguments, "--against", ours)[1])
    assert {one["gain"]["points"] for part in ("samples", "bursts") for one in itself[part]} == {0.0}


def test_the_table_has_a_row_for_every_condition_and_the_last_line_the_page(
    run: Callable[..., Ran], make_teacher: Callable[..., Path], machines: Dataset, tmp_path: Path
) -> None:
    path, other, page = make_teacher("t.ckpt", seed=0), make_teacher("other.ckpt", seed=1), tmp_path / "page.html"
    code, out, _ = run(path, machines.path, "--missing", "--against", other, "--page", page)
    assert code == 0
    lines = out.splitlines()
    parameters = sum(parameter.numel() for parameter in torch.nn.Module.parameters(_network(path)))
    assert lines[0] == (
        f"{path}: teacher of acc, gyro, {parameters:,} parameters, on 12 test windows of machines (2 groups)"
    )
    assert lines[1] == f"against {other}, on the same windows with the same gaps"
    starts = ["everything there", "only acc", "only gyro", "10% of the samples missing", "a burst of 90% missing"]
    assert all(any(line.startswith(start) for line in lines) for start in starts)
    assert sum("missing" in line for line in lines) == 12
    assert lines[-4:-1] == [
        "an interval needs 5 groups or more",
        f"caution: {path} was trained on another dataset (SHA-256 abababababab...): this one is a new domain",
        f"caution: {other} was trained on another dataset (SHA-256 abababababab...): this one is a new domain",
    ]
    assert lines[-1] == (f"wrote {page}; next: mmkd-distill {path} {machines.path} --modality acc -o student.ckpt")
    document = json.loads(run(path, machines.path, "--missing", "--against", other, "--json")[1])
    assert page.read_text(encoding="utf-8") == render_evaluation(document)


def _network(path: Path) -> torch.nn.Module:
    from mmkd_models.training.checkpoint import read_teacher

    return read_teacher(path).network()


def test_without_missing_the_plain_scores_are_told_and_what_comes_next(
    run: Callable[..., Ran], make_student: Callable[..., Path], machines: Dataset
) -> None:
    path = make_student("s.ckpt", seed=0)
    code, out, err = run(path, machines.path, "--split", "valid")
    assert (code, err) == (0, "everything there\n")
    lines = out.splitlines()
    assert "on 12 valid windows of machines (2 groups)" in lines[0]
    assert lines[-4].startswith("everything there")
    assert lines[-3] == (
        "no better than chance, so no conclusion is drawn: balanced accuracy 33.3 to 33.3 %, chance 33.3 %"
    )
    assert lines[-2] == f"caution: {path} was chosen by 12 of these 12 windows: its scores flatter it"
    assert lines[-1] == f"next: mmkd-evaluate {path} {machines.path} --missing"


def test_a_fold_is_judged_with_its_own_test_windows(
    run: Callable[..., Ran], make_student: Callable[..., Path], machines: Dataset
) -> None:
    found = json.loads(run(make_student("s.ckpt", seed=0, fold=2), machines.path, "--fold", "2", "--json")[1])
    assert found["data"]["part"] == "test windows of fold 2"
    assert found["data"]["windows"] == 12


def test_a_dataset_that_the_model_was_not_trained_on_is_said_to_be_another(
    run: Callable[..., Ran], make_teacher: Callable[..., Path], machines: Dataset
) -> None:
    path = make_teacher("t.ckpt", seed=0)
    out = run(path, machines.path)[1]
    said = f"{path} was trained on another dataset (SHA-256 abababababab...): this one is a new domain"
    assert f"caution: {said}" in out.splitlines()
    found = json.loads(run(path, machines.path, "--json")[1])
    assert (found["cautions"], found["model"]["seen"]) == ([said], None)


@pytest.mark.parametrize(
    ("fold", "asked", "part", "known", "right", "trained"),
    [
        (0, ("--fold", "3"), "test windows of fold 3", "fold 0", "--fold 0", 12),
        (1, (), "test windows", "fold 1", "--fold 1", 6),  # machine 8 judges fold 1, machine 9 trains
        (None, ("--fold", "3"), "test windows of fold 3", "the dataset's own split", "--split test", 6),
        (None, ("--split", "train"), "train windows", "the dataset's own split", "--split test", 36),
    ],
)
def test_windows_that_trained_the_model_are_refused_and_the_right_ones_named(
    run: Callable[..., Ran],
    make_student: Callable[..., Path],
    machines: Dataset,
    *,
    fold: int | None,
    asked: tuple[str, ...],
    part: str,
    known: str,
    right: str,
    trained: int,
) -> None:
    path = make_student("s.ckpt", seed=0, fold=fold)
    of = 36 if "train" in asked else 12
    refused = (
        f"mmkd-evaluate: {path}: expected windows that did not train it, got {part}, of which {trained} of {of} did: "
        f"it was trained on {known}; use {right}, or --training-windows to score them all the same\n"
    )
    assert run(path, machines.path, *asked) == (2, "", refused)
    assert run(path, machines.path, *right.split())[0] == 0


def test_scores_of_training_windows_say_so_in_table_document_and_page(
    run: Callable[..., Ran], make_student: Callable[..., Path], machines: Dataset, tmp_path: Path
) -> None:
    path, page = make_student("s.ckpt", seed=0, fold=0), tmp_path / "page.html"
    options = ("--fold", "3", "--training-windows")
    said = f"{path} was trained on 12 of these 12 windows: its scores say nothing about new ones"
    code, out, _ = run(path, machines.path, *options, "--page", page)
    assert code == 0
    assert f"caution: {said}" in out.splitlines()
    assert f'<p class="caution">{said}.</p>' in page.read_text(encoding="utf-8")
    found = json.loads(run(path, machines.path, *options, "--json")[1])
    assert found["cautions"] == [said]
    assert found["model"]["seen"] == {"trained": 12, "chosen": 0, "fold": 0}
    assert found["data"]["split"]["judged_on"] == "test windows of fold 3, which trained the model"


def test_a_checkpoint_that_does_not_say_its_fold_opens_and_that_is_said(
    run: Callable[..., Ran], make_student: Callable[..., Path], machines: Dataset
) -> None:
    path = make_student("old.ckpt", seed=0, fold=msgspec.UNSET)
    code, out, _ = run(path, machines.path, "--fold", "3")
    assert code == 0
    assert f"caution: {path} does not say which windows trained it: some of these may have" in out.splitlines()


def test_a_fold_that_there_is_not_is_an_error(
    run: Callable[..., Ran], make_student: Callable[..., Path], machines: Dataset
) -> None:
    path = make_student("s.ckpt", seed=0)
    assert run(path, machines.path, "--fold", "9") == (
        2,
        "",
        "mmkd-evaluate: fold 9: expected 0 to 4, since dataset 'machines' has 5 folds; choose among them\n",
    )


def test_without_groups_the_table_says_what_the_windows_are_and_resamples_blocks(
    run: Callable[..., Ran], student_checkpoint: StudentCheckpoint, dataset: Dataset, tmp_path: Path
) -> None:
    facts = msgspec.structs.replace(student_checkpoint.facts, dataset_sha256=dataset.sha256, fold=None)
    path, spec = tmp_path / "s.ckpt", dataset.spec.modality("acc")
    write_student(path, replace(student_checkpoint, modality=spec, facts=facts, carried=None))
    code, out, _ = run(path, dataset.path, "--against", path)
    assert code == 0
    assert out.splitlines()[0].endswith(
        "on 8 test windows of two (windows of the dataset's own test split; no groups: may share people and machines "
        "with training)"
    )
    assert "an interval needs 5 blocks or more" in out.splitlines()
    found = json.loads(run(path, dataset.path, "--json")[1])["data"]
    assert (found["groups"], found["split"]) == (
        0,
        {
            "by": "own split",
            "judged_on": "windows of the dataset's own test split; no groups: may share people and machines with "
            "training",
            "resampled": "blocks of 6 consecutive windows",
        },
    )
    assert run(path, dataset.path, "--fold", "1")[2] == (
        "mmkd-evaluate: fold 1: expected 0, since dataset 'two' has no groups, so that its own split is its only fold; "
        "to have more, write groups.npy (the person, machine or session of each window)\n"
    )


def test_what_does_not_fit_is_refused(
    run: Callable[..., Ran], make_student: Callable[..., Path], make_teacher: Callable[..., Path], machines: Dataset
) -> None:
    student, teacher = make_student("s.ckpt", seed=0), make_teacher("t.ckpt", seed=0)
    longer = msgspec.structs.replace(machines.spec.modality("acc"), samples=80)
    other = make_student("longer.ckpt", seed=0, modality=longer)

    def refusal(*arguments: object) -> str:
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        return err

    assert refusal(student, machines.path, "--against", teacher) == (
        f"mmkd-evaluate: --against {teacher}: expected a student like {student}, got a teacher; compare a student "
        "with a student, a teacher with a teacher\n"
    )
    assert refusal(other, machines.path) == (
        f"mmkd-evaluate: {other}: student: modality 'acc': expected windows (T, C)=(80, 2) at 20.0 Hz, got (40, 2) at "
        "20.0 Hz; train a student on this dataset\n"
    )
    assert refusal(student, machines.path, "--split", "exam") == (
        "mmkd-evaluate: --split: expected one of train, valid, test, got 'exam'; choose one of them\n"
    )
    assert refusal(student, machines.path, "--metric", "luck") == (
        "mmkd-evaluate: --metric: expected one of accuracy, balanced_accuracy, macro_f1, got 'luck'; choose one of "
        "them\n"
    )


def test_a_page_that_cannot_be_written_ends_the_command_first(
    run: Callable[..., Ran], make_student: Callable[..., Path], machines: Dataset, tmp_path: Path
) -> None:
    student = make_student("s.ckpt", seed=0)
    (tmp_path / "folder.html").mkdir()
    for page, problem in {
        tmp_path / "no" / "p.html": f"cannot be written: there is no directory {tmp_path / 'no'}; make it first",
        tmp_path / "folder.html": "expected the name of an HTML file, got a directory; name a file in it",
        student: "expected a name that ends in .html; only such a file is overwritten",
    }.items():
        assert run(student, machines.path, "--page", page) == (2, "", f"mmkd-evaluate: --page {page}: {problem}\n")


def test_a_file_that_is_no_checkpoint_is_refused(run: Callable[..., Ran], machines: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "student.edge"
    path.write_bytes(b"PK\x03\x04 and so on")
    code, out, err = run(path, machines.path)
    assert (code, out) == (6, "")
    assert err.startswith(f"mmkd-evaluate: {path}: expected a safetensors checkpoint of mmkd-edge, got a pickle")


def test_a_burst_is_one_span_of_the_length_that_is_said(
    machines: Dataset, student_checkpoint: StudentCheckpoint
) -> None:
    torch.manual_seed(0)
    student = Student(machines.spec.modality("acc"), 3, student_checkpoint.config).eval()
    seen: list[np.ndarray] = []
    student.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1].numpy().copy()))
    windows = machines.everything()
    logits_by_missing_share(student, windows, modality="acc", seed=0, shares=(0.0, 0.25, 0.9), loss="burst")
    whole, quarter, most = seen
    for present, length in ((quarter, 10), (most, 36)):
        starts = set()
        for before, after in zip(whole, present, strict=True):
            gone = np.flatnonzero((after < before).any(-1))
            span = np.arange(gone[0], gone[-1] + 1)
            assert len(span) <= length  # samples at its ends may have been missing before
            assert not after[span].any()
            starts.add(int(gone[0]))
        assert len(starts) > 3
    assert np.array_equal(whole[:, :, 0] > 0, ~np.isnan(windows.take(np.arange(len(windows)))["acc"][:, :, 0]))
