"""Comparisons and studies of a dataset without groups, folds that there are not, and groups with names."""

import json
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_models.commands.study import run_study
from mmkd_models.data import open_dataset, write_dataset
from mmkd_models.data.labelled import ALL
from mmkd_models.experiments.comparison import Comparison, compare
from mmkd_models.experiments.plan import fold_data
from mmkd_models.experiments.summary import demo_document
from mmkd_models.experiments.workers import Workers
from mmkd_models.training.checkpoint import read_student
from tests.report.rendered import render_demo, render_study

JUDGED_ON = "windows of the dataset's own test split; no groups: may share people and machines with training"
OWN_SPLIT = {"by": "own split", "judged_on": JUDGED_ON, "resampled": "blocks of 6 consecutive windows"}
ASK = "write groups.npy (the person, machine or session of each window)"


def message_of(call, kind=UsageError):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


@pytest.fixture(scope="module")
def finished(dataset, comparison, tmp_path_factory):
    """A comparison of `acc` on the one fold of a dataset without groups."""
    config = comparison(baseline_learning_rates=(1e-3,))
    plan = Comparison(dataset=dataset, config=config, out=tmp_path_factory.mktemp("own") / "out")
    with Workers(1) as workers:
        return plan, compare(plan, [0], workers)[0]


def test_a_comparison_without_groups_keeps_and_tells_the_split_that_the_dataset_came_with(dataset, finished):
    data = fold_data(dataset, seed=0, labelled=ALL)
    assert [part.rows.tolist() for part in (data.training.train, data.training.valid, data.test)] == [
        list(range(32)),
        list(range(32, 48)),
        list(range(48, 56)),
    ]
    assert message_of(lambda: fold_data(dataset, seed=1, labelled=ALL)) == (
        "fold 1: expected 0, since dataset 'two' has no groups, so that its own split is its only fold; "
        f"to have more, {ASK}"
    )
    _, fold = finished
    assert fold.groups == 0
    assert [np.sum(one.confusion) for one in fold.teacher.test.confusions or ()] == [
        6,
        2,
    ]  # blocks of the eight test windows
    document = msgspec.to_builtins(demo_document(dataset.spec, dataset.sha256, [fold]))
    assert document["split"] == OWN_SPLIT
    assert document["mean_gain_points"]["method"] == (
        "mean over seeds of student minus baseline; an interval needs 5 blocks or more"
    )
    page = render_demo(document).replace("&#39;", "'")
    assert f"Judged on {JUDGED_ON}." in page
    assert "never seen" not in page
    assert "straddle" not in page
    plan, _ = finished
    paths = (plan.student_path("acc", 0), plan.baseline_path("acc", 0))
    assert [read_student(path).facts.fold for path in paths] == [0, 0]


def short(*arguments):
    steps = ("--steps", 6, "--teacher-steps", 6, "--teacher", "tiny", "--student", "tiny", "--no-latency")
    return [str(one) for one in (*arguments, *steps, "--rival", "extra_trees", "--method", "logit")]


def test_a_study_without_groups_searches_and_judges_on_the_own_split(dataset, tmp_path, capsys):
    out = tmp_path / "study"
    arguments = ("--trials", 1, "--finalists", 1, "--learning-rate", 0.001)
    with pytest.raises(SystemExit):
        run_study(short(dataset.path, "--modality", "acc", "-o", out, *arguments))
    title = " ".join(capsys.readouterr().out.partition("┏")[0].split())
    assert title == f"two, acc on {JUDGED_ON}, 100% labelled"
    document = json.loads((out / "study.json").read_bytes())
    assert (document["dataset"]["split"], document["dataset"]["groups"]) == (OWN_SPLIT, 0)
    assert (document["facts"]["search_seeds"], document["facts"]["seeds"]) == ([0], [0])
    page = render_study(document).replace("&#39;", "'")
    assert f"Judged on {JUDGED_ON}." in page
    assert "A search used the validation windows; the table shows its results on the test windows." in page
    assert "it has no interval, which resamples blocks of 6 consecutive windows and needs five." in page
    assert "never seen" not in page


def leak(dataset, path):
    """The same dataset with a window of test that continues one of train."""
    splits = {}
    for split in ("train", "valid", "test"):
        windows = dataset.split(split)
        splits[split] = {**windows.take(np.arange(len(windows))), "labels": windows.labels}
    found = write_dataset(
        path, name="leak", labels=dataset.spec.task, modalities=dataset.spec.modalities, splits=splits
    )
    acc = np.load(found.path / "test" / "acc.npy")
    acc[2, :25] = splits["train"]["acc"][7, 15:]
    np.save(found.path / "test" / "acc.npy", acc)
    return open_dataset(path)


def test_a_study_of_splits_that_share_samples_is_refused(dataset, tmp_path):
    leaky = leak(dataset, tmp_path / "leak")
    arguments = short(leaky.path, "--modality", "acc", "-o", tmp_path / "study")
    assert message_of(lambda: run_study(arguments), DatasetError) == (
        "dataset 'leak': the last 25 samples of train window 7 are the first of test window 2 in 'acc' (1 such in "
        f"all); splits must not share samples; {ASK} and put whole groups into one of the splits"
    )
