"""A first recipe for a folder of logs, with comments on what the files do not show."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_models.data.importing.clock import SECOND_NS, TimeColumn
from mmkd_models.data.importing.keys import TextTable, list_keys, toml_lines
from mmkd_models.data.importing.patterns import natural_key
from mmkd_models.data.importing.readers.csv_file import detect_encoding, guess_delimiter, is_decodable
from mmkd_models.data.importing.readers.formats import WITH_RATE, Format, choose_reader, suffixes
from mmkd_models.data.importing.readers.media_files import video_facts
from mmkd_models.data.importing.readers.table import RowBlock, strip_texts

_ENCODINGS = ("utf-8", "shift_jis", "cp1252")
_HEAD_BYTES, _HEAD_ROWS, _HEAD_LINES, _HEAD_CHARACTERS = 1 << 20, 2000, 50, 2000
_TIME_NAMES = re.compile(r"time|zeit|date|stamp|datum|時刻|日時|^t$|^ts$|^(ms|us|ns|s|sec|seconds)$", re.IGNORECASE)
_END_NAMES = re.compile(r"^(end|ende|stop|finish|to|until|bis)", re.IGNORECASE)
_START_NAMES = re.compile(r"^(start|begin|from|onset|von)", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_CLOCK_ERROR = 1e-3
_USUAL_SIDE = 96  # pixels of a frame's longer side for device networks
_FEW = 20  # largest number of different texts in a column of labels or groups

_Keys = dict[str, tuple[Any, str]]
"""By key, its value and a comment."""


@dataclass(frozen=True, kw_only=True)
class FirstLook:
    """Beginning of the first of several files with the same columns."""

    pattern: str
    parts: tuple[str, ...]
    files: tuple[Path, ...]
    format: Format
    names: tuple[str, ...] = ()
    table: TextTable = field(default_factory=TextTable)
    time: str = ""
    rate_hz: float | None = None
    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    frame: tuple[int, int] | None = None

    @property
    def is_intervals(self) -> bool:
        """Whether it is a file of labelled intervals."""
        return any(map(_START_NAMES.match, self.names)) and any(map(_END_NAMES.match, self.names))


def draft_recipe(folder: Path, *, prefix: str = ".") -> str:
    """Return a recipe for a folder at `prefix` from the recipe. Raise UsageError without logs."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder of logs, found none there; check the path")
    known = [suffix for suffix in suffixes() if suffix != ".npz"]  # often results
    files = [file for file in folder.rglob("*") if file.suffix.lower() in known and file.is_file()]
    if not files:
        raise UsageError(f"{folder}: expected files that end in {', '.join(known)}, found none; name their folder")
    groups: dict[tuple[str, int], list[Path]] = {}  # files whose names differ only in numbers or folders
    for file in sorted(files, key=lambda file: natural_key(file.as_posix())):
        relative = file.relative_to(folder)
        groups.setdefault((re.sub(r"\d+", "#", relative.name), len(relative.parts)), []).append(file)
    looks = []
    for group in groups.values():
        pattern, parts = _pattern([file.relative_to(folder).as_posix() for file in group])
        pattern = pattern if prefix == "." else f"{prefix}/{pattern}"
        form = suffixes()[group[0].suffix.lower()]
        looks.append(_look_into(FirstLook(pattern=pattern, parts=parts, files=tuple(group), format=form)))
    labels = [look for look in looks if look.is_intervals]
    sources = [look for look in looks if not look.is_intervals]
    if not sources:
        raise UsageError(f"{folder}: expected logs of sensors, found files of intervals alone; name the folder of both")
    shared = [part for part in sources[0].parts if all(part in look.parts for look in sources)]
    lines = [
        "# Drafted by mmkd-data recipe; lines with '?' are guesses. docs/your-own-data.md lists every key.",
        "version = 1",
    ]
    names: list[str] = []
    for look in sources:
        words = re.findall(r"[^\W\d_]+", re.sub(r"\{\w+\}", "", Path(look.pattern).stem))
        name = "_".join(words).lower() or "sensor"
        names.append(name if name not in names else f"{name}_{len(names) + 1}")
        lines += ["", "[[source]]", *toml_lines(_source_keys(look, names[-1]))]
        lines += [f"# ? {text}" for text in look.doubts]
    lines += ["", "[labels]", *toml_lines(_label_keys(sources, labels, shared))]
    windows: _Keys = {"length_s": (2.0, "? long enough to show the difference between classes"), "stride_s": (1.0, "")}
    lines += ["", "[windows]", *toml_lines(windows), "", "[split]"]
    if shared:
        lines += toml_lines({"group": (shared[0], f"? what no two splits share: {', '.join(shared)}")})
    else:
        lines.append("# ? no part of the path differs between recordings: each is split by time")
    return "\n".join(lines) + "\n"


def _pattern(names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return a pattern of these names, with a name in braces for each part that differs."""
    split = [re.split(r"(\d+|/|\.)", name) for name in names]
    if len({len(pieces) for pieces in split}) > 1:
        split = [re.split(r"(/)", name) for name in names]
    columns: list[tuple[str, ...]] = []
    for values in zip(*split, strict=True):
        if columns and len(set(values)) > 1 and len(set(columns[-1])) > 1:  # neighbours that differ are one part
            values = tuple(first + second for first, second in zip(columns.pop(), values, strict=True))
        columns += [values] if any(values) else []
    named: dict[tuple[str, ...], str] = {}
    pieces: list[str] = []
    for values in columns:
        if len(set(values)) == 1:
            pieces.append(values[0])
            continue
        if values not in named:
            before = re.findall(r"[A-Za-z]+", pieces[-1]) if pieces else []
            name = before[-1].lower() if before else ("folder" if "/" not in pieces else f"part{len(named) + 1}")
            named[values] = name if name not in named.values() else f"{name}{len(named) + 1}"
        part = "{" + named[values] + "}"
        pieces.append("*" if part in "".join(pieces).rpartition("/")[2] else part)
    return "".join(pieces), tuple(named.values())


def _look_into(look: FirstLook) -> FirstLook:
    import polars as pl

    file = look.files[0]
    if look.format == "video":
        return replace(look, frame=video_facts(file)[1:])
    table = _text_table(file) if look.format == "csv" else TextTable()
    reader = choose_reader(look.format, table)
    names = reader.names(file)
    look = replace(look, table=table, names=names)
    if look.format in WITH_RATE:
        return look
    try:
        block = next(reader.blocks(file, names), None)
    except DatasetError as error:  # channels of several clocks: the user must group them
        return replace(look, numbers=names, doubts=(str(error).removeprefix(f"{file}: "),))
    if block is None:
        return replace(look, doubts=("the first file has no rows",))
    head = RowBlock(frame=block.frame.head(_HEAD_ROWS), place=block.place)
    look = _with_time(look, head)
    numbers, texts = [], []
    for name in (name for name in names if name != look.time):
        column = head.frame[name]
        is_number = column.dtype.is_numeric()
        if column.dtype == pl.String:
            column = strip_texts(column, look.table)
            plain = column.str.replace(",", ".") if look.table.decimal == "," else column
            is_number = plain.cast(pl.Float64, strict=False).null_count() < len(plain) // 2 + 1
        if is_number:
            numbers.append(name)
        elif 2 <= column.n_unique() <= _FEW:
            texts.append(name)
    return replace(look, numbers=tuple(numbers), texts=tuple(texts))


def _text_table(file: Path) -> TextTable:
    with file.open("rb") as stream:
        raw = stream.read(_HEAD_BYTES)
    marked = detect_encoding(file)
    encodings = _ENCODINGS if marked == "utf-8" else (marked,)
    encoding = next((name for name in encodings if is_decodable(raw, name)), "latin-1")
    lines = raw.decode(encoding, errors="ignore").splitlines()[:_HEAD_LINES] or [""]
    delimiter = guess_delimiter(lines[0])
    heads = [line[:_HEAD_CHARACTERS] for line in lines[1:]]  # together below the csv module's limit of a field
    has_comma = any(
        _DECIMAL_COMMA.fullmatch(text.strip()) for row in csv.reader(heads, delimiter=delimiter) for text in row
    )
    return TextTable(
        encoding="auto" if encoding in ("utf-8", marked) else encoding,
        delimiter=delimiter,
        decimal="," if has_comma and delimiter != "," else ".",
        header=not all(re.fullmatch(r"[-\d.,eE+ ]*", name) for name in lines[0].split(delimiter)),
    )


def _with_time(look: FirstLook, head: RowBlock) -> FirstLook:
    for name in sorted(look.names, key=lambda name: _TIME_NAMES.search(name) is None):
        for zone in ("", "UTC"):
            table = TextTable(encoding=look.table.encoding, decimal=look.table.decimal, timezone=zone)
            try:
                steps = np.diff(TimeColumn(table, name).read(head))
            except DatasetError:
                continue
            usual, rate_hz = float(np.median(steps)) if len(steps) else 0.0, None
            if usual > 0:  # rounded to three digits if a clock could be that far off, else four
                exact_hz = SECOND_NS / float(steps[steps < 3 * usual].mean())
                few_hz = float(f"{exact_hz:.3g}")
                rate_hz = few_hz if abs(few_hz / exact_hz - 1) < _CLOCK_ERROR else float(f"{exact_hz:.4g}")
            table = msgspec.structs.replace(look.table, timezone=zone)
            doubts = ("times are local and have no offset: which time zone?",) if zone else ()
            return replace(look, time=name, rate_hz=rate_hz, table=table, doubts=doubts)
    return replace(look, doubts=("no column of times was found: give 'time', or 'rate_hz' and perhaps 'start'",))


def _source_keys(look: FirstLook, modality: str) -> _Keys:
    keys: _Keys = {"modality": (modality, ""), "files": (look.pattern, f"{len(look.files)} files")}
    knows_rate = look.format in WITH_RATE
    if look.format == "wav":
        keys["kind"] = "audio", '? or "series", for a vibration that was recorded as sound'
    if look.time:
        keys["time"] = look.time, ""
    if look.rate_hz is not None:
        keys["rate_hz"] = look.rate_hz, "? measured in the first rows"
    elif not knows_rate and not look.time:
        keys["rate_hz"] = 1.0, "? samples per second"
    keys |= _text_keys(look.table)
    if look.frame is not None:
        height, width = look.frame
        scale = min(1.0, _USUAL_SIDE / max(height, width))
        keys["channels"] = ["gray"], '? or ["r", "g", "b"]'
        keys["height"] = max(1, round(height * scale)), f"? {height} recorded"
        keys["width"] = max(1, round(width * scale)), f"? {width} recorded"
        return keys
    if not knows_rate:
        keys["channels"] = look.numbers, ""
    return {**keys, "unit": ("", "")}


def _text_keys(table: TextTable) -> _Keys:
    comments = {"timezone": "? such as 'Europe/Berlin'", "encoding": "? it is not UTF-8"}
    values = {name: (getattr(table, name), default) for name, default, _ in list_keys(TextTable)}
    return {
        name: (value, comments.get(name, ""))
        for name, (value, default) in values.items()
        if value != default and (name, value) != ("delimiter", ",")
    }


def _label_keys(sources: Sequence[FirstLook], labels: Sequence[FirstLook], parts: Sequence[str]) -> _Keys:
    columns = list(dict.fromkeys(name for look in sources for name in look.texts))
    if not labels and columns:
        return {"column": (columns[0], f"? columns with few texts: {', '.join(columns)}")}
    if not labels:
        return {"path": (parts[-1] if parts else "state", "? no column and no file of labels was found")}
    look = labels[0]
    start, end = (next(filter(names.match, look.names)) for names in (_START_NAMES, _END_NAMES))
    label = next((name for name in look.texts if name not in (start, end)), "label")
    return {
        "files": (look.pattern, ""),
        "start": (start, ""),
        "end": (end, ""),
        "label": (label, f"? one of {', '.join(look.names)}"),
        **_text_keys(look.table),
    }
