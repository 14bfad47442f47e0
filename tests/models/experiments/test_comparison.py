"""One fold: fair, finished once, continued where it was; other options are other runs in the same folder."""

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_models.data.folds import Labelled
from mmkd_models.experiments.experiment import Experiment, run
from mmkd_models.experiments.folder import fold_data, spread_in_time
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
def plan(comparison):
    return comparison()


@pytest.fixture(autouse=True)
def _every_step(monkeypatch):
    monkeypatch.setattr("mmkd_models.experiments.workers._REPORT_EVERY_S", 0.0)


@pytest.fixture(scope="module")
def finished(machines, plan, tmp_path_factory):
    """A whole comparison of `acc` on fold 1, uninterrupted."""
    experiment = Experiment(dataset=machines, plan=plan, out=tmp_path_factory.mktemp("comparison") / "out")
    return experiment, run(experiment)


@pytest.fixture
def copy(finished, tmp_path):
    """The finished folder once more, to be changed."""
    return in_folder(finished[0], Path(shutil.copytree(finished[0].out, tmp_path / "out")))


def in_folder(experiment, out):
    return replace(experiment, out=out)


def test_every_network_is_what_its_training_gives_on_the_folds_labels(machines, plan, finished):
    experiment, _ = finished
    data, conditions = fold_data(machines, seed=1, labelled=Labelled(fraction=0.5)).training, plan.conditions
    run = TrainingRun(train=msgspec.structs.replace(conditions.teacher_train, seed=1), augment=conditions.augment)
    teacher = train_teacher(data, teacher_config("tiny"), run)
    kept = read_teacher_file(experiment.teacher_path(1))
    assert same(kept.checkpoint.state, teacher.state)
    student = train_transformer(
        TrainingRequest(data, "acc", student_config("tiny"), run, [kept], plan.space.methods[1].recipe)
    )
    found = read_student(experiment.student_path("acc", 1))
    assert same(found.state, student.state)
    assert found.carried is not None
    assert found.facts.fold == 1


def test_the_baseline_chooses_its_learning_rate_on_validation(machines, plan, finished):
    experiment, result = finished
    data = fold_data(machines, seed=1, labelled=Labelled(fraction=0.5)).training
    tried, conditions = [], plan.conditions
    for rate in plan.space.baseline_learning_rates:
        train = msgspec.structs.replace(conditions.student_train, seed=1, learning_rate=rate)
        run = TrainingRun(train=train, augment=conditions.augment)
        tried.append(train_transformer(TrainingRequest(data, "acc", student_config("tiny"), run)))
    best = max(tried, key=lambda checkpoint: checkpoint.facts.score)  # of equals the first
    assert same(read_student(experiment.baseline_path("acc", 1)).state, best.state)
    baseline = result.baseline("acc")[0].result
    assert (baseline.score, baseline.learning_rate) == (best.facts.score, best.facts.training.learning_rate)


def test_figures_are_those_of_the_kept_networks_on_the_test_windows(machines, finished):
    experiment, result = finished
    test = fold_data(machines, seed=1, labelled=Labelled(fraction=0.5)).test
    for name in ("student", "baseline"):
        network = read_student(getattr(experiment, f"{name}_path")("acc", 1)).network()
        (found,) = getattr(result, name)("acc")
        assert found.test.scores == scores_of(network, test, modality="acc")
        assert found.result.parameters == sum(parameter.numel() for parameter in network.parameters())
        assert [one.group for one in found.test.confusions] == sorted(set(test.groups.tolist()))
        assert sum(np.sum(one.confusion) for one in found.test.confusions) == len(test) == 12
    teacher = read_teacher(experiment.teacher_path(1)).network()
    assert result.teacher()[0].test.scores == scores_of(teacher, test, modality=None)
    assert result.teacher()[0].missing["acc+gyro"] == result.teacher()[0].test.scores.metric("accuracy")
    assert result.folds[1].windows == {"train": 36, "labelled": 18, "valid": 12, "test": 12}


def test_the_same_fold_twice_is_read_and_not_trained(copy, finished):
    assert not list(copy.out.rglob("resume.ckpt"))
    assert not (copy.out / "answers").exists()
    assert list(copy.out.rglob("events.out.tfevents.*"))  # the logs stay
    watch = Watch()
    before = {path: path.stat().st_mtime_ns for path in copy.out.rglob("*") if path.is_file()}
    assert run(copy, progress=watch) == finished[1]
    assert watch.steps == []
    assert {path: path.stat().st_mtime_ns for path in copy.out.rglob("*") if path.is_file()} == before
    for path in copy.out.glob("*/*/missing.json"):
        path.unlink()  # the networks are here, and are not trained again
    assert run(copy, progress=watch) == finished[1]
    assert watch.steps == []


@pytest.mark.parametrize(
    "stage", [*(pytest.param(one, marks=pytest.mark.slow) for one in ("teacher", "baseline")), "student"]
)
def test_an_interrupted_comparison_ends_where_an_uninterrupted_one_does(finished, tmp_path, stage):
    experiment = in_folder(finished[0], tmp_path)
    with pytest.raises(Interrupted):
        run(experiment, progress=Watch(stage, 4))
    watch = Watch()
    assert run(experiment, progress=watch) == finished[1]
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
    experiment = in_folder(finished[0], tmp_path)
    phases = experiment.phases()
    stages = [["teacher", "baseline", "baseline", "rival"], ["student", "taught"], ["fold"] * 3]
    assert [[stage_of(run) for run in phase] for phase in phases] == stages
    with Workers(1) as workers:
        for phase in phases:
            make_runs(workers, phase[::-1])
    assert run(experiment) == finished[1]


@pytest.mark.slow
def test_two_workers_make_the_same_fold(finished, tmp_path):
    experiment, result = finished
    two = msgspec.structs.replace(experiment.plan, workers=2)
    assert run(replace(experiment, plan=two, out=tmp_path)) == replace(result, plan=two)


@pytest.mark.slow
def test_a_fold_with_a_committee_is_judged_by_what_its_members_say_together(machines, comparison, tmp_path):
    members = ("transformer", "convolutions", "trees")
    plan = comparison(committee=members, baseline_learning_rates=(1e-3,))
    experiment = Experiment(dataset=machines, plan=plan, out=tmp_path)
    result = run(experiment)
    teacher, (judged,) = read_teacher(experiment.teacher_path(1)), result.teacher()
    test = fold_data(machines, seed=1, labelled=plan.conditions.labelled).test
    assert judged.test.scores == scores_of(teacher.network(), test, modality=None)
    assert judged.result.parameters == sum(parameter.numel() for parameter in teacher.transformer().parameters())
    assert demo_document(result).teacher.members == members


@pytest.mark.parametrize(
    ("changed", "shared"),
    [
        ({"labelled": Labelled(fraction=0.25)}, set()),
        ({"sensors": ("acc", "gyro")}, {"teacher", "baseline", "student"}),
        ({"teacher": "small"}, {"baseline"}),
        ({"student": "small"}, {"teacher"}),
        ({"committee": ("transformer", "trees")}, {"baseline"}),
    ],
    ids=["labelled", "modalities", "teacher", "student", "members"],
)
def test_other_options_share_what_is_the_same_alone(machines, comparison, finished, changed, shared):
    other = Experiment(dataset=machines, plan=comparison(**changed), out=finished[0].out)
    stages = {stage_of(run) for phase in other.phases() for run in phase if run.is_done()}
    assert stages & {"teacher", "baseline", "student"} == shared


def test_a_damaged_result_is_an_error(copy):
    path = copy.student_path("acc", 1).with_name("result.json")
    path.write_text('{"seed": 1')
    assert said(CheckpointError, run, copy) == (
        f"{path}: expected a result of this release, got a damaged or earlier file (Input data was "
        "truncated); delete it"
    )


def test_a_latency_limit_has_its_own_students_and_holds_for_their_choice(machines, comparison, tmp_path):
    free = Experiment(dataset=machines, plan=comparison(choose=True, members=("transformer",)), out=tmp_path)
    limited = replace(free, limit=LatencyLimit(ms=0.5, measure=lambda student: 0.75))
    assert limited.student_path("acc", 1).parent == Path(f"{free.student_path('acc', 1).parent}-0.5ms")
    assert said(UsageError, run, limited) == (
        "--max-latency-ms 0.5: expected a member that keeps it, got transformer 0.75 ms per window in the native "
        "engine here; raise it, or choose a smaller size"
    )
