"""The recipe: which files hold which sensor, how their clocks are read, and how windows are cut, labelled and split."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from mmkd_edge.errors import DatasetError, UsageError, first_line
from mmkd_edge.spec import ModalityKind, Normalise, TaskKind
from mmkd_models.data.importing.limits import MOST_OFFSET_S, MOST_RECIPE_BYTES, MOST_SCALE, MOST_SECONDS, RATES_HZ
from mmkd_models.data.importing.patterns import parts_of, pattern_problem
from mmkd_models.data.spec import name_problem

RECIPE_VERSION = 1

Format = Literal["csv", "parquet", "npz", "wav", "video", "tdms", "mdf4", "hdf5", "mcap", "edge_impulse"]
SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".txt": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".npz": "npz",
    ".wav": "wav",
    ".flac": "wav",
    ".ogg": "wav",
    ".tdms": "tdms",
    ".mf4": "mdf4",
    ".mdf": "mdf4",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".mat": "hdf5",
    ".mcap": "mcap",
    ".json": "edge_impulse",
    ".mp4": "video",
    ".m4v": "video",
    ".mov": "video",
    ".mkv": "video",
    ".webm": "video",
    ".avi": "video",
    ".mpg": "video",
    ".mpeg": "video",
}
KNOWS_ITS_RATE: tuple[Format, ...] = ("wav", "video", "edge_impulse")
"""Formats whose files declare the rate of their samples."""
TimeUnit = Literal["auto", "s", "ms", "us", "ns", "iso"]
Resample = Literal["nearest", "linear", "polyphase", "hold"]
AlignOn = Literal["event", "xcorr"]
Duplicates = Literal["error", "first", "last", "mean"]
Region = tuple[int, int, int, int]
"""x, y, width and height of a box in pixels of the recorded frame; x and y of its upper left corner."""
TARGET = ".target"
"""The name among the sensors of the column whose number is to be predicted; no modality is called so."""
_USUAL_NULLS = ("", "NaN", "nan")
_NOT_OF_FILES = ("idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape")
"""Encodings of Python that no text file has."""


class TextTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a text file is read and how its clock is; of other formats only what concerns the clock.

    Attributes:
        time_unit: `auto` takes text as ISO 8601 and numbers as seconds, milliseconds... since 1970, by their size.
        time_format: of times that are not ISO 8601, in the letters of strptime, `%d.%m.%Y %H:%M:%S`.
        timezone: where the clock hangs, `Europe/Berlin`; required for local times without an offset.
        ambiguous: the hour that comes twice when clocks are set back; `infer` tells by the order of lines.
        nonexistent: the hour that is left out when clocks are set forward.
        delimiter: between fields; `auto` takes the commonest of the header.
        null: texts that mean missing.
    """

    time_unit: TimeUnit = "auto"
    time_format: str = ""
    timezone: str = ""
    ambiguous: Literal["error", "earliest", "latest", "infer"] = "error"
    nonexistent: Literal["error", "drop"] = "error"
    offset_s: float = 0.0
    delimiter: str = "auto"
    decimal: Literal[".", ","] = "."
    thousands: str = ""
    encoding: str = "auto"
    header: bool = True
    null: tuple[str, ...] = _USUAL_NULLS


class SensorSource(TextTable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sensor: its files and what is in them.

    Attributes:
        files: a pattern relative to the recipe; `*` is any text, `{person}` too, which then has this name.
        format: `auto` goes by the file's suffix.
        time: the column of times; empty where there is none, only `rate_hz` and perhaps `start`.
        start: when the first sample was taken, ISO 8601; a name in braces is that part of the path.
        rate_hz: samples per second, checked against the times; None measures it in the first file.
        clock_ppm: by how many millionths the clock runs fast.
        align_on: propose an `offset_s` beside the first source, by the strongest burst or by the whole course.
        channels: columns, or names with the column of each; none means all that are not used otherwise.
        max_gap_s: nothing is interpolated across more than this; None is one and a half periods.
        resample_hz: the rate in the dataset; None is `rate_hz`.
        tag: of a historian's tall table, the column that says which channel a row is of.
        quality_ok: values of the column `quality` that count; rows with others are missing.
        hold_s: how long a value that is reported on change stays true.
        kind: None is `video` of video files, else `series`; sound files, and video files with sound, may be `audio`.
        height: of the frames in the dataset, in pixels; they are scaled to it.
        region: which part of the frames is kept; `auto` is the box where things move in the recordings that train.
        frame_times: `count`: frames come at a constant rate; `container`: the file says when each was taken.
    """

    modality: str
    files: str
    kind: ModalityKind | None = None
    format: Format | Literal["auto"] = "auto"
    time: str = ""
    start: str = ""
    rate_hz: float | None = None
    clock_ppm: float = 0.0
    align_on: AlignOn | None = None
    channels: tuple[str, ...] | dict[str, str] = ()
    unit: str = ""
    scale: float = 1.0
    range: tuple[float, float] | None = None
    normalise: Normalise = "none"
    duplicates: Duplicates = "error"
    unsorted: Literal["error", "sort"] = "error"
    max_gap_s: float | None = None
    resample: Resample = "linear"
    resample_hz: float | None = None
    tag: str = ""
    value: str = ""
    quality: str = ""
    quality_ok: tuple[str, ...] = ()
    hold_s: float | None = None
    height: int | None = None
    width: int | None = None
    region: Region | Literal["whole", "auto"] = "whole"
    frame_times: Literal["count", "container"] = "count"

    @property
    def modality_kind(self) -> ModalityKind:
        """The kind of the modality that comes of it."""
        return self.kind or ("video" if self.file_format == "video" else "series")

    @property
    def file_format(self) -> Format | None:
        """The format of its files, by their name's end where the recipe does not say; None if that tells nothing."""
        return SUFFIXES.get(Path(self.files).suffix.lower()) if self.format == "auto" else self.format


class LabelRule(TextTable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What says which class, labels or number a window has: one of `path`, `column`, `files`, `table` and `flags`.

    None of them where nothing is labelled yet, and unlabelled windows are kept.

    Attributes:
        task: `multi_label`: a text names all labels that are on, none where it is empty; intervals may overlap.
        separator: between the labels of one text.
        flags: label -> column of a source, or of the table, that says whether it is on.
        target: what the number of a regression is called; empty takes the name of its column.
        unit: of the number.
        path: the part of the path that is the class.
        column: a column of one of the sources.
        files: interval files, a pattern as of a source; `start`, `end` and `label` are their columns.
        format: of interval files: `csv`, or the JSON of a tool, whose columns are `start`, `end`, `label` and `file`.
        rate_hz: samples or frames per second, where a tool's file counts these.
        table: a file with a line for each recording: its label, and whatever else is to be known of it.
        file: of a table without `match`, the column of the files, as the recipe would write them.
        match: part of the path -> column of the interval file or the table, where one file is of several recordings.
        classes: in this order; none takes what is found, sorted.
        ignore: labels that count as none.
        purity: the share of a window that one label must cover.
    """

    task: TaskKind = "classification"
    separator: str = "+"
    flags: dict[str, str] = {}
    target: str = ""
    unit: str = ""
    path: str = ""
    column: str = ""
    files: str = ""
    format: Literal["csv", "label_studio", "edge_impulse"] = "csv"
    rate_hz: float | None = None
    table: str = ""
    file: str = "file"
    start: str = "start"
    end: str = "end"
    label: str = "label"
    match: dict[str, str] = {}
    classes: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    purity: float = 0.8
    unlabelled: Literal["keep", "drop"] = "drop"

    @property
    def target_name(self) -> str:
        """What the number of a regression is called."""
        return self.target or self.path or self.column or self.label


class WindowRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How windows are cut.

    Attributes:
        stride_s: from the start of one window to the next; None is their length.
        cover: `all`: only while every sensor records; `any`: also where some are missing.
        columns: parts of the path or columns of a source that are kept beside the label.
        at: `intervals`: one window in the middle of each labelled interval, and no others.
    """

    length_s: float
    stride_s: float | None = None
    at: Literal["stride", "intervals"] = "stride"
    cover: Literal["all", "any"] = "all"
    columns: tuple[str, ...] = ()

    @property
    def hop_s(self) -> float:
        """Seconds from the start of one window to the next."""
        return self.length_s if self.stride_s is None else self.stride_s


class SplitRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who trains, who chooses and who judges.

    Attributes:
        group: the part of the path, or the column, that never straddles splits; empty splits each recording by time.
        column: the part of the path, or the column, that says `train`, `valid` or `test`; then nothing is dealt.
        valid: a share of the windows, or the names of the groups.
        test: likewise.
        folds: deal the groups into so many; the first judges, the second chooses.
        gap_s: windows of one recording in different splits are at least so far apart.
        drop_copies: leave out windows that are equal to one of another split.
    """

    group: str = ""
    column: str = ""
    valid: float | tuple[str, ...] = 0.2
    test: float | tuple[str, ...] = 0.2
    folds: int | None = None
    gap_s: float = 0.0
    drop_copies: bool = False
    seed: int = 0


class DatasetFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the dataset is called, where it comes from, and the terms of its use."""

    name: str = ""
    source: str = ""
    licence: str = ""


class ImportRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `recipe.toml`."""

    version: int
    source: tuple[SensorSource, ...]
    labels: LabelRule
    windows: WindowRule
    dataset: DatasetFacts = DatasetFacts()
    split: SplitRule = SplitRule()


def read_recipe(file: Path) -> ImportRecipe:
    """Read and checks a recipe.

    Raise UsageError if there is no such file, DatasetError where it is no recipe; the message lists every problem.
    """
    if not file.is_file():
        raise UsageError(f"{file}: expected a recipe (.toml), found no such file; draft one with mmkd-data recipe")
    if file.stat().st_size > MOST_RECIPE_BYTES:
        raise DatasetError(
            f"{file}: expected a recipe of at most {MOST_RECIPE_BYTES:,} bytes, got {file.stat().st_size:,}; name the"
            " right file"
        )
    try:
        recipe = msgspec.toml.decode(file.read_bytes(), type=ImportRecipe)
    except msgspec.ValidationError as error:
        raise DatasetError(f"{file}: {error}; docs/your-own-data.md describes every key") from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: expected TOML, got {first_line(error)}; correct that line") from error
    except ImportError as error:  # Python 3.10 has no TOML reader of its own
        raise UsageError(f"{file}: reading TOML needs tomli; run: pip install 'mmkd-edge[import]'") from error
    refuse(file, list(recipe_problems(recipe)))
    return recipe


def refuse(file: Path | str, problems: list[str]) -> None:
    """Raise DatasetError with all problems, in a list where there is more than one; does nothing without any."""
    if len(problems) == 1:
        raise DatasetError(f"{file}: {problems[0]}")
    if problems:
        raise DatasetError("\n  - ".join([f"{file}: {len(problems)} problems", *problems]))


def recipe_problems(recipe: ImportRecipe) -> Iterator[str]:
    """Yield a message for every rule that a recipe breaks beyond types."""
    if recipe.version != RECIPE_VERSION:
        yield f"'version': expected {RECIPE_VERSION}, got {recipe.version}; use the mmkd-edge that wrote it"
    names = [source.modality for source in recipe.source]
    if not names:
        yield "'source': expected one or more, got none; describe each sensor in a [[source]]"
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"'source': modality {name!r} is there {names.count(name)} times; give each sensor its own name"
    if recipe.source and recipe.source[0].align_on is not None:
        yield "'source[0]': 'align_on': expected none at the first source, which others are laid beside; move it"
    for number, source in enumerate(recipe.source):
        yield from (f"'source[{number}]' ({source.modality}): {text}" for text in _source_problems(source))
    yield from (f"'labels': {text}" for text in _label_problems(recipe.labels))
    yield from (f"'windows.{text}" for text in window_problems(recipe.windows))
    has_intervals = recipe.labels.files or (recipe.labels.column and recipe.labels.task != "regression")
    if recipe.windows.at == "intervals" and not has_intervals:
        yield "'windows.at': expected 'stride' where labels are no intervals, got 'intervals'; name 'labels.files'"
    if recipe.windows.at == "intervals" and recipe.labels.task == "multi_label":
        yield "'windows.at': expected 'stride' with several labels at once, got 'intervals'; give 'stride_s'"
    yield from (f"'split.{text}" for text in split_rule_problems(recipe.split))


def _source_problems(source: SensorSource) -> Iterator[str]:
    yield from _table_problems(source)
    if text := name_problem(source.modality):
        yield f"'modality': {text}"
    if text := pattern_problem(source.files):
        yield f"'files': {text}"
    if source.file_format is None:
        yield f"'files': expected a name that ends in {', '.join(SUFFIXES)}, got {source.files!r}; set 'format'"
    yield from _kind_problems(source)
    if not source.time and source.rate_hz is None and source.file_format not in KNOWS_ITS_RATE:
        yield "expected 'time' or 'rate_hz', got neither; name the column of times, or the samples per second"
    if source.time and source.start:
        yield "expected 'time' or 'start', got both; remove 'start', the times say when samples were taken"
    for key in ("rate_hz", "resample_hz"):
        if text := rate_problem(getattr(source, key)):
            yield f"{key!r}: {text}"
    for key in ("max_gap_s", "hold_s"):
        value = getattr(source, key)
        if value is not None and not 0 < value <= MOST_SECONDS:
            yield f"{key!r}: expected seconds above 0, up to {MOST_SECONDS:g}, got {value}; correct it"
    unknown = [name for name in parts_of(source.start) if name not in parts_of(source.files)]
    if unknown:
        known = ", ".join(parts_of(source.files)) or "none"
        yield f"'start': expected parts of the path in braces, got {{{unknown[0]}}}; 'files' has {known}"
    if not 1 / MOST_SCALE <= abs(source.scale) <= MOST_SCALE:
        yield f"'scale': expected a number from {1 / MOST_SCALE:g} to {MOST_SCALE:g}, got {source.scale}; correct it"
    if not abs(source.clock_ppm) < 1e5:
        yield f"'clock_ppm': expected millionths, below 100000, got {source.clock_ppm}; set 'rate_hz' for a wrong rate"
    if source.range is not None and not source.range[0] < source.range[1]:
        yield f"'range': expected [low, high] with low below high, got {list(source.range)}; swap or correct it"
    tall = [key for key in ("tag", "value") if getattr(source, key)]
    if len(tall) == 1:
        yield f"expected 'tag' and 'value' together, got {tall[0]!r} alone; name both columns of the tall table"
    if source.quality and not (source.tag and source.quality_ok):
        yield "'quality': expected with 'tag', 'value' and 'quality_ok'; say which qualities count"
    if source.tag and not source.channels:
        yield "'channels': expected the tags of a tall table, got none; name them: channels = {temp = 'PLC1.T1'}"
    if (source.resample == "hold") != (source.hold_s is not None):
        yield "expected resample = 'hold' and 'hold_s' together, got one of them; set both, or none"


# Keys that say nothing of cameras, and those that say nothing of anything else, with what they are when left out.
_OF_OTHERS = {
    "time": "",
    "clock_ppm": 0.0,
    "unit": "",
    "scale": 1.0,
    "range": None,
    "normalise": "none",
    "duplicates": "error",
    "unsorted": "error",
    "resample": "linear",
    "tag": "",
    "quality": "",
    "hold_s": None,
}
_OF_CAMERAS = {"height": None, "width": None, "region": "whole", "frame_times": "count"}


def _kind_problems(source: SensorSource) -> Iterator[str]:
    """What a recipe may not say of this kind of modality."""
    kind, has_sound = source.modality_kind, source.file_format in ("wav", "video")
    if kind == "audio" and not has_sound:
        yield f"'kind': expected 'audio' of sound or video files, got it of {source.file_format}; make it a series"
    if (kind == "video" and source.file_format != "video") or (kind == "series" and source.file_format == "video"):
        wanted = "'video' or 'audio' of video files, and 'video' of no others"
        yield f"'kind': expected {wanted}, got {kind!r} of {source.file_format}; correct it"
    others = _OF_OTHERS if kind == "video" else _OF_CAMERAS
    for key, default in others.items():
        if getattr(source, key) != default:
            wanted = "none of kind 'video'" if kind == "video" else "it of kind 'video' alone"
            yield f"{key!r}: expected {wanted}, got {getattr(source, key)!r}; remove it"
    if kind != "video":
        return
    if source.height is None or source.width is None:
        yield "expected 'height' and 'width' in pixels, got none; say how large frames are in the dataset"
    if source.channels not in ((), ("gray",), ("r", "g", "b")):
        yield f"'channels': expected ['gray'] or ['r', 'g', 'b'], got {list(source.channels)}; correct it"
    if isinstance(source.region, tuple) and (min(source.region) < 0 or min(source.region[2:]) < 1):
        yield f"'region': expected [x, y, width, height] of 0 or more pixels, got {list(source.region)}; correct it"


def _table_problems(table: TextTable) -> Iterator[str]:
    if table.timezone:
        try:
            ZoneInfo(table.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            yield f"'timezone': expected a name such as 'Europe/Berlin' or 'UTC', got {table.timezone!r}; correct it"
    if table.encoding != "auto":
        try:
            is_of_text = codecs.lookup(table.encoding).name not in _NOT_OF_FILES
            "a".encode(table.encoding)  # raises LookupError for codecs that do not encode text, such as zlib
        except (LookupError, ValueError):
            is_of_text = False
        if not is_of_text:
            wanted = "the name of an encoding of text, such as 'utf-8' or 'shift_jis'"
            yield f"'encoding': expected {wanted}, got {table.encoding!r}; correct it"
    if table.delimiter != "auto" and (
        len(table.delimiter.encode(errors="replace")) != 1
        or not (table.delimiter.isprintable() or table.delimiter == "\t")
        or table.delimiter == '"'
    ):
        yield f"'delimiter': expected one character of ASCII, not a quote, got {table.delimiter!r}; correct it"
    if not abs(table.offset_s) <= MOST_OFFSET_S:
        yield f"'offset_s': expected seconds up to {MOST_OFFSET_S:g}, got {table.offset_s}; correct it"
    if table.decimal in (table.delimiter, table.thousands):
        key = "delimiter" if table.decimal == table.delimiter else "thousands"
        yield f"'decimal': expected another sign than {key!r}, got {table.decimal!r} for both; correct one of them"


def _label_problems(labels: LabelRule) -> Iterator[str]:
    yield from _table_problems(labels)
    named = [key for key in ("path", "column", "files", "table") if getattr(labels, key)]
    named += ["flags"] if labels.flags and not labels.table else []
    is_without = not named and labels.unlabelled == "keep" and (labels.classes or labels.target)
    if len(named) != 1 and not is_without:
        got = " and ".join(named) or "none"
        yield f"expected one of 'path', 'column', 'files' and 'table', got {got}; say where labels come from"
    yield from _task_problems(labels)
    if text := rate_problem(labels.rate_hz):
        yield f"'rate_hz': {text}"
    for key, pattern in (("files", labels.files), ("table", labels.table)):
        if pattern and (text := pattern_problem(pattern)):
            yield f"{key!r}: {text}"
    if labels.format == "csv" and Path(labels.files).suffix.lower() == ".json":
        yield "'format': expected 'label_studio' or 'edge_impulse' for a JSON file, got none; say which tool wrote it"
    if not 0.5 < labels.purity <= 1:
        yield f"'purity': expected above 0.5 and up to 1, got {labels.purity:g}; correct it"
    if len(set(labels.classes)) < len(labels.classes):
        yield f"'classes': expected different names, got {list(labels.classes)}; name each class once"


def _task_problems(labels: LabelRule) -> Iterator[str]:
    """What the task has no use for."""
    owners: dict[str, TaskKind] = {"flags": "multi_label", "target": "regression", "unit": "regression"}
    for key, task in owners.items():
        if getattr(labels, key) and labels.task != task:
            yield f"{key!r}: expected it with task = {task!r} alone, got it with {labels.task!r}; remove one of them"
    if labels.task == "regression" and labels.classes:
        yield f"'classes': expected none with task = 'regression', got {list(labels.classes)}; remove them"
    if labels.task == "multi_label" and not labels.separator:
        yield "'separator': expected one or more characters, got none; name the sign between two labels"
    unknown = [name for name in labels.flags if labels.classes and name not in labels.classes]
    if unknown:
        yield f"'flags': expected labels of 'classes', got {', '.join(unknown)}; add them there, or leave 'classes' out"


def window_problems(windows: WindowRule) -> Iterator[str]:
    """Yield a message for every wrong rule, starting with its key."""
    if windows.at == "intervals" and windows.stride_s is not None:
        yield f"stride_s': expected none with at = 'intervals', got {windows.stride_s:g}; remove one of them"
    for key, value in (("length_s", windows.length_s), ("stride_s", windows.hop_s)):
        if not 1 / RATES_HZ[1] <= value <= MOST_SECONDS:
            yield f"{key}': expected seconds from {1 / RATES_HZ[1]:g} to {MOST_SECONDS:g}, got {value}; correct it"


def split_rule_problems(split: SplitRule) -> Iterator[str]:
    """Yield a message for every rule that a split breaks, starting with its key."""
    shares = [share for share in (split.valid, split.test) if isinstance(share, float | int)]
    if not all(0 < share < 1 for share in shares) or sum(shares) >= 1:
        yield f"valid': expected shares above 0, below 1 together with 'test', got {shares}; leave some for train"
    if split.column and (split.folds is not None or len(shares) < 2):
        yield f"column': expected it without 'folds' and names of groups, got {split.column!r} with them; remove them"
    if len(shares) < 2 and not split.group:
        yield "group': expected the part of the path that 'valid' and 'test' name, got none; say which"
    if split.folds is not None and (split.folds < 3 or len(shares) < 2 or not split.group):
        yield f"folds': expected 3 or more with a 'group' and without names of groups, got {split.folds}; correct it"
    if not 0 <= split.gap_s <= MOST_SECONDS:
        yield f"gap_s': expected seconds from 0 to {MOST_SECONDS:g}, got {split.gap_s:g}; correct it"
    if split.seed < 0:
        yield f"seed': expected 0 or more, got {split.seed}; correct it"


def rate_problem(rate_hz: float | None) -> str | None:
    """Return what is wrong with a rate; None if nothing is, or there is none."""
    if rate_hz is None or RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        return None
    return f"expected a number from {RATES_HZ[0]:g} to {RATES_HZ[1]:g}, got {rate_hz:g}; correct it"
