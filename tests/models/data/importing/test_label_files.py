"""Labels of annotation tools become the intervals that were drawn there."""

from __future__ import annotations

import json

import numpy as np

from mmkd_edge.errors import DatasetError
from mmkd_models.data import open_dataset
from mmkd_models.data.importing.from_recipe import import_recipe
from mmkd_models.data.importing.patterns import RecipeFolder
from mmkd_models.data.importing.recipe import LabelRule, read_recipe
from mmkd_models.data.importing.window_labels import read_intervals

START_S = 1_762_151_400


def task(number: int, name: str, *results: dict) -> dict:
    """A task as Label Studio exports it."""
    return {
        "id": number,
        "file_upload": f"0a1b2c3d-{name}.csv",
        "data": {"csv": f"/data/upload/1/0a1b2c3d-{name}.csv"},
        "annotations": [{"id": 10 + number, "result": list(results)}],
    }


def drawn(label: str, start: float, end: float, kind: str = "timeserieslabels") -> dict:
    return {"id": "r1", "type": kind, "value": {"start": start, "end": end, kind: [label]}}


def of(tmp_path, content, **rule):
    (tmp_path / "labels.json").write_text(json.dumps(content))
    found = read_intervals(RecipeFolder(tmp_path), LabelRule(files="labels.json", **rule))
    return [(parts, item.start_ns / 1e9, item.end_ns / 1e9, item.value) for parts, item in found]


def test_label_studio_labels_a_plant(plant, recipe):
    starts = {f"M{machine}": START_S + 1000 * machine for machine in range(6)}
    tasks = [
        task(number, name, drawn("ok", start, start + 5), drawn("worn", start + 5, start + 10))
        for number, (name, start) in enumerate(starts.items())
    ]
    (plant / "export.json").write_text(json.dumps(tasks))
    recipe(
        ('files = "{machine}/states.csv"', 'files = "export.json"\nformat = "label_studio"\nmatch = {machine = "file"}')
    )
    import_recipe(read_recipe(plant / "recipe.toml"), plant, plant / "out")
    windows = open_dataset(plant / "out").everything()
    for machine in range(6):
        rows = np.flatnonzero(windows.groups == f"M{machine}")
        assert windows.labels[rows[np.argsort(windows.times[rows])]].tolist() == [0] * 5 + [1] * 5


def test_label_studio_counts_frames_of_video_from_one(refusal, tmp_path):
    result = {
        "id": "v",
        "type": "timelinelabels",
        "value": {"ranges": [{"start": 1, "end": 25}], "timelinelabels": ["bin"]},
    }
    rule = {"format": "label_studio", "time_unit": "s", "match": {"clip": "file"}}
    assert of(tmp_path, [task(0, "bbaf2n", result)], rate_hz=25.0, **rule) == [({"clip": "bbaf2n"}, 0.0, 1.0, "bin")]
    assert refusal(DatasetError, of, tmp_path, [task(0, "bbaf2n", result)], **rule) == (
        f"{tmp_path / 'labels.json'}: expected 'labels.rate_hz', got none; this file counts frames, say how many a"
        " second"
    )


def test_two_labels_on_one_stretch_are_refused(refusal, tmp_path):
    result = {"id": "r7", "type": "labels", "value": {"start": 0, "end": 1, "labels": ["a", "b"]}}
    assert refusal(DatasetError, of, tmp_path, [task(4, "x", result)], format="label_studio", time_unit="s") == (
        f"{tmp_path / 'labels.json'}: task 4, result r7: expected one label for an interval, got a, b; keep one"
    )


def test_two_people_who_labelled_a_task_are_refused(refusal, tmp_path):
    twice = task(3, "x")
    twice["annotations"] *= 2
    assert refusal(DatasetError, of, tmp_path, [twice], format="label_studio", time_unit="s") == (
        f"{tmp_path / 'labels.json'}: task 3: expected one annotation, got 2; keep one in the export"
    )


def test_an_export_of_something_else_is_named(refusal, tmp_path):
    assert refusal(DatasetError, of, tmp_path, [{"id": 1}], format="label_studio") == (
        f"{tmp_path / 'labels.json'}: expected an export of Label Studio in JSON, got one without 'annotations';"
        " export it again"
    )


def test_a_json_file_needs_the_name_of_its_tool(refusal, plant, recipe):
    recipe(('files = "{machine}/states.csv"', 'files = "export.json"'))
    assert refusal(DatasetError, read_recipe, plant / "recipe.toml") == (
        f"{plant / 'recipe.toml'}: 'labels.format': a JSON file is read as 'label_studio'; set it, or name other files"
    )
