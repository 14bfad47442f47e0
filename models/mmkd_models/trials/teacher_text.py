"""Teachers of a study as text: `small`, `small,committee`, `acc+gyro:small,out-of-fold=5`, `gyro:tiny,ensemble=3`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import Dataset
from mmkd_models.networks.config import preset_named
from mmkd_models.training.committee import default_members
from mmkd_models.trials.space import TeacherChoice, mixed_choice

_OPTION = "--teacher"
_ENSEMBLE, _OUT_OF_FOLD, _COMMITTEE = "ensemble", "out-of-fold", "committee"


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
        if setting == _COMMITTEE:
            continue
        if key not in numbers or not value.isdecimal() or int(value) < 2:
            raise UsageError(
                f"{_OPTION} {text}: expected {_COMMITTEE}, or {_ENSEMBLE}=N or {_OUT_OF_FOLD}=K of 2 or more after the "
                f"size, got {setting!r}; correct it"
            )
        numbers[key] = int(value)
    is_committee = _COMMITTEE in settings
    if is_committee and numbers[_OUT_OF_FOLD]:
        raise UsageError(
            f"{_OPTION} {text}: expected transformers alone to be cross-fitted, got a committee; leave out "
            f"{_OUT_OF_FOLD} or {_COMMITTEE}"
        )
    specs = [spec for spec in dataset.spec.modalities if spec.name in wanted]
    one = TeacherChoice(
        modalities=tuple(spec.name for spec in specs),
        preset=preset_named(size, option=_OPTION),
        out_of_fold=numbers[_OUT_OF_FOLD] or msgspec.UNSET,
        committee=default_members(specs) if is_committee else msgspec.UNSET,
    )
    return [one] * numbers[_ENSEMBLE]
