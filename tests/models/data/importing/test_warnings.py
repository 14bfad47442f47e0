"""What an import warns of: classes that are typos or of one group, and a target among the inputs."""

import numpy as np
import pytest

from mmkd_edge.errors import DatasetError
from mmkd_models.commands.recipes import run_recipe
from mmkd_models.data import open_dataset


def warnings(plant):
    return [line for line in run_recipe(plant / "recipe.toml", None) if line.startswith("warning: ")]


def test_one_file_in_another_unit_is_named_and_scaled(plant, recipe, caplog):
    file = plant / "M3" / "acc.csv"
    head, *rows = file.read_text().splitlines()
    cells = [row.split(",") for row in rows]
    file.write_text("\n".join([head, *(f"{time},{float(ax) * 1000:.5f},{ay}" for time, ax, ay in cells)]))
    run_recipe(plant / "recipe.toml", None)
    (text,) = caplog.messages
    assert text.startswith("warning: acc ax in M3/acc.csv is 1,")
    assert text.endswith(
        '; check its unit and gain; correct it with file_scale = {"M3/acc.csv" = {ax = 0.001}} under its [[source]], or'
        ' leave it out: exclude = ["M3/acc.csv"]'
    )
    caplog.clear()
    recipe(('time = "time"', 'time = "time"\nscale = 2.0\nfile_scale = {"M3/acc.csv" = {ax = 0.001}}'))
    run_recipe(plant / "recipe.toml", plant / "out")
    assert caplog.messages == []
    windows = open_dataset(plant / "out").everything()
    first = int(np.flatnonzero(windows.groups == "M3")[0])
    expected = [[2 * float(ax), 2 * float(ay)] for _, ax, ay in cells[:10]]
    np.testing.assert_allclose(windows.take([first])["acc"][0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("scale", "problem"),
    [
        (
            '{"M9/acc.csv" = {ax = 0.001}}',
            "PLANT: 'source[0].file_scale': expected files of the source, got 'M9/acc.csv'; correct its path",
        ),
        (
            '{"M3/acc.csv" = {az = 0.001}}',
            (
                "'file_scale' of M3/acc.csv: expected column 'az', got 'ax', 'ay'; correct the name in the recipe, or"
                " the file"
            ),
        ),
        (
            '{"M3/acc.csv" = {ax = inf}}',
            (
                "PLANT/recipe.toml: 'source[0].file_scale' (acc): expected factors from -1e+30 to 1e+30, got inf;"
                " correct it"
            ),
        ),
    ],
)
def test_a_scale_of_no_file_or_channel_is_refused(plant, recipe, scale, problem):
    recipe(('time = "time"', f'time = "time"\nfile_scale = {scale}'))
    with pytest.raises(DatasetError) as error:
        run_recipe(plant / "recipe.toml", None)
    assert str(error.value) == problem.replace("PLANT", str(plant))


def test_a_scale_in_a_source_of_several_sensors_names_their_channels(plant, recipe):
    sensors = 'sensors = {one = ["ax"], two = ["ay"]}\nfile_scale = {"M3/acc.csv" = {ay = 0.5, az = 2}}'
    recipe(('modality = "acc"', sensors))
    with pytest.raises(DatasetError) as error:
        run_recipe(plant / "recipe.toml", None)
    assert str(error.value) == (
        f"{plant}/recipe.toml: 'source[0].file_scale': expected channels among ax, ay, got 'az'; correct it"
    )
    recipe((", az = 2", ""))
    run_recipe(plant / "recipe.toml", plant / "half")
    recipe(("0.5", "1"))
    run_recipe(plant / "recipe.toml", plant / "whole")
    half, whole = (open_dataset(plant / name).everything() for name in ("half", "whole"))
    factor = np.where(whole.groups == "M3", 0.5, 1.0)[:, None, None]
    rows = np.arange(len(whole))
    np.testing.assert_array_equal(half.take(rows)["two"], factor * whole.take(rows)["two"])
    np.testing.assert_array_equal(half.take(rows)["one"], whole.take(rows)["one"])


def test_a_trial_names_the_folder_of_the_recipe_and_no_scratch_folder(plant, recipe):
    for name in ("acc.csv", "states.csv"):
        (plant / "M1" / name).write_text((plant / "M0" / name).read_text())
    recipe(('group = "machine"', 'group = "machine"\nvalid = ["M1"]\ntest = ["M2"]'))
    with pytest.raises(DatasetError) as error:
        run_recipe(plant / "recipe.toml", None)
    assert str(error.value).startswith(f"dataset {plant.name}: M0/acc.csv ")


def relabel(plant, machine, old, new):
    file = plant / f"M{machine}" / "states.csv"
    file.write_text(file.read_text().replace(old, new))


def test_a_good_recipe_has_no_warnings(plant):
    assert warnings(plant) == []


@pytest.mark.parametrize("typo", ["worm", "worn "])
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
            " more groups, or leave 'split.group' out to split by time: the same group is then in training and test,"
            " and scores do not hold for a new one"
        )
    ]


@pytest.mark.parametrize(("name", "other"), [("unworn", "worn"), ("state 2", "state 1")])
def test_a_name_that_has_another_in_it_or_another_number_is_no_typo(plant, name, other):
    for machine in range(6):
        relabel(plant, machine, "worn", name if machine == 5 else other)
    assert warnings(plant) == [
        (
            f"warning: {name!r} is in group M5 alone (M5/acc.csv), so that only one split can have it; record it in"
            " more groups, or leave 'split.group' out to split by time: the same group is then in training and test,"
            " and scores do not hold for a new one"
        )
    ]


def test_a_target_that_is_an_input_is_named(plant, recipe):
    recipe(('files = "{machine}/states.csv"', 'task = "regression"\ncolumn = "ay"'))
    assert warnings(plant) == []  # without 'channels' the target is none
    recipe(('time = "time"', 'time = "time"\nchannels = ["ax", "ay"]'))
    assert warnings(plant) == [
        "warning: the target 'ay' is also a channel of acc, which a model can copy; leave it out of 'channels'"
    ]
