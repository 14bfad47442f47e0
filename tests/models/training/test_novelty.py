"""What training saw: scores against a plain loop, their scale, and what a file keeps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmkd_edge.errors import CheckpointError
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.networks.config import EncoderConfig, StudentConfig, student_members
from mmkd_models.novelty import MAX_CENTRES, NoveltyScore, seen_from, seen_tensors
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import read_student, write_student
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.references import embeddings_summary
from mmkd_models.training.students import train_student

WIDTH = 6
RUN = TrainingRun(train=TrainConfig(steps=2, batch=8), augment=AugmentConfig())


def config_of(members):
    return StudentConfig(
        preset="tiny", encoder=EncoderConfig(width=8, heads=2, depth=1, most_tokens=8), members=student_members(members)
    )


def data_of(dataset):
    return TrainingData(train=dataset.split("train"), valid=dataset.split("valid"), sha256="d" * 64)


def embeddings(count, *, seed=0):
    """Two clouds that are far apart, in features of unlike scales."""
    rng = np.random.default_rng(seed)
    cloud = rng.normal(size=(count, WIDTH)) + 20.0 * (np.arange(count) % 2)[:, None]
    return (cloud * np.logspace(-2, 2, WIDTH)).astype(np.float32)


def test_the_score_is_the_square_distance_to_the_nearest_of_few_centres_and_never_below_zero():
    seen, rows = embeddings_summary(embeddings(200), embeddings(50, seed=1)), embeddings(7, seed=2)
    scaled = rows * seen.scale.numpy() + seen.shift.numpy()
    expected = [min(float(((x - c) ** 2).sum()) for c in seen.centres.numpy()) for x in scaled]
    found = NoveltyScore(seen)(torch.from_numpy(rows))
    assert found.shape == (7, 1)
    np.testing.assert_allclose(found[:, 0].numpy(), expected, rtol=1e-3, atol=1e-3)  # float32, squares of up to 100
    seen = embeddings_summary(embeddings(3000), embeddings(99, seed=1))
    assert len(seen.centres) <= MAX_CENTRES
    assert len(seen.scores) == 99
    assert bool((seen.scores.diff() >= 0).all())
    rows = embeddings(100)
    rows[:, 2] = 5.0
    seen = embeddings_summary(rows, rows)
    assert all(bool(torch.isfinite(one).all()) for one in seen_tensors(seen).values())
    seen = embeddings_summary(embeddings(100), embeddings(50, seed=1))
    back = seen_from(seen_tensors(seen), width=WIDTH, path=Path("a.ckpt"))
    assert all(torch.equal(getattr(back, name), tensor) for name, tensor in seen_tensors(seen).items())
    seen = embeddings_summary(embeddings(100), embeddings(50, seed=1))
    centre = (seen.centres - seen.shift) / seen.scale
    assert bool((NoveltyScore(seen)(centre) >= 0).all())


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("scale"),
        lambda tensors: tensors.update(centres=tensors["centres"][:, :-1].contiguous()),
        lambda tensors: tensors.update(shift=tensors["shift"] * float("nan")),
        lambda tensors: tensors.update(scores=tensors["scores"].flip(0)),
        lambda tensors: tensors.update(centres=tensors["centres"][:1].repeat(MAX_CENTRES + 1, 1)),
        lambda tensors: tensors.update(scale=tensors["scale"].double()),
    ],
    ids=["missing", "width", "nan", "falling", "many", "double"],
)
def test_an_altered_file_is_refused(change):
    tensors = seen_tensors(embeddings_summary(embeddings(100), embeddings(50, seed=1)))
    change(tensors)
    with pytest.raises(CheckpointError, match=r"\Aa.ckpt: novelty: expected finite float32 scale and shift \(6,\)"):
        seen_from(tensors, width=WIDTH, path=Path("a.ckpt"))


@pytest.mark.parametrize("kind", ["transformer", "convolutions", "trees", "transformer,intervals"])
def test_every_training_of_a_windowed_student_measures_it(machines, tmp_path, kind):
    student = train_student(data_of(machines), "acc", config_of(kind), RUN)
    width = student.network().head.in_features
    assert student.seen.centres.shape[1] == width
    assert len(student.seen.scores) == len(machines.split("valid"))
    write_student(tmp_path / "a.ckpt", student)
    back = read_student(tmp_path / "a.ckpt").seen
    assert torch.equal(back.centres, student.seen.centres)
