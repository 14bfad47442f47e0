"""What adapting is compared with: methods of others, on the student and the windows that `mmkd-adapt` has.

- SHOT: information maximisation with a frozen head and pseudo-labels by centroids (J. Liang, D. Hu, J. Feng, ICML 2020,
  equations 3 to 7), without old windows; convolutional features do not learn, so the pseudo-labels teach their head;
- TENT: scale and shift of the LayerNorms by entropy (D. Wang et al., ICLR 2021), of transformers alone, offline and for
  as many steps as the others;
- the teacher's answers, those alone that reach a threshold of their class (FreeMatch: Y. Wang et al., ICLR 2023), or
  all with the classes as frequent as they were among the old labels (ReMixMatch: D. Berthelot et al., ICLR 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmkd_models.adapt.ways import Task, old_answers, refitted
from mmkd_models.data.windows import Windows
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.predict import embeddings_of, inputs_of

Floats = NDArray[np.float64]

BY_CLASS, EVENED = "teacher, sure by class", "teacher, evened"
PSEUDO = 0.3  # weight of pseudo-labels: SHOT, section 4.1
BATCH, TENT_RATE = 32, 1e-3


def rivals(base: Task) -> dict[str, StudentCheckpoint]:
    """Gives the student of each rival by the name of its arm."""
    if base.student.config.kind == "rocket":
        learn, answers = base.new.learn, base.answers
        assert answers is not None
        sure = sure_by_class(answers)
        truth = np.eye(len(base.student.task.labels))[_pseudo_labels(base, base.student.network())]
        return {
            "SHOT": _refitted(base, learn, truth),
            BY_CLASS: _refitted(base, learn.subset(np.flatnonzero(sure)), answers[sure]),
            EVENED: _refitted(base, learn, evened(answers, base.old.learn.labels)),
        }
    return {"SHOT": _shot(base), "TENT": _tent(base)}


def _refitted(base: Task, learn: Windows, answers: Floats) -> StudentCheckpoint:
    return refitted(base.student, [(learn, answers), (base.old.learn, old_answers(base))])


def sure_by_class(answers: Floats) -> NDArray[np.bool_]:
    """Gives which answers (N, K) reach their class's threshold: FreeMatch, equations 5 and 7, over all windows at once.

    That is the mean confidence, times how often the class is answered beside the most frequent one.
    """
    confidence, shares = answers.max(axis=1), answers.mean(axis=0)
    thresholds = confidence.mean() * shares / shares.max()
    return np.asarray(confidence >= thresholds[answers.argmax(axis=1)])


def evened(answers: Floats, labels: NDArray[np.generic]) -> Floats:
    """Gives answers (N, K) whose classes are as frequent as among labels: ReMixMatch, section 3.1, in one step."""
    known = np.bincount(labels.astype(np.int64), minlength=answers.shape[1]) / len(labels)
    found = answers * known / np.maximum(answers.mean(axis=0), 1e-6)
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def _shot(base: Task) -> StudentCheckpoint:
    network = base.student.network()
    pseudo = torch.zeros(0)

    def loss(step: int, rows: Tensor, logits: Tensor) -> Tensor:
        nonlocal pseudo
        if step % (base.train.steps // 4) == 0:
            pseudo = torch.from_numpy(_pseudo_labels(base, network.eval()))
            network.train()
        mean = torch.softmax(logits, -1).mean(0)
        apart = nn.functional.cross_entropy(logits, pseudo[rows])
        return _entropy(logits) + (mean * (mean + 1e-8).log()).sum() + PSEUDO * apart

    parameters = [value for name, value in network.named_parameters() if not name.startswith("head.")]
    return _stepped(base, network, parameters, base.train.learning_rate, loss)


def _tent(base: Task) -> StudentCheckpoint:
    network = base.student.network()
    norms = [module for module in network.modules() if isinstance(module, nn.LayerNorm)]
    parameters = [value for norm in norms for value in norm.parameters()]
    return _stepped(base, network, parameters, TENT_RATE, lambda _, __, logits: _entropy(logits))


def _entropy(logits: Tensor) -> Tensor:
    return -(torch.softmax(logits, -1) * torch.log_softmax(logits, -1)).sum(-1).mean()


def _stepped(
    base: Task,
    network: nn.Module,
    parameters: Sequence[nn.Parameter],
    rate: float,
    loss: Callable[[int, Tensor, Tensor], Tensor],
) -> StudentCheckpoint:
    windows, name = base.new.learn, base.student.modality.name
    inputs = inputs_of(windows.take(np.arange(len(windows))), windows)[name]
    optimiser = torch.optim.Adam(parameters, lr=rate)
    chance = torch.Generator().manual_seed(base.train.seed)
    for step in range(base.train.steps):
        rows = torch.randperm(len(windows), generator=chance)[:BATCH]
        optimiser.zero_grad()
        loss(step, rows, network(*(one[rows] for one in inputs)).logits).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    state = {key: value.detach().clone() for key, value in network.state_dict().items()}
    return replace(base.student, state=state)


def _pseudo_labels(base: Task, network: nn.Module) -> NDArray[np.int64]:
    """(N,) the nearest of the classes' centroids by cosine, which the answers weigh and then the labels: SHOT, 4 to 6.

    A class that no window is called keeps its first centroid.
    """
    name, student = base.student.modality.name, network
    found = embeddings_of(student, base.new.learn, modality=name).astype(np.float64)
    with torch.no_grad():
        chances = torch.softmax(student.head(torch.from_numpy(found).float()), -1).double().numpy()  # type: ignore[operator]
    if base.student.config.kind == "rocket":
        found = found - found.mean(axis=0)  # shares of positive values all point the same way
    unit = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    centroids = chances.T @ found / (chances.sum(axis=0)[:, None] + 1e-8)
    for _ in range(2):
        sides = centroids / np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-12)
        labels = (unit @ sides.T).argmax(axis=1)
        called = [number for number in range(len(centroids)) if (labels == number).any()]
        centroids[called] = [found[labels == number].mean(axis=0) for number in called]
    return np.asarray(labels, dtype=np.int64)
