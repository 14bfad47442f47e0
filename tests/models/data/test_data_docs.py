"""`docs/datasets.md` is run: its Python, its JSON."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mmkd_models.data import check_dataset, open_dataset

_PAGE = Path(__file__).parents[3] / "docs" / "datasets.md"


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
