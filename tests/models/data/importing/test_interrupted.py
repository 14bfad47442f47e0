"""An import that is killed leaves no dataset, or a whole one; the same command afterwards makes what it would have."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from mmkd_models.data import check_dataset, open_dataset
from mmkd_models.data.importing.from_recipe import import_recipe
from mmkd_models.data.importing.recipe import read_recipe

_RUN = "from mmkd_models.commands.data import main; main()"


@pytest.mark.slow
def test_twenty_kills_leave_nothing_or_all_of_a_dataset(plant):
    out = plant / "out"
    line = [sys.executable, "-c", _RUN, "import", str(plant / "recipe.toml"), "-o", str(out)]
    begun = time.monotonic()
    subprocess.run(line, check=True, capture_output=True)
    whole_s, wanted = time.monotonic() - begun, open_dataset(out).sha256
    for moment in range(20):
        out.rename(plant / f"done{moment}")
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole_s * (moment + 1) / 20)
        process.kill()
        process.wait()
        if not out.exists():
            subprocess.run(line, check=True, capture_output=True)
        assert check_dataset(out).warnings == ()
        assert open_dataset(out).sha256 == wanted


def test_an_error_at_the_end_leaves_no_scratch_behind(plant, recipe):
    recipe(('group = "machine"', 'group = "machine"\nvalid = ["M9"]'))
    before = sorted(path.name for path in plant.iterdir())
    with pytest.raises(Exception, match="M9"):
        import_recipe(read_recipe(plant / "recipe.toml"), plant, plant / "out")
    assert sorted(path.name for path in plant.iterdir()) == before
