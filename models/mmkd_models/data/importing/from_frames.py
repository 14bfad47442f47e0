"""A dataset directory from frames and arrays in memory."""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import UnavailableError, UsageError
from mmkd_edge.spec import ModalitySpec, TaskKind, TaskSpec
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.importing.from_recipe import import_recipe
from mmkd_models.data.importing.recipe import ImportRecipe, LabelRule, SensorSource, SplitRule, WindowRule
from mmkd_models.data.importing.window_labels import split_by_group, split_by_time
from mmkd_models.data.labels import find_strata
from mmkd_models.data.spec import SPLIT_NAMES
from mmkd_models.data.writer import write_dataset

_SECONDS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_GROUP, _LABEL, _TIME = ".group", ".label", ".time"


def dataset(
    data: Any,
    *,
    label: Any = None,
    group: Any = None,
    window: float | str | None = None,
    hop: float | str | None = None,
    time: str | None = None,
    timezone: str = "UTC",
    rate_hz: float | Mapping[str, float] | None = None,
    sensors: Mapping[str, Sequence[str]] | None = None,
    path: str | Path | None = None,
    name: str = "",
    seed: int = 0,
) -> Dataset:
    """Make a dataset directory of frames or arrays, with whole groups in train, valid and test (60, 20, 20 %).

    Args:
        data: a pandas or polars frame of all sensors; a frame of each sensor by name; or windows that are cut already,
            arrays (N, T, C) of each sensor by name, NaN = missing.
        label: of frames a column: text or whole numbers are classes, other numbers a target. Of arrays (N,) classes or
            numbers, or (N, K) labels off or on with 0 and 1. Without it all is normal running.
        group: what splits must not share, as person or machine: a column, or of arrays (N,). Without it windows are
            split by time.
        window: length, as "4s", "500ms", or seconds; `hop` is the time from one to the next, by default the length.
        time: column of times (seconds, or dates). Without it samples follow each other at `rate_hz`, by sensor or for
            all. A pandas frame with a DatetimeIndex needs neither.
        timezone: of dates without one, as "Europe/Berlin".
        sensors: columns of each sensor, of one frame of all.
        path: of the new directory; by default a temporary one, until Python ends.

    Raise UsageError for arguments that do not fit, DatasetError for recordings that break a rule.
    """
    if path is None:
        path = Path(tempfile.mkdtemp(prefix="mmkd-"), "dataset")
        atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    target = Path(path)
    name = name or target.name
    if isinstance(data, Mapping) and all(isinstance(values, np.ndarray) for values in data.values()):
        for what, given in (("window", window), ("hop", hop), ("time", time), ("sensors", sensors)):
            if given is not None:
                raise UsageError(f"{what}: not for arrays, which are windows already, got {given!r}; leave it out")
        return _from_arrays(target, data, label, group, rate_hz, name=name, seed=seed)
    if window is None:
        raise UsageError('window: expected its length, as "4s", got none; give one')
    frames = _frames(data, sensors, keep=[one for one in (label, group, time) if one is not None])
    rule = WindowRule(length_s=seconds(window, "window"), stride_s=None if hop is None else seconds(hop, "hop"))
    with tempfile.TemporaryDirectory() as scratch:
        recipe = _written(Path(scratch), frames, label, group, time, timezone, rate_hz, rule, seed=seed)
        return import_recipe(recipe, Path(scratch), target).dataset


def seconds(length: float | str, argument: str) -> float:
    """Return "4s", "500ms", "2min" or a number in seconds. Raise UsageError for anything else."""
    found = re.fullmatch(r"([\d.]+)\s*(ms|s|min|h)?", str(length).strip())
    try:
        return float(found[1]) * _SECONDS[found[2] or "s"] if found else float("nan") + int(length)
    except ValueError:
        raise UsageError(f'{argument}: expected "4s", "500ms" or seconds, got {length!r}; correct it') from None


def _rates(rate_hz: float | Mapping[str, float] | None, names: Sequence[str]) -> Mapping[str, float]:
    rates = rate_hz if isinstance(rate_hz, Mapping) else dict.fromkeys(names, rate_hz)
    for name in names:
        if rates.get(name) is None:
            raise UsageError(f"rate_hz: expected samples per second of {name!r}, got none; give a number")
    return {name: float(rates[name] or 0) for name in names}


def _task_of(label: npt.NDArray[Any]) -> tuple[TaskSpec, npt.NDArray[Any]]:
    if label.ndim == 2:
        return TaskSpec(kind="multi_label", labels=tuple(f"label {n}" for n in range(label.shape[1]))), label
    if label.dtype.kind == "f":
        return TaskSpec(kind="regression", labels=("target",)), label
    names, numbers = np.unique(label.astype(np.str_), return_inverse=True)
    return TaskSpec(labels=tuple(names.tolist())), numbers


def _from_arrays(
    path: Path, data: Mapping[str, npt.NDArray[Any]], label: Any, group: Any, rate_hz: Any, *, name: str, seed: int
) -> Dataset:
    rates = _rates(rate_hz, list(data))
    is_normal = label is None
    label = np.full(max(map(len, data.values())), "normal") if is_normal else label
    arrays = {sensor: values[..., None] if values.ndim == 2 else values for sensor, values in data.items()}
    for sensor, values in arrays.items():
        if values.ndim != 3 or len(values) != len(label):
            raise UsageError(
                f"{sensor}: expected windows (N, T, C) of {len(label)} labels, got {values.shape}; correct it"
            )
    task, labels = _task_of(np.asarray(label))
    task = TaskSpec(kind="normal", labels=task.labels) if is_normal else task
    groups, strata = None if group is None else np.asarray(group).astype(np.str_), find_strata(labels)
    rule = SplitRule(group="group" if groups is not None else "", seed=seed)
    if groups is not None:
        splits, _ = split_by_group(groups, strata, rule)
    else:
        splits = split_by_time(np.zeros(len(labels), dtype=np.int64), strata, rule)
    parts: dict[str, dict[str, npt.ArrayLike | Mapping[str, npt.ArrayLike]]] = {}
    for number, split in enumerate(SPLIT_NAMES):
        rows = splits == number
        parts[split] = {"labels": labels[rows], **{sensor: values[rows] for sensor, values in arrays.items()}}
        if groups is not None:
            parts[split]["groups"] = groups[rows]
    modalities = [series_of(sensor, values, rates[sensor]) for sensor, values in arrays.items()]
    return write_dataset(path, name=name, labels=task, modalities=modalities, splits=parts)


def series_of(name: str, values: npt.NDArray[Any], rate_hz: float) -> ModalitySpec:
    """Describe windows (N, T, C) of one sensor."""
    channels = tuple(f"{name}{number}" for number in range(values.shape[2])) if values.shape[2] > 1 else (name,)
    return ModalitySpec(name=name, channels=channels, rate_hz=rate_hz, samples=values.shape[1])


def _frames(data: Any, sensors: Mapping[str, Sequence[str]] | None, *, keep: Sequence[str]) -> dict[str, Any]:
    if isinstance(data, Mapping):
        if sensors is not None:
            raise UsageError("sensors: not for a frame of each sensor; leave it out, or give one frame of all")
        return {sensor: _as_polars(frame) for sensor, frame in data.items()}
    frame = _as_polars(data)
    if not sensors:
        example = ", ".join(f'"{column}"' for column in [one for one in frame.columns if one not in keep][:2])
        raise UsageError(
            f'sensors: expected the columns of each sensor, got none; give sensors={{"NAME": [{example}, ...]}}'
        )
    named = [*keep, *(column for columns in sensors.values() for column in columns)]
    for column in named:
        if column not in frame.columns:
            raise UsageError(f"column {column!r}: expected one of {', '.join(frame.columns)}; correct the name")
    extra = [column for column in (*keep, _TIME) if column in frame.columns]
    return {sensor: frame.select([*extra, *columns]) for sensor, columns in sensors.items()}


def _as_polars(frame: Any) -> Any:
    try:
        import polars as pl
    except ImportError as error:
        raise UnavailableError("frames need polars; run: pip install 'mmkd-edge[import]'") from error
    if isinstance(frame, pl.DataFrame):
        return frame
    if not hasattr(frame, "index") or not hasattr(frame, "columns"):
        raise UsageError(
            f"data: expected a pandas or polars frame, or arrays by sensor, got {type(frame).__name__}; convert it"
        )
    columns = {str(column): pl.Series(frame[column].tolist()) for column in frame.columns}
    if hasattr(frame.index, "tz"):  # a DatetimeIndex
        columns[_TIME] = pl.Series(frame.index.tolist())
    return pl.DataFrame(columns)


def _written(
    folder: Path,
    frames: Mapping[str, Any],
    label: str | None,
    group: str | None,
    time: str | None,
    timezone: str,
    rate_hz: float | Mapping[str, float] | None,
    rule: WindowRule,
    *,
    seed: int,
) -> ImportRecipe:
    """Write files of each group; return the recipe that imports them."""
    sources, facts = [], [column for column in (label, group) if column]
    labelled = [sensor for sensor, frame in frames.items() if label in frame.columns]
    if label and not labelled:
        raise UsageError(f"label {label!r}: expected a column of one of the frames, got none of that name; correct it")
    task: TaskKind = "normal"
    if label:
        task = "regression" if frames[labelled[0]][label].dtype.is_float() else "classification"
    for sensor, frame in frames.items():
        clock = time or (_TIME if _TIME in frame.columns else None)
        channels = [column for column in frame.columns if column not in (*facts, clock)]
        if group is not None and group not in frame.columns:
            raise UsageError(f"group {group!r}: expected a column of every frame, got none in {sensor!r}; add it there")
        parts = {"all": frame} if group is None else dict(frame.partition_by(group, as_dict=True, maintain_order=True))
        for key, part in parts.items():
            name = quote(str(key[0] if isinstance(key, tuple) else key), safe=" ").replace(".", "%2E")
            file = folder / (name or "%") / f"{sensor}.parquet"
            file.parent.mkdir(exist_ok=True)
            part.write_parquet(file)
        sources.append(
            SensorSource(
                modality=sensor,
                files="{group}/" + f"{sensor}.parquet",
                channels=tuple(channels),
                time=clock or "",
                time_unit="s" if clock and frame[clock].dtype.is_numeric() else "auto",
                timezone=timezone if clock and not frame[clock].dtype.is_numeric() else "",
                rate_hz=None if clock else _rates(rate_hz, list(frames))[sensor],
            )
        )
    return ImportRecipe(
        version=1,
        source=tuple(sources),
        labels=LabelRule(column=label or "", task=task),
        windows=rule,
        split=SplitRule(group="group" if group is not None else "", seed=seed),
    )
