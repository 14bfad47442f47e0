"""The page of models that were judged side by side."""

import re

import msgspec
import pytest

from mmkd_app.pages.judging import assign_roles
from mmkd_documents.figures import Interval
from mmkd_models.evaluation.suites import shift
from tests.app.pages.rendered import read_judging, render_judging
from tests.models.evaluation.suites.test_shift import facts


@pytest.fixture
def document():
    models = [
        {"name": "student.ckpt", "path": "student.ckpt", "sha256": "a" * 64, "role": "distilled"},
        {"name": "labels.ckpt", "path": "labels.ckpt", "sha256": "b" * 64, "role": "labels only"},
    ]
    data = {"name": "line 3", "sha256": "d" * 64, "part": "test windows", "windows": 90, "groups": 6}

    return {
        "format_version": 1,
        "data": data | {"labels": ["ok", "worn"]},
        "kind": "classification",
        "seed": 0,
        "models": [one | {"modalities": ["acc"], "parameters": 1200} for one in models],
        "baseline": "labels.ckpt",
        "cautions": ["student.ckpt was chosen by 9 of these 90 windows: its scores flatter it"],
        "verdict": ["The worst fault for student.ckpt is hum"],
        "suites": {
            "faults": {
                "title": "When a sensor breaks",
                "lead": "Every window with each fault.",
                "facts": {"of": "a suite that this page does not know"},
                "tables": [
                    {
                        "caption": "Error, mean of severities",
                        "heads": ["fault", "student.ckpt", "labels.ckpt"],
                        "rows": [["hum", "30.0", "60.0"]],
                    }
                ],
                "notes": [],
            }
        },
    }


def with_suite(document, name, result):
    return document | {"suites": {**document["suites"], name: msgspec.to_builtins(result)}}


def test_the_verdict_comes_first_and_faults_follow(document):
    page = render_judging(document)
    assert page.index("The worst fault for student.ckpt is hum.") < page.index("its scores flatter it.")
    assert re.search(r'data-label="student.ckpt" class="number">30.0<', page)
    assert not any(f'id="{name}"' in page for name in ("groups", "cost"))
    assert "<script" not in page


def test_any_suite_has_its_tables_and_notes(document):
    rows = [["one <b>", "90.0"], ["gap", "2.0"]]
    result = document["suites"]["faults"] | {
        "tables": [{"caption": "Accuracy, %", "heads": ["machine", "s"], "rows": rows}],
        "notes": ["one value has few windows"],
    }
    page = render_judging(document | {"suites": {"groups": result}})
    assert '<h2 id="groups">When a sensor breaks</h2>' in page
    assert "<caption>Accuracy, %</caption>" in page
    assert '<th scope="row" role="rowheader">one &lt;b&gt;</th>' in page
    assert '<td role="cell" data-label="s" class="number">90.0</td>' in page
    assert "one value has few windows." in page


def left_out():
    """Two domains that were left out, one of which shares groups with the training."""
    gain = Interval(mean=-1.5, low=-4.0, high=1.0)
    models = dict.fromkeys(("student", "labels only"), Interval(mean=0.75, low=0.61, high=0.79))
    more = {"by": "press <b>", "absent": {"MiniRocket": "aeon is not installed"}, "models": models}
    found = facts([0.8, 0.7], [0.74, 0.68], teacher_gain=gain, gain=gain, **more)
    domains = found.domains[0], msgspec.structs.replace(found.domains[1], shared_groups=2)
    return shift.describe(msgspec.structs.replace(found, domains=domains))


def test_domains_that_were_left_out_have_a_table_with_means_and_gains(document):
    page = render_judging(with_suite(document, "shift", left_out()))
    assert "On unseen domains" in page
    assert "press &lt;b&gt;" in page
    assert "press <b>" not in page
    assert "2 groups in training too" in page
    assert page.count("75.0 (61.0 to 79.0)") == 2
    assert page.count("-1.5 (-4.0 to +1.0)") == 1
    assert "MiniRocket: aeon is not installed" in page


def test_a_second_rival_is_drawn_in_another_way_than_the_first(document):
    rivals = [document["models"][0] | {"name": name, "role": "rival", "path": ""} for name in ("rocket", "trees")]
    found = read_judging(document | {"models": [*document["models"], *rivals]})
    assert [assign_roles(found)[name] for name in ("rocket", "trees")] == ["other", "another"]
