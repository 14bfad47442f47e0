"""Dataset warnings, each with its evidence and a fix; the thresholds are here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_models.data.checking.check import ABSENT_ADVICE, absent_warnings, left_out_text
from mmkd_models.data.checking.odd_recordings import ODD_ADVICE, odd_warnings
from mmkd_models.data.checking.related import Overlaps, place
from mmkd_models.data.checking.scan import Scan
from mmkd_models.data.spec import SPLIT_NAMES
from mmkd_models.data.windows import Windows
from mmkd_models.data_report.copies import LikeGroups, NearCopy
from mmkd_models.data_report.measures import WindowMeasures
from mmkd_models.data_report.probes import alike_labels
from mmkd_report.schema.data import DriftFacts, LabelSuspect, ProbeFacts, Suspicion, SuspicionKind

_STUCK_IN_GROUP = 0.9  # of a group's windows, where of all others
_STUCK_ELSEWHERE = 0.1
_STUCK_ALONE = 0.01  # of all windows, while other channels of the sensor move
_LEAST_STUCK = 5  # windows
_MOST_NAMED = 3
_CLIPPED = 0.002  # of the samples
_LEAST_CLIPPED = 5  # windows
_GAPS_APART = 0.3  # share of windows with gaps, of one class and of another
_RARE = 0.1  # of the windows of the commonest class
_MOST_OF_ONE_GROUP = 0.5
_LEAST_WINDOWS = 20
_LEAST_LABELS = 3


def of_copies(
    windows: Windows,
    across: Sequence[tuple[int, int]],
    inside: Sequence[tuple[int, int]],
    near: Sequence[NearCopy],
    overlaps: Overlaps,
) -> Iterator[Suspicion]:
    """Yield what is there twice."""
    if across:
        first, second = (place(windows, row) for row in across[0])
        yield _grave(
            "copies",
            f"{_counted(len(across), 'window')} of one split are also in another, {second} and {first} for one",
            "remove them (split.drop_copies = true in a recipe), or give both one group",
        )
    if inside:
        first, second = (place(windows, row) for row in inside[0])
        yield _known(
            "copies",
            f"{_counted(len(inside), 'window')} of {len(windows)} are equal to an earlier one of their split, "
            f"{second} to {first} for one",
            "they count twice; remove them unless the process repeats itself so exactly",
        )
    if near:
        worst = min(near, key=lambda one: one.different)
        yield _grave(
            "copies",
            f"{_counted(len(near), 'window')} outside train {'is' if len(near) == 1 else 'are'} in train too, but for "
            f"less than 1 % of what moves: {place(windows, worst.judges)} and {place(windows, worst.trains)} differ by "
            f"{100 * worst.different:.2g} %",
            "if both were cut from one recording, or one was made from the other, give them one group",
        )
    leak = overlaps.subset(windows.splits[overlaps.first] != windows.splits[overlaps.second])
    if len(leak.first):
        yield _grave("copies", leak.words(windows), "put windows that share samples into one split")


def of_like_groups(pairs: Sequence[LikeGroups]) -> Iterator[Suspicion]:
    """Yield groups that may be one under two names."""
    for one in pairs:
        yield _grave(
            "leak",
            f"group {one.judges!r} (judging) and group {one.trains!r} (training): {one.shared:.0%} of the windows of "
            f"each have their nearest neighbour in the other (typical pair of groups: {one.usual:.0%})",
            "ask whether they are one person, machine or session under two names; if so give them one group",
        )


def of_probes(probes: Sequence[ProbeFacts]) -> Iterator[Suspicion]:
    """Yield what windows tell beside their class."""
    for one in probes:
        if one.asked == "class" or not one.is_better:
            continue
        figure = (
            f"extra-trees recognise {{}} from a window with balanced accuracy {one.score:.0%} (99 % interval from "
            f"{one.low:.0%}; chance {one.guessing:.0%})"
        )
        if one.asked == "split":
            yield _grave(
                "origin",
                figure.format("the split") + ", of groups that they were not trained on",
                "the splits differ as wholes, in machine, sensor or campaign: scores are of that difference too; deal "
                "the groups anew",
            )
        elif one.asked == "group":
            yield _known(
                "origin",
                figure.format("the group"),
                "judge on groups that did not train, and never deal single windows into splits",
            )
        else:
            yield _known(
                "origin",
                figure.format(f"the {one.asked}"),
                f"judge by it: mmkd-evaluate MODEL DATA --suite groups --by {one.asked}",
            )


def of_labels(suspects: Sequence[LabelSuspect], asked: int, agreement: float) -> Iterator[Suspicion]:
    """Yield labels that are contradicted."""
    if len(suspects) >= _LEAST_LABELS:
        one = suspects[0]
        yield _known(
            "labels",
            f"{len(suspects)} labels of {asked} ({len(suspects) / asked:.1%}) contradict extra-trees that were not "
            f"trained on the window's group; the clearest is {one.split} window {one.window}, labelled {one.label}, "
            f"probably {one.likely} ({one.likely_probability:.0%} of the votes, {one.label_probability:.0%} for the "
            f"label); where the trees are as certain, they agree with {agreement:.0%} of the labels",
            "look at those in the list, the first ones first, and correct or drop what is wrong",
        )


def of_channels(windows: Windows, found: WindowMeasures) -> Iterator[Suspicion]:
    """Yield channels of a modality that are dead, stuck or clipped."""
    name, known = found.modality.name, ~np.isnan(found.level)
    continuous = found.continuous
    for number, channel in enumerate(found.modality.channels):
        there = known[:, number]
        flat = found.flat[:, number] & there
        if not there.any():
            yield _grave("dead channel", f"channel {name} {channel} has no sample at all", "leave the channel out")
        elif flat[there].all() and np.ptp(found.level[there, number]) == 0:
            yield _grave(
                "dead channel",
                f"channel {name} {channel} is {found.level[there, number][0]:g} in every window",
                "leave the channel out, or check its cable",
            )
        elif continuous[number]:
            yield from _stuck(windows, found, number, f"{name} {channel}", flat, there)
            yield from _clipped(found, number, f"{name} {channel}")


def _stuck(
    windows: Windows,
    found: WindowMeasures,
    number: int,
    name: str,
    flat: npt.NDArray[np.bool_],
    there: npt.NDArray[np.bool_],
) -> Iterator[Suspicion]:
    for what, values in _facts_of(windows):
        stuck = list(_stuck_values(values, flat, there))
        if stuck:
            share, first = float(flat[there].mean()), ", ".join(map(str, stuck[:_MOST_NAMED]))
            more = "" if len(stuck) <= _MOST_NAMED else f" and {len(stuck) - _MOST_NAMED} more"
            yield _grave(
                "stuck channel",
                f"channel {name} does not move in {share:.1%} of all windows, and in nearly every window of {what} "
                f"{first}{more}",
                "set it to missing (NaN) there, or leave these windows out",
            )
            return
    others = [other for other in range(found.flat.shape[1]) if other != number]
    alone = flat & ~found.flat[:, others].all(axis=1) if others else flat
    if alone.sum() >= max(_LEAST_STUCK, _STUCK_ALONE * there.sum()) and flat[there].mean() < 0.5:
        beside = ", while other channels of the sensor do" if others else ", and moves in all others"
        yield _grave(
            "stuck channel",
            f"channel {name} does not move in {_counted(int(alone.sum()), 'window')} of {int(there.sum())}{beside}",
            f"set it to missing (NaN) there; window {place(windows, int(np.flatnonzero(alone)[0]))} is the first",
        )


def _stuck_values(values: npt.NDArray[Any], flat: npt.NDArray[np.bool_], there: npt.NDArray[np.bool_]) -> Iterator[Any]:
    """Group, or values of metadata, in which a channel hardly moves while it does in all others."""
    for value in np.unique(values).tolist():
        here, others = (values == value) & there, (values != value) & there
        enough = min(here.sum(), others.sum()) >= _LEAST_STUCK
        if enough and flat[here].mean() >= _STUCK_IN_GROUP and flat[others].mean() <= _STUCK_ELSEWHERE:
            yield value


def _facts_of(windows: Windows) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    if windows.has_groups:
        yield "group", windows.groups
    yield from ((name, values) for name, values in windows.metadata.items() if values.dtype.kind != "f")


def _clipped(found: WindowMeasures, number: int, name: str) -> Iterator[Suspicion]:
    limited = np.where(found.flat[:, number], 0.0, found.at_limit[:, number])
    share, touched = float(limited.mean()), int((limited > 0).sum())
    if share >= _CLIPPED and touched >= _LEAST_CLIPPED:
        yield _known(
            "clipped channel",
            f"channel {name} stays at its lowest or highest value in {share:.1%} of the samples, in {touched} windows",
            "choose a larger measuring range, or set such samples to missing; ignore it where the quantity ends there",
        )


def of_gaps(windows: Windows, found: WindowMeasures) -> Iterator[Suspicion]:
    """Yield gaps that tell something."""
    name, missing = found.modality.name, found.missing.mean(axis=1)
    for number, split in enumerate(SPLIT_NAMES):
        here = windows.splits == number
        if (missing[here] == 1).all():
            yield _grave("gaps", f"sensor {name} is absent in all of {split}", f"leave {name} out, or move groups")
            return
    codes, names = alike_labels(windows)
    shares = {
        names[code]: float((missing[codes == code] > 0).mean())
        for code in range(len(names))
        if (codes == code).sum() >= _LEAST_WINDOWS
    }
    if not shares:
        return
    most, least = max(shares, key=lambda one: shares[one]), min(shares, key=lambda one: shares[one])
    if shares[most] - shares[least] >= _GAPS_APART:
        yield _grave(
            "gaps",
            f"sensor {name} has gaps in {shares[most]:.0%} of the windows of {most}, and in {shares[least]:.0%} of "
            f"{least}: the gaps reveal the class",
            "find out why: a student would learn the logger and not the machine",
        )


def of_recordings(windows: Windows, scan: Scan) -> Iterator[Suspicion]:
    """Yield recordings of another unit or gain, windows that lack a sensor, and what an import left out."""
    yield from (_grave("unit", sentence, ODD_ADVICE) for sentence in odd_warnings(windows, scan))
    for name, found in scan.modalities.items():
        yield from (_known("gaps", sentence, ABSENT_ADVICE) for sentence in absent_warnings(windows, name, found))
    if windows.spec.left_out:
        yield _known(
            "left out", f"the import left out {left_out_text(windows.spec)}", "check that these windows may be missing"
        )


def of_balance(windows: Windows) -> Iterator[Suspicion]:
    """Yield classes and groups that are few or too many."""
    codes, names = alike_labels(windows)
    train = windows.splits == 0
    counts = np.bincount(codes[train & (codes >= 0)], minlength=len(names))
    if windows.spec.task.kind == "classification":
        for number, split in enumerate(SPLIT_NAMES):
            here = codes[(windows.splits == number) & (codes >= 0)]
            absent = [name for code, name in enumerate(names) if not (here == code).any()]
            if absent:
                yield _grave("balance", f"{split} has no window of {', '.join(absent)}", "move groups, or label more")
        for code, name in enumerate(names):
            if 0 < counts[code] < _RARE * counts.max():
                common = names[int(counts.argmax())]
                yield _known(
                    "balance",
                    f"class {name} has {counts[code]} training windows, {common} {counts.max()}",
                    f"record more of {name}, and look at balanced accuracy, not at accuracy",
                )
    if windows.has_groups:
        for number, split in enumerate(SPLIT_NAMES):
            groups, sizes = np.unique(windows.groups[windows.splits == number], return_counts=True)
            share = sizes.max() / sizes.sum()
            if share > max(_MOST_OF_ONE_GROUP, 2 / len(groups)):
                yield _known(
                    "balance",
                    f"group {groups[sizes.argmax()].item()!r} has {share:.0%} of the windows of {split}",
                    "its scores are mostly those of one person or machine; move or thin it",
                )


def of_drift(drift: Sequence[DriftFacts]) -> Iterator[Suspicion]:
    """Yield channels whose level moves over the campaign."""
    for one in drift:
        if one.is_clear:
            yield _known(
                "drift",
                f"channel {one.modality} {one.channel} is {abs(one.shift):.1f} standard deviations "
                f"{'higher' if one.shift > 0 else 'lower'} in the last fifth of the campaign than in the first",
                "ask what changed (sensor, season, wear), and judge on the last part of the campaign",
            )


def _grave(kind: SuspicionKind, sentence: str, advice: str) -> Suspicion:
    return Suspicion(kind=kind, is_grave=True, sentence=sentence, advice=advice)


def _known(kind: SuspicionKind, sentence: str, advice: str) -> Suspicion:
    return Suspicion(kind=kind, is_grave=False, sentence=sentence, advice=advice)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
