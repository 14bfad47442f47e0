"""The sentences of a demo: they say what the figures say, also if that is not what one hoped for."""

import re

import msgspec
import pytest

from mmkd_app.pages.demo_answer import answer, is_judged, question, recommendation, shipped_text
from mmkd_documents.demo import LABELS_ONLY, Gain
from mmkd_documents.figures import Chance, Spread
from tests.app.pages.rendered import read_demo, render_demo

S = "\u202f"
M = "\u2212"


RIVALS = ("baseline", "extra_trees", "mini_rocket", "rocket_and_trees", "distilled_rocket")


def build(students, *, teacher=0.8, seeds=(0, 1, 2), mean_gain=None, share=0.1, over=(-3.0, -1.0), better=()):
    """A document of accuracies alone: {name: (student, (mean, low, high) or None, {rival: accuracy})}.

    Among the rivals, "valid" is the validation score of the student (by default the test score), "valid_..." that of a
    rival; "guess" is chance, 5 points above the student's lower end if the student is not better. `over` is the
    interval of student minus teacher, `better` names the other models that are better than chance.
    """

    def spread(mean):
        return {"mean": mean, "std": 0.021, "per_seed": [mean] * len(seeds)}

    def gain(values):
        return None if values is None else dict(zip(("mean", "low", "high"), values, strict=True))

    def compare_with_chance(mean, figure, *, is_better):
        low = figure + 0.05 if is_better else figure - 0.05
        return {"figure": figure, "low": low, "high": mean + 0.1, "is_better": is_better}

    def rival(name, scores):
        guess = compare_with_chance(0.5, 0.5, is_better=name in better)
        valid = scores.get(f"valid_{name}")
        extra = {"chance": guess} if "guess" in scores else {}
        test = {"mean": scores[name]} if name in scores else None
        return {"accuracy": test, "valid_score": None if valid is None else spread(valid), **extra}

    return read_demo(
        {
            "format_version": 1,
            "dataset": {"name": "set"},
            "label_fraction": share,
            "seeds": list(seeds),
            "teacher": {
                "accuracy": None if teacher is None else spread(teacher),
                "chance": compare_with_chance(teacher or 0.0, 0.5, is_better="teacher" in better),
            },
            "students": {
                name: {
                    "student": {
                        "accuracy": None if score is None else spread(score),
                        "valid_score": None if score is None else spread(rivals.get("valid", score)),
                        "chance": compare_with_chance(score, rivals["guess"], is_better=name in better)
                        if "guess" in rivals
                        else None,
                    },
                    "gain_points": gain(gained),
                    "over_teacher_points": None if over is None else {"mean": -3.0, "low": over[0], "high": over[1]},
                    **{key: rival(key, rivals) for key in RIVALS},
                }
                for name, (score, gained, rivals) in students.items()
            },
            "mean_gain_points": gain(mean_gain),
        }
    )


TWO = {"acc": (0.712, (1.04, -1.0, 3.0), {}), "gyro": (0.7451, (12.26, 8.1, 15.5), {})}


@pytest.mark.parametrize(
    ("students", "share", "expected"),
    [
        (TWO, 0.1, f"Everything was recorded, 10{S}% was labelled. Which one sensor is enough"),
        (TWO, 1.0, "Everything was recorded, and everything was labelled. Which one sensor is enough"),
        ({"acc": TWO["acc"]}, None, "Everything was recorded. Is one sensor enough"),
    ],
)
def test_the_question_names_the_labelled_share(students, share, expected):
    assert question(build(students, share=share)) == f"{expected}, and what does distillation gain?"


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ((0.5, 2.0), "Yes, gyro alone is enough"),
        ((-2.0, 9.0), "Yes, gyro alone is enough"),
        ((-2.1, 9.0), "Not decided whether gyro alone is enough"),
        ((-9.0, -2.0), "Not decided whether gyro alone is enough"),
        ((-9.0, -2.1), "No, gyro alone is not enough"),
        (None, "Not decided whether gyro alone is enough"),
    ],
)
def test_the_first_sentence_says_yes_no_or_not_decided_as_the_interval_of_the_loss_allows(over, expected):
    ends = "no confidence interval" if over is None else f"95 % interval {over[0]} to {over[1]}".replace("-", M)
    assert answer(build(TWO, over=over))[0] == (
        f"{expected}: accuracy 74.5{S}% on test, {'5.5' if over is None else '3.0'} points worse than the teacher with "
        f"all sensors (80.0{S}%; {ends})."
    )


def test_the_first_sentence_has_the_distance_to_the_best_rival_and_its_interval():
    demo = build({"acc": (0.71, None, {"extra_trees": 0.70, "mini_rocket": 0.735})})
    sensor, gain = demo.students["acc"], Gain(mean=-2.5, low=-9.0, high=4.0)
    rival = msgspec.structs.replace(sensor.mini_rocket, student_gain_points=gain)
    judged = {"acc": msgspec.structs.replace(sensor, mini_rocket=rival)}
    first, ahead, *_ = answer(msgspec.structs.replace(demo, students=judged))
    assert first.endswith(
        f" and 2.5 points worse than the rival that is best there, MiniRocket (73.5{S}%; 95 % interval {M}9.0 to 4.0)."
    )
    assert ahead == (
        f"Ahead of the student on test: MiniRocket on acc by 2.5 points (73.5{S}%; 95 % interval {M}4.0 to 9.0)."
    )


def test_without_a_student_or_a_gain_there_is_no_sentence_and_without_a_teacher_no_comparison():
    undecided = "Not decided whether gyro alone is enough"
    assert answer(build(TWO, teacher=None, over=None))[0] == f"{undecided}: accuracy 74.5{S}% on test."
    assert len(answer(build({"acc": (0.7, None, {})}))) == 1
    students = {"acc": (0.712, None, {"valid": 0.9}), "gyro": (0.7451, None, {"valid": 0.8})}
    assert answer(build(students))[0].startswith(
        f"Not decided whether acc alone is enough: accuracy 71.2{S}% on test, "
    )
    for students in ({}, {"acc": (None, None, {})}):
        assert answer(build(students)) == ("Not decided: no student was measured.",)


@pytest.mark.parametrize(
    ("lower_end", "expected"),
    [
        (0.74, ""),
        (0.60, f"No clear winner: gyro 74.5{S}% (95 % interval 60.0 to 84.5), acc 71.2{S}%."),
    ],
)
def test_a_sensor_that_another_may_equal_is_no_clear_winner(lower_end, expected):
    demo = build(TWO)
    gyro = demo.students["gyro"]
    chance = Chance(figure=0.2, low=lower_end, high=0.845, is_better=True)
    judged = msgspec.structs.replace(gyro, student=msgspec.structs.replace(gyro.student, chance=chance))
    said = answer(msgspec.structs.replace(demo, students=demo.students | {"gyro": judged}))
    assert [sentence for sentence in said if "winner" in sentence] == [expected][: bool(expected)]


GUESSED = {"acc": (0.55, (9.0, 4.0, 14.0), {"guess": 0.5, "valid": 0.6, "extra_trees": 0.5})}
COIN = f"acc 55.0{S}% (95 % interval 45.0 to 65.0), chance 50.0{S}%"


@pytest.mark.parametrize(
    ("students", "better", "expected"),
    [
        (GUESSED, (), f"No sensor can be judged: no student is better than chance (accuracy: {COIN})."),
        (
            GUESSED | {"gyro": (0.45, None, {"guess": 0.5, "valid": 0.5})},
            (),
            (
                f"No sensor can be judged: no student is better than chance (accuracy: {COIN}; "
                f"gyro 45.0{S}% (95 % interval 45.0 to 55.0), chance 50.0{S}%)."
            ),
        ),
        (
            GUESSED | {"gyro": (0.9, None, {"guess": 0.5, "valid": 0.5})},
            ("gyro",),
            (
                "No conclusion: the student of acc, which validates best, is no better than chance "
                f"(accuracy: {COIN}); students better than chance: gyro."
            ),
        ),
    ],
)
def test_a_student_that_is_not_better_than_guessing_concludes_nothing(students, better, expected):
    demo = build(students, better=better, over=(1.0, 2.0), mean_gain=(9.0, 4.0, 14.0))
    assert (answer(demo), recommendation(demo), is_judged(demo)) == ((f"Not decided. {expected}",), expected, False)
    demo = build(GUESSED, better=("acc",))
    assert is_judged(demo)
    assert answer(demo)[1] == "Distillation improves accuracy on acc by 9.0 points (95 % interval 4.0 to 14.0)."


RAN = {"valid": 0.8, "valid_baseline": 0.75, "valid_extra_trees": 0.7, "valid_mini_rocket": 0.79}
REACHES = f"Recommended: the acc student. On validation it reaches 80.0{S}%"
ALL = f"{REACHES}, labels only 75.0{S}%, extra-trees 70.0{S}% and MiniRocket 79.0{S}%."
OTHER = "Recommended: {} on labels only for acc. On validation {} reaches {}%, the student " + f"80.0{S}%."


@pytest.mark.parametrize(
    ("validated", "expected"),
    [
        (RAN, ALL),
        ({"valid": 0.8, "valid_baseline": 0.75}, f"{REACHES}, labels only 75.0{S}%."),
        (RAN | {"valid_mini_rocket": 0.81}, OTHER.format("convolutions", "MiniRocket", f"81.0{S}")),
        (RAN | {"valid_extra_trees": 0.8}, OTHER.format("trees", "extra-trees", f"80.0{S}")),
        (RAN | {"valid_baseline": 0.9}, OTHER.format("transformer", "labels only", f"90.0{S}")),
        (
            RAN | {"valid_rocket_and_trees": 0.81},
            OTHER.format("convolutions and trees", "MiniRocket and extra-trees averaged", f"81.0{S}"),
        ),
        (RAN | {"valid_distilled_rocket": 0.9}, ALL),  # a teacher taught it
        ({"valid": 0.8}, ""),  # nothing was validated beside it
    ],
)
def test_what_validates_best_is_recommended_also_a_rivals_recipe(validated, expected):
    demo = build({"acc": (0.7, None, validated)})
    assert recommendation(demo) == expected
    assert (answer(demo)[-1] == expected) == bool(expected)


GAIN = "The gain of distillation on average over 2 sensors is not significant: +1.1 points"


@pytest.mark.parametrize(
    ("students", "mean_gain", "expected"),
    [
        (
            TWO,
            (6.66, 3.2, 9.9),
            "Distillation improves accuracy on average over 2 sensors by 6.7 points (95 % interval 3.2 to 9.9).",
        ),
        (TWO, (1.1, -0.4, 2.6), f"{GAIN} (95 % interval {M}0.4 to 2.6)."),
        (
            TWO,
            (1.5, None, None),
            (
                "Distillation improves accuracy on average over 2 sensors by 1.5 points (no confidence interval: too "
                "few groups)."
            ),
        ),
        (
            {"acc": (0.7, (-3.0, -5.0, -1.0), {})},
            None,
            f"Distillation worsens accuracy on acc by 3.0 points (95 % interval {M}5.0 to {M}1.0).",
        ),
    ],
)
def test_a_gain_is_told_as_its_interval_allows(students, mean_gain, expected):
    assert answer(build(students, mean_gain=mean_gain))[1] == expected


def test_rivals_ahead_on_test_are_named():
    students = {"acc": (0.71, None, {"extra_trees": 0.72}), "gyro": (0.74, None, {"mini_rocket": 0.9})}
    assert (
        f"Ahead of the student on test: extra-trees on acc by 1.0 points (72.0{S}%; no confidence interval) and "
        f"MiniRocket on gyro by 16.0 points (90.0{S}%; no confidence interval)."
    ) in answer(build(students))
    behind = {"acc": (0.71, None, {"extra_trees": 0.705})}
    assert not any("Ahead" in sentence for sentence in answer(build(behind)))


def test_a_teacher_below_labels_only_has_nothing_to_give():
    demo = build({"acc": (0.7, None, {"valid": 0.8, "valid_baseline": 0.75})})
    teacher = msgspec.structs.replace(demo.teacher, valid_score=Spread(mean=0.74))
    assert (
        f"The teacher has nothing to give on acc: it validates 1.0 points below labels only (74.0{S}% and 75.0{S}%)."
    ) in answer(msgspec.structs.replace(demo, teacher=teacher))


def test_what_validation_shipped_is_said_and_labels_only_are_no_rival_of_their_own_race():
    demo = build({"acc": (0.7, None, RAN | {"valid_baseline": 0.9})})
    sensor = demo.students["acc"]
    shipped = msgspec.structs.replace(sensor.student, shipped=("average", "average", LABELS_ONLY))
    demo = msgspec.structs.replace(demo, students={"acc": msgspec.structs.replace(sensor, student=shipped)})
    assert shipped_text(demo) == (
        f"Shipped, as validation chose: acc average and {LABELS_ONLY} (distillation did not validate better)."
    )
    assert shipped_text(demo) in answer(demo)
    assert recommendation(demo) == f"{REACHES}, extra-trees 70.0{S}% and MiniRocket 79.0{S}%."
    assert shipped_text(build(TWO)) == ""


LEAK = {
    "figure": {"mean": 0.754, "std": 0.03, "per_seed": [0.754]},
    "chance": {"figure": 0.519, "low": 0.72, "high": 0.78, "is_better": True},
    "leaks": True,
}
LEAKS = (
    f"A random 10{S}% of labels leaks through time: labels of neighbouring windows reach accuracy 75.4{S}% on the "
    f"unlabelled ones without any sensor (chance: 51.9{S}%). Label whole groups instead (--labelled-groups)."
)


def test_the_demo_tells_its_story_of_labelled_windows_and_groups(two_sensors):
    assert re.search(r"<title>.*, 10% labelled: which one sensor is enough\?</title>", render_demo(two_sensors))
    del two_sensors["label_fraction"]
    two_sensors["labelled_groups"] = {"labelled": 2, "of": [6, 6]}
    assert question(read_demo(two_sensors)) == (
        "Everything was recorded, 2 of 6 groups were labelled. Which one sensor is enough, and what does distillation "
        "gain?"
    )
    page = render_demo(two_sensors)
    assert "Training uses the labels of 2 of 6 groups, chosen by the seed; all validation windows are labelled." in page
    assert re.search(r"<title>.*, 2 of 6 groups labelled: which one sensor is enough\?</title>", page)


def test_a_leak_stands_on_the_page_of_a_demo(two_sensors):
    for leaks in (True, False):
        two_sensors["labels_spread_in_time"] = LEAK | {"leaks": leaks}
        assert (LEAKS in render_demo(two_sensors)) is leaks


def roles_of_first_sensor(page):
    """The roles of the rows of the first sensor in the table of results."""
    bodies = re.findall(r"<tbody.*?</tbody>", page, flags=re.DOTALL)
    return re.findall(r'<tr role="row" class="role-(\w+)"', bodies[1])


def test_rivals_that_were_not_run_have_no_row(two_sensors):
    assert roles_of_first_sensor(render_demo(two_sensors)) == ["extra_trees", "mini_rocket", "baseline", "student"]
    for sensor in two_sensors["students"].values():
        sensor["distilled_rocket"] = sensor["rocket_and_trees"] = sensor["mini_rocket"]
    page = render_demo(two_sensors)
    roles = ["extra_trees", "mini_rocket", "rocket_and_trees", "baseline", "distilled_rocket", "student"]
    assert roles_of_first_sensor(page) == roles
    assert "MiniRocket + trees</span>" in page
    assert "Distilled MiniRocket</span>" in page
