"""A student in a new domain: adapted where it gets better there, left alone where it does not.

The case: `acc` tells two classes by its level, which is moved in the new domain so far that the student says one class
to everything; `gyro` tells them as ever, and so does the teacher who has both.
"""

from contextlib import contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch

from mmkd_app.commands import adapt
from mmkd_app.commands.adapt import run_adapt
from mmkd_edge.errors import GateError, UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_edge.testing import fake_predictor
from mmkd_models.adaptation import methods
from mmkd_models.adaptation.domains import few_labels, new_domain, old_domain, with_classes
from mmkd_models.adaptation.judge import (
    AdaptationJudge,
    StudentScores,
    importance,
    judge_method,
    measure_closeness,
    vanished_classes,
)
from mmkd_models.adaptation.run import run_adaptation
from mmkd_models.data import open_dataset, write_dataset
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.importing.window_files import import_windows
from mmkd_models.evaluation.known_windows import count_known_windows
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import (
    TeacherFile,
    file_sha256,
    read_student,
    read_teacher,
    write_student,
    write_teacher,
)
from mmkd_models.training.inputs import TrainingRequest, TrainingRun
from mmkd_models.training.predict import logits_of, scores_of
from mmkd_models.training.students import train_student
from mmkd_models.training.trainings import train_teacher
from mmkd_station.uncertain import UncertainRing
from tests.app.pages.rendered import render_adaptation
from tests.edge.said import said
from tests.models.conftest import STUDENT, TEACHER, data_of

MODALITIES = (
    ModalitySpec(name="acc", channels=("x",), rate_hz=10.0, samples=16),
    ModalitySpec(name="gyro", channels=("x",), rate_hz=10.0, samples=16),
)
TRAIN = TrainConfig(steps=60, batch=32, eval_every=20, learning_rate=5e-3)
AUGMENT = AugmentConfig(mixup=0.0, channel_dropout=0.0, span_dropout=0.0)


def split(count, seed, *, moved, groups):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 2)
    level = np.where(labels, 1.0, -1.0)[:, None, None]
    return {
        "acc": level + moved + rng.normal(0, 0.4, (count, 16, 1)),
        "gyro": 2 * level + rng.normal(0, 0.5, (count, 16, 1)),
        "labels": labels,
        "groups": 100 * seed + np.arange(count) * groups // count,
    }


def written(path, *, moved, seed, labelled=True, modalities=MODALITIES):
    splits = {}
    for number, (name, count) in enumerate({"train": 120, "valid": 90, "test": 60}.items()):
        found = split(count, seed + number, moved=moved, groups=6)
        absent = {one.name for one in MODALITIES} - {one.name for one in modalities}
        splits[name] = {key: value for key, value in found.items() if key not in absent}
    if not labelled:
        for part in splits.values():
            part["labels"] = np.full_like(part["labels"], -1)
    return write_dataset(path, name=path.name, labels=["idle", "busy"], modalities=modalities, splits=splits)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the old dataset, a moved one without labels, the same with labels, one that is like the old one,
    a teacher, and students of two kinds."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("site")
    old = written(folder / "old", moved=0.0, seed=10)
    written(folder / "moved", moved=1.3, seed=20, labelled=False)
    written(folder / "labelled", moved=1.3, seed=20)
    written(folder / "same", moved=0.0, seed=30, labelled=False)
    written(folder / "one", moved=1.3, seed=40, modalities=MODALITIES[:1])
    written(folder / "other", moved=1.3, seed=40, modalities=MODALITIES[1:])
    written(folder / "fast", moved=1.3, seed=40, modalities=(msgspec.structs.replace(MODALITIES[0], rate_hz=20.0),))
    data = data_of(old)
    run = TrainingRun(train=TRAIN, augment=AUGMENT)
    teacher = train_teacher(data, TEACHER, run)
    write_teacher(folder / "teacher.ckpt", teacher)
    for kind in ("transformer", "convolutions", "trees"):
        config = msgspec.structs.replace(STUDENT, preset="tiny", members=(kind,))
        student = train_student(TrainingRequest(data.with_modalities(("acc",)), "acc", config, run))
        write_student(folder / f"{kind}.ckpt", student)
    return folder


def right(path, dataset):
    student = read_student(path)
    windows = open_dataset(dataset).split("test").with_modalities(("acc",))
    return scores_of(student.network(), windows, modality="acc").balanced_accuracy


def command(site, tmp_path, *arguments, kind="transformer", data="moved"):
    output = tmp_path / "adapted.ckpt"
    with suppress(SystemExit):  # its way to say that all went well
        run_adapt([str(site / f"{kind}.ckpt"), str(site / data), "-o", str(output), "--steps", "60", *arguments])
    return output


KINDS = ["convolutions", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("transformer", "trees"))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_with_another_sensor_adapts_a_student_without_labels(site, tmp_path, capsys, kind):
    assert right(site / f"{kind}.ckpt", site / "labelled") < 0.6
    output = command(site, tmp_path, "--teacher", str(site / "teacher.ckpt"), "--old", str(site / "old"), kind=kind)
    told = capsys.readouterr().out
    assert right(output, site / "labelled") > 0.8
    assert right(output, site / "old") > right(site / f"{kind}.ckpt", site / "old") - 0.02
    (lineage,) = read_student(output).facts.adapted
    assert lineage.from_sha256 == file_sha256(site / f"{kind}.ckpt")
    assert (lineage.dataset, lineage.labels) == ("moved", 0)
    assert lineage.teacher_sha256 == file_sha256(site / "teacher.ckpt")
    assert "estimate: agreement with the teacher on new windows that were not trained on" in told
    assert "old: old, 120 windows to train, 90 to judge" in told
    assert told.splitlines()[-1] == f"wrote {output}; next: mmkd-export {output} -o {output.with_suffix('.edge')}"


def test_where_nothing_is_better_nothing_is_written(site, tmp_path):
    options = ("--teacher", str(site / "teacher.ckpt"), "--old", str(site / "old"))
    message = said(GateError, command, site, tmp_path, *options, kind="convolutions", data="same")
    assert message.startswith("same: no method is better (statistics: ")
    assert message.endswith("nothing was written. Keep the student, record longer, or add --teacher or --labels")
    assert not (tmp_path / "adapted.ckpt").exists()


def test_labels_of_some_windows_adapt_too(site, tmp_path, capsys, monkeypatch):
    draw, seeds = few_labels, set()
    monkeypatch.setattr(methods, "few_labels", lambda *drawn, seed: seeds.add(seed) or draw(*drawn, seed=seed))
    options = ["--labels", "20", "--seed", "3", "--old", str(site / "old"), "--json"]
    output = command(site, tmp_path, *options, kind="convolutions", data="labelled")
    assert seeds == {3}
    document = msgspec.json.decode(capsys.readouterr().out)
    assert document["estimated_by"] == "labels"
    assert document["labels"] == 40
    assert document["written"] == str(output)
    assert right(output, site / "labelled") > 0.8
    adapted, dataset = read_student(output), open_dataset(site / "labelled")
    assert len(adapted.carried.windows) == 90 + 90  # the old ones, and the labelled ones that judge in the new domain
    assert np.bincount(adapted.carried.groups).tolist() == [15] * 12  # six groups of each
    seen = count_known_windows(adapted.facts, "acc", dataset, dataset.split("train"))
    assert (seen.trained, seen.chosen) == (120, 0)
    assert count_known_windows(adapted.facts, "acc", dataset, dataset.split("test")).trained == 0


def test_labels_of_windows_that_a_device_kept_teach_a_student(site, tmp_path):
    acc, task = MODALITIES[0], TaskSpec(labels=("idle", "busy"))
    ring = UncertainRing(tmp_path / "ring", most_bytes=10**7, below=0.6, station="press1", modality=acc, task=task)
    unsure, found = fake_predictor([0.5, 0.5], modality=acc, labels=task), split(96, 70, moved=1.3, groups=3)
    for number, window in enumerate(found["acc"].astype(np.float32)):
        ring.see(window, unsure.predict(window), time_s=5.0 * number)
    ring.close()
    files = [np.load(path) for path in sorted((tmp_path / "ring").iterdir())]
    assert len(files) == 3
    each = ("x_acc", "y", "time", "column_answer", "column_probability", "column_reason")
    seen = dict(files[0]) | {name: np.concatenate([one[name] for one in files]) for name in each}
    part = np.repeat([0, 1, 2], 32)
    np.savez(tmp_path / "kept.npz", **(seen | {"y": found["labels"], "split": part, "group": part}))
    import_windows(tmp_path / "kept.npz", tmp_path / "site")
    options = ["--labels", "10", "--old", str(site / "old")]
    output = command(site, tmp_path, *options, kind="convolutions", data=str(tmp_path / "site"))
    assert right(site / "convolutions.ckpt", site / "labelled") < 0.6
    assert right(output, site / "labelled") > 0.8
    assert read_student(output).facts.adapted[0].labels == 20


@pytest.mark.parametrize("data", ["moved", "same"])
def test_a_page_is_written_whatever_the_gate_says(site, tmp_path, capsys, data):
    page = tmp_path / "report.html"
    arguments = ["--teacher", str(site / "teacher.ckpt"), "--page", str(page), "--dry-run", "--json"]
    with suppress(GateError):
        command(site, tmp_path, *arguments, kind="convolutions", data=data)
    document = msgspec.json.decode(capsys.readouterr().out)
    assert page.read_text(encoding="utf-8") == render_adaptation(document)
    assert (document["chosen"] is None) == (data == "same")
    assert document["classes"] == ["idle", "busy"]
    assert sum(document["class_fractions"]) == pytest.approx(1.0)
    assert sum(document["reference_fractions"]) == pytest.approx(1.0)


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(site, tmp_path, capsys):
    options = ("--teacher", str(site / "teacher.ckpt"), "--old", str(site / "old"), "--dry-run")
    command(site, tmp_path, *options, kind="convolutions")
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out.splitlines()[-1].startswith("nothing was written; without --dry-run: ")


def task_of(site, **changes):
    student, dataset = read_student(site / "transformer.ckpt"), open_dataset(site / "moved")
    domains = {"new": new_domain(student, dataset, ("acc", "gyro")), "old": old_domain(student, None)}
    teacher = TeacherFile(checkpoint=read_teacher(site / "teacher.ckpt"), sha256="t")
    limits = {"train": msgspec.structs.replace(methods.ADAPT_TRAIN, steps=20, eval_every=10), "max_forget": 1.0}
    given = {"student": student, "student_sha256": "s", "teacher": teacher, "labels": 0, **domains, **limits}
    return methods.AdaptationTask(**{**given, **changes})


def test_a_student_without_windows_needs_the_old_data(site, tmp_path):
    write_student(tmp_path / "bare.ckpt", replace(read_student(site / "transformer.ckpt"), carried=None))
    line = [str(tmp_path / "bare.ckpt"), str(site / "moved"), "-o", str(tmp_path / "adapted.ckpt")]
    assert said(UsageError, run_adapt, line) == (
        "student: expected at least 40 carried windows, to measure forgetting, got 0; pass the dataset that it was "
        "trained on as --old"
    )


OTHERWISE = "name the dataset of its training, or train a {} on this dataset"
BAD = {
    ("--dry-run", "old"): "{data}: the student was trained on this dataset; name recordings of a new domain",
    ("--labels 3", "moved"): (
        "--labels 3: expected at least 2 labelled windows of every class in the training split, got 0 of idle; label "
        "some, or leave --labels out"
    ),
    ("--labels 1", "labelled"): "--labels 1: expected at least 2 of each class, since half of them judge; label more",
    ("--old {site}/same", "moved"): (
        "--old {site}/same: expected at least 20 labelled windows in train and in valid, got 0 and 0; label some, or "
        "leave --old out"
    ),
    ("--page report.txt", "moved"): ("report.txt: expected a name that ends in .html; only such a file is overwritten"),
    ("--teacher {site}/teacher.ckpt", "one"): (
        "teacher: expected a dataset with modality 'gyro', which it was trained with, got acc; "
        f"{OTHERWISE.format('teacher')}"
    ),
    ("", "other"): (
        "student: expected a dataset with modality 'acc', which it was trained with, got gyro; "
        f"{OTHERWISE.format('student')}"
    ),
    ("", "fast"): (
        "student: modality 'acc': expected windows (T, C)=(16, 1) at 10.0 Hz, got (16, 1) at 20.0 Hz; "
        f"{OTHERWISE.format('student')}"
    ),
}


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_what_is_read_is_not_replaced(site, whose):
    files = {"student": site / "transformer.ckpt", "teacher": site / "teacher.ckpt"}
    before = files[whose].read_bytes()
    line = [files["student"], site / "moved", "--teacher", files["teacher"], "-o", files[whose]]
    assert said(UsageError, run_adapt, [str(word) for word in line]) == (
        f"--out {files[whose]}: expected another file than the {whose}'s, got the same; choose another name"
    )
    assert files[whose].read_bytes() == before


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(site, tmp_path, case):
    line, data = case
    message = said(Exception, command, site, tmp_path, *line.format(site=site).split(), data=data)
    assert message == BAD[case].format(site=site, data=site / data)
    assert not (tmp_path / "adapted.ckpt").exists()


def test_a_student_that_cannot_adapt_is_refused(site):
    task = task_of(site, teacher=None)
    camera = ModalitySpec(name="cam", kind="video", channels=("grey",), rate_hz=5.0, samples=8)
    by_group, anew = (
        msgspec.structs.replace(MODALITIES[0], normalise="per_group"),
        "train a new student with mmkd-distill",
    )
    for message, change in {
        f"expected a student of classes, got one of the kind multi_label; {anew}": {
            "task": TaskSpec(kind="multi_label", labels=("idle", "busy"))
        },
        f"expected a student of a series or of audio, got video, 'cam'; {anew}": {"modality": camera},
        "'acc' has no statistics to adapt; pass --teacher or --labels": {"modality": by_group},
    }.items():
        changed = replace(task, student=replace(task.student, **change))
        assert said(UsageError, run_adaptation, changed) == f"mmkd-adapt: {message}"


def test_few_labels_are_as_many_of_each_class(site):
    windows = open_dataset(site / "labelled").split("train")
    rows = few_labels(windows, 7, seed=0)
    assert np.bincount(windows.labels[rows]).tolist() == [7, 7]
    assert rows.tolist() == sorted(rows.tolist())
    assert not np.array_equal(rows, few_labels(windows, 7, seed=1))


def test_old_windows_stand_behind_the_new_ones_and_are_taught_in_any_case(site):
    new, old = (open_dataset(site / name).split("train").with_modalities(("acc",)) for name in ("moved", "old"))
    batch = methods.PairedSource(new, old, AUGMENT, batch=16, seed=0).at(3)
    assert (batch.index[:8] < len(new)).all()
    assert (batch.index[8:] >= len(new)).all()
    level = batch.inputs["acc"][0].mean((1, 2))
    assert level[:8].mean() > 0.65 > level[8:].mean()
    student = read_student(site / "transformer.ckpt").network()
    learner = methods.AdaptLearner(
        student, modality="acc", targets=torch.full((len(new) + len(old), 2), 0.5), offset=len(new)
    )
    batch = methods.PairedSource(new, old, AUGMENT, batch=16, seed=0).at(0)
    terms = learner(batch, 0.0)
    expected = -(0.5 * torch.log_softmax(student(*batch.inputs["acc"]).logits, dim=-1)).sum(-1)
    assert terms["new"].item() == pytest.approx(expected[:8].mean().item(), rel=1e-5)
    assert terms["old"].item() == pytest.approx(expected[8:].mean().item(), rel=1e-5)
    assert terms["loss"].item() == pytest.approx(expected.reshape(2, 8).mean(1).mean().item(), rel=1e-5)


@pytest.fixture
def taught(site, monkeypatch):
    """Gives what a way of training is given to learn, its student untrained, and its old windows three of one class."""
    task = task_of(site)
    old = task.old.learn
    rows = np.concatenate([np.flatnonzero(old.labels == 0)[:3], np.flatnonzero(old.labels == 1)[:9]])
    task = replace(task, old=replace(task.old, learn=old.subset(np.sort(rows))))
    seen = []

    def fit(learner, batch_at, **_):
        seen.append((learner, batch_at.__self__))
        return SimpleNamespace(state=learner.network.state_dict())

    monkeypatch.setattr(methods, "fit", fit)

    def teach(way):
        methods.adapt_student(task, way)
        return (task, *seen[-1])

    return teach


def test_a_batch_has_old_windows_of_each_class_as_often_with_their_own_answers(taught):
    task, learner, source = taught("teacher")
    assert np.bincount(task.old.learn.labels).tolist() == [3, 9]
    drawn = [source.at(step) for step in range(40)]
    old = torch.cat([batch.index[batch.index >= source.offset] for batch in drawn]) - source.offset
    labels = torch.cat([batch.targets[batch.index >= source.offset] for batch in drawn]).argmax(1)
    assert labels.double().mean().item() == pytest.approx(0.5, abs=0.02)
    answers = methods.old_answers(task)
    replayed = methods.balanced_rows(task.old.learn.labels)
    np.testing.assert_allclose(learner.targets[source.offset :][old], answers[replayed][old], rtol=1e-6)
    np.testing.assert_array_equal(task.old.learn.labels[replayed][old], labels)


class Judging:
    """Eight windows of eight groups, every second one of class b."""

    groups, has_groups, labels = np.arange(8), True, np.array([0, 1] * 4)
    spec = SimpleNamespace(task=TaskSpec(labels=("a", "b")))

    def __len__(self):
        return 8

    def subset(self, rows):
        return self


def judge(**changes):
    windows = Judging()
    facts = {"new": windows, "reference": np.eye(2)[windows.labels], "weights": None, "estimated_by": "agreement"}
    limits = {"old": windows, "metric": "accuracy", "max_forget": 1.0, "methods": 1}
    return AdaptationJudge(**{**facts, **limits, **changes})


def say(hits, answers, old=(0, 1) * 4):
    right = float(np.mean(np.array(old) == Judging.labels))
    logits = np.eye(2, dtype=np.float32)[np.array(old)]
    answered = np.array(answers)
    return StudentScores(closeness=np.array(hits, dtype=float), answers=answered, old_logits=logits, old_score=right)


def test_a_gain_is_counted_in_points_with_its_standard_error():
    before, after = say([0] * 8, [1, 0] * 4), say([1] * 4 + [0] * 4, [0, 1] * 4)
    found = judge_method(judge(), "teacher", before, after, seconds=1.0)
    assert found.gain_points == 50.0
    gains = 100 * np.array([1.0] * 4 + [0.0] * 4)
    # The jackknife of a mean is its usual standard error.
    assert found.standard_error_points == pytest.approx(gains.std(ddof=1) / np.sqrt(8))
    assert found.refusals == ()


@pytest.mark.parametrize(
    ("reference", "answered", "gone"),
    [
        ([0, 1] * 4, [0, 1] * 4, ("b",)),
        ([0, 1] * 4, [0] * 8, ()),  # it was never answered
        ([0] * 8, [0, 1] * 4, ()),  # the teacher answers one class alone
    ],
)
def test_a_class_that_vanishes_is_named(reference, answered, gone):
    court = judge(reference=np.eye(2)[reference])
    result = judge_method(court, "teacher", say([0] * 8, answered), say([1] * 8, [0] * 8), seconds=1.0)
    assert result.vanished == gone
    assert result.refusals == (("it hardly answers b any more",) if gone else ())


@pytest.mark.parametrize(("other", "gone"), [(5, ()), (6, ("b",))])
def test_a_teacher_is_heard_on_a_class_of_above_five_in_a_hundred(other, gone):
    right = np.array([1] * other + [0] * (100 - other))
    before = say([0] * 100, [1] * 30 + [0] * 70)
    assert vanished_classes(judge(reference=np.eye(2)[right]), before, say([1] * 100, [0] * 100)) == gone


def test_what_is_forgotten_has_a_standard_error_that_counts():
    before, gained = say([0] * 8, [0, 1] * 4), [1] * 8
    # One old window of eight is said wrong: 12.5 points, and the jackknife of a mean is its usual standard error.
    one = judge_method(judge(), "teacher", before, say(gained, [0, 1] * 4, old=(1, 1, 0, 1, 0, 1, 0, 1)), seconds=1.0)
    assert (one.forgotten_points, one.forgotten_error_points) == pytest.approx((12.5, 12.5))
    assert one.refusals == ()
    three = judge_method(judge(), "teacher", before, say(gained, [0, 1] * 4, old=(1, 0, 1, 1, 0, 1, 0, 1)), seconds=1.0)
    error = 100 * np.sqrt(3 / 8 * 5 / 8 / 7)
    assert three.forgotten_error_points == pytest.approx(error)
    assert three.refusals == (f"the old domain loses 37.5 points, standard error {error:.1f}, more than 1",)


def test_closeness_and_weights_follow_probabilities_and_old_windows_that_look_new(site):
    even = np.zeros((1, 2), dtype=np.float32)
    sure = np.array([[50.0, -50.0]], dtype=np.float32)
    assert measure_closeness(sure, np.array([[1.0, 0.0]])) == pytest.approx(1.0)
    assert measure_closeness(sure, np.array([[0.0, 1.0]])) == pytest.approx(0.0)
    # (1 - 0.5)^2 and (0 - 0.5)^2, of which half is taken off.
    assert measure_closeness(even, np.array([[1.0, 0.0]])) == pytest.approx(0.75)
    student = read_student(site / "transformer.ckpt")
    new = open_dataset(site / "moved").split("valid").with_modalities(("acc",))
    old = open_dataset(site / "old").split("valid").with_modalities(("acc",))
    weights = importance(student, new, old)
    assert weights.mean() == pytest.approx(1.0)
    assert weights[old.labels == 1].mean() > weights[old.labels == 0].mean()


def with_a_third_class(path):
    """As `moved=0`, with a class between the two that the student knows, which stand in another order."""
    splits = {}
    for number, (name, count) in enumerate({"train": 180, "valid": 90, "test": 90}.items()):
        rng = np.random.default_rng(50 + number)
        labels = rng.permutation(np.arange(count) % 3)
        level = np.array([1.0, 4.0, -1.0])[labels][:, None, None]
        splits[name] = {
            "acc": level + rng.normal(0, 0.4, (count, 16, 1)),
            "gyro": level + rng.normal(0, 0.5, (count, 16, 1)),
            "labels": labels,
            "groups": 1000 * number + np.arange(count) // 15,
        }
    return write_dataset(path, name="three", labels=["busy", "stuck", "idle"], modalities=MODALITIES, splits=splits)


def test_a_head_follows_the_classes_and_windows_of_one_that_goes_are_carried_no_longer(site):
    student = read_student(site / "transformer.ckpt")
    grown = with_classes(student, TaskSpec(labels=("busy", "stuck", "idle")))
    windows = open_dataset(site / "old").split("test").with_modalities(("acc",))
    before, after = (logits_of(one.network(), windows, modality="acc") for one in (student, grown))
    np.testing.assert_allclose(after[:, [2, 0]], before, rtol=1e-5)
    assert (after[:, 1] < after[:, [0, 2]].min(axis=1)).all()
    counts = np.bincount(grown.carried.labels, minlength=3)
    assert counts[[2, 0]].tolist() == np.bincount(student.carried.labels).tolist()
    np.testing.assert_array_equal(grown.carried.groups, student.carried.groups)
    left = with_classes(student, TaskSpec(labels=("idle", "new")))
    assert (left.carried.labels == 0).all()
    idle = student.carried.labels == 0
    for name in ("windows", "groups"):
        np.testing.assert_array_equal(getattr(left.carried, name), getattr(student.carried, name)[idle])


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_class_is_learnt_from_a_few_labels(site, tmp_path, capsys, kind):
    three = with_a_third_class(tmp_path / "three")
    output = command(site, tmp_path, "--labels", "20", "--max-forget", "3", kind=kind, data=str(three.path))
    student = read_student(output)
    assert student.task.labels == ("busy", "stuck", "idle")
    windows = three.split("test").with_modalities(("acc",))
    recalls = np.diag(np.array(scores_of(student.network(), windows, modality="acc").confusion)) / 30
    assert recalls.min() > 0.7


def test_what_the_known_classes_learn_does_not_hang_on_a_row_that_is_never_answered(site):
    student = read_student(site / "convolutions.ckpt")
    more = with_classes(student, TaskSpec(labels=("busy", "stuck", "idle")))
    windows = open_dataset(site / "labelled").split("train").with_modalities(("acc",))
    answers = np.eye(2)[windows.labels]
    in_three = np.stack([answers[:, 1], np.zeros(len(answers)), answers[:, 0]], axis=1)
    two, three = methods.refit_head(student, [(windows, answers)]), methods.refit_head(more, [(windows, in_three)])
    assert not torch.equal(two.state["head.weight"], student.state["head.weight"])
    for name in ("head.weight", "head.bias"):
        torch.testing.assert_close(three.state[name][[2, 0]], two.state[name], rtol=1e-4, atol=1e-5)


def test_carried_z_scores_outside_the_range_of_raw_values_are_there(site):
    student = read_student(site / "transformer.ckpt")
    raw = msgspec.structs.replace(student.modality, normalise="per_group", range=(20.0, 90.0))
    learn = old_domain(replace(student, modality=raw), None).learn
    np.testing.assert_array_equal(learn.take(np.arange(45))["acc"], student.carried.windows[:45])


def test_old_data_are_read_by_the_names_of_their_classes(site, tmp_path):
    student = with_classes(read_student(site / "transformer.ckpt"), with_a_third_class(tmp_path / "three").spec.task)
    names = np.array(["busy", "stuck", "idle"])[old_domain(student, open_dataset(site / "old")).judge.labels]
    assert names.tolist() == np.array(["idle", "busy"])[open_dataset(site / "old").split("valid").labels].tolist()


def test_old_data_without_a_class_of_the_student_are_refused(site, tmp_path):
    splits = {name: split(40, 60 + n, moved=0.0, groups=2) for n, name in enumerate(("train", "valid", "test"))}
    write_dataset(tmp_path / "other", name="other", labels=["a", "b"], modalities=MODALITIES, splits=splits)
    assert said(UsageError, command, site, tmp_path, "--old", str(tmp_path / "other")) == (
        f"--old {tmp_path / 'other'}: expected at least one of the classes idle, busy, got a, b; leave --old out "
        "to use the windows that the student carries"
    )


def test_what_new_or_other_classes_need_is_said(site, tmp_path):
    three = with_a_third_class(tmp_path / "three")
    assert said(UsageError, command, site, tmp_path, kind="convolutions", data=str(three.path)) == (
        f"{three.path}: learning stuck needs labels; add --labels N"
    )
    assert said(UsageError, with_classes, read_student(site / "convolutions.ckpt"), TaskSpec(labels=("a", "b"))) == (
        "student: expected a dataset with at least one of its classes idle, busy, got a, b; name classes as the "
        "student does, or train a new student"
    )


def test_more_ways_ask_for_a_surer_gain():
    assert judge(methods=1).bonferroni_z == pytest.approx(1.645, abs=1e-3)
    assert judge(methods=2).bonferroni_z == pytest.approx(1.960, abs=1e-3)


@pytest.mark.parametrize(
    ("method", "estimated_by", "closeness_to"),
    [
        ("teacher", "agreement", "the teacher"),
        ("teacher", "labels", "the labels"),
        ("statistics", "labels", "the labels"),
        ("labels", "labels", None),
    ],
)
def test_a_gain_that_may_be_luck_is_refused_except_from_labels(method, estimated_by, closeness_to):
    before, after = say([0] * 8, [1, 0] * 4), say([1, 1] + [0] * 6, [0, 1] * 4)
    result = judge_method(judge(estimated_by=estimated_by), method, before, after, seconds=1.0)
    figures = "+25.0 points, standard error 16.4"
    told = f"the gain in closeness to {closeness_to} is not significant: {figures}"
    assert result.refusals == (() if closeness_to is None else (told,))


def test_an_adapted_student_carries_the_windows_that_did_not_replay(site):
    task = replace(task_of(site, max_forget=100.0), old=old_domain(read_student(site / "convolutions.ckpt"), None))
    adaptation = run_adaptation(task)
    before, after = task.student.carried, adaptation.checkpoint.carried
    assert len(after.windows) == len(before.windows) // 2
    for name in ("windows", "labels", "groups"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name)[len(before.windows) // 2 :])
    assert adaptation.checkpoint.embeddings is not None  # measured anew: its embeddings are others


def test_an_interrupted_command_goes_on_where_it_was(site, tmp_path, monkeypatch, capsys):
    arguments = ["--teacher", str(site / "teacher.ckpt"), "--max-forget", "100"]
    (tmp_path / "whole").mkdir()
    whole = read_student(command(site, tmp_path / "whole", *arguments))
    steps = []

    def shown(until):
        @contextmanager
        def show(title, output):
            def on_step(progress):
                steps.append(progress.step)
                if progress.step == until:
                    raise KeyboardInterrupt

            yield on_step

        return show

    monkeypatch.setattr(adapt, "training_shown", shown(50))
    assert not command(site, tmp_path, *arguments).exists()
    before = len(steps)
    assert steps[-1] == 50
    monkeypatch.setattr(adapt, "training_shown", shown(None))
    resumed = read_student(command(site, tmp_path, *arguments, "--resume"))
    assert 1 < steps[before] <= 51
    for name, value in whole.state.items():
        assert torch.equal(value, resumed.state[name]), name
