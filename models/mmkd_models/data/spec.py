"""`dataset.json`: its content and its rules."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import msgspec

from mmkd_edge.bundle.strict_json import JsonError, parse_object
from mmkd_edge.errors import DatasetError, UsageError, unprintable_in
from mmkd_edge.spec import ModalitySpec, TaskKind, TaskSpec, task_fault
from mmkd_models.data.kinds import kind_problems, size_problem

SplitName = Literal["train", "valid", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)
FORMAT_VERSION = 1
SPEC_FILE = "dataset.json"

_CALLED: dict[TaskKind, str] = {"classification": "class", "multi_label": "label", "regression": "target"}
_RESERVED_NAMES = ("labels", "groups", "folds", "lengths", "splits", "times", "episodes")


class RecordingsSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How windows are cut from `recordings/`; `scale` is the value of one int16 count of each channel, by modality."""

    hop_s: float
    scale: dict[str, tuple[float, ...]] = {}


class DatasetSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `dataset.json`; `left_out` counts windows that an import left out, by reason."""

    format_version: int = FORMAT_VERSION
    name: str
    task: TaskSpec
    modalities: tuple[ModalitySpec, ...]
    splits: dict[str, int]
    source: str = ""
    licence: str = ""
    recordings: RecordingsSpec | None = None
    left_out: dict[str, int] | msgspec.UnsetType = msgspec.UNSET

    @property
    def shapes_text(self) -> str:
        """Each modality with its shape (T, C), of video (T, H, W, C), in a line."""
        return ", ".join(f"{modality.name} {modality.shape}" for modality in self.modalities)

    def modality(self, name: str) -> ModalitySpec:
        """Return the modality of this name. Raise UsageError if it is unknown."""
        for modality in self.modalities:
            if modality.name == name:
                return modality
        names = ", ".join(modality.name for modality in self.modalities)
        raise UsageError(f"dataset {self.name!r}: modality {name!r} is not in it; choose one of {names}")


def read_dataset_spec(path: Path) -> DatasetSpec:
    """Read `dataset.json` of a directory. Raise DatasetError if it is missing or breaks its rules."""
    file = path / SPEC_FILE
    if not path.is_dir():
        raise DatasetError(f"{path}: expected a dataset directory, found none there; check the path")
    if not file.is_file():
        raise DatasetError(
            f"{path}: expected a dataset directory, got one without {SPEC_FILE};"
            " make one with mmkd-data import or write_dataset"
        )
    spec = _decode(file)
    problems = list(spec_problems(spec))
    if problems:
        raise DatasetError(problem_message(path, problems))
    return spec


def require_classification(spec: DatasetSpec, *, what: str) -> None:
    """Raise UsageError if the task is not a classification; `what` names the command."""
    if spec.task.kind != "classification":
        raise UsageError(
            f"{what}: expected a dataset of classes, got {spec.name!r} of the kind {spec.task.kind}, whose figures"
            " have no mean with those of others; study it by itself with mmkd-study"
        )


def problem_message(path: Path, problems: list[str]) -> str:
    """Return one message for the problems of a dataset."""
    if len(problems) == 1:
        return f"dataset {path}: {problems[0]}"
    return "\n  - ".join([f"dataset {path}: {len(problems)} problems", *problems])


def _decode(file: Path) -> DatasetSpec:
    content = file.read_bytes()
    try:
        version = msgspec.json.decode(content, type=dict[str, msgspec.Raw]).get("format_version")
        if version is not None and bytes(version) != str(FORMAT_VERSION).encode():
            raise DatasetError(
                f"{file}: expected format_version {FORMAT_VERSION}, got {bytes(version).decode()};"
                " use the mmkd-edge that wrote it, or a newer one"
            )
        spec = msgspec.json.decode(content, type=DatasetSpec)
        parse_object(content)  # refuses a key that is there twice
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, JsonError) as error:
        raise DatasetError(f"{file}: {error}; correct the file, docs/datasets.md describes every key") from error
    return spec


def spec_problems(spec: DatasetSpec) -> Iterator[str]:
    """Yield a message for every rule that `dataset.json` breaks beyond types."""
    yield from _task_problems(spec.task)
    yield from _text_problems(spec)
    if not spec.modalities:
        yield f"{SPEC_FILE}: 'modalities': expected one or more, got none; describe each sensor"
    names = [modality.name for modality in spec.modalities]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{SPEC_FILE}: 'modalities': {name!r} is there {names.count(name)} times; give each its own name"
    for number, modality in enumerate(spec.modalities):
        for text in _modality_problems(modality):
            yield f"{SPEC_FILE}: 'modalities[{number}]' ({modality.name}): {text}"
    yield from _split_problems(spec)
    if spec.recordings is not None:
        yield from _recordings_problems(spec, spec.recordings)


def _task_problems(task: TaskSpec) -> Iterator[str]:
    fault = task_fault(task)
    if fault is not None:
        yield f"{SPEC_FILE}: 'task.{fault[0]}': {fault[1]}"
        return
    fewest, noun = (2, "two or more different classes") if task.kind == "classification" else (1, "different labels")
    if len(task.labels) < fewest or len(set(task.labels)) < len(task.labels) or not all(task.labels):
        yield f"{SPEC_FILE}: 'task.labels': expected {noun}, got {list(task.labels)}; name each {_CALLED[task.kind]}"


def _text_problems(spec: DatasetSpec) -> Iterator[str]:
    texts: dict[str, Sequence[str]] = {
        "name": [spec.name],
        "task.labels": spec.task.labels,
        "task.unit": [spec.task.unit or ""],
    }
    for number, modality in enumerate(spec.modalities):
        texts[f"modalities[{number}].channels"] = modality.channels
        texts[f"modalities[{number}].unit"] = [modality.unit]
    for key, names in texts.items():
        if name := unprintable_in(names):
            wanted = "expected text without control characters and line breaks"
            yield f"{SPEC_FILE}: '{key}': {wanted}, got {name!a}; rename it"


def name_problem(name: str) -> str | None:
    """Return the problem of a modality's name, which is a file's stem and part of a tensor's name; None if it is valid.

    Names are in NFC: the same letters in NFD would be another name that looks alike.
    """
    is_word = name.isidentifier() and name[0] != "_" and unicodedata.is_normalized("NFC", name)
    if is_word and name not in _RESERVED_NAMES:
        return None
    return (
        f"expected a name of letters, digits and _ that starts with a letter and is none of"
        f" {', '.join(_RESERVED_NAMES)}; rename it"
    )


def _modality_problems(modality: ModalitySpec) -> Iterator[str]:
    if text := name_problem(modality.name):
        yield text
    if not modality.channels or len(set(modality.channels)) < len(modality.channels):
        yield f"expected one or more different channels, got {list(modality.channels)}; name each column"
    if not 0 < modality.rate_hz < float("inf"):
        yield f"expected a rate_hz above 0, got {modality.rate_hz}; give samples per second"
    if modality.samples < 1:
        yield f"expected samples of 1 or more, got {modality.samples}; give the length of one window"
    if modality.range is not None and not modality.range[0] < modality.range[1]:
        yield f"expected range [low, high] with low below high, got {list(modality.range)}; swap or correct it"
    yield from kind_problems(modality)


def size_problems(spec: DatasetSpec) -> Iterator[str]:
    """Yield a message for every modality whose windows are too large to train on; such a dataset still opens."""
    for number, modality in enumerate(spec.modalities):
        if text := size_problem(modality):
            yield f"{SPEC_FILE}: 'modalities[{number}]' ({modality.name}): {text}"


def _split_problems(spec: DatasetSpec) -> Iterator[str]:
    if set(spec.splits) != set(SPLIT_NAMES):
        yield (
            f"{SPEC_FILE}: 'splits': expected train, valid and test, got {', '.join(sorted(spec.splits)) or 'none'};"
            " give the number of windows of each"
        )
        return
    for name in SPLIT_NAMES:
        if spec.splits[name] < 1:
            yield f"{SPEC_FILE}: split {name!r} is empty; expected one window or more; move whole groups into it"


def _recordings_problems(spec: DatasetSpec, recordings: RecordingsSpec) -> Iterator[str]:
    if not 0 < recordings.hop_s < float("inf"):
        yield f"{SPEC_FILE}: 'recordings.hop_s': expected seconds above 0, got {recordings.hop_s}; correct it"
    channels = {modality.name: len(modality.channels) for modality in spec.modalities}
    for name, scale in recordings.scale.items():
        if name not in channels:
            yield f"{SPEC_FILE}: 'recordings.scale': modality {name!r} is not in 'modalities'; remove it"
        elif len(scale) != channels[name] or not all(0 < value < float("inf") for value in scale):
            yield (
                f"{SPEC_FILE}: 'recordings.scale.{name}': expected {channels[name]} numbers above 0,"
                f" got {list(scale)}; give one per channel"
            )
