"""Domains left out one at a time: figures are those of the folds, whatever the number of workers."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_edge.spec import TaskSpec
from mmkd_models.data import write_dataset
from mmkd_models.data.folds import LeftOutDomains, fold_without
from mmkd_models.data.labelled import Labelled
from mmkd_models.distillation.recipe import default_recipe
from mmkd_models.evaluation.suites.shift import describe
from mmkd_models.experiments.comparison import Comparison, compare
from mmkd_models.experiments.domains import check_shift, judge_shift, mean_over_domains
from mmkd_models.experiments.plan import fold_data
from mmkd_models.experiments.workers import Workers
from mmkd_models.metrics.scores import DEFAULT_METRIC
from mmkd_models.training.checkpoint import read_student

SITE = LeftOutDomains(by="site")


def order(dataset, comparison, out):
    config = comparison(labelled=Labelled(), baseline_learning_rates=(3e-3,), left_out=SITE)
    return Comparison(dataset=dataset, config=config, out=out)


def test_the_interval_is_that_of_students_t_and_what_trains_has_not_seen_the_domain(sites, comparison):
    stats = pytest.importorskip("scipy.stats")
    for count in range(2, 11):
        values = np.random.default_rng(count).normal(size=count)
        low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
        found = mean_over_domains(values.tolist())
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)  # the table has three digits
    assert mean_over_domains([3.0]).low is None
    config = comparison(left_out=SITE)
    data = fold_data(sites, seed=1, labelled=config.labelled, left_out=config.left_out)
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
    with Workers(1) as workers:
        (fold,) = compare(asked, [2], workers)
    of_sensor = fold.students["acc"]
    assert found.domains[2].figures["student"] == of_sensor.student.test.scores.metric("balanced_accuracy")
    assert found.domains[2].figures["labels only"] == of_sensor.baseline.test.scores.metric("balanced_accuracy")
    assert found.domains[2].figures["teacher"] == fold.teacher.test.scores.metric("balanced_accuracy")
    gains = [100 * (one.figures["student"] - one.figures["labels only"]) for one in found.domains]
    assert found.gains["labels only"] == mean_over_domains(gains)
    figures = {one.name: one.figures["student"] for one in found.domains}
    assert figures[found.worst["student"]] == min(figures.values())
    assert all(0 <= (one.low or 0) <= one.mean <= (one.high or 0) <= 1 for one in found.models.values())
    assert said == ["shift: seed 0 without site east, seed 1 without site north, seed 2 without site south"]
    student = read_student(asked.student_path("acc", 0))
    assert student.facts.fold is msgspec.UNSET
    assert judge_shift(order(sites, comparison, tmp_path / "two"), workers=2) == found


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "measure"), [("regression", "mae"), ("multi_label", "macro_f1")])
def test_numbers_and_several_labels_are_judged_too(sites, comparison, tmp_path, kind, measure):
    task = TaskSpec(kind=kind, labels=("speed",) if kind == "regression" else ("hot", "loud"))
    splits = {}
    for name in ("train", "valid", "test"):
        windows = sites.split(name)
        number = windows.labels
        several = np.stack([number > 0, number == 2], axis=1)
        splits[name] = {
            **windows.take(np.arange(len(windows))),
            "labels": number.astype(np.float32) if kind == "regression" else several,
            "groups": windows.groups,
            "metadata": {"site": windows.metadata["site"]},
        }
    dataset = write_dataset(tmp_path / kind, name=kind, labels=task, modalities=sites.spec.modalities, splits=splits)
    asked = order(dataset, comparison, tmp_path / "out")
    metric = DEFAULT_METRIC[kind]
    trains = {
        name: msgspec.structs.replace(getattr(asked.config, name), metric=metric)
        for name in ("teacher_train", "student_train")
    }
    config = msgspec.structs.replace(asked.config, recipe=default_recipe(task), **trains)
    found = judge_shift(replace(asked, config=config))
    assert found.measure.name == measure
    errors = [one.figures["student"] for one in found.domains]
    worst = max(errors) if kind == "regression" else min(errors)
    assert found.worst["student"] == found.domains[errors.index(worst)].name
    scale = -1 if kind == "regression" else 100
    first = found.domains[0].figures
    gains = [scale * (one.figures["student"] - one.figures["labels only"]) for one in found.domains]
    assert found.gains["labels only"].mean == pytest.approx(np.mean(gains))
    assert set(first) >= {"teacher", "student", "labels only", "extra-trees"}
    assert describe(found).verdict[0].startswith("On the site that was left out ")


def test_every_fold_is_looked_at_before_any_is_trained(sites, comparison, tmp_path):
    few = order(sites, comparison, tmp_path)
    check_shift(few)
    windows = sites.everything()
    assert len(fold_without(windows, SITE, fold=2).train) == 80
    by_machine = msgspec.structs.replace(few.config, left_out=LeftOutDomains(by="group"))
    with pytest.raises(UsageError, match="expected 20 labelled windows or more of every domain, got 10 of"):
        check_shift(Comparison(dataset=sites, config=by_machine, out=tmp_path))


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
        check_shift(order(torn, comparison, tmp_path))
