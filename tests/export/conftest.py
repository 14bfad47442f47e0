from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mmkd_edge.frames import mask_missing
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.graph.onnx_from_student import onnx_from_student
from mmkd_export.pipeline import ExportResult, export
from mmkd_export.plan import ExportPlan, export_plan
from mmkd_export.verify import proof_set
from mmkd_export.verify.answers import answers_from_student
from mmkd_export.verify.proof_set import ProofSet
from mmkd_export.verify.windows import windows_from_checkpoint
from mmkd_models.carried import CarriedWindows
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.labelled import Labelled
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.experiments.comparison import ComparisonConfig
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.term import constant
from mmkd_models.metrics.scores import default_metric
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from mmkd_models.networks.student import Student
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import Provenance, StudentCheckpoint, write_student

ACC = ModalitySpec(name="acc", channels=("x", "y", "z"), unit="m/s^2", rate_hz=50.0, samples=64)
TASK = TaskSpec(labels=("rest", "walk", "run", "fall"))


@pytest.fixture(scope="session", autouse=True)
def _quick_exports(one_operator_table: None) -> None: ...


def make_student(
    *,
    modality: ModalitySpec = ACC,
    task: TaskSpec = TASK,
    config: StudentConfig | None = None,
    windows: int | None = 12,
    seed: int = 0,
) -> StudentCheckpoint:
    """A student with random weights, and recorded-looking windows: sines with noise, some samples missing."""
    config = config or StudentConfig(preset="toy", encoder=EncoderConfig(width=16, heads=2, depth=1, spectrum_bands=8))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = Student(modality, len(task.labels), config, kind=task.kind)
    return StudentCheckpoint(
        modality=modality,
        task=task,
        config=config,
        facts=Provenance(
            dataset="toy_set",
            dataset_sha256="d" * 64,
            licence="CC0",
            metric=default_metric(task.kind),
            score=0.75,
            best_step=3,
            teacher_sha256="7" * 64,
            training=TrainConfig(),
            augment=AugmentConfig(),
            versions={"python": "3.11.0", "torch": "2.13.0"},
        ),
        state=student.state_dict(),
        carried=None if windows is None else make_windows(modality, task, count=windows, seed=seed),
    )


def make_windows(modality: ModalitySpec, task: TaskSpec, *, count: int, seed: int = 0) -> CarriedWindows:
    rng = np.random.default_rng(seed)
    if modality.kind == "video":
        return _make_frames(modality, task, count=count, rng=rng)
    samples, channels = modality.shape
    labels = np.arange(count) % (4 if task.kind == "regression" else len(task.labels))
    time_s = np.arange(samples)[None, :, None] / modality.rate_hz
    waves = np.sin(2 * np.pi * (1 + labels[:, None, None]) * time_s + np.arange(channels))
    windows = (waves + 0.3 * rng.standard_normal((count, samples, channels))).astype(np.float32)
    windows[1::3, 5:9, 0] = np.nan
    return CarriedWindows(windows=windows, labels=as_labels(labels, task))


def _make_frames(modality: ModalitySpec, task: TaskSpec, *, count: int, rng: np.random.Generator) -> CarriedWindows:
    """Noise that is brighter or darker with the class; of every third window two frames are missing."""
    labels = np.arange(count) % len(task.labels)
    values = rng.integers(0, 60, (count, *modality.shape)) + 40 * labels[:, None, None, None, None]
    missing = np.zeros((count, modality.samples), dtype=bool)
    missing[1::3, 2:4] = True
    return CarriedWindows(windows=mask_missing(values.astype(np.uint8), missing), labels=as_labels(labels, task))


def as_labels(labels: NDArray[np.int64], task: TaskSpec) -> NDArray[np.generic]:
    """The class numbers, or what another task would have in their place: the last label always on, numbers by 100."""
    if task.kind == "regression":
        return (1000 + 100 * labels + np.arange(len(labels))).astype(np.float32)
    if task.kind == "multi_label":
        return (labels[:, None] <= np.arange(len(task.labels))).astype(np.uint8)
    return labels.astype(np.int64)


@pytest.fixture(scope="session")
def build_student() -> Callable[..., StudentCheckpoint]:
    return make_student


@pytest.fixture(scope="session")
def build_windows() -> Callable[..., CarriedWindows]:
    return make_windows


def make_proof_set(student: StudentCheckpoint) -> ProofSet:
    """What `export` would judge the student's artifacts by."""
    real = windows_from_checkpoint(student.carried, checkpoint=Path("student.ckpt"))
    answer = partial(answers_from_student, student)
    return proof_set.build_proof_set(real, modality=student.modality, task=student.task, answer=answer)


@pytest.fixture(scope="session")
def build_proof_set() -> Callable[[StudentCheckpoint], ProofSet]:
    return make_proof_set


@pytest.fixture(scope="session")
def student() -> StudentCheckpoint:
    return make_student()


@pytest.fixture(scope="session")
def student_graph(student: StudentCheckpoint) -> bytes:
    return onnx_from_student(student)


@pytest.fixture(scope="session")
def student_file(student: StudentCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "student.ckpt"
    write_student(path, student)
    return path


@pytest.fixture(scope="session")
def exported(student_file: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    output = tmp_path_factory.mktemp("bundle") / "student.edge"
    return export(export_plan(student_file, output=output))


@pytest.fixture(scope="session")
def mixed(student_file: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """A bundle for a GPU, so that nothing is timed: fp32, fp16 and int8."""
    output = tmp_path_factory.mktemp("mixed") / "student.edge"
    return export(
        ExportPlan(
            source=student_file, output=output, accept_unjudged=True, precisions=("fp16", "int8"), platform="jp6.2"
        )
    )


@pytest.fixture(scope="session")
def demo_config() -> ComparisonConfig:
    """A comparison of the shipped dataset's accelerometer that trains for two steps."""
    train = TrainConfig(steps=2, batch=8)
    return ComparisonConfig(
        labelled=Labelled(share=0.5),
        modalities=("acc",),
        teacher="tiny",
        student="tiny",
        teacher_train=train,
        student_train=train,
        baseline_learning_rates=(1e-3,),
        augment=AugmentConfig(),
        recipe=Recipe(terms=(LogitTerm(weight=constant(1.0)),)),
    )
