"""Which sensor to buy: sentences that follow from the figures, and the table below them."""

import re

import msgspec
import pytest

from mmkd_app.pages import normal_sensors
from mmkd_app.pages.sensors import cells, headings, pair_cells, render_sensors, verdict
from mmkd_app.words import for_terminal
from mmkd_documents.figures import OF_CLASSES, Chance, Interval, Spread
from mmkd_documents.judging import (
    MonitorRow,
    NormalSensorRow,
    NormalSensorsDocument,
    PairRow,
    PairScore,
    SensorRow,
    SensorsDocument,
)


def scores(*values):
    names = ("extra_trees", "mini_rocket", "labels_only", "distilled", "teacher")
    return {name: Spread(mean=value) for name, value in zip(names, values, strict=True)}


GYRO = SensorRow(
    sensors=("gyro",),
    scores=scores(0.8, 0.85, 0.86, 0.9, 0.95),
    parameters=61_432,
    gain=Interval(mean=4.0, low=1.5, high=6.0),
    valid_score=0.91,
    under_faults=0.25,
    worst_fault="stuck",
    latency_ms=0.25,
    worth={"student": 12_500.0},
)
ACC = msgspec.structs.replace(
    GYRO, sensors=("acc",), scores=scores(0.7, 0.7, 0.7, 0.75, 0.95), under_faults=0.2, worth={"student": -800.0}
)
DOCUMENT = SensorsDocument(
    name="line 3",
    sha256="d" * 64,
    judged_on="groups of machines never seen",
    labelled="10% labelled",
    seeds=(0,),
    measure=OF_CLASSES[0],
    faults_measure="balanced_accuracy",
    rows=(GYRO, ACC),
    pairs=(),
    currency="EUR",
    pages={"gyro": "gyro.html", "acc": "acc.html"},
)


def told(**changed):
    return [for_terminal(one) for one in verdict(msgspec.structs.replace(DOCUMENT, **changed))]


def test_the_verdict_names_the_sensor_that_validates_best_and_what_teaching_buys():
    best, *others = told()
    assert best == (
        "gyro is the sensor whose student validates best: accuracy 90.0 % on groups of machines never seen, 86.0 % "
        "with labels only, 95.0 % with all sensors"
    )
    assert others == [
        "Distillation improves accuracy on gyro by 4.0 points (95 % interval 1.5 to 6.0)",
        "The next is acc, with 75.0 %",
        "The worst fault of gyro is stuck",
        "With the costs entered gyro is worth most: 12 500 EUR",
    ]
    assert told(rows=(msgspec.structs.replace(GYRO, is_distilled=False),))[1] == (
        "Distillation does not improve gyro: labels only validated better and is shipped"
    )


@pytest.mark.parametrize(
    ("chance", "second", "expected"),
    [
        (None, 0.895, "No clear winner: gyro 90.0 %, acc 89.5 %"),
        (Chance(figure=0.5, low=0.7, high=0.95, is_better=True), 0.75,
         "No clear winner: gyro 90.0 % (95 % interval 70.0 to 95.0), acc 75.0 %"),
    ],
)  # fmt: skip
def test_a_sensor_that_another_may_equal_is_no_clear_winner(chance, second, expected):
    other = msgspec.structs.replace(ACC, scores=scores(0.7, 0.7, 0.7, second, 0.95))
    said = told(rows=(msgspec.structs.replace(GYRO, chance=chance), other))
    assert said[2] == expected
    assert not any(sentence.startswith("The next is") for sentence in said)


def test_rivals_that_validate_better_are_named():
    one = msgspec.structs.replace(GYRO, ahead=("mini_rocket",))
    both = msgspec.structs.replace(GYRO, ahead=("extra_trees", "mini_rocket"))
    ahead = "Ahead of the student on validation of gyro, without a teacher: "
    assert told(rows=(one,))[2] == f"{ahead}MiniRocket"
    assert told(rows=(both,))[2] == f"{ahead}extra-trees and MiniRocket"


def pair(gain):
    def score(missing, both, single, alone):
        figures = {"pair": Interval(mean=both, low=0.7, high=0.9), "alone": Interval(mean=alone), "gain": gain}
        return PairScore(missing=missing, single=single, **figures)

    scores = score("", 0.867, "acc", 0.72), score("acc", 0.686, "gyro", 0.713), score("gyro", 0.797, "acc", 0.72)
    return PairRow(sensors=("acc", "gyro"), valid_score=0.9, scores=scores)


def test_a_pair_is_told_with_both_sensors_and_without_each():
    better = pair(Interval(mean=14.7, low=8.1, high=20.2))
    reach = "better than acc alone: balanced accuracy 86.7 %, +14.7 points"
    left = "without acc 68.6, gyro alone 71.3; without gyro 79.7, acc alone 72.0"
    sentence = f"acc and gyro in one student are {reach} (95 % interval +8.1 to +20.2); {left}"
    assert told(rows=(GYRO,), pairs=(better,)) == [*told(rows=(GYRO,))[:2], sentence, *told(rows=(GYRO,))[2:]]
    few = told(pairs=(pair(Interval(mean=14.7)),))[4]
    assert few == (
        f"acc and gyro in one student are not shown to be {reach} (no confidence interval: too few groups); {left}"
    )
    document = msgspec.structs.replace(DOCUMENT, pairs=(better,))
    rows = list(pair_cells(document))
    assert rows[1] == ["acc + gyro", "acc", "68.6", "70.0 to 90.0", "71.3 (gyro)", "–", "+14.7", "+8.1 to +20.2"]
    assert [row[1] for row in rows] == ["none", "acc", "gyro"]
    page = render_sensors(document)
    assert "71.3 (gyro)" in page
    assert "Of two students the one that validates better answers, or the other if its sensor is missing." in page


def test_nothing_is_concluded_of_a_student_that_is_not_better_than_guessing():
    guess = Chance(figure=0.9, low=0.8, high=0.95, is_better=False)
    (said,) = told(rows=(msgspec.structs.replace(GYRO, chance=guess), ACC))
    assert said == (
        "No conclusion: the student of gyro, which validates best, is no better than chance (accuracy: "
        "gyro 90.0 % (95 % interval 80.0 to 95.0), chance 90.0 %); students better than chance: acc"
    )
    poor = msgspec.structs.replace(ACC, chance=guess)
    assert told(rows=(GYRO, poor))[2].startswith("The next is acc, with 75.0 %, no better than chance")


def test_it_is_told_where_no_sensor_pays():
    poor = msgspec.structs.replace(GYRO, worth={"student": -100.0})
    assert told(rows=(GYRO, ACC), costs_to_enter=("healthy", "acc"))[-1] == (
        "The costs are an example and no verdict: enter healthy, acc in the file of --cost"
    )
    assert told(rows=(poor, ACC))[-1] == "With the costs entered no sensor pays: the best, gyro, is worth -100 EUR"
    assert not any("costs" in one for one in told(rows=(msgspec.structs.replace(GYRO, worth={}),)))


def test_the_table_has_a_cell_under_every_heading():
    row = [for_terminal(one) for one in cells(GYRO, DOCUMENT)]
    assert dict(zip(headings(DOCUMENT), row, strict=True)) == {
        "extra-trees": "80.0",
        "MiniRocket": "85.0",
        "labels only": "86.0",
        "distilled": "90.0",
        "teacher": "95.0",
        "gain, points": "+4.0",
        "95 % interval": "+1.5 to +6.0",
        "error under faults, %": "25.0",
        "parameters": "61 432",
        "ms, ONNX Runtime": "0.250",
        "worth, EUR": "12 500",
    }
    without = msgspec.structs.replace(DOCUMENT, currency="")
    assert len(cells(GYRO, without)) == len(headings(without)) == 10


def test_the_page_leads_to_every_sensor_and_says_on_what_its_figures_are():
    page = render_sensors(DOCUMENT)
    assert re.findall(r'<a href="(\w+\.html)">(\w+)</a>', page) == [("gyro.html", "gyro"), ("acc.html", "acc")]
    assert page.index("validates best") < page.index("Sensor by sensor")
    assert "Two sensors" not in page
    heads = ("Extra-trees", "MiniRocket", "ms, ONNX Runtime", "Worth, EUR")
    assert all(f'class="number">{words}</th>' in page for words in heads)
    assert "<script" not in page
    page = render_sensors(msgspec.structs.replace(DOCUMENT, judged_on="its own test split"))
    assert "Accuracy, % on its own test split; the sensor whose student validates best comes first" in page
    assert "trained nothing" not in page
    assert "are of seed 0." in page


def test_sensors_of_normal_running_are_no_winner_by_chance_and_have_no_auroc_without_known_faults():
    monitor = MonitorRow(window_rate=0.048, groups_above=0.17, auroc=None, detection=None)
    row = NormalSensorRow(sensor="acc", explained=0.4, alike={}, synthetic={"hum": 0.7}, own=monitor)
    document = NormalSensorsDocument(
        name="line 3", sha256="d" * 64, groups=12, normal=240, faults=0, rows=(row,), monitor=monitor
    )
    other = msgspec.structs.replace(row, sensor="gyro", synthetic={"hum": 0.695})
    both = msgspec.structs.replace(document, rows=(row, other))
    assert list(normal_sensors.verdict(both))[1].startswith(
        "No clear winner: acc 0.700, gyro 0.695, AUROC on average over synthetic faults. Synthetic faults are made by"
    )
    far = msgspec.structs.replace(document, rows=(row, msgspec.structs.replace(other, synthetic={"hum": 0.6})))
    assert list(normal_sensors.verdict(far))[1].startswith(
        "acc reacts most to synthetic faults: AUROC 0.70 on average, and 0.70 for hum. "
    )
    assert list(normal_sensors.verdict(document))[-1] == (
        "As a monitor on a workstation, all sensors, each predicted from the others: 17 % of groups have more than "
        "10 % false alarms; no known fault in test, so no AUROC"
    )
