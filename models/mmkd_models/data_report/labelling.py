"""Labels that may be wrong, and windows that are worth one: both by a probe that never saw the window's group."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import numpy as np
import numpy.typing as npt

from mmkd_edge.cli.csv_text import csv_text
from mmkd_edge.errors import UsageError
from mmkd_models.data.windows import Windows
from mmkd_models.data_report.probes import Features, Probed, ProbedWindows, alike_labels
from mmkd_report.schema.data import LabelSuspect, SplitFacts, WindowToLabel

NEXT = 50
CONTRADICTS = 0.4
"""Share of the trees' votes for one other class from which on a label is doubted."""
AGREES = 0.8
"""Share of the labels that a probe agrees with where it is that sure, from which on it may doubt the others."""
ADMITS = 0.1
"""Share of the votes for the label up to which it is doubted."""
_CANDIDATES = 10  # times as many uncertain windows as are chosen, among which the choice is spread


def agreement_of(probed: Probed) -> float:
    """Return the share of the labels that a probe agrees with where it is sure; 0 where it never is."""
    sure = probed.probabilities.max(axis=1) >= CONTRADICTS
    right = probed.probabilities.argmax(axis=1) == probed.truth
    return float(right[sure].mean()) if sure.any() else 0.0


def label_suspects(looked: ProbedWindows, probed: Probed) -> list[LabelSuspect]:
    """Return windows whose label the probe contradicts, the surest first; none where it has no authority.

    The idea is that of C. Northcutt, L. Jiang and I. Chuang, "Confident Learning", JAIR 70, 2021: out-of-sample
    probabilities that contradict the label confidently. The thresholds are stricter, since people differ.
    """
    if not probed.facts.is_better or agreement_of(probed) < AGREES or looked.windows.spec.task.kind != "classification":
        return []
    best, own = probed.probabilities.max(axis=1), probed.probabilities[np.arange(len(probed.truth)), probed.truth]
    doubted = np.flatnonzero((best >= CONTRADICTS) & (own <= ADMITS))
    doubted = doubted[np.argsort(own[doubted] - best[doubted], kind="stable")]
    return [
        LabelSuspect(
            split=split,
            window=window,
            group=_group(looked.windows, int(probed.index[row])),
            label=probed.names[probed.truth[row]],
            likely=probed.names[int(probed.probabilities[row].argmax())],
            likely_probability=float(best[row]),
            label_probability=float(own[row]),
        )
        for row in doubted.tolist()
        for split, window in [split_place(looked, int(probed.index[row]))]
    ]


def windows_to_label(looked: ProbedWindows) -> list[WindowToLabel]:
    """Return the unlabelled training windows that are worth a label most, at most `NEXT`; none before two classes are.

    Training labels only are asked: those that judge must not choose what is trained on.
    A window beside a labelled one of its group may be unlabelled since two states share it, and is left out.

    The most uncertain by the margin of the two likeliest classes, and among them those that are far from each other
    (farthest first; O. Sener and S. Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set
    Approach", ICLR 2018).
    """
    from sklearn.ensemble import ExtraTreesClassifier

    train = np.flatnonzero(looked.windows.splits == 0)
    codes, names = alike_labels(looked.windows.subset(train))
    known, asked = train[codes >= 0], train[(codes < 0) & ~_beside_labelled(looked.windows)[train]]
    codes = codes[codes >= 0]
    if len(asked) == 0 or len(np.unique(codes)) < 2:
        return []
    features = looked.together
    forest = ExtraTreesClassifier(n_estimators=100, class_weight="balanced", random_state=0)
    forest.fit(features[known], codes)
    found = forest.predict_proba(features[asked])
    ordered = np.sort(found, axis=1)
    uncertain = np.argsort(ordered[:, -1] - ordered[:, -2], kind="stable")[: _CANDIDATES * NEXT]
    spread = features.std(axis=0)
    scaled = features[:, spread > 0] / spread[spread > 0]
    chosen = _farthest_first(scaled[asked[uncertain]])
    return [
        _to_label(looked, int(asked[row]), names[forest.classes_[found[row].argmax()]], float(found[row].max()))
        for row in uncertain[chosen].tolist()
    ]


def _beside_labelled(windows: Windows) -> npt.NDArray[np.bool_]:
    """(N,) whether a labelled window of the group starts within a window's length; all False without times."""
    beside = np.zeros(len(windows), dtype=bool)
    if windows.times is None:
        return beside
    duration_s = max(spec.duration_s for spec in windows.spec.modalities) + 1e-3
    for group in np.unique(windows.groups).tolist():
        here = np.flatnonzero(windows.groups == group)
        starts = np.sort(windows.times[here][windows.labelled[here]])
        at = windows.times[here]
        first = np.searchsorted(starts, at - duration_s, side="left")
        beside[here] = np.searchsorted(starts, at + duration_s, side="right") > first
    return beside


def _farthest_first(points: Features) -> list[int]:
    """At most `NEXT` of the points (n, F): the first, then each time the one that is farthest from all before."""
    chosen = [0]
    distance = np.square(points - points[0]).sum(axis=1)
    while len(chosen) < min(NEXT, len(points)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.square(points - points[chosen[-1]]).sum(axis=1))
        distance[chosen] = -1.0
    return chosen


def label_csv(rows: Sequence[WindowToLabel], train: SplitFacts) -> str:
    """Return the windows as an interval file of a recipe, in order of time, with an empty label to fill in.

    Raise UsageError if there are none, or the dataset does not say when its windows were.
    """
    if not rows:
        raise UsageError(f"--label-next: {_nothing_to_label(train)}")
    if any(row.start is None for row in rows):
        raise UsageError(
            "--label-next: expected a dataset with times, which tell an importer whose label is whose, got one "
            "without; import it with a recipe, or give write_dataset 'times'"
        )
    in_order = sorted(rows, key=lambda one: (one.group, one.start or ""))
    header = ["start", "end", "label", "group", "likely"]
    return csv_text([header, *([row.start, row.end, "", row.group, row.likely] for row in in_order)])


def _nothing_to_label(train: SplitFacts) -> str:
    if train.unlabelled == 0:
        return "expected unlabelled training windows, got none; keep some in the dataset"
    classes = sum(count > 0 for count in train.classes.values())
    if classes < 2:
        return f"expected training windows of two classes or more, got {classes}; label two classes first"
    return (
        "expected unlabelled training windows away from labelled ones of their group, got none; label other recordings"
    )


def split_place(looked: ProbedWindows, index: int) -> tuple[str, int]:
    """Return the split and the number in it of one of the windows that were looked at."""
    row, splits = int(looked.rows[index]), looked.windows.spec.splits
    for name in ("train", "valid", "test"):
        if row < splits[name]:
            return name, row
        row -= splits[name]
    raise AssertionError("a row beyond the last split")


def _to_label(looked: ProbedWindows, index: int, likely: str, probability: float) -> WindowToLabel:
    windows = looked.windows
    start = None if windows.times is None else float(windows.times[index])
    duration_s = max(spec.duration_s for spec in windows.spec.modalities)
    return WindowToLabel(
        window=split_place(looked, index)[1],
        group=_group(windows, index),
        start=None if start is None else _iso(start),
        end=None if start is None else _iso(start + duration_s),
        likely=likely,
        probability=probability,
    )


def _group(windows: Windows, index: int) -> str:
    return str(windows.groups[index]) if windows.has_groups else ""


def _iso(seconds: float) -> str:
    moment = datetime.fromtimestamp(0, tz=timezone.utc) + timedelta(microseconds=round(seconds * 1e6))
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
