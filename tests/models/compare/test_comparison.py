"""One fold: fair, finished once, continued where it was, refused where it is another's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_models.compare.comparison import choose_teacher, compare_fold, make_part, parts_of, teacher_path
from mmkd_models.compare.fold_result import ComparisonConfig, FoldResult
from mmkd_models.compare.one_fold import ComparisonProgress, fold_data, spread_in_time
from mmkd_models.compare.summary import demo_document
from mmkd_models.data import Dataset
from mmkd_models.data.labelled import Labelled
from mmkd_models.networks.config import Preset, student_config, teacher_config
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.checkpoint import (
    TeacherCheckpoint,
    file_sha256,
    read_student,
    read_teacher,
    write_student,
    write_teacher,
)
from mmkd_models.training.inputs import TrainingRun
from mmkd_models.training.predict import scores_of
from mmkd_models.training.trainings import distil, self_train, train_baseline, train_teacher

Make = Callable[..., ComparisonConfig]
OTHER = (
    "expected a fold of this dataset with these options, got one of another comparison; "
    "choose another --out, or delete the folder"
)


class Interrupted(Exception):  # noqa: N818 - not an error of the code under test
    pass


@pytest.fixture(scope="module")
def config(comparison: Make) -> ComparisonConfig:
    return comparison()


@pytest.fixture(scope="module")
def finished(
    machines: Dataset, config: ComparisonConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, FoldResult]:
    """A whole comparison of `acc` on fold 1, uninterrupted."""
    out = tmp_path_factory.mktemp("comparison") / "seed-1"
    return out, compare_fold(machines, seed=1, config=config, out=out)


@pytest.fixture
def copy(finished: tuple[Path, FoldResult], tmp_path: Path) -> Path:
    """The finished folder once more, to be changed."""
    return Path(shutil.copytree(finished[0], tmp_path / "seed-1"))


def no_training(step: ComparisonProgress) -> None:
    assert step.progress is None, f"{step.stage} was trained again"


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_a_fold_shares_no_group_between_its_parts(machines: Dataset) -> None:
    for seed in range(5):
        data = fold_data(machines, seed=seed, labelled=Labelled(share=0.5))
        groups = [set(part.groups) for part in (data.training.train, data.training.valid, data.test)]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 10


def test_hidden_labels_are_minus_one_and_nobody_elses(machines: Dataset) -> None:
    data = fold_data(machines, seed=1, labelled=Labelled(share=0.5))
    train = data.training.train
    truth = machines.everything().labels[train.rows]
    assert [int((train.labels == label).sum()) for label in (0, 1, 2, -1)] == [6, 6, 6, 18]
    assert np.array_equal(train.labels, np.where(train.labels < 0, -1, truth))
    assert (data.training.valid.labels >= 0).all()
    assert (data.test.labels >= 0).all()
    assert np.array_equal(train.labels, fold_data(machines, seed=1, labelled=Labelled(share=0.5)).training.train.labels)


def test_every_network_is_what_its_training_gives_on_the_folds_labels(
    machines: Dataset, config: ComparisonConfig, finished: tuple[Path, FoldResult]
) -> None:
    out, _ = finished
    data = fold_data(machines, seed=1, labelled=Labelled(share=0.5)).training
    run = TrainingRun(train=msgspec.structs.replace(config.teacher_train, seed=1), augment=config.augment)
    teacher = self_train(data, train_teacher(data, teacher_config("tiny"), run), run)
    kept = read_teacher(teacher_path(out, "tiny"))
    assert same(kept.state, teacher.state)
    student = distil(
        data,
        "acc",
        student_config("tiny"),
        run,
        teacher=kept,
        teacher_sha256=file_sha256(teacher_path(out, "tiny")),
        recipe=config.recipe,
    )
    assert same(read_student(out / "acc" / "student.ckpt").state, student.state)


def test_the_baseline_chooses_its_learning_rate_on_validation(
    machines: Dataset, config: ComparisonConfig, finished: tuple[Path, FoldResult]
) -> None:
    out, result = finished
    data = fold_data(machines, seed=1, labelled=Labelled(share=0.5)).training
    tried = []
    for rate in config.baseline_learning_rates:
        train = msgspec.structs.replace(config.student_train, seed=1, learning_rate=rate)
        tried.append(
            train_baseline(data, "acc", student_config("tiny"), TrainingRun(train=train, augment=config.augment))
        )
    best = max(tried, key=lambda checkpoint: checkpoint.facts.score)  # of equals the first
    assert same(read_student(out / "acc" / "baseline.ckpt").state, best.state)
    baseline = result.students["acc"].baseline
    assert (baseline.valid_score, baseline.learning_rate) == (best.facts.score, best.facts.training.learning_rate)


def test_figures_are_those_of_the_kept_networks_on_the_test_windows(
    machines: Dataset, finished: tuple[Path, FoldResult]
) -> None:
    out, result = finished
    test = fold_data(machines, seed=1, labelled=Labelled(share=0.5)).test
    for name in ("student", "baseline"):
        network = read_student(out / "acc" / f"{name}.ckpt").network()
        found = getattr(result.students["acc"], name)
        assert found.scores == scores_of(network, test, modality="acc")
        assert found.parameters == sum(parameter.numel() for parameter in network.parameters())
        assert [count.group for count in found.by_group] == sorted(set(test.groups.tolist()))
        assert sum(count.windows for count in found.by_group) == len(test) == 12
        assert sum(count.right for count in found.by_group) == round(12 * found.scores.accuracy)
    teacher = read_teacher(teacher_path(out, "tiny")).network()
    assert result.teacher.scores == scores_of(teacher, test, modality=None)
    assert result.teacher_subsets[0].figure == result.teacher.scores.metric("accuracy")
    assert result.windows == {"train": 36, "labelled": 18, "valid": 12, "test": 12}


def test_the_same_fold_twice_is_read_and_not_trained(
    machines: Dataset, config: ComparisonConfig, finished: tuple[Path, FoldResult]
) -> None:
    def never(step: ComparisonProgress) -> None:
        raise AssertionError("a finished fold was worked on")

    out, result = finished
    before = (out / "fold.json").read_bytes()
    assert compare_fold(machines, seed=1, config=config, out=out, on_step=never) == result
    assert (out / "fold.json").read_bytes() == before


def test_a_finished_fold_keeps_no_resume_state(finished: tuple[Path, FoldResult]) -> None:
    out, _ = finished
    assert not list(out.rglob("resume.ckpt"))
    assert list(out.rglob("events.out.tfevents.*"))  # the logs stay


def test_finished_networks_are_not_trained_again(
    machines: Dataset, config: ComparisonConfig, finished: tuple[Path, FoldResult], copy: Path
) -> None:
    (copy / "fold.json").unlink()
    assert compare_fold(machines, seed=1, config=config, out=copy, on_step=no_training) == finished[1]


@pytest.mark.parametrize("stage", ["teacher", "baseline", "student"])
def test_an_interrupted_comparison_ends_where_an_uninterrupted_one_does(
    machines: Dataset, config: ComparisonConfig, finished: tuple[Path, FoldResult], tmp_path: Path, stage: str
) -> None:
    def interrupt(step: ComparisonProgress) -> None:
        if step.stage == stage and step.progress is not None and step.progress.step == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        compare_fold(machines, seed=1, config=config, out=tmp_path, on_step=interrupt)
    seen: list[tuple[str, int]] = []

    def note(step: ComparisonProgress) -> None:
        if step.progress is not None:
            seen.append((step.stage, step.progress.step))

    assert compare_fold(machines, seed=1, config=config, out=tmp_path, on_step=note) == finished[1]
    assert seen[0] == (stage, 4)  # the last validation was at 3


def test_a_fold_with_labelled_groups_hides_the_labels_of_all_others_and_leaves_validation_as_it_was(
    machines: Dataset,
) -> None:
    data, share = (fold_data(machines, seed=1, labelled=one) for one in (Labelled(groups=2), Labelled(share=0.5)))
    train = data.training.train
    shown = np.unique(train.groups[train.labelled])
    assert len(shown) == 2
    np.testing.assert_array_equal(train.labelled, np.isin(train.groups, shown))
    np.testing.assert_array_equal(data.training.valid.labels, share.training.valid.labels)
    assert data.training.labelled == Labelled(groups=2)
    assert spread_in_time(data, Labelled(groups=2)) is msgspec.UNSET
    judged = spread_in_time(share, Labelled(share=0.5))
    assert judged is not msgspec.UNSET
    hidden = int((~share.training.train.labelled).sum())
    assert sum(sum(map(sum, one.confusion)) for one in judged.confusions or ()) == hidden


def test_a_fold_that_is_made_in_parts_is_the_same_fold(
    machines: Dataset, config: ComparisonConfig, finished: tuple[Path, FoldResult], tmp_path: Path
) -> None:
    phases = parts_of(machines, seed=1, config=config, out=tmp_path)
    assert [[(part.stage, part.modality, part.block) for part in phase] for phase in phases] == [
        [("teacher", None, None), ("baseline", "acc", None), ("rivals", "acc", None)],
        [("answers", None, 0), ("answers", None, 1), ("answers", None, 2), ("answers", None, 3)],
        [("student", "acc", None), ("taught", "acc", None)],
    ]
    for phase in phases:
        for part in reversed(phase):  # none needs another of its phase
            make_part(machines, part, lambda step: None)
    left = [[part.stage for part in phase] for phase in parts_of(machines, seed=1, config=config, out=tmp_path)]
    assert left in ([[], [], []], [["rivals"], [], ["taught"]])  # MiniRocket may not be installed
    assert compare_fold(machines, seed=1, config=config, out=tmp_path, on_step=no_training) == finished[1]
    assert parts_of(machines, seed=1, config=config, out=tmp_path) == ((), (), ())


def test_a_student_learns_from_answers_that_were_kept_in_blocks(
    machines: Dataset, config: ComparisonConfig, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "acc" / "student.ckpt").unlink()
    (copy / "fold.json").unlink()
    _, answers, (student, *_) = parts_of(machines, seed=1, config=config, out=copy)
    for part in answers:
        make_part(machines, part, lambda step: None)
    asked = 0

    def count(self: Teacher, *arguments: Any, **options: Any) -> Any:
        nonlocal asked
        asked += len(next(iter(arguments[0].values()))[0]) > 1  # one window shows what a teacher gives
        return forward(self, *arguments, **options)

    forward = Teacher.forward
    monkeypatch.setattr(Teacher, "forward", count)
    make_part(machines, student, lambda step: None)
    assert asked == 0


def test_a_fold_with_a_committee_is_judged_by_what_its_members_say_together(
    machines: Dataset, comparison: Make, tmp_path: Path
) -> None:
    members = ("transformer", "rocket", "trees")
    config = comparison(members=members, self_training=False, baseline_learning_rates=(1e-3,))
    result = compare_fold(machines, seed=1, config=config, out=tmp_path)
    teacher = read_teacher(tmp_path / "teacher-tiny.ckpt")
    test = fold_data(machines, seed=1, labelled=config.labelled).test
    assert result.teacher.scores == scores_of(teacher.network(), test, modality=None)
    assert result.teacher.parameters == sum(parameter.numel() for parameter in teacher.transformer().parameters())
    assert compare_fold(machines, seed=1, config=config, out=tmp_path, on_step=no_training) == result
    demo = demo_document(machines.spec, machines.sha256, [result])
    assert demo.teacher.members == members


def test_a_rocket_taught_by_a_teacher_of_another_size_is_another_one(
    machines: Dataset, config: ComparisonConfig, copy: Path
) -> None:
    (copy / "fold.json").unlink()
    kept = rivals_kept(copy / "acc" / "rivals-tiny.json")
    left = {}
    for size in ("tiny", "small"):
        _, _, last = parts_of(machines, seed=1, config=msgspec.structs.replace(config, teacher=size), out=copy)
        left[size] = [part.stage for part in last]
    assert left == {"tiny": [] if kept else ["taught"], "small": ["taught"]}


def rivals_kept(path: Path) -> bool:
    """MiniRocket may not be installed."""
    return path.exists() and "taught_rocket" in path.read_text()


def test_damaged_scores_of_rivals_are_told(machines: Dataset, config: ComparisonConfig, copy: Path) -> None:
    (copy / "fold.json").unlink()
    path = copy / "acc" / "rivals.json"
    path.write_text("{")
    with pytest.raises(CheckpointError) as caught:
        compare_fold(machines, seed=1, config=config, out=copy)
    assert str(caught.value) == (
        f"{path}: expected scores of rivals, got a damaged file (Input data was truncated); delete it"
    )


@pytest.mark.slow
def test_the_teacher_answers_the_batches_of_a_fold_once_for_all_its_students(
    machines: Dataset, comparison: Make, tmp_path: Path
) -> None:
    kept: list[int] = []

    def count(step: ComparisonProgress) -> None:
        if step.stage == "rivals":
            kept.append(len(list((tmp_path / "answers").glob("*"))))

    config = comparison(modalities=("acc", "gyro"), baseline_learning_rates=(1e-3,), self_training=False)
    compare_fold(machines, seed=1, config=config, out=tmp_path, on_step=count)
    assert kept == [1, 1]  # after each student's training: the second one kept none of its own
    assert not (tmp_path / "answers").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"label_share": 0.25},
        {"modalities": ("acc", "gyro")},
        {"teacher": "small"},
        {"student": "small"},
        {"self_training": False},
        {"baseline_learning_rates": (1e-3,)},
        {"members": ("transformer", "trees")},
    ],
)
def test_a_finished_fold_of_other_options_is_refused(
    machines: Dataset, comparison: Make, finished: tuple[Path, FoldResult], changed: dict[str, Any]
) -> None:
    out, _ = finished
    with pytest.raises(UsageError) as caught:
        compare_fold(machines, seed=1, config=comparison(**changed), out=out)
    assert str(caught.value) == f"{out / 'fold.json'}: {OTHER}"
    if "teacher" not in changed:
        with pytest.raises(UsageError) as caught:  # before other folds are trained
            parts_of(machines, seed=1, config=comparison(**changed), out=out)
        assert str(caught.value) == f"{out / 'comparison.json'}: {OTHER}"


def test_labels_alone_that_have_beaten_another_teacher_are_refused(
    machines: Dataset, config: ComparisonConfig, copy: Path
) -> None:
    (copy / "fold.json").unlink()
    path = copy / "acc" / "student.ckpt"
    student, ours = read_student(path), file_sha256(teacher_path(copy, config.teacher))
    for beaten in ("ab" * 32, ours):
        facts = msgspec.structs.replace(student.facts, teacher_sha256=None, beaten_teachers_sha256=(beaten,))
        write_student(path, replace(student, facts=facts))
        if beaten == ours:
            compare_fold(machines, seed=1, config=config, out=copy, on_step=no_training)
        else:
            with pytest.raises(UsageError) as caught:
                compare_fold(machines, seed=1, config=config, out=copy, on_step=no_training)
            assert str(caught.value) == f"{path}: {OTHER}"


def test_a_finished_fold_of_another_seed_is_refused(
    machines: Dataset, config: ComparisonConfig, finished: tuple[Path, FoldResult]
) -> None:
    with pytest.raises(UsageError) as caught:
        compare_fold(machines, seed=2, config=config, out=finished[0])
    assert str(caught.value) == f"{finished[0] / 'fold.json'}: {OTHER}"


def test_an_unfinished_fold_of_other_options_is_refused_and_left_alone(
    machines: Dataset, comparison: Make, copy: Path
) -> None:
    (copy / "fold.json").unlink()
    shutil.rmtree(copy / "acc")  # the teacher alone was trained, with half of the labels
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(UsageError) as caught:
        compare_fold(machines, seed=1, config=comparison(label_share=0.25), out=copy, on_step=no_training)
    assert str(caught.value) == f"{copy / 'comparison.json'}: {OTHER}"
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_an_unfinished_fold_of_another_dataset_is_refused(
    machines: Dataset, dataset: Dataset, config: ComparisonConfig, copy: Path
) -> None:
    (copy / "fold.json").unlink()
    with pytest.raises(UsageError) as caught:
        compare_fold(dataset, seed=1, config=config, out=copy, on_step=no_training)
    assert str(caught.value) == f"{copy / 'comparison.json'}: {OTHER}"


def test_a_student_of_another_teacher_is_refused(machines: Dataset, config: ComparisonConfig, copy: Path) -> None:
    (copy / "fold.json").unlink()
    teacher = read_teacher(teacher_path(copy, "tiny"))
    write_teacher(teacher_path(copy, "tiny"), changed_score(teacher, 0.125))
    with pytest.raises(UsageError) as caught:
        compare_fold(machines, seed=1, config=config, out=copy, on_step=no_training)
    assert str(caught.value) == f"{copy / 'acc' / 'student.ckpt'}: {OTHER}"


def test_a_damaged_result_is_no_finished_fold(machines: Dataset, config: ComparisonConfig, copy: Path) -> None:
    (copy / "fold.json").write_text('{"seed": 1')
    with pytest.raises(CheckpointError) as caught:
        compare_fold(machines, seed=1, config=config, out=copy)
    assert str(caught.value) == (
        f"{copy / 'fold.json'}: expected a finished fold, got a damaged file (Input data was truncated); delete it"
    )


def test_a_damaged_claim_is_told(machines: Dataset, config: ComparisonConfig, copy: Path) -> None:
    (copy / "fold.json").unlink()
    claim = json.loads((copy / "comparison.json").read_text())
    (copy / "comparison.json").write_text(json.dumps({**claim, "seed": "one"}))
    with pytest.raises(CheckpointError) as caught:
        compare_fold(machines, seed=1, config=config, out=copy)
    assert str(caught.value) == (
        f"{copy / 'comparison.json'}: expected the options of a comparison, got a damaged file "
        "(Expected `int`, got `str` - at `$.seed`); delete the folder"
    )


def changed_score(teacher: TeacherCheckpoint, score: float) -> TeacherCheckpoint:
    facts = msgspec.structs.replace(teacher.facts, score=score)
    return TeacherCheckpoint(
        modalities=teacher.modalities, task=teacher.task, config=teacher.config, facts=facts, state=teacher.state
    )


def trained_teachers(dataset: Dataset, folder: Path, scores: Mapping[Preset, Sequence[float]], like: Path) -> None:
    """Puts finished teachers of these sizes with these scores into the folders of folds 0, 1..."""
    known = read_teacher(like)
    for preset, of_seeds in scores.items():
        size = teacher_config(preset)
        state = Teacher(dataset.spec.modalities, 3, size).state_dict()
        for seed, score in enumerate(of_seeds):
            teacher = TeacherCheckpoint(
                modalities=dataset.spec.modalities, task=known.task, config=size, facts=known.facts, state=state
            )
            write_teacher(teacher_path(folder / str(seed), preset), changed_score(teacher, score))


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ({"tiny": (0.7451,), "small": (0.75,)}, "tiny"),  # within half a point of the best
        ({"tiny": (0.7449,), "small": (0.75,)}, "small"),
        ({"small": (0.75,), "tiny": (0.7451,)}, "tiny"),  # in whatever order they were named
        ({"tiny": (0.8, 0.7), "small": (0.7, 0.82)}, "small"),  # by the mean over folds: 0.75 and 0.76
        ({"tiny": (0.8,), "small": (0.75,)}, "tiny"),
    ],
)
def test_the_smallest_teacher_within_half_a_point_of_the_best_is_chosen(
    machines: Dataset,
    config: ComparisonConfig,
    finished: tuple[Path, FoldResult],
    tmp_path: Path,
    scores: dict[Preset, tuple[float, ...]],
    chosen: str,
) -> None:
    trained_teachers(machines, tmp_path, scores, teacher_path(finished[0], "tiny"))
    seeds = range(len(next(iter(scores.values()))))
    tried = choose_teacher(
        machines,
        seeds=seeds,
        presets=list(scores),
        config=config,
        folder=lambda seed: tmp_path / str(seed),
        on_step=no_training,
    )
    assert [size.preset for size in tried if size.chosen] == [chosen]
    assert [(size.preset, size.valid_score.per_seed if size.valid_score else None) for size in tried] == list(
        scores.items()
    )
    parameters = {size.preset: size.parameters or 0 for size in tried}
    assert parameters["tiny"] < parameters["small"]


def test_a_single_size_is_chosen_without_training(machines: Dataset, config: ComparisonConfig, tmp_path: Path) -> None:
    (tried,) = choose_teacher(
        machines, seeds=[0], presets=["small"], config=config, folder=lambda seed: tmp_path / "new", on_step=no_training
    )
    assert (tried.preset, tried.parameters, tried.valid_score, tried.chosen) == ("small", None, None, True)
    assert not (tmp_path / "new").exists()


def test_a_size_is_not_tried_in_the_folder_of_another_comparison(
    machines: Dataset, comparison: Make, copy: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        choose_teacher(
            machines,
            seeds=[1],
            presets=["tiny", "small"],
            config=comparison(label_share=0.25),
            folder=lambda seed: copy,
            on_step=no_training,
        )
    assert str(caught.value) == f"{copy / 'comparison.json'}: {OTHER}"


def test_the_size_that_was_tried_is_found_by_the_comparison(
    machines: Dataset, config: ComparisonConfig, finished: tuple[Path, FoldResult], copy: Path
) -> None:
    (copy / "fold.json").unlink()
    tried = choose_teacher(machines, seeds=[1], presets=["small", "tiny"], config=config, folder=lambda seed: copy)
    assert {size.preset for size in tried} == {"small", "tiny"}
    assert compare_fold(machines, seed=1, config=config, out=copy, on_step=no_training) == finished[1]


def test_a_baseline_without_learning_rates_is_refused(machines: Dataset, comparison: Make, copy: Path) -> None:
    for path in (copy / "fold.json", copy / "comparison.json", copy / "acc" / "baseline.ckpt"):
        path.unlink()
    with pytest.raises(UsageError) as caught:
        compare_fold(machines, seed=1, config=comparison(baseline_learning_rates=()), out=copy)
    assert str(caught.value) == "baseline: expected one or more learning rates, got none; name some"
