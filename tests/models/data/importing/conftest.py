"""A small plant: six machines with a log of two channels at 10 Hz, and intervals of two states."""

import numpy as np
import pytest

from mmkd_edge.errors import DatasetError
from mmkd_models.data import open_dataset
from mmkd_models.data.importing.from_recipe import import_recipe
from mmkd_models.data.importing.recipe import read_recipe
from tests.edge.said import said

START_S = 1_762_151_400  # 2025-11-03T06:30:00Z
RECIPE = """version = 1
[[source]]
modality = "acc"
files = "{machine}/acc.csv"
time = "time"
[labels]
files = "{machine}/states.csv"
[windows]
length_s = 1.0
[split]
group = "machine"
"""


def run(plant, name="out", **options):
    return import_recipe(read_recipe(plant / "recipe.toml"), plant, plant / name, **options)


def refusal(plant, **options):
    """Return why the recipe of a plant cannot be imported; `DIR` is its folder."""
    message = said(DatasetError, run, plant, **options)
    assert not (plant / "out").exists()
    return message.replace(str(plant), "DIR")


def by_machine(plant):
    """Samples (N T, C) of each machine and the labels of its windows, in order of time."""
    windows = open_dataset(plant / "out").everything()
    found = {}
    for group in np.unique(windows.groups):
        rows = np.flatnonzero(windows.groups == group)
        rows = rows if windows.times is None else rows[np.argsort(windows.times[rows])]
        samples = windows.take(rows)["acc"]
        found[str(group)] = (samples.reshape(-1, samples.shape[-1]), windows.labels[rows].tolist())
    return found


def log_lines(machine):
    """Header and 100 rows of ten seconds; no two values are equal."""
    rng = np.random.default_rng(machine)
    rows = rng.normal(size=(100, 2))
    start = START_S + 1000 * machine
    return ["time,ax,ay", *(f"{start + k / 10:.1f},{ax:.5f},{ay:.5f}" for k, (ax, ay) in enumerate(rows))]


@pytest.fixture
def plant(tmp_path):
    for machine in range(6):
        folder = tmp_path / f"M{machine}"
        folder.mkdir()
        (folder / "acc.csv").write_text("\n".join(log_lines(machine)) + "\n")
        start = START_S + 1000 * machine
        (folder / "states.csv").write_text(f"start,end,label\n{start},{start + 5},ok\n{start + 5},{start + 10},worn\n")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def add_columns(plant, *, machines=range(6), **columns):
    """Write columns beside the samples: functions of the row's number and the machine's."""
    for machine in machines:
        file = plant / f"M{machine}" / "acc.csv"
        header, *rows = file.read_text().splitlines()
        lines = [",".join([row, *(f"{of(k, machine)}" for of in columns.values())]) for k, row in enumerate(rows)]
        file.write_text("\n".join([",".join([header, *columns]), *lines]) + "\n")


def write_temp(plant, seconds, *, machines=range(6), later_s=0):
    """Write logs of a temperature that is four times the seconds since the machine's start."""
    for machine in machines:
        start = START_S + 1000 * machine + later_s
        rows = [f"{start + second:.2f},{4 * second:g}" for second in seconds]
        (plant / f"M{machine}" / "temp.csv").write_text("\n".join(["time,t", *rows]))


def temp_source(keys=""):
    """The change of a recipe that reads it."""
    source = f'[[source]]\nmodality = "temp"\nfiles = "{{machine}}/temp.csv"\ntime = "time"\n{keys}'
    return "[labels]", f"{source}\n[labels]"


@pytest.fixture
def recipe(tmp_path):
    """Changes lines of the recipe: each pair is a text and what stands in its place."""

    def change(*pairs):
        file = tmp_path / "recipe.toml"
        text = file.read_text()
        for old, new in pairs:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        file.write_text(text)

    return change
