"""What the tests of the training side share: one thread, small datasets, checkpoints and results, a short training."""

from dataclasses import replace
from functools import partial

import msgspec
import numpy as np
import pytest
import torch

from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.carried import CarriedWindows
from mmkd_models.data import open_dataset, write_dataset
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.batches import BatchSource
from mmkd_models.data.folds import Labelled, with_visible_labels
from mmkd_models.data.windows import OF_GROUPS
from mmkd_models.distillation.learner import DistillLearner
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.evaluation.outcome import GroupConfusion, TestedNetwork
from mmkd_models.experiments.experiment import FoldFacts, ResultTable
from mmkd_models.experiments.folder import RunResult
from mmkd_models.experiments.plan import Conditions, TeacherChoice, comparison_plan
from mmkd_models.experiments.runs import Judged
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.contrast import CrdTerm
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.task import TaskTerm
from mmkd_models.losses.term import constant
from mmkd_models.metrics.scores import Scores
from mmkd_models.networks.config import EncoderConfig, StudentConfig, TeacherConfig
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.train_config import TrainConfig, Validation
from mmkd_models.training.checkpoint import Provenance, StudentCheckpoint, TeacherCheckpoint
from mmkd_models.training.inputs import TrainingData
from mmkd_models.training.loop import fit
from mmkd_models.training.predict import scores_of

ENCODER = EncoderConfig(width=8, heads=2, depth=1, most_tokens=8)
STUDENT = StudentConfig(preset="test", encoder=ENCODER)
TEACHER = TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=1)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Results are bit-equal for one thread count only, and small tensors are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def few_trees():
    """Grow 20 trees for each member, rival and probe: hundreds take most of the seconds of a short training."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("training.committee", "training.closed_form", "data_report.probes"):
            patch.setattr(f"mmkd_models.{module}._TREES", 20)
        yield


@pytest.fixture
def refusal():
    """Returns the whole message of the error that a call raises."""

    def _message(error, function, *given, **more):
        with pytest.raises(error) as raised:
            function(*given, **more)
        return str(raised.value)

    return _message


def _split(count, seed):
    """Two classes: `acc` swings at another rate, `gyro` is a constant with noise; a tenth of each is missing."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    time = np.arange(40) / 20.0
    acc = np.sin(2 * np.pi * (1 + 3 * labels)[:, None, None] * time[None, :, None] + rng.uniform(0, 6, (count, 1, 2)))
    gyro = np.where(labels, 1.0, -1.0)[:, None, None] + rng.normal(0, 0.5, (count, 20, 1))
    acc[rng.uniform(size=acc.shape) < 0.1] = np.nan
    gyro[rng.uniform(size=gyro.shape) < 0.1] = np.nan
    return {"acc": acc, "gyro": gyro, "labels": labels}


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """32 windows to train on, 16 to validate, 8 to test; acc (40, 2) at 20 Hz, gyro (20, 1) at 10 Hz."""
    path = tmp_path_factory.mktemp("data") / "two"
    return write_dataset(
        path,
        name="two",
        labels=["slow", "fast"],
        modalities=[
            ModalitySpec(name="acc", channels=("x", "y"), rate_hz=20.0, samples=40),
            ModalitySpec(name="gyro", channels=("z",), rate_hz=10.0, samples=20),
        ],
        splits={"train": _split(32, 0), "valid": _split(16, 1), "test": _split(8, 2)},
    )


def data_of(dataset, *, fraction=1.0):
    """What a training gets of a dataset, with a part of its labels."""
    train = with_visible_labels(dataset.split("train"), Labelled(fraction=fraction), seed=0)
    return TrainingData(train=train, valid=dataset.split("valid"), sha256=dataset.sha256)


_FACTS = Provenance(
    dataset="two",
    dataset_sha256="ab" * 32,
    licence="BSD-3-Clause",
    metric="balanced_accuracy",
    score=0.75,
    best_step=4,
    teacher_sha256="cd" * 32,
    training=TrainConfig(steps=6),
    augment=AugmentConfig(noise=0.1),
    recipe=Recipe(terms=(LogitTerm(weight=constant(1.0)), CrdTerm(weight=constant(0.2)))),
    curve=(Validation(step=4, train_loss=0.5, valid_score=0.75, terms={"logit": 0.5}),),
    versions={"python": "3.11"},
)
_TASK = TaskSpec(labels=("slow", "fast"))
_ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=20.0, samples=40, range=(-8.0, 8.0))
_GYRO = ModalitySpec(name="gyro", channels=("z",), rate_hz=10.0, samples=20, normalise="per_group")


@pytest.fixture(scope="session")
def student_checkpoint():
    """A student of acc (40, 2) with weights of seed 0 and three carried windows."""
    windows = np.random.default_rng(0).normal(size=(3, 40, 2)).astype(np.float32)
    windows[1, 5:9] = np.nan
    torch.manual_seed(0)
    parts = {"modality": _ACC, "task": _TASK, "config": STUDENT, "facts": _FACTS}
    carried = CarriedWindows(windows=windows, labels=np.array([0, 1, 1]))
    return StudentCheckpoint(**parts, state=Student(_ACC, 2, STUDENT).state_dict(), carried=carried)


@pytest.fixture(scope="session")
def teacher_checkpoint():
    """A teacher of acc (40, 2) and gyro (20, 1) with weights of seed 1."""
    torch.manual_seed(1)
    state = Teacher((_ACC, _GYRO), 2, TEACHER).state_dict()
    return TeacherCheckpoint(modalities=(_ACC, _GYRO), task=_TASK, config=TEACHER, facts=_FACTS, state=state)


@pytest.fixture(scope="session")
def short():
    """Six steps, validated at 2, 4 and 6."""
    return TrainConfig(steps=6, batch=8, eval_every=2, seed=5)


@pytest.fixture(scope="session")
def distiller(dataset):
    """Gives a fresh learner of `acc` with every kind of term, the same each time."""
    outputs = (TaskTerm(weight=constant(1.0)), LogitTerm(weight=constant(1.0)))
    inside = (EdamTerm(weight=constant(0.5)), CrdTerm(weight=constant(0.1), queue=20, width=4))
    recipe = Recipe(terms=(*outputs, *inside))

    def make(*, width=8):
        torch.manual_seed(0)
        config = msgspec.structs.replace(STUDENT, encoder=msgspec.structs.replace(ENCODER, width=width))
        student = Student(dataset.spec.modality("acc"), 2, config)
        return DistillLearner(student, Teacher(dataset.spec.modalities, 2, TEACHER), recipe, modality="acc")

    return make


@pytest.fixture(scope="session")
def trained(dataset, short, distiller):
    """Trains: by default a fresh distiller for six steps, judged on the validation windows."""

    def train(config=short, *, learner=None, **options):
        source = BatchSource(dataset.split("train"), AugmentConfig(), batch=8, labelled_fraction=0.5, seed=config.seed)
        options.setdefault("evaluate", lambda network: scores_of(network, dataset.split("valid"), modality="acc"))
        return fit(distiller() if learner is None else learner, source.at, config=config, **options)

    return train


def grouped_split(groups):
    """Six windows of each group, three classes: `acc` swings at their rates, `gyro` lies at their heights; some NaN."""
    rng = np.random.default_rng(groups.start)
    owners = np.repeat(np.array(groups), 6)
    labels = np.arange(len(owners)) % 3
    time = np.arange(40) / 20.0
    phase = rng.uniform(0, 6, (len(owners), 1, 2))
    acc = np.sin(2 * np.pi * (1 + 2 * labels)[:, None, None] * time[None, :, None] + phase)
    gyro = (labels - 1.0)[:, None, None] + rng.normal(0, 0.5, (len(owners), 20, 1))
    acc[rng.uniform(size=acc.shape) < 0.05] = np.nan
    gyro[1::7, 3:8] = np.nan
    return {"acc": acc, "gyro": gyro, "labels": labels, "groups": owners}


SENSORS = (
    ModalitySpec(name="acc", channels=("x", "y"), rate_hz=20.0, samples=40, unit="g"),
    ModalitySpec(name="gyro", channels=("z",), rate_hz=10.0, samples=20),
)


@pytest.fixture(scope="session")
def machines(tmp_path_factory):
    """Ten machines with six windows each: 36 to train on, 12 to validate, 12 to test; acc (40, 2), gyro (20, 1)."""
    parts = {"train": range(6), "valid": range(6, 8), "test": range(8, 10)}
    return write_dataset(
        tmp_path_factory.mktemp("data") / "machines",
        name="machines",
        labels=["idle", "ok", "worn"],
        modalities=SENSORS,
        splits={split: grouped_split(groups) for split, groups in parts.items()},
        source="a test rig",
        licence="CC0-1.0",
    )


@pytest.fixture(scope="session")
def sites(tmp_path_factory):
    """Fifteen machines of ten windows at three sites, one after the other in time; a class raises what `acc` swings."""
    return write_dataset(
        tmp_path_factory.mktemp("data") / "sites",
        name="sites",
        labels=["idle", "ok", "worn"],
        modalities=SENSORS,
        splits={"train": _site_split(range(9)), "valid": _site_split(range(9, 12)), "test": _site_split(range(12, 15))},
    )


def leaky_copy(dataset, path):
    """Write the dataset without groups, with a window of test whose `acc` continues one of train."""
    splits = {}
    for split in ("train", "valid", "test"):
        windows = dataset.split(split)
        splits[split] = {**windows.take(np.arange(len(windows))), "labels": windows.labels}
    spec = dataset.spec
    write_dataset(path, name=path.name, labels=spec.task, modalities=spec.modalities, splits=splits)
    acc = np.load(path / "test" / "acc.npy")
    acc[2, :25] = splits["train"]["acc"][7, 15:]
    np.save(path / "test" / "acc.npy", acc)
    return open_dataset(path)


def _site_split(groups):
    rng = np.random.default_rng(groups.start)
    owners = np.repeat(np.array(groups), 10)
    labels = np.arange(len(owners)) % 3
    high = (1.0 + labels)[:, None, None]
    return {
        "acc": high * rng.normal(size=(len(owners), 40, 2)),
        "gyro": high + rng.normal(size=(len(owners), 20, 1)),
        "labels": labels,
        "groups": owners,
        "times": 1.7e9 + 60.0 * (10 * groups.start + np.arange(len(owners))),
        "metadata": {
            "site": np.array(["east", "north", "south"])[owners % 3],
            "single": np.zeros(len(owners), dtype=np.int64),
        },
    }


def _rig_split(groups, kind):
    """`acc` swings at 1 to 5 Hz, which a speed of 1000 to 1400 rpm tells; `gyro` lies high or low."""
    rng = np.random.default_rng(groups.start)
    owners = np.repeat(np.array(groups), 8)
    hertz, high = rng.uniform(1, 5, len(owners)), np.arange(len(owners)) % 2
    time = np.arange(40) / 20.0
    acc = np.sin(2 * np.pi * hertz[:, None, None] * time[None, :, None] + rng.uniform(0, 6, (len(owners), 1, 2)))
    gyro = (2.0 * high - 1)[:, None, None] + rng.normal(0, 0.5, (len(owners), 20, 1))
    acc[rng.uniform(size=acc.shape) < 0.05] = np.nan
    labels = 900 + 100 * hertz if kind == "regression" else np.stack([hertz > 3, high], axis=1)
    return {"acc": acc, "gyro": gyro, "labels": labels, "groups": owners}


STATES = TaskSpec(kind="multi_label", labels=("fast", "high"))
SPEED = TaskSpec(kind="regression", labels=("speed",), unit="rpm")


@pytest.fixture(scope="session")
def rigs(tmp_path_factory):
    """By kind: 14 machines; 64 windows to train on, 24 to validate, 24 to test."""
    path = tmp_path_factory.mktemp("kinds")
    parts = {"train": range(8), "valid": range(8, 11), "test": range(11, 14)}
    return {
        task.kind: write_dataset(
            path / task.kind,
            name="rig",
            labels=task,
            modalities=[msgspec.structs.replace(spec, unit="") for spec in SENSORS],
            splits={split: _rig_split(groups, task.kind) for split, groups in parts.items()},
        )
        for task in (STATES, SPEED)
    }


def tested_network(of_groups):
    """So many right answers of so many windows of each group, all of the first of two classes."""
    correct, total = (sum(counts) for counts in zip(*of_groups.values(), strict=True))
    fraction, confusion = correct / total, ((correct, total - correct), (0, 0))
    means = {"balanced_accuracy": fraction / 2, "macro_f1": fraction / 4}
    return TestedNetwork(
        class_scores=Scores(accuracy=fraction, **means, confusion=confusion),
        confusions=tuple(
            GroupConfusion(group=group, confusion=((right, windows - right), (0, 0)))
            for group, (right, windows) in of_groups.items()
        ),
    )


@pytest.fixture(scope="session")
def fold_result(machines):
    """Gives the table of a fold from right answers by group: of the teacher, and by sensor of student and baseline."""

    def make(*, seed, windows, teacher, students, mini_rocket=None):
        def judged(right, missing, parameters=50):
            figures = {"score": 0.5, "learning_rate": 1e-3, "parameters": parameters}
            result = RunResult(conditions=CONDITIONS, seed=seed, **figures)
            test = tested_network({group: (right[group], windows[group]) for group in sorted(windows)})
            return Judged(result=result, test=test, missing=missing)

        rival = replace(judged(dict.fromkeys(windows, 0), {}), test=tested_network({1: (1, 2)}))
        plan = comparison_of(sensors=tuple(students), seeds=(seed,))
        return ResultTable(
            plan=plan,
            spec=machines.spec,
            sha256="ab" * 32,
            folds={
                seed: FoldFacts(
                    windows={"train": 30, "labelled": 3, "valid": 10, "test": sum(windows.values())},
                    groups=9,
                    train_groups=7,
                    split=OF_GROUPS,
                )
            },
            teachers={
                plan.teacher.name: {seed: judged(teacher, {"acc+gyro": 0.75, "acc": 0.5 * seed}, parameters=500)}
            },
            students={
                name: {
                    plan.student: {seed: judged(student, {"0": 0.75, "0.5": 0.25 * seed})},
                    plan.baseline: {seed: judged(baseline, {"0": 0.5, "0.5": 0.0})},
                }
                for name, (student, baseline) in students.items()
            },
            rivals={
                name: {"extra_trees": {seed: rival}, "mini_rocket": {seed: mini_rocket or rival}} for name in students
            },
        )

    return make


def joined(first, second):
    """The table of both folds."""

    def merged(one, other):
        return {key: one[key] | other[key] for key in one}

    return replace(
        first,
        plan=msgspec.structs.replace(first.plan, seeds=(*first.folds, *second.folds)),
        folds={**first.folds, **second.folds},
        teachers=merged(first.teachers, second.teachers),
        students={name: merged(first.students[name], second.students[name]) for name in first.students},
        rivals={name: merged(first.rivals[name], second.rivals[name]) for name in first.rivals},
    )


CONDITIONS = Conditions(
    dataset_sha256="ab" * 32,
    modality="acc",
    labelled=Labelled(fraction=0.5),
    teacher_train=TrainConfig(),
    student_train=TrainConfig(),
    augment=AugmentConfig(),
)


def comparison_of(**changed):
    """Half of the labels, six steps, the smallest networks."""
    train = TrainConfig(steps=6, batch=8, eval_every=3)
    trains = {"teacher_train": train, "student_train": train}
    same = {**trains, "augment": AugmentConfig(), "labelled": Labelled(fraction=0.5)}
    own = {name: changed.pop(name) for name in Conditions.__struct_fields__ if name in changed}
    names = {"modalities": changed.pop("modalities", ("acc", "gyro")), "committee": changed.pop("committee", ())}
    teacher = TeacherChoice(preset=changed.pop("teacher", "tiny"), **names)
    sizes = {"sensors": ("acc",), "student": "tiny", "baseline_learning_rates": (1e-3, 1e-2), "seeds": (1,)}
    recipe = {"recipe": Recipe(terms=(LogitTerm(weight=constant(1.0)),)), "teacher": teacher}
    return comparison_plan(Conditions(**{**same, **own}), **{**sizes, **recipe, **changed})


@pytest.fixture(scope="session")
def comparison():
    return comparison_of


@pytest.fixture
def run(ran):
    """Run `mmkd-evaluate` with arguments in this process, and return exit code, stdout and stderr."""
    from mmkd_app.commands.evaluate import main

    return partial(ran, main, "mmkd-evaluate")
