"""The generated sentences: they say what the figures say, also when it is not what one hoped for."""

from __future__ import annotations

import msgspec
import pytest

from mmkd_report.pages.demo_answer import answer, is_judged, question, recommendation, shipped
from mmkd_report.schema.demo import read_demo

S = "\u202f"
M = "\u2212"


def build(
    students,
    *,
    teacher=0.8,
    seeds=(0, 1, 2),
    mean_gain=None,
    modalities=("acc", "gyro"),
    share=0.1,
    over=(-3.0, -1.0),
    better=(),
):
    """A document of accuracies alone: {name: (student, (mean, low, high) or None, {rival: accuracy})}.

    Among the rivals, "valid" stands for the validation score of the student, and "valid_..." for that of a rival;
    "guess" is what guessing gets, 5 points more than the student's lower end where the student is not better. `over` is
    the interval of student minus teacher, `better` names what else is better than guessing.
    """

    def spread(mean):
        return {"mean": mean, "std": 0.021, "per_seed": [mean] * len(seeds)}

    def gain(values):
        return None if values is None else dict(zip(("mean", "low", "high"), values, strict=True))

    def guessing(mean, figure, *, is_better):
        low = figure + 0.05 if is_better else figure - 0.05
        return {"figure": figure, "low": low, "high": mean + 0.1, "is_better": is_better}

    def rival(name, found):
        guess = guessing(0.5, 0.5, is_better=name in better)
        valid = found.get(f"valid_{name}")
        extra = {"guessing": guess} if "guess" in found else {}
        test = {"mean": found[name]} if name in found else None
        return {"accuracy": test, "valid_score": None if valid is None else spread(valid), **extra}

    return read_demo(
        {
            "format_version": 1,
            "dataset": {"name": "set"},
            "label_share": share,
            "seeds": list(seeds),
            "teacher": {
                "accuracy": None if teacher is None else spread(teacher),
                "modalities": list(modalities),
                "guessing": guessing(teacher or 0.0, 0.5, is_better="teacher" in better),
            },
            "students": {
                name: {
                    "student": {
                        "accuracy": None if score is None else spread(score),
                        "valid_score": spread(rivals["valid"]) if "valid" in rivals else None,
                        "guessing": guessing(score, rivals["guess"], is_better=name in better)
                        if "guess" in rivals
                        else None,
                    },
                    "gain_points": gain(gained),
                    "over_teacher_points": None if over is None else {"mean": 0.0, "low": over[0], "high": over[1]},
                    **{key: rival(key, rivals) for key in ("baseline", "extra_trees", "mini_rocket")},
                }
                for name, (score, gained, rivals) in students.items()
            },
            "mean_gain_points": gain(mean_gain),
        }
    )


TWO = {"acc": (0.712, (1.04, -1.0, 3.0), {}), "gyro": (0.7451, (12.26, 8.1, 15.5), {})}


def test_the_question_names_the_labelled_share() -> None:
    assert question(build(TWO)) == (
        f"Everything was recorded, 10{S}% was labelled. Which one sensor is enough, and what does distillation buy?"
    )


def test_the_question_knows_when_everything_was_labelled() -> None:
    assert question(build(TWO, share=1.0)) == (
        "Everything was recorded, and everything was labelled. "
        "Which one sensor is enough, and what does distillation buy?"
    )


def test_the_question_of_one_sensor_does_not_ask_which() -> None:
    assert question(build({"acc": TWO["acc"]}, share=None)) == (
        "Everything was recorded. Is one sensor enough, and what does distillation buy?"
    )


def test_the_best_sensor_is_named_with_spread_and_teacher() -> None:
    assert answer(build(TWO))[0] == (
        f"Of the single sensors, gyro comes closest to all together: its distilled student is right in 74.5{S}% "
        f"(± 2.1 over 3 seeds) of the test windows, the teacher with acc and gyro in 80.0{S}% (± 2.1) "
        f"(difference {M}3.0 to {M}1.0)."
    )


GYRO = (
    f"the distilled student is right in 74.5{S}% (± 2.1 over 3 seeds) of the test windows, "
    f"the teacher with acc and gyro in 80.0{S}% (± 2.1)"
)


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        (
            (0.5, 2.0),
            f"One sensor does better than all together here: with gyro alone, {GYRO} (difference 0.5 to 2.0).",
        ),
        ((-1.0, 2.0), f"With gyro alone, {GYRO}: no significant difference (difference {M}1.0 to 2.0)."),
        (
            (-2.0, -1.0),
            f"One sensor falls short of all together: with gyro alone, {GYRO} (difference {M}2.0 to {M}1.0).",
        ),
        (None, f"With gyro alone, {GYRO}; no interval says which is better."),
    ],
)
def test_one_sensor_is_held_against_all_as_the_interval_of_their_difference_allows(over, expected) -> None:
    assert answer(build({"gyro": TWO["gyro"]}, over=over))[0] == expected


GUESSED = {"acc": (0.55, (9.0, 4.0, 14.0), {"guess": 0.5, "valid": 0.6, "extra_trees": 0.5})}
COIN = f"acc 55.0{S}% (interval 45.0 to 65.0), chance 50.0{S}%"


@pytest.mark.parametrize(
    ("students", "better", "expected"),
    [
        (GUESSED, (), f"No sensor can be judged: nothing here is better than chance (accuracy: {COIN})."),
        (
            GUESSED,
            ("teacher", "extra_trees"),
            (
                f"No sensor can be judged: no student is better than chance (accuracy: {COIN}). "
                "Better than chance: the teacher and extra-trees on acc."
            ),
        ),
        (
            GUESSED | {"gyro": (0.45, None, {"guess": 0.5, "valid": 0.5})},
            (),
            (
                f"No sensor can be judged: nothing here is better than chance (accuracy: {COIN}; "
                f"gyro 45.0{S}% (interval 45.0 to 55.0), chance 50.0{S}%)."
            ),
        ),
        (
            GUESSED | {"gyro": (0.9, None, {"guess": 0.5, "valid": 0.5})},
            ("gyro",),
            (
                "The student of acc, which validation chooses, is no better than chance, so no conclusion is drawn "
                f"(accuracy: {COIN}). Better than chance: the student of gyro."
            ),
        ),
    ],
)
def test_a_student_that_is_not_better_than_guessing_concludes_nothing(students, better, expected) -> None:
    demo = build(students, better=better, over=(1.0, 2.0), mean_gain=(9.0, 4.0, 14.0))
    assert answer(demo) == (expected,)
    assert recommendation(demo) == expected
    assert not is_judged(demo)


def test_a_student_that_is_better_than_guessing_is_judged() -> None:
    demo = build(GUESSED, better=("acc",))
    assert is_judged(demo)
    assert answer(demo)[1] == "Distillation adds 9.0 points on acc (95 % interval 4.0 to 14.0)."


RAN = {"valid": 0.8, "valid_baseline": 0.75, "valid_extra_trees": 0.7, "valid_mini_rocket": 0.79}


@pytest.mark.parametrize(
    ("validated", "expected"),
    [
        (
            RAN,
            (
                f"Recommended: the student of acc, ahead on validation with 80.0{S}% of labels only 75.0{S}%, "
                f"extra-trees 70.0{S}% and MiniRocket 79.0{S}%."
            ),
        ),
        (
            {"valid": 0.8, "valid_baseline": 0.75},
            (
                f"Recommended: the student of acc, ahead on validation with 80.0{S}% of labels only 75.0{S}%; "
                "extra-trees and MiniRocket were not validated."
            ),
        ),
        (
            RAN | {"valid_mini_rocket": 0.81},
            f"Not recommended: on validation of acc MiniRocket reaches 81.0{S}%, the student 80.0{S}%.",
        ),
        (
            RAN | {"valid_extra_trees": 0.8},
            f"Not recommended: on validation of acc extra-trees reaches 80.0{S}%, the student 80.0{S}%.",
        ),
        (
            RAN | {"valid_baseline": 0.9},
            f"Not recommended: on validation of acc labels only reaches 90.0{S}%, the student 80.0{S}%.",
        ),
        ({"valid": 0.8}, ""),  # nothing was validated beside it
        ({"valid_baseline": 0.8}, ""),
    ],
)
def test_a_student_is_recommended_where_it_beats_every_rival_on_validation(validated, expected) -> None:
    demo = build({"acc": (0.7, None, validated)})
    assert recommendation(demo) == expected
    assert (answer(demo)[-1] == expected) == bool(expected)


def test_one_seed_has_no_spread() -> None:
    sentence = answer(build(TWO, seeds=(4,)))[0]
    assert (
        f"74.5{S}% (one seed, no spread) of the test windows, the teacher with acc and gyro in 80.0{S}% (difference"
        in sentence
    )
    assert "±" not in sentence


def test_without_a_teacher_nothing_is_compared() -> None:
    assert answer(build(TWO, teacher=None))[0] == (
        f"With gyro alone, the distilled student is right in 74.5{S}% (± 2.1 over 3 seeds) of the test windows; "
        "there is no teacher to compare it with."
    )


def test_without_any_student_there_is_no_answer() -> None:
    assert answer(build({})) == ("No student was measured, so there is no answer yet.",)
    assert answer(build({"acc": (None, None, {})})) == ("No student was measured, so there is no answer yet.",)


def test_a_gain_above_zero_is_an_addition() -> None:
    assert answer(build(TWO, mean_gain=(6.66, 3.2, 9.9)))[1] == (
        "Distillation adds 6.7 points on average over the 2 sensors (95 % interval 3.2 to 9.9): "
        "acc +1.0 (\u22121.0 to 3.0, includes 0) and gyro +12.3 (8.1 to 15.5)."
    )


def test_a_gain_whose_interval_includes_zero_is_not_certain() -> None:
    assert answer(build(TWO, mean_gain=(1.1, -0.4, 2.6)))[1].startswith(
        "The gain of distillation on average over the 2 sensors is not significant: +1.1 points "
        "(95 % interval \u22120.4 to 2.6): acc"
    )


def test_a_gain_below_zero_is_a_cost() -> None:
    assert answer(build({"acc": (0.7, (-3.0, -5.0, -1.0), {})}))[1] == (
        "Distillation costs 3.0 points on acc (95 % interval \u22125.0 to \u22121.0)."
    )


def test_a_gain_without_an_interval_is_not_judged() -> None:
    assert answer(build({"acc": (0.7, (2.0, None, None), {})}))[1] == (
        "Distillation changes accuracy by +2.0 points on acc (no confidence interval)."
    )


def test_of_several_sensors_without_intervals_gains_alone_are_told() -> None:
    found = {"acc": (0.7, (4.0, None, None), {}), "gyro": (0.6, (-1.0, None, None), {})}
    sensor, gains, *_ = answer(build(found, over=None, mean_gain=(1.5, None, None)))
    assert sensor == (
        f"Of the single sensors, acc comes closest to all together: its distilled student is right in 70.0{S}% "
        f"(± 2.1 over 3 seeds) of the test windows, the teacher with acc and gyro in 80.0{S}% (± 2.1); "
        "no interval says which is better."
    )
    assert gains == (
        "Distillation changes accuracy by +1.5 points on average over the 2 sensors (no confidence interval): "
        f"acc +4.0 and gyro {M}1.0."
    )
    many = {f"s{index}": (0.5, (float(index), None, None), {}) for index in range(1, 6)}
    assert answer(build(many, mean_gain=(3.0, None, None)))[1] == (
        "Distillation changes accuracy by +3.0 points on average over the 5 sensors (no confidence interval): "
        "from +1.0 (s1) to +5.0 (s5)."
    )


def test_many_sensors_are_given_as_a_range() -> None:
    many = {f"s{index}": (0.5, (float(index), index - 1.5, index + 1.5), {}) for index in range(1, 6)}
    assert answer(build(many, mean_gain=(3.0, 1.0, 5.0)))[1] == (
        "Distillation adds 3.0 points on average over the 5 sensors (95 % interval 1.0 to 5.0): "
        "from +1.0 (s1) to +5.0 (s5), with an interval above 0 for 4 of 5 sensors."
    )


def test_no_gain_is_no_sentence() -> None:
    assert len(answer(build({"acc": (0.7, None, {})}))) == 1


def test_a_rival_that_wins_is_confessed() -> None:
    students = {"acc": (0.71, None, {"extra_trees": 0.705}), "gyro": (0.74, None, {"extra_trees": 0.78})}
    assert answer(build(students))[-1] == (
        "But on the test windows a classical rival is ahead of one student: "
        f"on gyro extra-trees reaches 78.0{S}%, the student 74.0{S}%."
    )


def test_rivals_that_win_everywhere_are_counted() -> None:
    students = {"acc": (0.71, None, {"extra_trees": 0.72}), "gyro": (0.74, None, {"mini_rocket": 0.9})}
    assert answer(build(students))[-1] == (
        "But on the test windows classical rivals are ahead of 2 of 2 students; most of all, "
        f"on gyro MiniRocket reaches 90.0{S}%, the student 74.0{S}%."
    )


def test_only_rivals_that_ran_everywhere_are_claimed_as_beaten() -> None:
    students = {
        "acc": (0.71, None, {"extra_trees": 0.7, "mini_rocket": 0.7}),
        "gyro": (0.74, None, {"extra_trees": 0.7}),
    }
    assert answer(build(students))[-1] == (
        "On the test windows no student is below extra-trees trained on the same sensor and labels."
    )


def test_without_rivals_nothing_is_claimed_about_them() -> None:
    assert not any("below" in sentence for sentence in answer(build(TWO)))


def test_validation_chooses_the_sensor_and_the_page_says_who_is_ahead_on_the_test() -> None:
    students = {"acc": (0.712, None, {"valid": 0.9}), "gyro": (0.7451, None, {"valid": 0.8})}
    assert answer(build(students))[0].startswith(
        f"Of the single sensors, validation chooses acc (on the test windows gyro is ahead with 74.5{S}%): "
        f"its distilled student is right in 71.2{S}%"
    )


def test_validation_decides_only_where_every_student_has_a_score() -> None:
    students = {"acc": (0.712, None, {"valid": 0.9}), "gyro": (0.7451, None, {})}
    assert answer(build(students))[0].startswith("Of the single sensors, gyro comes closest to all together: its")


def raced(demo, **ways):
    students = {
        name: msgspec.structs.replace(contest, student=msgspec.structs.replace(contest.student, shipped=ways[name]))
        for name, contest in demo.students.items()
    }
    return msgspec.structs.replace(demo, students=students)


def test_what_validation_shipped_is_said_and_labels_only_are_no_rival_of_their_own_race() -> None:
    demo = raced(build({"acc": (0.7, None, RAN | {"valid_baseline": 0.9})}), acc=("hybrid", "hybrid", "labels only"))
    assert shipped(demo) == (
        "Shipped, as validation chose: acc hybrid and labels only (teaching did not validate better)."
    )
    assert shipped(demo) in answer(demo)
    assert recommendation(demo) == (
        f"Recommended: the student of acc, ahead on validation with 80.0{S}% of extra-trees 70.0{S}% and "
        f"MiniRocket 79.0{S}%."
    )


def test_without_a_race_nothing_is_said_of_what_is_shipped() -> None:
    assert shipped(build(TWO)) == ""
