"""`mmkd-demo` on several labels at once and on numbers: folds, the runtime's answers, the document and the page."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest

from mmkd_edge import EdgePredictor
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.commands.demo import show_demo
from mmkd_export.demo.chain import measure
from mmkd_models.data import write_dataset
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.labelled import Labelled
from mmkd_models.distillation.recipe import default_recipe
from mmkd_models.experiments.comparison import Comparison, ComparisonConfig, FoldResult, compare
from mmkd_models.experiments.summary import demo_document
from mmkd_models.experiments.workers import Workers
from mmkd_models.metrics.scores import DEFAULT_METRIC
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import read_student, read_teacher
from mmkd_models.training.predict import logits_of
from mmkd_report.schema.demo import DemoBenchmark, LatencyPercentiles
from mmkd_report.schema.study import PairLatency
from tests.report.rendered import read_demo

TASKS = {
    "multi_label": TaskSpec(kind="multi_label", labels=("fast", "high"), threshold=0.4),
    "regression": TaskSpec(kind="regression", labels=("speed",), unit="rpm", range=(900.0, 1500.0)),
}
KINDS = pytest.mark.parametrize("kind", list(TASKS))
pytestmark = pytest.mark.slow  # studies, exports and pages of these kinds have fast tests of their own
TIMES = LatencyPercentiles(p50=0.2, p90=0.3, p99=0.4)


def split_of(groups, kind):
    """Six windows of each group, too short for MiniRocket: `acc` swings with the speed, `gyro` lies high or low."""
    rng = np.random.default_rng(groups.start)
    owners = np.repeat(np.array(groups), 6)
    hertz, high = rng.uniform(1, 5, len(owners)), np.arange(len(owners)) % 2
    phase = rng.uniform(0, 1, (len(owners), 1, 2))
    acc = np.sin(2 * np.pi * hertz[:, None, None] * np.arange(8)[None, :, None] / 10 + phase)
    gyro = (2.0 * high - 1)[:, None, None] + rng.normal(0, 0.5, (len(owners), 8, 1))
    labels = 900 + 100 * hertz if kind == "regression" else np.stack([hertz > 3, high], axis=1)
    named = [f"line {owner}" for owner in owners] if kind == "multi_label" else owners
    return {"acc": acc, "gyro": gyro, "labels": labels, "groups": named}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A finished demo of one fold whose latencies were not measured."""

    comparison: Comparison
    fold: FoldResult
    document: dict[str, Any]


def measured(comparison, fold):
    times = {"p50": 0.2, "p90": 0.3, "p99": 0.4}
    return measure(
        demo_document(comparison.dataset.spec, comparison.dataset.sha256, [fold]),
        comparison,
        pair=lambda teacher, student: PairLatency(student_ms=times, teacher_ms=times, ratio=1.0),
        bundle=lambda path, reference: (DemoBenchmark(latency_ms=TIMES), {"cpu": "a test"}),
        say=lambda line: None,
    )


def compared(kind, path):
    dataset = write_dataset(
        path / "data",
        name="rig",
        labels=TASKS[kind],
        modalities=[
            ModalitySpec(name="acc", channels=("x", "y"), rate_hz=10.0, samples=8),
            ModalitySpec(name="gyro", channels=("z",), rate_hz=10.0, samples=8),
        ],
        splits={
            "train": split_of(range(6), kind),
            "valid": split_of(range(6, 8), kind),
            "test": split_of(range(8, 10), kind),
        },
    )
    train = TrainConfig(steps=8, batch=16, eval_every=4, metric=DEFAULT_METRIC[TASKS[kind].kind])
    config = ComparisonConfig(
        labelled=Labelled(fraction=0.5),
        modalities=("acc", "gyro") if kind == "multi_label" else ("gyro",),
        teacher="tiny",
        student="tiny",
        teacher_train=train,
        student_train=train,
        baseline_learning_rates=(3e-3,),
        augment=AugmentConfig(),
        recipe=default_recipe(dataset.spec.task),
    )
    comparison = Comparison(dataset=dataset, config=config, out=path)
    with Workers(1) as workers:
        (fold,) = compare(comparison, [0], workers)
    document = msgspec.structs.replace(measured(comparison, fold), report="report.html")
    return Shown(comparison=comparison, fold=fold, document=json.loads(msgspec.json.encode(document)))


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Finished demos by kind, each made when a test first asks for it."""

    class Made(dict[str, Shown]):
        def __missing__(self, kind):
            return self.setdefault(kind, compared(kind, tmp_path_factory.mktemp(kind)))

    return Made()


def figure_of(kind, truth, logits):
    """Macro-F1, or the mean absolute error, by plain loops."""
    if kind == "regression":
        return sum(abs(float(answer) - float(value)) for (answer,), value in zip(logits, truth, strict=True)) / len(
            truth
        )
    scores = []
    for label in range(2):
        on, said = truth[:, label] == 1, logits[:, label] >= np.log(0.4 / 0.6)
        right, wrong = int((on & said).sum()), int((on != said).sum())
        scores += [2 * right / (2 * right + wrong)] if right + wrong else []
    return sum(scores) / len(scores)


@KINDS
def test_figures_and_gains_are_those_of_the_kept_networks(shown, kind):
    one, name = shown[kind], "mae" if kind == "regression" else "macro_f1"
    test = one.comparison.folder.fold(0).test
    gyro = test.with_modalities(("gyro",))
    paths = {"baseline": one.comparison.baseline_path("gyro", 0), "student": one.comparison.student_path("gyro", 0)}
    students = {who: read_student(path).network() for who, path in paths.items()}
    logits = {who: logits_of(network, gyro, modality="gyro") for who, network in students.items()}
    expected = {who: figure_of(kind, test.labels, answers) for who, answers in logits.items()}
    entry = one.document["students"]["gyro"]
    for who, figure in expected.items():
        assert entry[who][name]["mean"] == pytest.approx(figure, rel=1e-5)
        assert entry["missing"][who][0]["mean"] == pytest.approx(figure, rel=1e-5)  # nothing is missing yet
    scale = -1 if kind == "regression" else 100
    gain = entry["gain_points"]
    how = "baseline's error minus student's" if kind == "regression" else "student minus baseline"
    assert gain["method"].startswith(f"mean over seeds of {how}; an interval needs 5 groups or more")
    assert gain["mean"] == pytest.approx(scale * (expected["student"] - expected["baseline"]), rel=1e-3, abs=1e-4)
    teacher = read_teacher(one.comparison.teacher_path(0)).network()
    whole = figure_of(kind, test.labels, logits_of(teacher, test, modality=None))
    assert one.document["teacher"][name]["mean"] == pytest.approx(whole, rel=1e-5)
    assert one.document["teacher"]["missing"][0][name]["mean"] == pytest.approx(whole, rel=1e-5)
    assert entry["mini_rocket"]["reason"].startswith("MiniRocket refused these windows: ")


def test_without_groups_the_title_says_what_the_windows_are(shown):
    one, said = shown["regression"], io.StringIO()
    judged_on = "windows of the dataset's own test split; no groups: may share people and machines with training"
    split = {"by": "own split", "judged_on": judged_on, "resampled": "blocks of 9 consecutive windows"}
    with redirect_stdout(said):
        show_demo(read_demo(one.document | {"split": split}), out=one.comparison.out, dataset=one.comparison.dataset)
    title = " ".join(said.getvalue().partition("┏")[0].split())
    assert title == f"rig: mean absolute error in rpm on {judged_on}, 50% labelled"


@KINDS
def test_the_bundle_is_of_the_student_that_validates_best(shown, kind):
    students = shown[kind].document["students"]
    scores = {name: entry["student"]["valid_score"]["mean"] for name, entry in students.items()}
    with EdgePredictor.open(shown[kind].comparison.out / "student.edge") as predictor:
        assert predictor.task == TASKS[kind]
        assert scores[predictor.modality.name] == max(scores.values())
