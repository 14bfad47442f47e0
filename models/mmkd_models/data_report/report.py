"""The document of a dataset report, measured part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.checking.describe import count_splits, describe_channels, times_text
from mmkd_models.data.checking.findings import find_everything, sort_findings
from mmkd_models.data.checking.related import note
from mmkd_models.data.checking.scan import Scan, scan_windows
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.labels import find_strata, name_strata
from mmkd_models.data.spec import SPLIT_NAMES, windows_at_once
from mmkd_models.data.windows import Floats, Windows
from mmkd_models.data_report.probes import ProbeWindows, choose_windows, probe_findings, run_probes
from mmkd_models.data_report.suspects import (
    MIN_AGREEMENT,
    label_agreement,
    label_findings,
    label_suspects,
    like_groups,
    near_copies,
    number_in_split,
    windows_to_label,
)
from mmkd_report.schema.data import DataReport, DriftFacts, ExampleWindow, Finding


def report_on(dataset: Dataset, *, on_part: Callable[[str], None]) -> DataReport:
    """Read a dataset and probe its windows. Raise UnavailableError if scikit-learn is not installed."""
    on_part("reading every value")
    scan = scan_windows(dataset.everything())
    windows = scan.windows
    findings = find_everything(dataset.everything(), scan)
    on_part("asking probes")
    probed = choose_windows(windows)
    results = list(run_probes(probed))
    answers = [result for result in results if not isinstance(result, str)]
    by_class = answers[0] if answers and answers[0].facts.target == "class" else None
    suspects = [] if by_class is None else label_suspects(probed, by_class)
    agreement = 0.0 if by_class is None else label_agreement(by_class)
    drift = tuple(find_drift(scan))
    on_part("looking for copies")
    findings += [
        *near_copies(windows, probed),
        *like_groups(probed),
        *(finding for answer in answers for finding in probe_findings(answer.facts)),
        *label_findings(suspects, int(probed.windows.labelled.sum()), agreement),
        *(finding for facts in drift for finding in drift_findings(facts)),
    ]
    spec = windows.spec
    return DataReport(
        name=spec.name,
        sha256=dataset.sha256,
        kind=spec.task.kind,
        labels=spec.task.labels,
        windows=len(windows),
        looked_at=len(probed.rows),
        groups=windows.group_count,
        campaign=times_text(windows) or None,
        findings=tuple(sort_findings(findings)),
        not_judged=(*(result for result in results if isinstance(result, str)), *_not_judged(windows, agreement)),
        splits=tuple(count_splits(windows)),
        channels=tuple(describe_channels(scan)),
        examples=tuple(example_windows(probed)),
        probes=tuple(answer.facts for answer in answers),
        drift=drift,
        label_suspects=tuple(suspects),
        to_label=tuple(windows_to_label(probed)),
    )


def _not_judged(windows: Windows, agreement: float) -> Iterator[str]:
    if windows.times is None:
        yield "drift over the campaign: the dataset has no times"
    if windows.spec.task.kind != "classification":
        yield f"wrong labels: only classes are checked, and the task is of the kind {windows.spec.task.kind}"
    elif agreement < MIN_AGREEMENT:
        yield (
            f"wrong labels: where extra-trees are certain, they agree with {agreement:.0%} of the labels, too few to"
            " judge any"
        )


_PARTS = 10
_BLOCKS = 10  # per fifth, for its stderr: neighbouring windows are alike
_MIN_WINDOWS = 2 * _PARTS * _BLOCKS
_CLEAR_SHIFT = 1.0
_CLEAR_ERRORS = 4.0


def find_drift(scan: Scan) -> Iterator[DriftFacts]:
    """Yield the drift of each channel; nothing without times or with few windows."""
    windows = scan.windows
    if windows.times is None or len(windows) < _MIN_WINDOWS:
        return
    order = np.argsort(windows.times, kind="stable")
    strata = find_strata(windows.labels)
    for name, figures in scan.modalities.items():
        for channel, level in zip(figures.modality.channels, figures.level.T, strict=True):
            rest = _without_classes(level, strata)[order]
            rest = rest[~np.isnan(rest)]
            if len(rest) < _MIN_WINDOWS or rest.std() == 0:
                continue
            first, last = rest[: len(rest) // 5], rest[-(len(rest) // 5) :]
            shift = float((last.mean() - first.mean()) / rest.std())
            stderr = float(np.hypot(_stderr(first), _stderr(last)) / rest.std())
            yield DriftFacts(
                modality=name,
                channel=channel,
                levels=tuple(float(part.mean()) for part in np.array_split(rest, _PARTS)),
                shift=shift,
                is_clear=abs(shift) > max(_CLEAR_SHIFT, _CLEAR_ERRORS * stderr),
            )


def _without_classes(level: npt.NDArray[np.float64], strata: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Replace each class mean of the level (N,) by the overall mean."""
    rest: npt.NDArray[np.float64] = level.copy()
    known = ~np.isnan(level)
    for stratum in np.unique(strata[known]).tolist():
        here = known & (strata == stratum)
        rest[here] += level[known].mean() - level[here].mean()
    return rest


def _stderr(values: npt.NDArray[np.float64]) -> float:
    means = [part.mean() for part in np.array_split(values, _BLOCKS)]
    return float(np.std(means, ddof=1) / np.sqrt(len(means)))


def drift_findings(drift: DriftFacts) -> Iterator[Finding]:
    """Yield a note if the drift is clear."""
    if drift.is_clear:
        direction = "higher" if drift.shift > 0 else "lower"
        yield note(
            "drift",
            f"channel {drift.modality} {drift.channel} is {abs(drift.shift):.1f} standard deviations "
            f"{direction} in the last fifth of the campaign than in the first",
            "ask what changed (sensor, season, wear), and judge on the last part of the campaign",
        )


_MAX_SAMPLES = 160
_MAX_CHANNELS = 4
_MAX_CLASSES = 12
_MAX_SEARCHED = 512  # windows of a class that are searched for gaps


def example_windows(probed: ProbeWindows) -> Iterator[ExampleWindow]:
    """Yield by modality and class the most typical window, and one with gaps."""
    strata, names = name_strata(probed.windows.labels, probed.windows.spec.task)
    for modality in probed.windows.spec.modalities:
        windows, features = probed.windows.with_modalities([modality.name]), probed.features[modality.name]
        for code, name in enumerate(names[:_MAX_CLASSES]):
            here = np.flatnonzero(strata == code)
            if not len(here):
                continue
            std = np.maximum(features[here].std(axis=0), 1e-12)
            distance = np.abs((features[here] - np.median(features[here], axis=0)) / std).mean(axis=1)
            chosen = [int(here[distance.argmin()])]
            searched = here[:_MAX_SEARCHED]
            missing = _missing(windows, modality, searched)
            gaps = np.flatnonzero((missing > 0) & (missing < 1) & (searched != chosen[0]))
            if len(gaps):
                chosen.append(int(searched[gaps[np.argsort(missing[gaps])[len(gaps) // 2]]]))
            for index in chosen:
                yield _example(probed, modality, windows.take([index])[modality.name][0], index, name)


def _missing(windows: Windows, modality: ModalitySpec, index: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    block = windows_at_once(modality)
    parts = [index[start : start + block] for start in range(0, len(index), block)]
    return np.concatenate([np.isnan(windows.take(part)[modality.name]).mean(axis=(1, 2)) for part in parts])


def _example(probed: ProbeWindows, modality: ModalitySpec, values: Floats, index: int, name: str) -> ExampleWindow:
    step = -(-len(values) // _MAX_SAMPLES)
    channels = modality.channels[:_MAX_CHANNELS]
    return ExampleWindow(
        modality=modality.name,
        label=name,
        split=SPLIT_NAMES[int(probed.windows.splits[index])],
        window=number_in_split(probed, index),
        step=step,
        duration_s=modality.duration_s,
        missing=float(np.isnan(values).mean()),
        channels=channels,
        values=tuple(
            tuple(None if np.isnan(value) else float(value) for value in column[::step])
            for column in values.T[: len(channels)].tolist()
        ),
    )
