"""A loss of your own: cross-entropy, and a penalty on answers that are surer than the labels allow; no library edited.

Run it with `python examples/own_loss.py`; it needs `mmkd-edge[train]`. The penalty is that of G. Pereyra et al.,
"Regularizing Neural Networks by Penalizing Confident Output Distributions", 2017: minus the entropy of the answer.
"""

import sys
from functools import partial

import torch
from torch import Tensor, nn

from mmkd_models.data import open_dataset, shipped_dataset
from mmkd_models.data.batches import Batch, BatchSource
from mmkd_models.defaults import AUGMENT
from mmkd_models.networks.student import StudentOutput
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.loop import fit
from mmkd_models.training.predict import scores_of


class _Student(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        body = nn.Conv1d(2 * channels, 32, 9, 4), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten()
        self.body, self.head = nn.Sequential(*body), nn.Linear(32, classes)

    def forward(self, values: Tensor, present: Tensor, *, taps: bool = False) -> StudentOutput:
        embedding = self.body(torch.cat([values, present], dim=-1).transpose(1, 2))  # (B, T, C) twice -> (B, D)
        return StudentOutput(logits=self.head(embedding), embedding=embedding)


class _Humble(nn.Module):
    """What `fit` trains: it has a `network`, and its forward gives every term and their sum under `loss`."""

    def __init__(self, network: nn.Module, penalty: float) -> None:
        super().__init__()
        self.network, self.penalty = network, penalty

    def forward(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        log_p = torch.log_softmax(self.network(*batch.inputs["acc"]).logits, dim=-1)  # (B, K)
        seen = batch.labelled.sum().clamp(min=1.0)
        task = -(batch.targets * log_p).sum(-1).mul(batch.labelled).sum() / seen
        surer = (log_p.exp() * log_p).sum(-1).mean() * (1.0 - progress)  # less of it towards the end
        return {"task": task, "surer": surer, "loss": task + self.penalty * surer}


torch.manual_seed(0)
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 60
dataset = open_dataset(shipped_dataset("watch_exercises"))
batches = BatchSource(dataset.split("train"), AUGMENT, batch=32, labelled_fraction=1.0, seed=0)
judge = partial(scores_of, windows=dataset.split("valid"), modality="acc")
config = TrainConfig(steps=steps, eval_every=steps // 2)
result = fit(_Humble(_Student(3, 7), penalty=0.1), batches.at, evaluate=judge, config=config)
print(f"on validation: accuracy {result.scores.accuracy:.2f}")
