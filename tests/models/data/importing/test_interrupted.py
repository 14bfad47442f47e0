"""An import that is ended leaves no dataset, or a whole one, and what it had finished, from where the next goes on."""

import subprocess
import sys
import time

import pytest

from mmkd_edge.errors import DatasetError
from mmkd_models.data import check_dataset
from mmkd_models.data.importing.from_recipe import import_recipe
from mmkd_models.data.importing.recipe import read_recipe

_RUN = "from mmkd_models.commands.data import main; main()"
WRONG = ('group = "machine"', 'group = "machine"\nvalid = ["M9"]')


def source_modality(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_equal(plant):
    """Whether the dataset `out`, which went on, is `whole`, which was made at once; but for its name."""
    whole = {name: content.replace(b'"whole"', b'"out"') for name, content in source_modality(plant / "whole").items()}
    return source_modality(plant / "out") == whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Import:
    """Runs the recipe of a plant, and keeps what was said and how many bytes were read."""

    def __init__(self, plant):
        self.plant = plant
        self.notes: list[str] = []
        self.read: list[tuple[int, int]] = []

    def run(self, out="out"):
        def tell(done, total):
            self.read.append((done, total))

        self.notes.clear()
        self.read.clear()
        return import_recipe(
            read_recipe(self.plant / "recipe.toml"), self.plant, self.plant / out, tell=tell, note=self.notes.append
        )


def write_longer_logs(plant):
    """Each machine's log again and again, so that reading is most of the work."""
    for machine in range(6):
        file = plant / f"M{machine}" / "acc.csv"
        header, *rows = file.read_text().splitlines()
        start = float(rows[0].split(",")[0])
        lines = [
            f"{start + (100 * turn + row) / 10:.1f},{float(x) + turn:.5f},{y}"
            for turn in range(300)
            for row, (_, x, y) in enumerate(line.split(",") for line in rows)
        ]
        file.write_text("\n".join([header, *lines]) + "\n")


@pytest.mark.slow
def test_twenty_kills_leave_nothing_or_all_of_a_dataset_and_the_rest_ends_equal(plant):
    write_longer_logs(plant)
    line = [sys.executable, "-c", _RUN, "import", str(plant / "recipe.toml"), "-o"]
    begun = time.monotonic()
    subprocess.run([*line, str(plant / "whole" / "out")], check=True, capture_output=True)
    whole_s, wanted = time.monotonic() - begun, source_modality(plant / "whole" / "out")
    gone_on = 0
    for moment in range(20):
        folder = plant / f"try{moment}"
        process = subprocess.Popen([*line, str(folder / "out")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if moment % 2:  # in the middle of reading, however slow the machine is
            while not (folder / ".out.import" / "kept").exists() and process.poll() is None:
                time.sleep(0.001)
        else:
            time.sleep(whole_s * (moment + 1) / 20)
        process.kill()
        process.wait()
        if not (folder / "out").exists():
            again = subprocess.run([*line, str(folder / "out")], check=True, capture_output=True, text=True)
            gone_on += "recordings are kept from before" in again.stderr
        # Only the first ten seconds of the longer logs are labelled.
        assert [finding.kind for finding in check_dataset(folder / "out").findings] == ["left out"]
        assert source_modality(folder / "out") == wanted
        assert names(folder) == ["out"]
    assert gone_on > 0


def test_an_error_at_the_end_keeps_what_was_read_for_the_mended_recipe(plant, recipe):
    ours = Import(plant)
    ours.run("whole")
    recipe(WRONG)
    with pytest.raises(DatasetError, match="M9"):
        ours.run()
    assert ours.notes == [f"what was read is kept in {plant / '.out.import'}; the same command continues from it"]
    assert len(ours.read) == 6
    recipe((WRONG[1], WRONG[0]))
    report = ours.run()
    assert (ours.notes, ours.read) == (["6 of 6 recordings are kept from before"], [])
    assert len(report.clocks) == 6
    assert is_equal(plant)
    assert ".out.import" not in names(plant)


SCALED = ('time = "time"', 'time = "time"\nscale = 2.0')


@pytest.mark.parametrize(
    ("change", "note", "files_read"),
    [
        (("length_s = 1.0", "length_s = 2.0"), "6 of 6 recordings are kept from before", 0),
        (SCALED, "the sources of the recipe have changed since: everything is read again", 6),
    ],
)
def test_logs_are_read_again_only_where_their_sources_changed(plant, recipe, change, note, files_read):
    ours = Import(plant)
    recipe(WRONG)
    with pytest.raises(DatasetError):
        ours.run()
    recipe((WRONG[1], WRONG[0]), change)
    states = plant / "M2" / "states.csv"
    states.write_text(states.read_text().replace("ok", "new"))
    report = ours.run()
    assert (ours.notes, len(ours.read)) == ([note], files_read)
    assert "new" in report.dataset.spec.task.labels
    ours.run("whole")
    assert is_equal(plant)


def test_a_file_that_is_left_out_by_now_is_not_missed(plant, recipe):
    ours = Import(plant)
    recipe(WRONG)
    with pytest.raises(DatasetError):
        ours.run()
    recipe((WRONG[1], WRONG[0]), ("version = 1", 'version = 1\nexclude = ["M3"]'))
    report = ours.run()
    assert (ours.notes, ours.read) == (["5 of 5 recordings are kept from before"], [])
    assert [recording.name for recording in report.recordings] == [f"M{number}/acc.csv" for number in (0, 1, 2, 4, 5)]


def test_a_file_that_changed_is_read_again_alone(plant, recipe):
    ours = Import(plant)
    recipe(WRONG)
    with pytest.raises(DatasetError):
        ours.run()
    log = plant / "M3" / "acc.csv"
    log.write_text(log.read_text().replace(",-", ",9"))
    recipe((WRONG[1], WRONG[0]))
    ours.run()
    size = log.stat().st_size
    assert ours.notes == [
        "5 of 6 recordings are kept from before",
        "files of M3 have changed since: they are read again",
    ]
    assert ours.read == [(size, size)]
    ours.run("whole")
    assert is_equal(plant)
