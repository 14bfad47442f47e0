"""Students with random weights, their windows, and what judges their artifacts."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch

from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import Normal
from mmkd_edge.frames import mask_missing
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan
from mmkd_export.verify import proof_set
from mmkd_export.verify.answers import answers_from_student, clear_rows
from mmkd_export.verify.gate import GateRule
from mmkd_export.verify.windows import windows_from_checkpoint
from mmkd_models.carried import CarriedWindows
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.writer import write_dataset
from mmkd_models.metrics.scores import DEFAULT_METRIC
from mmkd_models.networks.config import EncoderConfig, StudentConfig, student_members
from mmkd_models.networks.convolutions import fit_convolutions, prune_convolutions
from mmkd_models.networks.student import Student
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import Provenance, StudentCheckpoint, write_student

ACC = ModalitySpec(name="acc", channels=("x", "y", "z"), unit="m/s^2", rate_hz=50.0, samples=64)
TASK = TaskSpec(labels=("rest", "walk", "run", "fall"))
NORMAL = TaskSpec(kind="normal", labels=("normal",))


def make_student(*, modality=ACC, task=TASK, config=None, windows=12, seed=0):
    """A student with random weights, and recorded-looking windows: sines with noise, some samples missing."""
    config = config or StudentConfig(preset="toy", encoder=EncoderConfig(width=16, heads=2, depth=1, spectrum_bands=8))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = Student(modality, len(task.labels), config, kind=task.kind)
    origin = {"dataset": "toy_set", "dataset_sha256": "d" * 64, "licence": "CC0", "teacher_sha256": "7" * 64}
    made = {"training": TrainConfig(), "augment": AugmentConfig(), "versions": {"python": "3.11.0", "torch": "2.13.0"}}
    facts = Provenance(**origin, **made, metric=DEFAULT_METRIC[task.kind], score=0.75, best_step=3)
    carried = None if windows is None else make_windows(modality, task, count=windows, seed=seed)
    own = {"modality": modality, "task": task, "config": config}
    return StudentCheckpoint(**own, facts=facts, state=student.state_dict(), carried=carried)


def export_student(folder, student, *, name="student", **options):
    """Write the student's checkpoint, and export it with a plan of these options."""
    source = folder / f"{name}.ckpt"
    write_student(source, student)
    return export(ExportPlan(source=source, output=source.with_suffix(".edge"), **options))


def make_windows(modality, task, *, count, seed=0):
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


def make_normal_student(*, modality=ACC, windows=240, components=8, groups=24):
    """A student of normal data: random kernels, and the components of the windows that it carries."""
    start = of_features(make_student(modality=modality, windows=windows), "convolutions")
    config = msgspec.structs.replace(start.config, components=components)
    network = Student(modality, 1, config, kind="normal").eval()
    network.load_state_dict({n: v for n, v in start.state.items() if n.startswith("convolutions.")}, strict=False)
    batch = [torch.from_numpy(part) for part in prepare_batch(start.carried.windows, modality)]
    with torch.no_grad():
        z = network(*batch).embedding
        mean, std = z.mean(0), z.std(0).clamp(min=1e-3)
        features, z = network.convolutions, (z - mean) / std
        features.feature_mean += mean * features.feature_std
        features.feature_std *= std
        axes = torch.linalg.eigh(z.double().T @ z.double())[1][:, -components:].float()
        apart = z.square().sum(1) - (z @ axes).square().sum(1)
        network.residual.components.copy_(axes)
        network.residual.scale.copy_(1 / apart.median())
        network.head.weight.zero_()
        network.head.bias.zero_()
        scores = tuple(sorted(network(*batch).logits.exp()[:, 0].tolist()))
    facts = {"windows": windows, "groups": groups, "hours": 1.5, "level": 0.05, "window_rate": 0.054}
    normal = Normal(scores=scores, groups_above=0.25, **facts)
    carried = replace(start.carried, labels=np.zeros(windows, dtype=np.int64))
    facts = msgspec.structs.replace(start.facts, normal=normal, metric="auroc", score=0.5, teacher_sha256=None)
    return replace(start, task=NORMAL, config=config, state=network.state_dict(), carried=carried, facts=facts)


def card_of(path):
    """The model card of a bundle."""
    with Bundle.open(path) as bundle:
        return bundle.read("README.md").decode()


def write_windows(path, student, windows, labels):
    """Write a dataset whose validation split has these windows of the student's modality and task."""
    splits = {"valid": {student.modality.name: windows, "labels": labels}}
    for shift, name in enumerate(("train", "test"), start=1):
        splits[name] = {student.modality.name: student.carried.windows + shift, "labels": student.carried.labels}
    write_dataset(path, name="toy", labels=student.task.labels, modalities=[student.modality], splits=splits)
    return path


def _make_frames(modality, task, *, count, rng):
    """Noise that is brighter or darker with the class; of every third window two frames are missing."""
    labels = np.arange(count) % len(task.labels)
    values = rng.integers(0, 60, (count, *modality.shape)) + 40 * labels[:, None, None, None, None]
    missing = np.zeros((count, modality.samples), dtype=bool)
    missing[1::3, 2:4] = True
    return CarriedWindows(windows=mask_missing(values.astype(np.uint8), missing), labels=as_labels(labels, task))


def as_labels(labels, task):
    """The class numbers, or what another task would have in their place: the last label always on, numbers by 100."""
    if task.kind == "regression":
        return (1000 + 100 * labels + np.arange(len(labels))).astype(np.float32)
    if task.kind == "multi_label":
        return (labels[:, None] <= np.arange(len(task.labels))).astype(np.uint8)
    return labels.astype(np.int64)


def make_proof_set(student):
    """What `export` would judge the student's artifacts by."""
    real = windows_from_checkpoint(student.carried, checkpoint=Path("student.ckpt"))
    answer = partial(answers_from_student, student)
    return proof_set.build_proof_set(
        real,
        modality=student.modality,
        task=student.task,
        answer=answer,
        find_clear=partial(clear_rows, student),
        rule=GateRule(metric=student.facts.metric, max_drop_points=0.5),
    )


def of_features(start, members):
    """As this one, but of these members: features of its carried windows, half of them pruned."""
    values, present = prepare_batch(start.carried.windows, start.modality)
    scale = (values.mean((0, 1)), values.std((0, 1)))
    features = fit_convolutions(start.modality, values, present, scale=scale, seed=0, features=168)
    features = prune_convolutions(features, start.modality, np.arange(0, 168, 2))
    config = msgspec.structs.replace(start.config, members=student_members(members), convolutions=features.config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = Student(start.modality, len(start.task.labels), config).state_dict()
    state |= {f"convolutions.{name}": value for name, value in features.state_dict().items()}
    return replace(start, config=config, state=state)
