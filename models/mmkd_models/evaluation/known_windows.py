"""Windows that a model knows from its training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import numpy as np

from mmkd_documents.figures import Split
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import fold_indices
from mmkd_models.data.windows import Windows, split_facts
from mmkd_models.training_hashes import trained_windows

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.training.checkpoint import Provenance

Trained: TypeAlias = "Provenance | ModelEntry"


@dataclass(frozen=True, kw_only=True)
class KnownWindows:
    """Judging windows that trained or chose a model."""

    trained: int
    chosen: int  # validation windows that chose its weights
    fold: int | msgspec.UnsetType | None  # None: own split; unset: recognised by hashes, so `trained` may be low


def count_known_windows(model: Trained, modality: str, dataset: Dataset, windows: Windows) -> KnownWindows | None:
    """Count the windows a model knows, by dataset or training hashes; None if unknown."""
    is_own = model.dataset_sha256 == dataset.sha256
    if (is_own and model.fold is None) or any(step.dataset_sha256 == dataset.sha256 for step in model.adapted or ()):
        fold, train, valid = None, dataset.split("train").rows, dataset.split("valid").rows
    elif is_own and isinstance(model.fold, int):
        everything, fold = dataset.everything(), model.fold
        parts = fold_indices(everything, fold=fold, seed=0)
        train, valid = everything.rows[parts.train], everything.rows[parts.valid]
    else:
        if model.training_hashes:
            hashed = trained_windows(windows, modality, model.training_hashes, key=model.dataset_sha256)
            if hashed.any() or (is_own and windows.has_groups):  # all groups are hashed, of the windows a part
                return KnownWindows(trained=int(hashed.sum()), chosen=0, fold=msgspec.UNSET)
        return None
    trained, chosen = (int(np.isin(windows.rows, rows).sum()) for rows in (train, valid))
    return KnownWindows(trained=trained, chosen=chosen, fold=fold)


def check_known_windows(
    path: str, model: Trained, modality: str, dataset: Dataset, windows: Windows, *, part: str | None, costs: bool
) -> KnownWindows | None:
    """Count the windows a model knows. Raise UsageError if it trained on any.

    `part` names the windows; None accepts all. `costs` says that money is at stake.
    """
    known = count_known_windows(model, modality, dataset, windows)
    trained = 0 if known is None else known.trained
    if part is not None and known is not None and trained:
        count = f"{path}: expected windows that did not train it, got {part}: "
        if known.fold is msgspec.UNSET:
            raise UsageError(
                f"{count}at least {trained} of {len(windows)} did, or are of a group that did. Judge by other "
                "recordings, or rename the dataset if its groups are others"
            )
        source = "the dataset's own split" if known.fold is None else f"fold {known.fold}"
        right = "--split test" if known.fold is None else f"--fold {known.fold}"
        raise UsageError(f"{count}{trained} of {len(windows)} did, since it was trained on {source}; use {right}")
    if costs and known is None and model.dataset_sha256 == dataset.sha256:
        raise UsageError(
            f"--suite cost: {path} does not record which windows of this dataset trained it; export or train it again, "
            "or leave the suite out"
        )
    return known


def cautions_of(
    path: str, dataset_sha256: str, known: KnownWindows | None, data_sha256: str, windows: int
) -> Iterator[str]:
    """Yield the cautions about a model's scores."""
    if known is None and dataset_sha256 != data_sha256:
        yield f"{path} was trained on another dataset (SHA-256 {dataset_sha256[:12]}...): this one is a new domain"
    elif known is None:
        yield f"{path} does not record which windows trained it: some of these may have"
    elif known.chosen:
        yield f"{path} was chosen by {known.chosen} of these {windows} windows: its scores flatter it"


def split_judged(dataset: Dataset, known: Sequence[KnownWindows | None], *, split: str, part: str) -> Split:
    """Describe the windows named `part` for a document."""
    facts = split_facts(dataset.everything(), part=split)
    if facts.by == "groups" and any(count is None or count.chosen for count in known):
        return msgspec.structs.replace(facts, judged_on=part)
    return facts
