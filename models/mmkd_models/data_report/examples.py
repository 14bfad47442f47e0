"""Windows to look at: of each class the one that is most like the others, and one with gaps where some have them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.kinds import windows_at_once
from mmkd_models.data.sources import Floats
from mmkd_models.data.windows import Windows
from mmkd_models.data_report.labelling import split_place
from mmkd_models.data_report.probes import ProbedWindows, alike_labels
from mmkd_report.schema.data import ExampleWindow

_MOST_SAMPLES = 160
_MOST_CHANNELS = 4
_MOST_CLASSES = 12
_MOST_ASKED = 512  # windows of a class that are searched for gaps


def example_windows(looked: ProbedWindows) -> Iterator[ExampleWindow]:
    """Yield examples modality by modality, class by class."""
    codes, names = alike_labels(looked.windows)
    for modality in looked.windows.spec.modalities:
        features = looked.features[modality.name]
        for code, name in enumerate(names[:_MOST_CLASSES]):
            here = np.flatnonzero(codes == code)
            if len(here):
                yield from _of_class(looked, modality, features, here, name)


def _of_class(
    looked: ProbedWindows,
    modality: ModalitySpec,
    features: npt.NDArray[np.float64],
    here: npt.NDArray[np.int64],
    name: str,
) -> Iterator[ExampleWindow]:
    spread = np.maximum(features[here].std(axis=0), 1e-12)
    distance = np.abs((features[here] - np.median(features[here], axis=0)) / spread).mean(axis=1)
    chosen = [int(here[distance.argmin()])]
    asked = here[:_MOST_ASKED]
    missing = _missing(looked.windows.with_modalities([modality.name]), modality, asked)
    gaps = np.flatnonzero((missing > 0) & (missing < 1) & (asked != chosen[0]))
    if len(gaps):
        chosen.append(int(here[gaps[np.argsort(missing[gaps])[len(gaps) // 2]]]))
    for index in chosen:
        taken = looked.windows.with_modalities([modality.name]).take([index])[modality.name][0]
        yield _example(looked, modality, taken, index, name)


def _missing(windows: Windows, modality: ModalitySpec, index: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(n,) share of the samples of each window that are not there."""
    block = windows_at_once(modality)
    parts = [index[start : start + block] for start in range(0, len(index), block)]
    return np.concatenate([np.isnan(windows.take(part)[modality.name]).mean(axis=(1, 2)) for part in parts])


def _example(looked: ProbedWindows, modality: ModalitySpec, values: Floats, index: int, name: str) -> ExampleWindow:
    step = -(-len(values) // _MOST_SAMPLES)
    split, window = split_place(looked, index)
    channels = modality.channels[:_MOST_CHANNELS]
    return ExampleWindow(
        modality=modality.name,
        label=name,
        split=split,
        window=window,
        step=step,
        duration_s=modality.duration_s,
        missing=float(np.isnan(values).mean()),
        channels=channels,
        values=tuple(
            tuple(None if np.isnan(value) else float(value) for value in values[::step, number].tolist())
            for number in range(len(channels))
        ),
    )
