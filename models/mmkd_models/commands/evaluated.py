"""The windows, checkpoints and bundles that `mmkd-evaluate` reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import numpy as np

from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.cli.options import Option
from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import fold_indices
from mmkd_models.data.spec import SplitName
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.seen import check_seen, split_judged
from mmkd_models.networks.config import choice
from mmkd_report.schema.evaluation import DataFacts, SeenWindows

if TYPE_CHECKING:  # a bundle is judged without torch
    from mmkd_models.evaluation.report import Contestant

NEEDS = ("torch", "safetensors", "lightning_fabric")
"""Modules that read a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """The windows to judge with."""

    split: Annotated[str, Option("Split to judge with: train, valid or test.", metavar="NAME")] = "test"
    fold: Annotated[int | None, Option("Judge with the test windows of fold N instead of a split.", min=0)] = None
    training_windows: Annotated[
        bool, Option("Also judge with windows that trained the model, and say so.", ("--training-windows",))
    ] = False

    @property
    def given(self) -> dict[str, bool]:
        """Whether each option differs from its default."""
        return {
            "--split": self.split != "test",
            "--fold": self.fold is not None,
            "--training-windows": self.training_windows,
        }


@dataclass(frozen=True, kw_only=True)
class JudgingWindows:
    """Labelled windows to judge with.

    Attributes:
        part: their name in texts.
    """

    dataset: Dataset
    windows: Windows
    part: str
    options: WindowOptions

    def other(self, part: Literal["train", "valid"]) -> Windows:
        """Return the windows that trained, or the labelled ones that chose, of the same split or fold."""
        if self.options.fold is None:
            windows = self.dataset.split(part)
        else:
            everything = self.dataset.everything()
            windows = everything.subset(getattr(fold_indices(everything, fold=self.options.fold, seed=0), part))
        return windows if part == "train" else windows.subset(np.flatnonzero(windows.labelled))

    def facts(self, seen: Sequence[SeenWindows | None]) -> DataFacts:
        """Return what a document contains on the windows; `seen` is which of them each model knows."""
        split = "test" if self.options.fold is not None else self.options.split
        return DataFacts(
            name=self.dataset.spec.name,
            sha256=self.dataset.sha256,
            part=self.part,
            windows=len(self.windows),
            groups=self.windows.group_count,
            split=split_judged(self.dataset, seen, split=split, part=self.part),
            labels=self.dataset.spec.task.labels,
        )

    def read_checkpoint(self, path: Path, *, knows: bool, costs: bool = False) -> Contestant:
        """Read a checkpoint.

        Args:
            knows: accept one that was trained on these windows.
            costs: whether the suite `cost` runs, which never accepts that.

        Raises UsageError if the windows cannot judge it.
        """
        from mmkd_models.evaluation.report import Contestant
        from mmkd_models.tensors import kind_of
        from mmkd_models.training.checkpoint import file_sha256, read_student, read_teacher

        checkpoint = read_teacher(path) if kind_of(path) == "teacher" else read_student(path)
        contestant = Contestant(path=str(path), sha256=file_sha256(path), checkpoint=checkpoint)
        return Contestant(
            path=contestant.path,
            sha256=contestant.sha256,
            checkpoint=checkpoint,
            seen=check_seen(
                str(path),
                checkpoint.facts,
                contestant.modalities[0].name,
                self.dataset,
                self.windows,
                part=None if knows else self.part,
                costs=costs,
            ),
        )

    def seen_by_bundle(self, path: Path, *, knows: bool, costs: bool = False) -> dict[str, SeenWindows | None]:
        """Return which windows each student of a bundle knows, by its name; raise as `read_checkpoint`."""
        part = None if knows else self.part
        with Bundle.open(path) as bundle:
            return {
                entry.name: check_seen(
                    str(path), entry, entry.modality.name, self.dataset, self.windows, part=part, costs=costs
                )
                for entry in bundle.manifest.models
            }


def judging_windows(dataset: Dataset, options: WindowOptions) -> JudgingWindows:
    """Return the labelled windows of a split or fold. Raise UsageError if there are none."""
    if options.fold is not None:
        everything = dataset.everything()
        windows = everything.subset(fold_indices(everything, fold=options.fold, seed=0).test)
        return JudgingWindows(
            dataset=dataset, windows=windows, part=f"test windows of fold {options.fold}", options=options
        )
    name: SplitName = choice(options.split, get_args(SplitName), option="--split")
    split = dataset.split(name)
    windows = split.subset(np.flatnonzero(split.labelled))
    if len(windows) == 0:
        raise UsageError(f"{dataset.path}: split {name}: expected labelled windows, got none; name another --split")
    return JudgingWindows(dataset=dataset, windows=windows, part=f"{name} windows", options=options)
