"""Teachers of a study as text: `small`, `acc+gyro:small,out-of-fold=5`, `gyro:tiny,ensemble=3/small`."""

from __future__ import annotations

from collections.abc import Sequence

from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import Dataset
from mmkd_models.networks.config import preset_named
from mmkd_models.trials.space import TeacherChoice, mixed_choice

_OPTION = "--teacher"
_ENSEMBLE, _OUT_OF_FOLD = "ensemble", "out-of-fold"


def teachers_from_text(texts: Sequence[str], dataset: Dataset) -> tuple[TeacherChoice, ...]:
    """Gives the teachers; modalities come in the dataset's order, whatever order they are named in.

    Raises:
        UsageError: a size, modality or setting is unknown, or a number makes no sense.
    """
    return tuple(
        mixed_choice([member for part in text.split("/") for member in _members(part, dataset)]) for text in texts
    )


def _members(text: str, dataset: Dataset) -> list[TeacherChoice]:
    name, *settings = text.split(",")
    modalities, _, size = name.rpartition(":")
    order = [spec.name for spec in dataset.spec.modalities]
    wanted = modalities.split("+") if modalities else order
    dataset.everything().with_modalities(wanted)  # refuses names that are unknown or there twice
    numbers = {_ENSEMBLE: 1, _OUT_OF_FOLD: 0}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in numbers or not value.isdecimal() or int(value) < 2:
            raise UsageError(
                f"{_OPTION} {text}: expected {_ENSEMBLE}=N or {_OUT_OF_FOLD}=K of 2 or more after the size, got "
                f"{setting!r}; correct it"
            )
        numbers[key] = int(value)
    one = TeacherChoice(modalities=tuple(sorted(wanted, key=order.index)), preset=preset_named(size, option=_OPTION))
    if numbers[_OUT_OF_FOLD]:
        one = TeacherChoice(modalities=one.modalities, preset=one.preset, out_of_fold=numbers[_OUT_OF_FOLD])
    return [one] * numbers[_ENSEMBLE]
