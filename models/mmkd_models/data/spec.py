"""Content and rules of `dataset.json`."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.strict_json import JsonError, parse_object
from mmkd_edge.derive import derived_modality
from mmkd_edge.errors import DatasetError, UsageError, unprintable_in
from mmkd_edge.frames import mask_missing, missing_frames
from mmkd_edge.spec import COLOURS, ModalityKind, ModalitySpec, TaskKind, TaskSpec, stored, task_fault

Values = npt.NDArray[Any]
"""Windows in memory: float32 (B, T, C), NaN = missing; of video uint8 (B, T, H, W, C), masked if frames are missing."""

# int16 has no NaN; its lowest value, which no symmetric scale needs, stands for a missing sample.
MISSING_COUNT = np.int16(-32768)
FULL_SCALE = 32768  # PCM of 16 bits runs from -1 to just below 1 (AES17)

MAX_WINDOW_VALUES = 1 << 20  # training on 32 windows takes a few GB; one of sound at 16 kHz lasts a minute
MAX_WINDOW_BYTES = 1 << 24  # of video: 32 windows are half a GB, and 2 GB as float32
MAX_SIDE_PIXELS = 1024
MAX_SOUND_HZ = 192_000.0
STORED_DTYPES: dict[ModalityKind, tuple[Literal["float32", "int16", "uint8"], ...]] = {
    "series": ("float32",),
    "audio": ("int16", "float32"),
    "video": ("uint8",),
}
"""Dtypes of a file of windows, the usual one first."""
STORABLE: dict[ModalityKind, str] = {
    "series": "numbers that fit float32",
    "audio": "floats from -1 to 1 or int16",
    "video": "uint8",
}
SAMPLE_LETTERS: dict[ModalityKind, str] = {"series": "C", "audio": "C", "video": "H, W, C"}
_BLOCK_BYTES = 1 << 26
_BLOCK_WINDOWS = 256
FORMAT_VERSION = 1
SPEC_FILE = "dataset.json"
_CALLED: dict[TaskKind, str] = {
    "classification": "class",
    "multi_label": "label",
    "regression": "target",
    "normal": "known fault after normal running",
}
_ONE_CLASS = (
    "; if all of it is normal running, make a dataset of normal running (task = 'normal' under [labels] of a recipe, or"
    " --normal NAME with windows): docs/normal-data.md"
)
_RESERVED_NAMES = ("labels", "groups", "folds", "lengths", "splits", "times", "starts", "episodes")


def kind_problems(modality: ModalitySpec) -> Iterator[str]:
    """Yield a message for every broken rule of its kind."""
    sides = {"height": modality.height, "width": modality.width}
    if modality.kind != "video":
        for key, side in sides.items():
            if isinstance(side, int):
                yield f'expected no {key} of kind {modality.kind!r}, got {side}; remove it, or say "kind": "video"'
    if modality.kind == "series":
        return
    for key, side in sides.items() if modality.kind == "video" else ():
        if not isinstance(side, int) or not 1 <= side <= MAX_SIDE_PIXELS:
            got = side if isinstance(side, int) else "none"
            yield f"expected a {key} from 1 to {MAX_SIDE_PIXELS} pixels, got {got}; give that of the stored frames"
    if modality.kind == "video" and modality.channels not in COLOURS:
        yield f"expected the channels gray, or r, g and b, got {list(modality.channels)}; frames have no others"
    if modality.kind == "audio" and modality.rate_hz > MAX_SOUND_HZ:
        yield f"expected a rate_hz of sound up to {MAX_SOUND_HZ:g}, got {modality.rate_hz:g}; resample it"
    if modality.range is not None:
        bounds = "-1 to 1" if modality.kind == "audio" else "0 to 255"
        yield f"expected no range of kind {modality.kind!r}, got {list(modality.range)}; it is {bounds}: remove it"
    if modality.normalise != "none":
        yield f"expected no normalise of kind {modality.kind!r}, got {modality.normalise!r}; only series have it"


def size_problem(modality: ModalitySpec) -> str | None:
    """Return the problem and fix of a window too large to train on, or None."""
    samples, width = modality.samples, int(np.prod(modality.shape[1:], dtype=object))
    if modality.kind == "video":
        if samples * width <= MAX_WINDOW_BYTES:
            return None
        shape = " x ".join(f"{side:,}" for side in modality.shape)
        return (
            f"expected windows of at most {MAX_WINDOW_BYTES:,} bytes, got {shape} = {samples * width:,};"
            f" cut windows of at most {MAX_WINDOW_BYTES // width:,} frames, or make the frames smaller"
        )
    if samples * width <= MAX_WINDOW_VALUES:
        return None
    longest = MAX_WINDOW_VALUES // width
    times = -(-samples // max(1, longest))
    return (
        f"expected windows of at most {MAX_WINDOW_VALUES:,} values, got {samples:,} samples x {width:,} channels;"
        f" cut windows of at most {longest:,} samples, or filter and keep one sample in {times},"
        f" {modality.rate_hz / times:g} Hz"
    )


def decode_samples(stored: Values, *, kind: ModalityKind, scale: Values | None = None) -> Values:
    """Decode stored windows (B, T, ...): int16 becomes float32 by `scale` (C,), NaN = missing."""
    if kind == "video" or stored.dtype == np.float32:
        return stored
    factor = np.float32(1 / FULL_SCALE) if scale is None else scale
    values: npt.NDArray[np.float32] = np.multiply(stored, factor, dtype=np.float32)
    values[stored == MISSING_COUNT] = np.nan
    return values


def with_present(frames: Values, present: Values) -> Values:
    """Mask frames (..., T, H, W, C) where `present` (..., T) is 0; the array itself if all are present."""
    return mask_missing(frames, np.asarray(present) == 0)


def frame_presence(frames: Values) -> npt.NDArray[np.uint8] | None:
    """Return uint8 (..., T) whether frames (..., T, H, W, C) are present; None if none is masked."""
    missing = missing_frames(frames)
    return (~missing).astype(np.uint8) if missing.any() else None


def storable(values: Values, kind: ModalityKind) -> Values | None:
    """Return samples as stored: float32, int16 audio, uint8 video; None if more than digits would be lost."""
    if kind == "video":
        return values.view(np.ndarray) if values.dtype == np.uint8 else None
    if kind == "audio" and values.dtype == np.int16:
        return np.ascontiguousarray(values)
    if values.dtype.kind not in ("f" if kind == "audio" else "biuf"):
        return None
    with np.errstate(over="ignore"):  # infinite, which the check refuses
        return np.ascontiguousarray(values, dtype=np.float32)


def window_bytes(modality: ModalitySpec) -> int:
    """Return the bytes of one window."""
    return math.prod(modality.shape) * np.dtype(modality.dtype).itemsize


def windows_at_once(modality: ModalitySpec) -> int:
    """Return the windows per read: 256, fewer for large ones."""
    return int(np.clip(_BLOCK_BYTES // max(1, window_bytes(modality)), 1, _BLOCK_WINDOWS))


SplitName = Literal["train", "valid", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)


class RecordingsSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How windows are cut from `recordings/`; `scale` is one int16 count by modality and channel."""

    hop_s: float
    scale: dict[str, tuple[float, ...]] = {}


class DatasetSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Content of `dataset.json`.

    `left_out` counts windows by reason, `episodes` has the file of each by number, `episode_files` those of modalities
    with other files, `derived` texts of cheaper sensors.
    """

    format_version: int = stored(FORMAT_VERSION)
    name: str
    task: TaskSpec
    modalities: tuple[ModalitySpec, ...]
    splits: dict[str, int]
    source: str = stored("")
    licence: str = stored("")
    recordings: RecordingsSpec | None = stored(None)
    left_out: dict[str, int] | None = None
    episodes: tuple[str, ...] | None = None
    episode_files: dict[str, tuple[str, ...]] | None = None
    derived: tuple[str, ...] | None = None

    @property
    def sensors(self) -> tuple[ModalitySpec, ...]:
        """The recorded modalities, then the derived ones, which no teacher sees."""
        return (*self.modalities, *map(self.modality, self.derived or ()))

    @property
    def shapes_text(self) -> str:
        """Each modality's shape (T, C), of video (T, H, W, C), in a line."""
        return ", ".join(f"{modality.name} {modality.shape}" for modality in self.modalities)

    def has(self, name: str) -> bool:
        """Return whether a modality is recorded, or can be derived."""
        is_recorded = any(modality.name == name for modality in self.modalities)
        return is_recorded or derived_modality(name, self.modalities) is not None

    def modality(self, name: str) -> ModalitySpec:
        """Return a recorded, derived or joined modality. Raise UsageError if it is unknown or cannot be made."""
        for modality in self.modalities:
            if modality.name == name:
                return modality
        if (derived := derived_modality(name, self.modalities)) is not None:
            return derived
        names = ", ".join(modality.name for modality in self.modalities)
        raise UsageError(f"dataset {self.name!r}: modality {name!r} is not in it; choose one of {names}")


def read_dataset_spec(path: Path) -> DatasetSpec:
    """Read a directory's `dataset.json`. Raise DatasetError if it is missing or breaks its rules."""
    file = path / SPEC_FILE
    if path.is_file():
        got, cure = "a file", "make a dataset of it with mmkd-data import"
        if path.suffix in (".ckpt", ".edge"):
            got, cure = "a model", "name the dataset here, and the model before it where a command takes both"
        raise DatasetError(f"{path}: expected a dataset directory, got {got}; {cure}")
    if not path.is_dir():
        raise DatasetError(f"{path}: expected a dataset directory, found none there; check the path")
    if not file.is_file():
        raise DatasetError(
            f"{path}: expected a dataset directory, got one without {SPEC_FILE};"
            " make one with mmkd-data import or write_dataset"
        )
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
    refuse(f"dataset {path}", list(spec_problems(spec)))
    return spec


def refuse(where: Path | str, problems: Sequence[str]) -> None:
    """Raise DatasetError with all problems, if any."""
    if problems:
        lines = problems if len(problems) == 1 else [f"{len(problems)} problems", *problems]
        raise DatasetError("\n  - ".join([f"{where}: {lines[0]}", *lines[1:]]))


def derived_problems(texts: Sequence[str], modalities: Sequence[ModalitySpec]) -> Iterator[str]:
    """Yield a message for every text that derives no sensor from these, or is repeated."""
    names = set[str]()
    for text in texts:
        try:
            modality = derived_modality(text, modalities)
        except UsageError as error:
            yield str(error)
            continue
        if modality is None:
            known = ", ".join(modality.name for modality in modalities)
            yield f"expected texts such as acc@25Hz,8bit, of the sensors {known}, got {text!r}; correct it"
        elif modality.name in names:
            yield f"{modality.title!r} is there twice; name each once"
        else:
            names.add(modality.name)


def spec_problems(spec: DatasetSpec) -> Iterator[str]:
    """Yield a message for every broken rule beyond types."""
    task = spec.task
    fewest, noun = (2, "two or more different classes") if task.kind == "classification" else (1, "different labels")
    if (fault := task_fault(task)) is not None:
        yield f"{SPEC_FILE}: 'task.{fault[0]}': {fault[1]}"
    elif len(task.labels) < fewest or len(set(task.labels)) < len(task.labels) or not all(task.labels):
        offer = _ONE_CLASS if fewest == 2 and len(task.labels) == 1 else ""
        got = f"got {list(task.labels)}; name each {_CALLED[task.kind]}{offer}"
        yield f"{SPEC_FILE}: 'task.labels': expected {noun}, {got}"
    texts: dict[str, Sequence[str]] = {"name": [spec.name], "task.labels": task.labels, "task.unit": [task.unit or ""]}
    for number, modality in enumerate(spec.modalities):
        texts[f"modalities[{number}].channels"] = modality.channels
        texts[f"modalities[{number}].unit"] = [modality.unit]
    for key, names in texts.items():
        if name := unprintable_in(names):
            expected = "expected text without control characters and line breaks"
            yield f"{SPEC_FILE}: '{key}': {expected}, got {name!a}; rename it"
    if not spec.modalities:
        yield f"{SPEC_FILE}: 'modalities': expected one or more, got none; describe each sensor"
    for name, count in sorted(Counter(modality.name for modality in spec.modalities).items()):
        if count > 1:
            yield f"{SPEC_FILE}: 'modalities': {name!r} is there {count} times; give each its own name"
    for number, modality in enumerate(spec.modalities):
        for text in _modality_problems(modality):
            yield f"{SPEC_FILE}: 'modalities[{number}]' ({modality.name}): {text}"
    if set(spec.splits) != set(SPLIT_NAMES):
        yield (
            f"{SPEC_FILE}: 'splits': expected train, valid and test, got {', '.join(sorted(spec.splits)) or 'none'};"
            " give the number of windows of each"
        )
    for name, count in spec.splits.items():
        if name in SPLIT_NAMES and count < 1:
            yield f"{SPEC_FILE}: split {name!r} is empty; expected one window or more; move whole groups into it"
    for text in derived_problems(spec.derived or (), spec.modalities):
        yield f"{SPEC_FILE}: 'derived': {text}"
    if spec.recordings is not None:
        yield from _recordings_problems(spec.recordings, spec.modalities)


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
    if modality.sources:
        yield f"expected a recorded modality, got {'derived' if modality.derived else 'parts'!r}; remove the key"
    yield from kind_problems(modality)


def _recordings_problems(recordings: RecordingsSpec, modalities: Sequence[ModalitySpec]) -> Iterator[str]:
    if not 0 < recordings.hop_s < float("inf"):
        yield f"{SPEC_FILE}: 'recordings.hop_s': expected seconds above 0, got {recordings.hop_s}; correct it"
    channels = {modality.name: len(modality.channels) for modality in modalities}
    for name, scale in recordings.scale.items():
        if name not in channels:
            yield f"{SPEC_FILE}: 'recordings.scale': modality {name!r} is not in 'modalities'; remove it"
        elif len(scale) != channels[name] or not all(0 < value < float("inf") for value in scale):
            yield (
                f"{SPEC_FILE}: 'recordings.scale.{name}': expected {channels[name]} numbers above 0,"
                f" got {list(scale)}; give one per channel"
            )


def refuse_normal(spec: DatasetSpec, who: str) -> None:
    """Raise UsageError for a dataset of normal running, from which `who` cannot learn."""
    if spec.task.kind == "normal":
        raise UsageError(
            f"{who}: expected labelled classes, labels or numbers to learn from, got dataset {spec.name!r} of normal"
            " running; train one sensor's student on it with mmkd-train student, as docs/normal-data.md shows"
        )


def name_problem(name: str) -> str | None:
    """Return the problem of a modality's name, or None. NFC only: NFD would be another name of the same letters."""
    is_word = name.isidentifier() and name[0] != "_" and unicodedata.is_normalized("NFC", name)
    if is_word and name not in _RESERVED_NAMES:
        return None
    return (
        f"expected a name of letters, digits and _ that starts with a letter and is none of"
        f" {', '.join(_RESERVED_NAMES)}; rename it"
    )


def size_problems(spec: DatasetSpec) -> Iterator[str]:
    """Yield a message for every modality too large to train on; such a dataset still opens."""
    for number, modality in enumerate(spec.modalities):
        if text := size_problem(modality):
            yield f"{SPEC_FILE}: 'modalities[{number}]' ({modality.name}): {text}"
