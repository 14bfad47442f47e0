"""A small plant: six machines with a log of two channels at 10 Hz, and intervals of two states."""

import numpy as np
import pytest

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
