"""Pages and sentences on labelled groups, on a share that leaks, and on the rivals that came later."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mmkd_report.pages.demo import render_demo
from mmkd_report.pages.demo_answer import question, recommendation
from mmkd_report.schema.demo import DemoDocument, DemoRival, read_demo
from mmkd_report.schema.figures import LabelledGroups, Spread
from mmkd_report.words import labelled_title

S = "\u202f"
Document = dict[str, Any]

GROUPS = {"labelled": 2, "of": [6, 6]}
LEAK = {
    "figure": {"mean": 0.754, "std": 0.03, "per_seed": [0.754]},
    "chance": {"figure": 0.519, "low": 0.72, "high": 0.78, "is_better": True},
    "leaks": True,
}
LEAKS = (
    f"A random 10{S}% of labels leaks through time: labels of neighbouring windows reach accuracy 75.4{S}% on the "
    f"unlabelled ones without any sensor (chance: 51.9{S}%). Label whole groups instead (--labelled-groups)."
)


def test_titles_say_how_many_groups_of_how_many_were_labelled() -> None:
    assert labelled_title(0.1, None) == "10% labelled"
    assert labelled_title(None, LabelledGroups(labelled=2, of=(6, 6))) == "2 of 6 groups labelled"
    assert labelled_title(None, LabelledGroups(labelled=4, of=(13, 14, 14))) == "4 of 13 to 14 groups labelled"


def test_the_demo_tells_its_story_of_labelled_groups(two_sensors: Document) -> None:
    del two_sensors["label_fraction"]
    two_sensors["labelled_groups"] = GROUPS
    assert question(read_demo(two_sensors)) == (
        "Everything was recorded, 2 of 6 groups were labelled. Which one sensor is enough, and what does distillation "
        "gain?"
    )
    page = render_demo(two_sensors)
    assert "Training uses the labels of 2 of 6 groups, chosen by the seed; all validation windows are labelled." in page
    assert re.search(r"<title>.*, 2 of 6 groups labelled: which one sensor is enough\?</title>", page)


@pytest.mark.parametrize("leaks", [True, False])
def test_a_leak_stands_on_the_page_of_a_demo(two_sensors: Document, leaks: bool) -> None:
    two_sensors["labels_spread_in_time"] = LEAK | {"leaks": leaks}
    assert (LEAKS in render_demo(two_sensors)) is leaks


def roles_of_first_sensor(page: str) -> list[str]:
    """The roles of the rows of the first sensor in the table of results."""
    bodies = re.findall(r"<tbody.*?</tbody>", page, flags=re.DOTALL)
    return re.findall(r'<tr role="row" class="role-(\w+)"', bodies[1])


def test_rivals_that_were_not_run_have_no_row(two_sensors: Document) -> None:
    assert roles_of_first_sensor(render_demo(two_sensors)) == ["extra_trees", "mini_rocket", "baseline", "student"]
    for contest in two_sensors["students"].values():
        contest["distilled_rocket"] = contest["rocket_and_trees"] = contest["mini_rocket"]
    page = render_demo(two_sensors)
    assert roles_of_first_sensor(page) == [
        "extra_trees",
        "mini_rocket",
        "rocket_and_trees",
        "baseline",
        "distilled_rocket",
        "student",
    ]
    assert "MiniRocket + trees</span>" in page
    assert "Distilled MiniRocket</span>" in page


def changed(demo: DemoDocument, name: str, valid: Callable[[float], float]) -> DemoDocument:
    """Every student validates at 0.8, its rivals lower, and one more rival as told."""
    half = DemoRival(accuracy=Spread(mean=0.5), valid_score=Spread(mean=0.5))
    students = {
        sensor: msgspec.structs.replace(
            contest,
            student=msgspec.structs.replace(contest.student, valid_score=Spread(mean=0.8), chance=None),
            baseline=None,
            extra_trees=half,
            mini_rocket=half,
            **{name: msgspec.structs.replace(half, valid_score=Spread(mean=valid(0.8)))},
        )
        for sensor, contest in demo.students.items()
    }
    return msgspec.structs.replace(demo, students=students)


def test_every_rival_that_nobody_taught_speaks_against_a_student_and_the_taught_one_does_not(
    two_sensors: Document,
) -> None:
    demo = read_demo(two_sensors)
    for name, words in (("rocket_and_trees", "MiniRocket and extra-trees averaged"),):
        said = recommendation(changed(demo, name, lambda own: own + 0.01))
        assert said.startswith(f"Not recommended: on validation {words} reaches 81.0{S}%, the ")
        assert said.endswith(f" student 80.0{S}%.")
    said = recommendation(changed(demo, "distilled_rocket", lambda own: own + 0.01))
    assert said.startswith("Recommended: the ")
    assert said.endswith(f" On validation it reaches 80.0{S}%, extra-trees 50.0{S}% and MiniRocket 50.0{S}%.")
