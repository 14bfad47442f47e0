"""What extra-trees can tell from windows they were not fitted on: the class, the split, the group, metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.frames import bytes_of, missing_frames
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.data.checking.scan import window_statistics
from mmkd_models.data.folds import part_of_windows
from mmkd_models.data.kinds import Values, windows_at_once
from mmkd_models.data.labels import block_length, strata_of
from mmkd_models.data.sources import Floats, Rows, WindowSource
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.gains import FEWEST_GROUPS, figure_draws
from mmkd_models.evaluation.outcome import outcome_on
from mmkd_report.schema.data import ProbeFacts

Features = npt.NDArray[np.float64]

MOST_WINDOWS = 3000
_TREES = 100
_PARTS = 5
_MOST_GROUPS = 60
_ENDS = (0.005, 0.995)  # a report asks ten questions and more: of 95 % intervals one in four reports would be wrong


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbedWindows:
    """The windows that probes see, at most `MOST_WINDOWS`, evenly chosen."""

    windows: Windows
    rows: Rows
    features: Mapping[str, Features]

    @property
    def together(self) -> Features:
        """(N, F) of all modalities."""
        return np.concatenate(list(self.features.values()), axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Probed:
    """What a probe answered."""

    facts: ProbeFacts
    index: Rows
    truth: Rows
    probabilities: Features
    names: tuple[str, ...]


def look_at(everything: Windows) -> ProbedWindows:
    """Take windows, evenly chosen where there are many, and their statistics."""
    count = min(MOST_WINDOWS, len(everything))
    rows = np.unique(np.linspace(0, len(everything) - 1, count).round().astype(np.int64))
    windows = everything.subset(rows)
    found: dict[str, list[Features]] = {spec.name: [] for spec in windows.spec.modalities}
    block = min(map(windows_at_once, windows.spec.modalities))
    for start in range(0, len(windows), block):
        taken = windows.take(np.arange(start, min(start + block, len(windows))))
        for spec in windows.spec.modalities:
            found[spec.name].append(_features(taken[spec.name], spec))
    return ProbedWindows(
        windows=windows, rows=rows, features={name: np.concatenate(parts) for name, parts in found.items()}
    )


def _features(values: Floats, modality: ModalitySpec) -> Features:
    """(B, F): statistics of the channels, and of sound of its bands behind them."""
    own = window_statistics(values)
    if modality.kind != "audio":
        return own
    return np.concatenate([own, window_statistics(band_levels(values, modality.rate_hz))], axis=1)


def alike_labels(windows: Windows) -> tuple[Rows, tuple[str, ...]]:
    """Return (N,) from 0, -1 unlabelled, and names: classes, or what stands for them in other tasks."""
    strata, task = strata_of(windows.labels), windows.spec.task
    match task.kind:
        case "classification":
            return strata, task.labels
        case "multi_label":
            return strata, (*task.labels, "none of them")
        case "regression":
            return strata, tuple(f"part {number + 1} of {task.labels[0]}" for number in range(int(strata.max()) + 1))


def class_probe(looked: ProbedWindows, modality: str | None) -> Probed | str:
    """Ask for the class of windows of groups that were not fitted on; gives the reason where that cannot be done."""
    codes, names = alike_labels(looked.windows)
    return _grouped(looked, codes, names, asked="class", modality=modality)


def split_probe(looked: ProbedWindows) -> Probed | str:
    """Ask which split windows of unseen groups are of: what tells it differs between the splits as wholes."""
    return _told_of_groups(looked, looked.windows.splits, ("train", "valid", "test"), asked="split")


def metadata_probe(looked: ProbedWindows, name: str) -> Probed | str:
    """Ask which value of the metadata windows of unseen groups have."""
    values, codes = np.unique(looked.windows.metadata[name].astype(str), return_inverse=True)
    if not 2 <= len(values) <= 20:
        return f"metadata {name}: it has {len(values)} values; probes ask for 2 to 20"
    return _told_of_groups(looked, codes.astype(np.int64), tuple(values.tolist()), asked=name)


def _told_of_groups(looked: ProbedWindows, codes: Rows, names: tuple[str, ...], *, asked: str) -> Probed | str:
    """Ask for what whole groups share; with few groups of an answer, one that is like another decides."""
    fewest = min(len(np.unique(looked.windows.groups[codes == code])) for code in np.unique(codes).tolist())
    if fewest < FEWEST_GROUPS:
        return (
            f"whether the {asked} can be told: it takes {FEWEST_GROUPS} groups of each, and there are {fewest} of one"
        )
    return _grouped(looked, codes, names, asked=asked, modality=None)


def group_probe(looked: ProbedWindows) -> Probed | str:
    """Ask which group windows are of, fitted on one half of each group's windows and asked about the other."""
    windows = looked.windows
    if not windows.has_groups:
        return "whether groups can be told: the dataset has none"
    names, codes, counts = np.unique(windows.groups, return_inverse=True, return_counts=True)
    chosen = np.flatnonzero(counts >= 4)
    if len(chosen) < 3:
        return "whether groups can be told: fewer than three have four windows"
    chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, _MOST_GROUPS).round().astype(int))]
    code = np.full(len(names), -1, dtype=np.int64)
    code[chosen] = np.arange(len(chosen))
    asked, parts = code[codes], np.zeros(len(windows), dtype=np.int64)
    for group in range(len(chosen)):
        rows = np.flatnonzero(asked == group)
        parts[rows[len(rows) // 2 :]] = 1
    labels = tuple(str(name) for name in names[chosen].tolist())
    return _probed(looked, asked, labels, parts, asked="group", modality=None)


def _grouped(
    looked: ProbedWindows, codes: Rows, names: tuple[str, ...], *, asked: str, modality: str | None
) -> Probed | str:
    """Folds of whole groups, of the answers asked for as alike as groups allow; blocks where there are none."""
    windows = looked.windows
    groups = len(np.unique(windows.groups[codes >= 0]))
    if groups < 3:
        return f"whether the {asked} can be told: it takes three groups or more with it, and there are {groups}"
    known = replace(windows, spec=msgspec.structs.replace(windows.spec, task=TaskSpec(labels=names)), labels=codes)
    if windows.has_groups:
        parts = part_of_windows(known, parts=min(_PARTS, windows.group_count), seed=0)
    else:
        parts = windows.groups % _PARTS
    return _probed(looked, codes, names, parts, asked=asked, modality=modality)


def _probed(
    looked: ProbedWindows, codes: Rows, names: tuple[str, ...], parts: Rows, *, asked: str, modality: str | None
) -> Probed | str:
    features = looked.together if modality is None else looked.features[modality]
    index = np.flatnonzero(codes >= 0)
    x, y, fold = features[index], codes[index], parts[index]
    if len(np.unique(y)) < 2:
        return f"whether the {asked} can be told: there is one alone"
    probabilities = np.zeros((len(index), len(names)))
    for part in np.unique(fold).tolist():
        here = fold == part
        if len(np.unique(y[~here])) > 1:
            probabilities[here] = _answers(x[~here], y[~here], x[here], len(names))
    facts = _facts(looked.windows.subset(index), y, probabilities, names, asked=asked, modality=modality)
    return Probed(facts=facts, index=index, truth=y, probabilities=probabilities, names=names)


def _answers(x: Features, y: Rows, asked: Features, answers: int) -> Features:
    from sklearn.ensemble import ExtraTreesClassifier

    forest = ExtraTreesClassifier(n_estimators=_TREES, class_weight="balanced", random_state=0)
    forest.fit(x, y)
    found = np.zeros((len(asked), answers))
    found[:, forest.classes_] = forest.predict_proba(asked)
    return found


def _facts(
    windows: Windows, y: Rows, probabilities: Features, names: Sequence[Any], *, asked: str, modality: str | None
) -> ProbeFacts:
    task = TaskSpec(labels=tuple(map(str, names)))
    known = replace(windows, spec=msgspec.structs.replace(windows.spec, task=task), labels=y)
    if len(np.unique(windows.groups)) < FEWEST_GROUPS:  # then blocks of neighbours are drawn
        known = replace(known, groups=np.arange(len(y)) // block_length(len(y)))
    judged = outcome_on(known, probabilities)
    drawn = figure_draws([judged], "balanced_accuracy")
    low, high = (float(value) for value in np.nanquantile(drawn, _ENDS))
    guess = 1 / len(np.unique(y))
    return ProbeFacts(
        asked=asked,
        modality=modality,
        score=judged.scores.metric("balanced_accuracy"),
        low=low,
        high=high,
        guessing=guess,
        windows=len(y),
        is_better=low > guess,
    )


_CELLS = 3  # of a side
_FRAME_S = 0.025
_BANDS = 16
_LEAST_POWER = 1e-10  # of full scale, -100 dB: what no microphone hears


@dataclass(frozen=True, kw_only=True, eq=False)
class BrightnessSource:
    """Windows of another source with these cameras seen as series, each by its own specification."""

    source: WindowSource
    cameras: Mapping[str, ModalitySpec]

    @property
    def max_shift_s(self) -> float:
        """As of the source."""
        return self.source.max_shift_s

    def gather(self, modality: ModalitySpec, rows: Rows, *, shift_s: npt.NDArray[np.float64] | None) -> Values:
        """Return new float32 (B, T, cells) of a camera, NaN where a frame is missing; else what the source has."""
        camera = self.cameras.get(modality.name)
        if camera is None:
            return self.source.gather(modality, rows, shift_s=shift_s)
        return brightness(self.source.gather(camera, rows, shift_s=shift_s))


def as_samples(windows: Windows) -> Windows:
    """Return the same windows with every camera as a series of the brightness of its picture's parts."""
    cameras = {one.name: one for one in windows.spec.modalities if one.kind == "video"}
    if not cameras:
        return windows
    modalities = tuple(_seen(one) if one.name in cameras else one for one in windows.spec.modalities)
    return replace(
        windows,
        spec=msgspec.structs.replace(windows.spec, modalities=modalities),
        source=BrightnessSource(source=windows.source, cameras=cameras),
    )


def brightness(frames: npt.NDArray[np.uint8]) -> Floats:
    """Return the mean of each cell (B, T, cells x C) of frames (B, T, H, W, C), NaN where a frame is missing."""
    values = bytes_of(frames)
    down, across = (np.array_split(np.arange(side), min(_CELLS, side)) for side in values.shape[2:4])
    cells = [values[:, :, rows][:, :, :, columns].mean(axis=(2, 3)) for rows, columns in product(down, across)]
    found = np.concatenate(cells, axis=2, dtype=np.float32)  # each (B, T, C)
    found[missing_frames(frames)] = np.nan
    return found


def band_levels(sound: Floats, rate_hz: float) -> npt.NDArray[Any]:
    """Return the log power of bands (B, N, bands x C) of sound (B, T, C), by frame; missing samples count as 0."""
    length = min(sound.shape[1], max(2, round(_FRAME_S * rate_hz)))
    count = sound.shape[1] // length
    frames = np.nan_to_num(sound[:, : count * length]).reshape(len(sound), count, length, sound.shape[2])
    power = np.abs(np.fft.rfft(frames * np.hanning(length)[:, None], axis=2)) ** 2 / length**2
    edges = np.unique(np.geomspace(1, power.shape[2], _BANDS + 1).round().astype(int))
    bands = [power[:, :, low:high].sum(axis=2) for low, high in pairwise(edges.tolist())]
    return np.asarray(np.log10(np.concatenate(bands, axis=2) + _LEAST_POWER))


def _seen(camera: ModalitySpec) -> ModalitySpec:
    down, across = (range(1, 1 + min(_CELLS, side)) for side in camera.shape[1:3])
    channels = tuple(f"{name} {row}.{column}" for row, column in product(down, across) for name in camera.channels)
    return ModalitySpec(name=camera.name, channels=channels, rate_hz=camera.rate_hz, samples=camera.samples)
