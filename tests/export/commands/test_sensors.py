"""`mmkd-evaluate --sensors`: every sensor is trained, judged and told once, and what cannot be is refused whole."""

import json
import shutil
from functools import partial

import msgspec
import numpy as np
import pytest

import mmkd_app.verbs as mm
from mmkd_app.commands.evaluate import main as evaluate_main
from mmkd_app.experiments import ComparisonOptions, comparison_of
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import write_dataset
from mmkd_models.data.folds import Labelled
from mmkd_models.experiments.experiment import Experiment, run
from mmkd_models.experiments.sensors import JUDGED_FILE, pair_experiment, pair_rows, possible_rivals
from tests.app.pages.rendered import render_sensors

pytest.importorskip("sklearn")

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=20.0, samples=40)
GYRO = ModalitySpec(name="gyro", channels=("z",), rate_hz=10.0, samples=20)
FAST = msgspec.structs.replace(GYRO, rate_hz=20.0, samples=40)
TEMP = ModalitySpec(name="temp", channels=("t",), rate_hz=5.0, samples=10)
QUICK = ("--steps", "4", "--label-fraction", "1", "--no-choose", "--members", "transformer", "--no-latency")


def written(path, *modalities, dead=()):
    """Ten machines of six windows; `gyro` tells the class unless it is dead there, `acc` a little, `temp` nothing."""
    gyro = next((one for one in modalities if one.name == "gyro"), GYRO)
    splits, rng = {}, np.random.default_rng(0)
    for name, groups in (("train", range(6)), ("valid", range(6, 8)), ("test", range(8, 10))):
        owners = np.repeat(np.array(groups), 6)
        labels = np.arange(len(owners)) % 3
        values = {
            "acc": labels[:, None, None] + rng.normal(0, 4, (len(owners), 40, 2)),
            "gyro": labels[:, None, None] + rng.normal(0, 0.1, (len(owners), *gyro.shape)),
            "temp": rng.normal(0, 1, (len(owners), 10, 1)),
        }
        values["gyro"][np.isin(owners, dead)] = np.nan
        splits[name] = {one.name: values[one.name] for one in modalities} | {"labels": labels, "groups": owners}
    return write_dataset(path, name="line 3", labels=("idle", "ok", "worn"), modalities=modalities, splits=splits)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return written(tmp_path_factory.mktemp("data") / "line", ACC, GYRO, TEMP)


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    return written(tmp_path_factory.mktemp("alike") / "line", ACC, FAST)


@pytest.fixture
def evaluate(ran):
    return partial(ran, evaluate_main, "mmkd-evaluate")


@pytest.mark.slow
def test_every_sensor_is_told_beside_rivals_and_teacher_and_an_interrupted_run_goes_on(evaluate, data, tmp_path):
    pytest.importorskip("aeon")
    out, cost = tmp_path / "sensors", tmp_path / "cost.toml"
    cost.write_text("version = 1\n[student]\n[teacher]\n")
    cheap = tmp_path / "cheap.toml"
    cheap.write_text("version = 1\n[student]\nsensor_price = 1\n")
    line = ("--sensors", data.path, *QUICK, "--modality", "acc", "--modality", "gyro", "--workers", 1)
    money = ("--cost", cost, "--cost", f"gyro={cheap}")
    code, text, err = evaluate(*line, *money, "-o", out)
    assert code == 0, err
    document = json.loads((out / "sensors.json").read_text())
    best, other = document["rows"]
    assert [best["sensors"], other["sensors"]] == [["gyro"], ["acc"]]
    assert list(best["scores"]) == ["extra_trees", "mini_rocket", "labels_only", "distilled", "teacher"]
    assert best["scores"]["extra_trees"]["mean"] == 1.0
    assert (best["gain"]["low"], best["gain"]["high"]) == (None, None)  # two machines judge
    assert best["chance"]["is_better"] in (True, False)
    assert (sorted(best["worth"]), sorted(other["worth"])) == (["student"], ["student", "teacher"])
    assert best["worth"]["student"] != other["worth"]["student"]
    assert text.startswith(("gyro is the sensor whose student validates best: ", "The student of gyro, ", "No sensor "))
    trials = {name: next(out.absolute().glob(f"trials/taught-{name}-*")) for name in ("acc", "gyro")}
    assert text.splitlines()[-1] == (
        f"wrote {out / 'sensors.html'}; next: mmkd-export {trials['gyro'] / 'student.ckpt'}"
    )
    page = (out / "sensors.html").read_text()
    assert page == render_sensors(document)
    assert '<a href="pages/gyro.html">gyro</a>' in page
    assert "When a sensor breaks" in (out / "pages" / "gyro.html").read_text()

    (trials["acc"] / JUDGED_FILE).unlink()  # as if the run had been interrupted there
    before = (trials["gyro"] / JUDGED_FILE).read_bytes()
    code, again, err = evaluate(*line, *money, "-o", out, "--json")
    assert code == 0, err
    assert {one.partition(":")[0] for one in err.splitlines()} == {"acc"}  # nothing is trained, `gyro` not judged again
    assert (trials["gyro"] / JUDGED_FILE).read_bytes() == before
    assert json.loads(again)["rows"] == document["rows"]

    (trials["acc"] / JUDGED_FILE).write_text("{")  # damaged
    other = trials["gyro"] / JUDGED_FILE
    other.write_bytes(before.replace(b'"key":"', b'"key":"0'))  # of another release, of other rivals or faults
    code, again, err = evaluate(*line, *money, "-o", out, "--json")
    assert code == 0, err
    assert {one.partition(":")[0] for one in err.splitlines()} == {"acc", "gyro"}
    assert json.loads(again)["rows"] == document["rows"]
    assert other.read_bytes() == before


def test_windows_shorter_than_a_kernel_have_no_convolutions_beside_them():
    pytest.importorskip("aeon")
    brief = ModalitySpec(name="temp", channels=("t",), rate_hz=1.0, samples=8)
    assert [possible_rivals(one) for one in (TEMP, brief)] == [("extra_trees", "mini_rocket"), ("extra_trees",)]


def test_a_pair_is_judged_with_both_and_without_each_beside_the_better_sensor_alone(alike, tmp_path):
    options = ComparisonOptions(steps=4, members="transformer", student_members="trees", choose=False)
    plan = msgspec.structs.replace(comparison_of(alike, options, Labelled(fraction=1.0)), rivals=())
    experiment = Experiment(dataset=alike, plan=plan, out=tmp_path / "out")
    joint = pair_experiment(experiment)
    assert joint.plan.sensors == ("acc_and_gyro",)
    table, paired = run(experiment), run(joint)
    (row,) = pair_rows(joint, table, paired)
    assert row.sensors == ("acc", "gyro")
    test, student = joint.folder.fold(0).test, mm.Student.load(joint.student_path("acc_and_gyro", 0))
    windows = test.take(np.arange(len(test)))
    names = ["idle", "ok", "worn"]
    for score, single in zip(row.scores, ("gyro", "gyro", "acc"), strict=True):  # gyro validates better
        left = {name: np.full_like(v, np.nan) if name == score.missing else v for name, v in windows.items()}
        right = student.predict(left) == np.array(names)[test.labels]
        assert score.pair.mean == pytest.approx(np.mean([right[test.labels == k].mean() for k in range(3)]))
        assert (score.single, score.pair.low) == (single, None)  # two machines judge
        assert score.alone.mean == table.student(single)[0].test.scores.metric("balanced_accuracy")
        assert score.gain.mean == pytest.approx(100 * (score.pair.mean - score.alone.mean))
    assert [score.missing for score in row.scores] == ["", "acc", "gyro"]
    assert row.scores[0].pair.mean == 1.0
    assert row.scores[1].pair.mean > 0.9 > row.scores[2].pair.mean
    assert row.valid_score == paired.student("acc_and_gyro")[0].result.score


@pytest.mark.slow
def test_pairs_are_told_below_the_sensors(evaluate, alike, tmp_path):
    trees = ("--student-members", "trees", "--workers", 1, "--pairs", "-o", tmp_path / "out")
    code, text, err = evaluate("--sensors", alike.path, *QUICK, *trees)
    assert code == 0, err
    document = json.loads((tmp_path / "out" / "sensors.json").read_text())
    assert [one["sensors"] for one in document["pairs"]] == [["acc", "gyro"]]
    assert document["pairs_measure"]["name"] == "balanced_accuracy"
    assert "acc and gyro in one student are not shown to be better than gyro alone: balanced accuracy 100.0 %" in text
    assert "balanced accuracy of two sensors together" in text
    assert (tmp_path / "out" / "sensors.html").read_text() == render_sensors(document)


@pytest.mark.slow
def test_a_sensor_that_died_on_some_machines_is_judged_alone_and_in_its_pair(evaluate, tmp_path):
    data = written(tmp_path / "line", ACC, FAST, dead=(4, 5, 7, 9))
    trees = ("--student-members", "trees", "--workers", 1, "--pairs", "-o", tmp_path / "out")
    code, text, err = evaluate("--sensors", data.path, *QUICK, *trees)
    assert code == 0, err
    document = json.loads((tmp_path / "out" / "sensors.json").read_text())
    (pair,) = document["pairs"]
    means = {score["missing"]: score["pair"]["mean"] for score in pair["scores"]}
    assert set(means) == {"", "acc", "gyro"}
    assert all(1 / 3 <= mean <= 1 for mean in means.values())
    assert means["acc"] < 1.0  # a dead sensor has no second one to answer for it
    assert "nan" not in (text + (tmp_path / "out" / "sensors.html").read_text()).lower().split()


@pytest.mark.slow
def test_latency_is_measured_of_the_exported_student_beside_its_teacher(evaluate, data, tmp_path):
    line = ("--sensors", data.path, *QUICK[:-1], "--duration-s", 0.2, "--workers", 1, "-o", tmp_path / "out", "--json")
    code, text, err = evaluate(*line)
    assert code == 0, err
    assert all(row["latency_ms"] > 0 for row in json.loads(text)["rows"])


def test_what_cannot_be_chosen_among_is_refused_before_anything_is_trained(evaluate, data, tmp_path):
    out = ("-o", tmp_path / "out")

    def refused(*arguments):
        data_path, *others = arguments
        code, text, err = evaluate(f"--sensors={data_path}", *others, "--no-latency", *out)
        assert (code, text) == (2, "")
        assert not (tmp_path / "out").exists()
        return err.removeprefix("mmkd-evaluate: ").rstrip("\n")

    assert refused(data.path, "--pairs", "--modality", "acc", "--modality", "temp") == (
        "--pairs: joined sensor 'acc+temp': expected series of one rate, length and normalise, got acc, series of 40 "
        "at 20 Hz, normalise none and temp, series of 10 at 5 Hz, normalise none; resample one, or train a student of "
        "each"
    )
    assert refused(data.path, "--pairs", "--modality", "acc") == (
        "--pairs: expected two sensors or more, got one; name another"
    )
    alone = written(tmp_path / "alone", ACC)
    assert refused(alone.path) == (
        f"{alone.path}: expected two sensors or more, among which one is chosen, got acc alone; mmkd-evaluate judges a "
        "model of it"
    )
    euro, dollar, bad = tmp_path / "euro.toml", tmp_path / "dollar.toml", tmp_path / "bad.toml"
    euro.write_text("version = 1\n")
    dollar.write_text('version = 1\ncurrency = "USD"\n')
    bad.write_text("version = 1\n[student]\nsensor_price = -5\n")
    assert refused(data.path, "--cost", f"mic={euro}") == (
        f"--cost mic={euro}: expected a sensor of acc, gyro, temp, got 'mic'; correct it"
    )
    assert refused(data.path, "--cost", euro, "--cost", dollar) == (
        f"--cost {dollar}: expected one file for all sensors, got two; name each once"
    )
    assert refused(data.path, "--cost", f"acc={euro}", "--cost", f"gyro={dollar}") == (
        "--cost: expected one currency, got EUR and USD; use one for all sensors"
    )
    assert refused(data.path, "--cost", bad) == (
        f"--cost {bad}: 'student.sensor_price': expected 0 or more, got -5; correct it"
    )
    assert refused(data.path, "--executor", "cloud") == (
        "--executor: expected one of local, ray, got 'cloud'; choose one of them"
    )
    missing = tmp_path / "none.toml"
    assert refused(data.path, "--cost", missing) == (
        f"--cost {missing}: no such file; mmkd-evaluate --print-cost prints one to fill in"
    )
    assert refused(data.path, "--modality", "mic") == (
        "dataset 'line 3': modality 'mic' is not in it; choose one of acc, gyro, temp"
    )


@pytest.mark.slow
def test_a_sensor_that_was_judged_with_other_checkpoints_is_judged_again(evaluate, data, tmp_path):
    line = ("--sensors", data.path, *QUICK, "--modality", "temp", "--workers", 1, "--json")
    code, _, err = evaluate(*line, "-o", tmp_path / "out")
    assert code == 0, err
    out = tmp_path / "out"
    baseline, student = (next(out.glob(f"trials/{name}-temp-*/student.ckpt")) for name in ("none", "taught"))
    shutil.copyfile(baseline, student)
    code, _, err = evaluate(*line, "-o", tmp_path / "out")
    assert code == 0, err
    assert "temp: fault: noise" in err.splitlines()
