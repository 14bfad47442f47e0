"""What the tests of judging share: models under test, their inputs, and checkpoints with random weights."""

from dataclasses import replace

import msgspec
import numpy as np
import torch

from mmkd_documents.judging import JudgedModel
from mmkd_models.evaluation.outcome import GroupConfusion, TestedNetwork
from mmkd_models.evaluation.suites.inputs import ModelUnderTest, SuiteInputs
from mmkd_models.metrics.scores import scores_from_answers
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.checkpoint import write_student, write_teacher


def under_test(name, predict, *, role="labels only", modalities=("acc",)):
    facts = JudgedModel(name=name, path=name, sha256="0" * 64, role=role, modalities=modalities, parameters=1)
    return ModelUnderTest(facts=facts, cautions=(), predict=predict)


def suite_inputs(dataset, *models):
    train, valid, test = (dataset.split(name) for name in ("train", "valid", "test"))
    return SuiteInputs(models=models, windows=test, train=train, calibration=valid)


def write_random_student(path, checkpoint, dataset, spec=None, *, seed=0, carried=None, **facts):
    """Write a student of the dataset's `acc` or another modality, with the settings of the checkpoint."""
    spec = spec or dataset.spec.modality("acc")
    torch.manual_seed(seed)
    facts = msgspec.structs.replace(checkpoint.facts, **{"dataset_sha256": dataset.sha256, "fold": None, **facts})
    own = {"modality": spec, "task": dataset.spec.task, "facts": facts, "carried": carried}
    state = Student(spec, len(dataset.spec.task.labels), checkpoint.config).state_dict()
    write_student(path, replace(checkpoint, **own, state=state))
    return path


def write_random_teacher(path, checkpoint, dataset, modalities=None, *, seed=0, **facts):
    """Write a teacher of these modalities, or of all of the dataset, with the settings of the checkpoint."""
    torch.manual_seed(seed)
    modalities, task = modalities or dataset.spec.modalities, dataset.spec.task
    state = Teacher(modalities, len(task.labels), checkpoint.config).state_dict()
    facts = msgspec.structs.replace(checkpoint.facts, **facts)
    write_teacher(path, replace(checkpoint, modalities=modalities, task=task, facts=facts, state=state))
    return path


def class_outcome(truth, answers, groups, classes=2):
    """Answers of classes to windows of these groups."""
    t, a, g = np.array(truth), np.array(answers), np.array(groups)
    return TestedNetwork(
        class_scores=scores_from_answers(t, a, classes),
        confusions=tuple(
            GroupConfusion(group=group, confusion=scores_from_answers(t[g == group], a[g == group], classes).confusion)
            for group in np.unique(g).tolist()
        ),
    )
