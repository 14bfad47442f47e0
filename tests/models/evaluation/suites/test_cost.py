"""The evaluation of an investment: by hand to the cent, one assumption at a time, the file, and what it refuses."""

import re
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from mmkd_documents.cost import Equipment, Plant
from mmkd_edge.errors import UsageError
from mmkd_models.evaluation.suites import cost_model as cost
from mmkd_models.evaluation.suites.cost import (
    check_cost,
    count_detection,
    describe,
    detection_rates,
    evaluate_cost,
    find_faults,
)
from mmkd_models.evaluation.suites.cost import run as run_cost
from mmkd_models.evaluation.suites.cost_model import read_cost
from mmkd_models.evaluation.suites.inputs import SuiteInputs
from tests.edge.said import said
from tests.models.judging_rig import under_test

TEMPLATE = cost.cost_template()
PLANT = Plant(
    stations=10,
    years=3,
    discount_rate=0.1,
    price_per_kwh=0.2,
    faults_per_station_year=0.5,
    avoidable_fraction=0.4,
    missed_cost=10_000.0,
    false_alarm_cost=100.0,
    checks_per_station_year=100.0,
    hourly_rate=50.0,
)
OPTION = Equipment(
    sensor_price=200.0,
    installation=100.0,
    sensor_life_years=2.0,
    spares_fraction=0.1,
    node_price=300.0,
    node_life_years=5.0,
    gateway_price=1000.0,
    stations_per_gateway=4.0,
    idle_w=10.0,
    inference_mj=36.0,
    inferences_per_s=10.0,
    campaign_cost=2000.0,
    labelling_hours=20.0,
    training_hours=10.0,
    maintenance_hours=2.0,
    detection=0.9,
    false_alarms=0.02,
)


def test_sensors_are_bought_anew_and_break_even_is_the_fewest_stations_that_pay():
    assert [cost.replacement(PLANT, OPTION, year) for year in (1, 2, 3)] == [0.0, 3000.0, 0.0]
    odd = msgspec.structs.replace(OPTION, sensor_life_years=1.5)
    long = msgspec.structs.replace(PLANT, years=5)
    assert [cost.replacement(long, odd, year) for year in (1, 2, 3, 4)] == [0.0, 3000.0, 3000.0, 0.0]
    found = cost.evaluate_option(PLANT, OPTION).break_even_stations
    assert found is not None
    values = [cost.net_present_value(msgspec.structs.replace(PLANT, stations=n), OPTION) for n in (found - 1, found)]
    assert values[0] < 0 <= values[1]
    assert cost.evaluate_option(PLANT, msgspec.structs.replace(OPTION, detection=0.0)).break_even_stations is None
    # 10 x (200 x 1.1 + 100 + 300) = 6,200; three gateways 3,000; campaign 2,000; 30 h at 50 = 1,500
    assert cost.investment(PLANT, OPTION) == pytest.approx(12_700.00, abs=0.005)
    # saved: 10 x 0.5 x 0.9 x 0.4 x 10,000 = 18,000
    # spent: 10 x (100 x 0.02 x 100 + 90.7536 x 0.2 + 2 x 50) = 10 x (200 + 18.15072 + 100) = 3,181.5072
    assert cost.yearly(PLANT, OPTION) == pytest.approx(14_818.49, abs=0.005)
    # 14,818.4928 / 1.1 + 11,818.4928 / 1.21 + 14,818.4928 / 1.331 - 12,700
    # = 13,471.3571 + 9,767.3494 + 11,133.3529 - 12,700
    assert cost.net_present_value(PLANT, OPTION) == pytest.approx(21_672.06, abs=0.005)
    # 14,818.4928 / 12 = 1,234.8744 a month: 11 months are 13,583.62, 10 are 12,348.74
    assert cost.payback_month(PLANT, OPTION) == 11
    assert cost.payback_month(PLANT, msgspec.structs.replace(OPTION, detection=0.1)) is None


@pytest.mark.parametrize("key", [name for name in Equipment.__struct_fields__ if name not in ("detection", "idle_w")])
def test_changing_an_assumption_of_an_option_changes_what_it_should(key):
    more = msgspec.structs.replace(OPTION, **{key: getattr(OPTION, key) * 1.5 if key != "node_life_years" else 1.0})
    invests = key in (
        "sensor_price", "installation", "spares_fraction", "node_price", "gateway_price", "stations_per_gateway",
        "campaign_cost", "labelling_hours", "training_hours",
    )  # fmt: skip
    runs = key in ("inference_mj", "inferences_per_s", "maintenance_hours", "false_alarms")
    assert (cost.investment(PLANT, more) != cost.investment(PLANT, OPTION)) == invests
    assert (cost.yearly(PLANT, more) != cost.yearly(PLANT, OPTION)) == runs
    assert cost.net_present_value(PLANT, more) != cost.net_present_value(PLANT, OPTION)


def entered(template):
    """The template with every line that a verdict needs made one's own."""
    return re.sub(r"^# (.*# enter)", r"\1", template, flags=re.MULTILINE).replace('["ok"]', '["idle"]')


def test_the_template_is_a_sound_file_and_says_every_default_of_the_plant(tmp_path):
    file = tmp_path / "cost.toml"
    file.write_text(TEMPLATE)
    untouched, _ = read_cost(file)
    file.write_text(entered(TEMPLATE))
    found, entries = read_cost(file)
    assert found.plant == Plant()
    assert {f"plant.{name}" for name in Plant.__struct_fields__} <= entries
    assert found.student.detection is None
    assert msgspec.structs.replace(found, healthy=()) == untouched  # the examples of the template are the defaults


def test_a_file_that_was_not_touched_gives_an_example_and_no_verdict(machines, tmp_path):
    file, windows = tmp_path / "cost.toml", machines.everything()
    models = [model("s", "distilled", 0.8), model("t", "teacher", 0.95)]

    def told(text):
        file.write_text(text)
        result = run_cost(inputs(windows, file, *models))
        return result.facts.to_enter, list(result.verdict)

    prices = (f"{option}.{part}_price" for option in ("teacher", "student") for part in ("sensor", "node"))
    needed = ("healthy", "plant.missed_cost", *prices)
    assert told(TEMPLATE) == (
        needed,
        [f"The costs are an example and no verdict: enter {', '.join(needed)} in the file of --cost"],
    )
    assert told(re.sub(r"^missed_cost.*$", "", entered(TEMPLATE), flags=re.MULTILINE))[1] == [
        "The costs are an example and no verdict: enter plant.missed_cost in the file of --cost"
    ]
    assert told(entered(TEMPLATE).replace('["idle"]', "[]"))[0] == ("healthy",)
    to_enter, (worth, *_) = told(entered(TEMPLATE))
    assert to_enter == ()
    assert worth == (
        "On these assumptions teacher is the best option: 233,185 EUR in 5 years, pays back in month 19, break-even at "
        "2 stations"
    )


NO_NUMBER = "expected the path of a number in a section of the file, such as plant.missed_cost; correct it"


@pytest.mark.parametrize(
    ("text", "message"),
    {
        "version = 2": "'version': expected 1, got 2; use the mmkd-edge that wrote it",
        "[plant]\nmissed_cost = -5": "'plant.missed_cost': expected 0 or more, got -5; correct it",
        "[plant]\nyears = 0": "'plant.years': expected above 0, got 0; correct it",
        "[plant]\nstations = 2.5": "'plant.stations': expected a whole number, got 2.5; correct it",
        "[plant]\nprice = 1": (
            "Object contains unknown field `price` - at `$.plant`; docs/evaluation.md describes every key"
        ),
        "[student]\nfalse_alarms = 5": "'student.false_alarms': expected a fraction of at most 1, got 5; 0.05 is 5 %",
        '[ranges]\n"plant.cost" = [1, 2]': f"'ranges.plant.cost': {NO_NUMBER}",
        '[ranges]\n"student.detection" = [0.5, 0.7]': f"'ranges.student.detection': {NO_NUMBER}",
        '[ranges]\n"plant.years" = [2, 1]': "'ranges.plant.years': expected [low, high], got [2, 1]; swap them",
        '[ranges]\n"plant.missed_cost" = [0, inf]': (
            "'ranges.plant.missed_cost': expected 0 or more, got inf; correct it"
        ),
        '[student]\n[ranges]\n"student.sensor_life_years" = [0, 5]': (
            "'ranges.student.sensor_life_years': expected above 0, got 0; correct it"
        ),
        '[student]\n[ranges]\n"student.detection" = [0.5, 7.0]': (
            "'ranges.student.detection': expected a fraction of at most 1, got 7; 0.05 is 5 %"
        ),
    }.items(),
)
def test_a_file_that_breaks_a_rule_is_refused_with_the_path(text, message, tmp_path):
    file = tmp_path / "cost.toml"
    file.write_text(text if text.startswith("version") else f"version = 1\n{text}")
    assert said(UsageError, read_cost, file) == f"--cost {file}: {message}"


def inputs(windows, file, *models):
    return SuiteInputs(models=models, windows=windows, train=windows, calibration=windows, cost=file)


def answers(labels):
    return np.eye(3)[labels]


def test_detection_is_counted_by_window_and_by_episode_of_one_state(machines):
    test = machines.split("test").subset(np.arange(6))
    test = replace(test, labels=np.array([0, 0, 0, 1, 2, 2]), groups=np.zeros(6, dtype=np.int64))
    given = answers([0, 1, 1, 1, 0, 1])
    assert detection_rates(count_detection(test, given, ["idle"]), np.ones((1, 1))) == pytest.approx(
        np.array([[2 / 3, 2 / 3]])
    )
    runs = replace(test, labels=np.array([0, 0, 0, 2, 2, 2]), episodes=np.array([5, 5, 5, 6, 6, 6]))
    assert count_detection(runs, given, ["idle"]).tolist() == [[1, 1, 1, 1]]  # 2 of 3 say alarm in both
    assert said(UsageError, find_faults, test, ["idle", "ok", "worn"]) == (
        "--suite cost: the windows to judge have no faults; name other 'healthy' labels, or another --split"
    )
    test = machines.split("test").subset(np.arange(8))
    of_one = np.zeros(8, dtype=np.int64)
    run = replace(test, labels=np.array([0, 0, 0, 2, 2, 2, 0, 0]), groups=of_one, episodes=of_one, times=None)
    # idle (1 of 3 alarms), worn (2 of 3), idle again (2 of 2)
    assert count_detection(run, answers([0, 0, 1, 2, 2, 0, 1, 1]), ["idle"]).tolist() == [[1, 1, 1, 2]]
    late = replace(run, times=np.array([0, 2, 4, 6, 8, 10, 1, 3], dtype=np.float64))
    assert count_detection(late, answers([0, 0, 1, 2, 2, 0, 1, 1]), ["idle"])[0, 3] == 1  # all idle before worn


def test_healthy_labels_are_checked(machines, rigs, tmp_path):
    test = machines.split("test")
    assert find_faults(test, ())[0] == ("idle",)
    with pytest.raises(UsageError) as error:
        find_faults(test, ["good"])
    assert str(error.value) == "--cost: 'healthy': expected labels of idle, ok, worn, got 'good'; correct it"
    file = tmp_path / "cost.toml"
    file.write_text("version = 1")
    assert said(UsageError, check_cost, rigs["regression"].split("test"), file) == (
        "--suite cost: expected a dataset of classes, got 'rig' of the kind regression; leave the suite out"
    )


def model(name, role, right):
    def ask(windows):
        wrong = np.random.default_rng(2).uniform(size=len(windows)) > right
        return np.eye(3)[np.where(wrong, (windows.labels + 1) % 3, windows.labels)]

    return under_test(name, ask, role=role)


def test_marks_say_what_was_measured_entered_and_neither(machines, tmp_path):
    windows = machines.everything()
    file = tmp_path / "cost.toml"
    file.write_text(
        "version = 1\n[plant]\nstations = 50\n[student]\nsensor_price = 150\n[teacher]\ndetection = 1.0\n"
        '[ranges]\n"plant.missed_cost" = [1000, 90000]\n'
    )
    models = [model("s", "distilled", 0.8), model("t", "teacher", 0.95), model("b", "labels only", 0.7)]
    found = evaluate_cost(inputs(windows, file, *models))
    marks = {one.path: one.mark for one in found.assumptions}
    assert (marks["plant.stations"], marks["plant.years"]) == ("entered", "default")
    assert (marks["student.sensor_price"], marks["student.detection"]) == ("entered", "measured")
    assert (marks["teacher.detection"], marks["teacher.false_alarms"]) == ("entered", "measured")
    assert sorted(found.equipment) == ["student", "teacher"]  # the file has no section for the rival
    assert found.equipment["teacher"].detection == 1.0
    assert found.results["student"] == cost.evaluate_option(found.plant, found.equipment["student"])
    (missed,) = [one for one in found.assumptions if one.path == "plant.missed_cost"]
    assert missed.at_low is not None
    assert missed.at_low < found.results["student"].net_present_value
    varied = describe(found).tables[1]
    assert varied.rows[0][:5] == ("plant: missed cost", "20,000", "default", "1,000", "90,000")  # the widest effect
    assert len(varied.rows) == 12
    (range_,) = [(one.low, one.high) for one in found.assumptions if one.path == "student.sensor_price"]
    assert range_ == (pytest.approx(105), pytest.approx(195))


def test_a_range_of_what_is_measured_takes_the_place_of_its_interval(machines, tmp_path):
    file = tmp_path / "cost.toml"
    ways = "[student]\n[teacher]\nsensor_price = 300\nnode_price = 400\nidle_w = 10\nmaintenance_hours = 1\n"
    file.write_text(f'version = 1\n{ways}[ranges]\n"student.detection" = [0.0, 0.0]\n"teacher.detection" = [1, 1]\n')
    models = [model("s", "distilled", 0.95), model("t", "teacher", 0.95)]
    found = evaluate_cost(inputs(machines.everything(), file, *models))
    (ends,) = [(one.low, one.high) for one in found.assumptions if one.path == "student.detection"]
    assert ends == (0.0, 0.0)
