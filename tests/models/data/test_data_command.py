"""`mmkd-data` as a command, and what its guide promises."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from mmkd_app.commands.data import main
from mmkd_edge.bundle.reference import read_reference
from mmkd_models.data import open_dataset, shipped_dataset
from mmkd_models.data.importing import recipe
from mmkd_models.data.importing.from_recipe import import_recipe
from mmkd_models.data.importing.keys import TextTable, list_keys
from mmkd_models.data.importing.readers.formats import SUFFIXES

_RUN = "from mmkd_app.commands.data import main; main()"


_BLOCKED = """
import sys
for name in ('torch', 'typer', 'rich', 'sklearn', 'onnx'): sys.modules[name] = None
from mmkd_models.data import open_dataset, shipped_dataset
print(len(open_dataset(shipped_dataset()).everything()))
"""


def process(*arguments, code=_RUN):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def run(ran, monkeypatch):
    """Runs `mmkd-data` in this process, on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        code, out, err = ran(main, "mmkd-data", *arguments)
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return run


@pytest.fixture
def press(tmp_path, arrays):
    arrays["x_temp"][5, 0] = np.inf
    np.savez(tmp_path / "press.npz", **arrays, targets=np.zeros(12))
    return tmp_path / "press.npz"


def test_import_tells_what_it_changed_what_it_wrote_and_what_is_next(run, press, tmp_path):
    out = tmp_path / "press"
    done = run(
        "import", press, "-o", out, "--per-group", "temp", "--name", "line 3", "--licence", "CC0", "--source", "shop"
    )
    assert done.stdout.splitlines() == [
        "line 3: 12 windows (train 4, valid 4, test 4)",
        "temp: infinite values that became missing (NaN): 1",
        "left out, no part of a dataset: targets",
        f"wrote {out}; next: mmkd-data check {out}",
    ]
    assert (done.returncode, done.stderr) == (0, f"reading {press}\n")
    spec = open_dataset(out).spec
    assert (spec.name, spec.licence, spec.source) == ("line 3", "CC0", "shop")
    assert spec.modality("temp").normalise == "per_group"


def test_check_prints_facts_and_the_next_command_and_as_json_one_document_whether_sound_or_not(run, rig):
    done = run("check", rig.path)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "rig: 48 windows, 3 classes, 8 groups",
        "no problems found",
        f"{rig.path} keeps every rule; next: mmkd-train teacher {rig.path} -o teacher.ckpt",
    ]
    done = run("check", rig.path, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"dataset": str(rig.path), "ok": True, "findings": []})
    (rig.path / "train" / "vib.npy").unlink()
    done = run("check", rig.path, "--json")
    problem = f"dataset {rig.path}: train/vib.npy: the file is missing; write it or take it out of dataset.json"
    assert json.loads(done.stdout) == {"dataset": str(rig.path), "ok": False, "error": problem}
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"mmkd-data: {problem}")


def test_a_check_that_found_problems_sends_nobody_to_training(run, splits, write):
    for part in splits.values():
        part["vib"][:, :, 0] = 1.0
    rig = write(splits)
    assert run("check", rig.path).stdout.splitlines()[1:] == [
        "problem: dead channel: channel vib x is 1 in every window; leave the channel out, or check its cable",
        "1 problem makes scores wrong; correct it and import again",
    ]
    for part in splits.values():
        part["vib"][:, :, 1] = 2.0
    shutil.rmtree(rig.path)
    done = run("check", write(splits).path)
    assert done.stdout.splitlines()[-1] == "2 problems make scores wrong; correct them and import again"


def test_describe_shows_modalities_windows_and_missing_values_as_text_and_json(run, splits, write, line):
    splits["train"]["temp"][0] = np.nan  # 1 of 24 windows
    splits["train"]["labels"][3] = -1
    rig = write(splits, source="our rig", licence="internal")
    lines = [line.rstrip() for line in run("describe", rig.path).stdout.splitlines()]
    assert lines == [
        "rig: 48 windows, 3 classes, 8 groups",
        lines[1],
        lines[2],
        lines[3],
        "              train  valid  test",
        "idle              7      4     4",
        "ok                8      4     4",
        "worn              8      4     4",
        "unlabelled        1      0     0",
        "all              24     12    12",
        "groups            4      2     2",
        "vib missing       0      0     0",
        "temp missing  4.2 %      0     0",
        "source: our rig",
        "licence: internal",
        f"sha256: {rig.sha256}",
        f"next: mmkd-train teacher {rig.path} -o teacher.ckpt",
    ]
    assert " ".join(lines[1].split()) == "modality kind channels unit Hz window samples values normalise"
    assert lines[2].split()[:8] == ["vib", "series", "x", "y", "z", "m/s^2", "100", "0.2"]
    assert lines[3].split()[:6] == ["temp", "series", "t", "degC", "25", "0.2"]
    assert lines[3].split()[-1] == "none"
    document = json.loads(run("describe", line.path, "--json").stdout)
    assert document["sha256"] == line.sha256
    assert document["splits"][1] == {
        "split": "valid",
        "windows": 60,
        "unlabelled": 0,
        "groups": 2,
        "largest_group": 0.5,
        "classes": {"idle": 18, "ok": 20, "worn": 22},
    }
    assert document["folds"] == {"0": 60, "1": 60, "2": 60, "3": 60}
    assert document["hop_s"] == 0.1
    assert document["channels"][0]["missing"] == {"train": 0.0, "valid": 0.0, "test": 0.0}


def test_reference_writes_the_file_that_a_device_reads(run, splits, write, tmp_path, edit):
    rig = write(splits)
    edit(lambda document: document["modalities"][1].update(normalise="per_group"))
    out = tmp_path / "temp.json"
    done = run("reference", rig.path, "--modality", "temp", "--group", 5, "--seconds", 0.75, "-o", out)
    values = splits["valid"]["temp"][6:10].astype(np.float64)
    assert done.stdout.splitlines() == [
        f"t: mean {values.mean():g}, standard deviation {values.std():g} degC",
        "measured on 4 of the 6 windows of group 5",
        f"wrote {out}; next: EdgePredictor.open(BUNDLE, reference={str(out)!r})",
    ]
    reference = read_reference(out)
    assert reference.modality == "temp"
    np.testing.assert_allclose(reference.mean, [values.mean()], rtol=1e-12)


def test_list_shows_where_the_shipped_sets_are(run):
    lines = run("list").stdout.splitlines()
    assert lines == [
        f"grid_words  {shipped_dataset('grid_words')}",
        f"watch_exercises  {shipped_dataset()}",
        f"next: mmkd-data describe {shipped_dataset()}",
    ]
    assert json.loads(run("list", "--json").stdout) == {
        "grid_words": str(shipped_dataset("grid_words")),
        "watch_exercises": str(shipped_dataset()),
    }


def test_a_shipped_set_goes_by_its_name(run):
    done = run("describe", "watch_exercises")
    assert done.stdout.splitlines()[-1] == "next: mmkd-train teacher watch_exercises -o teacher.ckpt"
    assert done.returncode == 0


def test_the_command_says_what_is_wrong_or_missing_and_needs_little(run, tmp_path):
    assert run("check").returncode == 2
    assert run("check", "--colour").returncode == 2
    text = run("--help").stdout
    assert [name for name in ("import", "check", "describe", "reference", "list") if name not in text] == []
    blocked = "import sys; sys.modules['typer'] = sys.modules['rich'] = None\n" + _RUN
    done = process("list", code=blocked)
    expected = (
        "mmkd-data: mmkd-data needs typer and rich, which this Python lacks; run: pip install 'mmkd-edge[train]'\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "", expected)
    done = process(code=_BLOCKED)
    assert (done.stdout, done.stderr) == ("2229\n", "")


_PAGE = Path(__file__).parents[3] / "docs" / "datasets.md"
_OWN_DATA = _PAGE.with_name("your-own-data.md").read_text()


def _rows(heading):
    """The cells of the table below a heading of the guide."""
    lines = _OWN_DATA.partition(f"\n{heading}")[2].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(("key |", "| `format`")))
    table = itertools.takewhile(lambda line: "|" in line, lines[first + 2 :])
    return [[cell.strip() for cell in re.split(r" ?\| ", line.strip("| "))] for line in table]


_TABLES = {
    "## The recipe": recipe.ImportRecipe,
    "### `[[source]]`": recipe.SensorSource,
    "#### Text and timestamps": TextTable,
    "### `[labels]`": recipe.LabelRule,
    "### `[windows]`": recipe.WindowRule,
    "### `[split]`": recipe.SplitRule,
    "### `[dataset]`": recipe.DatasetFacts,
}


@pytest.mark.parametrize("heading", _TABLES)
def test_the_guide_lists_every_key_with_its_values(heading):
    rule, tables = _TABLES[heading], re.findall(r"\[(\w+)\]", "".join(_TABLES))
    inner = [] if rule is TextTable else tables if rule is recipe.ImportRecipe else TextTable.__struct_fields__
    own = [field for field in list_keys(rule) if field[0] not in inner]
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


@pytest.mark.parametrize("heading", list(_TABLES)[1:2] + list(_TABLES)[3:6])
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
