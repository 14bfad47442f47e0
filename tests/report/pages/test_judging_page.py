"""The page of models that were judged side by side: its sections, and sliders that reckon as Python does."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mmkd_models.evaluation.suites import shift
from mmkd_models.evaluation.suites.cost import assume, describe, swings_of
from mmkd_models.evaluation.suites.cost_model import evaluate_option
from mmkd_report import DocumentError, render_judging
from mmkd_report.pages.judging import assign_roles
from mmkd_report.schema.cost import Assumption, CostFacts, CostOption, Equipment, Plant, Swing
from mmkd_report.schema.judging import ShiftFacts, SuiteResult, read_judging

Document = dict[str, Any]


def cost() -> CostFacts:
    plant = Plant(stations=12)
    student = Equipment(sensor_price=300, installation=200, detection=0.8, false_alarms=0.01, gateway_price=1500)
    teacher = Equipment(sensor_price=4000, installation=800, detection=0.9, false_alarms=0.002, sensor_life_years=2)
    ways: dict[CostOption, Equipment] = {"student": student, "teacher": teacher}
    assumptions = [
        assume(f"{section}.{key}", float(value), "entered")
        for section, values in (("plant", plant), *ways.items())
        for key, value in msgspec.to_builtins(values).items()
    ]
    entered = [one.path for one in assumptions].index("plant.missed_cost")
    assumptions[entered] = Assumption(
        path="plant.missed_cost", value=20_000.0, mark="entered", low=1000.0, high=90_000.0
    )
    return CostFacts(
        currency="EUR",
        unit="windows",
        healthy=("ok",),
        plant=plant,
        equipment=ways,
        assumptions=tuple(assumptions),
        results={name: evaluate_option(plant, way) for name, way in ways.items()},
        swings=tuple(swings_of(plant, ways, assumptions)),
    )


@pytest.fixture
def document() -> Document:
    models = [
        {"name": "student.ckpt", "path": "student.ckpt", "sha256": "a" * 64, "role": "distilled"},
        {"name": "labels.ckpt", "path": "labels.ckpt", "sha256": "b" * 64, "role": "labels only"},
    ]
    data = {
        "name": "line 3",
        "sha256": "d" * 64,
        "part": "test windows",
        "windows": 90,
        "groups": 6,
        "labels": ["ok", "worn"],
    }
    errors = {"student.ckpt": [0.1, 0.2, 0.3, 0.4, 0.5], "labels.ckpt": [0.2, 0.4, 0.6, 0.8, 1.0]}
    faults = {
        "sensors": ["acc"],
        "severities": [0.2, 0.4, 0.6, 0.8, 1.0],
        "measure": "balanced_accuracy",
        "intact": {"student.ckpt": 0.1, "labels.ckpt": 0.2},
        "faults": [
            {
                "name": "hum",
                "effect": "50 Hz",
                "practised": {"student.ckpt": False, "labels.ckpt": None},
                "errors": errors,
                "relative": {"student.ckpt": 0.5},
            }
        ],
        "left_out": ["channel swap"],
        "relative": {"student.ckpt": {"mean": 0.5, "low": 0.4, "high": 0.65}},
    }
    return {
        "format_version": 1,
        "data": data,
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
                "facts": faults,
                "tables": [
                    {
                        "caption": "Error, mean of severities",
                        "heads": ["fault", "student.ckpt", "labels.ckpt", "in training"],
                        "rows": [["hum", "30.0", "60.0", "unseen"]],
                    }
                ],
                "notes": ["These sensors cannot have: channel swap"],
            }
        },
    }


def with_suite(document: Document, name: str, result: SuiteResult) -> Document:
    return document | {"suites": {**document["suites"], name: msgspec.to_builtins(result)}}


def test_the_verdict_comes_first_and_faults_follow(document: Document) -> None:
    page = render_judging(document)
    assert page.index("The worst fault for student.ckpt is hum.") < page.index("its scores flatter it.")
    assert re.search(r'data-label="student.ckpt" class="number">30.0<', page)  # the mean of five severities
    assert re.search(r'data-label="in training" class="number">unseen<', page)
    assert not any(f'id="{name}"' in page for name in ("groups", "cost"))
    assert "<script" not in page


def test_a_page_of_costs_runs_its_own_script_alone(document: Document) -> None:
    page = render_judging(with_suite(document, "cost", describe(cost())))
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "unsafe-inline'; script" not in page
    assert '<h2 id="cost">Does it pay?</h2>' in page


def test_a_page_of_costs_that_nobody_entered_is_an_example(document: Document) -> None:
    example = msgspec.structs.replace(cost(), to_enter=("healthy", "plant.missed_cost"))
    page = render_judging(with_suite(document, "cost", describe(example)))
    assert '<h2 id="cost">Does it pay? An example</h2>' in page
    assert (
        '<p class="about">The costs are an example and no verdict: enter healthy, plant.missed_cost in the file of '
        "--cost. In EUR, compared with doing nothing."
    ) in page


def test_any_suite_has_its_tables_and_notes(document: Document) -> None:
    result = {
        "title": "Which group has the lowest score?",
        "lead": "By machine, in %.",
        "facts": {"of": "a suite that this page does not know"},
        "tables": [
            {"caption": "Accuracy, %", "heads": ["machine", "s"], "rows": [["one <b>", "90.0"], ["gap", "2.0"]]}
        ],
        "notes": ["gap of accuracy: amplified"],
    }
    page = render_judging(document | {"suites": {"groups": result}})
    assert '<h2 id="groups">Which group has the lowest score?</h2>' in page
    assert "<caption>Accuracy, %</caption>" in page
    assert '<th scope="row" role="rowheader">one &lt;b&gt;</th>' in page
    assert '<td role="cell" data-label="s" class="number">90.0</td>' in page
    assert "gap of accuracy: amplified." in page


def test_an_unknown_version_is_refused(document: Document) -> None:
    with pytest.raises(DocumentError) as error:
        render_judging(document | {"format_version": 3})
    assert str(error.value) == (
        "judging document: expected format_version 1, got 3; make the page with the release that made the document"
    )


def test_the_browser_reckons_as_python_does(document: Document, tmp_path: Path) -> None:
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver_path is None:
        pytest.skip("chromium and its driver are not installed")
    found = cost()
    file = tmp_path / "page.html"
    file.write_text(render_judging(with_suite(document, "cost", describe(found))), encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(switch)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    try:
        browser.get(file.as_uri())
        assert shown(browser) == as_shown(found.plant, found.equipment)
        assert swung(browser) == as_swung(found.swings)
        plant = msgspec.structs.replace(found.plant, stations=7.0, discount_rate=0.035)
        student = msgspec.structs.replace(found.equipment["student"], detection=0.55, node_life_years=2.25)
        for path, value in (
            ("plant.stations", 7), ("plant.discount_rate", 0.035), ("student.detection", 0.55),
            ("student.node_life_years", 2.25),
        ):  # fmt: skip
            browser.execute_script(
                "const one = document.querySelector(`[data-path='${arguments[0]}']`); one.value = arguments[1];"
                "one.dispatchEvent(new Event('input'));",
                path,
                str(value),
            )
        ways = found.equipment | {"student": student}
        assert shown(browser) == as_shown(plant, ways)
        moved = {"plant.stations": 7.0, "plant.discount_rate": 0.035, "student.detection": 0.55}
        moved["student.node_life_years"] = 2.25
        assumptions = [
            assume(one.path, moved[one.path], "entered") if one.path in moved else one for one in found.assumptions
        ]
        now = swings_of(plant, ways, assumptions)
        assert [one.path for one in now[:12]] != [one.path for one in found.swings[:12]]
        assert swung(browser) == as_swung(now)
    finally:
        browser.quit()


def shown(browser: Any) -> Document:
    script = (
        "return Array.from(document.querySelectorAll('[data-figure]'))"
        ".map((cell) => [cell.dataset.way, cell.dataset.figure, cell.dataset.value])"
    )
    return {
        f"{way} {figure}": value and pytest.approx(float(value), rel=1e-9)
        for way, figure, value in browser.execute_script(script)
    }


def swung(browser: Any) -> list[tuple[str, Any, Any]]:
    script = (
        "return Array.from(document.querySelectorAll('[data-swing]')).map((row) => "
        "[row.dataset.swing, row.cells[1].dataset.value, row.cells[2].dataset.value])"
    )
    rows = [(path, float(low), float(high)) for path, low, high in browser.execute_script(script)]
    widths = [abs(high - low) for _, low, high in rows]
    assert all(wide >= narrow * (1 - 1e-9) for wide, narrow in pairwise(widths))
    return sorted(rows)  # two that swing alike come in either order: their last bits differ


def as_swung(swings: Sequence[Swing]) -> list[tuple[str, Any, Any]]:
    shown = sorted(swings[:12], key=lambda one: one.path)
    return [(one.path, pytest.approx(one.at_low, rel=1e-9), pytest.approx(one.at_high, rel=1e-9)) for one in shown]


def as_shown(plant: Plant, ways: dict[Any, Equipment]) -> Document:
    return {
        f"{name} {figure}": "" if value is None else value
        for name, way in ways.items()
        for figure, value in msgspec.to_builtins(evaluate_option(plant, way)).items()
    }


def left_out() -> SuiteResult:
    """Two domains that were left out, one of which shares groups with the training, and the end of the campaign."""
    spread = {"mean": 0.7, "low": 0.61, "high": 0.79}
    share = {"name": "accuracy", "words": "accuracy", "short": "Accuracy", "unit": "%", "gain_unit": "points"}
    measure = {**share, "scale": 100.0}
    names = ["teacher", "student", "labels only"]
    domain = {"windows": 30, "figures": dict.fromkeys(names, 0.7)}
    facts = {
        "by": "press <b>",
        "sensor": "acc",
        "teacher": "tiny",
        "student": "small",
        "labels": "10% of the windows labelled",
        "steps": [300, 400],
        "measure": measure,
        "domains": [{**domain, "name": "north", "shared_groups": 0}, {**domain, "name": "south", "shared_groups": 2}],
        "models": dict.fromkeys(names, spread),
        "worst": dict.fromkeys(names, "north"),
        "gains": {key: {"mean": -1.5, "low": -4.0, "high": 1.0} for key in ["teacher", "labels only"]},
        "teacher_gain": spread,
        "absent": {"MiniRocket": "aeon is not installed"},
        "time": {
            "measure": measure,
            "windows": [90, 30, 30],
            "figures": dict.fromkeys(names, 0.65),
            "gain": {"points": 0.0, "low": None, "high": None},
        },
    }
    return shift.describe(msgspec.convert(facts, ShiftFacts))


def test_domains_that_were_left_out_have_a_table_with_means_and_gains(document: Document) -> None:
    page = render_judging(with_suite(document, "shift", left_out()))
    assert "On unseen domains" in page
    assert "press &lt;b&gt;" in page
    assert "press <b>" not in page
    assert "2 groups in training too" in page
    assert page.count("70.0 (61.0 to 79.0)") == 3
    assert page.count("-1.5 (-4.0 to +1.0)") == 2
    assert "MiniRocket: aeon is not installed" in page
    assert "The end of the campaign (trained on the first 90 windows" in page
    assert "Accuracy, %: teacher 65.0, student 65.0, labels only 65.0." in page


def test_a_second_rival_is_drawn_in_another_way_than_the_first(document: Document) -> None:
    rivals = [document["models"][0] | {"name": name, "role": "rival", "path": ""} for name in ("rocket", "trees")]
    found = read_judging(document | {"models": [*document["models"], *rivals]})
    assert [assign_roles(found)[name] for name in ("rocket", "trees")] == ["other", "another"]
