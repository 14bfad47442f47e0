"""Recordings in another unit or gain, by their level or std."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from mmkd_models.data.checking.related import problem
from mmkd_models.data.checking.scan import ModalityScan, Scan
from mmkd_models.data.windows import Windows
from mmkd_report.schema.data import Finding

_FACTOR = 8.0  # a larger ratio is not due to what was recorded
_MIN_RECORDINGS = 4  # of a class, for a median that one of them does not move
_ORDINARY = (0.05, 0.95)  # quantiles of the windows of all other recordings
_DEVIATIONS = 5.0  # robust std between recordings: people's skin conductance differs by nature
_MAD_OF_NORMAL = 1.4826
_MAX_NAMED = 3
_ROUNDING = 1e-6  # a smaller standard deviation, as a fraction of the level, counts as 0

Floats = npt.NDArray[np.float64]


def unit_findings(scan: Scan, *, names: Sequence[str] = ()) -> Iterator[Finding]:
    """Yield recordings whose level or std is 8 times, or an eighth of, that of others of their class.

    One that resembles some windows of the others passes. Without episodes, groups count as recordings.
    """
    windows = scan.windows
    owners = windows.episodes if windows.episodes is not None else windows.groups if windows.has_groups else None
    if owners is None:
        return
    recordings, first, owner = np.unique(owners, return_index=True, return_inverse=True)
    is_class = windows.spec.task.kind == "classification"
    classes = np.unique(windows.labels, return_inverse=True)[1] if is_class else np.zeros(len(windows), dtype=np.int64)
    for modality in windows.spec.modalities:
        if modality.normalise != "none" or modality.name in scan.cameras:
            continue
        sentences = []
        for number, (channel, figure, value, usual, count) in _outliers_in(
            scan.modalities[modality.name], owner, classes
        ).items():
            ratio = value / usual
            factor = f"{ratio:,.0f} times as large" if ratio > 1 else f"{1 / ratio:,.0f} times smaller"
            channels = len(modality.channels)
            sentences.append(
                f"{modality.name}: the {figure} of channel {modality.channels[channel]} is {value:,.4g} in "
                f"{_name(windows, recordings[number].item(), int(first[number]), names)} and {usual:,.4g} in the other "
                f"recordings, {factor}{f' ({count} of {channels} channels differ so)' if channels > 1 else ''}"
            )
        if len(sentences) > _MAX_NAMED:
            more = f"{modality.name}: {len(sentences)} recordings in all differ so, the first {_MAX_NAMED} are named"
            sentences[_MAX_NAMED:] = [more]
        for sentence in sentences:
            yield problem(
                "unit", sentence, "check the unit and the gain; convert the values, or leave the recording out"
            )


def _name(windows: Windows, recording: int | str, row: int, names: Sequence[str]) -> str:
    if windows.episodes is None:
        return f"group {recording!r}"
    if names:
        return names[int(recording)]
    group = f" (group {windows.groups[row].item()!r})" if windows.has_groups else ""
    return f"episode {recording}{group}"


def _outliers_in(
    figures: ModalityScan, owner: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]
) -> dict[int, tuple[int, str, float, float, int]]:
    """Return by recording its worst channel, figure, both values and number of outlying channels; levels go first."""
    level = np.sqrt(figures.power)
    std = np.sqrt(np.maximum(figures.power - figures.level**2, 0.0))
    std = np.where(std > _ROUNDING * level, std, 0.0)
    outliers: dict[int, list[tuple[int, str, float, float]]] = {}
    for figure, values in (("level", level), ("standard deviation", std)):
        channels = range(values.shape[1])
        found = [(channel, *one) for channel in channels for one in _outliers(values[:, channel], owner, classes)]
        count = Counter(number for _, number, *_ in found)
        for channel, number, value, usual in found:
            if figure == "level" or 2 * count[number] >= len(channels):
                outliers.setdefault(number, []).append((channel, figure, value, usual))
    return {
        number: (
            *max(rows, key=lambda row: (row[1] == "level", abs(np.log(row[2] / row[3])))),
            len({row[0] for row in rows}),
        )
        for number, rows in outliers.items()
    }


def _outliers(
    values: Floats, owner: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]
) -> Iterator[tuple[int, float, float]]:
    """Yield recordings with their figure and the usual one; constant or empty windows do not count."""
    known = values > 0  # False for NaN
    medians = np.full((int(owner.max()) + 1, int(classes.max()) + 1), np.nan)  # (recordings, classes)
    order = np.lexsort((classes, owner))
    order = order[known[order]]
    pairs = np.stack([owner[order], classes[order]])
    for part in np.split(order, np.flatnonzero((np.diff(pairs) != 0).any(axis=0)) + 1):
        if len(part):
            medians[owner[part[0]], classes[part[0]]] = np.median(values[part])
    enough = (~np.isnan(medians)).sum(axis=0) >= _MIN_RECORDINGS
    if not enough.any():
        return
    ratios = np.full(medians.shape, np.nan)
    ratios[:, enough] = np.log(medians[:, enough] / np.nanmedian(medians[:, enough], axis=0))
    judged = np.flatnonzero(~np.isnan(ratios).all(axis=1))
    typical = np.nanmedian(ratios[judged], axis=1)  # over its classes
    natural = _MAD_OF_NORMAL * float(np.median(np.abs(typical - np.median(typical))))
    far = np.abs(typical) >= max(np.log(_FACTOR), _DEVIATIONS * natural)
    others = values[known & ~np.isin(owner, judged[far])]
    for number, ratio in zip(judged[far].tolist(), typical[far].tolist(), strict=True):
        value = float(np.median(values[known & (owner == number)]))
        low, high = np.quantile(others, _ORDINARY)
        if value > high if ratio > 0 else value < low:
            yield number, value, value / float(np.exp(ratio))
