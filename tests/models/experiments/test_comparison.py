"""One fold: fair, finished once, continued where it was; other options are other runs in the same folder."""

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_models.data.labelled import Labelled
from mmkd_models.experiments.comparison import Comparison, compare
from mmkd_models.experiments.plan import fold_data, spread_in_time
from mmkd_models.experiments.runs import Progress, make_runs
from mmkd_models.experiments.summary import demo_document
from mmkd_models.experiments.workers import Workers
from mmkd_models.networks.config import student_config, teacher_config
from mmkd_models.training.checkpoint import read_student, read_teacher, read_teacher_file
from mmkd_models.training.inputs import TrainingRequest, TrainingRun
from mmkd_models.training.predict import scores_of
from mmkd_models.training.students import LatencyLimit
from mmkd_models.training.trainings import train_teacher, train_transformer
from tests.edge.said import said
from tests.models.training.looping import Interrupted, same


def stage_of(run):
    folder, name = run.path.parent.name, run.path.name
    if folder == "trials":
        return "baseline" if name.startswith("none-") else "student"
    return "taught" if "distilled_rocket" in name else folder.removesuffix("s")


class Watch(Progress):
    """Notes every step, and interrupts a stage at a number of them."""

    def __init__(self, stage="", stop_at=0):
        super().__init__()
        self.steps: list[tuple[str, int]] = []
        self._stage, self._stop_at = stage, stop_at

    def on_step(self, run, progress):
        self.steps.append((stage_of(run), progress.step))
        if stage_of(run) == self._stage and sum(stage == self._stage for stage, _ in self.steps) == self._stop_at:
            raise Interrupted


@pytest.fixture(scope="module")
def config(comparison):
    return comparison()


@pytest.fixture(autouse=True)
def _every_step(monkeypatch):
    monkeypatch.setattr("mmkd_models.experiments.workers._REPORT_EVERY_S", 0.0)


def fold_of(comparison, seed=1, progress=None):
    with Workers(1) as workers:
        (result,) = compare(comparison, [seed], workers, progress=progress)
    return result


@pytest.fixture(scope="module")
def finished(machines, config, tmp_path_factory):
    """A whole comparison of `acc` on fold 1, uninterrupted."""
    comparison = Comparison(dataset=machines, config=config, out=tmp_path_factory.mktemp("comparison") / "out")
    return comparison, fold_of(comparison)


@pytest.fixture
def copy(finished, tmp_path):
    """The finished folder once more, to be changed."""
    return in_folder(finished[0], Path(shutil.copytree(finished[0].out, tmp_path / "out")))


def in_folder(comparison, out):
    return Comparison(dataset=comparison.dataset, config=comparison.config, out=out)


def test_every_network_is_what_its_training_gives_on_the_folds_labels(machines, config, finished):
    comparison, _ = finished
    data, conditions = fold_data(machines, seed=1, labelled=Labelled(fraction=0.5)).training, config.conditions
    run = TrainingRun(train=msgspec.structs.replace(conditions.teacher_train, seed=1), augment=conditions.augment)
    teacher = train_teacher(data, teacher_config("tiny"), run)
    kept = read_teacher_file(comparison.teacher_path(1))
    assert same(kept.checkpoint.state, teacher.state)
    student = train_transformer(TrainingRequest(data, "acc", student_config("tiny"), run, [kept], config.recipe))
    found = read_student(comparison.student_path("acc", 1))
    assert same(found.state, student.state)
    assert found.carried is not None
    assert found.facts.fold == 1


def test_the_baseline_chooses_its_learning_rate_on_validation(machines, config, finished):
    comparison, result = finished
    data = fold_data(machines, seed=1, labelled=Labelled(fraction=0.5)).training
    tried, conditions = [], config.conditions
    for rate in config.baseline_learning_rates:
        train = msgspec.structs.replace(conditions.student_train, seed=1, learning_rate=rate)
        run = TrainingRun(train=train, augment=conditions.augment)
        tried.append(train_transformer(TrainingRequest(data, "acc", student_config("tiny"), run)))
    best = max(tried, key=lambda checkpoint: checkpoint.facts.score)  # of equals the first
    assert same(read_student(comparison.baseline_path("acc", 1)).state, best.state)
    baseline = result.students["acc"].baseline.result
    assert (baseline.score, baseline.learning_rate) == (best.facts.score, best.facts.training.learning_rate)


def test_figures_are_those_of_the_kept_networks_on_the_test_windows(machines, finished):
    comparison, result = finished
    test = fold_data(machines, seed=1, labelled=Labelled(fraction=0.5)).test
    for name in ("student", "baseline"):
        network = read_student(getattr(comparison, f"{name}_path")("acc", 1)).network()
        found = getattr(result.students["acc"], name)
        assert found.test.scores == scores_of(network, test, modality="acc")
        assert found.result.parameters == sum(parameter.numel() for parameter in network.parameters())
        assert [one.group for one in found.test.confusions] == sorted(set(test.groups.tolist()))
        assert sum(np.sum(one.confusion) for one in found.test.confusions) == len(test) == 12
    teacher = read_teacher(comparison.teacher_path(1)).network()
    assert result.teacher.test.scores == scores_of(teacher, test, modality=None)
    assert result.teacher.missing["acc+gyro"] == result.teacher.test.scores.metric("accuracy")
    assert result.windows == {"train": 36, "labelled": 18, "valid": 12, "test": 12}


def test_the_same_fold_twice_is_read_and_not_trained(copy, finished):
    assert not list(copy.out.rglob("resume.ckpt"))
    assert not (copy.out / "answers").exists()
    assert list(copy.out.rglob("events.out.tfevents.*"))  # the logs stay
    watch = Watch()
    before = {path: path.stat().st_mtime_ns for path in copy.out.rglob("*") if path.is_file()}
    assert fold_of(copy, progress=watch) == finished[1]
    assert watch.steps == []
    assert {path: path.stat().st_mtime_ns for path in copy.out.rglob("*") if path.is_file()} == before
    for path in copy.out.glob("*/*/missing.json"):
        path.unlink()  # the networks are here, and are not trained again
    assert fold_of(copy, progress=watch) == finished[1]
    assert watch.steps == []


@pytest.mark.parametrize(
    "stage", [*(pytest.param(one, marks=pytest.mark.slow) for one in ("teacher", "baseline")), "student"]
)
def test_an_interrupted_comparison_ends_where_an_uninterrupted_one_does(finished, tmp_path, stage):
    comparison = in_folder(finished[0], tmp_path)
    with pytest.raises(Interrupted):
        fold_of(comparison, progress=Watch(stage, 4))
    watch = Watch()
    assert fold_of(comparison, progress=watch) == finished[1]
    assert watch.steps[0] == (stage, 4)  # the last validation was at 3


def test_a_fold_with_labelled_groups_hides_the_labels_of_all_others_and_leaves_validation_as_it_was(machines):
    data, share = (fold_data(machines, seed=1, labelled=one) for one in (Labelled(groups=2), Labelled(fraction=0.5)))
    train = data.training.train
    shown = np.unique(train.groups[train.labelled])
    assert len(shown) == 2
    np.testing.assert_array_equal(train.labelled, np.isin(train.groups, shown))
    np.testing.assert_array_equal(data.training.valid.labels, share.training.valid.labels)
    assert data.training.labelled == Labelled(groups=2)
    assert spread_in_time(data) is None
    judged = spread_in_time(share)
    hidden = int((~share.training.train.labelled).sum())
    assert sum(sum(map(sum, one.confusion)) for one in judged.confusions or ()) == hidden


@pytest.mark.slow
def test_runs_of_a_phase_need_none_of_each_other(finished, tmp_path):
    comparison = in_folder(finished[0], tmp_path)
    phases = comparison.phases([1])
    stages = [["teacher", "baseline", "baseline", "rival"], ["student", "taught"], ["fold"] * 3]
    assert [[stage_of(run) for run in phase] for phase in phases] == stages
    with Workers(1) as workers:
        for phase in phases:
            make_runs(workers, phase[::-1])
    assert fold_of(comparison) == finished[1]


@pytest.mark.slow
def test_two_workers_make_the_same_fold(finished, tmp_path):
    with Workers(2) as workers:
        assert compare(in_folder(finished[0], tmp_path), [1], workers) == [finished[1]]


@pytest.mark.slow
def test_a_fold_with_a_committee_is_judged_by_what_its_members_say_together(machines, comparison, tmp_path):
    members = ("transformer", "convolutions", "trees")
    config = comparison(teacher_members=members, baseline_learning_rates=(1e-3,))
    plan = Comparison(dataset=machines, config=config, out=tmp_path)
    result = fold_of(plan)
    teacher = read_teacher(plan.teacher_path(1))
    test = fold_data(machines, seed=1, labelled=config.conditions.labelled).test
    assert result.teacher.test.scores == scores_of(teacher.network(), test, modality=None)
    sizes = [parameter.numel() for parameter in teacher.transformer().parameters()]
    assert result.teacher.result.parameters == sum(sizes)
    assert demo_document(machines.spec, machines.sha256, [result]).teacher.members == members


@pytest.mark.parametrize(
    ("changed", "shared"),
    [
        ({"labelled": Labelled(fraction=0.25)}, set()),
        ({"modalities": ("acc", "gyro")}, {"teacher", "baseline", "student"}),
        ({"teacher": "small"}, {"baseline"}),
        ({"student": "small"}, {"teacher"}),
        ({"teacher_members": ("transformer", "trees")}, {"baseline"}),
    ],
    ids=["labelled", "modalities", "teacher", "student", "members"],
)
def test_other_options_share_what_is_the_same_alone(machines, comparison, finished, changed, shared):
    other = Comparison(dataset=machines, config=comparison(**changed), out=finished[0].out)
    stages = {stage_of(run) for phase in other.phases([1]) for run in phase if run.is_done()}
    assert stages & {"teacher", "baseline", "student"} == shared


def test_a_damaged_result_is_an_error(copy):
    path = copy.student_path("acc", 1).with_name("result.json")
    path.write_text('{"seed": 1')
    assert said(CheckpointError, fold_of, copy) == (
        f"{path}: expected a result of this release, got a damaged or earlier file (Input data was "
        "truncated); delete it"
    )


def test_a_latency_limit_has_its_own_students_and_holds_for_their_choice(machines, comparison, tmp_path):
    free = Comparison(dataset=machines, config=comparison(choose=True, members=("transformer",)), out=tmp_path)
    limited = replace(free, limit=LatencyLimit(ms=0.5, measure=lambda student: 0.75))
    assert limited.student_path("acc", 1).parent == Path(f"{free.student_path('acc', 1).parent}-0.5ms")
    assert said(UsageError, fold_of, limited) == (
        "--max-latency-ms 0.5: expected a member that keeps it, got transformer 0.75 ms per window in the native "
        "engine here; raise it, or choose a smaller size"
    )
