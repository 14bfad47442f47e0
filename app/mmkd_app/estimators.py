"""Teachers and students by scikit-learn's conventions: `get_params`, pipelines, `cross_val_score` with groups.

Windows are X (n, T) or (n, T, C), NaN = missing. Training and validation never share one of the `groups` of `fit`:
`cross_val_score(model, X, y, groups=groups, cv=GroupKFold(), params={"groups": groups})`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from mmkd_app.verbs import Student, Teacher
from mmkd_edge.spec import TaskSpec
from mmkd_models.data.dataset import make_windows
from mmkd_models.data.importing.from_frames import series_of
from mmkd_models.data.spec import SPLIT_NAMES, DatasetSpec
from mmkd_models.defaults import AUGMENT, STUDENT_PRESET, STUDENT_TRAIN, TEACHER_PRESET, TEACHER_TRAIN
from mmkd_models.networks.config import preset_named, student_config, student_members, teacher_config
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.committee import default_members, train_committee
from mmkd_models.training.inputs import TrainingData, TrainingRequest, TrainingRun
from mmkd_models.training.students import train_student

_PARTS = 4  # of the windows or groups; one validates


@dataclass(kw_only=True, eq=False, repr=False)
class _Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    rate_hz: float = 1.0
    steps: int | None = None
    seed: int = 0

    def fit(self, X: Any, y: Any, groups: Any = None) -> Any:
        """Train on three quarters of the windows, or of the groups (n,); the others validate."""
        values, y = self._values(X, reset=True), column_or_1d(y, warn=True)
        check_consistent_length(X, y, groups)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y: expected two classes or more, got one class, {self.classes_[0]}; add windows of another"
            )
        folds = StratifiedKFold if groups is None else StratifiedGroupKFold
        cuts = folds(_PARTS, shuffle=True, random_state=self.seed).split(numbers, numbers, groups)
        rows = dict(zip(SPLIT_NAMES, (*next(cuts), np.zeros(0, dtype=np.int64)), strict=True))
        arrays: dict[str, npt.NDArray[Any]] = {f"{split}/labels.npy": numbers[chosen] for split, chosen in rows.items()}
        for split, chosen in rows.items():
            arrays |= {f"{split}/{name}.npy": sensor[chosen] for name, sensor in values.items()}
        spec = DatasetSpec(
            name="arrays",
            task=TaskSpec(labels=tuple(str(number) for number in range(len(self.classes_)))),
            modalities=tuple(series_of(name, sensor, self.rate_hz) for name, sensor in values.items()),
            splits={split: len(chosen) for split, chosen in rows.items()},
        )
        windows = make_windows(spec, arrays)
        train, valid = (windows.subset(np.flatnonzero(windows.splits == number)) for number in (0, 1))
        self.model_ = self._train(TrainingData(train=train, valid=valid, sha256=""))
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Return probabilities (n, classes)."""
        check_is_fitted(self)
        answers: npt.NDArray[np.float64] = self.model_.predict_proba(self._values(X, reset=False))
        return answers

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return classes (n,)."""
        answers = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[answers])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.three_d_array = True
        return tags

    def _values(self, X: Any, *, reset: bool) -> dict[str, npt.NDArray[np.float32]]:
        values = validate_data(self, X, reset=reset, allow_nd=True, ensure_all_finite="allow-nan", dtype=np.float32)
        return self._by_sensor(values[..., None] if values.ndim == 2 else values)

    def _by_sensor(self, values: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        return {"sensor": values}

    def _train(self, data: TrainingData) -> Teacher | Student:
        raise NotImplementedError

    def _run(self, usual: TrainConfig) -> TrainingRun:
        train = msgspec.structs.replace(usual, steps=self.steps or usual.steps, seed=self.seed)
        return TrainingRun(train=train, augment=AUGMENT)


@dataclass(kw_only=True, eq=False, repr=False)
class StudentClassifier(_Classifier):
    """A student of one sensor on labels only, as `mmkd-train student` trains it.

    Args:
        rate_hz: samples per second.
        size: of the transformer: tiny, small, medium or base.
        members: transformer, convolutions, intervals, trees; their average answers.
        steps: of the transformer's training; by default as shipped.
    """

    size: str = STUDENT_PRESET
    members: Sequence[str] = ("transformer",)

    def _train(self, data: TrainingData) -> Student:
        members = student_members(",".join(self.members))
        config = student_config(preset_named(self.size, option="size"), members=members)
        return Student(train_student(TrainingRequest(data, "sensor", config, self._run(STUDENT_TRAIN))))


@dataclass(kw_only=True, eq=False, repr=False)
class MultimodalClassifier(_Classifier):
    """A teacher of several sensors, as `mmkd-train teacher` trains it.

    Args:
        sensors: channel numbers of X (n, T, C) of each sensor by name, such as {"acc": [0, 1, 2], "gyro": [3, 4, 5]};
            by default all channels are one sensor's.
        rate_hz: samples per second.
        size: of the transformer: tiny, small, medium or base.
        steps: of the transformer's training; by default as shipped.
    """

    sensors: Mapping[str, Sequence[int]] | None = None
    size: str = TEACHER_PRESET

    def _by_sensor(self, values: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        if self.sensors is None:
            return super()._by_sensor(values)
        return {name: np.ascontiguousarray(values[..., list(numbers)]) for name, numbers in self.sensors.items()}

    def _train(self, data: TrainingData) -> Teacher:
        teacher = Teacher(size=self.size)
        teacher.fitted = train_committee(
            data,
            teacher_config(preset_named(self.size, option="size")),
            self._run(TEACHER_TRAIN),
            members=default_members(data.train.spec.modalities),
        )
        return teacher
