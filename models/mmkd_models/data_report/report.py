"""The document of a dataset report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_documents.data import (
    DataReport,
    ExampleWindow,
    Finding,
    LabelSuspect,
    LevelPicture,
    SplitFacts,
    WindowToLabel,
)
from mmkd_edge.errors import UsageError
from mmkd_edge.outputs import csv_text
from mmkd_models.data.checking.findings import (
    count_splits,
    describe_channels,
    find_everything,
    sort_findings,
    times_text,
)
from mmkd_models.data.checking.levels import find_odd_recordings
from mmkd_models.data.checking.related import describe_place, file_starts, note, problem, time_text
from mmkd_models.data.checking.scan import Scan, scan_windows
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.label_tasks import label_config, label_task
from mmkd_models.data.labels import name_strata
from mmkd_models.data.spec import SPLIT_NAMES, windows_at_once
from mmkd_models.data.windows import Windows
from mmkd_models.data_report import probes
from mmkd_models.evaluation.confidence import fraction_interval
from mmkd_models.evaluation.gains import MIN_GROUPS

_MIN_SAMPLES, _MAX_SAMPLES = 24, 160  # of a line
_MAX_VALUES = 40_000  # of all lines of a sensor
_MAX_CLASSES = 12
_MAX_PICTURES = 12
_NEAR = 0.01  # power of the difference per power of the movement: 20 dB, a sensor's noise
_MIN_MOVEMENT = 0.1  # times the channel's usual std: below it a window is at rest
_MIN_KNOWN = 0.5
_MUTUAL = 0.5
MIN_AGREEMENT = 0.8
"""A certain probe that agrees with this fraction of the labels may contradict the others."""
_MAX_TO_LABEL = 50
_CANDIDATES = 10  # uncertain windows to choose from, per chosen window
_CERTAIN = 0.4  # of the trees' votes for one class
_CONTRADICTED = 0.1  # of the votes for the label, at most
_MIN_SUSPECTS = 3


def report_on(dataset: Dataset, *, on_part: Callable[[str], None]) -> DataReport:
    """Read a dataset and probe its windows. Raise UnavailableError if scikit-learn is not installed."""
    on_part("reading every value")
    scan = scan_windows(dataset.everything())
    windows = scan.windows
    findings = find_everything(dataset.everything(), scan)
    on_part("asking probes")
    probed = probes.choose_windows(windows)
    results = list(probes.run_probes(probed))
    answers = [result for result in results if not isinstance(result, str)]
    by_class = answers[0] if answers and answers[0].facts.target == "class" else None
    suspects = [] if by_class is None else label_suspects(probed, by_class)
    agreement = 0.0 if by_class is None else label_agreement(by_class)
    on_part("looking for copies")
    findings += [
        *near_copies(windows, probed),
        *like_groups(probed),
        *(finding for answer in answers for finding in probes.probe_findings(answer.facts)),
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
        levels=tuple(level_pictures(scan)),
        probes=tuple(answer.facts for answer in answers),
        label_suspects=tuple(suspects),
        to_label=tuple(windows_to_label(probed)),
    )


def example_windows(probed: probes.ProbeWindows) -> Iterator[ExampleWindow]:
    """Yield by modality and class the most typical window."""
    strata, names = name_strata(probed.windows.labels, probed.windows.spec.task)
    for modality in probed.windows.spec.modalities:
        windows, features = probed.windows.with_modalities([modality.name]), probed.features[modality.name]
        lines = len(modality.channels) * min(len(names), _MAX_CLASSES)
        most_samples = min(_MAX_SAMPLES, max(_MIN_SAMPLES, _MAX_VALUES // lines))
        for code, name in enumerate(names[:_MAX_CLASSES]):
            here = np.flatnonzero(strata == code)
            if not len(here):
                continue
            std = np.maximum(features[here].std(axis=0), 1e-12)
            distance = np.abs((features[here] - np.median(features[here], axis=0)) / std).mean(axis=1)
            index = int(here[distance.argmin()])
            values = windows.take([index])[modality.name][0]
            step = -(-len(values) // most_samples)
            yield ExampleWindow(
                modality=modality.name,
                label=name,
                split=SPLIT_NAMES[int(windows.splits[index])],
                window=number_in_split(probed, index),
                step=step,
                duration_s=modality.duration_s,
                missing=float(np.isnan(values).mean()),
                channels=modality.channels,
                values=tuple(
                    tuple(None if np.isnan(value) else float(value) for value in column[::step])
                    for column in values.T.tolist()
                ),
            )


def level_pictures(scan: Scan) -> Iterator[LevelPicture]:
    """Yield for each recording at another level its farthest channel beside the other recordings."""
    windows, odd = scan.windows, find_odd_recordings(scan)
    for recording in odd[:_MAX_PICTURES]:
        modality, level = recording.modality, recording.channels[0]
        rms = np.sqrt(scan.modalities[modality.name].power[:, level.number])
        out = np.concatenate([one.windows for one in odd if one.modality == modality])
        others = np.setdiff1d(np.flatnonzero(rms > 0), out)
        own = recording.windows[rms[recording.windows] > 0]
        shown = [int(rows[np.abs(rms[rows] - np.median(rms[rows])).argmin()]) for rows in (own, others)]
        step = -(-modality.samples // _MAX_SAMPLES)
        lines = [windows.take([row])[modality.name][0, ::step, level.number].tolist() for row in shown]
        values = [tuple(None if np.isnan(value) else float(value) for value in line) for line in lines]
        low, high = np.quantile(rms[others], (0.05, 0.95)).tolist()
        yield LevelPicture(
            modality=modality.name,
            channel=modality.channels[level.number],
            unit=modality.unit,
            recording=recording.name,
            other=describe_place(windows, shown[1]),
            duration_s=modality.duration_s,
            values=values[0],
            other_values=values[1],
            rms=tuple(rms[own].tolist()),
            others_low=low,
            others_high=high,
        )


Flags = npt.NDArray[np.bool_]


def near_copies(everything: Windows, probed: probes.ProbeWindows) -> Iterator[Finding]:
    """Compare each valid and test window with the training window of nearest statistics, sample by sample."""
    from sklearn.neighbors import NearestNeighbors

    train, others = np.flatnonzero(probed.windows.splits == 0), np.flatnonzero(probed.windows.splits != 0)
    scaled = probed.scaled_features
    nearest = NearestNeighbors(n_neighbors=1).fit(scaled[train]).kneighbors(scaled[others], return_distance=False)
    pairs = np.stack([others, train[nearest[:, 0]]], axis=1)
    worst, moved = np.zeros(len(pairs)), np.zeros(len(pairs), dtype=bool)
    block = min(map(windows_at_once, probed.windows.spec.modalities))
    for start in range(0, len(pairs), block):
        part = slice(start, start + block)
        first, second = (probed.windows.take(pairs[part, side]) for side in (0, 1))
        for name, features in probed.features.items():
            channels = first[name].shape[2]
            usual_std = np.maximum(np.median(features[:, channels : 2 * channels], axis=0), 1e-12)
            known = ~(np.isnan(first[name]) | np.isnan(second[name]))
            gap = np.where(known, first[name] - second[name], 0.0).astype(np.float64)
            x = np.where(known, first[name], 0.0).astype(np.float64)
            mean = x.sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
            movement = ((np.where(known, x - mean, 0.0) / usual_std) ** 2).mean(axis=(1, 2))
            fraction = ((gap / usual_std) ** 2).mean(axis=(1, 2)) / np.maximum(movement, 1e-12)
            moves = (movement > _MIN_MOVEMENT**2) & (known.mean(axis=(1, 2)) >= _MIN_KNOWN)
            worst[part] = np.maximum(worst[part], np.where(moves, fraction, 0.0))
            moved[part] |= moves
    near = moved & (worst > 0) & (worst < _NEAR)
    if near.any():
        count, best = int(near.sum()), int(np.where(near, worst, np.inf).argmin())
        copy, original = (describe_place(everything, int(probed.rows[row])) for row in pairs[best])
        yield problem(
            "copies",
            f"{count} {'window' if count == 1 else 'windows'} outside train nearly equal to a training "
            f"window: {copy} differs from {original} by {100 * worst[best]:.2g} % of the movement",
            "give them one group if they were cut from one recording or made from each other",
        )


def like_groups(probed: probes.ProbeWindows) -> Iterator[Finding]:
    """Yield pairs of groups of two splits whose windows are mostly each other's nearest neighbours."""
    names, code = np.unique(probed.windows.groups, return_inverse=True)
    if not probed.windows.has_groups or len(names) < MIN_GROUPS:
        return
    points = probed.scaled_features - probed.scaled_features.mean(axis=0)
    square, nearest = np.square(points).sum(axis=1), np.zeros(len(points), dtype=np.int64)
    for start in range(0, len(points), 256):  # among windows of other groups
        part = slice(start, start + 256)
        distance = square[None] - 2 * points[part] @ points.T  # (b, N), without the point's own square
        nearest[part] = np.where(code[part, None] == code[None], np.inf, distance).argmin(axis=1)
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts, (code, code[nearest]), 1)
    sizes = counts.sum(axis=1)
    fractions = counts / sizes[:, None]
    mutual = np.minimum(fractions, fractions.T)
    usual = float(np.median(mutual.max(axis=1)))
    split = np.zeros(len(names), dtype=np.int64)
    split[code] = probed.windows.splits
    for a, b in np.argwhere(np.triu(mutual > _MUTUAL, 1)).tolist():
        least = min(fraction_interval(int(counts[x, y]), int(sizes[x]))[0] for x, y in ((a, b), (b, a)))
        if split[a] != split[b] and least >= _MUTUAL:
            trains, judges = (str(names[group]) for group in sorted((a, b), key=lambda group: split[group]))
            yield problem(
                "leak",
                f"group {judges!r} (judging) and group {trains!r} (training): {mutual[a, b]:.0%} of the "
                f"windows of each have their nearest neighbour in the other (typical pair of groups: {usual:.0%})",
                "ask whether they are one person, machine or session; if so give them one group",
            )


def label_agreement(answers: probes.ProbeAnswers) -> float:
    """Return the fraction of labels that a probe agrees with when certain; 0 if never."""
    certain = answers.probabilities.max(axis=1) >= _CERTAIN
    right = answers.probabilities.argmax(axis=1) == answers.truth
    return float(right[certain].mean()) if certain.any() else 0.0


def label_suspects(probed: probes.ProbeWindows, answers: probes.ProbeAnswers) -> list[LabelSuspect]:
    """Return windows whose label the probe contradicts, most certain first; none if the probe is poor.

    After C. Northcutt, L. Jiang and I. Chuang, "Confident Learning", JAIR 70, 2021, with stricter thresholds.
    """
    is_class = probed.windows.spec.task.kind == "classification"
    if not is_class or not answers.facts.is_better or label_agreement(answers) < MIN_AGREEMENT:
        return []
    is_named = file_starts(probed.windows) is not None
    votes = answers.probabilities
    best, own = votes.max(axis=1), votes[np.arange(len(votes)), answers.truth]
    suspects = np.flatnonzero((best >= _CERTAIN) & (own <= _CONTRADICTED))
    suspects = suspects[np.argsort(own[suspects] - best[suspects], kind="stable")]
    return [
        LabelSuspect(
            split=SPLIT_NAMES[int(probed.windows.splits[answers.index[row]])],
            window=number_in_split(probed, int(answers.index[row])),
            group=str(probed.windows.groups[answers.index[row]]) if probed.windows.has_groups else "",
            label=answers.names[answers.truth[row]],
            likely=answers.names[int(votes[row].argmax())],
            likely_probability=float(best[row]),
            label_probability=float(own[row]),
            place=describe_place(probed.windows, int(answers.index[row])) if is_named else "",
        )
        for row in suspects.tolist()
    ]


def label_findings(suspects: Sequence[LabelSuspect], labels: int, agreement: float) -> Iterator[Finding]:
    """Yield a note if several labels are contradicted."""
    if len(suspects) >= _MIN_SUSPECTS:
        first = suspects[0]
        place = first.place or f"{first.split} window {first.window}"
        yield note(
            "labels",
            f"{len(suspects)} labels of {labels} ({len(suspects) / labels:.1%}) contradict extra-trees that "
            f"were not trained on the window's group; the clearest is {place}, labelled "
            f"{first.label}, probably {first.likely} ({first.likely_probability:.0%} of the votes, "
            f"{first.label_probability:.0%} for the label); when the trees are as certain, they agree with "
            f"{agreement:.0%} of the labels",
            "look at those in the list, the first ones first, and correct or drop the wrong ones",
        )


def windows_to_label(probed: probes.ProbeWindows) -> list[WindowToLabel]:
    """Return at most 50 unlabelled training windows most worth a label; none before two classes have labels.

    Only training labels are used. Windows next to a labelled one of their group are left out: two states may share
    them. Among the most uncertain windows those far from each other are chosen (farthest first; O. Sener and
    S. Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018).
    """
    windows = probed.windows
    train = np.flatnonzero(windows.splits == 0)
    strata, names = name_strata(windows.labels[train], windows.spec.task)
    known, unlabelled = train[strata >= 0], train[(strata < 0) & ~_near_labelled(windows)[train]]
    strata = strata[strata >= 0]
    if len(unlabelled) == 0 or len(np.unique(strata)) < 2:
        return []
    features = probed.all_features
    classes, votes = probes.fit_trees(features[known], strata, features[unlabelled])
    ordered = np.sort(votes, axis=1)
    uncertain = np.argsort(ordered[:, -1] - ordered[:, -2], kind="stable")[: _CANDIDATES * _MAX_TO_LABEL]
    points = probed.scaled_features[unlabelled[uncertain]]
    farthest, distance = [0], np.square(points - points[0]).sum(axis=1)
    while len(farthest) < min(_MAX_TO_LABEL, len(points)):
        farthest.append(int(distance.argmax()))
        distance = np.minimum(distance, np.square(points - points[farthest[-1]]).sum(axis=1))
        distance[farthest] = -1.0
    chosen = uncertain[farthest]
    duration_s = max(modality.duration_s for modality in windows.spec.modalities)
    rows = []
    for row in chosen.tolist():
        index = int(unlabelled[row])
        start_s = None if windows.times is None else float(windows.times[index])
        rows.append(
            WindowToLabel(
                window=number_in_split(probed, index),
                group=str(windows.groups[index]) if windows.has_groups else "",
                start=None if start_s is None else time_text(start_s, "microseconds"),
                end=None if start_s is None else time_text(start_s + duration_s, "microseconds"),
                likely=names[classes[votes[row].argmax()]],
                probability=float(votes[row].max()),
            )
        )
    return rows


def _near_labelled(windows: Windows) -> npt.NDArray[np.bool_]:
    near = np.zeros(len(windows), dtype=bool)
    if windows.times is None:
        return near
    duration_s = max(modality.duration_s for modality in windows.spec.modalities) + 1e-3
    for group in np.unique(windows.groups).tolist():
        here = np.flatnonzero(windows.groups == group)
        starts, labelled = windows.times[here], np.sort(windows.times[here][windows.labelled[here]])
        first = np.searchsorted(labelled, starts - duration_s, side="left")
        near[here] = np.searchsorted(labelled, starts + duration_s, side="right") > first
    return near


def label_csv(rows: Sequence[WindowToLabel], train: SplitFacts) -> str:
    """Return an interval file with empty labels. Raise UsageError without windows or times."""
    if not rows:
        classes = sum(count > 0 for count in train.classes.values())
        raise UsageError(
            "--label-next: expected unlabelled training windows away from labelled ones, and labels of two classes, got"
            f" {train.unlabelled} unlabelled windows and {classes} classes; label two classes first, or record more"
        )
    if any(row.start is None for row in rows):
        raise UsageError(
            "--label-next: expected a dataset with times, by which the importer finds the windows, got one without; "
            "import it with a recipe, or give write_dataset 'times'"
        )
    ordered = sorted(rows, key=lambda row: (row.group, row.start or ""))
    header = ["start", "end", "label", "group", "likely"]
    return csv_text([header, *([row.start, row.end, "", row.group, row.likely] for row in ordered)])


def label_tasks(rows: Sequence[WindowToLabel], windows: Windows) -> tuple[list[dict[str, Any]], str]:
    """Return tasks of Label Studio, and their labelling interface."""
    assert windows.times is not None
    tasks, spec = [], windows.spec
    for row in rows:
        values = {name: array[0] for name, array in windows.take([row.window]).items()}
        facts: dict[str, Any] = {"group": row.group, "likely": row.likely, "probability": row.probability}
        tasks.append(label_task(values, spec.modalities, float(windows.times[row.window]), **facts))
    return tasks, label_config(spec.modalities, spec.task)


def number_in_split(probed: probes.ProbeWindows, index: int) -> int:
    """Return a window's number in its split."""
    counts = probed.windows.spec.splits
    split = int(probed.windows.splits[index])
    return int(probed.rows[index]) - sum(counts[name] for name in SPLIT_NAMES[:split])
