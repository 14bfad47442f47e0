"""The recipe; docs/your-own-data.md explains every key."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec

from mmkd_edge.errors import DatasetError, UsageError, first_line
from mmkd_edge.frames import Region
from mmkd_edge.spec import ModalityKind, Normalise, TaskKind
from mmkd_models.data.importing.clock import Duplicates, Resample
from mmkd_models.data.importing.keys import (
    MAX_RECIPE_BYTES,
    MAX_SCALE,
    MAX_SECONDS,
    RATES_HZ,
    Key,
    TextTable,
    key_problems,
)
from mmkd_models.data.importing.patterns import path_parts, pattern_problem
from mmkd_models.data.importing.readers.formats import WITH_RATE, Format, find_format, suffixes
from mmkd_models.data.spec import name_problem, refuse

RECIPE_VERSION = 1
TARGET = ".target"
"""The sensor name of the column whose number is predicted; no modality is called so."""
_PLAIN_TYPES = {"float": "a number", "int": "a whole number", "str": "text", "bool": "true or false"}
_PLAIN_TYPES |= {"array": "a list", "object": "a table"}

_RATE = Key(low=RATES_HZ[0], high=RATES_HZ[1], unit="Hz")
_WINDOW = Key(low=1 / RATES_HZ[1], high=MAX_SECONDS, unit="s")
_FRACTION = Key(above=0, high=1)
_NO_VIDEO, _VIDEO = Key(only="-video"), Key(only="video")


def _range_problem(bounds: tuple[float, float]) -> str | None:
    low, high = bounds
    return None if low < high else f"expected [low, high] with low below high, got {[low, high]}; swap or correct it"


def _scale_problem(scales: dict[str, dict[str, float]]) -> str | None:
    for factor in (factor for factors in scales.values() for factor in factors.values()):
        if not abs(factor) <= MAX_SCALE:
            return f"expected factors from {-MAX_SCALE:g} to {MAX_SCALE:g}, got {factor:g}; correct it"
    return None


def _region_problem(region: Region) -> str | None:
    is_right = min(region) >= 0 and min(region[2:]) >= 1
    return None if is_right else f"expected [x, y, width, height] of 0 or more pixels, got {list(region)}; correct it"


def _classes_problem(classes: tuple[str, ...]) -> str | None:
    is_right = len(set(classes)) == len(classes)
    return None if is_right else f"expected different names, got {list(classes)}; name each class once"


class SensorSource(TextTable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sensor and its files."""

    modality: Annotated[str, Key(check=name_problem)] = ""
    sensors: dict[str, tuple[str, ...] | dict[str, str]] = msgspec.field(default_factory=dict)
    files: Annotated[str, Key(check=pattern_problem)]
    kind: ModalityKind | None = None
    format: Format | Literal["auto"] = "auto"
    time: Annotated[str, _NO_VIDEO] = ""
    start: str = ""
    rate_hz: Annotated[float | None, _RATE] = None
    channels: tuple[str, ...] | dict[str, str] = ()
    unit: Annotated[str, _NO_VIDEO] = ""
    scale: Annotated[float, Key(low=-MAX_SCALE, high=MAX_SCALE, only="-video")] = 1.0
    file_scale: Annotated[dict[str, dict[str, float]], Key(check=_scale_problem, only="-video")] = msgspec.field(
        default_factory=dict
    )
    range: Annotated[tuple[float, float] | None, Key(check=_range_problem, only="-video")] = None
    normalise: Annotated[Normalise, _NO_VIDEO] = "none"
    duplicates: Annotated[Duplicates, _NO_VIDEO] = "error"
    unsorted: Annotated[Literal["error", "sort"], _NO_VIDEO] = "error"
    max_gap_s: Annotated[float | None, Key(above=0, high=MAX_SECONDS, unit="s")] = None
    resample: Annotated[Resample, _NO_VIDEO] = "linear"
    resample_hz: Annotated[float | None, _RATE] = None
    tag: Annotated[str, _NO_VIDEO] = ""
    value: str = ""
    quality: Annotated[str, _NO_VIDEO] = ""
    quality_ok: tuple[str, ...] = ()
    hold_s: Annotated[float | None, Key(above=0, high=MAX_SECONDS, unit="s", only="-video")] = None
    height: Annotated[int | None, _VIDEO] = None
    width: Annotated[int | None, _VIDEO] = None
    region: Annotated[Region | None, Key(check=_region_problem, only="video")] = None

    @property
    def modality_kind(self) -> ModalityKind:
        """Kind of the modality in the dataset."""
        return self.kind or ("video" if self.file_format == "video" else "series")

    @property
    def file_format(self) -> Format | None:
        """Format of the files; None if unknown."""
        return find_format(Path(self.files)) if self.format == "auto" else self.format

    @property
    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield forbidden combinations: the key, or empty, and the problem."""
        yield from self.text_problems
        if bool(self.modality) == bool(self.sensors):
            got = "both" if self.modality else "none"
            yield "", f"expected 'modality', or 'sensors' with the columns of each, got {got}; name one of them"
        if self.sensors and self.channels:
            yield "channels", "not with 'sensors', which name the columns; remove them"
        names = [*(name for columns in self.sensors.values() for name in columns), *self.channels]
        unknown = [name for factors in self.file_scale.values() for name in factors if names and name not in names]
        if unknown:
            yield "file_scale", f"expected channels among {', '.join(names)}, got {unknown[0]!r}; correct it"
        for name, columns in self.sensors.items():
            if text := name_problem(name):
                yield "sensors", text
            if not columns:
                yield "sensors", f"expected the columns of {name!r}, got none; write {name} = ['COLUMN']"
        kind, form = self.modality_kind, self.file_format
        if form is None:
            yield "files", f"expected a suffix of {', '.join(suffixes())}, got {self.files!r}; set 'format'"
        if kind == "audio" and form == "video":
            yield "kind", "the sound of a video needs files of its own; write them with ffmpeg -i FILE -vn FILE.wav"
        elif kind == "audio" and form != "wav":
            yield "kind", f"'audio' needs sound files, got {form}; make it a series"
        elif kind != "audio" and (kind == "video") != (form == "video"):
            yield "kind", f"{kind!r} does not fit files of format {form!r}; correct it"
        if not self.time and self.rate_hz is None and form not in WITH_RATE:
            yield "", "'time' and 'rate_hz' are missing; name the column of timestamps, or give the samples per second"
        if self.time and self.start:
            yield "", "'time' and 'start' exclude each other; remove 'start'"
        parts = path_parts(self.files)
        for name in path_parts(self.start):
            if name not in parts:
                yield "start", f"expected parts of the path, got {{{name}}}; 'files' has {', '.join(parts) or 'none'}"
        if bool(self.tag) != bool(self.value):
            given = "tag" if self.tag else "value"
            yield "", f"'tag' and 'value' belong together, got {given!r} alone; name both columns"
        if self.quality and not (self.tag and self.quality_ok):
            yield "quality", "needs 'tag', 'value' and 'quality_ok'; say which qualities count"
        if self.tag and not self.channels and not self.sensors:
            yield "channels", "a tall table needs the names of its tags; write channels = {temp = 'PLC1.T1'}"
        if (self.resample == "hold") != (self.hold_s is not None):
            yield "", "resample = 'hold' and 'hold_s' belong together; set both, or none"
        if kind == "video" and (self.height is None or self.width is None):
            yield "", "'height' and 'width' are missing; give the size of the frames in the dataset, in pixels"
        if kind == "video" and self.channels not in ((), ("gray",), ("r", "g", "b")):
            yield "channels", f"expected ['gray'] or ['r', 'g', 'b'], got {list(self.channels)}; correct it"


class LabelRule(TextTable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Class, labels or number of a window; without a source nothing is labelled, or with task = 'normal' all normal."""

    task: TaskKind = "classification"
    path: str = ""
    column: str = ""
    files: Annotated[str, Key(check=pattern_problem)] = ""
    table: Annotated[str, Key(check=pattern_problem)] = ""
    format: Literal["csv", "label_studio"] = "csv"
    start: str = "start"
    end: str = "end"
    label: str = "label"
    file: str = "file"
    match: dict[str, str] = msgspec.field(default_factory=dict)
    rate_hz: Annotated[float | None, _RATE] = None
    classes: Annotated[tuple[str, ...], Key(check=_classes_problem)] = ()
    rename: dict[str, str] = msgspec.field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    purity: Annotated[float, Key(above=0.5, high=1)] = 0.8
    unlabelled: Literal["drop", "keep"] = "drop"
    separator: str = "+"
    target: str = ""
    unit: str = ""

    @property
    def normal(self) -> str:
        """Name of normal running, of task = 'normal'."""
        return self.classes[0] if self.classes else "normal"

    @property
    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield forbidden combinations: the key, or empty, and the problem."""
        yield from self.text_problems
        named = [key for key in ("path", "column", "files", "table") if getattr(self, key)]
        is_unlabelled = not named and self.unlabelled == "keep" and bool(self.classes or self.target)
        if self.task == "normal" and named and not self.classes:
            yield "classes", "missing; name the label of normal running first, then those of known faults"
        is_unlabelled = is_unlabelled or (self.task == "normal" and not named)
        if len(named) != 1 and not is_unlabelled:
            got = " and ".join(named) or "none"
            yield "", f"expected one of 'path', 'column', 'files' and 'table', got {got}; say where labels come from"
        for key in ("target", "unit"):
            if getattr(self, key) and self.task != "regression":
                yield key, f"only for task = 'regression', got task = {self.task!r}; remove one of them"
        if self.task == "regression" and self.classes:
            yield "classes", f"not for task = 'regression', got {list(self.classes)}; remove them"
        if self.task == "multi_label" and not self.separator:
            yield "separator", "expected one or more characters, got none; name the sign between two labels"
        if self.format == "csv" and Path(self.files).suffix.lower() == ".json":
            yield "format", "a JSON file is read as 'label_studio'; set it, or name other files"


class WindowRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How windows are cut."""

    length_s: Annotated[float, _WINDOW]
    stride_s: Annotated[float | None, _WINDOW] = None
    at: Literal["stride", "intervals"] = "stride"
    cover: Literal["all", "any"] = "all"
    metadata: tuple[str, ...] = ()

    @property
    def hop_s(self) -> float:
        """Seconds between window starts."""
        return self.length_s if self.stride_s is None else self.stride_s

    @property
    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield forbidden combinations of keys."""
        if self.at == "intervals" and self.stride_s is not None:
            yield "stride_s", "not with at = 'intervals'; remove one of them"


class SplitRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Split of windows into train, valid and test."""

    group: str | tuple[str, ...] = ""
    column: str = ""
    valid: Annotated[float | tuple[str, ...], _FRACTION] = 0.2
    test: Annotated[float | tuple[str, ...], _FRACTION] = 0.2
    folds: Annotated[int | None, Key(low=3)] = None
    gap_s: Annotated[float, Key(low=0, high=MAX_SECONDS, unit="s")] = 0.0
    drop_copies: bool = False
    seed: Annotated[int, Key(low=0)] = 0

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the facts that make a group together."""
        return tuple(filter(None, (self.group,) if isinstance(self.group, str) else self.group))

    @property
    def group_text(self) -> str:
        """Names of the facts, for messages."""
        return " and ".join(map(repr, self.groups))

    @property
    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield forbidden combinations of keys."""
        fractions = [part for part in (self.valid, self.test) if isinstance(part, float | int)]
        has_names = len(fractions) < 2
        if sum(fractions) >= 1:
            yield "valid", f"'valid' and 'test' leave nothing to train on, got {fractions}; keep their sum below 1"
        if self.column and (self.folds is not None or has_names):
            yield "column", "not with 'folds' or names of groups; remove them"
        if has_names and not self.group:
            yield "group", "missing, but 'valid' or 'test' name groups; say which part of the path they are"
        if self.folds is not None and (has_names or not self.group):
            yield "folds", "needs a 'group', and no names of groups in 'valid' and 'test'; correct it"


class DatasetFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name, origin and licence of the dataset, and sensors derived from its own."""

    name: str = ""
    source: str = ""
    licence: str = ""
    derived: tuple[str, ...] = ()


class ImportRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `recipe.toml`."""

    version: int
    exclude: tuple[str, ...] = ()
    source: tuple[SensorSource, ...]
    labels: LabelRule
    windows: WindowRule
    dataset: DatasetFacts = DatasetFacts()
    split: SplitRule = SplitRule()


def read_recipe(file: Path) -> ImportRecipe:
    """Read a recipe. Raise UsageError if it is missing, DatasetError with every problem."""
    if not file.is_file():
        raise UsageError(f"{file}: no such recipe (.toml); draft one with mmkd-data recipe")
    size = file.stat().st_size
    if size > MAX_RECIPE_BYTES:
        raise DatasetError(
            f"{file}: expected a recipe of at most {MAX_RECIPE_BYTES:,} bytes, got {size:,}; name the right file"
        )
    text = _read_text(file)
    try:
        recipe = msgspec.toml.decode(text, type=ImportRecipe)
    except msgspec.ValidationError as error:
        raise DatasetError(f"{file}: {_plain_text(error)}; docs/your-own-data.md lists every key") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: expected TOML, got {_toml_problem(text, error)}") from error
    except ImportError as error:  # Python 3.10 has no TOML reader of its own
        raise UsageError(f"{file}: reading TOML needs tomli; run: pip install 'mmkd-edge[import]'") from error
    refuse(file, list(_recipe_problems(recipe)))
    return msgspec.structs.replace(recipe, source=tuple(_single_sensors(recipe)))


def _read_text(file: Path) -> str:
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        got = f"byte 0x{content[error.start]:02x} in line {line}"
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            got = "UTF-16, as Windows PowerShell and Notepad may write"
        raise DatasetError(f"{file}: expected TOML in UTF-8, got {got}; save the recipe as UTF-8") from error


def _single_sensors(recipe: ImportRecipe) -> Iterator[SensorSource]:
    for source in recipe.source:
        if source.modality:
            yield source
        for name, columns in source.sensors.items():
            its = {  # the factors of this sensor's channels
                file: {channel: factor for channel, factor in factors.items() if channel in columns}
                for file, factors in source.file_scale.items()
            }
            yield msgspec.structs.replace(source, modality=name, channels=columns, sensors={}, file_scale=its)


def _plain_text(error: msgspec.ValidationError) -> str:
    text, _, path = str(error).partition(" - at `$.")
    for names in re.findall(r"`([\w |]+)`", text):
        types = [_PLAIN_TYPES.get(name, repr(name)) for name in names.split(" | ") if name != "null"]
        text = text.replace(f"`{names}`", " or ".join(types) or "nothing")
    text = text.replace("Object contains unknown field", "unknown key").replace("Invalid enum value", "unknown value")
    text = text.replace("Object missing required field", "missing key")
    rules = (SensorSource, LabelRule, WindowRule, SplitRule, DatasetFacts) if path else (ImportRecipe,)
    if text.startswith("unknown value"):
        key = path.rstrip("`").rpartition(".")[2]
        of = ("source", "labels", "windows", "split", "dataset").index(re.split(r"[.\[]", path)[0])
        known = next(field.type for field in msgspec.structs.fields(rules[of]) if field.name == key)
        text += f"; choose one of {', '.join(_choices(known))}"
    if unknown := re.match(r"unknown key '(\w+)'", text):
        close = get_close_matches(
            unknown[1], [field.name for rule in rules for field in msgspec.structs.fields(rule)], 1
        )
        place = _PLACES.get(unknown[1]) if path or not close else None
        text += f"; write it {place}" if place else f", perhaps {close[0]!r} is meant" if close else ""
    return f"'{path[:-1]}': {text[0].lower()}{text[1:]}" if path else text


_TABLES = {"[[source]]": SensorSource, "[labels]": LabelRule, "[windows]": WindowRule, "[split]": SplitRule}
_PLACES = {
    **{name: f"under {table}" for table, rule in reversed(_TABLES.items()) for name in rule.__struct_fields__},
    **dict.fromkeys(("version", "exclude"), "above the first [[source]]"),
}


def _choices(kind: object) -> Iterator[str]:
    for item in get_args(kind):
        yield from (item,) if isinstance(item, str) else _choices(item)


def _toml_problem(text: str, error: Exception) -> str:
    said = first_line(error)
    number = int(where[1]) if (where := re.search(r"line (\d+)", said)) else 1
    line = text.splitlines()[number - 1].strip()
    if comma := re.search(r"=\s*(-?\d+),(\d+)\s*(?:#.*)?$", line):
        return f"{line!r} in line {number}; write the number with a point: {comma[1]}.{comma[2]}"
    if said.startswith("Cannot overwrite a value"):
        return f"a key again, {line!r} in line {number}; join both lines into one"
    return f"{said}; correct that line"


def _recipe_problems(recipe: ImportRecipe) -> Iterator[str]:
    if recipe.version != RECIPE_VERSION:
        yield f"'version': expected {RECIPE_VERSION}, got {recipe.version}; use the mmkd-edge that wrote it"
    for pattern in recipe.exclude:
        if text := pattern_problem(pattern):
            yield f"'exclude': {text}"
    names = [name for source in recipe.source for name in source.sensors or (source.modality,)]
    if not names:
        yield "'source': no sensor is described; write a [[source]] for each"
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"'source': modality {name!r} is there {names.count(name)} times; give each sensor its own name"
    for number, source in enumerate(recipe.source):
        yield from rule_problems(source, f"source[{number}]", name=source.modality, kind=source.modality_kind)
    for table in ("labels", "windows", "split"):
        yield from rule_problems(getattr(recipe, table), table)
    has_intervals = recipe.labels.files or (recipe.labels.column and recipe.labels.task != "regression")
    if recipe.windows.at == "intervals" and not has_intervals:
        yield "'windows.at': 'intervals' needs labelled intervals; name 'labels.files'"
    if recipe.windows.at == "intervals" and recipe.labels.task == "multi_label":
        yield "'windows.at': 'intervals' is not for several labels at once; give 'stride_s'"


def rule_problems(
    rule: SensorSource | LabelRule | WindowRule | SplitRule, table: str, *, name: str = "", kind: str = ""
) -> Iterator[str]:
    """Yield a message for every rule that a table breaks."""
    sensor = f" ({name})" if name else ""
    for key, text in (*key_problems(rule, kind=kind), *rule.problems):
        yield f"'{table}{f'.{key}' if key else ''}'{sensor}: {text}"


def rate_problem(rate_hz: float) -> str | None:
    """Return the problem of a rate, or None."""
    return None if _RATE.allows(rate_hz) else f"expected {_RATE.range_text}, got {rate_hz:g}; correct it"
