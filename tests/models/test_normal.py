"""A task of normal running: datasets, import, the student with its promised rates, scores, and what is refused."""

import copy
import io
import json
import re
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from mmkd_app.commands.data import run_data
from mmkd_app.commands.evaluate import run_evaluate
from mmkd_app.commands.sensors import run_sensors
from mmkd_app.commands.train import run_train
from mmkd_app.pages.normal_sensors import verdict
from mmkd_app.training.checkpoints import normal_rows
from mmkd_documents.figures import Interval
from mmkd_documents.judging import NormalSensorsDocument
from mmkd_edge.errors import CheckpointError, DatasetError, UsageError
from mmkd_edge.predict.novelty import alarm_rates
from mmkd_edge.spec import ModalitySpec, TaskSpec, task_text
from mmkd_models.data import open_dataset, write_dataset
from mmkd_models.data.folds import fold_indices
from mmkd_models.data.importing.window_files import import_windows
from mmkd_models.data.normal_running import apart_from, covered_s, time_blocks
from mmkd_models.data.spec import DatasetSpec, refuse_normal
from mmkd_models.data.windows import StoredWindows, Windows
from mmkd_models.evaluation.normal_rivals import three_scores
from mmkd_models.evaluation.outcome import drawn_figures, outcome_on
from mmkd_models.evaluation.suites.normal import Delay, explain_by_place, explained, measure_delay
from mmkd_models.metrics.normal import threshold, within_auroc
from mmkd_models.metrics.scores import normal_scores, scores_from_document, scores_from_logits, weighted_auroc
from mmkd_models.networks.residual import LEAST, ResidualHead
from mmkd_models.training.checkpoint import read_student, write_student
from mmkd_models.training.normal import (
    COMPONENTS,
    FEATURES,
    cross_fitted,
    fit_normal_model,
    fit_normal_student,
    known_faults,
    normal_facts,
    rounding_floor,
)
from mmkd_models.training.predict import logits_of
from tests.edge.said import said

ACC = ModalitySpec(name="acc", channels=("x",), rate_hz=50.0, samples=50)
TASK = TaskSpec(kind="normal", labels=("ok", "slip"))
MACHINES = {"train": range(12), "valid": range(12, 16), "test": range(16, 20)}


def make_split(split, *, faults, windows=20):
    """Machines that turn at 4 Hz and a bit; a fault, every fourth window of valid and test, has a harmonic."""
    groups = np.repeat(list(MACHINES[split]), windows)
    rng = np.random.default_rng(groups[0])
    time = np.arange(ACC.samples) / ACC.rate_hz
    labels = np.where((np.arange(len(groups)) % 4 == 3) & faults, 1, 0)
    phase = rng.uniform(0, 2 * np.pi, (len(groups), 1))
    wave = np.sin(2 * np.pi * (4 + 0.02 * (7 * groups[:, None] % 20)) * time + phase)
    wave += 0.7 * (labels[:, None] > 0) * np.sin(2 * np.pi * 15 * time + phase)
    values = (wave + 0.1 * rng.normal(size=wave.shape)).astype(np.float32)[..., None]
    return {"acc": values, "labels": labels, "groups": groups, "metadata": {"machine": groups}}


def normal_dataset(path, *, task=TASK, faults=True, **changes):
    """Twelve normal machines to train on, four to choose by and four to judge with."""
    splits = {split: make_split(split, faults=faults and split != "train") for split in MACHINES}
    for split, columns in changes.items():
        splits[split] |= columns
    return write_dataset(path, name="spindles", labels=task, modalities=[ACC], splits=splits)


@pytest.fixture(scope="module")
def spindles(tmp_path_factory):
    path = tmp_path_factory.mktemp("normal") / "spindles"
    normal_dataset(path)
    return path


def call(run, *line):
    with pytest.raises(SystemExit) as ended:
        run([str(word) for word in line])
    assert ended.value.code in (0, None)


@pytest.fixture(scope="module")
def training(spindles):
    """A student of `acc`, and what the command printed."""
    output = spindles.parent / "acc.ckpt"
    with redirect_stdout(io.StringIO()) as printed:
        call(run_train, "student", spindles, "--modality", "acc", "-o", output)
    return output, printed.getvalue()


@pytest.fixture(scope="module")
def student(training):
    return training[0]


# ---- the dataset


def test_a_dataset_of_normal_running_is_described_with_its_known_faults_and_next_command(spindles, capsys):
    call(run_data, "check", spindles)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "spindles: 400 windows, normal running ok, known faults slip, 20 groups"
    assert last == f"{spindles} keeps every rule; next: mmkd-train student {spindles} --modality acc -o student.ckpt"
    assert task_text(TaskSpec(kind="normal", labels=("ok",))) == "normal running ok"


CLASSES = np.array(["bearing", "ok", "belt"])


def interchange(tmp_path, **changes):
    arrays = {
        "y": np.array([1, 0, 1, -1, 1, 2, 1, 0, 2, 1]),
        "classes": CLASSES,
        "split": np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2]),
        "group": np.array([1, 1, 2, 2, 2, 3, 3, 3, 4, 4]),
        "x_acc": np.random.default_rng(0).normal(size=(10, *ACC.shape)).astype(np.float32),
        "rate_acc": np.array(50.0),
        "channels_acc": np.array(["x"]),
    }
    file = tmp_path / "windows.npz"
    np.savez(file, **{key: value for key, value in (arrays | changes).items() if value is not None})
    return file


def test_an_import_puts_normal_first_and_keeps_every_label(tmp_path):
    dataset, _ = import_windows(interchange(tmp_path), tmp_path / "out", normal="ok")
    assert dataset.spec.task == TaskSpec(kind="normal", labels=("ok", "bearing", "belt"))
    labels = {split: dataset.split(split).labels.tolist() for split in MACHINES}
    assert labels == {"train": [0, 1, 0, -1, 0], "valid": [2, 0, 1], "test": [2, 0]}


OFFER = (
    "if all of it is normal running, make a dataset of normal running (task = 'normal' under [labels] of a recipe, or"
    " --normal NAME with windows): docs/normal-data.md"
)


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({}, {"normal": "fine"}, "--normal fine: {file} has no such class; choose one of bearing, ok, belt"),
        ({}, {"normal": "ok", "target": "wear"}, "--normal: cannot be combined with --target; leave one of them out"),
        ({"y": np.array([1, 0, 1, -1, 1, 3, 1, 0, 2, 1])}, {"normal": "ok"},
         "{file}: y: expected class numbers from -1 to 2, got int64 -1 to 3; correct it"),
        ({"y": np.zeros(10, dtype=np.int64), "classes": np.array(["ok"])}, {},
         ("dataset {out}: dataset.json: 'task.labels': expected two or more different classes, got ['ok']; name each"
         f" class; {OFFER}")),
    ],
)  # fmt: skip
def test_an_import_of_wrong_normal_windows_is_refused(tmp_path, changes, options, says):
    file, out = interchange(tmp_path, **changes), tmp_path / "out"
    assert said((UsageError, DatasetError), import_windows, file, out, **options) == says.format(file=file, out=out)


def test_other_commands_refuse_normal_running(tmp_path):
    assert said(UsageError, refuse_normal, normal_dataset(tmp_path / "e").spec, "mmkd-study") == (
        "mmkd-study: expected labelled classes, labels or numbers to learn from, got dataset 'spindles' of normal"
        " running; train one sensor's student on it with mmkd-train student, as docs/normal-data.md shows"
    )


# ---- figures


def test_the_area_under_the_curve_counts_pairs_by_their_groups_weights():
    rng = np.random.default_rng(1)
    faulty, scores = rng.random(40) < 0.4, np.round(rng.normal(size=40), 1)  # rounded: some are equal
    owner, weights = rng.integers(0, 5, 40), rng.integers(0, 3, (7, 5)).astype(float)
    expected = []
    for draw in weights:
        won = total = 0.0
        for fault in np.flatnonzero(faulty):
            for normal in np.flatnonzero(~faulty):
                pair = draw[owner[fault]] * draw[owner[normal]]
                total += pair
                won += pair * (1.0 if scores[fault] > scores[normal] else 0.5 if scores[fault] == scores[normal] else 0)
        expected.append(won / total)
    np.testing.assert_allclose(weighted_auroc(faulty, scores, owner, weights), expected, atol=1e-12)
    assert np.isnan(weighted_auroc(np.ones(3, bool), np.arange(3.0), np.zeros(3, int), np.ones((1, 1)))).all()
    # Hanley and McNeil's table: area 0.8, 50 windows of each kind, standard error 0.0446.
    one = normal_scores(np.repeat([True, False], 50), np.zeros(100))
    assert (one.auroc, one.windows, one.faults) == (0.5, 100, 50)
    assert msgspec.structs.replace(one, auroc=0.8).standard_error("auroc") == pytest.approx(0.0446, abs=5e-4)
    assert normal_scores(np.zeros(4, bool), np.arange(4.0)).auroc == 0.5
    assert scores_from_document(msgspec.to_builtins(one)) == one


def test_a_threshold_keeps_its_rate_and_each_group_is_judged_by_the_others():
    scores = np.arange(1.0, 40.0)  # p of a score above all is 1 / 40
    assert scores[scores >= threshold(scores, 0.05)].tolist() == [39.0]  # p of 39: (1 + 1) / 40
    assert scores[scores >= threshold(scores, 0.10)].tolist() == [37.0, 38.0, 39.0]
    assert threshold(scores, 0.025) == np.nextafter(39.0, 40.0)
    assert threshold(scores, 0.02) == np.inf
    three = np.concatenate([np.arange(1.0, 21.0), np.arange(101.0, 121.0)]), np.repeat(["a", "b"], 20)
    np.testing.assert_array_equal(alarm_rates(*three, 0.1), [0.0, 1.0])


def test_scores_of_left_out_groups_say_what_to_expect(spindles):
    train = open_dataset(spindles).split("train")
    facts = normal_facts(np.arange(1.0, 41.0), np.repeat(np.arange(4), 10), [train])
    assert (facts.windows, facts.groups, facts.level) == (40, 4, 0.2)
    # Group 3 has the highest scores, 10 of 10 above the others' 25 of 30; nobody else is above.
    assert (facts.window_rate, facts.groups_above) == (0.25, 0.25)
    assert facts.scores == tuple(np.arange(1.0, 41.0))
    assert facts.hours == pytest.approx(240 / 3600)  # windows of a second
    assert normal_rows(facts) == {
        "normal": "40 windows of 4 groups, 0.0667 hours",
        "false alarms": "about 25% of windows of a new machine; 25% of machines above 40%",
        "no promise": (
            "of a rate below 20% on a new machine: 5% takes 19 normal groups, and there are 4; fit one machine on the"
            " spot with mmkd-edge commission"
        ),
    }
    many = normal_facts(np.arange(1.0, 2001.0), np.repeat(np.arange(20), 100), [train])
    assert (len(many.scores), many.scores[0], many.scores[-1], many.level) == (1024, 1.0, 2000.0, 0.05)
    assert list(normal_rows(many)) == ["normal", "false alarms"]
    unknown = normal_facts(np.arange(1.0, 41.0), np.repeat(np.arange(4), 10), [replace(train, has_groups=False)])
    assert (unknown.groups, unknown.level) == (0, 0.05)
    assert normal_rows(unknown) == {
        "normal": "40 windows of recordings whose blocks of time judged one another, 0.0667 hours",
        "false alarms": "about 25% of windows of a new block of time; 25% of blocks of time above 10%",
        "no promise": (
            "of any rate on another machine or day: record several, and name them in split.group of the recipe; or fit"
            " one machine on the spot with mmkd-edge commission"
        ),
    }


def test_overlapping_windows_cover_their_time_once(tmp_path):
    times = {split: {"times": 0.5 * np.arange(20 * len(MACHINES[split]))} for split in MACHINES}  # every half second
    assert covered_s(normal_dataset(tmp_path / "d", **times).split("train")) == 12 * (19 * 0.5 + 1.0)


ONE_RECORDING = (
    (Path(__file__).parents[2] / "docs" / "normal-data.md").read_text().split("```toml\n")[1].split("```")[0]
)


def test_one_recording_judges_itself_by_blocks_of_time_and_promises_no_other_machine(tmp_path, capsys):
    seconds = np.arange(3000) / 50
    values = np.sin(2 * np.pi * 4 * seconds) + 0.1 * np.random.default_rng(0).normal(size=3000)
    rows = [f"{1_762_151_400 + s:.2f},{value:.4f}" for s, value in zip(seconds, values, strict=True)]
    (tmp_path / "log.csv").write_text("\n".join(["time,x", *rows]))
    (tmp_path / "recipe.toml").write_text(ONE_RECORDING)
    call(run_data, "import", tmp_path / "recipe.toml", "-o", tmp_path / "data")
    assert (
        "false alarms are judged on blocks of time of this recording: they say nothing of another machine or day;"
        " record several, and name them in 'split.group'\n"
    ) in capsys.readouterr().out
    train = open_dataset(tmp_path / "data").split("train")
    assert not train.has_groups
    blocks = time_blocks(train, count=5)
    rest = apart_from(train, np.flatnonzero(blocks == 2))
    gap_s = np.abs(train.times[rest][:, None] - train.times[blocks == 2]).min()
    assert gap_s >= 1.0
    assert len(rest) == len(train) - (blocks == 2).sum() - 6  # three at each end, every quarter of a second
    call(run_train, "student", tmp_path / "data", "--modality", "acc", "-o", tmp_path / "s.ckpt")
    normal = read_student(tmp_path / "s.ckpt").facts.normal
    assert (normal.groups, normal.level) == (0, 0.05)
    assert normal.window_rate < 0.2
    out = capsys.readouterr().out
    assert "windows of recordings whose blocks of time judged one another, 0.01" in out
    assert "no promise    of any rate on another machine or day: record several, and name them in split.group" in out
    (tmp_path / "recipe.toml").write_text(ONE_RECORDING.replace("0.25", "1"))
    call(run_data, "import", tmp_path / "recipe.toml", "-o", tmp_path / "few")
    assert (
        "warning: mmkd-train will refuse it: expected 100 normal windows or more to train on, got 36; record longer, or"
        " cut shorter windows\n"
    ) in capsys.readouterr().out


# ---- the student


def test_the_residual_is_the_squared_distance_from_the_plane():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 2)))[0]
    head = ResidualHead(6, 2)
    head.components.copy_(torch.from_numpy(axes))
    head.scale.fill_(0.5)
    z = rng.normal(size=(4, 6))
    expected = 0.5 * np.square(z - z @ axes @ axes.T).sum(axis=1)
    np.testing.assert_allclose(np.exp(head(torch.from_numpy(z).float()).numpy()[:, 0]), expected, rtol=1e-5)
    inside = torch.from_numpy(3 * axes.T.copy()).float()
    np.testing.assert_allclose(np.exp(head(inside).numpy()[:, 0]), LEAST, rtol=1e-3)


def test_no_score_of_the_calibration_is_by_a_model_that_saw_its_group(spindles):
    normal = open_dataset(spindles).split("train")
    fit = partial(fit_normal_model, modality="acc", seed=3)
    scores = cross_fitted(normal, "acc", fit, seed=3)[:, 0]
    # Other values of a machine change its own scores, and no model that scores it.
    own, values = normal.groups == 7, normal.take(np.arange(len(normal)))["acc"]
    changed = make_split("train", faults=False) | {"acc": np.where(own[:, None, None], values[::-1], values)}
    other = normal_dataset(spindles.parent / "moved", train=changed).split("train")
    equal = np.isclose(cross_fitted(other, "acc", fit, seed=3)[:, 0], scores, rtol=1e-6)
    assert not equal[own].all()
    assert equal.sum() >= 20  # its fold fits no model on it; windows of that fold keep their scores
    model = fit_normal_model(normal, "acc", seed=3)
    inputs = model.inputs(normal, "acc").astype(np.float64)
    np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-4)
    assert inputs.shape == (240, FEATURES)
    np.testing.assert_allclose(model.axes.T @ model.axes, np.eye(COMPONENTS), atol=1e-9)
    _, _, rows = np.linalg.svd(inputs, full_matrices=False)
    plane = rows[:COMPONENTS].T
    expected = np.square(inputs - inputs @ plane @ plane.T).sum(axis=1)
    np.testing.assert_allclose(np.exp(model.parts(inputs)[:, 0]), expected, rtol=1e-3)


def test_rounding_on_nearly_constant_windows_stays_out_of_the_score(tmp_path):
    """Machines that stand still at some level have features that vary by float32's rounding alone, unless floored."""
    columns = make_split("train", faults=False)
    rng, resting = np.random.default_rng(2), np.arange(240) % 3 > 0
    level = rng.uniform(-40, 40, (240, 1, 1)) + 1e-5 * rng.normal(size=(240, 50, 1))
    columns["acc"] = np.where(resting[:, None, None], level, columns["acc"]).astype(np.float32)
    model = fit_normal_model(normal_dataset(tmp_path / "d", train=columns).split("train"), "acc", seed=0)
    values = np.concatenate([columns["acc"][:60], np.linspace(-300, 300, 60).repeat(50).reshape(60, 50, 1)])
    scores = []
    for dtype in (torch.float32, torch.float64):
        batch = torch.from_numpy(values.astype(np.float32)).to(dtype)
        with torch.no_grad():
            scores.append(model.parts(copy.deepcopy(model.features).to(dtype)(batch, torch.ones_like(batch)).numpy()))
    np.testing.assert_allclose(scores[0][:, 0], scores[1][:, 0], atol=2.5e-5)
    widths = model.features.groups[0].weight.abs().sum((1, 2)).numpy()  # 8 deviations at most, a 24th bit, 0.003 of one
    assert rounding_floor(model.features)[: len(widths)] == pytest.approx(widths * 8 / 2**24 / 0.003)
    assert (model.features.feature_std.numpy() >= rounding_floor(model.features) * (1 - 1e-6)).all()


def test_a_student_finds_a_fault_that_it_never_saw_and_keeps_its_promise(spindles, student):
    checkpoint = read_student(student)
    assert checkpoint.task == TaskSpec(kind="normal", labels=("ok",))
    assert (checkpoint.config.members, checkpoint.config.components) == (("convolutions",), COMPONENTS)
    facts, normal = checkpoint.facts, checkpoint.facts.normal
    assert (normal.windows, normal.groups, normal.level) == (240 + 60, 16, 1 / 17)
    assert np.median(normal.scores) == pytest.approx(1, abs=0.01)
    test = open_dataset(spindles).split("test")
    logits = logits_of(checkpoint.network(), test, modality="acc")
    scores, faulty = np.exp(logits[:, 0]), test.labels > 0
    assert scores_from_logits(test.labels, logits, test.spec.task).metric("auroc") > 0.97
    assert facts.score > 0.97
    limit = threshold(np.array(normal.scores), normal.level)
    assert (scores[~faulty] >= limit).mean() <= 0.2
    assert (scores[faulty] >= limit).mean() > 0.8
    drawn = drawn_figures(outcome_on(test, logits), [16, 17, 18, 19], np.eye(4, dtype=np.int64) * 3, "auroc")
    single = [normal_scores(faulty[test.groups == g], scores[test.groups == g]).auroc for g in (16, 17, 18, 19)]
    np.testing.assert_allclose(drawn, single)
    carried = checkpoint.carried
    assert carried is not None
    assert carried.labels.tolist() == [0] * 60


def test_a_training_prints_its_rates_in_words(training):
    lines = training[1].splitlines()
    assert lines[2].startswith("validation    AUROC ")
    assert lines[3] == "normal        300 windows of 16 groups, 0.0833 hours"
    assert lines[4].startswith("false alarms  about ")
    assert lines[5].startswith("no promise    of a rate below 6% on a new machine: 5% takes 19 normal groups")


def test_absent_samples_and_windows_have_scores(spindles, student):
    network, test = read_student(student).network(), open_dataset(spindles).split("test")
    values = test.take(np.arange(3))["acc"]
    values[0, 10:25], values[1] = np.nan, np.nan
    present = torch.from_numpy((~np.isnan(values)).astype(np.float32))
    answers = np.exp(network(torch.from_numpy(np.nan_to_num(values)), present).logits.detach().numpy()[:, 0])
    assert np.isfinite(answers).all()
    assert answers[1] == pytest.approx(LEAST, rel=1e-3)  # nothing was measured


def test_sound_makes_a_student_too(tmp_path):
    mic = ModalitySpec(name="mic", kind="audio", channels=("mono",), rate_hz=2000.0, samples=800)
    rng, time = np.random.default_rng(0), np.arange(800) / 2000.0
    splits = {}
    for split, machines in (("train", range(6)), ("valid", range(6, 8)), ("test", range(8, 10))):
        groups = np.repeat(list(machines), 20)
        labels = np.where((np.arange(len(groups)) % 4 == 3) & (split != "train"), 1, 0)
        tone = np.sin(2 * np.pi * np.array([200, 500])[labels, None] * time + rng.uniform(0, 6, (len(groups), 1)))
        sound = (0.2 * tone + 0.05 * rng.normal(size=tone.shape)).astype(np.float32)[..., None]
        splits[split] = {"mic": sound, "labels": labels, "groups": groups}
    write_dataset(tmp_path / "d", name="fans", labels=TASK, modalities=[mic], splits=splits)
    call(run_train, "student", tmp_path / "d", "--modality", "mic", "-o", tmp_path / "s.ckpt")
    assert read_student(tmp_path / "s.ckpt").facts.score > 0.95


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["student", "{d}", "--modality", "acc", "--steps", "9"],
         ("--steps: has no effect on a student of normal running, which has no steps and no labels; leave it out")),
        (["student", "{d}", "--modality", "acc", "--causal"],
         ("--causal: has no effect on a student of normal running, which has no steps and no labels; leave it out")),
        (["teacher", "{d}"],
         ("training: expected labelled classes, labels or numbers to learn from, got dataset 'spindles' of normal"
         " running; train one sensor's student on it with mmkd-train student, as docs/normal-data.md shows")),
        (["student", "{few}", "--modality", "acc"],
         ("dataset 'spindles': expected 100 normal windows or more to train on, got 90; record longer, or cut shorter"
         " windows")),
        (["student", "{one}", "--modality", "acc"],
         ("dataset 'spindles': expected normal windows of two groups or more, or of 20 s of one recording, whose blocks"
         " of time judge one another, got 12.85 s; record longer, or another machine or day")),
    ],
)  # fmt: skip
def test_wrong_trainings_are_refused(spindles, tmp_path, capsys, words, says):
    changed = {"few": {"labels": np.repeat([0, -1], [90, 150])}, "one": {"groups": np.full(240, 99)}}
    changed["one"]["times"] = np.arange(240) * 0.0496  # windows of a second that overlap
    times = {name: {"times": 1000.0 + np.arange(80)} for name in ("valid", "test")}
    for name, columns in changed.items():
        if f"{{{name}}}" in words:
            normal_dataset(tmp_path / name, train=columns, **(times if "times" in columns else {}))
    paths = {"d": spindles, "few": tmp_path / "few", "one": tmp_path / "one"}
    with pytest.raises(UsageError) as error:
        run_train([*(word.format(**paths) for word in words), "-o", str(tmp_path / "s.ckpt")])
    assert str(error.value) == says


def test_altered_checkpoints_are_refused(student, tmp_path):
    checkpoint = read_student(student)
    facts = checkpoint.facts
    falling = msgspec.structs.replace(facts.normal, scores=facts.normal.scores[::-1])
    lacking = "convolutions with components and scores of normal running, got convolutions with 64 and none"
    for expected, normal in ((lacking, None), ("rising scores of normal running", falling)):
        write_student(tmp_path / "s.ckpt", replace(checkpoint, facts=msgspec.structs.replace(facts, normal=normal)))
        assert said(CheckpointError, read_student, tmp_path / "s.ckpt") == (
            f"{tmp_path / 's.ckpt'}: metadata: expected {expected}; the file was altered"
        )


# ---- known faults


def class_dataset(path, *, labelled=20):
    """Labelled faults of other machines, as an import of classes has them: another name first, some unlabelled."""
    splits = {split: make_split(split, faults=True) for split in MACHINES}
    for number, split in enumerate(MACHINES):
        splits[split]["groups"] = splits[split]["groups"] + 100
        labels = 1 - splits[split]["labels"]  # 0 slip, 1 ok
        slips = np.flatnonzero(labels == 0)
        labels[slips[labelled:] if number == 0 else slips[1:]] = -1 if number == 0 else 1
        splits[split]["labels"] = labels
    return write_dataset(path, name="slips", labels=["slip", "ok"], modalities=[ACC], splits=splits)


def test_labelled_faults_of_another_dataset_join_the_score(spindles, student, tmp_path):
    known = known_faults(class_dataset(tmp_path / "faults"), "ok", ACC)
    assert len(known) == 20 + 1  # of train and valid; the one of test judges
    assert (known.labels == 0).all()
    output = tmp_path / "both.ckpt"
    call(run_train, "student", spindles, "--modality", "acc", "--faults", tmp_path / "faults", "-o", output)
    both, alone = read_student(output), read_student(student)
    assert both.facts.score >= alone.facts.score
    assert both.state["head.weight"].abs().sum() > 0
    assert alone.state["head.weight"].abs().sum() == 0
    network, plain, test = both.network(), alone.network(), open_dataset(spindles).split("test")
    logits, density = (logits_of(each, test, modality="acc")[:, 0] for each in (network, plain))
    part = logits - density  # one number: the log of the residual, and the classifier's share
    faulty = test.labels > 0
    assert part[faulty].min() > part[~faulty].max()
    assert np.median(both.facts.normal.scores) == pytest.approx(1, abs=0.01)


def test_of_the_same_dataset_only_faults_of_training_groups_teach(tmp_path, monkeypatch):
    normal_dataset(tmp_path / "own", train=make_split("train", faults=True))
    taught, fitted = [], []

    def fit_student(*positional, faults, **named):
        taught.append(faults)
        return fit_normal_student(*positional, faults=faults, **named)

    def fit_model(normal, *positional, faults, **named):
        fitted.append((normal, faults))
        return fit_normal_model(normal, *positional, faults=faults, **named)

    monkeypatch.setattr("mmkd_models.training.normal.fit_normal_student", fit_student)
    monkeypatch.setattr("mmkd_models.training.normal.fit_normal_model", fit_model)
    line = ("student", tmp_path / "own", "--modality", "acc", "--fold", "1", "--faults", tmp_path / "own")
    call(run_train, *line, "-o", tmp_path / "own.ckpt")
    everything = open_dataset(tmp_path / "own").everything()
    training = everything.subset(fold_indices(everything, fold=1, seed=0).train)
    assert sorted(taught[0].rows) == sorted(training.rows[training.labels > 0])
    assert {int(group) for group in taught[0].groups} == {int(group) for group in training.groups}
    (whole, known), *parts = fitted
    assert (len(np.unique(whole.groups)), len(known)) == (12, 60)
    for normal, others in parts:  # nor does a model of the calibration know a fault of the groups that it judges
        assert set(others.groups) == set(normal.groups) < set(whole.groups)
    assert read_student(tmp_path / "own.ckpt").facts.score > 0.95  # by the faults of validation, which do not teach


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{few}"], ("expected 5 windows or more of train and valid with a label other than 'ok', got 4; label more, or"
         " train without them")),
        (["{d}"], ("expected 5 windows or more of the training groups with a label other than 'ok', got 0; label more,"
         " or train without them")),
        (["{slow}"], ("modality 'acc': expected windows (50, 1) at 50 Hz of x, got (50, 1) at 25 Hz of x; import them"
         " by the same recipe")),
    ],
)  # fmt: skip
def test_faults_that_cannot_be_learnt_are_refused(spindles, tmp_path, words, says):
    class_dataset(tmp_path / "few", labelled=3)
    splits = {split: make_split(split, faults=split != "train") for split in MACHINES}
    slow = msgspec.structs.replace(ACC, rate_hz=25.0)
    write_dataset(tmp_path / "slow", name="slow", labels=TASK, modalities=[slow], splits=splits)
    paths = {"d": spindles, "few": tmp_path / "few", "slow": tmp_path / "slow"}
    line = ["--faults", *(word.format(**paths) for word in words), "-o", str(tmp_path / "s.ckpt")]
    with pytest.raises(UsageError) as error:
        run_train(["student", str(spindles), "--modality", "acc", *line])
    assert str(error.value) == f"--faults {line[1]}: {says}"


def test_no_training_looks_at_known_faults_and_a_fold_judges_all_of_its_groups(tmp_path, capsys):
    train, rng = make_split("train", faults=True), np.random.default_rng(5)
    train["acc"][train["labels"] > 0] += 9 * rng.normal(size=(60, *ACC.shape)).astype(np.float32)
    hidden = np.where(train["labels"] > 0, -1, 0)  # as imports wrote them before
    for name, labels in (("kept", train["labels"]), ("hidden", hidden)):
        normal_dataset(tmp_path / name, train=train | {"labels": labels})
        call(run_train, "student", tmp_path / name, "--modality", "acc", "-o", tmp_path / f"{name}.ckpt")
    kept, old = (read_student(tmp_path / f"{name}.ckpt") for name in ("kept", "hidden"))
    assert kept.facts.normal == old.facts.normal
    assert all(torch.equal(kept.state[name], old.state[name]) for name in old.state)
    call(run_train, "student", tmp_path / "kept", "--modality", "acc", "--fold", "3", "-o", tmp_path / "fold.ckpt")
    capsys.readouterr()
    facts = judged(tmp_path / "fold.ckpt", tmp_path / "kept", "--fold", "3", capsys=capsys)["suites"]["normal"]["facts"]
    assert (facts["groups"], facts["normal"], facts["faults"]) == (4, 60, 20)


# ---- evaluation


def judged(*words, capsys):
    call(run_evaluate, *words, "--json")
    return json.loads(capsys.readouterr().out)


def test_a_student_is_judged_by_windows_and_by_groups_beside_its_rivals(spindles, student, capsys):
    document = judged(student, spindles, "--rival", "average_of_six", "--by", "machine", capsys=capsys)
    facts = document["suites"]["normal"]["facts"]
    assert list(document["suites"]) == ["normal"]
    assert [model["role"] for model in document["models"]] == ["normal", "rival"]
    own = facts["models"]["acc.ckpt"]
    test, checkpoint = open_dataset(spindles).split("test"), read_student(student)
    normal = checkpoint.facts.normal
    scores, faulty = np.exp(logits_of(checkpoint.network(), test, modality="acc")[:, 0]), test.labels > 0
    p_values = (1 + (np.array(normal.scores) >= scores[:, None] * (1 + 1e-6)).sum(axis=1)) / (len(normal.scores) + 1)
    alarms = p_values <= normal.level
    assert own["window_rate"]["mean"] == pytest.approx(alarms[~faulty].mean())
    assert own["detection"]["mean"] == pytest.approx(alarms[faulty].mean())
    by_group = np.array([alarms[~faulty & (test.groups == group)].mean() for group in range(16, 20)])
    assert own["groups_above"] == pytest.approx((by_group > 2 * normal.level).mean())
    assert own["auroc"]["mean"] == pytest.approx(normal_scores(faulty, scores).auroc)
    assert own["within"] == pytest.approx(within_auroc(faulty, scores, test.groups))
    assert own["auroc"]["low"] is None  # four groups
    assert own["delay"] == {"runs": 20, "found": int(alarms[faulty].sum()), "median": 0.0, "unit": "windows"}
    assert (facts["groups"], facts["normal"], facts["faults"]) == (4, 60, 20)
    assert facts["models"]["average of six"]["auroc"]["mean"] > 0.9
    assert any(note.startswith("too few groups for an interval: 4") for note in document["suites"]["normal"]["notes"])


def windows_of(labels, groups, **facts):
    count = len(labels)
    spec = DatasetSpec(name="w", task=TASK, modalities=(ACC,), splits={})
    arrays = {"splits": np.full(count, 2), "folds": None, "rows": np.arange(count)} | facts
    empty = StoredWindows(parts={}, offsets=np.zeros(1, np.int64))
    return Windows(spec=spec, labels=np.array(labels), groups=np.array(groups), has_groups=True, source=empty, **arrays)


def test_the_delay_is_from_a_faults_first_window_to_its_first_alarm():
    labels = [0, 1, 1, 1, 0, 1, 0, 1, 1]
    alarms = np.array([1, 0, 1, 1, 0, 0, 0, 1, 0], dtype=bool)
    windows = windows_of(labels, [1] * 7 + [2] * 2)
    assert measure_delay(windows, alarms) == Delay(runs=3, found=2, median=0.5, unit="windows")
    timed = windows_of(labels, [1] * 7 + [2] * 2, times=10.0 * np.arange(9) + 1e9)
    assert measure_delay(timed, alarms) == Delay(runs=3, found=2, median=5.0, unit="s")  # 10 s and 0 s
    assert measure_delay(windows, np.zeros(9, dtype=bool)).median is None


def test_a_position_or_a_campaign_that_gives_faults_away_is_named():
    campaigns, groups = {"campaign": np.repeat([1, 2], 12)}, np.repeat(np.arange(6), 4).tolist()
    alone = explain_by_place(windows_of([0, 0, 0, 1] * 6, groups, metadata=campaigns), "campaign")
    assert alone["The position in the recording"] == 1.0
    assert alone["The campaign"] == 0.5  # both have as many
    alone = explain_by_place(windows_of([0] * 12 + [1, 0] * 6, groups, metadata=campaigns), "campaign")
    # Faults are in campaign 2 alone: pairs with normal windows of campaign 1 are won, 12 of 18, the others half.
    assert alone["The campaign"] == pytest.approx((12 + 6 / 2) / 18)
    says = list(explained(alone, Interval(mean=0.85, low=0.8, high=0.9)))
    expected = (
        "The campaign alone reaches an AUROC of 0.83, as much as the score or more: record normal running in the same"
    )
    assert says == [f"{expected} places, or judge within them"]
    assert not list(explained(alone, Interval(mean=0.95, low=0.9, high=0.99)))


def test_windows_without_faults_show_false_alarms_alone(tmp_path, student, capsys):
    path = tmp_path / "quiet"
    normal_dataset(path, faults=False)
    call(run_evaluate, student, path)
    text = " ".join(capsys.readouterr().out.split())
    assert "No window has a known fault: what it finds is unknown." in text
    assert "AUROC" not in text


@pytest.mark.slow  # compiles for half a minute
def test_rockad_by_aeon_is_a_rival(spindles, student, capsys):
    facts = judged(student, spindles, "--rival", "rockad", capsys=capsys)["suites"]["normal"]["facts"]
    assert facts["models"]["ROCKAD"]["auroc"]["mean"] > 0.8


def test_three_scores_are_those_of_the_textbook():
    rng = np.random.default_rng(0)
    normal, other = (rng.normal(size=(size, 4)) @ np.diag([5.0, 2.0, 1.0, 0.0]) for size in (30, 6))
    far, mahalanobis, apart = np.exp(three_scores(normal.astype(np.float32))(other.astype(np.float32))).T
    z = (normal - normal.mean(axis=0))[:, :3] / normal.std(axis=0)[:3]
    y = (other - normal.mean(axis=0))[:, :3] / normal.std(axis=0)[:3]
    inverse = np.linalg.inv(z.T @ z / len(z))
    np.testing.assert_allclose(mahalanobis, np.sqrt(np.einsum("ni,ij,nj->n", y, inverse, y)), rtol=1e-4)
    apart_each = y[:, None] - z[None]
    distances = np.sqrt(np.einsum("nmi,ij,nmj->nm", apart_each, inverse, apart_each))
    np.testing.assert_allclose(far, np.sort(distances, axis=1)[:, :5].mean(axis=1), rtol=1e-4)
    assert (apart < 1e-5).all()  # three components hold everything


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{s}", "{d}", "--suite", "faults"],
         ("--suite faults: expected classes, labels or numbers, got dataset 'spindles' of normal running; leave --suite"
         " out, or give --suite normal")),
        (["{s}", "{d}", "--rival", "mini_rocket"],
         "--rival: expected one of rockad, average_of_six, got 'mini_rocket'; choose one of them"),
        (["{s}", "{faults}"],
         ("{s}: student: expected the classes slip, ok of the dataset, got normal running ok; name the dataset of its"
         " training, or train a student on this dataset")),
        (["{s}", "{d}", "--by", "shift"],
         "--by shift: dataset 'spindles' has no such metadata; choose one of group, machine"),
    ],
)  # fmt: skip
def test_wrong_evaluations_are_refused(spindles, student, tmp_path, words, says):
    if "{faults}" in words:
        class_dataset(tmp_path / "faults")
    paths = {"d": spindles, "s": student, "faults": tmp_path / "faults"}
    assert said(UsageError, run_evaluate, [word.format(**paths) for word in words]) == says.format(**paths)


# ---- sensors


PAIR = [msgspec.structs.replace(ACC, name=name) for name in ("acc", "twin", "alone")]


def test_sensors_are_compared_without_a_fault_and_together_are_a_monitor(tmp_path, capsys):
    splits = {split: make_split(split, faults=split == "test") for split in MACHINES}
    rng = np.random.default_rng(5)
    for columns in splits.values():
        quiet = make_split("train", faults=False)["acc"][: len(columns["acc"])]
        columns["twin"] = 3 * columns["acc"] + 0.05 * rng.normal(size=columns["acc"].shape).astype(np.float32)
        columns["alone"] = rng.permutation(np.resize(quiet, columns["acc"].shape))
    write_dataset(tmp_path / "d", name="rig", labels=TASK, modalities=PAIR, splits=splits)
    out = tmp_path / "sensors"
    call(run_sensors, tmp_path / "d", "--json", "-o", out)
    document = json.loads(capsys.readouterr().out)
    rows = {row["sensor"]: row for row in document["rows"]}
    assert (document["normal"], document["groups"], document["faults"]) == (80, 4, 20)
    assert rows["acc"]["alike"]["twin"] > 0.7
    assert rows["acc"]["alike"]["alone"] < 0.3
    assert rows["alone"]["explained"] < 0.3 < 0.7 < rows["twin"]["explained"]
    assert rows["acc"]["synthetic"]["noise"] > 0.95
    assert "lost channel" not in rows["acc"]["synthetic"]  # a window without a sample has no score
    assert rows["acc"]["own"]["auroc"] > 0.95
    assert abs(rows["alone"]["own"]["auroc"] - 0.5) < 0.25
    assert json.loads((out / "sensors.json").read_bytes()) == document
    page = " ".join(re.sub("<[^>]*>", " ", (out / "sensors.html").read_text()).split())
    best = max(rows.values(), key=lambda row: np.mean(list(row["synthetic"].values())))
    redundant = [f"{name} ({row['explained']:.0%})".replace("%", " %") for name, row in rows.items() if name != "alone"]
    for says in (
        f"Redundant, because the others predict its movement: {', '.join(redundant)}.",
        "Which sensors look alike?",
        f"No clear winner: {best['sensor']} ",  # all react to nearly all
        "Synthetic faults are made by a program: they rank how a sensor reacts, and are no accuracy",
        f"noise {' '.join(format(rows[name]['synthetic']['noise'], '.2f') for name in ('acc', 'twin', 'alone'))}",
        "all sensors, each predicted from the others",
        f"AUROC on known faults {document['monitor']['auroc']:.2f}",
    ):
        assert says in page
    call(run_sensors, tmp_path / "d", "-o", out)
    lines = capsys.readouterr().out.splitlines()
    sentences = list(verdict(msgspec.convert(document, NormalSensorsDocument)))
    assert lines[:-1] == [f"{sentence}." for sentence in sentences]
    next_line = f"mmkd-train student {tmp_path / 'd'} --modality {best['sensor']} -o student.ckpt"
    assert lines[-1] == f"wrote {out / 'sensors.html'}; next: {next_line}"
    apart = [row | {"explained": 0.541 if row["sensor"] == "acc" else 0.2} for row in document["rows"]]
    first = next(verdict(msgspec.convert(document | {"rows": apart}, NormalSensorsDocument)))
    assert first == "No sensor is redundant: the others predict at most 54 % (acc)"
    with pytest.raises(UsageError) as error:
        run_sensors([str(tmp_path / "d"), "--pairs"])
    assert str(error.value) == ("--pairs: has no effect on a comparison of sensors of normal running; leave it out")


def test_a_single_sensor_has_nothing_to_be_compared_with(spindles):
    assert said(UsageError, run_sensors, [str(spindles)]) == (
        f"{spindles}: expected two sensors or more, among which one is chosen, got acc alone; mmkd-evaluate judges a"
        " model of it"
    )
