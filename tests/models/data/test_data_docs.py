"""The guides of datasets are run: their Python, JSON and recipes, and their tables are those of the declarations."""

import itertools
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_models.data import check_dataset, open_dataset
from mmkd_models.data.importing import recipe
from mmkd_models.data.importing.from_recipe import import_recipe
from mmkd_models.data.importing.keys import TextTable, list_keys
from mmkd_models.data.importing.readers.formats import SUFFIXES

_PAGE = Path(__file__).parents[3] / "docs" / "datasets.md"
_OWN_DATA = _PAGE.with_name("your-own-data.md").read_text()


def _blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", _PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_examples_run_and_give_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in _blocks("python"):
        names = {}
        exec(compile(source, str(_PAGE), "exec"), names)
    assert open_dataset(tmp_path / "press").spec.splits == {"train": 90, "valid": 30, "test": 30}
    assert check_dataset(tmp_path / "press").findings == ()
    written = open_dataset("press").spec
    (tmp_path / "press" / "dataset.json").write_text(_blocks("json")[0])
    shown = open_dataset("press").spec
    assert (shown.task, shown.splits, shown.modalities[0]) == (written.task, written.splits, written.modalities[0])
    assert shown.modalities[1].range == (-40.0, 40.0)
    batch = names["batch"]
    assert isinstance(batch, dict)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        "acc": ((3, 200, 3), np.float32),
        "gyro": ((3, 200, 3), np.float32),
    }


def _rows(heading):
    """The cells of the table below a heading of the guide."""
    lines = _OWN_DATA.partition(f"\n{heading}")[2].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(("key |", "| `format`")))
    table = itertools.takewhile(lambda line: "|" in line, lines[first + 2 :])
    return [[cell.strip() for cell in re.split(r" ?\| ", line.strip("| "))] for line in table]


_TABLES = {
    "### `[[source]]`": recipe.SensorSource,
    "#### Text and timestamps": TextTable,
    "### `[labels]`": recipe.LabelRule,
    "### `[windows]`": recipe.WindowRule,
    "### `[split]`": recipe.SplitRule,
    "### `[dataset]`": recipe.DatasetFacts,
}


@pytest.mark.parametrize("heading", _TABLES)
def test_the_guide_lists_every_key_with_its_values(heading):
    rule = _TABLES[heading]
    own = [field for field in list_keys(rule) if rule is TextTable or field[0] not in TextTable.__struct_fields__]
    rows = _rows(heading)
    assert [row[0] for row in rows] == [f"`{name}`" for name, _, _ in own]
    types = {field.name: str(field.type) for field in msgspec.structs.fields(rule)}
    for (_, values, *_), (name, default, key) in zip(rows, own, strict=True):
        assert key.range_text in values, name
        if type(default) in (int, float):
            assert f"default {default:g}" in values, name
        for literal in re.findall(r"Literal\[(.*?)\]", types[name]):
            assert {f"`{value}`" for value in re.findall(r"'([^']*)'", literal)} <= set(re.findall(r"`[^`]*`", values))


def test_the_guide_lists_every_format_with_its_suffixes():
    rows = {row[0]: row[1] for row in _rows("#### Formats")}
    assert list(rows) == [f"`{form}`" for form in SUFFIXES]
    for form, suffixes in SUFFIXES.items():
        assert rows[f"`{form}`"].endswith(", ".join(f"`{suffix}`" for suffix in suffixes))


@pytest.mark.parametrize("heading", list(_TABLES)[:1] + list(_TABLES)[2:5])
def test_the_example_of_every_key_is_a_value_that_it_takes(heading):
    rule = _TABLES[heading]
    required = {"SensorSource": {"modality": "a", "files": "{start}.csv"}, "WindowRule": {"length_s": 1.0}}
    keys = {name: key for name, _, key in list_keys(rule)}
    for name, *_, example in _rows(heading):
        given = {**required.get(rule.__name__, {}), **msgspec.toml.decode(f"{name[1:-1]} = {example[1:-1]}")}
        kind = "video" if keys[name[1:-1]].only == "video" else ""
        problems = recipe.rule_problems(msgspec.convert(given, rule), "t", kind=kind)
        assert [text for text in problems if f"'t.{name[1:-1]}': expected" in text] == []


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
    assert np.bincount(made.dataset.split("train").labels).tolist() == [40, 40]
