"""The page of an evaluation: its sentences, curves and table against the document, and its safety."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mmkd_report import DocumentError, render_evaluation

Document = dict[str, Any]
SHARES = (0.0, 0.1, 0.5, 0.9)
HOSTILE = "</style><script>alert(1)</script><img src=x onerror='alert(2)'>\"&{{ 7*7 }}"


def scores(level: float) -> Document:
    return {"accuracy": level + 0.01, "balanced_accuracy": level, "macro_f1": level - 0.01}


def judgement(level: float, other: float | None = None, *, interval: bool = True) -> Document:
    found: Document = {"scores": scores(level), "against": None, "gain": None}
    if other is not None:
        points = 100 * (level - other)
        ends = (points - 2, points + 2) if interval else (None, None)
        found |= {"against": scores(other), "gain": {"points": points, "low": ends[0], "high": ends[1]}}
    return found


def model(name: str, kind: str, modalities: list[str]) -> Document:
    return {
        "path": f"runs/{name}",
        "sha256": "a" * 64,
        "kind": kind,
        "modalities": modalities,
        "parameters": 61_711,
        "dataset_sha256": "d" * 64,
        "distilled": name.startswith("student"),
        "span_dropout": 0.2,
        "channel_dropout": 0.05,
    }


@pytest.fixture
def student() -> Document:
    """A student beside a baseline that loses twice as much."""
    return {
        "format_version": 1,
        "model": model("student.ckpt", "student", ["acc"]),
        "against": model("baseline.ckpt", "student", ["acc"]),
        "data": {
            "name": "line 3",
            "sha256": "d" * 64,
            "part": "test windows",
            "windows": 1200,
            "groups": 9,
            "labels": ["good", "worn"],
        },
        "metric": "balanced_accuracy",
        "seed": 3,
        "complete": judgement(0.8, 0.8),
        "subsets": [],
        "samples": [judgement(0.8 - share / 4, 0.8 - share / 2) | {"share": share} for share in SHARES],
        "bursts": [judgement(0.8 - share / 2, 0.8 - share / 2) | {"share": share} for share in SHARES],
    }


@pytest.fixture
def teacher(student: Document) -> Document:
    """A teacher of two sensors alone."""
    names = ["acc", "gyro"]
    found = copy.deepcopy(student)
    found |= {"model": model("teacher.ckpt", "teacher", names), "against": None, "complete": judgement(0.9)}
    found["subsets"] = [
        judgement(level) | {"modalities": chosen} for level, chosen in ((0.9, names), (0.7, ["acc"]), (0.75, ["gyro"]))
    ]
    for part in ("samples", "bursts"):
        found[part] = [judgement(0.9 - share / 2) | {"share": share} for share in SHARES]
    return found


def section(page, name):
    return next(node for node in page.all("section") if node.attrs["aria-labelledby"] == name)


def rows(page) -> dict[tuple[str, str], list[str]]:
    found, group = {}, ""
    for row in page.all("table", "results")[0].all("tr")[1:]:
        if "group" in row.classes:
            group = row.all("th")[0].text
        else:
            found[group, row.all("th")[0].text] = [cell.text for cell in row.all("td", "number")]
    return found


def test_the_answer_tells_what_is_left_of_the_student(student, parse) -> None:
    texts = [node.text for node in section(parse(render_evaluation(student)), "answer").all("p")]
    assert texts[0] == (
        "With all data present, student.ckpt reaches balanced accuracy 80.0\u202f%: 0.0 points compared with "
        "baseline.ckpt, not significant (95 % interval \u22122.0 to 2.0)."
    )
    assert texts[1] == (
        "With half of the samples missing, it reaches 67.5\u202f%: +12.5 points compared with baseline.ckpt (95 % "
        "interval 10.5 to 14.5)."
    )
    assert texts[2] == (
        "With a burst of half of the window missing, it reaches 55.0\u202f%: 0.0 points compared with baseline.ckpt, "
        "not significant (95 % interval \u22122.0 to 2.0)."
    )
    assert len(texts) == 3


@pytest.mark.parametrize(
    ("complete", "expected"),
    [
        (judgement(0.8), "."),
        (
            judgement(0.8, 0.9),
            ": \u221210.0 points compared with baseline.ckpt (95 % interval \u221212.0 to \u22128.0).",
        ),
        (
            judgement(0.8, 0.81),
            ": \u22121.0 points compared with baseline.ckpt, not significant (95 % interval \u22123.0 to 1.0).",
        ),
        (
            judgement(0.8, 0.9, interval=False),
            ": \u221210.0 points compared with baseline.ckpt (no confidence interval).",
        ),
    ],
)
def test_the_answer_does_not_leave_out_what_the_other_model_is_better_by(student, parse, complete, expected) -> None:
    student["complete"] = complete
    texts = [node.text for node in section(parse(render_evaluation(student)), "answer").all("p")]
    assert texts[0] == f"With all data present, student.ckpt reaches balanced accuracy 80.0\u202f%{expected}"


GUESS = {"figure": 0.5, "low": 0.45, "high": 0.6, "is_better": False}


def test_a_model_that_is_not_better_than_guessing_concludes_nothing(student, parse) -> None:
    student["complete"] = judgement(0.55, 0.4) | {"guessing": GUESS}
    texts = [node.text for node in section(parse(render_evaluation(student)), "answer").all("p")]
    assert texts == [
        (
            "student.ckpt is no better than chance, so no conclusion is drawn (balanced accuracy 55.0\u202f% "
            "(95 % interval 45.0 to 60.0), chance 50.0\u202f%)."
        )
    ]


def test_a_condition_that_leaves_no_more_than_guessing_is_said_to(teacher, parse) -> None:
    for one in teacher["samples"]:
        one["guessing"] = GUESS | {"is_better": one["share"] < 0.5}
    texts = [node.text for node in section(parse(render_evaluation(teacher)), "answer").all("p")]
    assert texts[2] == (
        "With half of the samples missing, it reaches 65.0\u202f%, no better than chance (50.0\u202f%)."
    )


def test_a_title_speaks_of_failing_sensors_where_some_failed(student, parse) -> None:
    page = parse(render_evaluation(student))
    assert page.all("h1")[0].text == "How well does student.ckpt work when sensors fail?"
    page = parse(render_evaluation(student | {"samples": [], "bursts": []}))
    assert page.all("h1")[0].text == "How good is student.ckpt?"
    assert page.all("title")[0].text.startswith("student.ckpt: how good it is")
    assert not any(word in page.text for word in ("fail", "gaps", "go missing"))


def test_the_answer_names_the_best_single_sensor_of_a_teacher(teacher, parse) -> None:
    texts = [node.text for node in section(parse(render_evaluation(teacher)), "answer").all("p")]
    assert texts[1] == "With gyro alone, its best single sensor, it reaches 75.0\u202f%."
    assert texts[2] == "With half of the samples missing, it reaches 65.0\u202f%."


def test_the_table_holds_every_condition(student, teacher, parse) -> None:
    found = rows(parse(render_evaluation(student)))
    assert found["All data present", "acc"] == ["81.0", "80.0", "79.0", "80.0", "0.0 \u22122.0 to 2.0"]
    assert found["Samples missing", "90\u202f%"] == ["58.5", "57.5", "56.5", "35.0", "+22.5 20.5 to 24.5"]
    assert found["A burst missing", "10\u202f%"] == ["76.0", "75.0", "74.0", "75.0", "0.0 \u22122.0 to 2.0"]
    assert len(found) == 1 + 3 + 3
    alone = rows(parse(render_evaluation(teacher)))
    assert alone["Sensors missing", "gyro"] == ["76.0", "75.0", "74.0"]
    assert len(alone) == 1 + 2 + 3 + 3


def test_the_curves_are_those_of_both_models_over_one_scale(student, parse) -> None:
    charts = section(parse(render_evaluation(student)), "curves").all("svg", "chart")
    assert [len(chart.all("path", "line")) for chart in charts] == [2, 2]
    assert charts[0].all("desc")[0].text == (
        "At 0 10 50 90 percent missing: baseline.ckpt 80.0 75.0 55.0 35.0; student.ckpt 80.0 77.5 67.5 57.5."
    )
    labels = [[tick.text for tick in chart.all("text", "tick")] for chart in charts]
    assert labels[0] == labels[1]


def test_models_of_one_file_name_are_told_apart_by_their_paths(student, parse) -> None:
    student["against"]["path"] = "earlier/student.ckpt"
    text = parse(render_evaluation(student)).text
    assert "How well does runs/student.ckpt work when sensors fail?" in text
    assert "Compared with earlier/student.ckpt, on the same windows" in text


def test_what_was_hidden_in_training_is_told(student, teacher, parse) -> None:
    assert (
        "hidden in training a span in 20\u202f% of the windows and 5\u202f% of the channels"
        in parse(render_evaluation(student)).text
    )
    student["model"] |= {"span_dropout": 0.0, "channel_dropout": 0.0}
    assert "hidden in training nothing" in parse(render_evaluation(student)).text
    teacher["model"]["modality_dropout"] = 0.3
    assert "hidden in training a modality in 30\u202f% of the windows, a span" in parse(render_evaluation(teacher)).text


def test_too_few_groups_show_no_interval(student, parse) -> None:
    student["complete"] = judgement(0.8, 0.75, interval=False)
    assert rows(parse(render_evaluation(student)))["All data present", "acc"][-1] == "+5.0"


def test_without_missing_there_are_no_curves(student, parse) -> None:
    student |= {"samples": [], "bursts": []}
    page = parse(render_evaluation(student))
    assert [node.attrs["aria-labelledby"] for node in page.all("section")] == ["answer", "results", "origin"]


def poisoned(value):
    if isinstance(value, dict):
        return {key: poisoned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [poisoned(inner) for inner in value]
    return value + HOSTILE if isinstance(value, str) and value != "balanced_accuracy" else value


def test_hostile_names_stay_text_and_nothing_is_fetched(teacher, parse) -> None:
    page = parse(render_evaluation(poisoned(teacher)))
    assert not {node.tag for node in page.walk()} & {"script", "img", "iframe", "object", "form"}
    assert not any(name.startswith("on") for node in page.walk() for name in node.attrs)
    assert all(node.attrs.get("href", "#").startswith(("#", "data:")) for node in page.walk())
    assert not any({"fill", "stroke", "color"} & set(node.attrs) for node in page.walk())


def test_equal_documents_give_equal_small_pages(student) -> None:
    html = render_evaluation(student)
    assert render_evaluation(copy.deepcopy(student)) == html
    assert len(html.encode()) < 100_000


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"format_version": 9},
            "expected format_version 1, got 9; make the page with the release that made the document",
        ),
        ({"seed": "x"}, "Expected `int`, got `str` - at `$.seed`; make it again with mmkd-evaluate"),
        (
            {"metric": "luck"},
            "metric: expected one of accuracy, balanced_accuracy, macro_f1, got 'luck'; correct it",
        ),
    ],
)
def test_a_broken_document_is_refused_with_the_place(student, change, problem) -> None:
    with pytest.raises(DocumentError) as error:
        render_evaluation(student | change)
    assert str(error.value) == f"evaluation document: {problem}"
