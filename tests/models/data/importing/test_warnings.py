"""What an import warns of: classes that are typos or of one group, and a target among the inputs."""

from __future__ import annotations

import pytest

from mmkd_models.commands.recipes import run_recipe


def warnings(plant) -> list[str]:
    return [line for line in run_recipe(plant / "recipe.toml", None) if line.startswith("warning: ")]


def relabel(plant, machine: int, old: str, new: str) -> None:
    file = plant / f"M{machine}" / "states.csv"
    file.write_text(file.read_text().replace(old, new))


def test_a_good_recipe_has_no_warnings(plant):
    assert warnings(plant) == []


@pytest.mark.parametrize("typo", ["wron", "worn "])
def test_a_class_of_one_file_that_looks_like_another_is_named_with_its_cure(plant, typo):
    relabel(plant, 2, "worn", f'"{typo}"' if " " in typo else typo)
    expected = (
        f"warning: {typo!r}, in M2/acc.csv alone, looks like 'worn'; if it is a typo, correct it, or set rename ="
        f' {{"{typo}" = "worn"}} under [labels]'
    )
    assert warnings(plant) == ([] if typo == "worn " else [expected])  # blanks around a label do not count


def test_a_class_of_one_group_is_named_once_and_another_seed_is_not_advised(plant):
    for machine in range(5):
        relabel(plant, machine, "worn", "ok")
    assert warnings(plant) == [
        (
            "warning: 'worn' is in group M5 alone (M5/acc.csv), so that only one split can have it; record it in"
            " more groups, or leave 'split.group' out to split by time"
        )
    ]


@pytest.mark.parametrize(("name", "other"), [("unworn", "worn"), ("state 2", "state 1")])
def test_a_name_that_has_another_in_it_or_another_number_is_no_typo(plant, name, other):
    for machine in range(6):
        relabel(plant, machine, "worn", name if machine == 5 else other)
    assert warnings(plant) == [
        (
            f"warning: {name!r} is in group M5 alone (M5/acc.csv), so that only one split can have it; record it in"
            " more groups, or leave 'split.group' out to split by time"
        )
    ]


def test_a_target_that_is_an_input_is_named(plant, recipe):
    recipe(('files = "{machine}/states.csv"', 'task = "regression"\ncolumn = "ay"'))
    assert warnings(plant) == []  # without 'channels' the target is none
    recipe(('time = "time"', 'time = "time"\nchannels = ["ax", "ay"]'))
    assert warnings(plant) == [
        "warning: the target 'ay' is also a channel of acc, which a model can copy; leave it out of 'channels'"
    ]
