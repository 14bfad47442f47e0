"""Recordings at another level than others: of another unit, with a dead channel, or of another operating point."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mmkd_documents.data import Finding
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.checking.related import exclude_text, list_first, note, problem
from mmkd_models.data.checking.scan import Scan
from mmkd_models.data.windows import Windows

_FACTOR = 8.0  # a larger ratio is not due to what was recorded
_MIN_RECORDINGS = 4  # of a class, for a median that one of them does not move
_ORDINARY = (0.05, 0.95)  # quantiles of the windows of all other recordings
_DEVIATIONS = 5.0  # robust std between recordings: people's skin conductance differs by nature
_MAD_OF_NORMAL = 1.4826
_MAX_NAMED = 3
_USUAL = float(np.log(3))  # a channel within this log ratio moves as usual
_TOLERANCE = (float(np.log(1.05)), float(np.log(1.25)))  # of a unit's factor, as recordings differ
_UNITS = {
    1000.0: "mm and m, or mV and V",
    9.80665: "g and m/s²",  # standard gravity, 3rd CGPM, 1901
    180 / float(np.pi): "radians and degrees",
    **{10.0**power: "powers of ten" for power in (1, 2, 4, 5, 6, 9)},
}
LOOK = "leave it, it may be real: look at the picture (mmkd-data report -o report.html)"

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ChannelLevel:
    """Median RMS of a recording's windows in one channel, and that of the others; `factor` is one between units."""

    number: int
    rms: float
    usual: float
    factor: float | None

    @property
    def ratio(self) -> float:
        """RMS in RMS of the others."""
        return self.rms / self.usual


@dataclass(frozen=True, kw_only=True)
class OddRecording:
    """Channels of a recording at another level, the farthest first; `siblings` move as usual.

    Attributes:
        windows: its windows (W,) in order.
        file: name of its one file of this modality; empty without one.
    """

    modality: ModalitySpec
    windows: Rows
    name: str
    file: str
    channels: tuple[ChannelLevel, ...]
    cause: Literal["unit", "dead", "unknown"]
    siblings: str


def find_odd_recordings(scan: Scan) -> list[OddRecording]:
    """Return recordings of which a channel is at 8 times the level of others of their class, or an eighth."""
    windows, found = scan.windows, list[OddRecording]()
    owners = windows.episodes if windows.episodes is not None else windows.groups if windows.has_groups else None
    if owners is None:
        return found
    recordings, owner = np.unique(owners, return_inverse=True)
    is_class = windows.spec.task.kind == "classification"
    classes = np.unique(windows.labels, return_inverse=True)[1] if is_class else np.zeros(len(windows), dtype=np.int64)
    moves: dict[str, Floats] = {}  # by channel the log ratio (R,) of a recording's movement to the usual one
    for modality in windows.spec.modalities:
        figures = scan.modalities[modality.name]
        std = np.sqrt(np.maximum(figures.power - figures.level**2, 0))
        for number, channel in enumerate(modality.channels):
            moves[_channel_name(modality, channel)] = _log_ratios(std[:, number], owner, classes)
    for modality in windows.spec.modalities:
        if modality.normalise != "none" or modality.name in scan.cameras:
            continue
        rms = np.sqrt(scan.modalities[modality.name].power)
        odd: dict[int, list[ChannelLevel]] = {}
        for number, channel in enumerate(modality.channels):
            movement = moves[_channel_name(modality, channel)]
            for recording, value, usual, spread in _outliers(rms[:, number], owner, classes):
                factor = _unit_factor(value / usual, float(movement[recording]), spread)
                level = ChannelLevel(number=number, rms=value, usual=usual, factor=factor)
                odd.setdefault(recording, []).append(level)
        for recording, levels in sorted(odd.items()):
            name, file = _names(windows, modality, recordings[recording].item(), int(np.argmax(owner == recording)))
            levels.sort(key=lambda level: -abs(np.log(level.ratio)))
            certain = next((level.factor for level in levels if level.factor is not None), None)
            if certain is not None:  # the other channels of the sensor share it, if they may
                near = [level for level in levels if abs(np.log(level.ratio / certain)) <= _TOLERANCE[1]]
                levels = [replace(level, factor=certain) if level in near else level for level in levels]
            in_units = tuple(level for level in levels if level.factor is not None)
            others = tuple(level for level in levels if level.factor is None)
            for channels in filter(None, (in_units, others)):
                siblings = (
                    "" if channels[0].ratio > 1 else _siblings(windows, moves, modality, channels, owner, recording)
                )
                found.append(
                    OddRecording(
                        modality=modality,
                        windows=np.flatnonzero(owner == recording),
                        name=name,
                        file=file,
                        channels=channels,
                        cause="unit" if channels is in_units else "dead" if siblings else "unknown",
                        siblings=siblings,
                    )
                )
    return found


def _channel_name(modality: ModalitySpec, channel: str) -> str:
    return channel if channel == modality.name else f"{modality.name} {channel}"


def _names(windows: Windows, modality: ModalitySpec, recording: int | str, row: int) -> tuple[str, str]:
    """Return the name of a recording in a modality, and its one file if it has one."""
    if windows.episodes is None:
        return f"group {recording!r}", ""
    if not windows.spec.episodes:
        return f"episode {recording}" + (f" (group {windows.groups[row].item()!r})" if windows.has_groups else ""), ""
    names = windows.spec.episodes
    of_files = (windows.spec.episode_files or {}).get(modality.name, names)
    name = of_files[int(recording)] if int(recording) < len(of_files) else names[int(recording)]
    is_file = bool(re.fullmatch(r"\.\w+", Path(name).suffix)) and " to " not in name
    return name, name if is_file else ""


def _siblings(
    windows: Windows,
    moves: Mapping[str, Floats],
    modality: ModalitySpec,
    channels: Sequence[ChannelLevel],
    owner: Rows,
    recording: int,
) -> str:
    """Return which channels of the same recording, or recordings of the same machine, move as usual."""
    odd = [_channel_name(modality, modality.channels[level.number]) for level in channels]
    alike = [name for name, ratios in moves.items() if name not in odd and abs(ratios[recording]) <= _USUAL]
    if alike:
        verb = "moves" if len(alike) == 1 else "move"
        return f"{list_first(alike)} of the same recording {verb} as usual"
    group = windows.groups[np.argmax(owner == recording)]
    others = {*owner[windows.groups == group].tolist()} - {recording} if windows.has_groups else set[int]()
    if any(abs(moves[odd[0]][other]) <= _USUAL for other in others):
        return f"it moves as usual in other recordings of group {group.item()!r}"
    return ""


def _unit_factor(ratio: float, movement: float, spread: float) -> float | None:
    """Return the factor between two units that level and movement (a log ratio, NaN for none) both have, or None."""
    tolerance = float(np.clip(3 * spread, *_TOLERANCE))
    factors = [factor**sign for factor in _UNITS for sign in (1, -1)]
    nearest = min(factors, key=lambda factor: abs(np.log(ratio / factor)))
    ratios = [np.log(ratio), *([] if np.isnan(movement) else [movement])]
    return nearest if all(abs(value - np.log(nearest)) <= tolerance for value in ratios) else None


def _log_ratios(values: Floats, owner: Rows, classes: Rows) -> Floats:
    """Return by recording (R,) the typical log ratio of its medians to those of others of its class; NaN if unknown."""
    known = values > 0  # False for NaN
    medians = np.full((int(owner.max()) + 1, int(classes.max()) + 1), np.nan)  # (recordings, classes)
    order = np.lexsort((classes, owner))
    order = order[known[order]]
    pairs = np.stack([owner[order], classes[order]])
    for part in np.split(order, np.flatnonzero((np.diff(pairs) != 0).any(axis=0)) + 1):
        if len(part):
            medians[owner[part[0]], classes[part[0]]] = np.median(values[part])
    enough = (~np.isnan(medians)).sum(axis=0) >= _MIN_RECORDINGS
    typical = np.full(len(medians), np.nan)
    if enough.any():
        ratios = np.log(medians[:, enough] / np.nanmedian(medians[:, enough], axis=0))
        judged = ~np.isnan(ratios).all(axis=1)
        typical[judged] = np.nanmedian(ratios[judged], axis=1)
    return typical


def _outliers(values: Floats, owner: Rows, classes: Rows) -> Iterator[tuple[int, float, float, float]]:
    """Yield number, level and usual level of outlying recordings, and the natural spread (log std)."""
    typical = _log_ratios(values, owner, classes)
    judged = np.flatnonzero(~np.isnan(typical))
    if not len(judged):
        return
    natural = _MAD_OF_NORMAL * float(np.median(np.abs(typical[judged] - np.median(typical[judged]))))
    far = judged[np.abs(typical[judged]) >= max(np.log(_FACTOR), _DEVIATIONS * natural)]
    others = values[(values > 0) & ~np.isin(owner, far)]
    for number in far.tolist():
        value = float(np.median(values[(values > 0) & (owner == number)]))
        low, high = np.quantile(others, _ORDINARY)
        if value > high if typical[number] > 0 else value < low:
            yield number, value, value / float(np.exp(typical[number])), natural


def level_findings(scan: Scan) -> Iterator[Finding]:
    """Yield a problem for recordings in another unit, and a note for others at another level."""
    everything = find_odd_recordings(scan)
    for modality in scan.windows.spec.modalities:
        odd = [recording for recording in everything if recording.modality == modality]
        yield from map(_finding, odd[:_MAX_NAMED])
        if len(odd) > _MAX_NAMED:
            report = problem if any(recording.cause == "unit" for recording in odd[_MAX_NAMED:]) else note
            sentence = f"{modality.name}: {len(odd)} recordings in all differ so, the first {_MAX_NAMED} are named"
            yield report("unit", sentence, "judge the others in the same way")


def _finding(recording: OddRecording) -> Finding:
    modality, first = recording.modality, recording.channels[0]
    levels = ", ".join(_level_text(modality, level) for level in recording.channels)
    sentence = f"{modality.name} in {recording.name}: {levels}"
    out = "leave the recording out (exclude, below version = 1)"
    if recording.file:
        out = f"leave it out: {exclude_text(recording.file)}"
    scale = "correct it with 'file_scale' under its [[source]]"
    if recording.cause == "unit":
        pair = next(pair for factor, pair in _UNITS.items() if first.factor in (factor, 1 / factor))
        also = f"; or a dead channel, as {recording.siblings}?" if recording.siblings else ""
        scale = _scale_text(recording) if recording.file else scale
        advice = f"if its unit differs, {scale}; if it is faulty, {out}; or {LOOK}"
        return problem("unit", f"{sentence}, as between {pair}: another unit?{also}", advice)
    if recording.cause == "dead":
        advice = f"check its sensor and cable; if it is faulty, {out}; or {LOOK}"
        return note("dead channel", f"{sentence}, while {recording.siblings}: dead channel?", advice)
    check = "check its unit, gain and operating point"
    return note("unit", sentence, f"{check}; if its unit differs, {scale}; if it is faulty, {out}; or {LOOK}")


def _scale_text(recording: OddRecording) -> str:
    names = (_key(recording.modality.channels[level.number]) for level in recording.channels)
    scales = (f"{1 / (level.factor or 1):.6g}" for level in recording.channels)
    factors = ", ".join(f"{name} = {scale}" for name, scale in zip(names, scales, strict=True))
    file = json.dumps(recording.file, ensure_ascii=False)
    return f"set file_scale = {{{file} = {{{factors}}}}} under its [[source]]"


def _level_text(modality: ModalitySpec, level: ChannelLevel) -> str:
    unit = f" {modality.unit}" if modality.unit else ""
    times = f"{level.ratio:,.0f} times" if level.ratio > 1 else f"1/{1 / level.ratio:,.0f} of"
    figures = f"median RMS of its windows {level.rms:,.4g}{unit}, of the others {level.usual:,.4g}{unit}"
    return f"{modality.channels[level.number]} has {times} the usual level ({figures})"


def _key(name: str) -> str:
    """Return a TOML key."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
