"""The students, teachers and batches that tests of recipes compare."""

import torch
import torch.nn.functional as F

from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.batches import Batch
from mmkd_models.networks.config import EncoderConfig, StudentConfig, TeacherConfig
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher

ENCODER = EncoderConfig(width=8, heads=2, depth=2, most_tokens=8)
SPECS = [
    ModalitySpec(name="acc", channels=("x", "y"), rate_hz=20.0, samples=40),
    ModalitySpec(name="gyro", channels=("z",), rate_hz=10.0, samples=15),
    ModalitySpec(name="audio", channels=("a",), rate_hz=100.0, samples=200),
]


def student(encoder=ENCODER, classes=3):
    torch.manual_seed(0)
    return Student(SPECS[0], classes, StudentConfig(preset="test", encoder=encoder))


def teacher(count=3, classes=3, *, encoder=ENCODER):
    torch.manual_seed(1)
    return Teacher(SPECS[:count], classes, TeacherConfig(preset="test", encoder=encoder, fusion_depth=2)).eval()


def batch(*, size=4, classes=3, missing=0.1, begins=0.0):
    """Windows of which the fraction before `begins`, and of the rest the fraction `missing`, is not there."""
    generator = torch.Generator().manual_seed(0)
    inputs = {}
    for spec in SPECS:
        values = torch.randn(size, *spec.shape, generator=generator)
        present = (torch.rand(values.shape, generator=generator) >= missing).float()
        present[:, : int(spec.samples * begins)] = 0
        inputs[spec.name] = values * present, present
    targets = F.one_hot(torch.arange(size) % classes, classes).float()
    return Batch(inputs=inputs, targets=targets, labelled=torch.ones(size), index=torch.arange(size))
