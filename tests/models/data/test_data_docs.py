"""The guides of datasets are run: their Python, JSON and recipes, and their tables are those of the declarations."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_models.data import check_dataset, open_dataset
from mmkd_models.data.importing import recipe
from mmkd_models.data.importing.from_recipe import import_recipe
from mmkd_models.data.importing.keys import key_table, keys_of
from mmkd_models.data.importing.readers.formats import format_table
from mmkd_models.data.importing.readers.table import TextTable

_PAGE = Path(__file__).parents[3] / "docs" / "datasets.md"
_OWN_DATA = _PAGE.with_name("your-own-data.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", _PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_examples_run_and_give_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in _blocks("python"):
        names: dict[str, object] = {}
        exec(compile(source, str(_PAGE), "exec"), names)
    assert open_dataset(tmp_path / "press").spec.splits == {"train": 90, "valid": 30, "test": 30}
    assert check_dataset(tmp_path / "press").warnings == ()
    batch = names["batch"]
    assert isinstance(batch, dict)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        "acc": ((3, 200, 3), np.float32),
        "gyro": ((3, 200, 3), np.float32),
    }


def test_the_dataset_json_of_the_page_describes_the_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(_blocks("python")[0], str(_PAGE), "exec"), {})
    written = open_dataset("press").spec
    (tmp_path / "press" / "dataset.json").write_text(_blocks("json")[0])
    shown = open_dataset("press").spec
    assert (shown.task, shown.splits, shown.modalities[0]) == (written.task, written.splits, written.modalities[0])
    assert shown.modalities[1].range == (-40.0, 40.0)


@pytest.mark.parametrize(
    "table",
    [
        key_table(recipe.SensorSource, without=TextTable),
        key_table(TextTable),
        key_table(recipe.LabelRule, without=TextTable),
        key_table(recipe.WindowRule),
        key_table(recipe.SplitRule),
        key_table(recipe.DatasetFacts),
        format_table(),
    ],
)
def test_the_guide_has_the_tables_of_the_declared_keys(table):
    assert f"\n{table}\n" in _OWN_DATA


@pytest.mark.parametrize("rule", [recipe.SensorSource, recipe.LabelRule, recipe.WindowRule, recipe.SplitRule])
def test_the_example_of_every_key_is_a_value_that_it_takes(rule):
    required = {"SensorSource": {"modality": "a", "files": "{start}.csv"}, "WindowRule": {"length_s": 1.0}}
    for name, _, _, key in keys_of(rule):
        example = msgspec.toml.decode(f"{name} = {key.example}")
        given = msgspec.convert({**required.get(rule.__name__, {}), **example}, rule)
        kind = "video" if key.only == "video" else ""
        assert [text for text in recipe.rule_problems(given, "t", kind=kind) if f"'t.{name}': expected" in text] == []


def test_the_first_recipe_of_the_guide_works_on_the_folder_that_it_shows(tmp_path):
    for number in range(6):
        folder = tmp_path / f"M{number}"
        folder.mkdir()
        values = np.random.default_rng(number).normal(size=(800, 2))
        times = [f"2025-11-03T07:{k // 600:02d}:{k % 600 / 10:04.1f}Z" for k in range(800)]
        rows = [f"{time},{ax:.3f},{ay:.3f}" for time, (ax, ay) in zip(times, values, strict=True)]
        (folder / "acc.csv").write_text("\n".join(["time,ax,ay", *rows]))
        states = ["2025-11-03T07:00:00Z,2025-11-03T07:00:40Z,ok", "2025-11-03T07:00:40Z,2025-11-03T07:01:20Z,worn"]
        (folder / "states.csv").write_text("\n".join(["start,end,label", *states]))
    text = re.findall(r"^```toml\n(.*?)^```$", _OWN_DATA, flags=re.MULTILINE | re.DOTALL)[0]
    (tmp_path / "recipe.toml").write_text(text)
    made = import_recipe(recipe.read_recipe(tmp_path / "recipe.toml"), tmp_path, tmp_path / "presses")
    assert made.built.classes["train"] == {"ok": 40, "worn": 40}
