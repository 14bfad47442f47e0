"""What the tests of studies share: short trainings of the smallest networks on a dataset of ten machines."""

import msgspec

from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.folds import Labelled
from mmkd_models.distillation.recipe import shipped_methods
from mmkd_models.experiments.plan import Conditions, ExperimentPlan, Space, TeacherChoice
from mmkd_models.train_config import TrainConfig

TRAIN = TrainConfig(steps=6, batch=8, eval_every=3)
TEACHER = TeacherChoice(modalities=("acc", "gyro"), preset="tiny")


def conditions(dataset, **changed):
    """Half of the labels of `acc`, six steps."""
    found = Conditions(
        dataset_sha256=dataset.sha256,
        modality="acc",
        labelled=Labelled(fraction=0.5),
        teacher_train=TRAIN,
        student_train=TRAIN,
        augment=AugmentConfig(),
    )
    return msgspec.structs.replace(found, **changed)


def methods(*names):
    """Shipped methods by name."""
    known = {method.name: method for method in shipped_methods()}
    return tuple(known[name] for name in names)


def space(**changed):
    """Labels only and logits, one teacher, one size, two learning rates."""
    found = Space(
        teachers=(TEACHER,), students=("tiny",), methods=methods("none", "logit"), learning_rates=(1e-3, 1e-2)
    )
    return msgspec.structs.replace(found, **changed)


def grid(dataset, **changed):
    """A grid on two seeds, with one rival."""
    found = ExperimentPlan(
        conditions=conditions(dataset), sensors=("acc",), space=space(), seeds=(0, 1), rivals=("extra_trees",)
    )
    return msgspec.structs.replace(found, **changed)


def checkpoints(out):
    """Every checkpoint of trials and teachers, by its path in the study's folder."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("t*/*/*.ckpt"))}


def starts(out):
    """How often the training of each trial and teacher was started: every start opens a log of its own."""
    folders = sorted(path.parent for path in out.glob("t*/*/run"))
    return {folder.name: len(list((folder / "run").glob("events.*"))) for folder in folders}
