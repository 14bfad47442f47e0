"""What a step of an adaptation teaches: answers for new windows, and what the student knew of old ones.

Half of each batch is new and half is old. Old windows are taught by their labels and by what the student said of them
before (Z. Li, D. Hoiem, "Learning without Forgetting", ECCV 2016), drawn at random and of each class as often ("random
replay"; A. Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019).
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.batches import Batch, BatchSource
from mmkd_models.data.windows import Windows

LearnerGoal = Literal["answers", "certainty"]

CERTAIN = 0.4
"""Windows above this share of the largest entropy do not count (SAR: S. Niu et al., "Towards Stable Test-Time
Adaptation in Dynamic Wild World", ICLR 2023, section 4.1: 0.4 ln K)."""

COLLAPSED = 0.2
"""Share of the largest entropy below which the mean answer is one class: 97 % of it where there are two, 93 % of seven.

Adapted from SAR, section 4.2, which restores a student whose own entropy is low on a running mean. Here students are to
be sure, so that this would restore those that are done: it is the entropy of the mean answer that is watched, the part
of information maximisation that says whether all classes are used. Nine windows of ten in one of two classes, as some
domains have them, are at 0.47."""

_KEPT = 0.9  # of the running mean, at each step (SAR, appendix)


def entropy_of(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gives the entropy (N,) of probabilities (N, K), in nats."""
    return np.asarray(-(chances * np.log(chances + 1e-12)).sum(axis=1))


def sure_of(chances: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Gives of which windows (N,) a student with these probabilities (N, K) is sure (`CERTAIN`)."""
    return np.asarray(entropy_of(chances) < CERTAIN * np.log(chances.shape[1]))


class PairedSource:
    """Batches whose first half is of one set of windows and whose second half is of another."""

    def __init__(self, new: Windows, old: Windows, config: AugmentConfig, *, batch: int, seed: int) -> None:
        half = max(2, batch // 2)
        self.new = BatchSource(new, config, batch=half, labelled_share=0.0, seed=seed)
        self.old = BatchSource(old, config, batch=half, labelled_share=0.0, seed=seed + 1)
        self.offset = len(new)

    def at(self, step: int) -> Batch:
        """Gives the batch of that step: rows of old windows count from the number of new ones."""
        new, old = self.new.at(step), self.old.at(step)
        inputs = {
            name: tuple(
                torch.cat([mine, theirs]) for mine, theirs in zip(new.inputs[name], old.inputs[name], strict=True)
            )
            for name in new.inputs
        }
        return Batch(
            inputs=inputs,  # type: ignore[arg-type]
            targets=torch.cat([new.targets, old.targets]),
            labelled=torch.cat([new.labelled, old.labelled]),
            index=torch.cat([new.index, old.index + self.offset]),
            step=step,
            partner=torch.cat([_partner(new), _partner(old) + self.offset]),
            share=torch.cat([_share(new), _share(old)]),
        )


def _partner(batch: Batch) -> Tensor:
    return batch.index if batch.partner is None else batch.partner


def _share(batch: Batch) -> Tensor:
    return torch.ones(len(batch.index)) if batch.share is None else batch.share


class AdaptLearner(nn.Module):
    """Teaches a student in place.

    Args:
        network: a student of any kind with weights.
        modality: the student's.
        targets: (N, K) probabilities of the new and then the old windows, as `PairedSource` counts them.
        offset: how many of them are new.
        goal: `answers`: new windows are taught their row of `targets`; `certainty`: they are to be told apart surely
            and evenly, whichever way (information maximisation: J. Liang, D. Hu, J. Feng, "Do We Really Need to Access
            the Source Data?", ICML 2020, equation 2). Where the running mean of the answers comes to be one class (see
            `COLLAPSED`), the network begins again with its first weights, and their running average in `training.loop`
            with it; the optimiser goes on. A student that says one class from the start is left to learn.

    Attributes:
        begun_again: whether the last batch was seen with the first weights for that reason.
    """

    targets: Tensor
    running: Tensor
    collapsed: Tensor

    def __init__(self, network: nn.Module, *, modality: str, targets: Tensor, offset: int, goal: LearnerGoal) -> None:
        super().__init__()
        self.network, self.modality, self.offset = network, modality, offset
        self.goal: LearnerGoal = goal
        self.register_buffer("targets", targets.float(), persistent=False)
        self.register_buffer("running", torch.full((targets.shape[1],), math.nan))  # (K,) nan before the first batch
        self.register_buffer("collapsed", torch.tensor(False))
        self.begun_again = False
        self._first = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def forward(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Gives the losses of new and old windows and `loss`, their mean."""
        self._begin_again_if_collapsed()
        logits: Tensor = self.network(*batch.inputs[self.modality]).logits
        weight = batch.share[:, None].to(logits)  # type: ignore[index]
        wanted = weight * self.targets[batch.index] + (1 - weight) * self.targets[batch.partner]
        is_old = batch.index >= self.offset
        apart = -(wanted * F.log_softmax(logits, dim=-1)).sum(-1)  # (B,)
        old = apart[is_old].mean()
        new = apart[~is_old].mean() if self.goal == "answers" else self._uncertainty(logits[~is_old])
        return {"new": new, "old": old, "loss": (new + old) / 2}

    def _uncertainty(self, logits: Tensor) -> Tensor:
        entropy = _entropy_that_counts(logits)
        mean = torch.softmax(logits, dim=-1).mean(0)  # (K,)
        if self.training:
            self._watch(mean.detach().to(self.running))
        return (0.0 * logits.sum() if entropy is None else entropy) + (mean * (mean + 1e-8).log()).sum()

    def _watch(self, mean: Tensor) -> None:
        """Takes a batch's mean answer (K,) into the running one, and notes where that falls below the bar."""
        if self.running.isnan().any():
            self.running.copy_(mean)
            return
        was_even = self._is_even()
        self.running.copy_(_KEPT * self.running + (1 - _KEPT) * mean)
        self.collapsed.copy_(was_even & ~self._is_even())

    def _is_even(self) -> Tensor:
        entropy: Tensor = torch.special.entr(self.running).sum()
        return entropy >= COLLAPSED * math.log(len(self.running))

    def _begin_again_if_collapsed(self) -> None:
        self.begun_again = bool(self.collapsed)
        if self.begun_again:
            self.network.load_state_dict(self._first)
            self.running.fill_(math.nan)
            self.collapsed.fill_(False)


def _entropy_that_counts(logits: Tensor) -> Tensor | None:
    """Mean entropy of the windows that are not too unsure; None where all are."""
    entropy = -(torch.softmax(logits, dim=-1) * torch.log_softmax(logits, dim=-1)).sum(-1)
    counts = entropy.detach() < CERTAIN * math.log(logits.shape[1])
    return entropy[counts].mean() if counts.any() else None


def by_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Gives rows of labels (N,) among which each class is as often as the most frequent one, its rows repeated."""
    classes = [np.flatnonzero(labels == number) for number in np.unique(labels)]
    most = max(map(len, classes))
    return np.concatenate([np.resize(rows, most) for rows in classes]).astype(np.int64)


def without_mixing(augment: AugmentConfig) -> AugmentConfig:
    """Gives the same augmentation for windows that are seen one by one."""
    return msgspec.structs.replace(augment, mixup=0.0)
