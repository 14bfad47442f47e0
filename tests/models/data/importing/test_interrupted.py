"""Imports that are interrupted or run again, and copies among recordings."""

import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from mmkd_edge.errors import DatasetError
from mmkd_models.data import check_dataset, open_dataset
from tests.models.data.importing.conftest import START_S, refusal, run

_RUN = "from mmkd_app.commands.data import main; main()"
WRONG = ('group = "machine"', 'group = "machine"\nvalid = ["M9"]')


def source_modality(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_equal(plant):
    """Whether the dataset `out`, which went on, is `whole`, which was made at once; but for its name."""
    whole = {name: content.replace(b'"whole"', b'"out"') for name, content in source_modality(plant / "whole").items()}
    return source_modality(plant / "out") == whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def imported(plant, out="out"):
    """The report of an import, what was said, and how many bytes of how many were read, file by file."""
    notes, read = [], []
    return run(plant, out, tell=lambda *part: read.append(part), note=notes.append), notes, read


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


@pytest.fixture
def failed(plant, recipe):
    """What an import said and read that failed after every log; the recipe is mended since."""
    notes, read = [], []
    recipe(WRONG)
    with pytest.raises(DatasetError, match="M9"):
        run(plant, tell=lambda *part: read.append(part), note=notes.append)
    recipe(WRONG[::-1])
    return notes, read


def test_an_error_at_the_end_keeps_what_was_read_for_the_mended_recipe(plant, failed):
    assert failed[0] == [f"what was read is kept in {plant / '.out.import'}; the same command continues from it"]
    assert len(failed[1]) == 6
    report, *heard = imported(plant)
    assert heard == [["6 of 6 recordings are kept from before"], []]
    assert len(report.clocks) == 6
    run(plant, "whole")
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
@pytest.mark.usefixtures("failed")
def test_logs_are_read_again_only_where_their_sources_changed(plant, recipe, change, note, files_read):
    recipe(change)
    states = plant / "M2" / "states.csv"
    states.write_text(states.read_text().replace("ok", "new"))
    report, notes, read = imported(plant)
    assert (notes, len(read)) == ([note], files_read)
    assert "new" in report.dataset.spec.task.labels
    run(plant, "whole")
    assert is_equal(plant)


@pytest.mark.usefixtures("failed")
def test_a_file_that_is_left_out_by_now_is_not_missed(plant, recipe):
    recipe(("version = 1", 'version = 1\nexclude = ["M3"]'))
    report, *heard = imported(plant)
    assert heard == [["5 of 5 recordings are kept from before"], []]
    assert [recording.name for recording in report.recordings] == [f"M{number}/acc.csv" for number in (0, 1, 2, 4, 5)]


@pytest.mark.usefixtures("failed")
def test_a_file_that_changed_is_read_again_alone(plant):
    log = plant / "M3" / "acc.csv"
    log.write_text(log.read_text().replace(",-", ",9"))
    _, notes, read = imported(plant)
    assert notes == ["5 of 6 recordings are kept from before", "files of M3 have changed since: they are read again"]
    assert read == [(log.stat().st_size,) * 2]
    run(plant, "whole")
    assert is_equal(plant)


GROUP = 'group = "machine"'
SPLIT = f'{GROUP}\nvalid = ["M4"]\ntest = ["M5"]'
DROP = f"{SPLIT}\ndrop_copies = true"
CURE = "set drop_copies = true under [split] of the recipe, give both one group, or leave one file out"


def copy_rows(plant, source, target, *, rows, at):
    """Write values of one machine over those of another, from its row `at` on; times stay."""
    given = (plant / source / "acc.csv").read_text().splitlines()[1:][rows]
    file = plant / target / "acc.csv"
    lines = file.read_text().splitlines()
    for number, line in enumerate(given, start=1 + at):
        lines[number] = f"{lines[number].partition(',')[0]},{line.partition(',')[2]}"
    file.write_text("\n".join(lines) + "\n")


def test_a_copied_section_is_named_by_file_and_time(plant, recipe):
    recipe((GROUP, SPLIT))
    copy_rows(plant, "M1", "M5", rows=slice(20, 60), at=20)  # 2 s to 6 s, the windows of both
    assert refusal(plant) == (
        "dataset DIR/out: M1/acc.csv 2025-11-03T06:46:42Z to 06:46:46Z (train) equals M5/acc.csv 2025-11-03T07:53:22Z"
        f" to 07:53:26Z (test); splits must not share samples; {CURE}"
    )


def test_a_section_at_another_place_of_a_log_that_counts_from_its_start(plant, recipe):
    for machine in range(6):
        file, start = plant / f"M{machine}" / "acc.csv", START_S + 1000 * machine
        rows = [line.split(",", 1) for line in file.read_text().splitlines()[1:]]
        file.write_text("\n".join(["time,ax,ay", *(f"{float(time) - start:.1f},{rest}" for time, rest in rows)]))
        (plant / f"M{machine}" / "states.csv").write_text("start,end,label\n0,5,ok\n5,10,worn\n")
    recipe(
        (GROUP, SPLIT), ('time = "time"', 'time = "time"\ntime_unit = "s"'), ("[windows]", 'time_unit = "s"\n[windows]')
    )
    copy_rows(plant, "M1", "M5", rows=slice(20, 60), at=23)
    # Windows begin at whole seconds. From 5.7 s of M1 on three samples are left, too few to tell.
    assert refusal(plant) == (
        "dataset DIR/out: M1/acc.csv 2 to 5.7 s (train) equals M5/acc.csv 2.3 to 6 s (test); splits must not share"
        f" samples; {CURE}"
    )


def test_copies_go_also_where_one_recording_is_the_beginning_of_another_or_a_shifted_part(plant, recipe):
    recipe((GROUP, DROP), ("length_s = 1.0", "length_s = 1.0\nstride_s = 0.5"))
    copy_rows(plant, "M1", "M5", rows=slice(0, 50), at=0)
    copy_rows(plant, "M2", "M4", rows=slice(10, 100), at=3)
    copy_rows(plant, "M2", "M3", rows=slice(33, 73), at=33)
    report = run(plant)
    assert report.dataset.spec.left_out == {
        "across a change of label (less than 80 % one label: 'purity')": 6,
        "sharing samples with another split or group": 35,
    }
    windows = open_dataset(plant / "out").everything()
    starts = np.asarray(windows.times) - START_S
    kept = {name: sorted(starts[windows.groups == name] - 1000 * int(name[1])) for name in np.unique(windows.groups)}
    # Of M2 the first window alone is of no other log, and M3 is its own but for 3.3 to 7.3 s.
    assert kept["M1"] == [5.0, 5.5, 6.0, 6.5, 7.0, 7.5, 8.0, 8.5, 9.0]
    assert kept["M2"] == [0.0]
    assert kept["M3"] == [0.0, 0.5, 1.0, 1.5, 2.0, 7.5, 8.0, 8.5, 9.0]
    assert [len(kept[name]) for name in ("M0", "M4", "M5")] == [18] * 3
    assert [finding.kind for finding in check_dataset(plant / "out").findings] == ["left out"]


def test_a_log_under_two_names_is_dropped_whole(plant, recipe):
    recipe((GROUP, DROP))
    copy_rows(plant, "M2", "M3", rows=slice(0, 100), at=0)  # both train: folds would deal them apart
    assert run(plant).dataset.spec.left_out == {"sharing samples with another split or group": 10}
    assert np.unique(open_dataset(plant / "out").everything().groups).tolist() == ["M0", "M1", "M2", "M4", "M5"]


def test_labels_that_contradict_each_other_in_a_shared_section_are_told(plant, recipe, caplog):
    recipe((GROUP, DROP))
    copy_rows(plant, "M1", "M5", rows=slice(20, 60), at=20)
    states = plant / "M5" / "states.csv"
    start = START_S + 5000
    states.write_text(f"start,end,label\n{start},{start + 4},ok\n{start + 4},{start + 10},worn\n")
    told = (
        "warning: M1/acc.csv 2025-11-03T06:46:42Z to 06:46:46Z (train) equals M5/acc.csv 2025-11-03T07:53:22Z to"
        " 07:53:26Z (test), but 25% of the 4 windows in it have different labels; correct the labels, or leave one"
        ' file out: exclude = ["M5/acc.csv"] below version = 1'
    )
    run(plant)
    assert caplog.messages == [told]
    caplog.clear()
    shutil.rmtree(plant / "out")
    recipe(("drop_copies = true", "drop_copies = false"))
    assert refusal(plant).endswith(CURE)
    assert caplog.messages == [told]


def test_of_many_contradictions_the_first_are_named_and_all_counted(plant, recipe, caplog):
    recipe((GROUP, DROP))
    for machine in range(1, 6):
        copy_rows(plant, "M0", f"M{machine}", rows=slice(0, 100), at=0)
    states = plant / "M5" / "states.csv"
    states.write_text(f"start,end,label\n{START_S + 5000},{START_S + 5010},worn\n")
    assert refusal(plant).startswith("'split': expected windows in every split, got none in train")
    *named, last = caplog.messages
    assert [text[:19] for text in named] == [f"warning: M{number}/acc.csv" for number in range(3)]
    assert all("equals M5/acc.csv" in text and "50% of the 10 windows" in text for text in named)
    assert last == (
        "warning: 5 sections that two files share have different labels, the first 3 are named; correct the labels, or"
        " leave files out"
    )


def test_a_dataset_keeps_the_files_of_its_windows(plant, recipe):
    recipe((GROUP, SPLIT))
    copy_rows(plant, "M1", "M2", rows=slice(0, 100), at=0)
    run(plant)
    for machine in range(6):
        shutil.rmtree(plant / f"M{machine}")
    assert [finding.text for finding in check_dataset(plant / "out").findings] == [
        (
            "groups 'M1' and 'M2' share samples: M1/acc.csv 2025-11-03T06:46:40Z to 06:46:50Z (train) equals M2/acc.csv"
            f" 2025-11-03T07:03:20Z to 07:03:30Z (train); {CURE}"
        ),
        (
            "10 windows of 60 equal an earlier one of their split, for example M2/acc.csv 2025-11-03T07:03:20Z to"
            " 07:03:21Z (train) and M1/acc.csv 2025-11-03T06:46:40Z to 06:46:41Z (train); they count twice; remove them"
            " unless the process repeats itself exactly"
        ),
    ]


def test_a_split_that_is_nothing_but_copies_is_told(plant, recipe):
    recipe((GROUP, DROP))
    copy_rows(plant, "M5", "M4", rows=slice(0, 100), at=0)
    assert refusal(plant) == (
        "'split': expected windows in every split, got none in valid (10 sharing samples with another split or group);"
        " choose another 'seed', or name groups in 'valid' and 'test'"
    )
