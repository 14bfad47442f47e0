"""Datasets: directories of windows with labels and splits."""

from mmkd_models.data.checking.findings import CheckReport, check_dataset
from mmkd_models.data.dataset import Dataset, open_dataset, shipped_dataset, shipped_names
from mmkd_models.data.folds import Fold, fold_indices, label_subset
from mmkd_models.data.spec import DatasetSpec, RecordingsSpec
from mmkd_models.data.windows import Windows
from mmkd_models.data.writer import Recording, write_dataset, write_recordings

__all__ = [
    "CheckReport",
    "Dataset",
    "DatasetSpec",
    "Fold",
    "Recording",
    "RecordingsSpec",
    "Windows",
    "check_dataset",
    "fold_indices",
    "label_subset",
    "open_dataset",
    "shipped_dataset",
    "shipped_names",
    "write_dataset",
    "write_recordings",
]
