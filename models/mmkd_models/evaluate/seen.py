"""What a model knows of the windows that judge it: a score of windows that trained it says nothing about new ones.

Owns the counting, the refusal and the words of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import fold_indices
from mmkd_models.data.split import split_facts
from mmkd_models.data.windows import Windows
from mmkd_report.documents.evaluation import SeenWindows
from mmkd_report.documents.figures import Split

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.training.checkpoint import Provenance


def windows_seen(facts: Provenance, dataset: Dataset, windows: Windows) -> SeenWindows | None:
    """Gives how many of these windows a model knows; None where it is of another dataset or does not say its fold."""
    if any(one.dataset_sha256 == dataset.sha256 for one in facts.adapted or ()):
        return _seen(dataset.split("train"), dataset.split("valid"), windows, fold=None)
    if facts.dataset_sha256 != dataset.sha256 or facts.fold is msgspec.UNSET:
        return None
    if facts.fold is None:
        train, valid = dataset.split("train"), dataset.split("valid")
    else:
        everything = dataset.everything()
        fold = fold_indices(everything, fold=facts.fold, seed=0)
        train, valid = everything.subset(fold.train), everything.subset(fold.valid)
    return _seen(train, valid, windows, fold=facts.fold)


def _seen(train: Windows, valid: Windows, windows: Windows, *, fold: int | None) -> SeenWindows:
    return SeenWindows(
        trained=int(np.isin(windows.rows, train.rows).sum()),
        chosen=int(np.isin(windows.rows, valid.rows).sum()),
        fold=fold,
    )


def refuse_seen(path: str, seen: SeenWindows | None, windows: int, *, part: str) -> None:
    """Raises UsageError where some of the windows that are to judge a model trained it; it names the right ones."""
    if seen is None or seen.trained == 0:
        return
    known = "the dataset's own split" if seen.fold is None else f"fold {seen.fold}"
    right = "--split test" if seen.fold is None else f"--fold {seen.fold}"
    raise UsageError(
        f"{path}: expected windows that did not train it, got {part}, of which {seen.trained} of {windows} did: it was "
        f"trained on {known}; use {right}, or --training-windows to score them all the same"
    )


def cautions_of(
    path: str, dataset_sha256: str, seen: SeenWindows | None, data_sha256: str, windows: int
) -> Iterator[str]:
    """Gives what has to be said of a model's scores, a sentence each, for terminals, documents and pages."""
    if seen is None and dataset_sha256 != data_sha256:
        yield f"{path} was trained on another dataset (SHA-256 {dataset_sha256[:12]}...): this one is a new domain"
    elif seen is None:
        yield f"{path} does not say which windows trained it: some of these may have"
    elif seen.trained:
        yield f"{path} was trained on {seen.trained} of these {windows} windows: its scores say nothing about new ones"
    elif seen.chosen:
        yield f"{path} was chosen by {seen.chosen} of these {windows} windows: its scores flatter it"


def split_judged(dataset: Dataset, seen: Sequence[SeenWindows | None], *, split: str, part: str) -> Split:
    """Gives what may be said of windows that judge models which know this much of them; `part` is what they are."""
    found = split_facts(dataset.everything(), part=split)
    if any(one is not None and one.trained for one in seen):
        return msgspec.structs.replace(found, judged_on=f"{part}, which trained the model")
    if found.by == "groups" and any(one is None or one.chosen for one in seen):
        return msgspec.structs.replace(found, judged_on=part)
    return found
