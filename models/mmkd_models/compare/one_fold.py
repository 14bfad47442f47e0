"""One fold of a comparison: its windows, its folder, and whom it tells where it stands.

A fold that is finished is a file. The folder of a fold belongs to one comparison; other options are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_models.compare.fold_result import (
    ComparisonConfig,
    FoldResult,
)
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import fold_indices
from mmkd_models.data.labelled import Labelled
from mmkd_models.data.labels import Labels
from mmkd_models.data.left_out import LeftOutDomains, fold_without
from mmkd_models.data.windows import OF_GROUPS, Windows, split_facts
from mmkd_models.evaluation.label_leak import labels_spread_in_time
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.train_config import TrainConfig, TrainingProgress
from mmkd_models.training.folder_owner import owner_of_folder
from mmkd_models.training.inputs import TrainingData, TrainingRun, visible_labels
from mmkd_models.training.resume import FILE_NAME
from mmkd_report.schema.figures import Split, SplitBy

RESULT_FILE = "fold.json"
CLAIM_FILE = "comparison.json"
ANSWERS_FOLDER = "answers"
"""What the teacher said to the batches of one fold: its students see the same ones, so it is asked once."""

ComparisonStage = Literal["teacher", "baseline", "answers", "student", "rivals", "taught"]


@dataclass(frozen=True, kw_only=True)
class ComparisonProgress:
    """Where a comparison stands, for progress bars."""

    seed: int
    stage: ComparisonStage
    modality: str | None
    progress: TrainingProgress | None


OnStep = Callable[[ComparisonProgress], None]


@dataclass(frozen=True, kw_only=True)
class FoldData:
    """The windows of one fold, with the labels that training may see.

    Attributes:
        truth: all labels that the training windows have in the dataset; no training sees them.
    """

    training: TrainingData
    test: Windows
    truth: Labels


def fold_data(
    dataset: Dataset, *, seed: int, labelled: Labelled, left_out: LeftOutDomains | msgspec.UnsetType = msgspec.UNSET
) -> FoldData:
    """Gives fold number `seed`; its training windows keep some of their labels, chosen by the seed.

    Args:
        left_out: what the folds leave out; unset deals them by groups.

    Raises:
        UsageError: the dataset has no such fold (without groups its own split is fold 0, the only one), or not these
            labels.
    """
    windows = dataset.everything()
    if left_out is msgspec.UNSET:
        number: int | msgspec.UnsetType = seed
        fold = fold_indices(windows, fold=seed, seed=0)
    else:
        fold, number = fold_without(windows, left_out, fold=seed), msgspec.UNSET  # no fold that others deal again
    whole = windows.subset(fold.train)
    train = whole.with_labels(visible_labels(whole, share=labelled.share, groups=labelled.groups, seed=seed))
    training = TrainingData(
        train=train,
        valid=windows.subset(fold.valid),
        sha256=dataset.sha256,
        fold=number,
        labelled=labelled,
    )
    return FoldData(training=training, test=windows.subset(fold.test), truth=whole.labels)


def spread_in_time(data: FoldData, labelled: Labelled) -> TestedNetwork | msgspec.UnsetType:
    """Judges labels spread in time on the hidden labels of a fold; whole groups leave nothing to spread."""
    if labelled.groups is not None:
        return msgspec.UNSET
    return labels_spread_in_time(data.training.train, data.truth) or msgspec.UNSET


@dataclass(frozen=True, kw_only=True)
class ComparedFold:
    """One fold of a comparison at work: what it is told, its windows, its folder, and whom it tells where it stands."""

    data: FoldData
    seed: int
    config: ComparisonConfig
    out: Path
    say: OnStep

    def run(self, train: TrainConfig, name: str, stage: ComparisonStage, modality: str | None = None) -> TrainingRun:
        """Gives how a training of the fold is run."""
        return TrainingRun(
            train=msgspec.structs.replace(train, seed=self.seed),
            augment=self.config.augment,
            run_dir=self.out / "runs" / name,
            resume=True,
            answers=self.out / ANSWERS_FOLDER,
            on_step=lambda done: self.say(
                ComparisonProgress(seed=self.seed, stage=stage, modality=modality, progress=done)
            ),
        )

    def drop_states(self, *names: str) -> None:
        """Drops the resume states of trainings whose checkpoint is written; their TensorBoard logs stay."""
        for name in names:
            for state in list((self.out / "runs" / name).rglob(FILE_NAME)):
                state.unlink()


def fold_of(dataset: Dataset, *, seed: int, config: ComparisonConfig, out: Path, say: OnStep | None) -> ComparedFold:
    """Gives a fold at work; errors as of `fold_data`."""
    data = fold_data(dataset, seed=seed, labelled=config.labelled, left_out=config.left_out)
    return ComparedFold(data=data, seed=seed, config=config, out=out, say=say or _silent)


def _silent(step: ComparisonProgress) -> None:
    return None


def finished_fold(path: Path, sha256: str, seed: int, config: ComparisonConfig, split: Split) -> FoldResult | None:
    """Reads the file of a finished fold; None where there is none.

    Raises:
        UsageError: it is one of another comparison.
        CheckpointError: it is damaged.
    """
    if not path.exists():
        return None
    try:
        result = msgspec.json.decode(path.read_bytes(), type=FoldResult)
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path}: expected a finished fold, got a damaged file ({error}); delete it") from error
    # Early files do not say how they were split, and windows without groups were dealt anew: that is no fold of today.
    if (result.config, result.dataset_sha256, result.seed) != (config, sha256, seed) or (
        (result.split or OF_GROUPS) != split
    ):
        raise another_comparison(path)
    return result


class _Owner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose folder it is. The teacher's size is in the names of its files, since several may be tried."""

    config: ComparisonConfig
    dataset_sha256: str
    seed: int
    split: SplitBy = OF_GROUPS.by


def take_folder(path: Path, dataset: Dataset, seed: int, config: ComparisonConfig) -> None:
    """Writes down whose folder it is before anything is trained into it.

    Raises:
        UsageError: it belongs to another comparison.
    """
    split = split_facts(dataset.everything()).by
    ours = _Owner(config=config, dataset_sha256=dataset.sha256, seed=seed, split=split)
    found = owner_of_folder(path, ours, what="the options of a comparison", cure="delete the folder")
    same_teacher = msgspec.structs.replace(found.config, teacher=config.teacher)
    if msgspec.structs.replace(found, config=same_teacher) != ours:
        raise another_comparison(path)


def another_comparison(path: Path) -> UsageError:
    """Gives the error of a folder that holds the fold of another dataset or of other options."""
    return UsageError(
        f"{path}: expected a fold of this dataset with these options, got one of another comparison; "
        "choose another --out, or delete the folder"
    )
