"""The document of a comparison against sums by hand, and how cheap a sensor may be."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from mmkd_app.pages.demo_answer import answer
from mmkd_app.pages.variants import render_variants, show_rows, verdict
from mmkd_documents.figures import Interval
from mmkd_documents.variants import VariantsDocument
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.evaluation.outcome import GroupConfusion, TestedNetwork
from mmkd_models.experiments.summary import demo_document
from mmkd_models.experiments.variants import parse_variations, variant_rows
from mmkd_models.metrics.scores import Scores, measure_named
from tests.app.pages.rendered import read_demo
from tests.edge.said import said
from tests.models.conftest import joined

BALANCED = measure_named("balanced_accuracy")
CAM = ModalitySpec(name="cam", kind="video", channels=("gray",), rate_hz=10.0, samples=20, height=8, width=12)
MALFORMED = (
    "expected SENSOR:FACTOR=VALUE,... with a factor of channels, window, rate, size, burst, bits, range; correct it"
)
NO_RANGE = (
    "expected a range for 8 bits to divide, got none; add \"range\" to the dataset's 'acc', or one here, as in "
    "acc@8bit,-20..20"
)


def titles(variation, parts):
    return [variation.variant(part).title for part in parts]


def test_factors_vary_alone_or_together_and_are_named_once(machines, table):
    (variation,) = parse_variations(["acc:rate=20,10", "acc:window=2,1", "acc:channels=x+y,y"], machines.spec)
    assert titles(variation, variation.singles()) == ["acc@10Hz", "acc@1s", "acc[y]"]
    assert titles(variation, variation.grid()) == [
        *("acc[y]", "acc@1s", "acc[y]@1s", "acc@10Hz", "acc[y]@10Hz", "acc@1s,10Hz", "acc[y]@1s,10Hz")
    ]  # fmt: skip
    (bits,) = parse_variations(["acc:bits=8,4", "acc:range=-4..4"], machines.spec)
    assert titles(bits, bits.singles()) == ["acc@8bit,-4..4", "acc@4bit,-4..4", "acc@-4..4"]
    (cam,) = parse_variations(["cam:rate=5", "cam:size=6x4"], msgspec.structs.replace(machines.spec, modalities=(CAM,)))
    assert titles(cam, cam.singles()) == ["cam@5fps", "cam@6x4"]
    with pytest.raises(UsageError) as error:
        parse_variations(["acc:rate=10", "acc:rate=5"], machines.spec)
    assert str(error.value) == "--vary acc:rate=5: expected acc:rate once, got it twice; join the values"
    (variation,) = parse_variations(["acc:rate=10,5", "acc:window=1"], machines.spec)
    assert variation.corner(table) == {"rate": "10Hz", "window": "1s"}  # 5 Hz loses 1.5 points


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acc", f"--vary acc: {MALFORMED}"),
        ("acc:speed=3", f"--vary acc:speed=3: {MALFORMED}"),
        ("heat:rate=3", "dataset 'machines': modality 'heat' is not in it; choose one of acc, gyro"),
        ("acc:rate=40", "derived sensor 'acc@40Hz': expected a rate up to the recorded 20 Hz, got 40 Hz; lower it"),
        ("acc:window=4", "derived sensor 'acc@4s': expected a window up to the recorded 2 s, got 4 s; shorten it"),
        ("acc:channels=q", "derived sensor 'acc[q]': expected channels of x, y, each once, got q; correct them"),
        ("acc:bits=8", f"derived sensor 'acc@8bit': {NO_RANGE}"),
        ("acc:rate=20", "--vary acc: expected a variant, got the recorded sensor alone; add a cheaper value"),
        ("acc@10Hz:rate=5", "--vary acc@10Hz:rate=5: expected a recorded sensor, got acc@10Hz; name acc"),
    ],
)
def test_what_cannot_be_varied_is_refused(machines, text, message):
    assert said(UsageError, parse_variations, [text], machines.spec) == message


VALID = {"acc": 0.80, "acc__10Hz": 0.795, "acc__5Hz": 0.785, "acc__1s": 0.81, "acc__1s_10Hz": 0.79}


def of_two_classes(right):
    """So many right answers by group, of five windows of each class."""
    confusions = {
        group: (((count + 1) // 2, 5 - (count + 1) // 2), (5 - count // 2, count // 2))
        for group, count in right.items()
    }
    whole = np.sum(list(confusions.values()), axis=0)
    fraction = float(np.trace(whole) / whole.sum())
    scores = Scores(
        accuracy=fraction, balanced_accuracy=fraction, macro_f1=fraction, confusion=tuple(map(tuple, whole.tolist()))
    )
    return TestedNetwork(
        class_scores=scores,
        confusions=tuple(GroupConfusion(group=group, confusion=one) for group, one in confusions.items()),
    )


@pytest.fixture
def table(fold_result):
    """Six machines of ten windows; the recorded sensor is right in 8, at 10 Hz in 7 or 8, in a window of 1 s in 9."""
    windows = dict.fromkeys(range(6), 10)
    right = {"acc": (8,), "acc__10Hz": (7, 8), "acc__5Hz": (5,), "acc__1s": (9,), "acc__1s_10Hz": (8,)}
    students = {
        name: ({group: counts[group % len(counts)] for group in windows}, dict.fromkeys(windows, 6))
        for name, counts in right.items()
    }
    table = fold_result(seed=0, windows=windows, teacher=dict.fromkeys(windows, 9), students=students)
    student, baseline = table.plan.student, table.plan.baseline
    judged = {}
    for name, rows in table.students.items():
        result = msgspec.structs.replace(rows[student][0].result, score=VALID[name])
        tests = [of_two_classes(right) for right in students[name]]
        first = replace(rows[student][0], result=result, test=tests[0])
        judged[name] = {student: {0: first}, baseline: {0: replace(rows[baseline][0], test=tests[1])}}
    train = msgspec.structs.replace(table.plan.conditions.student_train, metric="balanced_accuracy")
    conditions = msgspec.structs.replace(table.plan.conditions, student_train=train)
    return replace(table, students=judged, plan=msgspec.structs.replace(table.plan, conditions=conditions))


@pytest.fixture
def document(machines, table):
    variations = parse_variations(["acc:rate=10,5", "acc:window=1"], machines.spec)
    shown = {"latencies": {"acc": 2.0}, "energies": {"acc": 1.5}, "prices": {}}
    given = {**shown, "healthy": machines.spec.task.labels[:1]}
    return VariantsDocument(
        dataset="machines", sha256="ab" * 32, judged_on="machines never seen", labelled="", seeds=(0,),
        measure=BALANCED, most_loss=1.0, rows=variant_rows(table, variations, **given), healthy=("still",),
    )  # fmt: skip


def test_rows_have_paired_differences_bytes_and_the_cheapest_that_validation_allows(document):
    rows = {row.title: row for row in document.rows}
    assert list(rows) == ["acc", "acc@1s", "acc@10Hz", "acc@1s,10Hz", "acc@5Hz"]  # by bytes, as sorted
    assert {title: row.bytes_per_s for title, row in rows.items()} == {
        "acc": 80.0, "acc@1s": 80.0, "acc@10Hz": 40.0, "acc@1s,10Hz": 40.0, "acc@5Hz": 20.0,
    }  # fmt: skip
    assert rows["acc"].difference is None
    assert rows["acc@10Hz"].difference.mean == pytest.approx(-5.0)
    assert -10 <= rows["acc@10Hz"].difference.low < -5 < rows["acc@10Hz"].difference.high <= 0
    assert rows["acc"].gain.mean == pytest.approx(20.0)
    assert rows["acc"].memory_kb == (3 * 40 * 2 * 4 + 4 * 50) / 1024
    assert (rows["acc"].latency_ms, rows["acc@5Hz"].latency_ms) == (2.0, None)
    assert (rows["acc"].energy_mj, rows["acc@5Hz"].energy_mj) == (1.5, None)
    # Of five windows of the healthy class in each of six machines, one is answered otherwise, or two at 5 Hz.
    alarms = {title: row.false_alarms for title, row in rows.items()}
    assert alarms["acc"] == Interval(mean=0.2, low=0.2, high=0.2)
    assert (alarms["acc@5Hz"].mean, alarms["acc@1s"].mean) == (0.4, 0.0)
    assert [title for title, row in rows.items() if row.is_chosen] == ["acc@10Hz"]  # validates best of 40 bytes


def test_the_verdict_and_the_page_say_loss_interval_and_what_teaching_adds(document):
    chosen = next(row for row in document.rows if row.is_chosen)
    ends = " to ".join(f"−{abs(end):.1f}" for end in (chosen.difference.low, chosen.difference.high))
    first, second = verdict(document)
    assert first == (
        f"acc@10Hz changes balanced accuracy by −5.0 points (95 % interval {ends}) against acc, and sends 2 times "
        "fewer bytes: the cheapest variant within 1 point in validation, which the test windows do not confirm"
    )
    loose = msgspec.structs.replace(document, most_loss=6.0)
    assert next(verdict(loose)).endswith("the cheapest variant within 6.00 points in validation")
    assert second.startswith("Teaching adds +15.0 points (95 % interval ")
    page = render_variants(document)
    assert first in page
    heads, rows = show_rows(document)
    assert (len(heads), rows[2][0]) == (len(rows[0]), "acc@10Hz *")
    assert heads[-3:] == ["ms, ONNX Runtime", "mJ, ONNX Runtime", "false alarms, %"]
    assert [row[-2:] for row in rows[:2]] == [["1.50", "20.0"], ["–", "0.0"]]
    assert "False alarms are windows of still that are answered otherwise; variants.json has their intervals." in page
    assert "The energy of an answer" not in page
    dark = [msgspec.structs.replace(row, energy_mj=None, latency_ms=None) for row in document.rows]
    unmeasured = msgspec.structs.replace(document, rows=tuple(dark), healthy=())
    assert show_rows(unmeasured)[0] == heads[:-3]  # without ms, too
    assert "The energy of an answer: no power sensor of this machine could be read" in render_variants(unmeasured)
    none = msgspec.structs.replace(
        document, rows=tuple(msgspec.structs.replace(row, is_chosen=False) for row in document.rows)
    )
    assert next(verdict(none)).startswith(
        "No cheaper variant of acc stays within 1 point in validation; the closest, acc@10Hz, changes balanced "
        "accuracy by −5.0 points (95 % interval "
    )


@pytest.mark.parametrize(
    ("titles", "changed", "expected"),
    [
        (["acc@1s"], {"difference": Interval(mean=0.04)},
         ("No variant of acc is cheaper, so there is nothing to choose; acc@1s shows no difference in balanced accuracy"
          " to acc: 0.0 points (no confidence interval: too few groups)")),
        (["acc@10Hz"], {"difference": Interval(mean=-1.0, low=-3.0, high=1.0)},
         ("acc@10Hz shows no significant difference in balanced accuracy to acc: −1.0 points (95 % interval −3.0 to"
          " +1.0), and sends 2 times fewer bytes: the cheapest variant within 1 point in validation")),
        (["acc@10Hz"], {"difference": Interval(mean=2.0, low=1.0, high=3.0), "price": 20.0, "bytes_per_s": 80.0},
         ("acc@10Hz changes balanced accuracy by +2.0 points (95 % interval +1.0 to +3.0) against acc, and costs 20.0"
          " instead of 90.0 EUR: the cheapest variant within 1 point in validation")),
    ],
)  # fmt: skip
def test_a_verdict_names_what_is_cheaper_and_no_difference_within_chance(document, titles, changed, expected):
    full, *others = document.rows
    full = msgspec.structs.replace(full, price=90.0 if "price" in changed else None)
    rows = [full, *(msgspec.structs.replace(row, **changed) for row in others if row.title in titles)]
    assert next(verdict(msgspec.structs.replace(document, rows=tuple(rows), currency="EUR"))) == expected


WINDOWS = {1: 10, 2: 10}


def two_folds(make, *, teacher=9, **options):
    """Baselines at 0.5 and 0.7, students at 0.6 and 1.0, the teacher at 0.9 and `teacher` tenths."""
    first = make(
        seed=0, windows=WINDOWS, teacher={1: 9, 2: 9}, students={"acc": ({1: 6, 2: 6}, {1: 5, 2: 5})}, **options
    )
    second = make(
        seed=1, windows=WINDOWS, teacher={1: teacher, 2: teacher}, students={"acc": ({1: 10, 2: 10}, {1: 7, 2: 7})}
    )
    return joined(first, second)


def document_of(table):
    """The document as a reader of the JSON has it."""
    spec = msgspec.structs.replace(table.spec, task=TaskSpec(labels=("a", "b")))
    return json.loads(msgspec.json.encode(demo_document(replace(table, spec=spec))))


def test_means_and_spreads_are_those_of_the_seeds(fold_result, machines):
    document = document_of(two_folds(fold_result))
    student, baseline = document["students"]["acc"]["student"], document["students"]["acc"]["baseline"]
    assert student["accuracy"] == {"mean": 0.8, "std": pytest.approx(0.2 * 2**0.5), "per_seed": [0.6, 1.0]}
    assert baseline["accuracy"] == {"mean": 0.6, "std": pytest.approx(0.1 * 2**0.5), "per_seed": [0.5, 0.7]}
    assert student["balanced_accuracy"]["per_seed"] == [0.3, 0.5]
    assert student["macro_f1"]["mean"] == 0.2
    assert document["teacher"]["accuracy"]["mean"] == 0.9
    assert document["seeds"] == [0, 1]
    confusion = document["students"]["acc"]["student"]["confusion"]
    assert confusion == [[12 + 20, 8 + 0], [0, 0]]
    assert document["dataset"]["windows"]["test"] == sum(map(sum, confusion))  # of both seeds


def test_the_gain_is_in_points_and_says_how_its_interval_was_made(fold_result, machines):
    document = document_of(two_folds(fold_result))
    gain = document["students"]["acc"]["gain_points"]
    assert gain == {
        "mean": pytest.approx(20.0),
        "method": "mean over seeds of student minus baseline; an interval needs 5 groups or more, and more seeds test "
        "further ones",
    }
    assert document["mean_gain_points"] == gain  # of a single modality
    gain = document_of(of_twenty(fold_result))["students"]["acc"]["gain_points"]
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert gain["method"].startswith(
        "mean over seeds of student minus baseline; 95 % interval by resampling whole groups"
    )


def test_the_gap_recovered_is_the_share_of_the_teachers_lead(fold_result, machines, monkeypatch):
    entry = document_of(two_folds(fold_result))["students"]["acc"]
    assert (entry.get("gap_recovered"), entry["gap_points"]) == (None, {"mean": pytest.approx(30.0)})
    monkeypatch.setattr("mmkd_models.evaluation.gains.MIN_GROUPS", 2)
    entry = document_of(two_folds(fold_result))["students"]["acc"]
    assert entry["gap_recovered"] == pytest.approx((0.8 - 0.6) / (0.9 - 0.6))
    assert entry["gap_points"] == {key: pytest.approx(30.0) for key in ("mean", "low", "high")}
    assert entry["over_teacher_points"] == {key: pytest.approx(-10.0) for key in ("mean", "low", "high")}


def test_every_network_and_rival_is_held_against_guessing(fold_result, machines):
    # All windows are of one class: whoever names it is always right.
    document = document_of(two_folds(fold_result))
    entry = document["students"]["acc"]
    for network in (document["teacher"], entry["student"], entry["baseline"]):
        assert (network["chance"]["figure"], network["chance"]["is_better"]) == (1.0, False)
    assert entry["student"]["chance"]["low"] <= 0.8 <= entry["student"]["chance"]["high"]
    assert entry["extra_trees"]["chance"]["figure"] == 1.0
    assert entry["extra_trees"]["valid_score"]["mean"] == 0.5


def tossed(network, right):
    """As many right answers to ten windows of each of two classes, every window a group of its own."""
    half, rest = right // 2, right - right // 2
    confusion = ((half, 10 - half), (10 - rest, rest))
    test = TestedNetwork(
        class_scores=Scores(accuracy=right / 20, balanced_accuracy=right / 20, macro_f1=0.5, confusion=confusion),
        confusions=tuple(
            GroupConfusion(group=window, confusion=((int(window < right), int(window >= right)), (0, 0)))
            for window in range(20)
        ),
    )
    return replace(network, test=test)


def of_twenty(make):
    """A fold of twenty windows, all groups of their own; the student is right in 13, labels alone in 8."""
    table = make(seed=0, windows=WINDOWS, teacher={1: 9, 2: 9}, students={"acc": ({1: 6, 2: 6}, {1: 5, 2: 5})})
    plan, rows = table.plan, table.students["acc"]
    right = {plan.student: 13, plan.baseline: 8}
    students = {"acc": {entry: {0: tossed(rows[entry][0], count)} for entry, count in right.items()}}
    return replace(table, students=students, teachers={plan.teacher.name: {0: tossed(table.teacher()[0], 10)}})


def test_random_numbers_end_in_no_verdict(fold_result, machines):
    """As the example of the README: the student is ahead of everything else, and none is better than tossing a coin."""
    demo = read_demo(document_of(of_twenty(fold_result)))
    assert demo.students["acc"].gap_recovered is None
    (sentence,) = answer(demo)
    assert sentence.startswith(
        "Not decided. No sensor can be judged: no student is better than chance (accuracy: acc 65.0"
    )
    assert sentence.endswith("chance 50.0\u202f%).")


def test_a_rival_without_scores_keeps_its_keys_and_says_why(fold_result, machines):
    entry = document_of(two_folds(fold_result, mini_rocket="aeon is not installed"))["students"]["acc"]
    scores = dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1"))
    assert entry["mini_rocket"] == {**scores, "reason": "aeon is not installed"}
    assert entry["extra_trees"]["accuracy"] == {"mean": 0.5, "std": 0.0, "per_seed": [0.5, 0.5]}


def test_missing_sensors_sizes_and_facts_of_the_dataset_are_in_the_document(fold_result, machines):
    document = document_of(two_folds(fold_result))
    assert document["students"]["acc"]["missing"]["student"][1]["per_seed"] == [0.0, 0.25]
    assert document["students"]["acc"]["missing"]["fractions"] == [0.0, 0.5]
    assert document["teacher"]["missing"][1]["modalities"] == ["acc"]
    assert document["teacher"]["missing"][1]["accuracy"]["mean"] == 0.25
    assert document["students"]["acc"]["parameters_ratio"] == 10.0
    assert (document["teacher"]["parameters"], document["students"]["acc"]["student"]["parameters"]) == (500, 50)
    facts = document["dataset"]
    assert (facts["name"], facts["licence"], facts["groups"]) == ("machines", "CC0-1.0", 9)
    acc = {"name": "acc", "channels": ["x", "y"], "rate_hz": 20.0, "samples": 40, "unit": "g"}
    assert facts["modalities"][0] == acc
    assert read_demo(document).students["acc"].gap_recovered == document["students"]["acc"]["gap_recovered"]
