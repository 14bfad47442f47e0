"""The report of a dataset: in which order things are measured, and the document that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.checking.check import times_text
from mmkd_models.data.checking.related import overlaps_of
from mmkd_models.data.checking.scan import Scan, scan_windows
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.kinds import windows_at_once
from mmkd_models.data.sources import Floats
from mmkd_models.data.spec import SPLIT_NAMES
from mmkd_models.data.windows import Windows
from mmkd_models.data_report import suspicions
from mmkd_models.data_report.copies import copies_of, like_groups, near_copies
from mmkd_models.data_report.labelling import AGREES, agreement_of, label_suspects, split_place, windows_to_label
from mmkd_models.data_report.measures import WindowMeasures, drift_of, measured
from mmkd_models.data_report.probes import (
    Probed,
    ProbedWindows,
    alike_labels,
    as_samples,
    class_probe,
    group_probe,
    look_at,
    metadata_probe,
    split_probe,
)
from mmkd_report.schema.data import ChannelFacts, DataReport, ExampleWindow, SplitFacts, Suspicion

_MOST_METADATA = 5


def report_on(dataset: Dataset, *, on_part: Callable[[str], None]) -> DataReport:
    """Read a dataset three times and asks probes about at most `probes.MOST_WINDOWS` of its windows.

    Raise UnavailableError if scikit-learn is not installed.
    """
    windows = as_samples(dataset.everything())
    on_part("reading every value")
    scan = scan_windows(windows)
    channels = measured(windows, scan)
    on_part("asking probes")
    looked = look_at(windows)
    asked = list(_probes(looked))
    probed = [one for one in asked if not isinstance(one, str)]
    drift = tuple(one for found in channels.values() for one in drift_of(windows, found))
    on_part("looking for copies")
    by_all = probed[0] if probed and probed[0].facts.asked == "class" else None
    suspects = [] if by_all is None else label_suspects(looked, by_all)
    agreement = 0.0 if by_all is None else agreement_of(by_all)
    raised = [
        *_of_copies(windows, scan, looked),
        *suspicions.of_probes([one.facts for one in probed]),
        *suspicions.of_labels(suspects, int(looked.windows.labelled.sum()), agreement),
        *(one for found in channels.values() for one in suspicions.of_channels(windows, found)),
        *(one for found in channels.values() for one in suspicions.of_gaps(windows, found)),
        *suspicions.of_recordings(windows, scan),
        *suspicions.of_balance(windows),
        *suspicions.of_drift(drift),
    ]
    spec = windows.spec
    return DataReport(
        name=spec.name,
        sha256=dataset.sha256,
        kind=spec.task.kind,
        labels=spec.task.labels,
        windows=len(windows),
        looked_at=len(looked.rows),
        groups=windows.group_count,
        campaign=None if windows.times is None else times_text(windows.times),
        suspicions=tuple(sorted(raised, key=lambda one: not one.is_grave)),
        not_judged=(*(one for one in asked if isinstance(one, str)), *_not_judged(windows, agreement)),
        splits=tuple(_splits(windows)),
        channels=tuple(one for found in channels.values() for one in _channels(windows, scan, found)),
        examples=tuple(example_windows(looked)),
        probes=tuple(one.facts for one in probed),
        drift=drift,
        label_suspects=tuple(suspects),
        to_label=tuple(windows_to_label(looked)),
    )


def _probes(looked: ProbedWindows) -> Iterator[Probed | str]:
    names = [modality.name for modality in looked.windows.spec.modalities]
    together = class_probe(looked, None)
    yield together
    if not isinstance(together, str):
        yield from (class_probe(looked, name) for name in names)
    yield split_probe(looked)
    yield group_probe(looked)
    yield from (metadata_probe(looked, name) for name in list(looked.windows.metadata)[:_MOST_METADATA])


def _of_copies(windows: Windows, scan: Scan, looked: ProbedWindows) -> Iterator[Suspicion]:
    across, inside = copies_of(windows, scan)
    yield from suspicions.of_copies(windows, across, inside, near_copies(looked), overlaps_of(windows))
    yield from suspicions.of_like_groups(list(like_groups(looked)))


def _not_judged(windows: Windows, agreement: float) -> Iterator[str]:
    if windows.times is None:
        yield "drift over the campaign: the dataset has no times"
    if windows.spec.task.kind != "classification":
        yield f"wrong labels: only classes are checked, and the task is of the kind {windows.spec.task.kind}"
    elif agreement < AGREES:
        yield (
            f"wrong labels: where extra-trees are certain, they agree with {agreement:.0%} of the labels, too few to"
            " judge any"
        )


def _splits(windows: Windows) -> Iterator[SplitFacts]:
    codes, names = alike_labels(windows)
    for number, split in enumerate(SPLIT_NAMES):
        here = windows.splits == number
        groups, sizes = np.unique(windows.groups[here], return_counts=True)
        counts = np.bincount(codes[here & (codes >= 0)], minlength=len(names))
        yield SplitFacts(
            split=split,
            windows=int(here.sum()),
            unlabelled=int((codes[here] < 0).sum()),
            groups=len(groups) if windows.has_groups else 0,
            largest_group=float(sizes.max() / sizes.sum()) if windows.has_groups else None,
            classes={name: int(counts[code]) for code, name in enumerate(names)},
        )


def _channels(windows: Windows, scan: Scan, found: WindowMeasures) -> Iterator[ChannelFacts]:
    spec, limits, continuous = found.modality, scan.modalities[found.modality.name], found.continuous
    there = ~np.isnan(found.level)
    for number, channel in enumerate(spec.channels):
        known = there[:, number]
        weights = (1 - found.missing[known, number]) if known.any() else np.ones(0)
        mean = float(np.average(found.level[known, number], weights=weights)) if known.any() else None
        power = float(np.average(found.power[known, number], weights=weights)) if known.any() else None
        yield ChannelFacts(
            modality=spec.name,
            channel=channel,
            unit=spec.unit,
            rate_hz=spec.rate_hz,
            samples=spec.samples,
            low=float(limits.low[number]) if known.any() else None,
            high=float(limits.high[number]) if known.any() else None,
            mean=mean,
            std=None if mean is None or power is None else float(np.sqrt(max(0.0, power - mean**2))),
            missing={
                split: float(found.missing[windows.splits == place, number].mean())
                for place, split in enumerate(SPLIT_NAMES)
            },
            flat=float(found.flat[known, number].mean()) if known.any() else 0.0,
            at_limit=float(found.at_limit[:, number].mean()),
            is_continuous=bool(continuous[number]),
        )


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
