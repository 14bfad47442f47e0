"""What answers over time gain as recorded, in a random order and in groups of one state, and what they cost."""

from dataclasses import replace

import numpy as np
import pytest

from mmkd_edge.bundle.manifest import HopRule, OverTime
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import write_dataset
from mmkd_models.evaluation.suites.over_time import SUITE, judge_over_time
from mmkd_models.evaluation.suites.table import judge
from tests.edge.said import said
from tests.models.judging_rig import suite_inputs, under_test

VIB = ModalitySpec(name="vib", channels=("x",), rate_hz=2.0, samples=4)
RULE = HopRule(hop_fraction=0.5, dwell_s=15.0, exponent=1.0, gain_points=9.0, delay=(3.0, 5.0), single_delay=(1.0, 2.0))
FOLLOWS = OverTime(prior=(0.5, 0.5), rules=(RULE,), changes=40)


def rig(tmp_path, *, name="rig", clock=True):
    """Ten presses that change their state every 20 windows of 1 s, and two that never do; all validate and test."""
    states = np.concatenate([np.tile(np.repeat([0, 1], 20), (10, 3)), np.repeat([[0], [1]], 120, axis=1)])
    count = states.size
    split = {
        "labels": states.reshape(-1),
        "groups": np.repeat(np.arange(12), 120),
    }
    if clock:
        split |= {"starts": np.tile(np.arange(120.0), 12), "episodes": np.repeat(np.arange(12), 120)}
    splits = {}
    for place, part in enumerate(("train", "valid", "test")):
        windows = np.random.default_rng(place).normal(size=(count, 4, 1))
        splits[part] = split | {"vib": windows, "groups": split["groups"] + 12 * place}
    return write_dataset(tmp_path / name, name=name, labels=("ok", "worn"), modalities=[VIB], splits=splits)


def unsure(windows):
    answers = np.random.default_rng(1).normal(size=(len(windows), 2))
    answers[np.arange(len(windows)), windows.labels] += 0.8
    return answers


def model(rules=FOLLOWS):
    return replace(under_test("ours", unsure, modalities=("vib",)), over_time=rules)


def test_a_gain_is_shown_as_recorded_beside_its_controls_and_its_price(tmp_path):
    inputs = suite_inputs(rig(tmp_path), model())
    facts = judge_over_time(inputs)
    assert {name: (row.windows, row.groups) for name, row in facts.figures.items()} == {
        "as recorded": (1200, 10),
        "shuffled": (1200, 10),
        "one state": (240, 2),
    }
    assert (facts.hop_s, facts.rule) == (1.0, RULE)
    recorded, shuffled = facts.figures["as recorded"], facts.figures["shuffled"]
    right = unsure(inputs.windows).argmax(1) == inputs.windows.labels
    moving = inputs.windows.groups < 34
    recalls = [right[moving & (inputs.windows.labels == label)].mean() for label in (0, 1)]
    assert recorded.single == shuffled.single == pytest.approx(np.mean(recalls))
    assert recorded.gain.low > 5
    assert shuffled.gain.mean < 0
    assert facts.figures["one state"].gain.low is None  # two groups are too few
    assert len(facts.delays["single"]) == len(facts.delays["over time"]) == 50
    assert np.median(facts.delays["over time"]) > np.median(facts.delays["single"])


def test_the_suite_tells_it_in_a_sentence_and_two_tables(tmp_path):
    found = SUITE.run(suite_inputs(rig(tmp_path), model()))
    (sentence,) = found.verdict
    assert sentence.startswith("Answers over time change balanced accuracy of ours by +")
    assert " points (95 % CI +" in sentence
    scores, delays = found.tables
    assert [row[0] for row in scores.rows] == ["as recorded", "shuffled", "one state"]
    assert [row[:2] for row in delays.rows] == [("single", "50"), ("over time", "50")]


def test_groups_of_one_state_judge_nothing(tmp_path):
    inputs = suite_inputs(rig(tmp_path), model())
    still = inputs.windows.subset(inputs.windows.groups >= 34)
    found = SUITE.run(replace(inputs, windows=still))
    assert found.verdict == ("No group of these windows changes its state: they cannot judge ours's answers over time",)


def test_without_rules_or_an_order_nothing_is_shown(tmp_path):
    inputs = suite_inputs(rig(tmp_path), model(None))
    message = (
        "--suite over_time: expected a student that weighs in earlier answers and recordings with times, got ours and "
        "'rig'; leave the suite out"
    )
    assert said(UsageError, SUITE.check, inputs) == message
    without = suite_inputs(rig(tmp_path, name="none", clock=False), model())
    assert said(UsageError, SUITE.check, without) == message.replace("'rig'", "'none'")
    document = judge(without, ("scores", "over_time"), data=None)
    assert list(document.suites) == ["scores"]
