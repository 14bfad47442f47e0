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

_Row = tuple[Any, Any, str, str]


def label_block(file: Path, rule: LabelRule) -> RowBlock:
    """Return the intervals of one file of `rule.format`.

    Raise DatasetError, naming task and result or file and number, if the file is no such export.
    """
    import polars as pl

    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: expected JSON, got {first_line(error)}; export the labels again") from error
    rows, places = [], []
    of_tool = _label_studio if rule.format == "label_studio" else _edge_impulse
    try:
        for place, row in of_tool(file, content, rule):
            rows.append(row)
            places.append(place)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DatasetError(
            f"{file}: expected an export of {rule.format}, got one without {first_line(error)};"
            " export the labels again, in the tool's JSON"
        ) from error
    columns = zip(*rows, strict=True) if rows else ((), (), (), ())
    frame = pl.DataFrame({name: list(one) for name, one in zip(LABEL_COLUMNS, columns, strict=True)}, strict=False)
    return RowBlock(file=file, frame=frame, place=lambda row: f"{file}: {places[row]}")


def _label_studio(file: Path, tasks: Any, rule: LabelRule) -> Iterator[tuple[str, _Row]]:
    for number, task in enumerate(tasks):
        if len(task["annotations"]) > 1:
            raise DatasetError(
                f"{file}: task {task.get('id', number)}: expected one annotation, got {len(task['annotations'])};"
                " keep one in the export"
            )
        name = _recording(task)
        for annotation in task["annotations"]:
            for result in annotation["result"]:
                place = f"task {task.get('id', number)}, result {result.get('id', '')}"
                yield from ((place, row) for row in _of_result(file, place, result, name, rule))


def _of_result(file: Path, place: str, result: Any, name: str, rule: LabelRule) -> Iterator[_Row]:
    value = result["value"]
    labels = value.get(result["type"], value.get("labels"))
    if not isinstance(labels, list):
        return  # a choice, a rating or a text, of the whole task
    if rule.task == "multi_label" and labels:
        labels = [rule.separator.join(labels)]
    if len(labels) != 1:
        raise DatasetError(
            f"{file}: {place}: expected one label for an interval, got {', '.join(labels) or 'none'}; keep one"
        )
    if "ranges" not in value:
        yield value["start"], value["end"], labels[0], name
        return
    for stretch in value["ranges"]:  # of video, in frames that count from 1
        rate_hz = _rate(file, rule)
        yield (stretch["start"] - 1) / rate_hz, stretch["end"] / rate_hz, labels[0], name


def _recording(task: Mapping[str, Any]) -> str:
    """The name of a task's file without its folder, ending, and what the upload put before it."""
    source = task.get("file_upload") or next(
        (one for one in task["data"].values() if isinstance(one, str) and "." in PurePosixPath(one).name), ""
    )
    return _UPLOAD.sub("", PurePosixPath(source.partition("?")[0]).stem)


def _edge_impulse(file: Path, content: Any, rule: LabelRule) -> Iterator[tuple[str, _Row]]:
    if "structuredLabels" in content:
        for name, stretches in content["structuredLabels"].items():
            for number, one in enumerate(stretches):
                rate_hz = _rate(file, rule)
                times = (one["startIndex"] / rate_hz, (one["endIndex"] + 1) / rate_hz)
                yield f"{name}, label {number}", (*times, one["label"], PurePosixPath(name).stem)
        return
    scale = {"s": 1e-9, "ms": 1e-6, "us": 1e-3}.get(rule.time_unit, 1)
    for one in content["files"]:
        if one["label"]["type"] == "label":
            times = (_ALWAYS[0] * scale, _ALWAYS[1] * scale)
            yield f"file {one['name']}", (*times, one["label"]["label"], PurePosixPath(one["path"]).stem)


def _rate(file: Path, rule: LabelRule) -> float:
    if rule.rate_hz is None:
        raise DatasetError(
            f"{file}: expected 'labels.rate_hz', got none; this file counts samples, say how many there are a second"
        )
    return rule.rate_hz
