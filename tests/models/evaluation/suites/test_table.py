"""A suite is one file and one row: document, verdict, terminal and page follow from its result."""

import msgspec
import numpy as np

from mmkd_models.commands.evaluate import show_judging
from mmkd_models.evaluation.suites.inputs import Suite
from mmkd_models.evaluation.suites.table import SUITES, judge
from mmkd_report.pages.judging import render_judging
from mmkd_report.schema.judging import DataFacts, JudgingDocument, SuiteResult, SuiteTable
from tests.models.judging_rig import suite_inputs, under_test


def run(inputs):
    rows = tuple((model.name, f"{len(model.answers(inputs.windows))}") for model in inputs.models)
    return SuiteResult(
        title="How many answers?",
        lead="One answer per window.",
        facts={"answers": 12},
        verdict=("It answers every window",),
        record=("more windows",),
        tables=(SuiteTable(caption="Answers", heads=("model", "answers"), rows=rows),),
        notes=("nothing is missing",),
    )


def test_a_new_row_needs_no_other_file(machines, monkeypatch, capsys):
    monkeypatch.setitem(SUITES, "answers", Suite(check=lambda inputs: None, run=run))
    model = under_test("s", lambda windows: np.zeros((len(windows), 3)), role="distilled")
    data = DataFacts(name="line", sha256="0" * 64, part="test windows", windows=12, groups=2, labels=("idle", "ok"))
    document = judge(suite_inputs(machines, model), ["answers"], data=data)
    assert document.verdict == ("It answers every window", "Record next: more windows")
    assert msgspec.json.decode(msgspec.json.encode(document), type=JudgingDocument) == document
    show_judging(document)
    assert capsys.readouterr().out.splitlines() == [
        "s on 12 test windows of line (2 groups)",
        "It answers every window.",
        "Record next: more windows.",
        "Answers:",
        "model  answers",
        "s           12",
        "nothing is missing",
    ]
    page = render_judging(document)
    assert '<h2 id="answers">How many answers?</h2>' in page
    assert "nothing is missing." in page
