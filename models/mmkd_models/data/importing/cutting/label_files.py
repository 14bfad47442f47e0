"""Label files of annotation tools as tables of `start`, `end`, `label` and `file`, the name of the recording.

Label Studio: the JSON export of time series, sound and video. Edge Impulse: `structured_labels.labels`, which counts
samples, and `info.labels`, which labels whole files. Formats: the tools' own documentation of their exports.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mmkd_edge.errors import DatasetError, first_line
from mmkd_models.data.importing.readers.table import RowBlock
from mmkd_models.data.importing.recipe import LabelRule

LABEL_COLUMNS = ("start", "end", "label", "file")
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # put before the name of a file that is uploaded to Label Studio
_ALWAYS = (-(1 << 61), 1 << 61)  # nanoseconds that no recording leaves

_PlacedRow = tuple[str, tuple[Any, Any, str, str]]


def label_block(file: Path, rule: LabelRule) -> RowBlock:
    """Return the intervals of one file of `rule.format`.

    Raise DatasetError, naming task and result or file and number, if the file is no such export.
    """
    import polars as pl

    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: expected JSON, got {first_line(error)}; export the labels again") from error
    read = _label_studio if rule.format == "label_studio" else _edge_impulse
    try:
        rows = list(read(file, content, rule))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DatasetError(
            f"{file}: expected an export of {rule.format}, got one without {first_line(error)};"
            " export the labels again, in the tool's JSON"
        ) from error
    columns = {name: [row[number] for _, row in rows] for number, name in enumerate(LABEL_COLUMNS)}
    return RowBlock(frame=pl.DataFrame(columns, strict=False), place=lambda row: f"{file}: {rows[row][0]}")


def _label_studio(file: Path, tasks: Any, rule: LabelRule) -> Iterator[_PlacedRow]:
    for number, task in enumerate(tasks):
        task_place = f"task {task.get('id', number)}"
        if len(task["annotations"]) > 1:
            raise DatasetError(
                f"{file}: {task_place}: expected one annotation, got {len(task['annotations'])}; keep one in the export"
            )
        for result in (result for annotation in task["annotations"] for result in annotation["result"]):
            place, value = f"{task_place}, result {result.get('id', '')}", result["value"]
            labels = value.get(result["type"], value.get("labels"))
            if not isinstance(labels, list):
                continue  # a choice, a rating or a text, of the whole task
            if rule.task == "multi_label" and labels:
                labels = [rule.separator.join(labels)]
            if len(labels) != 1:
                got = ", ".join(labels) or "none"
                raise DatasetError(f"{file}: {place}: expected one label for an interval, got {got}; keep one")
            for start, end in _stretches(file, value, rule):
                yield place, (start, end, labels[0], _recording(task))


def _stretches(file: Path, value: Mapping[str, Any], rule: LabelRule) -> Iterator[tuple[Any, Any]]:
    if "ranges" not in value:
        yield value["start"], value["end"]
        return
    for frames in value["ranges"]:  # of video, in frames that count from 1
        rate_hz = _rate(file, rule)
        yield (frames["start"] - 1) / rate_hz, frames["end"] / rate_hz


def _recording(task: Mapping[str, Any]) -> str:
    """The name of a task's file without its folder, ending, and the prefix of the upload."""
    source = task.get("file_upload") or next(
        (one for one in task["data"].values() if isinstance(one, str) and "." in PurePosixPath(one).name), ""
    )
    return _UPLOAD.sub("", PurePosixPath(source.partition("?")[0]).stem)


def _edge_impulse(file: Path, content: Any, rule: LabelRule) -> Iterator[_PlacedRow]:
    if "structuredLabels" in content:
        for name, intervals in content["structuredLabels"].items():
            for number, one in enumerate(intervals):
                rate_hz = _rate(file, rule)
                start, end = one["startIndex"] / rate_hz, (one["endIndex"] + 1) / rate_hz
                yield f"{name}, label {number}", (start, end, one["label"], PurePosixPath(name).stem)
        return
    scale = {"s": 1e-9, "ms": 1e-6, "us": 1e-3}.get(rule.time_unit, 1)
    for one in content["files"]:
        if one["label"]["type"] == "label":
            start, end = _ALWAYS[0] * scale, _ALWAYS[1] * scale
            yield f"file {one['name']}", (start, end, one["label"]["label"], PurePosixPath(one["path"]).stem)


def _rate(file: Path, rule: LabelRule) -> float:
    if rule.rate_hz is None:
        raise DatasetError(
            f"{file}: expected 'labels.rate_hz', got none; this file counts samples, say how many there are a second"
        )
    return rule.rate_hz
