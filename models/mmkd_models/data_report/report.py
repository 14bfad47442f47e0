"""The document of a dataset report, measured part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from mmkd_models.data.checking.describe import count_splits, describe_channels, times_text
from mmkd_models.data.checking.findings import find_everything, sort_findings
from mmkd_models.data.checking.scan import scan_windows
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.labels import name_strata
from mmkd_models.data.spec import SPLIT_NAMES
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
from mmkd_report.schema.data import DataReport, ExampleWindow


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
    on_part("looking for copies")
    findings += [
        *near_copies(windows, probed),
        *like_groups(probed),
        *(finding for answer in answers for finding in probe_findings(answer.facts)),
        *label_findings(suspects, int(probed.windows.labelled.sum()), agreement),
    ]
    spec = windows.spec
    not_judged = [result for result in results if isinstance(result, str)]
    if spec.task.kind != "classification":
        not_judged.append(f"wrong labels: only classes are checked, and the task is of the kind {spec.task.kind}")
    elif agreement < MIN_AGREEMENT:
        not_judged.append(
            f"wrong labels: where extra-trees are certain, they agree with {agreement:.0%} of the labels, too few to"
            " judge any"
        )
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
        not_judged=tuple(not_judged),
        splits=tuple(count_splits(windows)),
        channels=tuple(describe_channels(scan)),
        examples=tuple(example_windows(probed)),
        probes=tuple(answer.facts for answer in answers),
        label_suspects=tuple(suspects),
        to_label=tuple(windows_to_label(probed)),
    )


_MAX_SAMPLES = 160
_MAX_CHANNELS = 4
_MAX_CLASSES = 12


def example_windows(probed: ProbeWindows) -> Iterator[ExampleWindow]:
    """Yield by modality and class the most typical window."""
    strata, names = name_strata(probed.windows.labels, probed.windows.spec.task)
    for modality in probed.windows.spec.modalities:
        windows, features = probed.windows.with_modalities([modality.name]), probed.features[modality.name]
        channels = modality.channels[:_MAX_CHANNELS]
        for code, name in enumerate(names[:_MAX_CLASSES]):
            here = np.flatnonzero(strata == code)
            if not len(here):
                continue
            std = np.maximum(features[here].std(axis=0), 1e-12)
            distance = np.abs((features[here] - np.median(features[here], axis=0)) / std).mean(axis=1)
            index = int(here[distance.argmin()])
            values = windows.take([index])[modality.name][0]
            step = -(-len(values) // _MAX_SAMPLES)
            yield ExampleWindow(
                modality=modality.name,
                label=name,
                split=SPLIT_NAMES[int(windows.splits[index])],
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
