"""A whole training as a process of its own, for tests that kill it.

    python interrupted_training.py DATASET RUN_DIR WEIGHTS [DEVICES]

Distils with every kind of term (CRD with a queue, EDAM) and writes the kept weights to WEIGHTS. With DEVICES it trains
a baseline without dropout on that many CPU processes instead.
"""

import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmkd_models.data import open_dataset
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.batches import BatchSource
from mmkd_models.distillation.learner import DistillLearner, SupervisedLearner
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.contrast import CrdTerm
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.task import TaskTerm
from mmkd_models.losses.term import Weight, constant
from mmkd_models.networks.config import EncoderConfig, StudentConfig, TeacherConfig
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.train_config import TrainConfig, is_first_process
from mmkd_models.training.loop import fit
from mmkd_models.training.predict import scores_of

OUTPUTS = (TaskTerm(weight=constant(0.5)), LogitTerm(weight=constant(1.0)))
INSIDE = (EdamTerm(weight=Weight(start=0.5, end=0.0, until=0.6)), CrdTerm(weight=constant(0.2), width=8, queue=40))
RECIPE = Recipe(terms=(*OUTPUTS, *INSIDE))


def learner(dataset, *, distilled):
    """Gives the same fresh learner every time."""
    torch.manual_seed(0)
    encoder = EncoderConfig(width=16, heads=2, depth=1, most_tokens=8, dropout=0.1 if distilled else 0.0)
    labels = len(dataset.spec.task.labels)
    student = Student(dataset.spec.modality("acc"), labels, StudentConfig(preset="test", encoder=encoder))
    if not distilled:
        return SupervisedLearner(student, modality="acc")
    config = TeacherConfig(preset="test", encoder=encoder, fusion_depth=1)
    return DistillLearner(student, Teacher(dataset.spec.modalities, labels, config), RECIPE, modality="acc")


def slow_step(progress):
    """Says which step is done, and leaves time to be killed in."""
    sys.stdout.write(f"{progress.step}\n")
    sys.stdout.flush()
    time.sleep(0.02)


def train(dataset, run_dir, weights, *, devices):
    """Trains with --resume and writes the weights."""
    torch.set_num_threads(1)
    valid = dataset.split("valid")
    result = fit(
        learner(dataset, distilled=devices is None),
        BatchSource(dataset.split("train"), AugmentConfig(), batch=8, labelled_fraction=0.5, seed=1).at,
        evaluate=lambda network: scores_of(network, valid, modality="acc"),
        config=TrainConfig(steps=14, batch=8, eval_every=4, seed=1, devices=devices or 1),
        run_dir=run_dir,
        resume=True,
        on_step=slow_step,
    )
    if is_first_process():
        save_file(result.state, weights)


if __name__ == "__main__":
    arguments = [Path(argument) for argument in sys.argv[1:4]]
    train(
        open_dataset(arguments[0]), arguments[1], arguments[2], devices=int(sys.argv[4]) if len(sys.argv) > 4 else None
    )
