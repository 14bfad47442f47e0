"""`mmkd-data report` as a user meets it: what it prints and writes, and its label file read back by a recipe."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mmkd_models.commands.data import main
from mmkd_models.data import open_dataset
from mmkd_report import render_data_report

pytest.importorskip("sklearn")
pytest.importorskip("polars")

Ran = tuple[object, str, str]
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
def run(ran: Callable[..., Ran]) -> Callable[..., Ran]:
    return partial(ran, main, "mmkd-data")


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=timezone.utc).isoformat()


@pytest.fixture
def logs(tmp_path: Path) -> Path:
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


def test_the_windows_worth_a_label_are_read_back_by_the_recipe(
    run: Callable[..., Ran], logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    assert run("import", logs / "recipe.toml", "-o", before)[0] == 0
    unlabelled = int((~open_dataset(before).split("train").labelled).sum())
    monkeypatch.setattr("mmkd_models.data_report.probes._TREES", 20)
    code, out, err = run("report", before, "--label-next", tmp_path / "next.csv", "-o", tmp_path / "page.html")
    assert (code, err.splitlines()) == (0, ["reading every value", "asking probes", "looking for copies"])
    assert out.splitlines()[-1] == (
        f"wrote {tmp_path / 'page.html'} and {tmp_path / 'next.csv'}; next: mmkd-train teacher {before} -o teacher.ckpt"
    )
    code, document, _ = run("report", before, "--json")
    assert (tmp_path / "page.html").read_text() == render_data_report(json.loads(document))
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


def test_a_page_under_another_name_is_refused_before_the_work(run: Callable[..., Ran], tmp_path: Path) -> None:
    code, out, err = run("report", tmp_path, "-o", tmp_path / "page.txt")
    assert (code, out) == (2, "")
    wanted = "expected a name that ends in .html; only such a file is overwritten"
    assert err == f"mmkd-data: {tmp_path / 'page.txt'}: {wanted}\n"
