"""The study page: its recommendation in words, its tables and figures, its safety and its looks."""

import copy
import random
import statistics

import pytest

from mmkd_app.pages.study import answer, key_figures
from tests.app.pages.conftest import cells, section
from tests.app.pages.rendered import read_study, render_study

METRICS = ("accuracy", "balanced_accuracy", "macro_f1")
SEEDS = [2, 3, 4]
TEACHER = "acc+gyro:small"
PARAMETERS = {"tiny": 60_871, "small": 189_311}
LATENCY = {"tiny": 0.2124, "small": 0.4312}


def spread(values):
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "per_seed": values}


def table(values):
    return {name: spread([value - 0.01 * number for value in values]) for number, name in enumerate(METRICS)}


def gain(ours, theirs):
    points = [100 * (our - their) for our, their in zip(ours, theirs, strict=True)]
    found = spread(points)
    return found | {"low": found["mean"] - 2.5, "high": found["mean"] + 2.25}


def pair(size):
    own = LATENCY[size]
    return {
        "student_ms": {"p50": own, "p90": 1.1 * own, "p99": 1.4 * own},
        "teacher_ms": {"p50": 1.5, "p90": 1.6, "p99": 1.9},
        "ratio": 1.5 / own,
        "machine": {"cpu_model": "Some CPU", "cores": 4},
    }


def entry(student, method, values, alone, *, chosen=False):
    taught = method != "none"
    return {
        "student": student,
        "method": method,
        "teacher": TEACHER if taught else None,
        "seeds": list(SEEDS),
        "learning_rates": [0.001, 0.003, 0.001],
        "search_score": 0.8 if taught else 0.7,
        "valid_score": spread(values),
        "test": table(values),
        "gain_points": dict.fromkeys(METRICS, gain(values, alone)) if taught else None,
        "gap_recovered": 0.4375 if taught else None,
        "parameters": PARAMETERS[student],
        "latency_ms": LATENCY[student],
        "chosen": chosen,
    }


def trial(number, state="finished"):
    return {
        "student": "tiny",
        "method": "logit",
        "teacher": TEACHER,
        "learning_rate": 0.001,
        "seed": number,
        "state": state,
        "score": None if state == "failed" else 0.5 + 0.001 * number,
        "reason": "the loss is not finite" if state == "failed" else "",
        "sha256": "ef" * 32,
    }


def recipe(**weight):
    return {"terms": [{"type": "edam", "weight": weight, "student_layer": -1, "teacher_layer": -1}]}


def sizes():
    left_out = {
        "preset": "base",
        "parameters": 2_700_000,
        "latency": None,
        "excluded": "2,700,000 parameters, more than 1,000,000",
    }
    tried = [
        {"preset": size, "parameters": PARAMETERS[size], "latency": pair(size), "excluded": ""} for size in PARAMETERS
    ]
    return [*tried, left_out]


@pytest.fixture
def searched():
    """A search over two sizes: small with attention at the last layer is chosen."""
    rng = random.Random(7)

    def draw(level):
        return [level + rng.uniform(-0.03, 0.03) for _ in SEEDS]

    alone = {"tiny": draw(0.66), "small": draw(0.67)}
    entries = [
        entry("small", "none", alone["small"], alone["small"]),
        entry("tiny", "none", alone["tiny"], alone["tiny"]),
        entry("small", "logit+edam@last", [v + 0.051 for v in alone["small"]], alone["small"], chosen=True),
        entry("tiny", "logit", [v + 0.02 for v in alone["tiny"]], alone["tiny"]),
        entry("tiny", "crd", [v - 0.04 for v in alone["tiny"]], alone["tiny"]),
    ]
    return {
        "format_version": 1,
        "facts": {
            "mode": "search",
            "modality": "gyro",
            "label_fraction": 0.1,
            "metric": "balanced_accuracy",
            "search_seeds": [0],
            "seeds": list(SEEDS),
            "student_steps": 600,
            "teacher_steps": 300,
            "learning_rates": [0.001, 0.003],
            "max_latency_ms": 0.5,
        },
        "coverage": {"complete": True, "finished": 44, "failed": 1, "expected": None},
        "dataset": {
            "name": "exercises",
            "sha256": "ab" * 32,
            "source": "a gymnasium",
            "licence": "BSD-3-Clause",
            "labels": ["pendulum", "row", "press"],
            "modalities": ["acc", "gyro"],
            "windows": 2229,
            "groups": 20,
        },
        "students": sizes(),
        "teachers": [
            {
                "name": TEACHER,
                "modalities": ["acc", "gyro"],
                "preset": "small",
                "parameters": 743_211,
                "seeds": list(SEEDS),
                "valid_score": spread([0.8, 0.81, 0.82]),
                "test": table([0.79, 0.8, 0.81]),
                "sha256": ["cd" * 32] * 3,
            }
        ],
        "methods": [
            {"name": "none", "recipe": None},
            {"name": "logit+edam@last", "recipe": recipe(start=0.5, end=0.0, until=0.6)},
            {"name": "crd", "recipe": recipe(start=0.1, end=0.1, until=1.0) | {"trust": {"known": "label"}}},
        ],
        "skipped": [
            {"student": "tiny", "method": "edam@last", "teacher": "gyro:tiny", "reason": "it has no cross-attention"}
        ],
        "entries": entries,
        "rivals": [
            {"name": "extra_trees", "seeds": [0, 2, 3], "test": table([0.6, 0.61, 0.65]), "reason": ""},
            {"name": "mini_rocket", "seeds": [], "test": None, "reason": "aeon is not installed"},
        ],
        "selection": None,
        "recommendation": {
            "student": "small",
            "method": "logit+edam@last",
            "teacher": TEACHER,
            "learning_rate": 0.003,
            "seed": 3,
            "checkpoint": "study/student.ckpt",
            "sha256": "12" * 32,
            "valid_score": 0.8125,
            "latency": pair("small"),
        },
        "trials": [trial(number) for number in range(6)] + [trial(6), trial(7, "failed")],
        "versions": {"python": "3.11", "torch": "2.6"},
        "duration_s": 4321.0,
        "command": "mmkd-study exercises --modality gyro -o study",
    }


@pytest.fixture
def grid(searched):
    """A grid of one size where labels only are chosen, on one seed, without latencies."""
    document = copy.deepcopy(searched)
    alone, taught = [0.7], [0.65]
    rows = [entry("tiny", "none", alone, alone, chosen=True), entry("tiny", "logit", taught, alone)]
    for row in rows:
        row |= {"seeds": [0], "search_score": None, "latency_ms": None, "learning_rates": [0.001]}
    document["entries"] = rows
    document["facts"] |= {
        "mode": "grid",
        "search_seeds": [],
        "seeds": [0],
        "label_fraction": 1.0,
        "max_latency_ms": None,
    }
    document["coverage"] |= {"complete": False, "expected": 100}
    document["students"] = [document["students"][0] | {"latency": None}]
    document["selection"] = {
        "chosen": ["none tiny"],
        "test": table(alone),
        "gain_points": dict.fromkeys(METRICS, gain(alone, alone)),
    }
    document["recommendation"] |= {"student": "tiny", "method": "none", "teacher": None, "latency": None}
    document["teachers"][0] |= {"seeds": [0], "test": table([0.9]), "sha256": ["cd" * 32]}
    document["skipped"] = []
    document["rivals"] = [{"name": "extra_trees", "seeds": [0], "test": table([0.75]), "reason": ""}]
    return document


def percent(value):
    return f"{100 * value:.1f}"


def answer_texts(document, parse):
    return [node.text for node in section(parse(render_study(document)), "answer").all("p")]


USE = "Use the small student distilled with logit+edam@last from the teacher acc+gyro:small: the best of 8 trainings on"


def test_the_recommendation_is_a_sentence_with_its_evidence(searched, parse):
    row = searched["entries"][2]
    ours, alone = row["test"]["balanced_accuracy"], searched["entries"][0]["test"]["balanced_accuracy"]
    gained = row["gain_points"]["balanced_accuracy"]
    ends = f"95 % interval {gained['low']:.1f} to {gained['high']:.1f}"
    assert answer_texts(searched, parse) == [
        f"{USE} the search's validation windows.",
        (
            f"Distillation improves balanced accuracy by {gained['mean']:.1f} points ({ends}). Balanced accuracy on "
            f"the test windows of 3 folds: the student {percent(ours['mean'])}\u202f%, labels only "
            f"{percent(alone['mean'])}\u202f%, the teacher 79.0\u202f%."
        ),
    ]
    searched["rivals"][1] = {"name": "mini_rocket", "seeds": SEEDS, "test": table([0.9] * 3), "reason": ""}
    assert answer_texts(searched, parse)[-1] == "Ahead of the student on test: MiniRocket 89.0\u202f%."


def test_labels_only_are_recommended_where_nothing_beats_them(grid, parse):
    assert answer_texts(grid, parse) == [
        "Use the tiny student trained on labels only: the best of 8 trainings on the validation windows of all folds.",
        "Balanced accuracy on the test windows of 1 fold: the student 69.0\u202f%.",
        "Ahead of the student on test: extra-trees 74.0\u202f%.",
        (
            "The study is not complete: 44 of 100 trainings are finished; the same command continues it. "
            "One seed has no spread: another fold may give another result."
        ),
    ]


def first_sentence(study):
    return answer(read_study(study))[0]


CHOSEN = "the small student distilled with logit+edam@last from the teacher acc+gyro:small"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (None, f"{USE} the search's validation windows."),
        (0.7, f"{USE} the search's validation windows."),
        (0.8, f"Not recommended: on validation extra-trees reaches 80.0\u202f%, {CHOSEN} 80.0\u202f%."),
    ],
)
def test_a_student_is_recommended_where_no_rival_is_as_good_on_validation(searched, level, expected):
    searched["entries"][2]["valid_score"] = spread([0.7, 0.9, 0.1])  # the rival was not run on the last fold
    searched["rivals"][0]["valid_score"] = None if level is None else spread([0.1, level, level])
    assert first_sentence(searched) == expected


def test_a_study_says_how_students_were_chosen_labelled_and_what_leaks(searched):
    words = "Validation chose every student among"
    assert words not in render_study(searched)
    searched["facts"]["choose"] = True
    assert words in render_study(searched)
    guess = {"figure": 0.2, "low": 0.8, "high": 0.9, "is_better": True}
    searched["facts"]["labels_spread_in_time"] = {"figure": spread([0.84]), "chance": guess, "leaks": True}
    assert "labels of neighbouring windows reach accuracy 84.0\u202f% on the unlabelled ones" in render_study(searched)
    searched["facts"] |= {"label_fraction": None, "labelled_groups": {"labelled": 4, "of": [12, 12, 13]}}
    assert "Training uses the labels of 4 of 12 to 13 groups" in render_study(searched)


def test_a_rocket_that_the_teacher_taught_speaks_against_no_student(searched):
    taught = {"name": "distilled_rocket", "teacher": "acc+gyro:small", "valid_score": spread([0.99] * 3)}
    searched["rivals"].append(searched["rivals"][0] | taught | {"test": table([0.99, 0.98, 0.97])})
    assert first_sentence(searched).startswith(f"Use {CHOSEN}")
    page = render_study(searched)
    assert "distilled MiniRocket" in page
    assert "Ahead of the student" not in page


def test_a_student_that_is_not_better_than_guessing_concludes_nothing(searched, parse):
    entry = searched["entries"][2]
    entry["chance"] = {"figure": 0.7, "low": 0.65, "high": 0.8, "is_better": False}
    mean = percent(entry["test"]["balanced_accuracy"]["mean"])
    (said,) = answer_texts(searched, parse)
    assert said == (
        f"No student can be judged: {CHOSEN}, which validation chose, is no better than chance (balanced accuracy "
        f"{mean}\u202f% (95 % interval 65.0 to 80.0), chance 70.0\u202f%)."
    )
    figures = section(parse(render_study(searched)), "answer").all("ul", "key-figures")[0].text
    assert "labels only" not in figures
    entry["chance"] |= {"figure": 0.6, "is_better": True}
    assert first_sentence(searched).startswith("Use the small student")


def test_a_grid_tells_what_choosing_inside_every_fold_gives(searched, parse):
    searched["facts"] |= {"mode": "grid", "search_seeds": []}
    found = {"mean": 2.0, "std": 1.0, "low": 0.5, "high": 3.5, "per_seed": [1.0, 2.0, 3.0]}
    gains = {metric: dict(found) for metric in METRICS}
    searched["selection"] = {"chosen": ["logit tiny"] * 3, "test": table([0.7] * 3), "gain_points": gains}
    assert answer_texts(searched, parse)[2] == (
        "One fold validates on what another one tests on, so this choice may be optimistic. With a choice inside every "
        "fold: Distillation improves balanced accuracy by 2.0 points (95 % interval 0.5 to 3.5)."
    )


def test_the_question_names_the_limits(searched, grid, parse):
    for document, limit in ((searched, " within 0.500\u202fms"), (grid, "")):
        assert parse(render_study(document)).all("h1")[0].text == (
            f"Which student that sees gyro alone is best{limit}, and what does distillation gain?"
        )


def test_the_page_holds_the_figures_of_the_document_what_was_tried_and_how_to_reproduce(searched, parse):
    page = parse(render_study(searched))
    rows = cells(section(page, "table").all("table")[0])
    assert [row[0] for row in rows] == [
        *("teachers", "acc+gyro:small", "small student", "labels only", "logit+edam@last chosen"),
        *("tiny student", "labels only", "logit", "crd", "without a network", "extra-trees"),
    ]
    row = searched["entries"][2]
    scores = [f"{percent(row['test'][m]['mean'])} ± {percent(row['test'][m]['std'])}" for m in METRICS]
    found = row["gain_points"]["balanced_accuracy"]
    gained = f"+{found['mean']:.1f} ± 0.0 {found['low']:.1f} to {found['high']:.1f}"
    assert rows[4][1:] == [*scores, gained, "44", "189\u202fk", "0.431"]
    tried = section(page, "table")
    assert tried.all("p", "about")[0].text == (
        "44 trainings finished, 1 failed, 1 combination cannot be trained, all in study.json with the recipes. Every "
        "student had 600 steps, every teacher 300."
    )
    assert tried.all("p", "notes")[0].text.endswith("Left out: base has 2,700,000 parameters, more than 1,000,000.")
    part = section(page, "reproduce")
    assert part.all("pre")[0].text == searched["command"]
    assert {"ab" * 32, "cd" * 32, "12" * 32} <= {node.text for node in part.all("code", "hash")}
    assert {"3.11", "2.6", "Some CPU"} <= {node.text for node in part.all("dd")}
    score = percent(row["test"]["balanced_accuracy"]["mean"])
    ends = f"95 % interval {found['low']:.1f} to {found['high']:.1f}"
    assert list(key_figures(read_study(searched))) == [
        (f"{score}\u202f%", "balanced accuracy of the chosen student on test"),
        (f"+{found['mean']:.1f}", f"points gained over labels only · {ends}"),
        ("189\u202fk", "parameters · teacher 743\u202fk"),
        (
            "0.431\u202fms",
            "median latency of one window in ONNX Runtime, one thread · teacher 1.50\u202fms, 3.48\u00d7",
        ),
    ]
