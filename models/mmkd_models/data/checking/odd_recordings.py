"""Recordings whose values are many times larger or smaller than those of the others: another unit, another gain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.checking.scan import ModalityScan, Scan
from mmkd_models.data.windows import Windows

ODD_ADVICE = "check the unit and the gain; convert the values, or leave the recording out"

_TIMES = 8.0  # from which on two recordings do not differ by what they recorded
_LEAST_RECORDINGS = 4  # of a class, for a median that one of them does not move
_ORDINARY = (0.05, 0.95)  # quantiles of the other recordings' windows: what they show too is a state of the machine
_DEVIATIONS = 5.0  # beyond how the recordings differ anyway, robustly: people's skin conducts unlike by nature
_MAD_OF_NORMAL = 1.4826
_MOST_NAMED = 3
_ROUNDING = 1e-6  # a smaller spread, as a fraction of the level, is none

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class OddRecording:
    """A recording that differs from the others in one modality, by its worst channel; a level goes before a spread.

    Attributes:
        figure: `level` is the root mean square, `spread` the standard deviation.
        value: median over its windows.
        usual: median over the recordings.
    """

    modality: ModalitySpec
    recording: str
    channel: str
    figure: str
    value: float
    usual: float
    channels: int

    @property
    def sentence(self) -> str:
        """The recording, the channel and both figures."""
        times = self.value / self.usual
        factor = f"{times:,.0f} times as large" if times > 1 else f"{1 / times:,.0f} times smaller"
        of = len(self.modality.channels)
        return (
            f"{self.modality.name}: the {self.figure} of channel {self.channel} is {self.value:,.4g} in "
            f"{self.recording} and {self.usual:,.4g} in the other recordings, {factor}"
            f"{f' ({self.channels} of {of} channels differ so)' if of > 1 else ''}"
        )


def odd_warnings(windows: Windows, scan: Scan, *, names: Sequence[str] = ()) -> Iterator[str]:
    """Yield a sentence per odd recording, a few per modality; arguments as `odd_recordings`."""
    counts: Counter[str] = Counter()
    for odd in odd_recordings(windows, scan, names=names):
        counts[odd.modality.name] += 1
        if counts[odd.modality.name] <= _MOST_NAMED:
            yield odd.sentence
    for name, count in counts.items():
        if count > _MOST_NAMED:
            yield f"{name}: {count} recordings in all differ so, of which the first {_MOST_NAMED} are named"


def odd_recordings(windows: Windows, scan: Scan, *, names: Sequence[str] = ()) -> Iterator[OddRecording]:
    """Find recordings whose level or spread is 8 times that of their siblings, or an eighth.

    Recordings are compared class by class, so that a machine that was off is compared with others that were off; one
    whose windows look like some of the others' is not odd. Without episodes, groups count as recordings.
    """
    owners = windows.episodes if windows.episodes is not None else windows.groups if windows.has_groups else None
    if owners is None:
        return
    recordings, owner = np.unique(owners, return_inverse=True)
    first = np.unique(owner, return_index=True)[1]
    is_class = windows.spec.task.kind == "classification"
    classes = np.unique(windows.labels, return_inverse=True)[1] if is_class else np.zeros(len(windows), dtype=np.int64)
    for modality in windows.spec.modalities:
        if modality.kind != "video" and modality.normalise == "none":
            for number, odd in _odd_in(scan.modalities[modality.name], owner, classes).items():
                channel, figure, value, usual, channels = odd
                yield OddRecording(
                    modality=modality,
                    recording=_name(windows, recordings[number].item(), int(first[number]), names),
                    channel=modality.channels[channel],
                    figure=figure,
                    value=value,
                    usual=usual,
                    channels=channels,
                )


def _name(windows: Windows, recording: int | str, row: int, names: Sequence[str]) -> str:
    if windows.episodes is None:
        return f"group {recording!r}"
    if names:
        return names[int(recording)]
    group = f" (group {windows.groups[row].item()!r})" if windows.has_groups else ""
    return f"episode {recording}{group}"


def _odd_in(
    found: ModalityScan, owner: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]
) -> dict[int, tuple[int, str, float, float, int]]:
    """By number of the recording: worst channel, figure, both values, how many channels differ.

    A spread that differs in a minority of the channels is a movement of the machine, not a gain.
    """
    level = np.sqrt(found.power)
    spread = np.sqrt(np.maximum(found.power - found.level**2, 0.0))
    spread = np.where(spread > _ROUNDING * level, spread, 0.0)
    odd: dict[int, list[tuple[int, str, float, float]]] = {}
    for figure, values in (("level", level), ("spread", spread)):
        channels = range(values.shape[1])
        outliers = [(channel, *one) for channel in channels for one in _outliers(values[:, channel], owner, classes)]
        count = Counter(number for _, number, *_ in outliers)
        for channel, number, value, usual in outliers:
            if figure == "level" or 2 * count[number] >= len(channels):
                odd.setdefault(number, []).append((channel, figure, value, usual))
    return {
        number: (
            *max(one, key=lambda each: (each[1] == "level", abs(np.log(each[2] / each[3])))),
            len({each[0] for each in one}),
        )
        for number, one in odd.items()
    }


def _outliers(
    values: Floats, owner: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]
) -> Iterator[tuple[int, float, float]]:
    """Recordings with their own figure and the usual one; windows (N,) that are constant or empty do not count."""
    known = values > 0  # False for NaN
    medians = np.full((int(owner.max()) + 1, int(classes.max()) + 1), np.nan)  # (recordings, classes)
    order = np.lexsort((classes, owner))
    order = order[known[order]]
    pairs = np.stack([owner[order], classes[order]])
    for part in np.split(order, np.flatnonzero((np.diff(pairs) != 0).any(axis=0)) + 1):
        if len(part):
            medians[owner[part[0]], classes[part[0]]] = np.median(values[part])
    enough = (~np.isnan(medians)).sum(axis=0) >= _LEAST_RECORDINGS
    if not enough.any():
        return
    ratios = np.full(medians.shape, np.nan)
    ratios[:, enough] = np.log(medians[:, enough] / np.nanmedian(medians[:, enough], axis=0))
    judged = np.flatnonzero(~np.isnan(ratios).all(axis=1))
    typical = np.nanmedian(ratios[judged], axis=1)  # over its classes
    natural = _MAD_OF_NORMAL * float(np.median(np.abs(typical - np.median(typical))))
    far = np.abs(typical) >= max(np.log(_TIMES), _DEVIATIONS * natural)
    others = values[known & ~np.isin(owner, judged[far])]
    for number, ratio in zip(judged[far].tolist(), typical[far].tolist(), strict=True):
        value = float(np.median(values[known & (owner == number)]))
        low, high = np.quantile(others, _ORDINARY)
        if value > high if ratio > 0 else value < low:
            yield number, value, value / float(np.exp(ratio))
