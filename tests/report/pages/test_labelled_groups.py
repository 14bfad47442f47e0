"""Pages and sentences on labelled groups, on a share that leaks, and on the rivals that came later."""

import re

import pytest

from mmkd_report.pages.demo_answer import question
from mmkd_report.schema.figures import LabelledGroups
from mmkd_report.words import labelled_title
from tests.report.rendered import read_demo, render_demo

S = "\u202f"

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


def test_titles_say_how_many_groups_of_how_many_were_labelled():
    assert labelled_title(0.1, None) == "10% labelled"
    assert labelled_title(None, LabelledGroups(labelled=2, of=(6, 6))) == "2 of 6 groups labelled"
    assert labelled_title(None, LabelledGroups(labelled=4, of=(13, 14, 14))) == "4 of 13 to 14 groups labelled"


def test_the_demo_tells_its_story_of_labelled_groups(two_sensors):
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
def test_a_leak_stands_on_the_page_of_a_demo(two_sensors, leaks):
    two_sensors["labels_spread_in_time"] = LEAK | {"leaks": leaks}
    assert (LEAKS in render_demo(two_sensors)) is leaks


def roles_of_first_sensor(page):
    """The roles of the rows of the first sensor in the table of results."""
    bodies = re.findall(r"<tbody.*?</tbody>", page, flags=re.DOTALL)
    return re.findall(r'<tr role="row" class="role-(\w+)"', bodies[1])


def test_rivals_that_were_not_run_have_no_row(two_sensors):
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
