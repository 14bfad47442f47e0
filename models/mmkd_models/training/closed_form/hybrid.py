"""A transformer and convolutional features in one graph: how much each counts, by validation.

The logarithmic opinion pool z = w z1 / T1 + (1 - w) z2 / T2 (C. Genest, J. Zidek, "Combining Probability
Distributions: A Critique and an Annotated Bibliography", Statistical Science 1986, section 3), whose two heads are one
head over both embeddings. Where one part alone validates better, that part alone is what a user gets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmkd_models.metrics.likelihood import fitted_temperature
from mmkd_models.training.checkpoint import HybridFacts, StudentCheckpoint
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.judging.rule import preferred, standing_of
from mmkd_models.training.predict import logits_of, scores_of
from mmkd_models.training.trainings.provenance import with_novelty

logger = logging.getLogger(__name__)

WEIGHTS = (0.5, 0.25, 0.75, 0.0, 1.0)
"""Of the transformer. Of those that validate alike the first is taken: two parts err less than one."""


def fit_hybrid(
    data: TrainingData, transformer: StudentCheckpoint, rocket: StudentCheckpoint, run: TrainingRun
) -> StudentCheckpoint:
    """Joins two students of one modality; the one or the other where it validates better alone.

    Args:
        transformer: of the kind transformer.
        rocket: of the kind rocket, trained on the same windows.
        run: its metric chooses.
    """
    assert (transformer.config.kind, rocket.config.kind) == ("transformer", "rocket")  # the trainings' own
    modality, task = transformer.modality.name, data.train.spec.task
    valid = data.valid.with_modalities([modality])
    valid = valid.subset(np.flatnonzero(valid.labelled))
    answers = [logits_of(part.network(), valid, modality=modality) for part in (transformer, rocket)]
    temperatures = [fitted_temperature(logits, valid.labels, kind=task.kind) for logits in answers]

    settled = [logits / heat for logits, heat in zip(answers, temperatures, strict=True)]
    standings = [
        standing_of(_pooled(weight, settled), valid.labels, task, metric=run.train.metric) for weight in WEIGHTS
    ]
    weight = WEIGHTS[preferred(standings)]
    scores = {tried: standing.score for tried, standing in zip(WEIGHTS, standings, strict=True)}
    facts = HybridFacts(
        weight=weight,
        temperatures=(temperatures[0], temperatures[1]),
        scores=tuple((tried, scores[tried]) for tried in sorted(WEIGHTS)),
    )
    logger.info("hybrid: weight of the transformer %g, validation %s", weight, scores)
    if weight in (0.0, 1.0):
        alone = transformer if weight == 1.0 else rocket
        return replace(alone, facts=msgspec.structs.replace(alone.facts, hybrid=facts))
    config = msgspec.structs.replace(transformer.config, kind="hybrid", rocket=rocket.config.rocket)
    joined = replace(transformer, config=config, state=_joined(transformer.state, rocket.state, facts))
    found = scores_of(joined.network(), valid, modality=modality).metric(run.train.metric)
    taus = {transformer.facts.prior_tau, rocket.facts.prior_tau}
    both = taus.pop() if len(taus) == 1 else msgspec.UNSET
    facts_of_both = msgspec.structs.replace(transformer.facts, score=found, prior_tau=both, hybrid=facts)
    return with_novelty(replace(joined, facts=facts_of_both), [data.train], [data.valid])


def _pooled(weight: float, parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.asarray(weight * parts[0] + (1 - weight) * parts[1])


def _joined(transformer: Mapping[str, Tensor], rocket: Mapping[str, Tensor], facts: HybridFacts) -> dict[str, Tensor]:
    """The tensors of both, with one head whose weights are those of the two heads, weighted and side by side."""
    shares = [
        part / temperature
        for part, temperature in zip((facts.weight, 1 - facts.weight), facts.temperatures, strict=True)
    ]
    heads = [
        {name: state[f"head.{name}"] * share for name in ("weight", "bias")}
        for state, share in zip((transformer, rocket), shares, strict=True)
    ]
    return {
        **rocket,
        **transformer,
        "head.weight": torch.cat([head["weight"] for head in heads], dim=1),
        "head.bias": heads[0]["bias"] + heads[1]["bias"],
    }
