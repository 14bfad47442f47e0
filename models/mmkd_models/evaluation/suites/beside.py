"""Rivals beside the models that are judged: what somebody would try first on the same sensor with the same labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mmkd_edge.errors import UsageError
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.rivals import Contestants, RivalName
from mmkd_models.evaluation.suites.answering import AskedModel
from mmkd_models.metrics.scores import AnyMetric
from mmkd_report.schema.figures import CONTESTANTS
from mmkd_report.schema.judging import JudgedModel


def check_rivals(first: AskedModel, windows: Windows, *, train: Windows, valid: Windows) -> None:
    """Raises UsageError where rivals of the first model could not learn, or would be judged on what taught them."""
    modalities = first.facts.modalities
    if len(modalities) > 1:
        raise UsageError(
            f"--rival: expected a model of one sensor, on which rivals learn, got {first.facts.name} of "
            f"{', '.join(modalities)}; judge a student, and name the teacher by --against"
        )
    if len(valid) == 0 or not train.labelled.any():
        raise UsageError("--rival: expected labelled windows of train and valid, got none; label some, or leave it out")
    known = int(np.isin(windows.rows, np.concatenate([train.rows, valid.rows])).sum())
    if known:
        raise UsageError(
            f"--rival: expected windows that neither teach nor choose a rival, got {known} that do; judge by --split "
            "test or --fold N, or leave it out"
        )


def answering_rivals(
    names: Sequence[RivalName],
    first: AskedModel,
    windows: Windows,
    *,
    train: Windows,
    valid: Windows,
    metric: AnyMetric,
    seed: int,
) -> Iterator[AskedModel]:
    """Gives rivals of the first model's sensor that have learnt from these windows.

    Args:
        windows: that will judge.
        train: with the labels that the first model's training saw.
        valid: labelled, by which temperature and prior of each are chosen.

    Raises:
        UsageError: as `check_rivals`, or a rival refuses these windows.
    """
    check_rivals(first, windows, train=train, valid=valid)
    modalities = first.facts.modalities
    contestants = Contestants(train=train, parts=(valid,), modality=modalities[0], seed=seed, metric=metric)
    for name in names:
        ask = contestants.asked(name)
        if isinstance(ask, str):
            raise UsageError(f"--rival {name}: {ask}; leave it out")
        yield AskedModel(
            facts=JudgedModel(
                name=CONTESTANTS[name],
                path="",
                sha256="",
                role="rival",
                modalities=modalities,
                parameters=None,
            ),
            practised=frozenset(),
            cautions=(),
            ask=ask,
        )
