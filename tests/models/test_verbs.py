"""The verbs of a notebook and the classifiers for scikit-learn: frames and arrays become what the commands make."""

import re
from datetime import datetime, timedelta

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

import mmkd_app.verbs as mm
from mmkd_app.estimators import MultimodalClassifier, StudentClassifier
from mmkd_edge import EdgePredictor
from mmkd_edge.errors import MmkdError
from mmkd_edge.spec import TaskSpec
from mmkd_models.data.importing.from_frames import seconds
from mmkd_models.training.checkpoint import read_student, read_teacher_file
from tests.edge.said import said

pl = pytest.importorskip("polars")
pytestmark = pytest.mark.usefixtures("quick_openings")

RATE_HZ, SECONDS, MACHINES = 20, 24, 6
SENSORS = {"acc": ["ax", "ay"], "gyro": ["gx"]}


def recorded():
    """A frame of six machines: one second of the mode `run` is four turns, one of `idle` is one."""
    rng = np.random.default_rng(0)
    parts = []
    for machine in range(MACHINES):
        t = np.arange(RATE_HZ * SECONDS) / RATE_HZ
        mode = np.where(t % 12 < 6, "idle", "run")
        turns = 2 * np.pi * np.where(mode == "idle", 1.0, 4.0) * t
        values = {"ax": np.sin(turns), "ay": np.cos(turns), "gx": np.sin(turns + 1)}
        noisy = {name: (one + 0.2 * rng.standard_normal(len(t))).astype(np.float32) for name, one in values.items()}
        parts.append(pl.DataFrame({"machine": f"../m {machine}", "t": t, "mode": mode, **noisy}))
    return pl.concat(parts)


def as_dataset(frame, **options):
    given = {"label": "mode", "group": "machine", "time": "t", "window": "2s", "sensors": SENSORS}
    return mm.dataset(frame, **{**given, **options})


@pytest.fixture(scope="module")
def data():
    return as_dataset(recorded())


@pytest.fixture(scope="module")
def teacher(data):
    return mm.Teacher(size="tiny", steps=4, progress=False).fit(data)


@pytest.fixture(scope="module")
def student(data, teacher):
    return mm.distill(teacher, data, sensor="acc", members=["transformer", "intervals"], steps=4, progress=False)


def test_a_frame_becomes_windows_of_every_sensor(data):
    windows, frame = data.everything(), recorded()
    assert data.spec.task.labels == ("idle", "run")
    assert [(one.name, one.channels, one.rate_hz, one.samples) for one in data.spec.modalities] == [
        ("acc", ("ax", "ay"), 20.0, 40),
        ("gyro", ("gx",), 20.0, 40),
    ]
    assert sum(data.spec.splits.values()) == MACHINES * SECONDS // 2
    assert windows.group_count == MACHINES
    split_of = {str(group): set(windows.splits[windows.groups == group].tolist()) for group in set(windows.groups)}
    assert all(len(splits) == 1 for splits in split_of.values())
    first = frame.filter(pl.col("machine") == "../m 0")
    own = np.flatnonzero(windows.groups == sorted(split_of)[0])
    np.testing.assert_array_equal(windows.take(own[:1])["acc"][0], first.select("ax", "ay").to_numpy()[:40])
    assert [data.spec.task.labels[label] for label in windows.labels[own][:4]] == ["idle", "idle", "idle", "run"]


def test_a_frame_of_each_sensor_needs_no_columns_by_sensor(data):
    frame = recorded()
    facts = ["machine", "t", "mode"]
    apart = {name: frame.select([*facts, *columns]) for name, columns in SENSORS.items()}
    assert as_dataset(apart, sensors=None).spec == data.spec


def test_samples_without_times_follow_each_other_at_the_rate_and_dates_are_times(data):
    frame, start = recorded(), datetime(2026, 5, 4, 8)
    assert as_dataset(frame.drop("t"), time=None, rate_hz=RATE_HZ).spec == data.spec
    moments = [start + timedelta(seconds=moment) for moment in frame["t"]]
    assert as_dataset(frame.with_columns(t=pl.Series(moments, dtype=pl.Datetime("us")))).spec == data.spec


def test_a_pandas_frame_with_dates_as_its_index_needs_no_time(data):
    pandas = pytest.importorskip("pandas")
    frame = recorded()
    days = {name: 86_400 * number for number, name in enumerate(frame["machine"].unique(maintain_order=True))}
    at = [seconds_ + days[machine] for machine, seconds_ in zip(frame["machine"], frame["t"], strict=True)]
    columns = {name: frame[name].to_list() for name in frame.columns if name != "t"}
    assert as_dataset(pandas.DataFrame(columns, index=pandas.to_datetime(at, unit="s")), time=None).spec == data.spec


@pytest.mark.parametrize(
    ("label", "kind", "labels"),
    [
        (np.tile(["a", "b"], 10), "classification", ("a", "b")),
        (np.tile([3, 7], 10), "classification", ("3", "7")),
        (np.linspace(0, 1, 20), "regression", ("target",)),
        (np.tile([[1, 0], [0, 1]], (10, 1)), "multi_label", ("label 0", "label 1")),
    ],
)
def test_arrays_are_windows(label, kind, labels):
    values = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    made = mm.dataset({"x": values}, label=label, group=np.repeat(np.arange(5), 4), rate_hz=10)
    assert (made.spec.task.kind, made.spec.task.labels) == (kind, labels)
    windows = made.everything()
    assert (len(windows), windows.group_count, made.spec.modality("x").shape) == (20, 5, (16, 1))
    kept = {row.tobytes() for row in windows.take(np.arange(20))["x"]}
    assert kept == {row.tobytes() for row in values}


@pytest.mark.parametrize(
    ("text", "expected"), [("4s", 4.0), ("500ms", 0.5), ("2 min", 120.0), ("1h", 3600.0), ("1.5", 1.5), (3, 3.0)]
)
def test_times_are_read(text, expected):
    assert seconds(text, "window") == expected


BY_NAME = 'sensors={"NAME": ["ax", "ay", ...]}'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": None}, 'window: expected its length, as "4s", got none; give one'),
        ({"window": "4 weeks"}, 'window: expected "4s", "500ms" or seconds, got \'4 weeks\'; correct it'),
        ({"sensors": None}, f"sensors: expected the columns of each sensor, got none; give {BY_NAME}"),
        ({"label": "state"}, "column 'state': expected one of machine, t, mode, ax, ay, gx; correct the name"),
        ({"time": None}, "rate_hz: expected samples per second of 'acc', got none; give a number"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused(options, message):
    assert said(MmkdError, as_dataset, recorded(), **options) == message


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([1], {}, "data: expected a pandas or polars frame, or arrays by sensor, got list; convert it"),
        (
            {"x": np.zeros((4, 8))},
            {"window": None},
            "x: expected windows (N, T, C) of 3 labels, got (4, 8, 1); correct it",
        ),
        ({"x": np.zeros((3, 8))}, {}, "window: not for arrays, which are windows already, got '1s'; leave it out"),
    ],
)
def test_data_that_is_no_frame_is_refused(data, options, message):
    given = {"label": ["a", "b", "c"], "window": "1s", "rate_hz": 1.0, **options}
    assert said(MmkdError, mm.dataset, data, **given) == message


def test_a_teacher_is_the_commands_teacher(data, teacher, tmp_path):
    path = teacher.save(tmp_path / "teacher.ckpt")
    np.testing.assert_array_equal(mm.Teacher.load(path).predict_proba(data), teacher.predict_proba(data))
    assert read_teacher_file(path).sha256 == teacher.file.sha256
    assert teacher.checkpoint.facts.dataset_sha256 == data.sha256
    labels = np.asarray(data.spec.task.labels)[data.split("test").labels]
    answers = teacher.predict(data)
    recalls = [(answers[labels == name] == name).mean() for name in data.spec.task.labels]
    assert teacher.score(data) == pytest.approx(np.mean(recalls))
    arrays = {name: array.astype(np.float64) for name, array in data.split("test").take(np.arange(len(labels))).items()}
    sensors = {name: arrays[name] for name in ("acc", "gyro")}
    np.testing.assert_allclose(teacher.predict_proba(sensors), teacher.predict_proba(data), atol=1e-6)


def test_a_student_is_taught_by_the_teacher_and_runs_on_a_device(data, teacher, student, tmp_path):
    assert student.checkpoint.facts.teachers_sha256 == (teacher.file.sha256,)
    windows = data.split("test")
    arrays = windows.take(np.arange(len(windows)))["acc"]
    probabilities = student.predict_proba(data)
    for given in (arrays, arrays.astype(np.float64), np.ma.masked_invalid(arrays), {"acc": arrays.astype(np.float64)}):
        np.testing.assert_allclose(student.predict_proba(given), probabilities, atol=1e-6)
    with EdgePredictor.open(student.export(tmp_path / "acc.edge")) as predictor:
        answer = predictor.predict(arrays[0])
    np.testing.assert_allclose(answer.probabilities, probabilities[0], atol=1e-4)
    assert mm.Student.load(student.save(tmp_path / "acc.ckpt")).checkpoint.facts == student.checkpoint.facts
    assert read_student(tmp_path / "acc.ckpt").modality.name == "acc"


def test_without_a_teacher_labels_teach(data):
    alone = mm.distill(None, data, sensor="gyro", members=["intervals"], progress=False)
    assert (alone.checkpoint.facts.teachers_sha256, alone.checkpoint.config.members) == ((), ("intervals",))
    assert set(alone.predict(data)) <= {"idle", "run"}


@pytest.fixture(scope="module")
def quiet():
    """The frame without its labels: all of it is normal running."""
    return as_dataset(recorded().drop("mode"), label=None, window="0.5s")


def test_a_frame_without_labels_is_normal_running_whose_student_has_scores(quiet):
    assert quiet.spec.task == TaskSpec(kind="normal", labels=("normal",))
    student = mm.distill(None, quiet, sensor="acc")
    normal, windows = student.checkpoint.facts.normal, quiet.split("test")
    answers = student.predict_proba(quiet)
    assert answers.shape == (len(windows), 2)
    counts = [(1 + sum(one >= score for one in normal.scores)) / (1 + len(normal.scores)) for score in answers[:, 0]]
    np.testing.assert_allclose(answers[:, 1], counts)
    np.testing.assert_array_equal(student.predict(quiet), np.where(answers[:, 1] > normal.level, "normal", ""))
    strange = 9 * windows.take(np.arange(3))["acc"]
    assert student.predict(strange).tolist() == ["", "", ""]
    shown = student._repr_html_()
    assert (
        "<th>Student of acc: normal running</th><th colspan=2>no known fault in validation, so no AUROC</th>" in shown
    )
    assert re.findall(r"<tr><td>([^<]+)</td><td>([^<]+)</td>", shown) == [("false alarms", f"{normal.window_rate:.3f}")]
    assert said(MmkdError, student.score, quiet) == (
        "score: expected windows with known faults, got normal running alone; pass some of each"
    )


def test_what_has_no_effect_on_normal_running_is_refused(quiet, teacher):
    arrays = mm.dataset({"acc": np.zeros((72, 40, 2), np.float32)}, group=np.repeat(np.arange(6), 12), rate_hz=20)
    assert arrays.spec.task == quiet.spec.task
    assert said(MmkdError, mm.distill, None, quiet, sensor="acc", choose=True) == (
        "distill: a student of normal running takes sensor, size and seed alone; leave the rest out"
    )
    assert said(MmkdError, mm.distill, "t.ckpt", quiet, sensor="acc") == (
        "distill: expected a Teacher, several, or None, got str; open a checkpoint with Teacher.load(PATH)"
    )
    assert said(MmkdError, mm.distill, teacher, quiet, sensor="acc").startswith(
        "training: expected labelled classes, labels or numbers to learn from, got"
    )


def test_a_cheaper_sensor_is_written_as_a_text(data, teacher):
    cheap = mm.distill(teacher, data, sensor="acc@10Hz", members=["intervals"], progress=False)
    assert (cheap.checkpoint.modality.title, cheap.checkpoint.modality.shape) == ("acc@10Hz", (20, 2))
    assert len(cheap.predict(data)) == data.spec.splits["test"]


def test_choosing_shows_what_was_tried(data, teacher):
    options = {"sensor": "acc", "choose": True, "steps": 2, "progress": False}
    chosen = mm.distill(teacher, data, members=["transformer", "convolutions"], **options)
    tried = [trial.name for trial in chosen.checkpoint.facts.tried or ()]
    assert "labels only" in tried
    shown = chosen._repr_html_()
    assert re.findall(r"<tr><td>([^<]+)</td>", shown) == tried
    assert shown.count("<meter ") == len(tried)


def test_a_notebook_shows_members_and_an_untrained_teacher(teacher):
    shown = teacher._repr_html_()
    assert shown.startswith(
        "<table><tr><th>Teacher of acc, gyro</th><th colspan=2>balanced_accuracy on validation</th>"
    )
    rows = re.findall(r"<tr><td>([^<]+)</td>", shown)
    assert [row.partition(",")[0] for row in rows[:4]] == ["together", "transformer", "convolutions", "trees"]
    assert "call <code>fit(data)</code>" in mm.Teacher()._repr_html_()


def test_a_model_refuses_what_does_not_fit(data, student):
    assert said(MmkdError, mm.Teacher().predict, data) == (
        "teacher: expected a trained one, got one before fit; call fit(data) first"
    )
    assert said(MmkdError, student.predict, np.zeros((2, 40))) == (
        "acc: expected windows (N, 40, 2), got (2, 40); give such an array"
    )
    assert said(MmkdError, student.score, np.zeros((2, 40, 2))) == (
        "score: expected a dataset or its windows, which have labels, got arrays; pass a dataset"
    )


# What scikit-learn asks and these do not keep.
BROKEN = {"check_methods_subset_invariance": "float32 sums depend on the size of the batch in the last digit"}


def turning(count=48):
    """Windows (N, 32, 3) that turn once or four times, their class, and six machines."""
    rng = np.random.default_rng(0)
    labels, groups = np.tile(["slow", "fast"], count // 2), np.repeat(np.arange(6), count // 6)
    turns = 2 * np.pi * np.where(labels == "slow", 1, 4)[:, None] * np.arange(32) / 32
    values = np.stack([np.sin(turns), np.cos(turns), np.sin(turns + 1)], axis=2)
    return values + 0.1 * rng.standard_normal(values.shape), labels, groups


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")  # scikit-learn's, of its own NaN
@pytest.mark.parametrize("model", [StudentClassifier(steps=15), MultimodalClassifier(size="tiny", steps=5)])
def test_scikit_learns_checks_pass(model):
    results = check_estimator(model, expected_failed_checks=BROKEN, on_fail=None, on_skip=None)
    assert [one["check_name"] for one in results if one["status"] == "failed"] == []
    assert sum(one["status"] == "passed" for one in results) >= 45


def test_a_student_is_validated_on_groups_that_it_never_saw():
    values, labels, groups = turning()
    model = make_pipeline(FunctionTransformer(np.nan_to_num), StudentClassifier(members=["intervals"], rate_hz=32))
    scores = cross_val_score(
        model, values[:, :, 0], labels, groups=groups, cv=GroupKFold(3), params={"studentclassifier__groups": groups}
    )
    assert scores.tolist() == [1.0, 1.0, 1.0]


def test_a_student_takes_several_channels_and_gaps():
    values, labels, groups = turning()
    values[:, 3:6] = np.nan
    model = StudentClassifier(members=["convolutions", "intervals"], rate_hz=32).fit(values, labels, groups)
    assert model.model_.checkpoint.modality.shape == (32, 3)
    assert model.classes_.tolist() == ["fast", "slow"]
    np.testing.assert_allclose(model.predict_proba(values).sum(axis=1), 1, atol=1e-6)
    assert (model.predict(values) == labels).all()


def test_a_teacher_cuts_channels_into_sensors():
    values, labels, groups = turning()
    model = MultimodalClassifier(sensors={"a": [0, 2], "b": [1]}, rate_hz=32, size="tiny", steps=2)
    model.fit(values, labels, groups)
    assert [(one.name, one.shape) for one in model.model_.checkpoint.modalities] == [("a", (32, 2)), ("b", (32, 1))]
    assert (model.predict(values) == labels).mean() > 0.9
