"""What two sensors saw tells by how much their clocks differ."""

from __future__ import annotations

import numpy as np
import pytest

from mmkd_edge.errors import DatasetError
from mmkd_models.commands.recipes import run_recipe
from mmkd_models.data.importing.recipe import read_recipe
from mmkd_models.data.importing.recording import SampleSeries
from mmkd_models.data.importing.timing.align import propose_offset

START_NS = 1_762_151_400 * 10**9


def bouts(seed: int, *, rate_hz: float, late_s: float, channels: int = 2, length_s: float = 60.0) -> SampleSeries:
    """Movement that comes and goes, the same for every seed, seen by a clock that is late; noise of its own."""
    course = np.abs(np.random.default_rng(0).normal(size=round(length_s * 2))).repeat(10)
    true_s = np.arange(round(length_s * rate_hz)) / rate_hz
    strength = np.interp(true_s, np.arange(len(course)) / 20.0, course)
    noise = np.random.default_rng(seed).normal(size=(len(true_s), channels))
    times = START_NS + np.rint((true_s + late_s) * 1e9).astype(np.int64)
    return SampleSeries(times=times, values=(strength[:, None] * noise).astype(np.float32))


@pytest.mark.parametrize("late_s", [-7.4, 0.0, 3.2])
def test_the_course_of_movement_tells_the_shift(late_s):
    found = propose_offset("r", "gyro", bouts(1, rate_hz=100, late_s=late_s), "acc", bouts(2, rate_hz=50, late_s=0.0))
    assert found.offset_s == pytest.approx(-late_s, abs=0.06)
    assert found.agreement > 0.3
    assert found.next_best < 0.7 * found.agreement


def test_sensors_that_saw_other_things_agree_hardly():
    other = SampleSeries(
        times=START_NS + np.arange(3000) * 20_000_000,
        values=np.random.default_rng(5).normal(size=(3000, 1)).astype(np.float32),
    )
    found = propose_offset("r", "gyro", bouts(1, rate_hz=50, late_s=0.0), "acc", other)
    assert found.agreement < 0.2


def test_a_camera_is_laid_beside_a_sensor():
    acc = bouts(1, rate_hz=50, late_s=0.0)
    seen = bouts(3, rate_hz=25, late_s=1.5, channels=48)
    pixels = np.clip(128 + 40 * seen.values, 0, 255).astype(np.uint8).reshape(-1, 6, 8, 1)
    frames = SampleSeries(times=seen.times, values=pixels)
    assert propose_offset("r", "lips", frames, "acc", acc).offset_s == pytest.approx(-1.5, abs=0.06)


def test_a_sensor_that_never_moves_suggests_nothing():
    still = SampleSeries(times=START_NS + np.arange(100) * 10**7, values=np.ones((100, 1), dtype=np.float32))
    assert propose_offset("r", "gyro", still, "acc", bouts(1, rate_hz=50, late_s=0.0)) is None


def test_an_import_prints_the_proposal_and_moves_nothing(plant, recipe):
    for machine in range(6):
        for name, late_s in (("acc", 0.0), ("gyro", 0.6)):
            series = bouts(10 * machine + len(name), rate_hz=50, late_s=late_s, length_s=40.0)
            rows = zip(series.times / 1e9, *series.values.T, strict=True)
            lines = [f"{time + 1000 * machine:.3f},{x:.4f},{y:.4f}" for time, x, y in rows]
            (plant / f"M{machine}" / f"{name}.csv").write_text("\n".join(["time,x,y", *lines, ""]))
    source = '[[source]]\nmodality = "gyro"\nfiles = "{machine}/gyro.csv"\ntime = "time"\nalign = true\n[labels]'
    recipe(("[labels]", source))
    (line,) = [text for text in run_recipe(plant / "recipe.toml", None) if "offset_s" in text]
    assert line.startswith("gyro: compared with acc, 6 recordings suggest offset_s = -0.6")
    assert line.endswith("nothing was moved: write it into the recipe if it is right")
    # What the recipe says already is in the value, which takes its place.
    recipe(("align = true", "align = true\noffset_s = -0.3"))
    (again,) = [text for text in run_recipe(plant / "recipe.toml", None) if "offset_s" in text]
    assert again.startswith("gyro: compared with acc, 6 recordings suggest offset_s = -0.6")


def test_the_first_source_is_aligned_with_no_other(refusal, plant, recipe):
    recipe(('time = "time"', 'time = "time"\nalign = true'))
    assert refusal(DatasetError, read_recipe, plant / "recipe.toml") == (
        f"{plant / 'recipe.toml'}: 'source[0].align': the first source is the one that others are aligned"
        " with; move it to another"
    )
