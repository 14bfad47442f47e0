"""`mmkd-evaluate --sensors --vary`: variants are trained once, then their corner; bad requests are refused whole."""

import json
import shutil
from functools import partial

import pytest

from mmkd_app.commands.evaluate import main as evaluate_main
from mmkd_models.training.checkpoint import read_student
from tests.app.pages.rendered import render_variants
from tests.export.commands.test_sensors import ACC, GYRO, QUICK, written
from tests.models.test_normal import normal_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return written(tmp_path_factory.mktemp("data") / "line", ACC, GYRO)


@pytest.fixture
def run(ran):
    return partial(ran, evaluate_main, "mmkd-evaluate")


def test_variants_are_trained_with_their_corner_priced_and_resumed(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr("mmkd_models.experiments.variants.MOST_POINTS", 100.0)  # four steps teach little
    out, costs = tmp_path / "out", []
    for name, price in (("gyro", 90), ("gyro@5Hz", 20), ("gyro@1s", 30), ("gyro@1s,5Hz", 10)):
        file = tmp_path / f"{price}.toml"
        file.write_text(f'version = 1\ncurrency = "USD"\n[student]\nsensor_price = {price}\n')
        costs += ["--cost", f"{name}={file}"]
    vary = ("--vary", "gyro:rate=10,5", "--vary", "gyro:window=2,1", "--healthy", "idle", "--healthy", "ok")
    line = ("--sensors", data.path, *QUICK, *vary, *costs, "--workers", 1, "-o", out)
    code, text, err = run(*line)
    assert code == 0, err
    document = json.loads((out / "variants.json").read_text())
    rows = {row["title"]: row for row in document["rows"]}
    assert {title: (row["price"], row["is_chosen"]) for title, row in rows.items()} == {
        "gyro": (90.0, False), "gyro@1s": (30.0, False), "gyro@5Hz": (20.0, False), "gyro@1s,5Hz": (10.0, True),
    }  # fmt: skip
    assert document["measure"]["name"] == "balanced_accuracy"
    assert document["healthy"] == ["idle", "ok"]
    assert all(0 <= row["false_alarms"]["mean"] <= 1 for row in rows.values())
    assert (out / "variants.html").read_text() == render_variants(document)
    checkpoint = next(out.absolute().glob("trials/taught-gyro__1s_5Hz-*")) / "student.ckpt"
    assert read_student(checkpoint).modality.title == "gyro@1s,5Hz"
    assert text.splitlines()[-1] == f"wrote {out / 'variants.html'}; next: mmkd-export {checkpoint}"
    assert not list(out.glob("rivals/*"))
    code, again, err = run(*line, "--json")
    assert (code, err) == (0, "")  # nothing is trained again
    assert json.loads(again)["rows"] == document["rows"]
    code, grid, err = run(*line, "--full-grid", "--json")
    assert (code, err) == (0, "")  # here the corner completes the grid
    assert json.loads(grid)["rows"] == document["rows"]
    shutil.rmtree(checkpoint.parent)  # as an interruption would have left it out
    code, _, err = run(*line, "--full-grid", "--json")
    assert code == 0
    assert {text.split()[2] for text in err.splitlines() if " taught " in text} == {"gyro__1s_5Hz"}
    assert checkpoint.exists()


def test_normal_running_has_no_variants_and_a_shipped_dataset_is_found_by_name(run, tmp_path):
    path, vary = normal_dataset(tmp_path / "spindles").path, ("--no-latency", "--vary", "acc:rate=500")
    for name, message in {
        path: "--vary: has no effect on a comparison of sensors of normal running; leave it out",
        "watch_exercises": "derived sensor 'acc@500Hz': expected a rate up to the recorded 50 Hz, got 500 Hz; lower it",
    }.items():
        code, _, err = run("--sensors", name, *vary)
        assert (code, err) == (2, f"mmkd-evaluate: {message}\n")


@pytest.mark.parametrize(
    ("options", "message"),
    {
        "--healthy ok": "--healthy needs --vary; name what varies",
        "--vary acc:rate=10 --healthy good": (
            "--healthy good: expected one of the classes, and another left (idle, ok, worn); correct it"
        ),
        "--full-grid": "--full-grid needs --vary; name what varies",
        "--vary acc:rate=10 --pairs": "--pairs cannot be combined with --vary; leave one of them out",
        "--vary acc:rate=10 --modality acc": (
            "--modality cannot be combined with --vary, which names sensors; leave it out"
        ),
        "--vary acc:rate=40": (
            "derived sensor 'acc@40Hz': expected a rate up to the recorded 20 Hz, got 40 Hz; lower it"
        ),
        "--vary acc:rate=1 --vary acc:window=1": (
            "derived sensor 'acc@1s,1Hz': expected a window of 2 samples or more, got 1; raise the rate, or lengthen it"
        ),
        "--vary acc:rate=10 --cost {cost}": (
            "--cost {cost}: expected SENSOR=FILE.toml or VARIANT=FILE.toml beside --vary; write it so"
        ),
        "--vary acc:rate=10 --cost acc={cost}": (
            "--cost acc={cost}: expected a price of the student's sensor, got none; add student.sensor_price"
        ),
    }.items(),
)
def test_what_cannot_be_varied_is_refused_before_anything_is_trained(run, data, tmp_path, options, message):
    cost = tmp_path / "cost.toml"
    cost.write_text("version = 1\n")
    words = options.replace("{cost}", str(cost)).split()
    refusal = (2, "", f"mmkd-evaluate: {message.replace('{cost}', str(cost))}\n")
    assert run("--sensors", data.path, *QUICK, *words, "-o", tmp_path / "out") == refusal
    assert not (tmp_path / "out").exists()
