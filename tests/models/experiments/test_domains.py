"""Comparisons of domains that are left out one at a time, and of datasets whose own split is the one fold."""

import json

import msgspec
import numpy as np
import pytest

from mmkd_app.commands.study import run_study
from mmkd_edge.errors import DatasetError, UsageError
from mmkd_models.data import write_dataset
from mmkd_models.data.folds import ALL, Labelled, LeftOutDomains, fold_without
from mmkd_models.experiments.domains import judge_shift, mean_over_domains, shift_seeds
from mmkd_models.experiments.experiment import Experiment, run
from mmkd_models.experiments.folder import fold_data
from mmkd_models.experiments.summary import demo_document
from mmkd_models.training.checkpoint import read_student
from tests.app.pages.rendered import render_demo, render_study
from tests.edge.said import said
from tests.models.conftest import leaky_copy

SITE = LeftOutDomains(by="site")


def order(dataset, comparison, out, **changed):
    plan = comparison(labelled=Labelled(), baseline_learning_rates=(3e-3,), left_out=SITE, seeds=(0, 1, 2))
    return Experiment(dataset=dataset, plan=msgspec.structs.replace(plan, **changed), out=out)


def test_the_interval_is_that_of_students_t_and_what_trains_has_not_seen_the_domain(sites, comparison):
    stats = pytest.importorskip("scipy.stats")
    for count in range(2, 11):
        values = np.random.default_rng(count).normal(size=count)
        low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
        found = mean_over_domains(values.tolist())
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)  # the table has three digits
    assert mean_over_domains([3.0]).low is None
    conditions = comparison(left_out=SITE).conditions
    data = fold_data(sites, seed=1, labelled=conditions.labelled, left_out=conditions.left_out)
    assert set(data.test.metadata["site"]) == {"north"}
    assert "north" not in set(data.training.train.metadata["site"]) | set(data.training.valid.metadata["site"])
    assert data.training.fold is msgspec.UNSET  # no fold that another command could deal again


@pytest.mark.slow
def test_figures_are_those_of_the_folds_and_gains_of_their_differences(sites, comparison, tmp_path):
    said = []
    asked = order(sites, comparison, tmp_path)
    found = judge_shift(asked, say=said.append)
    assert [one.name for one in found.domains] == ["east", "north", "south"]
    assert [one.windows for one in found.domains] == [50, 50, 50]
    table = run(order(sites, comparison, tmp_path, seeds=(2,)))
    models = {"student": table.student("acc"), "labels only": table.baseline("acc"), "teacher": table.teacher()}
    for name, (judged,) in models.items():
        assert found.domains[2].figures[name] == judged.test.scores.metric("balanced_accuracy")
    gains = [100 * (one.figures["student"] - one.figures["labels only"]) for one in found.domains]
    assert found.gains["labels only"] == mean_over_domains(gains)
    figures = {one.name: one.figures["student"] for one in found.domains}
    assert figures[found.worst["student"]] == min(figures.values())
    assert all(0 <= (one.low or 0) <= one.mean <= (one.high or 0) <= 1 for one in found.models.values())
    assert said == ["shift: seed 0 without site east, seed 1 without site north, seed 2 without site south"]
    assert read_student(asked.student_path("acc", 0)).facts.fold is msgspec.UNSET
    two = judge_shift(order(sites, comparison, tmp_path / "two", workers=2))
    # Other processes do not have the room's spectra in place of MiniRocket's features.
    for name in ("teacher", "labels only", "student", "extra-trees"):
        assert [one.figures[name] for one in two.domains] == [one.figures[name] for one in found.domains]


def test_every_fold_is_looked_at_before_any_is_trained(sites, comparison):
    assert shift_seeds(sites, comparison(left_out=SITE).conditions) == range(3)
    assert len(fold_without(sites.everything(), SITE, fold=2).train) == 80
    by_machine = comparison(left_out=LeftOutDomains(by="group"))
    with pytest.raises(UsageError, match="expected 20 labelled windows or more of every domain, got 10 of"):
        shift_seeds(sites, by_machine.conditions)


def test_groups_that_share_samples_are_not_trusted(sites, comparison, tmp_path):
    rng, splits = np.random.default_rng(5), {}
    for name in ("train", "valid", "test"):
        windows = sites.split(name)
        values = {**windows.take(np.arange(len(windows)))}
        for one in sites.spec.modalities:  # windows that follow one another share half, whatever their group
            flat = rng.normal(size=((len(windows) + 1) * one.samples, len(one.channels))).astype(np.float32)
            values[one.name] = np.stack([flat[at * one.samples // 2 :][: one.samples] for at in range(len(windows))])
        metadata = {"site": windows.metadata["site"]}
        splits[name] = {**values, "labels": windows.labels, "groups": windows.groups, "metadata": metadata}
    task, modalities = sites.spec.task, sites.spec.modalities
    torn = write_dataset(tmp_path / "torn", name="torn", labels=task, modalities=modalities, splits=splits)
    with pytest.raises(DatasetError, match=r"share samples: .*; give such windows one group"):
        shift_seeds(torn, comparison(left_out=SITE).conditions)


JUDGED_ON = "windows of the dataset's own test split; no groups: may be of groups that trained"
OWN_SPLIT = {"by": "own split", "judged_on": JUDGED_ON, "resampled": "blocks of 6 consecutive windows"}
ASK = "write groups.npy (the person, machine or session of each window), or set split.group in its recipe"


@pytest.fixture(scope="module")
def finished(dataset, comparison, tmp_path_factory):
    """A comparison of `acc` on the one fold of a dataset without groups."""
    plan = comparison(baseline_learning_rates=(1e-3,), seeds=(0,))
    experiment = Experiment(dataset=dataset, plan=plan, out=tmp_path_factory.mktemp("own") / "out")
    return experiment, run(experiment)


def test_a_comparison_without_groups_keeps_and_tells_the_split_that_the_dataset_came_with(dataset, finished):
    data = fold_data(dataset, seed=0, labelled=ALL)
    parts = (data.training.train, data.training.valid, data.test)
    assert [(*part.rows,) for part in parts] == [(*range(32),), (*range(32, 48),), (*range(48, 56),)]
    assert said(UsageError, fold_data, dataset, seed=1, labelled=ALL) == (
        "fold 1: expected 0, since dataset 'two' has no groups, so that its own split is its only fold; "
        f"to have more, {ASK}"
    )
    experiment, table = finished
    assert table.folds[0].groups == 0
    assert [np.sum(one.confusion) for one in table.teacher()[0].test.confusions] == [
        6,
        2,
    ]  # blocks of eight test windows
    document = msgspec.to_builtins(demo_document(table))
    assert document["split"] == OWN_SPLIT
    assert document["mean_gain_points"]["method"] == (
        "mean over seeds of student minus baseline; an interval needs 5 blocks or more"
    )
    page = render_demo(document).replace("&#39;", "'")
    assert f"Judged on {JUDGED_ON}." in page
    assert "never seen" not in page
    assert "straddle" not in page
    paths = (experiment.student_path("acc", 0), experiment.baseline_path("acc", 0))
    assert [read_student(path).facts.fold for path in paths] == [0, 0]


def short(*arguments):
    steps = ("--steps", 6, "--teacher-steps", 6, "--teacher", "tiny", "--student", "tiny", "--no-latency")
    return [str(one) for one in (*arguments, *steps, "--rival", "extra_trees", "--method", "logit")]


@pytest.mark.slow
def test_a_study_without_groups_searches_and_judges_on_the_own_split(dataset, tmp_path, capsys):
    out = tmp_path / "study"
    arguments = ("--trials", 1, "--finalists", 1, "--learning-rate", 0.001)
    with pytest.raises(SystemExit):
        run_study(short(dataset.path, "--modality", "acc", "-o", out, *arguments))
    assert " ".join(capsys.readouterr().out.partition("┏")[0].split()) == f"two, acc on {JUDGED_ON}, 100% labelled"
    document = json.loads((out / "study.json").read_bytes())
    assert (document["dataset"]["split"], document["dataset"]["groups"]) == (OWN_SPLIT, 0)
    assert (document["facts"]["search_seeds"], document["facts"]["seeds"]) == ([0], [0])
    page = render_study(document).replace("&#39;", "'")
    assert f"Judged on {JUDGED_ON}." in page
    assert "A search used the validation windows; the table shows its results on the test windows." in page
    assert "it has no interval, which resamples blocks of 6 consecutive windows and needs five." in page
    assert "never seen" not in page


def test_a_study_of_splits_that_share_samples_is_refused(dataset, tmp_path):
    arguments = short(leaky_copy(dataset, tmp_path / "leak").path, "--modality", "acc", "-o", tmp_path / "study")
    assert said(DatasetError, run_study, arguments) == (
        "dataset 'leak': the last 25 samples of train window 7 are the first of test window 2 in 'acc' (1 such in "
        f"all); splits must not share samples; {ASK}, so that whole groups are in one of the splits"
    )
