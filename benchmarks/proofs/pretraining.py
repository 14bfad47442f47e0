"""Whether a teacher's transformer gets better where it is trained on windows without labels before it sees any.

    python benchmarks/proofs/pretraining.py
    python benchmarks/proofs/pretraining.py mydata --teacher tiny --ways both

Spans and whole sensors of a window are hidden, and what stood there is predicted from the rest (`hidden`), as in K. He
et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022. Each sensor's embedding finds, among the batch,
the window that the others saw (`found`): InfoNCE between sensors (A. van den Oord, Y. Li, O. Vinyals, "Representation
Learning with Contrastive Predictive Coding", 2018, equation 4; of several sensors S. Deldari et al., "COCOA: Cross
Modality Contrastive Learning for Sensor Data", IMWUT 2022). Both on all training windows, for as many steps as the
training with labels has, which goes on from the averaged weights. About a third of the groups are labelled.

Balanced accuracy on fold 0 in per cent, of the transformer of all sensors; pre-training chooses nothing by validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast, get_args

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_models.compare.one_fold import FoldData, fold_data
from mmkd_models.data.batches import Batch, BatchSource
from mmkd_models.data.dataset import Dataset, open_dataset, shipped_dataset
from mmkd_models.data.folds import FOLDS, trainings_of
from mmkd_models.data.labelled import usual_labelled
from mmkd_models.defaults import AUGMENT, TEACHER_PRESET, TEACHER_TRAIN
from mmkd_models.distil.learner import SupervisedLearner
from mmkd_models.metrics.scores import scores_from_logits
from mmkd_models.networks.config import Preset, teacher_config
from mmkd_models.networks.encoder import EXTRA_TOKENS, Encoder, FrontEnd, Tokens
from mmkd_models.networks.teacher import Inputs, Teacher, hide_modalities
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.loop import fit
from mmkd_models.training.normalisation import set_normalisation
from mmkd_models.training.predict import logits_of, scores_of
from proofs.script import head, parser_of, row

WAYS = {
    "labels alone": ((), 1.0),
    "both": (("hidden", "found"), 1.0),
    "hidden": (("hidden",), 1.0),
    "found": (("found",), 1.0),
    "both, then half the learning rate": (("hidden", "found"), 0.5),
}
"""What is learnt before labels, and how much of the learning rate is left for them."""

HIDDEN_SENSOR = 0.3
LEAST_SPAN, LONGEST_SPAN = 0.2, 0.5
TEMPERATURE, EMBEDDED = 0.1, 64


def main() -> None:
    """Print a row for every way."""
    parser = parser_of(__doc__)
    parser.add_argument("data", nargs="?", help="dataset directory of series; default the shipped one")
    parser.add_argument("--teacher", default=TEACHER_PRESET, choices=get_args(Preset), help="size of the transformer")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = open_dataset(arguments.data or shipped_dataset())
    data = fold_data(dataset, seed=0, labelled=usual_labelled(trainings_of(dataset.everything(), FOLDS)))
    print(head("way", "validation", "test", texts=1))
    for way in arguments.ways:
        terms, left = WAYS[way]
        teacher = new_teacher(dataset, data, arguments.teacher)
        if terms:
            pretrain(teacher, data, terms)
        rate = left * TEACHER_TRAIN.learning_rate
        valid, test = learn_labels(teacher, data, msgspec.structs.replace(TEACHER_TRAIN, learning_rate=rate))
        print(row(way, f"{100 * valid:.1f}", f"{100 * test:.1f}"), flush=True)


def new_teacher(dataset: Dataset, data: FoldData, size: Preset) -> Teacher:
    """Gives a transformer with fresh weights, the same every time."""
    torch.manual_seed(0)
    teacher = Teacher(dataset.spec.modalities, len(dataset.spec.task.labels), teacher_config(size))
    set_normalisation(teacher, data.training.train)
    return teacher


def pretrain(teacher: Teacher, data: FoldData, terms: tuple[str, ...]) -> None:
    """Trains it on all windows, unmixed, and leaves the average of the last weights in it."""
    source = BatchSource(
        data.training.train,
        msgspec.structs.replace(AUGMENT, mixup=0.0),
        batch=TEACHER_TRAIN.batch,
        labelled_share=0.0,
        seed=0,
    )
    everything = msgspec.structs.replace(TEACHER_TRAIN, near_best=1e9)  # of any weights the last are kept
    found = fit(
        PretrainLearner(teacher, terms),
        source,
        evaluate=lambda network: scores_of(network, data.training.valid, modality=None),
        config=everything,
    )
    teacher.load_state_dict(found.state)


def learn_labels(teacher: Teacher, data: FoldData, train: TrainConfig) -> tuple[float, float]:
    """Trains it on the labels; gives balanced accuracy on validation and test windows."""
    windows, valid = data.training.train, data.training.valid
    known = windows.subset(np.flatnonzero(windows.labelled))
    found = fit(
        SupervisedLearner(teacher, modality=None, modality_dropout=0.2),
        BatchSource(known, AUGMENT, batch=train.batch, labelled_share=1.0, seed=0),
        evaluate=lambda network: scores_of(network, valid, modality=None),
        config=train,
    )
    teacher.load_state_dict(found.state)
    tested = scores_from_logits(data.test.labels, logits_of(teacher, data.test, modality=None), data.test.spec.task)
    return found.scores.metric("balanced_accuracy"), tested.metric("balanced_accuracy")


class PretrainLearner(nn.Module):
    """Predicts what is hidden of windows of series; no label is read, and the head is left alone.

    Args:
        terms: of `hidden` and `found`.
    """

    def __init__(self, network: Teacher, terms: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.terms = terms
        width = network.head.in_features
        self.decoders = nn.ModuleDict(
            {name: nn.Linear(width, 2 * self.encoder(name).front.width) for name in network.names}
        )
        self.projections = nn.ModuleDict({name: nn.Linear(width, EMBEDDED) for name in network.names})

    def encoder(self, name: str) -> Encoder:
        """Gives the encoder of a modality."""
        return cast("Encoder", self.network.encoders[name])

    def forward(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Gives the terms and their sum."""
        chance = torch.default_generator
        seen = hide_modalities(hide_spans(batch.inputs, chance), HIDDEN_SENSOR, chance)
        encoded = {name: self.encoder(name)(*seen[name]) for name in self.network.names}
        tokens = encoded
        for layer in self.network.fusion:
            tokens, _ = layer(tokens, want_maps=False)
        each = {"hidden": lambda: self.hidden(batch.inputs, seen, tokens), "found": lambda: self.found(encoded)}
        terms = {name: each[name]() for name in self.terms}
        return {**terms, "loss": torch.stack(list(terms.values())).sum()}

    def hidden(self, whole: Inputs, seen: Inputs, tokens: Mapping[str, Tokens]) -> Tensor:
        """Mean loss of what tokens say of their own samples, where these were there and are hidden."""
        total, count = [], []
        for name, decoder in self.decoders.items():
            encoder = self.encoder(name)
            with torch.no_grad():
                wanted = summaries(encoder, *whole[name])  # (B, L, 2 W)
                there = (encoder.key_bias(whole[name][1]) == 0) & (encoder.key_bias(seen[name][1]) != 0)
                weight = there[:, :-EXTRA_TOKENS].to(wanted)  # (B, L)
            said = decoder(tokens[name].values[:, :-EXTRA_TOKENS])
            total.append((F.smooth_l1_loss(said, wanted, reduction="none").mean(-1) * weight).sum())
            count.append(weight.sum())
        return torch.stack(total).sum() / torch.stack(count).sum().clamp(min=1.0)

    def found(self, encoded: Mapping[str, Tokens]) -> Tensor:
        """How well each sensor's embedding tells, of the batch, the window whose other sensors these are."""
        pools, own = self.network.pools, {}
        for name, one in encoded.items():
            own[name] = F.normalize(self.projections[name](pools[name](one.values, one.bias)), dim=-1)
        there = {name: (one.bias[:, -1] == 0).to(own[name]) for name, one in encoded.items()}  # (B,)
        losses = []
        for name, vector in own.items():
            rest = [other for other in own if other != name]
            others = torch.stack([own[other] * there[other][:, None] for other in rest]).sum(0)
            rows = ((there[name] > 0) & (others.abs().sum(-1) > 0)).nonzero()[:, 0]
            scores = vector[rows] @ F.normalize(others[rows], dim=-1).T / TEMPERATURE  # (R, R)
            truth = torch.arange(len(rows))
            losses += [F.cross_entropy(scores, truth), F.cross_entropy(scores.T, truth)]
        return torch.stack(losses).mean()


def summaries(encoder: Encoder, values: Tensor, present: Tensor) -> Tensor:
    """Gives (B, L, 2 W): mean and spread of the front-end's views over the samples of each time token."""
    series = encoder.front(values, present)[0]
    if isinstance(encoder.front, FrontEnd):
        series = series.transpose(1, 2)  # (B, W, positions)
    rest = encoder.length * encoder.stride - series.shape[-1]
    blocks = F.pad(series, (0, rest), mode="replicate") if rest else series
    blocks = blocks.unflatten(-1, (encoder.length, encoder.stride))
    mean = blocks.mean(-1)
    spread = (blocks - mean[..., None]).square().mean(-1).add(1e-4).sqrt()
    return torch.cat([mean, spread], dim=1).transpose(1, 2)


def hide_spans(inputs: Inputs, generator: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
    """Hides a span of every window of every modality, from a fifth to half of it."""
    hidden = {}
    for name, (values, present) in inputs.items():
        batch, samples = values.shape[:2]
        length = LEAST_SPAN + (LONGEST_SPAN - LEAST_SPAN) * torch.rand(batch, generator=generator)
        start = torch.rand(batch, generator=generator) * (1 - length)
        place = torch.arange(samples)[None] / samples
        keep = ~((place >= start[:, None]) & (place < (start + length)[:, None]))[:, :, None]  # (B, T, 1)
        hidden[name] = values * keep, present * keep
    return hidden


if __name__ == "__main__":
    main()
