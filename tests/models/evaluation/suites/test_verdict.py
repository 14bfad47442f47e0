"""The verdict and the table of the suites: whole sentences that follow from the figures."""

import msgspec
import numpy as np

from mmkd_app.commands.evaluate import show_judging
from mmkd_app.pages.judging import render_judging
from mmkd_documents import judging
from mmkd_documents.figures import Interval
from mmkd_models.evaluation.suites import faults, groups
from mmkd_models.evaluation.suites.groups import Gap, GroupFigures, GroupsFacts
from mmkd_models.evaluation.suites.inputs import ModelUnderTest, Suite, SuiteInputs
from mmkd_models.evaluation.suites.table import SUITES, judge, with_suites
from tests.models.judging_rig import suite_inputs, under_test

DATA = judging.DataFacts(
    name="line 3", sha256="d" * 64, part="test windows", windows=90, groups=6, labels=("ok", "worn")
)
STUDENT = judging.JudgedModel(name="s", path="s", sha256="a" * 64, role="distilled", modalities=("acc",), parameters=1)
LABELS = msgspec.structs.replace(STUDENT, name="b", path="b", role="labels only")
ROCKET = msgspec.structs.replace(STUDENT, name="MiniRocket", path="", role="rival", parameters=None)
EMPTY = judging.JudgingDocument(
    data=DATA, kind="classification", seed=0, models=(STUDENT, LABELS), baseline="b", cautions=(), verdict=()
)


MODELS = tuple(
    ModelUnderTest(facts=facts, cautions=(), predict=lambda windows: np.zeros((0, 2)))
    for facts in (STUDENT, LABELS, ROCKET)
)
INPUTS = SuiteInputs(models=MODELS, windows=None, train=None, calibration=None)


def fault(name, last):
    return judging.FaultFigures(
        name=name,
        effect=f"all of {name}",
        errors={"s": (0.1, 0.1, 0.1, 0.1, last), "b": (0.2,) * 5, "MiniRocket": (0.5,) * 5},
        relative={"s": 0.5},
    )


def faults_facts(relative):
    settings = {"sensors": ("acc",), "severities": (0.2, 0.4, 0.6, 0.8, 1.0), "measure": "balanced_accuracy"}
    intact, faults = (
        {"s": 0.1, "b": 0.2, "MiniRocket": 0.5},
        (fault("hum", 0.7), fault("noise", 0.6), fault("gap", 0.2)),
    )
    return judging.FaultsFacts(**settings, intact=intact, faults=faults, relative={"s": relative})


def verdict(**results):
    return list(with_suites(EMPTY, results).verdict)


def under_faults(facts):
    return verdict(faults=faults.describe(INPUTS, facts))


def test_the_worst_fault_comes_first_then_the_baseline_and_better_rivals():
    assert under_faults(faults_facts(Interval(mean=0.8, low=0.7, high=0.95))) == [
        "The worst fault for s is hum: balanced accuracy falls from 90.0% to 30.0% with all of hum",
        "Do not rely on it if a sensor may show hum or noise: more than half of its score is lost",
        (
            "Distillation helps under faults: over all faults the error of s is 80% of that of b (labels only; 95 % CI "
            "70% to 95%)"
        ),
    ]

    def rival(intact, errors):
        facts = faults_facts(Interval(mean=0.5, low=0.4, high=0.65))
        for one in facts.faults:
            one.errors["MiniRocket"] = (errors,) * 5
        facts.intact["MiniRocket"] = intact
        return [one for one in under_faults(facts) if one.startswith("MiniRocket")]

    # s errs 0.1 with intact sensors and (1.1 + 1.0 + 0.6) / 15 = 0.18 over all faults
    start = "MiniRocket needs no teacher and has a lower error than s"
    assert rival(0.05, 0.1) == [f"{start} with intact sensors and over all faults: consider it first"]
    assert rival(0.1, 0.17) == [f"{start} over all faults: consider it first"]
    assert rival(0.2, 0.19) == []


def test_a_claim_needs_its_whole_interval_or_more_groups():
    def third(low, high):
        return under_faults(faults_facts(Interval(mean=1.0, low=low, high=high)))[2].partition(":")[0]

    assert third(1.01, 1.2) == "Distillation hurts under faults"
    assert third(0.9, 1.1) == "The effect of distillation under faults is not significant"
    assert third(None, None) == (
        "Over all faults the error of s is 100% of that of b (labels only; too few groups for an interval)"
    )

    def last(low, high):
        return under_faults(faults_facts(Interval(mean=1.0, low=low, high=high)))[-1]

    assert last(None, None) == "Record next: 5 or more groups to judge with, for an interval under faults"
    assert "for an interval" not in last(0.9, 1.1)


def groups_facts(change, *, chance=0.1):
    def value(name, accuracy, windows):
        figures = {"accuracy": accuracy, "recall": accuracy}
        every = {"s": figures, "b": figures, "MiniRocket": figures}
        return GroupFigures(value=name, windows=windows, is_judged=windows >= 30, figures=every)

    gap = Gap(mean=0.2, low=0.1, high=0.3, chance=chance, best="one", worst="two")
    return GroupsFacts(
        by="machine",
        least_windows=30,
        values=(value("one", 0.9, 40), value("two", 0.7, 50), value("three", 0.1, 5)),
        gaps={measure: {"s": gap, "b": gap, "MiniRocket": gap} for measure in groups.MEASURES},
        changes={"accuracy": change},
    )


def by_group(facts):
    return verdict(groups=groups.describe(INPUTS, facts))


NOTHING = Interval(mean=0.03, low=-0.02, high=0.08)


def test_groups_are_named_by_their_ends_and_a_gap_that_may_be_chance_asks_for_nothing():
    assert by_group(groups_facts(Interval(mean=0.05, low=0.02, high=0.08))) == [
        (
            "s has the lowest accuracy, 70.0%, on machine two and the highest, 90.0%, on one: a gap of 20.0 points "
            "(95 % CI 10.0 to 30.0)"
        ),
        "The gap of accuracy is larger than that of b: +5.0 points (95 % CI +2.0 to +8.0)",
        "Record next: more of machine two; at least 30 windows of machine three",
    ]
    assert by_group(groups_facts(NOTHING))[1] == (
        "Distillation has no significant effect on the gaps between machine values"
    )
    assert by_group(groups_facts(NOTHING, chance=0.21))[-1] == "Record next: at least 30 windows of machine three"
    found = groups_facts(NOTHING)
    few = tuple(msgspec.structs.replace(found.values[2], value=str(number)) for number in range(8))
    assert by_group(msgspec.structs.replace(found, values=(*found.values[:2], *few)))[-1] == (
        "Record next: more of machine two; at least 30 windows of machine 0, 1, 2, 3, 4 and 3 more"
    )


def run(inputs):
    rows = tuple((model.name, f"{len(model.answers(inputs.windows))}") for model in inputs.models)
    return judging.SuiteResult(
        title="How many answers?",
        lead="One answer per window.",
        facts={"answers": 12},
        verdict=("It answers every window",),
        record=("more windows",),
        tables=(judging.SuiteTable(caption="Answers", heads=("model", "answers"), rows=rows),),
        notes=("nothing is missing",),
    )


def test_a_new_row_needs_no_other_file(machines, monkeypatch, capsys):
    monkeypatch.setitem(SUITES, "answers", Suite(check=lambda inputs: None, run=run))
    model = under_test("s", lambda windows: np.zeros((len(windows), 3)), role="distilled")
    data = judging.DataFacts(
        name="line", sha256="0" * 64, part="test windows", windows=12, groups=2, labels=("idle", "ok")
    )
    document = judge(suite_inputs(machines, model), ["answers"], data=data)
    assert document.verdict == ("It answers every window", "Record next: more windows")
    assert msgspec.json.decode(msgspec.json.encode(document), type=judging.JudgingDocument) == document
    show_judging(document)
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "s on 12 test windows of line (2 groups)"
    assert lines[:2] == ["It answers every window.", "Record next: more windows."]
    assert lines[2:] == ["Answers:", "model  answers", "s           12", "nothing is missing"]
    page = render_judging(document)
    assert '<h2 id="answers">How many answers?</h2>' in page
    assert "nothing is missing." in page
