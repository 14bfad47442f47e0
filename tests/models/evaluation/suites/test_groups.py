"""Gaps between groups and metadata: as fairlearn has them, what teaching did to them, and what is not judged."""

from dataclasses import replace

import numpy as np
import pytest

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import write_dataset
from mmkd_models.evaluation.suites.groups import check, describe, judge_groups
from mmkd_models.evaluation.suites.inputs import SuiteInputs
from tests.edge.said import said
from tests.models.judging_rig import under_test

VIB = ModalitySpec(name="vib", channels=("x",), rate_hz=4.0, samples=4)


@pytest.fixture
def windows(tmp_path):
    """Four presses of 100, 80, 60 and 20 windows that judge; two sites as metadata."""
    sizes = {"train": {"t": 30}, "valid": {"v": 30}, "test": {"a": 100, "b": 80, "c": 60, "d": 20}}
    splits = {}
    for name, of in sizes.items():
        count = sum(of.values())
        groups = np.repeat(list(of), list(of.values()))
        splits[name] = {
            "vib": np.random.default_rng(list(sizes).index(name)).normal(size=(count, 4, 1)),
            "labels": np.arange(count) % 3,
            "groups": groups,
            "metadata": {"site": np.where(np.isin(groups, ["a", "b"]), "north", "south"), "load": np.arange(count) / 7},
        }
    return write_dataset(
        tmp_path / "rig", name="rig", labels=("idle", "ok", "worn"), modalities=[VIB], splits=splits
    ).split("test")


def model(name, right, role="distilled"):
    """Right in a share of the windows of each press, with probabilities of its own."""

    def ask(windows):
        rng = np.random.default_rng(4)
        shares = np.array([right[group] for group in windows.groups.tolist()])
        labels = np.where(rng.uniform(size=len(windows)) < shares, windows.labels, (windows.labels + 1) % 3)
        answers = rng.normal(0, 0.3, (len(windows), 3))
        answers[np.arange(len(windows)), labels] += 2.5
        return answers

    return under_test(name, ask, role=role, modalities=("vib",))


def inputs(windows, *models, by=None):
    return SuiteInputs(models=models, windows=windows, train=windows, calibration=windows, by=by)


def refused(windows, **options):
    return said(UsageError, check, inputs(windows, OURS, **options))


def judged(windows, *models, by=None):
    return judge_groups(inputs(windows, *models, by=by))


OURS = model("ours", {"a": 0.9, "b": 0.8, "c": 0.5, "d": 0.1})


def test_a_gap_is_held_against_that_of_chance(windows):
    def gap_and_chance(right):
        found = judged(windows, model("m", right)).gaps["accuracy"]["m"]
        return found.mean, found.chance

    gap, chance = gap_and_chance({"a": 0.6, "b": 0.6, "c": 0.6, "d": 0.6})
    assert 0 < gap < chance
    gap, chance = gap_and_chance({"a": 0.9, "b": 0.8, "c": 0.5, "d": 0.1})
    assert gap > chance
    # The range of three normal deviates exceeds 3.31 of their spread in one of twenty; of 60 to 100 windows the spread
    # of an accuracy of 0.5 to 0.9 is 0.03 to 0.065. Blocks make it uncertain.
    assert 0.08 < chance < 0.25


def test_figures_and_gaps_are_those_of_fairlearn(windows):
    metrics = pytest.importorskip("fairlearn.metrics")
    sklearn = pytest.importorskip("sklearn.metrics")
    found = judged(windows, OURS)
    answers = OURS.answers(windows).argmax(1)
    enough = windows.groups != "d"
    scores = {"accuracy": sklearn.accuracy_score, "recall": sklearn.balanced_accuracy_score}
    given = {"y_true": windows.labels[enough], "y_pred": answers[enough]}
    frame = metrics.MetricFrame(metrics=scores, **given, sensitive_features=windows.groups[enough])
    for measure in ("accuracy", "recall"):
        ours = {one.value: one.figures["ours"][measure] for one in found.values if one.is_judged}
        assert ours == pytest.approx(frame.by_group[measure].to_dict())
        gap = found.gaps[measure]["ours"]
        assert gap.mean == pytest.approx(frame.difference()[measure])
        assert gap.low < gap.mean < gap.high


def test_few_windows_are_shown_and_not_judged_and_metadata_are_judged_as_groups_are(windows):
    found = judged(windows, OURS, by="group")
    judging = [("a", 100, True), ("b", 80, True), ("c", 60, True), ("d", 20, False)]
    assert [(one.value, one.windows, one.is_judged) for one in found.values] == judging
    gap = found.gaps["accuracy"]["ours"]
    assert (gap.worst, gap.best) == ("c", "a")  # d is worse, and too few
    by_site = judged(windows, OURS, by="site").values
    assert [(one.value, one.windows) for one in by_site] == [("north", 180), ("south", 80)]


def test_windows_without_a_value_are_counted_and_of_no_group(windows):
    site = windows.metadata["site"].copy()
    site[:12] = ""
    load = np.where(np.arange(260) < 130, 1.0, 2.0)
    load[:12] = np.nan
    lacking = replace(windows, metadata={"site": site, "load": load, "none": np.full(260, "")})
    for by, values in (("site", ["north", "south"]), ("load", ["1.0", "2.0"])):
        found = judged(lacking, OURS, by=by)
        assert [one.value for one in found.values] == values
        assert found.unknown == 12
    assert refused(lacking, by="none") == ("--by none: no window that judges has a value; name other metadata")


def test_the_change_of_a_gap_is_judged_by_its_interval(windows):
    even = {"a": 0.8, "b": 0.8, "c": 0.8, "d": 0.8}
    uneven = {"a": 0.95, "b": 0.9, "c": 0.3, "d": 0.1}

    def verdict(ours, labels):
        given = inputs(windows, model("ours", ours), model("labels", labels, "labels only"))
        return describe(given, judge_groups(given)).verdict[1]

    assert verdict(uneven, even).startswith("The gap of accuracy is larger than that of labels: +")
    assert verdict(even, uneven).startswith("The gap of accuracy is smaller than that of labels: -")
    assert verdict(even, even) == "Distillation has no significant effect on the gaps between group values"
    alone = judged(windows, model("labels", even, "labels only"), model("others", even, "labels only"))
    assert alone.changes == {}  # the first model is not distilled


def test_what_cannot_be_judged_is_refused_whole(windows, rigs):
    assert refused(windows, by="shift") == (
        "--by shift: dataset 'rig' has no such metadata; choose one of group, site, load"
    )
    assert refused(windows, by="load") == (
        "--by load: expected at most 50 values, got 260; write metadata that pools them"
    )
    assert refused(replace(windows, has_groups=False)) == (
        "--suite groups: dataset 'rig' has no groups; write groups.npy (the person, machine or session of each window),"
        " or set split.group in its recipe,"
        " or name metadata with --by"
    )
    assert refused(rigs["regression"].split("test")) == (
        "--suite groups: expected a dataset of classes, got 'rig' of the kind regression; leave the suite out"
    )
