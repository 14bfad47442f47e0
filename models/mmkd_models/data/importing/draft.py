"""A first recipe by looking into a folder: what the files tell, and in comments what they do not."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_models.data.importing.keys import keys_of, toml_lines
from mmkd_models.data.importing.patterns import natural_key
from mmkd_models.data.importing.readers.csv_file import encoding_of, guessed_delimiter
from mmkd_models.data.importing.readers.formats import Format, knows_its_rate, reader_of, suffixes
from mmkd_models.data.importing.readers.table import RowBlock, TextTable
from mmkd_models.data.importing.readers.video_file import video_facts
from mmkd_models.data.importing.recipe import LabelRule, SensorSource, SplitRule, WindowRule
from mmkd_models.data.importing.recorded import SECOND_NS
from mmkd_models.data.importing.timing.clock import TimeColumn

_ENCODINGS = ("utf-8", "shift_jis", "cp1252")
_HEAD_BYTES = 1 << 20
_HEAD_ROWS = 2000
_HEAD_CHARACTERS = 2000
_TIME_NAMES = re.compile(r"time|zeit|date|stamp|datum|時刻|日時|^t$|^ts$|^(ms|us|ns|s|sec|seconds)$", re.IGNORECASE)
_END_NAMES = re.compile(r"^(end|ende|stop|finish|to|until|bis)", re.IGNORECASE)
_START_NAMES = re.compile(r"^(start|begin|from|onset|von)", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_CLOCK_ERROR = 1e-3
_NOT_LOOKED_AT = (".npz", ".json")  # as often results, labels or settings as recordings
_USUAL_SIDE = 96  # pixels of a frame's longer side that networks for devices look at
_FEW = 20  # different texts, up to which a column may be one of labels or groups


@dataclass(frozen=True, kw_only=True)
class FirstLook:
    """What the beginning of one file tells.

    Attributes:
        texts: columns of text with the few values they have.
    """

    file: Path
    format: Format
    table: TextTable
    names: tuple[str, ...]
    time: str = ""
    rate_hz: float | None = None
    numbers: tuple[str, ...] = ()
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unsure: tuple[str, ...] = ()
    frame: tuple[int, int] | None = None

    @property
    def is_intervals(self) -> bool:
        """Whether it is a file of labelled intervals."""
        return any(map(_START_NAMES.match, self.names)) and any(map(_END_NAMES.match, self.names))


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Files of one kind: the same columns, and names that differ in some parts."""

    pattern: str
    parts: tuple[str, ...]
    files: tuple[Path, ...]
    look: FirstLook


def draft_recipe(folder: Path, *, prefix: str = ".") -> str:
    """Return the text of a recipe for a folder of logs.

    Args:
        prefix: the way to the folder from where the recipe will lie.

    Raise UsageError if there is no such folder, or nothing in it that could be read.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder of logs, found none there; check the path")
    files = [
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in suffixes() and file.suffix.lower() not in _NOT_LOOKED_AT and file.is_file()
    ]
    if not files:
        known = ", ".join(suffix for suffix in suffixes() if suffix not in _NOT_LOOKED_AT)
        raise UsageError(f"{folder}: expected files that end in {known}, found none; name their folder")
    kinds = list(_kinds(folder, prefix, sorted(files, key=lambda file: natural_key(file.as_posix()))))
    labels = [kind for kind in kinds if kind.look.is_intervals]
    sources = [kind for kind in kinds if not kind.look.is_intervals]
    if not sources:
        raise UsageError(f"{folder}: expected logs of sensors, found files of intervals alone; name the folder of both")
    lines = [
        "# Drafted by mmkd-data recipe; lines with '?' are guesses. docs/your-own-data.md lists every key.",
        "version = 1",
    ]
    names: list[str] = []
    for kind in sources:
        names.append(_modality(kind, names))
        lines += _table("[[source]]", SensorSource, _source_keys(kind, names[-1]))
        lines += [f"# ? {text}" for text in kind.look.unsure]
    lines += _table("[labels]", LabelRule, _label_keys(sources, labels))
    windows = [("length_s", 2.0, "? as long as what is to be told apart"), ("stride_s", 1.0, "")]
    lines += _table("[windows]", WindowRule, windows)
    parts = _shared_parts(sources)
    groups = [("group", parts[0], f"? what no two splits share: {', '.join(parts)}")] if parts else []
    lines += _table("[split]", SplitRule, groups)
    if not parts:
        lines.append("# ? no part of the path tells recordings apart: each is split by time")
    return "\n".join(lines) + "\n"


def _kinds(folder: Path, prefix: str, files: Sequence[Path]) -> Iterator[Alike]:
    """Group files whose names differ in numbers or folders alone, and that have the same columns."""
    by_shape: dict[tuple[str, int], list[Path]] = {}
    for file in files:
        relative = file.relative_to(folder)
        shape = re.sub(r"\d+", "#", relative.name)
        by_shape.setdefault((shape, len(relative.parts)), []).append(file)
    for found in by_shape.values():
        pattern, parts = _pattern([file.relative_to(folder).as_posix() for file in found])
        pattern = pattern if prefix == "." else f"{prefix}/{pattern}"
        yield Alike(pattern=pattern, parts=parts, files=tuple(found), look=_look(found[0]))


def _pattern(names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return a pattern that finds these names, with a name in braces for each part that differs.

    Example:
        >>> _pattern(["person_1/acc.csv", "person_2/acc.csv"])
        ('person_{person}/acc.csv', ('person',))
        >>> _pattern(["ann1/x1y1.csv", "bob2/x2y2.csv"])
        ('{folder}/x{x}y*.csv', ('folder', 'x'))
    """
    split = [re.split(r"(\d+|/|\.)", name) for name in names]
    if len({len(one) for one in split}) > 1:
        split = [re.split(r"(/)", name) for name in names]
    parts: list[str] = []
    made: dict[tuple[str, ...], str] = {}
    pieces: list[str] = []
    for values in _columns(split):
        if len(set(values)) == 1:
            pieces.append(values[0])
            continue
        if values not in made:
            before = re.findall(r"[A-Za-z]+", pieces[-1]) if pieces else []
            name = before[-1].lower() if before else ("folder" if "/" not in pieces else f"part{len(parts) + 1}")
            made[values] = name if name not in parts else f"{name}{len(parts) + 1}"
            parts.append(made[values])
        part = "{" + made[values] + "}"
        pieces.append("*" if part in "".join(pieces).rpartition("/")[2] else part)
    return "".join(pieces), tuple(parts)


def _columns(split: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """The pieces of all names, one place after the other; places beside each other that differ are one."""
    columns: list[tuple[str, ...]] = []
    for values in zip(*split, strict=True):
        if not any(values):
            continue
        if columns and len(set(values)) > 1 and len(set(columns[-1])) > 1:
            values = tuple(first + second for first, second in zip(columns.pop(), values, strict=True))
        columns.append(values)
    return columns


def _look(file: Path) -> FirstLook:
    form = suffixes()[file.suffix.lower()]
    if form == "video":
        facts = video_facts(file)
        return FirstLook(file=file, format=form, table=TextTable(), names=("gray",), frame=(facts.height, facts.width))
    if form == "csv":
        table = _text_table(file)
        reader = reader_of(form, table)
        names = reader.names(file)
        return _looked_at(file, form, table, names, next(reader.blocks(file, names), None))
    reader = reader_of(form, TextTable())
    names = reader.names(file)
    if reader.rate_hz is not None:
        return FirstLook(file=file, format=form, table=TextTable(), names=names)
    try:
        block = next(reader.blocks(file, names), None)
    except DatasetError as error:  # channels of several clocks: which belong together is the user's to say
        told = str(error).removeprefix(f"{file}: ")
        return FirstLook(file=file, format=form, table=TextTable(), names=names, numbers=names, unsure=(told,))
    return _looked_at(file, form, TextTable(), names, block)


def _text_table(file: Path) -> TextTable:
    """Separator, decimal sign and encoding by the first lines."""
    with file.open("rb") as opened:
        raw = opened.read(_HEAD_BYTES)
    marked = encoding_of(file)
    encodings = _ENCODINGS if marked == "utf-8" else (marked,)
    encoding = next((name for name in encodings if _decodes(raw, name)), "latin-1")
    lines = raw.decode(encoding, errors="ignore").splitlines()[:50] or [""]
    delimiter = guessed_delimiter(lines[0])
    heads = [line[:_HEAD_CHARACTERS] for line in lines[1:]]  # together below the csv module's limit of a field
    fields = [text.strip() for row in csv.reader(heads, delimiter=delimiter) for text in row]
    commas = sum(_DECIMAL_COMMA.fullmatch(text) is not None for text in fields)
    has_header = not all(re.fullmatch(r"[-\d.,eE+ ]*", name) for name in lines[0].split(delimiter))
    return TextTable(
        encoding="auto" if encoding in ("utf-8", marked) else encoding,
        delimiter=delimiter,
        decimal="," if commas and delimiter != "," else ".",
        header=has_header,
    )


def _decodes(raw: bytes, encoding: str) -> bool:
    try:
        raw[: raw.rfind(b"\n") + 1].decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _looked_at(file: Path, form: Format, table: TextTable, names: tuple[str, ...], block: RowBlock | None) -> FirstLook:
    import polars as pl

    if block is None:
        return FirstLook(file=file, format=form, table=table, names=names, unsure=("the first file has no rows",))
    head = block.frame.head(_HEAD_ROWS)
    numbers, texts = [], {}
    for name in names:
        column = head[name]
        if column.dtype == pl.String:
            plain = column.str.strip_chars().str.replace(",", ".") if table.decimal == "," else column.str.strip_chars()
            is_number = plain.cast(pl.Float64, strict=False).null_count() < len(plain) // 2 + 1
        else:
            is_number = column.dtype.is_numeric()
        if is_number:
            numbers.append(name)
        elif 2 <= column.n_unique() <= _FEW:
            texts[name] = sorted(column.drop_nulls().cast(pl.String).unique().to_list())
    time, rate_hz, zone, unsure = _time_of(RowBlock(file=file, frame=head, place=block.place), table, names)
    if zone:
        table = msgspec.structs.replace(table, timezone=zone)
    return FirstLook(
        file=file,
        format=form,
        table=table,
        names=names,
        time=time,
        rate_hz=rate_hz,
        numbers=tuple(name for name in numbers if name != time),
        texts={name: values for name, values in texts.items() if name != time},
        unsure=tuple(unsure),
    )


def _time_of(block: RowBlock, table: TextTable, names: Sequence[str]) -> tuple[str, float | None, str, list[str]]:
    """The column of times, the rate, a zone where times are local, and what is unsure."""
    likely = sorted(names, key=lambda name: _TIME_NAMES.search(name) is None)
    for name in likely:
        for zone in ("", "UTC"):
            tried = TextTable(encoding=table.encoding, decimal=table.decimal, timezone=zone)
            try:
                times = TimeColumn(tried, name).read(block)[0]
            except DatasetError:
                continue
            steps = np.diff(times)
            usual = float(np.median(steps)) if len(steps) else 0.0
            regular = steps[steps < 3 * usual] if usual > 0 else steps
            rate_hz = _round_rate(SECOND_NS / float(regular.mean())) if usual > 0 and len(regular) else None
            unsure = ["times are local and have no offset: which time zone?"] if zone else []
            return name, rate_hz, zone, unsure
    return "", None, "", ["no column of times was found: give 'time', or 'rate_hz' and perhaps 'start'"]


def _round_rate(rate_hz: float) -> float:
    """Return the rate in few digits: three where a clock could be so far off, else four.

    Example:
        >>> _round_rate(49.987), _round_rate(1024.02)
        (50.0, 1024.0)
    """
    few = float(f"{rate_hz:.3g}")
    return few if abs(few / rate_hz - 1) < _CLOCK_ERROR else float(f"{rate_hz:.4g}")


def _modality(kind: Alike, taken: Sequence[str]) -> str:
    words = re.findall(r"[^\W\d_]+", re.sub(r"\{\w+\}", "", Path(kind.pattern).stem))
    name = "_".join(words).lower() or "sensor"
    return name if name not in taken else f"{name}_{len(taken) + 1}"


def _source_keys(kind: Alike, modality: str) -> Iterator[tuple[str, Any, str]]:
    look, table = kind.look, kind.look.table
    yield "modality", modality, ""
    yield "files", kind.pattern, f"{len(kind.files)} files"
    if look.format == "wav":
        yield "kind", "audio", '? or "series", for a vibration that was recorded as sound'
    if look.time:
        yield "time", look.time, ""
    if look.rate_hz is not None:
        yield "rate_hz", look.rate_hz, "? measured in the first rows"
    elif not knows_its_rate(look.format) and not look.time:
        yield "rate_hz", 1.0, "? samples per second"
    yield from _text_keys(table)
    if look.frame is not None:
        height, width = look.frame
        scale = min(1.0, _USUAL_SIDE / max(height, width))
        yield "channels", ["gray"], '? or ["r", "g", "b"]'
        yield "height", max(1, round(height * scale)), f"? {height} recorded"
        yield "width", max(1, round(width * scale)), f"? {width} recorded"
        yield "region", "whole", '? or "auto", where things move, or [x, y, width, height] in recorded pixels'
        return
    if not knows_its_rate(look.format):
        yield "channels", look.numbers, ""
    yield "unit", "", ""


def _text_keys(table: TextTable) -> Iterator[tuple[str, Any, str]]:
    comments = {"timezone": "? such as 'Europe/Berlin'", "encoding": "? it is not UTF-8"}
    for name, _, default, _ in keys_of(TextTable):
        value = getattr(table, name)
        if value != default and (name, value) != ("delimiter", ","):
            yield name, value, comments.get(name, "")


def _label_keys(sources: Sequence[Alike], labels: Sequence[Alike]) -> Iterator[tuple[str, Any, str]]:
    columns = [name for kind in sources for name in kind.look.texts]
    parts = _shared_parts(sources)
    if labels:
        look = labels[0].look
        start, end = (next(name for name in look.names if names.match(name)) for names in (_START_NAMES, _END_NAMES))
        names = [name for name in look.texts if name not in (start, end)]
        yield "files", labels[0].pattern, ""
        yield "start", start, ""
        yield "end", end, ""
        yield "label", names[0] if names else "label", f"? one of {', '.join(look.names)}"
        yield from _text_keys(look.table)
    elif columns:
        yield "column", columns[0], f"? columns with few texts: {', '.join(dict.fromkeys(columns))}"
    else:
        yield "path", parts[-1] if parts else "state", "? no column and no file of labels was found"


def _table(name: str, rule: type[msgspec.Struct], keys: Iterable[tuple[str, Any, str]]) -> Iterator[str]:
    yield from ("", name, *toml_lines(rule, {key: (value, comment) for key, value, comment in keys}))


def _shared_parts(sources: Sequence[Alike]) -> list[str]:
    return [part for part in sources[0].parts if all(part in kind.parts for kind in sources)]
