"""Whole studies on a small dataset: shared, resumed, chosen by validation, tested once, within limits."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import study_cases as cases

from mmkd_documents.study import PairLatency, StudyDocument
from mmkd_edge.errors import PerformanceError, UsageError
from mmkd_models.data.folds import Labelled
from mmkd_models.experiments.folder import Folder, fold_data
from mmkd_models.experiments.plan import Candidate, Entry, Search, TeacherChoice, Trial
from mmkd_models.experiments.runs import run_trial, trial_result
from mmkd_models.experiments.study import study, study_seeds
from mmkd_models.training.checkpoint import file_sha256, read_student
from mmkd_models.training.predict import scores_of
from tests.edge.said import said

STUDY = """
import sys
from pathlib import Path
import msgspec, torch
from mmkd_models.data import open_dataset
from mmkd_models.experiments.experiment import train
from mmkd_models.experiments.plan import ExperimentPlan
from mmkd_models.experiments.study import prepare_study
torch.set_num_threads(1)
plan = msgspec.json.decode(sys.stdin.read(), type=ExperimentPlan)
train(prepare_study(open_dataset(sys.argv[1]), plan, out=Path(sys.argv[2])).experiment)
"""


def started(dataset, out):
    """A study as a process of its own, as on another host."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", STUDY, str(dataset.path), str(out)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    process.stdin.write(msgspec.json.encode(cases.grid(dataset)))
    process.stdin.close()
    return process


def wait_for(condition):
    end = time.monotonic() + 600.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def grid(machines, tmp_path_factory):
    """A grid on two seeds, in this process."""
    out = tmp_path_factory.mktemp("study") / "grid"
    return out, study(machines, cases.grid(machines), out=out)


@pytest.fixture(scope="module")
def searched(machines, tmp_path_factory):
    """A search of three candidates among six, of which two entries are trained on the seed that counts."""
    out = tmp_path_factory.mktemp("study") / "searched"
    methods = cases.methods("none", "logit", "logit+task", "edam@last")
    space = cases.space(methods=methods, students=("tiny", "small"), learning_rates=(1e-3,))
    options = cases.grid(machines, space=space, seeds=(2,), search=Search(seeds=(0,), trials=3, finalists=2))
    return out, study(machines, options, out=out, measure_latency=latency)


def latency(student, teacher):
    """Latencies by size, as if they had been measured."""
    size = read_student(student).config.preset
    assert teacher.exists()
    own = {"tiny": 1.0, "small": 3.0}[size]
    return PairLatency(student_ms=dict.fromkeys(("p50", "p99"), own), teacher_ms={"p50": 6.0}, ratio=6.0 / own)


def trained_on(machines, out, space=None):
    return Folder(out=out, dataset=machines, conditions=cases.conditions(machines), space=space or cases.space())


def test_a_grid_trains_everything_once(machines, grid):
    out, document = grid
    assert set(cases.starts(out).values()) == {1}
    assert len(list(out.glob("trials/*/result.json"))) == 2 * 2 * 2
    assert document.coverage.complete
    assert (document.coverage.finished, document.coverage.expected) == (8, 8)
    assert len(list(out.glob("trials/*/test.json"))) == 2 * 2  # entries and seeds, not learning rates
    written = msgspec.json.decode((out / "study.json").read_bytes(), type=StudyDocument)
    assert msgspec.structs.replace(written, duration_s=document.duration_s) == document  # another test repeats it
    before = cases.checkpoints(out)
    again = study(machines, cases.grid(machines), out=out)
    assert cases.checkpoints(out) == before
    assert set(cases.starts(out).values()) == {1}
    assert msgspec.structs.replace(again, duration_s=document.duration_s) == document


def test_each_entry_takes_on_each_seed_the_rate_that_validates_best_and_the_scores_of_its_checkpoint(machines, grid):
    out, document = grid
    folder = trained_on(machines, out)
    for row in document.entries:
        entry = Entry(student="tiny", method=row.method, teacher=row.teacher)
        for place, (seed, rate) in enumerate(zip(row.seeds, row.learning_rates, strict=True)):
            trials = {
                one: Trial(candidate=Candidate(entry=entry, learning_rate=one), seed=seed) for one in (1e-3, 1e-2)
            }
            scores = {one: trial_result(folder, trial).score for one, trial in trials.items()}
            assert row.valid_score.per_seed[place] == scores[rate] == max(scores.values())
            network = read_student(folder.trial_folder(trials[rate]) / "student.ckpt").network()
            test = fold_data(machines, seed=seed, labelled=Labelled(fraction=0.5)).test.with_modalities(("acc",))
            expected = scores_of(network, test, modality="acc")
            assert row.test["balanced_accuracy"].per_seed[place] == expected.balanced_accuracy
            assert row.test["macro_f1"].per_seed[place] == expected.macro_f1


def test_the_chosen_student_is_written_with_windows_to_export_it(grid):
    out, document = grid
    chosen = document.recommendation
    assert chosen.sha256 == file_sha256(out / "student.ckpt")
    checkpoint = read_student(out / "student.ckpt")
    assert checkpoint.carried is not None
    size = document.students[0]
    assert size.parameters == sum(parameter.numel() for parameter in checkpoint.network().parameters())
    assert size.latency is None
    assert checkpoint.facts.score == chosen.valid_score
    assert checkpoint.facts.training.learning_rate == chosen.learning_rate
    row = next(row for row in document.entries if row.chosen)
    assert chosen.valid_score == max(row.valid_score.per_seed)
    assert row.valid_score.mean == max(other.valid_score.mean for other in document.entries)


def test_ray_gives_the_same_table(machines, grid, tmp_path):
    pytest.importorskip("ray", reason="needs pip install 'mmkd-edge[ray]'")
    out, _ = grid
    document = study(machines, cases.grid(machines, workers=2, executor="ray"), out=tmp_path)
    assert document.entries == study(machines, cases.grid(machines), out=out).entries
    assert cases.checkpoints(tmp_path).items() <= cases.checkpoints(out).items()


@pytest.mark.slow
def test_of_two_nodes_of_a_cluster_one_is_killed_and_nothing_is_lost_or_trained_twice(
    machines, grid, tmp_path, monkeypatch
):
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs pip install 'mmkd-edge[ray]'")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    victim, kept = cluster.add_node(num_cpus=1), {}
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)

    def kill():
        wait_for(lambda: len(list(tmp_path.glob("trials/*/result.json"))) >= 2)
        kept.update(cases.checkpoints(tmp_path))
        cluster.remove_node(victim, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        document = study(machines, cases.grid(machines, workers=2, executor="ray"), out=tmp_path)
    finally:
        killer.join()
        cluster.shutdown()
    assert document.entries == study(machines, cases.grid(machines), out=grid[0]).entries
    assert kept.items() <= cases.checkpoints(tmp_path).items() <= cases.checkpoints(grid[0]).items()
    assert len([name for name, starts in cases.starts(tmp_path).items() if starts > 1]) <= 1  # what the node was at


@pytest.mark.slow
def test_two_commands_share_a_folder_and_a_killed_one_loses_nothing(machines, grid, tmp_path):
    victim = started(machines, tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("trials/*/result.json"))) >= 2)
    helper = started(machines, tmp_path)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    kept = cases.checkpoints(tmp_path)
    assert helper.wait(timeout=600) == 0
    found = cases.checkpoints(tmp_path)
    assert kept.items() <= found.items()
    assert found.items() <= cases.checkpoints(grid[0]).items()
    assert len(list(tmp_path.glob("trials/*/result.json"))) == 8
    again = [name for name, starts in cases.starts(tmp_path).items() if starts > 1]
    assert len(again) <= 1  # what the victim was at


def test_an_interrupted_trial_goes_on_where_it_was(machines, tmp_path):
    entry = Entry(student="tiny", method="none", teacher=None)
    trial = Trial(candidate=Candidate(entry=entry, learning_rate=1e-3), seed=0)
    whole, parts = (trained_on(machines, tmp_path / name) for name in ("whole", "parts"))
    run_trial(whole, trial, lambda progress: None)

    def stop(progress):
        if progress.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(parts, trial, stop)
    assert trial_result(parts, trial) is None
    steps = []
    run_trial(parts, trial, lambda progress: steps.append(progress.step))
    assert steps == [4, 5, 6]
    assert cases.checkpoints(tmp_path / "parts") == cases.checkpoints(tmp_path / "whole")


def test_a_search_tries_as_many_as_it_may_and_tests_finalists_on_new_seeds(searched):
    out, document = searched
    searching = [row for row in document.trials if row.seed == 0]
    assert len({(row.method, row.student) for row in searching if row.method != "none"}) == 3
    assert sorted(row.student for row in searching if row.method == "none") == ["small", "tiny"]
    assert document.facts.search_seeds == (0,)
    assert document.facts.seeds == (2,)  # seed 1 tests on what seed 0 validates on
    tested = {path.parent.name for path in out.glob("trials/*/test.json")}
    assert {name.split("-seed")[1][0] for name in tested} == {"2"}
    finalists = [row for row in document.entries if row.method != "none"]
    sizes = {row.student for row in finalists}
    assert len(finalists) == 2
    assert {row.student for row in document.entries if row.method == "none"} == sizes
    assert len(tested) == 2 + len(sizes)
    (chosen,) = (row for row in document.entries if row.chosen)
    assert chosen.search_score == max(row.search_score or 0.0 for row in document.entries)


def unmeasured(student, teacher):
    pytest.fail("options are checked before anything is measured")


def test_seeds_that_count_test_on_windows_the_search_has_not_seen(machines):
    assert study_seeds(machines, seeds=5, search_seeds=1) == ((0,), (2, 3, 4))
    assert study_seeds(machines, seeds=5, search_seeds=2) == ((0, 1), (3, 4))
    assert said(UsageError, study_seeds, machines, seeds=2, search_seeds=1) == (
        "study: expected a seed whose test windows the search did not see, got none of 2 after 1; "
        "raise --seeds to 3 or more, or lower --search-seeds"
    )
    assert said(UsageError, study_seeds, machines, seeds=2, search_seeds=2) == (
        "study: expected search seeds from 1 to 1 of 2 seeds, got 2; the others are for the table, raise --seeds or "
        "lower --search-seeds"
    )


def test_latencies_and_limits_decide_which_sizes_take_part(machines, searched, tmp_path):
    _, document = searched
    assert {row.student: row.latency_ms for row in document.entries}.items() <= {"tiny": 1.0, "small": 3.0}.items()
    space = cases.space(students=("tiny", "small"), learning_rates=(1e-3,))
    options = cases.grid(machines, space=space, seeds=(0,), max_latency_ms=2.0)
    limited = study(machines, options, out=tmp_path, measure_latency=latency)
    assert {size.preset: size.excluded for size in limited.students} == {"tiny": "", "small": "3 ms, more than 2 ms"}
    assert {row.student for row in limited.trials} == {"tiny"}
    assert limited.recommendation.latency == limited.students[0].latency
    options = cases.grid(machines, max_latency_ms=0.5)
    assert said(PerformanceError, study, machines, options, out=tmp_path, measure_latency=latency) == (
        "study: expected a student size that keeps the limit, got none: tiny has 1 ms, more than 0.5 ms; raise "
        "--max-latency-ms, or add a smaller --student"
    )


def test_a_method_that_no_pair_can_have_is_left_out_or_refused(machines, tmp_path):
    teachers, methods = (
        (TeacherChoice(modalities=("acc",), preset="tiny"),),
        cases.methods("none", "logit", "edam@last"),
    )
    space = cases.space(teachers=teachers, methods=methods, learning_rates=(1e-3,))
    document = study(machines, cases.grid(machines, space=space, seeds=(0,)), out=tmp_path)
    assert [row.method for row in document.entries] == ["none", "logit"]
    assert [(one.method, one.teacher) for one in document.skipped] == [("edam@last", "acc:tiny")]
    reason = document.skipped[0].reason
    assert reason == (
        "recipe: term 'edam': layers=1 does not fit: it can compare 2 layers of the student and 0 of the teacher; "
        "choose other layers, or leave the term out"
    )
    options = cases.grid(machines, space=msgspec.structs.replace(space, methods=cases.methods("none", "edam@last")))
    assert said(UsageError, study, machines, options, out=tmp_path, measure_latency=unmeasured) == (
        f"method 'edam@last': expected a teacher and a student that can have it: {reason}"
    )


def test_a_training_that_fails_is_told_and_does_not_end_the_study(machines, tmp_path):
    space = cases.space(methods=cases.methods("none"), learning_rates=(1e-3, 1e30))
    document = study(machines, cases.grid(machines, seeds=(0,), space=space), out=tmp_path)
    failed = [row for row in document.trials if row.state == "failed"]
    assert {row.learning_rate for row in failed} == {1e30}
    assert all(row.reason.startswith("training: expected a finite ") for row in failed)
    assert document.entries
    assert all(row.learning_rates == (1e-3,) for row in document.entries)


def test_a_used_up_budget_reports_what_is_there(machines, tmp_path):
    assert said(UsageError, study, machines, cases.grid(machines, budget_hours=0.0), out=tmp_path) == (
        f"study {tmp_path}: expected a finished trial to report, got none of 0 that ended; give more --budget-hours, "
        "the same command continues"
    )
    assert not list(tmp_path.rglob("events.*"))
    folder = trained_on(machines, tmp_path)
    entry = Entry(student="tiny", method="none", teacher=None)
    run_trial(folder, Trial(candidate=Candidate(entry=entry, learning_rate=1e-3), seed=0), lambda _: None)
    document = study(machines, cases.grid(machines, budget_hours=0.0), out=tmp_path)
    assert not document.coverage.complete
    assert [(row.method, row.seeds) for row in document.entries] == [("none", (0,))]


@pytest.mark.slow
def test_a_folder_may_hold_several_sensors_which_share_its_teachers(machines, tmp_path):
    for modality in ("acc", "gyro"):
        study(machines, cases.grid(machines, sensors=(modality,), seeds=(0,)), out=tmp_path)
    assert len([name for name in cases.starts(tmp_path) if name.startswith("tiny")]) == 1
    assert len(list(tmp_path.glob("trials/*/result.json"))) == 2 * 4
