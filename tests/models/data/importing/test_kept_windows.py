"""Windows that a station kept, their labels, and everything hostile in their place."""

import io
import json
import os
import time
import zipfile

import msgspec
import numpy as np
import pytest

from mmkd_app.commands.data import run_data
from mmkd_edge import ModalitySpec
from mmkd_edge.errors import DatasetError, MmkdError, UsageError
from mmkd_models.data import open_dataset, write_dataset
from mmkd_models.data.importing.patterns import RecipeFolder
from mmkd_models.data.importing.recipe import LabelRule
from mmkd_models.data.importing.window_labels import read_intervals
from tests.edge.said import said
from tests.station.test_uncertain import ACC, TASK, prediction, ring, window

START_S = 1_760_000_000.0
CLASSES = ("ok", "worn")


def kept(first=0, *, station="press 1", count=5):
    """Arrays of a file of kept windows; each window's samples are its number."""
    return {
        "x_acc": np.repeat(np.arange(first, first + count, dtype=np.float32), 40).reshape(count, 20, 2),
        "rate_acc": np.float64(10),
        "channels_acc": np.array(["x", "y"]),
        "unit_acc": np.array("g"),
        "y": np.full(count, -1),
        "classes": np.array(CLASSES),
        "split": np.zeros(count, dtype=np.int64),
        "group": np.array([station] * count),
        "time": START_S + 5.0 * np.arange(first, first + count),
        "column_answer": np.array(["worn"] * count),
        "column_probability": np.full(count, 0.55),
        "column_reason": np.array(["low probability"] * count),
    }


def labelled(file, row, *labels):
    return {
        "data": {"file": file, "row": row},
        "annotations": [{"result": [{"type": "choices", "value": {"choices": [label]}} for label in labels]}],
    }


def export(folder, labels, *, count=5):
    """Label the windows of files `a-00000001.npz`, `a-00000002.npz`... one after another."""
    tasks = [labelled(f"a-{1 + n // count:08d}.npz", n % count, label) for n, label in enumerate(labels)]
    (folder / "export.json").write_text(json.dumps(tasks))


def run(*words):
    with pytest.raises(SystemExit) as end:
        run_data([str(word) for word in words])
    assert end.value.code == 0


def test_windows_in_several_files_are_shown_labelled_and_imported(tmp_path, capsys):
    for _ in range(2):  # started again: another file
        stations = ring(tmp_path, station="press1")
        for number in range(3):
            stations.see(window(number), prediction(0.55), time_s=START_S + 5.0 * number)
        stations.close()
    run("tasks", tmp_path, "-o", tmp_path / "tasks.json")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    places = [(task["data"]["file"], task["data"]["row"]) for task in tasks]
    assert places == [(f"press1-0000000{file}.npz", row) for file in (1, 2) for row in range(3)]
    for task, label in zip(tasks, ["ok", "worn"] * 3, strict=True):
        task["annotations"] = [{"result": [{"type": "choices", "value": {"choices": [label]}}]}]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    run("import", tmp_path / "export.json", "-o", tmp_path / "data")
    assert "export: 6 windows (train 2, valid 2, test 2)" in capsys.readouterr().out
    dataset = open_dataset(tmp_path / "data")
    assert (dataset.spec.modalities, dataset.spec.task) == ((ACC,), TASK)


@pytest.mark.parametrize(
    ("labels", "train", "valid", "test"),
    [
        ("ok ok ok ok ok ok ok ok worn worn", "ok ok ok ok worn worn", "ok ok", "ok ok"),
        ("worn ok ok ok", "worn ok", "ok", "ok"),
        ("ok ok ok ok worn loose", "ok ok worn loose", "ok", "ok"),
        ("loose ok ok ok ok ok loose loose loose loose", "loose ok ok ok loose loose", "ok loose", "ok loose"),
    ],
)
def test_every_labelled_class_is_in_train_and_unused_ones_are_left_out(tmp_path, labels, train, valid, test):
    labels = labels.split()
    for number in range(2):
        np.savez(tmp_path / f"a-{number + 1:08d}.npz", **kept(5 * number))
    export(tmp_path, labels)
    run("import", tmp_path / "export.json", "-o", tmp_path / "data")
    dataset = open_dataset(tmp_path / "data")
    names, windows = dataset.spec.task.labels, dataset.everything()
    assert set(names) == {*labels}
    split = {
        name: " ".join(names[label] for label in windows.labels[windows.splits == number].tolist())
        for number, name in enumerate(("train", "valid", "test"))
    }
    assert split == {"train": train, "valid": valid, "test": test}
    values = windows.take(np.arange(len(windows)))["acc"][:, 0, 0].astype(int).tolist()
    assert [names[label] for label in windows.labels.tolist()] == [labels[value] for value in values]


def test_labels_that_cannot_be_split_are_sent_to_the_dataset_that_they_extend(tmp_path):
    np.savez(tmp_path / "a-00000001.npz", **kept())
    export(tmp_path, ["worn"] * 3)
    words = ["import", str(tmp_path / "export.json"), "-o", str(tmp_path / "data")]
    assert said(UsageError, run_data, words) == (
        f"{tmp_path / 'export.json'}: expected labels of two classes or more, and two windows more than classes, to"
        " split into train, valid and test, got 3 of worn; label more, or join them to the dataset that they extend:"
        " --add-to DATA"
    )
    export(tmp_path, ["worn", "ok", "loose", "ok"])
    assert "got 2 of ok, 1 of worn, 1 of loose; label" in said(UsageError, run_data, words)


GYRO = ModalitySpec(name="gyro", channels=("z",), rate_hz=5.0, samples=10)
CAM = ModalitySpec(name="cam", channels=("gray",), rate_hz=1.0, samples=2, kind="video", height=3, width=4)


def line(path, modalities=(ACC, GYRO, CAM), **more):
    """A dataset of three stations, one in each split, with two windows of each class."""
    splits = {}
    for number, split in enumerate(("train", "valid", "test")):
        count, name = 4, f"press {number}"
        random = np.random.default_rng(number)
        splits[split] = {
            **{m.name: random.integers(0, 200, (count, *m.shape)).astype(m.dtype) for m in modalities},
            "labels": np.array([0, 1, 0, 1]),
            "groups": np.array([name] * count),
            "times": START_S + 1000.0 * number + np.arange(count),
            "metadata": {"machine": np.array([name] * count), "load": np.arange(count)},
            **more,
        }
    return write_dataset(path, name="line", labels=CLASSES, modalities=modalities, splits=splits)


def test_labels_join_the_dataset_that_they_extend_where_their_station_is(tmp_path, capsys):
    whole = line(tmp_path / "line").everything()
    np.savez(tmp_path / "a-00000001.npz", **kept(300, station="press 2", count=5))
    np.savez(tmp_path / "a-00000002.npz", **kept(400, station="press 9", count=5))
    export(tmp_path, ["worn"] * 5 + ["worn", "loose"])
    words = ["import", tmp_path / "export.json", "--add-to", tmp_path / "line", "-o", tmp_path / "data"]
    run(*words)
    out = capsys.readouterr().out
    assert f"added to {tmp_path / 'line'}: 7 windows (train 2, valid 0, test 5)\nline: 19 windows" in out
    joined = open_dataset(tmp_path / "data")
    assert joined.spec.task.labels == ("ok", "worn", "loose")
    windows = joined.everything()
    assert windows.groups.tolist() == [
        *["press 0"] * 4, "press 9", "press 9", *["press 1"] * 4, *["press 2"] * 9,
    ]  # fmt: skip
    assert windows.labels.tolist() == [0, 1, 0, 1, 1, 2, 0, 1, 0, 1, 0, 1, 0, 1, *[1] * 5]
    new = np.array([4, 5, *range(14, 19)])
    old = np.setdiff1d(np.arange(19), new)
    taken = windows.take(np.arange(19))
    assert taken["acc"][new][:, 0, 0].tolist() == [400, 401, 300, 301, 302, 303, 304]
    assert np.isnan(taken["gyro"][new]).all()
    assert np.ma.getmaskarray(taken["cam"])[new].all()
    for name, values in whole.take(np.arange(12)).items():
        assert np.array_equal(np.asarray(taken[name][old]), np.asarray(values))
    assert not np.ma.getmaskarray(taken["cam"])[old].any()
    assert windows.times is not None
    assert windows.times[new].tolist() == [START_S + 5.0 * n for n in (400, 401, 300, 301, 302, 303, 304)]
    assert windows.metadata["machine"][new].tolist() == [""] * 7
    assert np.isnan(windows.metadata["load"][new]).all()
    run("check", tmp_path / "data")


def test_labels_join_windows_cut_from_recordings_and_take_their_folds(tmp_path, line):
    """`line` of the rig: 24 recordings of 8 groups in 4 folds, groups by number."""
    arrays = kept(station="7", count=3) | {
        "x_vib": np.full((3, 20, 3), 9e6, np.float32) + np.arange(3)[:, None, None],
        "rate_vib": np.float64(100),
        "channels_vib": np.array(["x", "y", "z"]),
        "unit_vib": np.array("m/s^2"),
        "classes": np.array(["idle", "ok", "worn"]),
    }
    arrays = {key: array for key, array in arrays.items() if not key.endswith("_acc")}
    np.savez(tmp_path / "a-00000001.npz", **arrays)
    export(tmp_path, ["worn"] * 3)
    run("import", tmp_path / "export.json", "--add-to", line.path, "-o", tmp_path / "data")
    windows, before = open_dataset(tmp_path / "data").everything(), line.everything()
    assert len(windows) == len(before) + 3
    assert (windows.groups[-3:].tolist(), windows.folds[-3:].tolist(), windows.labels[-3:].tolist()) == (
        ["7"] * 3, [3] * 3, [2] * 3,
    )  # fmt: skip
    rows = np.arange(0, len(before), 7)
    assert np.array_equal(windows.take(rows)["vib"], before.take(rows)["vib"])


def test_labels_of_another_sensor_or_task_do_not_join(tmp_path):
    np.savez(tmp_path / "a-00000001.npz", **kept())
    export(tmp_path, ["worn"] * 3)
    line(tmp_path / "line", modalities=(GYRO, msgspec.structs.replace(ACC, rate_hz=20.0)))
    words = ["import", str(tmp_path / "export.json"), "--add-to", str(tmp_path / "line"), "-o", str(tmp_path / "data")]
    assert said(UsageError, run_data, words) == (
        f"--add-to {tmp_path / 'line'}: expected a dataset that has the sensor of {tmp_path / 'export.json'}, acc,"
        " series of x y in g, 20 x 2 at 10 Hz, got gyro, series of z, 10 x 1 at 5 Hz; acc, series of x y in g, 20 x 2"
        " at 20 Hz; name the one that the student was trained on"
    )
    assert said(UsageError, run_data, [*words, "--normal", "ok"]) == (
        f"--add-to {tmp_path / 'line'}: expected labels of kept windows (.json), whose facts are those of the dataset,"
        f" got {tmp_path / 'export.json'}; leave the other options out"
    )


def test_somebody_who_labels_normal_running_can_say_fault(tmp_path):
    np.savez(tmp_path / "a-00000001.npz", **kept() | {"classes": np.array(["normal"])})
    run("tasks", tmp_path, "-o", tmp_path / "tasks.json")
    assert '<Choice value="normal"/><Choice value="fault"/>' in (tmp_path / "tasks.xml").read_text()


# Hostile input: whatever stands in a place is read or refused by name.

NESTED = "[" * 100_000 + "]" * 100_000
VALUES = [
    None,
    True,
    7,
    -1,
    0.5,
    1e300,
    2**64,
    "",
    "x",
    [],
    {},
    [[]],
    ["a", "b"],
    {"a": 1},
    "\x1b[2J\n",
    "\0",
    "y" * 9999,
]
NAMES = [
    ".",
    "..",
    "/",
    "/etc/passwd",
    "../a-00000001.npz",
    "b/a-00000001.npz",
    "C:\\a.npz",
    "a\0.npz",
    "x" * 300 + ".npz",
]
NAMES += ["missing.npz", ".npz", "export.json", "pipe.npz", "zero.npz", "folder.npz", "loop.npz", "\u202e.npz"]
DOCUMENTS = {
    "nothing": b"",
    "open": b"[",
    "null": b"null",
    "object": b"{}",
    "bytes": b"\xff\xfe\x00",
    "utf-16": '[{"id": 1}]'.encode("utf-16"),
    "more": b"[] []",
    "nan": b"[NaN]",
    "surrogate": b'["\\ud800"]',
    "deep": NESTED.encode(),
    "deep beside": f'[{{"data": {{"file": "a-00000001.npz", "row": 0, "z": {NESTED}}}, "annotations": []}}]'.encode(),
    "deep label": f'[{{"data": {{"file": "a", "row": 0}}, "annotations": {NESTED}}}]'.encode(),
    "digits": b'[{"data": {"file": "a", "row": ' + b"9" * 100_000 + b'}, "annotations": []}]',
}


def _json_cases():
    for name, content in DOCUMENTS.items():
        yield f"export {name}", content
    for value in [*VALUES, *NAMES]:
        yield f"file {str(value)[:20]!a}", [labelled(value, 0, "ok")]
    for value in VALUES:
        yield f"label {str(value)[:20]!a}", [labelled("a-00000001.npz", row, "ok", value) for row in range(5)]
        yield f"row {str(value)[:20]!a}", [labelled("a-00000001.npz", value, "ok")]
        yield f"annotations {str(value)[:20]!a}", [{**labelled("a-00000001.npz", 0), "annotations": value}]
        yield f"result {str(value)[:20]!a}", [{**labelled("a-00000001.npz", 0), "annotations": [{"result": value}]}]
        yield f"task {str(value)[:20]!a}", [value]


def _bytes_of(arrays, save=np.savez):
    data = io.BytesIO()
    save(data, **arrays)
    return data.getvalue()


def _member(content, count=1):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number in range(count):
            archive.writestr(f"x_{number}.npy", content)
    return data.getvalue()


def _header(shape, dtype="'<f4'"):
    head = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}"
    return b"\x93NUMPY\x01\x00" + (len(head) + 1).to_bytes(2, "little") + head.encode() + b"\n"


_ANY = [
    np.float64(3),
    np.zeros(5),
    np.zeros(4),
    np.zeros((5, 5)),
    np.array(["a"] * 5),
    np.array(["a"] * 4),
    np.array("a"),
]
_ANY += [np.zeros((5, 20, 2), complex), np.zeros(5, "M8[s]"), np.array([b"a"] * 5), np.zeros(0), None]
_OTHER = {
    "time": [np.full(5, value) for value in (np.nan, np.inf, 1e300, -1e300, 9e9)] + [np.full(5, 2**63, np.uint64)],
    "rate_acc": [np.float64(v) for v in (0, -1, np.nan, np.inf, 1e300, 1e-300, 5e-7)] + [np.array("fast")],
    "channels_acc": [np.array(v) for v in (["x"], ["x", "x"], ["x", ""], ["x", "\x1b[2J"], ["x", "y", "z"], [1, 2])],
    "unit_acc": [np.array("*/\n")],
    "classes": [np.array(v) for v in (["ok", "ok"], ["ok", ""], ["ok", "a\x00b"], [["ok"]], [], ["ok", "\u202e"])],
    "x_acc": [np.zeros(s) for s in ((5, 20), (5, 0, 2), (5, 20, 0), (0, 20, 2), (5, 20, 2, 1), (5, 2, 4, 4, 1))]
    + [np.full((5, 20, 2), np.inf), np.full((5, 20, 2), "a"), np.ones((5, 20, 2), bool)],
    "kind_acc": [np.array(kind) for kind in ("audio", "video", "", "x")],
    "frames_acc": [np.zeros(3)],
    "range_acc": [np.zeros(1), np.array([3, 1]), np.array(["a", "b"])],
    "x_gyro": [np.zeros((5, 20, 2))],
    "x_": [np.zeros((5, 20, 2))],
    "x_../../a": [np.zeros((5, 20, 2))],
    "group": [np.array(["\x1b[2J\n"] * 5)],
    "column_probability": [np.full(5, np.nan), np.full(5, -np.inf), np.full(5, 7)],
    "column_answer": [np.array(["other"] * 5)],
}
FILES = {
    "nothing": b"",
    "text": b"time,x\n",
    "cut": _bytes_of(kept())[:700],
    "flipped": _bytes_of(kept()).replace(b"NUMPY", b"NUMPX"),
    "compressed": _bytes_of(kept() | {"x_acc": np.zeros((5, 2_000_000, 2), np.float32)}, np.savez_compressed),
    "many": _member(b"", 20_000),
    "huge": _member(_header((1 << 40,))),
    "negative": _member(_header((-1,))),
    "pickle": _member(_header((1,), "'|O'") + b"cos\nsystem\n(S'true'\ntR."),
    "code": _member(_header("().__class__")),
    "archive": _member(_bytes_of(kept())),
}  # fmt: skip


def _file_cases():
    yield from FILES.items()
    for key in ("time", "rate_acc", "channels_acc", "classes", "x_acc", "group", "column_answer", "column_probability"):
        for number, value in enumerate(_ANY):
            yield f"{key} any {number}", {key: value}
    for key, values in _OTHER.items():
        for number, value in enumerate(values):
            yield f"{key} {number}", {key: value}
    sound = {"kind_acc": np.array("audio")}
    for rate in (0.3, 1e6, 1e8):
        yield f"sound {rate}", sound | {"rate_acc": np.float64(rate), "x_acc": np.zeros((5, 20, 2), np.float32)}


def _attempt(*words):
    """Run a command; the refusal, or empty."""
    try:
        run(*words)
    except MmkdError as error:
        return str(error)
    return ""


@pytest.fixture
def folder(tmp_path):
    np.savez(tmp_path / "a-00000001.npz", **kept())
    return tmp_path


@pytest.mark.parametrize(("name", "content"), [pytest.param(*case, id=case[0]) for case in _json_cases()])
def test_a_hostile_export_is_refused_by_name_at_once(folder, name, content):
    os.mkfifo(folder / "pipe.npz")
    (folder / "zero.npz").symlink_to("/dev/zero")
    (folder / "loop.npz").symlink_to("loop.npz")
    (folder / "folder.npz").mkdir()
    (folder / "export.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    begun_s = time.monotonic()
    assert 0 < len(_attempt("import", folder / "export.json", "-o", folder / "data")) < 20_000
    assert time.monotonic() - begun_s < 2
    assert not (folder / "data").exists()


@pytest.mark.parametrize(("name", "change"), [pytest.param(*case, id=case[0]) for case in _file_cases()])
def test_hostile_kept_windows_are_read_or_refused_by_name_at_once(folder, name, change):
    if isinstance(change, bytes):
        (folder / "a-00000001.npz").write_bytes(change)
    else:
        arrays = {key: array for key, array in (kept() | change).items() if array is not None}
        np.savez(folder / "a-00000001.npz", **arrays)
    export(folder, ["ok", "worn", "ok", "worn"])
    begun_s = time.monotonic()
    refusals = [
        _attempt("tasks", folder, "-o", folder / "tasks.json"),
        _attempt("import", folder / "export.json", "-o", folder / "data"),
    ]
    assert time.monotonic() - begun_s < 2
    for refusal, made in zip(refusals, ("tasks.json", "data"), strict=True):
        assert bool(refusal) != (folder / made).exists()
    if not refusals[0]:
        json.loads((folder / "tasks.json").read_text(), parse_constant=pytest.fail)


def _drawn(**changes):
    result = {"id": "r", "type": "choices", "value": {"start": 1.0, "end": 2.0, "choices": ["ok"]}, **changes}
    data = {"csv": "/a/M.csv", "start": "2025-10-09T08:53:20Z", "end": "2025-10-09T08:53:24Z"}
    return {"id": 1, "file_upload": "M.csv", "data": data, "annotations": [{"id": 1, "result": [result]}]}


def _recipe_cases():
    for value in VALUES:
        name = f"{str(value)[:20]!a}"
        for key in ("data", "annotations", "file_upload"):
            yield f"{key} {name}", [_drawn() | {key: value}]
        for key in ("type", "value"):
            yield f"{key} {name}", [_drawn(**{key: value})]
        for key in ("start", "end", "ranges", "labels"):
            yield f"{key} {name}", [_drawn(type="labels", value={"start": 1.0, "end": 2.0, key: value})]
        yield f"choices {name}", [_drawn(value={"choices": value})]
        yield f"time {name}", [_drawn() | {"data": {"start": value, "end": value}}]
    yield "deep", NESTED.encode()
    yield "many", b"[" + b"[]," * (2 << 20) + b"[]]"


@pytest.mark.parametrize(("name", "content"), [pytest.param(*case, id=case[0]) for case in _recipe_cases()])
def test_a_hostile_export_in_a_recipe_is_read_or_refused_by_name(tmp_path, name, content):
    (tmp_path / "labels.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    for task in ("classification", "multi_label", "regression"):
        rule = LabelRule(files="labels.json", format="label_studio", rate_hz=25.0, match={"m": "file"}, task=task)
        try:
            read_intervals(RecipeFolder(tmp_path), rule)
        except DatasetError as error:
            assert str(tmp_path) in str(error)  # noqa: PT017 - either is right


def test_there_are_two_hundred_of_them():
    assert len(list(_json_cases())) + len(list(_file_cases())) >= 200


@pytest.mark.parametrize("what", ["pipe", "zero", "loop", "folder"])
def test_what_is_no_file_is_not_waited_for(folder, what):
    for place in (folder / "a-00000002.npz", folder / "export.json"):
        match what:
            case "pipe":
                os.mkfifo(place)
            case "folder":
                place.mkdir()
            case _:
                place.symlink_to("/dev/zero" if what == "zero" else place)
    assert "a-00000002.npz: expected kept windows (.npz), " in _attempt("tasks", folder, "-o", folder / "tasks.json")
    assert "export.json: expected " in _attempt("import", folder / "export.json", "-o", folder / "data")
