"""A first recipe for a folder of logs, with comments on what the files do not show."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_models.data.importing.clock import SECOND_NS, SampleSeries, TimeColumn, Times, clock_facts, commonest_hz
from mmkd_models.data.importing.keys import TextTable, list_keys, toml_lines
from mmkd_models.data.importing.patterns import match_path, natural_key, plain_value
from mmkd_models.data.importing.readers.csv_file import (
    detect_encoding,
    find_undecodable,
    guess_delimiter,
    has_decimal_commas,
    is_decodable,
)
from mmkd_models.data.importing.readers.formats import WITH_RATE, Format, choose_reader, suffixes
from mmkd_models.data.importing.readers.media_files import video_facts
from mmkd_models.data.importing.readers.table import RowBlock, strip_texts, uses_commas

_ENCODINGS = ("utf-8", "shift_jis", "cp1252")
_HEAD_BYTES, _HEAD_ROWS, _HEAD_LINES, _HEAD_CHARACTERS = 1 << 20, 2000, 50, 2000
_TIME_NAMES = re.compile(r"time|zeit|date|stamp|datum|時刻|日時|^t$|^ts$|^(ms|us|ns|s|sec|seconds)$", re.IGNORECASE)
_PART = re.compile(r"\{(\w+)\}")
_END_NAMES = re.compile(r"^(end|ende|stop|finish|to|until|bis)", re.IGNORECASE)
_START_NAMES = re.compile(r"^(start|begin|from|onset|von)", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_LABEL_WORDS = ("label", "class", "state", "anomaly", "fault", "event", "changepoint")  # the first one found is taken
_ELAPSED_UNITS = {"ms": "ms", "us": "us", "ns": "ns", "millis": "ms", "micros": "us", "nanos": "ns"}
_FORMATS = ("%d.%m.%Y %H:%M:%S%.f", "%d.%m.%Y %H:%M", "%m/%d/%Y %H:%M:%S%.f")  # beside ISO 8601
_CLOCK_ERROR = 1e-3
_USUAL_SIDE = 96  # pixels of a frame's longer side for device networks
_FEW = 20  # largest number of different texts in a column of labels or groups
_MAX_CHOICES = 7  # of groups, in a question
_MIN_GROUPS = 3  # train, valid and test
_WINDOW_S, _WINDOW_SAMPLES = 2.0, 32  # whichever is longer

_Keys = dict[str, tuple[Any, str]]
"""By key, its value and a comment."""

_DAMAGED = "cannot be read and is left out, is that right"


@dataclass(frozen=True, kw_only=True)
class FirstLook:
    """Beginning of the first of several files with the same columns; `missing` of its first `rows` are lost."""

    pattern: str
    parts: Mapping[str, tuple[str, ...]]
    files: tuple[Path, ...]
    format: Format
    names: tuple[str, ...] = ()
    table: TextTable = field(default_factory=TextTable)
    time: str = ""
    rate_hz: float | None = None
    is_rounded: bool = False
    missing: int = 0
    rows: int = 0
    numbers: tuple[str, ...] = ()
    texts: Mapping[str, int] = field(default_factory=dict)  # and how many different ones
    flags: tuple[str, ...] = ()
    binary: tuple[str, ...] = ()  # flags of 0 and 1
    doubts: tuple[str, ...] = ()
    frame: tuple[int, int] | None = None

    @property
    def is_intervals(self) -> bool:
        """Whether it is a file of labelled intervals."""
        return any(map(_START_NAMES.match, self.names)) and any(map(_END_NAMES.match, self.names))


def draft_recipe(folder: Path, *, prefix: str = ".") -> str:
    """Return a recipe for a folder at `prefix` from the recipe. Raise UsageError without logs."""
    if not folder.is_dir():
        got, cure = ("got a file", "name its folder") if folder.is_file() else ("found none there", "check the path")
        raise UsageError(f"{folder}: expected a folder of logs, {got}; {cure}")
    above, asked = "" if prefix == "." else f"{prefix}/", dict[str, list[str]]()
    looks = [replace(look, pattern=f"{above}{look.pattern}") for look in _join_parts(_look_at_files(folder, asked))]
    labels = [look for look in looks if look.is_intervals]
    tables = {look.pattern: match for look in looks if (match := _table_match(look, looks, folder, above))}
    columns = {pattern: [*match.get("match", ({}, ""))[0].values()] for pattern, match in tables.items()}
    looks = [
        replace(look, texts={name: n for name, n in look.texts.items() if name not in columns.get(look.pattern, ())})
        for look in looks
    ]
    rest = [look for look in looks if not look.is_intervals and look.pattern not in tables]
    sources = [look for look in rest if look.numbers or look.format in WITH_RATE]
    for look in rest:
        if look not in sources:
            asked.setdefault("is left out, is that right? It has no columns of numbers", []).append(look.pattern)
    if not sources:
        damaged = [text.partition("? ")[2] for text in asked if _DAMAGED in text]
        cure = damaged[0] if damaged else "name the folder that has them"
        raise UsageError(f"{folder}: expected logs with columns of numbers, found none; {cure}")
    sources, excluded = _join_single_files(sources, labels, folder, above, asked)
    lines, names = list[str](), list[str]()
    for look in sources:
        name = _sensor_name(look.pattern.removeprefix(above))
        names.append(name if name not in names else f"{name}_{len(names) + 1}")
        lines += ["", "[[source]]", *toml_lines(_source_keys(look, names[-1]))]
        for text in look.doubts:
            asked.setdefault(text, []).append(names[-1])
    asked |= _ask_about_twins(sources, names, folder, above)
    for text in (text for look in labels[:1] for text in look.doubts):
        asked.setdefault(text, []).append("labels")
    keys, question = _label_keys(sources, [*labels, *(look for look in looks if look.pattern in tables)])
    keys |= tables.get(keys.get("table", ("", ""))[0], {})
    lines += ["", "[labels]", *toml_lines(keys)]
    shared = [part for part in sources[0].parts if all(part in look.parts for look in sources)]
    length_s = max(_WINDOW_S, _WINDOW_SAMPLES / min((look.rate_hz or math.inf) for look in sources))
    windows: _Keys = {"length_s": (float(f"{length_s:.2g}"), ""), "stride_s": (float(f"{length_s / 2:.2g}"), "")}
    lines += ["", "[windows]", *toml_lines(windows)]
    largest = max(sources, key=lambda look: len(look.files))
    group_keys, group_question = _group_keys(largest, shared, keys)
    if not group_keys and len(sources) > 1 and len(largest.files) > 1:
        patterns = " and ".join(look.pattern for look in sources)
        group_question = (
            f"split: {patterns} share no part, so that all files are one recording: which part is the same?"
        )
    lines += ["", "[split]", *toml_lines(group_keys)] if group_keys else []
    questions = [f"{', '.join(names)}: {text}" for text, names in asked.items()]
    questions += [question, "length_s: is a window long enough to show the difference between classes?", group_question]
    head = "# Drafted by mmkd-data recipe; docs/your-own-data.md lists every key. Please decide:"
    top = ["version = 1", *([f"exclude = {json.dumps(excluded, ensure_ascii=False)}"] if excluded else [])]
    return "\n".join([head, *(f"# - {text}" for text in questions if text), *top, *lines]) + "\n"


def _look_at_files(folder: Path, asked: dict[str, list[str]]) -> list[FirstLook]:
    known = [suffix for suffix in suffixes() if suffix != ".npz"]  # often results
    files = [file for file in folder.rglob("*") if file.suffix.lower() in known and file.is_file()]
    if not files:
        raise UsageError(f"{folder}: expected files that end in {', '.join(known)}, found none; name their folder")
    looks = []
    for group in _alike(folder, sorted(files, key=lambda file: natural_key(file.as_posix()))):
        pattern, parts = _pattern([file.relative_to(folder).as_posix() for file in group])
        form = suffixes()[group[0].suffix.lower()]
        try:
            looks.append(_look_into(FirstLook(pattern=pattern, parts=parts, files=tuple(group), format=form)))
        except DatasetError as error:
            asked[f"{_DAMAGED}? {error}"] = [pattern]
            if len(group) == len(files):
                raise UsageError(str(error)) from error
    return looks


def _join_single_files(
    sources: Sequence[FirstLook], labels: Sequence[FirstLook], folder: Path, above: str, asked: dict[str, list[str]]
) -> tuple[list[FirstLook], list[str]]:
    """Return sources without single files among sources of several recordings, and the files to exclude."""
    kept = [look for look in sources if look.parts] or list(sources)
    excluded = list[str]()
    for single in (look for look in sources if look not in kept):
        matches = [match_path(look.pattern, single.pattern) or {} for look in kept]
        number = next((number for number, its_parts in enumerate(matches) if its_parts), 0)
        parts = matches[number]
        look = kept[number]
        if parts and single.names == look.names:
            values = {name: (*look.parts[name], value) for name, value in parts.items()}
            kept[number] = replace(look, parts=values, files=(*look.files, *single.files))
            value = " and ".join(f"{name} {value!r}" for name, value in parts.items())
            asked.setdefault(f"is taken as {value} of {look.pattern}, is that right", []).append(single.pattern)
            continue
        columns = f"{', '.join(single.names)} in place of {', '.join(look.names)}"
        why = f"It has other columns than {look.pattern}: {columns}"
        if not parts:
            why = f"It is one file, and {look.pattern} has one for each recording"
        asked.setdefault(f"is left out, is that right? {why}", []).append(single.pattern)
        for other in labels if parts else ():
            rows = zip(*(other.parts.get(name, ("",) * len(other.files)) for name in parts), strict=True)
            alike = [file for file, row in zip(other.files, rows, strict=True) if row == tuple(parts.values())]
            excluded += [f"{above}{file.relative_to(folder).as_posix()}" for file in alike]
        excluded += [single.pattern] if parts else []
    return kept, excluded


def _ask_about_twins(
    sources: Sequence[FirstLook], names: Sequence[str], folder: Path, above: str
) -> Iterator[tuple[str, list[str]]]:
    for columns in dict.fromkeys(look.names for look in sources if look.names):
        twins = [number for number, look in enumerate(sources) if look.names == columns]
        if len(twins) > 1:
            all_files = [file for number in twins for file in sources[number].files]
            pattern, _ = _pattern([file.relative_to(folder).as_posix() for file in all_files])
            text = "have the same columns: if they are shifts, runs or classes of one sensor, write one source, files ="
            yield f"{text} {above + pattern!r}", [names[number] for number in twins]


def _sensor_name(pattern: str) -> str:
    *folders, name = pattern.split("/")
    words = re.findall(r"[^\W\d_]+", _PART.sub(" ", name.rpartition(".")[0]))
    folders = [folder for folder in folders if "{" not in folder]
    return "_".join([word for word in words if len(word) > 1] or folders[-1:] or words).lower() or "sensor"


def _alike(folder: Path, files: Sequence[Path]) -> list[list[Path]]:
    """Group files whose names differ only in numbers or folders; CSV files also share half of their columns."""
    groups: list[tuple[tuple[str, int], set[bytes], list[Path]]] = []
    for file in files:
        relative = file.relative_to(folder)
        key, columns = (re.sub(r"\d+", "#", relative.name), len(relative.parts)), set[bytes]()
        if suffixes()[file.suffix.lower()] == "csv":
            with file.open("rb") as stream:
                columns = set(re.findall(rb"[^\W\d]+", stream.readline(_HEAD_BYTES)))
        for other, its_columns, group in groups:
            if key == other and 2 * len(columns & its_columns) >= max(len(columns), len(its_columns)):
                group.append(file)
                break
        else:
            groups.append((key, columns, [file]))
    return [group for _, _, group in groups]


def _pattern(names: Sequence[str]) -> tuple[str, Mapping[str, tuple[str, ...]]]:
    """Return a pattern of these names, and by part that differs its value in each name."""
    for separators in (r"(\d+|[/._-])", r"(\d+|[/.])", r"(/|\.\w+$)"):
        split = [re.split(separators, name) for name in names]
        if len({len(pieces) for pieces in split}) == 1:
            break
    columns: list[tuple[str, ...]] = []
    for values in zip(*split, strict=True):
        if columns and len(set(values)) > 1 and len(set(columns[-1])) > 1:  # neighbours that differ are one part
            values = tuple(first + second for first, second in zip(columns.pop(), values, strict=True))
        columns += [values] if any(values) else []
    named: dict[tuple[str, ...], str] = {}
    pieces: list[str] = []
    depth = names[0].count("/")
    for values in columns:
        if len(set(values)) == 1:
            pieces.append(values[0])
            continue
        if values not in named:
            before = re.findall(r"[A-Za-z]+", re.split(r"[/}]", "".join(pieces))[-1])
            name = before[-1].lower() if before else ("folder" if pieces.count("/") < depth else "file")
            named[values] = name if name not in named.values() else f"{name}{len(named) + 1}"
        part = "{" + named[values] + "}"
        pieces.append("*" if part in "".join(pieces).rpartition("/")[2] else part)
    return "".join(pieces), {name: values for values, name in named.items()}


def _join_parts(looks: Sequence[FirstLook]) -> list[FirstLook]:
    """Give parts of several patterns with the same values one name: `a_{a}` and `b_{b}` become `a_{run}`, `b_{run}`."""
    joined: list[tuple[set[str], dict[int, str]]] = []  # values, and the name in each pattern
    for number, look in enumerate(looks):
        for name, column in look.parts.items():
            values = set(column)
            for others, names in joined:
                least = 1 if name in names.values() else (max(len(values), len(others)) + 1) // 2
                if number not in names and len(values & others) >= least:
                    names[number] = name
                    others |= values
                    break
            else:
                joined.append((values, {number: name}))
    renamed: list[dict[str, str]] = [{} for _ in looks]
    taken: list[str] = []
    for _, names in joined:
        name = next(iter(names.values())) if len(set(names.values())) == 1 else "run"
        taken.append(name if name not in taken else f"{name}{len(taken) + 1}")
        for number, old in names.items():
            renamed[number][old] = taken[-1]
    return [
        replace(
            look,
            pattern=_PART.sub(lambda part, names=names: f"{{{names[part[1]]}}}", look.pattern),  # type: ignore[misc]
            parts={names[name]: values for name, values in look.parts.items()},
        )
        for look, names in zip(looks, renamed, strict=True)
    ]


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
    except DatasetError as error:
        if look.format == "csv":
            raise
        # Channels of several clocks: the user must group them.
        return replace(look, numbers=names, doubts=(str(error).removeprefix(f"{file}: "),))
    if block is None:
        return replace(look, doubts=("the first file has no rows",))
    head = replace(block, frame=block.frame.head(_HEAD_ROWS))
    look = _with_time(look, head)
    numbers, texts, flags, binary = [], dict[str, int](), [], []
    for name in (name for name in names if name != look.time):
        column = head.frame[name]
        is_number = column.dtype.is_numeric()
        if column.dtype == pl.String:
            column = strip_texts(column, look.table)
            plain = column.str.replace(",", ".") if uses_commas(head, look.table) else column
            is_number = plain.cast(pl.Float64, strict=False).null_count() < len(plain) // 2 + 1
        if _label_rank(name) < len(_LABEL_WORDS) and 1 <= column.n_unique() <= _FEW:
            flags.append(name)
            binary += [name] if set(column.cast(pl.String)) <= {"0", "1", "0.0", "1.0", None} else []
        elif is_number:
            numbers.append(name)
        elif 2 <= column.n_unique() <= _FEW:
            texts[name] = column.n_unique()
    return replace(
        look, numbers=tuple(numbers), texts=texts, flags=tuple(sorted(flags, key=_label_rank)), binary=tuple(binary)
    )


def _label_rank(name: str) -> int:
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return next((rank for rank, word in enumerate(_LABEL_WORDS) if word in words), len(_LABEL_WORDS))


def _text_table(file: Path) -> TextTable:
    with file.open("rb") as stream:
        raw = stream.read(_HEAD_BYTES)
    marked = detect_encoding(file)
    encodings = _ENCODINGS if marked == "utf-8" else (marked,)
    encoding = next((name for name in encodings if is_decodable(raw, name)), "latin-1")
    undecodable = None if encoding in ("utf-8", marked) else find_undecodable(io.BytesIO(raw), "utf-8")
    if undecodable and undecodable[2]:  # a header in UTF-8 above other text: its import says so
        encoding = "utf-8"
    lines = raw.decode(encoding, errors="ignore").splitlines()[:_HEAD_LINES] or [""]
    delimiter = guess_delimiter(lines[0])
    heads = [line[:_HEAD_CHARACTERS] for line in lines[1:]]  # together below the csv module's limit of a field
    has_comma = any(
        _DECIMAL_COMMA.fullmatch(text.strip()) for row in csv.reader(heads, delimiter=delimiter) for text in row
    )
    table = TextTable(
        encoding="auto" if encoding in ("utf-8", marked) else encoding,
        header=not all(re.fullmatch(r"[-\d.,eE+ ]*", name) for name in lines[0].split(delimiter)),
    )
    is_unclear = has_comma and delimiter != "," and not has_decimal_commas(file, table)
    return msgspec.structs.replace(table, decimal="," if is_unclear else "auto")


def _with_time(look: FirstLook, head: RowBlock) -> FirstLook:
    names = _START_NAMES if look.is_intervals else _TIME_NAMES
    for name in sorted(look.names, key=lambda name: names.search(name) is None):
        changes: list[dict[str, str]] = [{}, {"timezone": "UTC"}]
        if names.search(name):
            changes += [{"time_format": text, "timezone": "UTC"} for text in _FORMATS]
            units = [_ELAPSED_UNITS[word] for word in re.findall(r"[a-z]+", name.lower()) if word in _ELAPSED_UNITS]
            changes.append({"time_unit": units[-1] if units else "s"})
        for change in changes:
            table = msgspec.structs.replace(look.table, **change)
            try:
                times = TimeColumn(table, name).read(head)
            except DatasetError:
                continue
            if "time_unit" in change and not (np.diff(times) > 0).all():
                continue
            look = replace(look, time=name, table=table, doubts=_time_doubts(name, times, table, change))
            if look.is_intervals:
                return look
            series, common_hz = SampleSeries(times=times, values=times), commonest_hz(times)
            clock = clock_facts(series, max_gap_s=None, expected_hz=common_hz if common_hz > 0 else None)
            exact_hz = clock.rate_hz
            rate_hz, is_rounded = None, False
            if np.isfinite(exact_hz):  # rounded to three digits if a clock could be that far off, else four
                few_hz = float(f"{exact_hz:.3g}")
                rate_hz = few_hz if abs(few_hz / exact_hz - 1) < _CLOCK_ERROR else float(f"{exact_hz:.4g}")
                is_rounded = rate_hz != float(f"{exact_hz:.4g}")
            return replace(look, rate_hz=rate_hz, is_rounded=is_rounded, missing=clock.missing, rows=len(times))
    doubt = "no column of times was found: which one is 'time', or how many samples a second, 'rate_hz', has it?"
    if look.is_intervals:
        doubt = "its times cannot be read: which 'time_format' or 'time_unit' have they?"
    return replace(look, doubts=(doubt,))


def _time_doubts(name: str, times: Times, table: TextTable, change: Mapping[str, str]) -> tuple[str, ...]:
    doubts: tuple[str, ...] = ()
    if "timezone" in change:
        doubts = (f"times in {name!r} have no offset: which timezone, such as 'Europe/Berlin'?",)
    elif "time_unit" in change:
        whole, coarse_s = not (times % SECOND_NS).any(), float(np.median(np.diff(times))) / SECOND_NS
        doubts = (f"times in {name!r} count from a start: is their unit {table.time_unit!r}?",)
        if table.time_unit == "s" and whole and coarse_s > 1:
            rates = f"'s' ({1 / coarse_s:.3g} Hz) or 'ms' ({1000 / coarse_s:.3g} Hz)"
            doubts = (f"times in {name!r} count from a start: is their unit {rates}?",)
    if "/" in table.time_format:
        doubts += (f"do dates in {name!r} begin with the month?",)
    return doubts


def _source_keys(look: FirstLook, modality: str) -> _Keys:
    keys: _Keys = {"modality": (modality, ""), "files": (look.pattern, f"{len(look.files)} files")}
    knows_rate = look.format in WITH_RATE
    if look.format == "wav":
        keys["kind"] = "audio", 'or "series", for a vibration that was recorded as sound'
    if look.is_rounded or look.missing:
        lost = f"commonest interval; of the first {look.rows + look.missing:,} rows {look.missing:,} are missing"
        comment = lost if look.missing else "measured in the first rows"
        keys |= {"time": (look.time, ""), "rate_hz": (look.rate_hz, comment)}
    elif look.time:
        keys["time"] = look.time, "" if look.rate_hz is None else f"{look.rate_hz:g} Hz in the first rows"
    elif not knows_rate:
        keys["rate_hz"] = 1.0, "samples per second"
    keys |= _text_keys(look.table)
    if look.frame is not None:
        height, width = look.frame
        scale = min(1.0, _USUAL_SIDE / max(height, width))
        keys["channels"] = ["gray"], 'or ["r", "g", "b"]'
        keys["height"] = max(1, round(height * scale)), f"{height} recorded"
        keys["width"] = max(1, round(width * scale)), f"{width} recorded"
        return keys
    if {*look.names} != {look.time, *look.numbers} and not knows_rate:
        keys["channels"] = look.numbers, ""
    units = {found[1] if (found := re.search(r"[\[(](.+)[\])]$", name)) else "" for name in look.numbers}
    unit = units.pop() if len(units) == 1 else ""
    comment = f"of {', '.join(look.numbers)}" if look.numbers and not unit and "channels" not in keys else ""
    return {**keys, "unit": (unit, comment)}


def _text_keys(table: TextTable) -> _Keys:
    comments = {"encoding": "it is not UTF-8"}
    values = {name: (getattr(table, name), default) for name, default, _ in list_keys(TextTable)}
    return {name: (value, comments.get(name, "")) for name, (value, default) in values.items() if value != default}


def _label_keys(sources: Sequence[FirstLook], labels: Sequence[FirstLook]) -> tuple[_Keys, str]:
    if labels:
        look = labels[0]
        keys: _Keys = {"table": (look.pattern, "")}
        if look.is_intervals:
            start, end = (next(filter(names.match, look.names)) for names in (_START_NAMES, _END_NAMES))
            keys = {"files": (look.pattern, ""), "start": (start, ""), "end": (end, "")}
        texts = [name for name in (*look.flags, *look.texts) if name not in [value for value, _ in keys.values()]]
        keys |= {"label": (next(iter(texts), "label"), ""), **_text_keys(look.table)}
        return keys, f"labels: which column has them, {' or '.join(texts)}?" if len(texts) > 1 else ""
    flags = sorted(dict.fromkeys(name for look in sources for name in look.flags), key=_label_rank)
    columns = [*flags, *dict.fromkeys(name for look in sources for name in look.texts)]
    parts = [part for part in sources[0].parts if all(part in look.parts for look in sources)]
    values = {part: set(sources[0].parts[part]) for part in parts}
    parts = [part for part in parts if 2 <= len(values[part]) <= _FEW and not re.search(r"\d", "".join(values[part]))]
    choices = [f"column = {name!r}" for name in columns] + [f"path = {part!r}" for part in parts]
    question = f"labels: which are they, {' or '.join(choices)}?" if len(choices) > 1 else ""
    if flags or (columns and not parts):
        keys = {"column": (columns[0], "")}
        if _label_rank(columns[0]) >= _LABEL_WORDS.index("anomaly") and any(
            columns[0] in look.binary for look in sources
        ):
            keys["rename"] = {"0": "normal", "1": columns[0]}, ""
        return keys, question
    if parts:
        return {"path": (parts[0], ", ".join(sorted(set(sources[0].parts[parts[0]]))))}, question
    return (
        {"classes": (["normal", "fault"], "your classes"), "unlabelled": ("keep", "")},
        (
            "labels: no column, folder or file of labels was found; name one; if all is normal running, write"
            " task = 'normal' in place of the keys of [labels]; or leave it so: nothing is labelled"
        ),
    )


def _table_match(look: FirstLook, looks: Sequence[FirstLook], folder: Path, above: str) -> _Keys:
    """Return the [labels] key by which a file has one line per recording, if any."""
    if look.format != "csv" or look.parts or look.is_intervals or not look.names:
        return {}
    block = next(choose_reader("csv", look.table).blocks(look.files[0], look.names), None)
    if block is None or len(block.frame) > _HEAD_ROWS:
        return {}
    files = {f"{above}{file.relative_to(folder).as_posix()}" for other in looks for file in other.files}
    columns = {name: strip_texts(block.frame[name], look.table).to_list() for name in look.names}
    for name, values in columns.items():
        if {*values} - {None} and {*values} - {None} <= files:
            return {"file": (name, "")}
    match = dict[str, str]()
    parts = [(other.pattern, part, set(known)) for other in looks for part, known in other.parts.items()]
    pairs = itertools.product(columns, parts)
    for name, (pattern, part, known) in sorted(pairs, key=lambda pair: pair[0].casefold() != pair[1][1].casefold()):
        plain = {value if value in known else plain_value(pattern, part, value) for value in columns[name] if value}
        is_needed = name.casefold() == part.casefold() or (
            len({*zip(*(columns[column] for column in match.values()), strict=True)}) < len(block.frame)
        )
        is_free = part not in match and name not in match.values()
        shared = plain & known
        if is_free and is_needed and len(known) > 1 and shared and 2 * len(shared) >= max(len(plain), len(known)):
            match[part] = name
    return {"match": (match, "")} if match else {}


def _group_keys(look: FirstLook, shared: Sequence[str], labels: _Keys) -> tuple[_Keys, str]:
    label, label_part = (labels.get(key, ("", ""))[0] for key in ("column", "path"))
    parts = [part for part in shared if part != label_part]
    if not parts:
        columns = {name: number for name, number in look.texts.items() if name != label}
        if not columns:
            alone = (
                "split: no part of the path differs between recordings, so each is split by time: is it one machine?"
            )
            return {}, alone
        counts: dict[tuple[str, ...], int] = {(name,): number for name, number in columns.items()}
        choices = [f"{name!r} ({number} values)" for name, number in columns.items()]
    else:
        sizes = dict[tuple[str, ...], list[int]]()
        for names in (names for size in range(1, 4) for names in itertools.combinations(shared, size)):
            groups = Counter(zip(*(look.parts[name] for name in names), strict=True))
            if len(groups) > max((len(sizes[some]) for some in sizes if {*some} < {*names}), default=0):
                sizes[names] = sorted(groups.values())
        sizes.pop((label_part,), None)
        choices = [_describe_groups(names, numbers) for names, numbers in itertools.islice(sizes.items(), _MAX_CHOICES)]
        counts = {}
        for count in range(1, len(parts) + 1):  # folders around others are machines or people
            inner = [names for names in sizes if {*names} <= {*parts[:count]}]
            best = max(inner, key=lambda names: len(sizes[names]), default=())
            counts[best] = len(sizes.get(best, ()))
    group = next(
        (names for names, number in counts.items() if number >= _MIN_GROUPS), tuple(parts) or next(iter(counts))
    )
    text = " or ".join([*([", ".join(choices[:-1])] if choices[:-1] else []), choices[-1]])
    question = f"split: which part must be whole in one split, such as a machine or a person: {text}?"
    return {"group": (group[0] if len(group) == 1 else list(group), "")}, question


def _describe_groups(names: Sequence[str], sizes: Sequence[int]) -> str:
    """Return `'line' (4 groups of 3 to 4 recordings)`; sizes ascend."""
    each = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
    choice = repr(names[0]) if len(names) == 1 else json.dumps(list(names), ensure_ascii=False)
    return f"{choice} ({len(sizes)} groups of {each} recording{'' if sizes[-1] == 1 else 's'})"
