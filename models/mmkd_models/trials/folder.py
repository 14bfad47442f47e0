"""The folder of a study: where its parts lie, and how results are read and written.

A folder of a trial or teacher is finished when its JSON file is there; the checkpoint is written before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import CheckpointError
from mmkd_models.compare.one_fold import ANSWERS_FOLDER, FoldData, fold_data
from mmkd_models.data.dataset import Dataset
from mmkd_models.train_config import OnStep, TrainConfig
from mmkd_models.training.inputs import TrainingRun
from mmkd_models.trials.space import Space, StudyConditions, TeacherChoice, Trial, teacher_folder, trial_folder

TEST_FILE = "test.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StudyFolder:
    """Where a study keeps what it trains, and what it trains on."""

    out: Path
    dataset: Dataset
    conditions: StudyConditions
    space: Space

    def of_trial(self, trial: Trial) -> Path:
        """Gives the folder of a trial."""
        return trial_folder(self.out, self.conditions, self.space, trial)

    def of_teacher(self, teacher: TeacherChoice, seed: int) -> Path:
        """Gives the folder of a teacher."""
        return teacher_folder(self.out, self.conditions, teacher, seed)

    def fold(self, seed: int) -> FoldData:
        """Gives the windows of a seed's fold, with the labels that training may see."""
        return fold_data(self.dataset, seed=seed, labelled=self.conditions.labelled)


def run_in(train: TrainConfig, folder: StudyFolder, run_dir: Path, seed: int, on_step: OnStep) -> TrainingRun:
    """Gives how a training of the study is run: resumed where it was, with the study's memory of answers."""
    return TrainingRun(
        train=msgspec.structs.replace(train, seed=seed),
        augment=folder.conditions.augment,
        run_dir=run_dir,
        resume=True,
        embed_windows=False,
        answers=folder.out / ANSWERS_FOLDER,
        on_step=on_step,
    )


_Kind = TypeVar("_Kind", bound=msgspec.Struct)


def read_result(path: Path, kind: type[_Kind]) -> _Kind | None:
    """Gives the result in a file, or None where there is none yet."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise CheckpointError(
            f"{path}: expected a result of a study, got a damaged file ({error}); delete its folder to train it again"
        ) from error


def write_result(path: Path, value: msgspec.Struct) -> None:
    """Replaces the file, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, msgspec.json.format(msgspec.json.encode(value), indent=1))
