"""The report of a dataset: planted faults are found and told whole, and its label file is read back."""

import csv
import re
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial

import msgspec
import numpy as np
import pytest

from mmkd_app.commands.data import main
from mmkd_app.pages.data import render_data_report
from mmkd_documents.data import DataReport, SplitFacts, WindowToLabel
from mmkd_edge.errors import UsageError
from mmkd_edge.frames import mask_missing
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import open_dataset, write_dataset
from mmkd_models.data.checking.findings import value_findings
from mmkd_models.data.checking.scan import brightness, scan_windows
from mmkd_models.data_report.probes import (
    band_levels,
    choose_windows,
    class_probe,
    probe_findings,
    run_probes,
)
from mmkd_models.data_report.report import (
    label_agreement,
    label_csv,
    label_findings,
    label_suspects,
    label_tasks,
    like_groups,
    near_copies,
    report_on,
    windows_to_label,
)
from tests.edge.said import said
from tests.models.kinds_rig import kinds_dataset

pytest.importorskip("sklearn")
pytestmark = pytest.mark.usefixtures("few_trees")

ACC = ModalitySpec(name="acc", channels=("x", "y"), unit="g", rate_hz=20.0, samples=40)
TEMP = ModalitySpec(name="temp", channels=("t",), rate_hz=5.0, samples=10)
LABELS = ("idle", "ok", "worn")
GROUPS, EACH = 15, 24


@pytest.fixture(scope="module")
def rig():
    """Arrays of 15 people, 24 windows each: `acc` swings at the rate of the class; `temp` is noise."""
    rng = np.random.default_rng(3)
    labels = np.tile(np.arange(3), GROUPS * EACH // 3)
    count = len(labels)
    rate_hz = np.array([1.0, 2.5, 4.0])[labels][:, None, None]
    swing = np.sin(2 * np.pi * rate_hz * np.arange(40)[:, None] / 20 + rng.uniform(0, 6, (count, 1, 1)))
    return {
        "acc": swing + rng.normal(0, 0.4, (count, 40, 2)),
        "temp": rng.normal(20, 1, (count, 10, 1)),
        "labels": labels,
        "groups": np.repeat(np.arange(GROUPS), EACH),
        "splits": np.repeat([0, 1, 2], 5 * EACH),
    }


def written(rig, path):
    splits = {
        name: {key: values[rig["splits"] == number] for key, values in rig.items() if key != "splits"}
        for number, name in enumerate(("train", "valid", "test"))
    }
    return write_dataset(path, name="rig", labels=LABELS, modalities=[ACC, TEMP], splits=splits)


@pytest.fixture
def doubted(tmp_path):
    """Findings about channels, gaps and balance, which need no probe."""

    def made(rig):
        scan = scan_windows(written(rig, tmp_path / "rig").everything())
        return [(one.kind, one.level, one.sentence) for one in value_findings(scan)]

    return made


def test_clean_windows_raise_nothing_and_the_sensor_that_separates_is_named(rig, tmp_path):
    found = report_on(written(rig, tmp_path / "rig"), on_part=lambda part: None)
    assert found.findings == ()
    assert [(one.target, one.modality, one.is_better) for one in found.probes] == [
        ("class", None, True),
        ("class", "acc", True),
        ("class", "temp", False),
        ("split", None, False),
    ]
    by_name = {one.modality: one.score for one in found.probes if one.target == "class"}
    assert by_name["acc"] > 0.95
    assert abs(by_name["temp"] - 1 / 3) < 0.1
    splits = {one.split: (one.windows, one.groups, one.classes["ok"]) for one in found.splits}
    assert splits == dict.fromkeys(("train", "valid", "test"), (120, 5, 40))


def test_a_leaked_group_is_found_under_its_other_name(rig, tmp_path):
    # Person 14, who judges, is person 4, who trains, under another name: one way of moving.
    own = np.isin(rig["groups"], [4, 14])
    acc = rig["acc"].copy()
    acc[own] = 0.6 * acc[own] + np.array([0.8, -0.5])
    (leak,) = like_groups(choose_windows(written({**rig, "acc": acc}, tmp_path / "rig").everything()))
    assert leak.level == "problem"
    assert leak.sentence == (
        "group '14' (judging) and group '4' (training): 100% of the windows of each have their nearest neighbour in "
        "the other (typical pair of groups: 17%)"
    )
    assert leak.advice == "ask whether they are one person, machine or session; if so give them one group"


def test_a_near_copy_of_a_training_window_is_found(rig, tmp_path):
    acc, temp = rig["acc"].copy(), rig["temp"].copy()
    acc[300], temp[300] = acc[7] + np.random.default_rng(0).normal(0, 0.01, acc[7].shape), temp[7]
    windows = written({**rig, "acc": acc, "temp": temp}, tmp_path / "rig").everything()
    (copy,) = near_copies(windows, choose_windows(windows))
    assert (copy.kind, copy.level) == ("copies", "problem")
    assert copy.sentence == (
        "1 window outside train nearly equal to a training window: test window 60 differs from train window 7 by 0.015 "
        "% of the movement"
    )


def test_faults_of_channels_are_found(doubted, rig):
    acc = rig["acc"].copy()
    acc[rig["groups"] == 11, :, 1] = 0.25
    acc[5::40, :, 0] = 1.0
    acc[rig["labels"] == 2, 3:6] = np.nan
    kinds, levels, told = zip(*doubted({**rig, "acc": acc, "temp": np.full_like(rig["temp"], 20.0)}), strict=True)
    assert kinds == ("stuck channel", "stuck channel", "gaps", "dead channel")
    assert set(levels) == {"problem"}
    assert told == (
        # A window of group 11 has no other channel that moves.
        "channel acc x does not move in 8 windows of 360, while other channels of the sensor do",
        "channel acc y does not move in 6.7% of all windows, and in nearly every window of group 11",
        "sensor acc has gaps in 100% of the windows of worn, and in 0% of idle: the gaps reveal the class",
        "channel temp t is 20 in every window",
    )


def test_five_percent_of_flipped_labels_are_found(rig, tmp_path, monkeypatch):
    monkeypatch.setattr("mmkd_models.data_report.probes._TREES", 100)
    rng = np.random.default_rng(1)
    flipped = rng.permutation(360)[:18]
    labels = rig["labels"].copy()
    labels[flipped] = (labels[flipped] + rng.integers(1, 3, 18)) % 3
    looked = choose_windows(written({**rig, "labels": labels}, tmp_path / "rig").everything())
    probed = class_probe(looked, None)
    assert not isinstance(probed, str)
    found = label_suspects(looked, probed)
    first = {"train": 0, "valid": 120, "test": 240}
    suspects = {first[one.split] + one.window for one in found}
    right = len(suspects & set(flipped.tolist()))
    assert (right, len(suspects), len(flipped)) == (16, 16, 18)  # precision 1.0, recall 0.89
    (told,) = label_findings(found, 360, label_agreement(probed))
    assert told.sentence.startswith(
        "16 labels of 360 (4.4%) contradict extra-trees that were not trained on the window's group; the clearest is "
    )


def test_splits_that_differ_as_wholes_are_told_by_a_probe(rig, tmp_path):
    other = {**rig, "temp": rig["temp"] + 3 * (rig["splits"] == 2)[:, None, None]}
    *_, asked = run_probes(choose_windows(written(other, tmp_path / "rig").everything().with_modalities(["temp"])))
    assert not isinstance(asked, str)
    (told,) = probe_findings(asked.facts)
    assert told.level == "problem"
    assert told.sentence == (
        f"extra-trees recognise the split from a window with balanced accuracy {asked.facts.score:.0%} (99 % interval "
        f"from {asked.facts.low:.0%}; chance 33%), of groups that they were not trained on"
    )
    splits = np.where(rig["groups"] == 14, 2, np.where(rig["groups"] > 8, 1, 0))
    few = written({**rig, "splits": splits}, tmp_path / "few").everything()
    *_, asked = run_probes(choose_windows(few.with_modalities(["temp"])))
    assert asked == "split: needs 5 groups or more in each split, and one has 1"


def test_a_rare_and_an_absent_class_are_told(doubted, rig):
    keep = (rig["labels"] != 2) | ((rig["splits"] == 0) & (np.arange(360) < 10))
    told = doubted({name: values[keep] for name, values in rig.items()})
    assert told == [
        ("balance", "problem", "valid has no window of worn"),
        ("balance", "problem", "test has no window of worn"),
        ("balance", "note", "class worn has 3 training windows, idle 40"),
    ]


def test_the_next_windows_to_label_are_unlabelled_ones_chosen_by_training_labels_and_no_more_than_fifty(rig, tmp_path):
    labels = rig["labels"].copy()
    labels[20:110] = -1
    timed = {**rig, "times": 1_760_000_000.0 + 2 * np.arange(360)}

    def to_label(name, labels):
        return windows_to_label(choose_windows(written({**timed, "labels": labels}, tmp_path / name).everything()))

    found = to_label("first", labels)
    chosen = [one.window for one in found]
    assert (len(chosen), len(set(chosen))) == (50, 50)
    assert all(20 <= number < 110 for number in chosen)
    first = min(found, key=lambda one: one.window)
    start = np.datetime64(1_760_000_000 + 2 * first.window, "s")
    assert (first.start, first.end) == (f"{start}.000000Z", f"{start + 2}.000000Z")

    # What judges is labelled otherwise:
    assert to_label("second", np.where(rig["splits"] == 0, labels, (labels + 1) % 3)) == found
    assert to_label("none", np.where(rig["splits"] == 0, -1, rig["labels"])) == []


def test_a_label_file_needs_times_and_windows():
    classes = {"ok": 5, "worn": 0}
    train = SplitFacts(split="train", windows=9, unlabelled=4, groups=0, largest_group=None, classes=classes)
    timeless = WindowToLabel(window=1, group="a", start=None, end=None, likely="ok", probability=0.5)
    assert said(UsageError, label_csv, [], train) == (
        "--label-next: expected unlabelled training windows away from labelled ones, and labels of two classes, got 4"
        " unlabelled windows and 1 classes; label two classes first, or record more"
    )
    assert said(UsageError, label_csv, [timeless], train) == (
        "--label-next: expected a dataset with times, by which the importer finds the windows, got one without; "
        "import it with a recipe, or give write_dataset 'times'"
    )


def test_windows_worth_a_label_are_tasks_of_label_studio_with_every_sensor(tmp_path):
    train = kinds_dataset(tmp_path / "kinds").split("train")
    windows = replace(train, times=1_760_000_000.0 + np.arange(len(train)))
    row = WindowToLabel(window=2, group="M1", start="", end="", likely="left", probability=0.5)
    (task,), interface = label_tasks([row], windows)
    assert re.findall(r"<(\w+) name=.(\w+)", interface) == [
        ("TimeSeries", "acc"),
        ("Audio", "mic"),
        ("Video", "cam"),
        ("Choices", "label"),
    ]
    assert [choice["value"] for choice in task["predictions"][0]["result"]] == [{"choices": ["left"]}]
    assert (task["data"]["group"], task["data"]["start"]) == ("M1", "2025-10-09T08:53:22.000000+00:00")
    first = windows.take([2])["acc"][0][:, 0]
    assert task["data"]["x_acc"][windows.spec.modalities[0].channels[0]] == pytest.approx(first, rel=1e-5)


def test_sound_and_video_are_reported_on(tmp_path):
    found = report_on(kinds_dataset(tmp_path / "kinds"), on_part=lambda part: None)
    told = {one.modality: one.score for one in found.probes if one.target == "class"}
    assert list(told) == [None, "acc", "mic", "cam"]
    assert told["mic"] == 1.0  # a tone for each class
    assert told["cam"] > 0.9  # a blob that moves to the left, to the right, or not
    assert told["acc"] < 0.6  # noise
    channels = [one for one in found.channels if one.modality == "cam"]
    assert [one.channel for one in channels][:4] == ["gray 1.1", "gray 1.2", "gray 1.3", "gray 2.1"]
    assert channels[0].missing == pytest.approx({"train": 2 / 240, "valid": 2 / 120, "test": 2 / 120})
    (mic,) = [one for one in found.channels if one.modality == "mic"]
    assert mic.missing["test"] == pytest.approx(200 / 800 / 12)
    assert render_data_report(found).startswith("<!doctype html>")


def test_brightness_and_tones_by_hand():
    frames = np.zeros((1, 2, 6, 9, 1), dtype=np.uint8)
    frames[0, :, 2:4, 6:9] = 60  # the middle row, the right column
    frames[0, 1, 0, 0] = 6
    hidden = np.array([[False, True]])
    assert brightness(frames)[0].tolist() == [[0, 0, 0, 0, 0, 60, 0, 0, 0], [1, 0, 0, 0, 0, 60, 0, 0, 0]]
    assert np.isnan(brightness(mask_missing(frames, hidden))[0]).all(axis=1).tolist() == [False, True]
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000).astype(np.float32)[None, :, None]
    levels = band_levels(tone, 8000.0)
    assert levels.shape[1] == 40  # frames of 25 ms
    edges = np.unique(np.geomspace(1, 101, 17).round().astype(int))  # of 101 bins of 40 Hz
    assert (levels[0].argmax(axis=1) == np.searchsorted(edges, 25, side="right") - 1).all()  # 1,000 Hz is bin 25
    assert np.unique(band_levels(np.full_like(tone, np.nan), 8000.0)) == pytest.approx([-10.0])


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_other_tasks_are_reported_on_and_say_what_is_not_judged(kind, rigs):
    found = report_on(rigs[kind], on_part=lambda part: None)
    assert f"wrong labels: only classes are checked, and the task is of the kind {kind}" in found.not_judged
    assert [one.modality for one in found.probes if one.target == "class"] == [None, "acc", "gyro"]
    assert found.label_suspects == ()
    assert render_data_report(found).startswith("<!doctype html>")


def test_windows_without_groups_are_reported_on(rig, tmp_path):
    lone = {name: values for name, values in rig.items() if name != "groups"}
    found = report_on(written(lone, tmp_path / "lone"), on_part=lambda part: None)
    assert found.groups == 0
    assert [one.largest_group for one in found.splits] == [None, None, None]
    assert next(one.score for one in found.probes if one.modality == "acc") > 0.95


pytest.importorskip("polars")

START_S = 1_760_000_000
RECIPE = """
version = 1
[[source]]
modality = "vib"
files = "press_{press}.csv"
time = "time"
rate_hz = 10.0
[labels]
files = "labels/*.csv"
match = {press = "group"}
classes = ["ok", "worn"]
unlabelled = "keep"
[windows]
length_s = 2.0
[split]
group = "press"
valid = ["5", "6"]
test = ["7", "8"]
"""


@pytest.fixture
def run(ran):
    return partial(ran, main, "mmkd-data")


def iso(seconds):
    return datetime.fromtimestamp(seconds, tz=timezone.utc).isoformat()


@pytest.fixture
def logs(tmp_path):
    """Eight presses, a minute each at 10 Hz, worn for the second quarter; the second half has no label."""
    folder = tmp_path / "logs"
    (folder / "labels").mkdir(parents=True)
    rows = []
    for press in range(1, 9):
        rng, start = np.random.default_rng(press), START_S + 3600 * press
        level = np.where(np.arange(600) // 150 % 2, 2.0, 0.0)
        lines = [f"{start + n / 10},{v:.4f}" for n, v in enumerate(level + rng.normal(0, 0.5, 600))]
        (folder / f"press_{press}.csv").write_text("time,v\n" + "\n".join(lines) + "\n")
        rows += [[iso(start), iso(start + 15), "ok", press], [iso(start + 15), iso(start + 30), "worn", press]]
    with (folder / "labels" / "known.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["start", "end", "label", "group"], *rows])
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def test_the_windows_worth_a_label_are_read_back_by_the_recipe(run, logs, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    assert run("import", logs / "recipe.toml", "-o", before)[0] == 0
    unlabelled = int((~open_dataset(before).split("train").labelled).sum())
    code, out, err = run("report", before, "--label-next", tmp_path / "next.csv", "-o", tmp_path / "page.html")
    assert (code, err.splitlines()) == (0, ["reading every value", "asking probes", "looking for copies"])
    assert out.splitlines()[-1] == (
        f"wrote {tmp_path / 'page.html'} and {tmp_path / 'next.csv'}; next: mmkd-train teacher {before} -o teacher.ckpt"
    )
    code, document, _ = run("report", before, "--json")
    assert (tmp_path / "page.html").read_text() == render_data_report(msgspec.json.decode(document, type=DataReport))
    with (tmp_path / "next.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["start", "end", "label", "group", "likely"]
    assert 0 < len(rows) <= 50
    assert {row["label"] for row in rows} == {""}
    for row in rows:
        row["label"] = "worn"
    with (logs / "labels" / "next.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert run("import", logs / "recipe.toml", "-o", after)[0] == 0
    train = open_dataset(after).split("train")
    assert int((~train.labelled).sum()) == unlabelled - len(rows)
    assert train.times is not None
    starts = {datetime.fromisoformat(row["start"].replace("Z", "+00:00")).timestamp() for row in rows}
    here = np.isin(train.times, list(starts))
    assert (int(here.sum()), set(train.labels[here].tolist())) == (len(rows), {1})
