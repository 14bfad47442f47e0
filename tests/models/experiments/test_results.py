"""Compact results: a study goes on from them without a checkpoint, and trains only what they lack."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import study_cases as cases

from checks.study.files import read_seeds
from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_models.data import Dataset
from mmkd_models.experiments.prepare import StudyOptions
from mmkd_models.experiments.results import SeedResults
from mmkd_models.experiments.study import study
from mmkd_models.train_config import TrainConfig
from mmkd_report.schema.study import StudyDocument

ONE_RATE = {"learning_rates": (1e-3,)}


def told(machines: Dataset, *methods: str, seeds: int = 1) -> StudyOptions:
    space = cases.space(methods=cases.methods("none", *methods), **ONE_RATE)
    return cases.options(machines, space=space, seeds=seeds)


@pytest.fixture(scope="module")
def first(machines: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyDocument]:
    """Results of a grid of two methods on one seed; its folder with all checkpoints is gone."""
    folder = tmp_path_factory.mktemp("results")
    document = study(machines, told(machines, "logit"), out=folder / "out", results=folder / "results")
    shutil.rmtree(folder / "out")
    return folder / "results", document


@pytest.fixture
def results(first: tuple[Path, StudyDocument], tmp_path: Path) -> Path:
    return Path(shutil.copytree(first[0], tmp_path / "results"))


def test_a_study_without_checkpoints_gives_the_same_table(
    machines: Dataset, first: tuple[Path, StudyDocument], results: Path, tmp_path: Path
) -> None:
    document = study(machines, told(machines, "logit"), out=tmp_path / "out", results=results)
    assert cases.starts(tmp_path / "out") == {}
    assert (document.entries, document.teachers, document.rivals) == (
        first[1].entries,
        first[1].teachers,
        first[1].rivals,
    )
    assert document.coverage.complete
    assert document.recommendation is not None
    assert (document.recommendation.checkpoint, document.recommendation.sha256) == (None, None)


def test_a_later_run_trains_what_is_missing_and_adds_it(machines: Dataset, results: Path, tmp_path: Path) -> None:
    study(machines, told(machines, "logit", "logit+task", seeds=2), out=tmp_path / "out", results=results)
    names = sorted(name.rpartition("-")[0] for name in cases.starts(tmp_path / "out"))
    assert names == [
        "logit+task-acc-tiny-0.001-seed0",
        "logit+task-acc-tiny-0.001-seed1",
        "logit-acc-tiny-0.001-seed1",
        "none-acc-tiny-0.001-seed1",
        "tiny-seed0",  # the teacher whose checkpoint is not here teaches a new method, so it is trained again
        "tiny-seed1",
    ]
    seeds = read_seeds(results)
    assert [(one.seed, len(one.trials), len(one.teachers)) for one in seeds] == [(0, 3, 1), (1, 3, 1)]
    shutil.rmtree(tmp_path / "out")
    document = study(machines, told(machines, "logit", "logit+task", seeds=2), out=tmp_path / "out", results=results)
    assert cases.starts(tmp_path / "out") == {}
    assert document.coverage.finished == 6


def test_a_teacher_that_is_trained_again_on_the_same_machine_is_the_same(
    machines: Dataset, results: Path, tmp_path: Path
) -> None:
    before = read_seeds(results)[0].teachers
    study(machines, told(machines, "logit+task"), out=tmp_path / "out", results=results)
    after = read_seeds(results)[0].teachers
    assert [one.result and one.result.sha256 for one in after] == [one.result and one.result.sha256 for one in before]
    assert [one.test for one in after] == [one.test for one in before]


def test_a_file_of_results_is_json_with_a_line_for_each_training(results: Path) -> None:
    path = results / "machines-acc-50-seed0.json"
    assert [one.name for one in results.iterdir()] == [path.name]
    lines = path.read_text().splitlines()
    assert sum('"state":"finished"' in line for line in lines) == 2
    assert json.loads(path.read_bytes())["rivals"][0]["rival"] == "extra_trees"


def test_results_under_other_conditions_are_refused(machines: Dataset, results: Path, tmp_path: Path) -> None:
    longer = TrainConfig(steps=7, batch=8, eval_every=3)
    options = cases.options(machines, conditions=cases.conditions(machines, student_train=longer))
    with pytest.raises(UsageError) as caught:
        study(machines, options, out=tmp_path / "out", results=results)
    ours, theirs = (msgspec.json.encode(one).decode() for one in (longer, cases.TRAIN))
    assert str(caught.value) == (
        f"{results / 'machines-acc-50-seed0.json'}: expected results with student_train {ours}, got {theirs}; name "
        "another folder of results, or give the same options"
    )


def test_damaged_results_are_named(machines: Dataset, results: Path, tmp_path: Path) -> None:
    path = results / "machines-acc-50-seed0.json"
    path.write_text("{")
    with pytest.raises(CheckpointError) as caught:
        study(machines, told(machines, "logit"), out=tmp_path / "out", results=results)
    assert str(caught.value) == (
        f"{path}: expected a result of this release, got a damaged or earlier file (Input data was truncated); "
        "delete it"
    )


def test_results_read_back_as_they_were(results: Path) -> None:
    path = results / "machines-acc-50-seed0.json"
    (found,) = read_seeds(results)
    assert msgspec.json.decode(path.read_bytes(), type=SeedResults) == found
    assert found.dataset.name == "machines"
    assert {one.result.trial.candidate.entry.method for one in found.trials} == {"none", "logit"}
    assert all(one.test is not None for one in found.trials)
