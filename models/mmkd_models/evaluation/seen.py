"""Windows that a model knows from its training: counting, refusal and cautions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import numpy as np

from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import fold_indices
from mmkd_models.data.windows import Windows, split_facts
from mmkd_models.training_hashes import trained_windows
from mmkd_report.schema.evaluation import SeenWindows
from mmkd_report.schema.figures import Split

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.training.checkpoint import Provenance

Trained: TypeAlias = "Provenance | ModelEntry"
"""What says which windows trained a model: facts of a checkpoint, or a student in a bundle."""


def windows_seen(model: Trained, modality: str, dataset: Dataset, windows: Windows) -> SeenWindows | None:
    """Count the windows that a model knows, by its dataset or its training hashes; None if it cannot tell."""
    if any(one.dataset_sha256 == dataset.sha256 for one in model.adapted or ()):
        return _seen(dataset.split("train"), dataset.split("valid"), windows, fold=None)
    is_own = model.dataset_sha256 == dataset.sha256
    if is_own and model.fold is None:
        return _seen(dataset.split("train"), dataset.split("valid"), windows, fold=None)
    if is_own and isinstance(model.fold, int):
        everything = dataset.everything()
        fold = fold_indices(everything, fold=model.fold, seed=0)
        return _seen(everything.subset(fold.train), everything.subset(fold.valid), windows, fold=model.fold)
    if model.training_hashes:
        known = trained_windows(windows, modality, model.training_hashes, key=model.dataset_sha256)
        if known.any() or (is_own and windows.has_groups):  # all groups are hashed, of the windows a part
            return SeenWindows(trained=int(known.sum()), chosen=0, fold=msgspec.UNSET)
    return None


def _seen(train: Windows, valid: Windows, windows: Windows, *, fold: int | None) -> SeenWindows:
    return SeenWindows(
        trained=int(np.isin(windows.rows, train.rows).sum()),
        chosen=int(np.isin(windows.rows, valid.rows).sum()),
        fold=fold,
    )


def check_seen(
    path: str, model: Trained, modality: str, dataset: Dataset, windows: Windows, *, part: str | None, costs: bool
) -> SeenWindows | None:
    """Count the windows that a model knows. Raise UsageError if windows trained it that must not judge it.

    Args:
        part: the name of the windows; None accepts windows that trained it.
        costs: whether a price is put on the model.
    """
    seen = windows_seen(model, modality, dataset, windows)
    if part is not None:
        _refuse_seen(path, seen, len(windows), part=part)
    if costs:
        _refuse_costs(path, seen, is_own=model.dataset_sha256 == dataset.sha256)
    return seen


def _refuse_seen(path: str, seen: SeenWindows | None, windows: int, *, part: str) -> None:
    if seen is None or seen.trained == 0:
        return
    if seen.fold is msgspec.UNSET:
        raise UsageError(
            f"{path}: expected windows that did not train it, got {part}, of which at least {seen.trained} of "
            f"{windows} did, or are of a group that did: judge by other recordings, or rename the dataset if its "
            "groups are others; --training-windows scores them all the same"
        )
    known = "the dataset's own split" if seen.fold is None else f"fold {seen.fold}"
    right = "--split test" if seen.fold is None else f"--fold {seen.fold}"
    raise UsageError(
        f"{path}: expected windows that did not train it, got {part}, of which {seen.trained} of {windows} did: it was "
        f"trained on {known}; use {right}, or --training-windows to score them all the same"
    )


def _refuse_costs(path: str, seen: SeenWindows | None, *, is_own: bool) -> None:
    if seen is not None and seen.trained:
        raise UsageError(
            f"--suite cost: expected windows that did not train {path}, got {seen.trained} that did: what a model saw "
            "in training says nothing about money; leave --training-windows out, or the suite"
        )
    if seen is None and is_own:
        raise UsageError(
            f"--suite cost: {path} does not say which windows of this dataset trained it; export or train it again, or "
            "leave the suite out"
        )


def cautions_of(
    path: str, dataset_sha256: str, seen: SeenWindows | None, data_sha256: str, windows: int
) -> Iterator[str]:
    """Yield the cautions about a model's scores."""
    if seen is None and dataset_sha256 != data_sha256:
        yield f"{path} was trained on another dataset (SHA-256 {dataset_sha256[:12]}...): this one is a new domain"
    elif seen is None:
        yield f"{path} does not say which windows trained it: some of these may have"
    elif seen.trained:
        yield f"{path} was trained on {seen.trained} of these {windows} windows: its scores say nothing about new ones"
    elif seen.chosen:
        yield f"{path} was chosen by {seen.chosen} of these {windows} windows: its scores flatter it"


def split_judged(dataset: Dataset, seen: Sequence[SeenWindows | None], *, split: str, part: str) -> Split:
    """Return what a document contains on the windows named `part`."""
    found = split_facts(dataset.everything(), part=split)
    if any(one is not None and one.trained for one in seen):
        return msgspec.structs.replace(found, judged_on=f"{part}, which trained the model")
    if found.by == "groups" and any(one is None or one.chosen for one in seen):
        return msgspec.structs.replace(found, judged_on=part)
    return found
