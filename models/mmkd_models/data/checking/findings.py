"""Findings about a dataset with their thresholds, and its figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_documents.data import ChannelFacts, Finding, SplitFacts
from mmkd_edge.spec import TaskKind, task_text
from mmkd_models.data.checking.levels import level_findings
from mmkd_models.data.checking.related import (
    describe_place,
    file_starts,
    find_overlaps,
    label_conflicts,
    leak_findings,
    list_first,
    note,
    problem,
    time_text,
)
from mmkd_models.data.checking.scan import ModalityScan, Scan, scan_windows
from mmkd_models.data.dataset import Dataset, load_directory, locate_dataset, make_windows
from mmkd_models.data.files import RECORDINGS, array_file
from mmkd_models.data.labels import WRITE_GROUPS, absent_labels, name_strata
from mmkd_models.data.spec import SPLIT_NAMES, refuse
from mmkd_models.data.windows import Windows, split_facts, valid_values

_MIN_FOLDS = 3  # train, valid and test in one fold of cross-validation
# Fractions of windows in which a channel is stuck: in a group and in all others, or while other channels move.
_STUCK_IN_GROUP, _STUCK_ELSEWHERE = 0.9, 0.1
_STUCK_ALONE = 0.01
_MIN_STUCK = 5  # windows
_CLIPPED = 0.002  # fraction of the samples
_MIN_CLIPPED = 5  # windows
_GAPS_APART = 0.3  # difference between two classes in the fraction of windows with gaps
_MIN_WINDOWS = 20  # for the gaps of a class
_RARE = 0.1  # times the windows of the most frequent class
_MAX_GROUP_FRACTION = 0.5

Floats = npt.NDArray[np.float64]
_DISTINCT = 8  # values in a window of a continuous channel: only such a channel can be stuck
_MAX_SORTED = 256  # windows that `is_continuous` looks at


def rule_findings(scan: Scan) -> Iterator[Finding]:
    """Yield an error for every broken rule of docs/datasets.md."""
    windows, task = scan.windows, scan.windows.spec.task
    known = windows.labels[(windows.splits == 0) & windows.labelled]
    # Without any label it is a new machine, not labelled yet: commands that need labels refuse it.
    if task.kind == "regression" and len(np.unique(known)) == 1:
        sentence = f"target {task.labels[0]!r}: expected two different numbers or more in train, got one"
        yield _error(sentence, "move groups, or label more")
    for number, name in enumerate(task.labels if task.kind in ("classification", "multi_label") and len(known) else ()):
        if task.kind == "classification" and not (known == number).any():
            yield _error(f"class {name!r} ({number}) has no window in train", "move a group that has it, or remove it")
        elif task.kind == "multi_label" and len(np.unique(known[:, number])) < 2:
            state = "on" if known[:, number].any() else "off"
            sentence = f"label {name!r} ({number}) is {state} in every labelled window of train"
            yield _error(sentence, "move groups, or remove the label")
    for name, figures in scan.modalities.items():
        yield from _value_rules(windows, name, figures)
    yield from _copies(scan)
    if windows.folds is not None and (count := len(np.unique(windows.folds))) < _MIN_FOLDS:
        yield _error(f"folds: expected {_MIN_FOLDS} or more, got {count}", "deal the groups into more")


def _value_rules(windows: Windows, name: str, figures: ModalityScan) -> Iterator[Finding]:
    has_infinite = figures.infinite.any(axis=1)
    for number, split in enumerate(SPLIT_NAMES):
        infinite = figures.infinite[windows.splits == number].sum(axis=1)
        if infinite.any():
            where = f"{RECORDINGS if windows.max_shift_s else split}/{name}.npy"
            values, count = _count(int(infinite.sum()), "infinite value"), _count((infinite > 0).sum(), "window")
            first = describe_place(windows, int(np.flatnonzero((windows.splits == number) & has_infinite)[0]))
            yield _error(f"{where}: {values} in {count} of {split}, the first in {first}", "store NaN, missing")
    if figures.absent[windows.splits == 0].all():
        yield _error(f"modality {name!r} has no valid value in train", "correct its values or its range, or remove it")
    low, high = figures.lowest.min(), figures.highest.max()
    if figures.modality.kind == "audio" and max(-low, high) > 1:
        yield _error(
            f"modality {name!r}: expected sound from -1 to 1, got {low:g} to {high:g}",
            "divide it by its full scale, 32768 of 16 bits, or clip it",
        )


def _copies(scan: Scan) -> Iterator[Finding]:
    windows = scan.windows
    first_rows: dict[bytes, int] = {}
    pairs = [(first_rows.setdefault(digest, row), row) for row, digest in enumerate(scan.digests) if digest]
    across = [(first, row) for first, row in pairs if windows.splits[first] != windows.splits[row]]
    inside = [(first, row) for first, row in pairs if first != row and windows.splits[first] == windows.splits[row]]
    if across and file_starts(windows) is None:  # else `leak_findings` names them
        first, row = (describe_place(windows, place) for place in across[0])
        yield Finding(
            kind="copies",
            level="error",
            sentence=f"{first} and {row} are the same window ({len(across)} in all); splits must not share windows",
            advice="remove the copies (split.drop_copies = true in a recipe), or give both one group",
        )
    if inside:
        first, row = (describe_place(windows, place) for place in inside[0])
        yield note(
            "copies",
            f"{_count(len(inside), 'window')} of {len(windows)} equal an earlier one of their split, for example {row} "
            f"and {first}",
            "they count twice; remove them unless the process repeats itself exactly",
        )


def value_findings(scan: Scan) -> Iterator[Finding]:
    """Yield findings on values, labels, groups and gaps."""
    windows = scan.windows
    if not windows.has_groups and windows.spec.episodes and len(windows.spec.episodes) == 1:
        yield note(
            "leak",
            f"one recording, {windows.spec.episodes[0]}: scores are of other times of it, and say nothing of another "
            "machine or day",
            "record others, and set split.group to the part of their path that tells them apart",
        )
    elif not windows.has_groups:
        judged_on = split_facts(windows).judged_on.partition(";")[0]
        sentence = f"no groups: scores are of {judged_on}, which may be of groups that trained"
        yield note("leak", sentence, WRITE_GROUPS)
    yield from _balance(windows)
    for figures in scan.modalities.values():
        yield from _channels(windows, figures)
        yield from _gaps(windows, figures)
    if windows.spec.left_out:
        counts = ", ".join(f"{_count(count, 'window')} {reason}" for reason, count in windows.spec.left_out.items())
        advice = "check that these windows may be missing: mmkd-data import RECIPE --check names files that are short"
        yield note("left out", f"the import left out {counts}", advice)


def _channels(windows: Windows, figures: ModalityScan) -> Iterator[Finding]:
    continuous = is_continuous(windows, figures)
    present = ~np.isnan(figures.level)
    for number, channel in enumerate(figures.modality.channels):
        name = f"channel {figures.modality.name} {channel}"
        if not present[:, number].any():
            yield problem("dead channel", f"{name} has no sample at all", "leave the channel out")
        elif figures.lowest[number] == figures.highest[number]:
            sentence = f"{name} is {figures.lowest[number]:g} in every window"
            yield problem("dead channel", sentence, "leave the channel out, or check its cable")
        elif continuous[number]:
            yield from _find_stuck(windows, figures, number, name)
            limited = np.where(figures.flat[:, number], 0.0, figures.at_limit[:, number])
            fraction, count = float(limited.mean()), int((limited > 0).sum())
            if fraction >= _CLIPPED and count >= _MIN_CLIPPED:
                yield note(
                    "clipped channel",
                    f"{name} stays at its lowest or highest value in {fraction:.1%} of the samples, in {count} windows",
                    "choose a larger measuring range or less gain, or ignore it if the quantity ends there",
                )


def is_continuous(windows: Windows, figures: ModalityScan) -> npt.NDArray[np.bool_]:
    """Return (C,) whether half of a channel's moving windows have many distinct values."""
    modality = figures.modality
    chosen = np.unique(np.linspace(0, len(windows) - 1, _MAX_SORTED).round().astype(np.int64))
    values = valid_values(windows.source.gather(modality, windows.rows[chosen], shift_s=None), modality=modality)
    distinct = (np.diff(np.sort(values, axis=1), axis=1) > 0).sum(axis=1) + 1  # NaN is last and compares false
    least = min(_DISTINCT, modality.samples // 2)
    moves = ~figures.flat[chosen] & ~np.isnan(figures.level[chosen])
    pairs = zip(distinct.T, moves.T, strict=True)
    return np.array([bool(here.any() and np.median(counts[here]) >= least) for counts, here in pairs])


def _find_stuck(windows: Windows, figures: ModalityScan, number: int, name: str) -> Iterator[Finding]:
    present = ~np.isnan(figures.level[:, number])
    flat = figures.flat[:, number]
    fraction = float(flat[present].mean())
    facts = {"group": windows.groups} if windows.has_groups else {}
    facts |= {key: values for key, values in windows.metadata.items() if values.dtype.kind != "f"}
    for key, values in facts.items():
        stuck = []
        for value in np.unique(values).tolist():
            inside, outside = flat[(values == value) & present], flat[(values != value) & present]
            is_judged = min(len(inside), len(outside)) >= _MIN_STUCK
            if is_judged and inside.mean() >= _STUCK_IN_GROUP and outside.mean() <= _STUCK_ELSEWHERE:
                stuck.append(value)
        if stuck:
            yield problem(
                "stuck channel",
                f"{name} does not move in {fraction:.1%} of all windows, and in nearly every window of {key} "
                f"{list_first(stuck)}",
                "set it to missing (NaN) there, or leave these windows out",
            )
            return
    others = np.delete(figures.flat, number, axis=1)
    alone = flat & ~others.all(axis=1) if others.size else flat
    if alone.sum() >= max(_MIN_STUCK, _STUCK_ALONE * present.sum()) and fraction < 0.5:
        others_move = ", while other channels of the sensor do" if others.size else ", and moves in all others"
        yield problem(
            "stuck channel",
            f"{name} does not move in {_count(alone.sum(), 'window')} of {present.sum()}{others_move}",
            f"set it to missing (NaN) there; the first is {describe_place(windows, int(np.flatnonzero(alone)[0]))}",
        )


def _gaps(windows: Windows, figures: ModalityScan) -> Iterator[Finding]:
    name, missing = figures.modality.name, figures.missing.mean(axis=1)
    for number, split in enumerate(SPLIT_NAMES):
        if figures.absent[windows.splits == number].all():
            yield problem("gaps", f"sensor {name} is absent in all of {split}", f"leave {name} out, or move groups")
            return
    codes, names = name_strata(windows.labels, windows.spec.task)
    fractions = {
        names[code]: float((missing[codes == code] > 0).mean())
        for code in range(len(names))
        if (codes == code).sum() >= _MIN_WINDOWS
    }
    by_fraction = sorted(fractions, key=fractions.__getitem__)
    if fractions and fractions[most := by_fraction[-1]] - fractions[least := by_fraction[0]] >= _GAPS_APART:
        yield problem(
            "gaps",
            f"sensor {name} has gaps in {fractions[most]:.0%} of the windows of {most}, and in {fractions[least]:.0%} "
            f"of {least}: the gaps reveal the class",
            "find out why: a student would learn the logger and not the machine",
        )
    count = int(figures.absent.sum())
    if count:
        where = ""
        if windows.has_groups:
            groups, counts = np.unique(windows.groups[figures.absent], return_counts=True)
            most_first = [repr(groups[place].item()) for place in np.argsort(-counts, kind="stable")]
            where = f", in {'group' if len(groups) == 1 else 'groups'} {list_first(most_first)}"
        yield note(
            "gaps",
            f"{name}: no value in {_count(count, 'window')} of {len(windows)} ({count / len(windows):.1%}){where}",
            "a student of this sensor can only guess there; leave them out (cover = 'all' in a recipe)",
        )


def _balance(windows: Windows) -> Iterator[Finding]:
    task = windows.spec.task
    for number, split in enumerate(SPLIT_NAMES):
        absent = absent_labels(task, windows.labels[(windows.splits == number) & windows.labelled])
        if absent:
            yield problem("balance", f"{split} has no window of {', '.join(absent)}", "move groups, or label more")
    if task.kind == "classification":
        counts = np.bincount(windows.labels[(windows.splits == 0) & windows.labelled], minlength=len(task.labels))
        for name, count in zip(task.labels, counts.tolist(), strict=True):
            if 0 < count < _RARE * counts.max():
                yield note(
                    "balance",
                    f"class {name} has {count} training windows, {task.labels[int(counts.argmax())]} {counts.max()}",
                    f"record more of {name}, and look at balanced accuracy, not at accuracy",
                )
    for number, split in enumerate(SPLIT_NAMES if windows.has_groups else ()):
        groups, sizes = np.unique(windows.groups[windows.splits == number], return_counts=True)
        fraction = sizes.max() / sizes.sum()
        if fraction > max(_MAX_GROUP_FRACTION, 2 / len(groups)):
            yield note(
                "balance",
                f"group {groups[sizes.argmax()].item()!r} has {fraction:.0%} of the windows of {split}",
                "its scores are mostly those of one person or machine; move or thin it",
            )


def _error(sentence: str, advice: str) -> Finding:
    return Finding(kind="rule", level="error", sentence=sentence, advice=advice)


def _count(count: int | np.int64, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """A valid dataset and its findings, problems first."""

    windows: Windows
    findings: tuple[Finding, ...]


def check_dataset(path: str | Path) -> CheckReport:
    """Check a dataset directory, reading every value. Raise DatasetError with every problem."""
    path = locate_dataset(path)
    spec, arrays = load_directory(path)
    windows = make_windows(spec, arrays)
    used, advice = set(map(array_file, arrays)), "describe it in dataset.json or remove it"
    files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*.np[yz]"))
    unused = [note("unused file", f"{name}: this file is not used", advice) for name in files if name not in used]
    findings = sort_findings([*unused, *find_everything(windows, scan_windows(windows))])
    refuse_errors(path, findings)
    return CheckReport(windows=windows, findings=tuple(findings))


def find_everything(windows: Windows, scan: Scan) -> list[Finding]:
    """Return all findings of `Dataset.everything()`."""
    return [*rule_findings(scan), *shared_findings(windows, scan), *level_findings(scan), *value_findings(scan)]


def shared_findings(windows: Windows, scan: Scan) -> Iterator[Finding]:
    """Yield findings on samples that several windows share."""
    overlaps = find_overlaps(windows)
    if file_starts(windows) is not None:
        overlaps = overlaps.with_equal(windows, scan.digests)
    yield from leak_findings(windows, overlaps)
    yield from label_conflicts(windows, overlaps)


def sort_findings(findings: list[Finding]) -> list[Finding]:
    """Return errors first, then problems, then notes."""
    return sorted(findings, key=lambda finding: ("error", "problem", "note").index(finding.level))


def refuse_errors(path: Path, findings: list[Finding]) -> None:
    """Raise DatasetError if the findings include errors."""
    refuse(f"dataset {path}", [finding.text for finding in findings if finding.level == "error"])


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """Return all facts of a dataset by name; reads every value once."""
    windows, spec = dataset.everything(), dataset.spec
    folds, counts = np.unique([] if windows.folds is None else windows.folds, return_counts=True)
    return {
        "name": spec.name,
        "path": str(dataset.path),
        "sha256": dataset.sha256,
        "task": spec.task,
        "source": spec.source,
        "licence": spec.licence,
        "modalities": spec.modalities,
        "derived": spec.derived or (),
        "splits": list(count_splits(windows)),
        "channels": list(describe_channels(scan_windows(windows))),
        "split": split_facts(windows),
        "folds": {str(fold): int(count) for fold, count in zip(folds.tolist(), counts.tolist(), strict=True)},
        "hop_s": None if spec.recordings is None else spec.recordings.hop_s,
        "metadata": {name: len(np.unique(values)) for name, values in windows.metadata.items()},
        "times": times_text(windows),
    }


def headline(windows: Windows) -> str:
    """Return the number of windows, classes, groups and folds as text."""
    task = windows.spec.task
    noun: dict[TaskKind, str] = {"classification": "classes", "multi_label": "labels"}
    parts = [f"{windows.spec.name}: {len(windows)} windows"]
    parts.append(f"{len(task.labels)} {noun[task.kind]}" if task.kind in noun else task_text(task))
    parts.append(f"{windows.group_count or 'no'} groups")
    return ", ".join(parts + ([] if windows.folds is None else [f"{len(np.unique(windows.folds))} folds"]))


def times_text(windows: Windows) -> str:
    """Return first and last window start, `2026-11-02T06:00:00Z to 2026-11-06T21:59:58Z`; empty without times."""
    times = windows.times
    return "" if times is None else f"{time_text(float(times.min()))} to {time_text(float(times.max()))}"


def count_splits(windows: Windows) -> Iterator[SplitFacts]:
    """Yield each split's windows and groups, and windows by class, label or decile."""
    task = windows.spec.task
    strata, names = name_strata(windows.labels, task)
    for number, split in enumerate(SPLIT_NAMES):
        here = windows.splits == number
        groups, sizes = np.unique(windows.groups[here], return_counts=True)
        if task.kind == "multi_label":
            names, counts = task.labels, (windows.labels[here] == 1).sum(axis=0)
        else:
            counts = np.bincount(strata[here & (strata >= 0)], minlength=len(names))
        yield SplitFacts(
            split=split,
            windows=int(here.sum()),
            unlabelled=int((strata[here] < 0).sum()),
            groups=len(groups) if windows.has_groups else 0,
            largest_group=float(sizes.max() / sizes.sum()) if windows.has_groups else None,
            classes=dict(zip(names, counts.tolist(), strict=True)),
        )


def describe_channels(scan: Scan) -> Iterator[ChannelFacts]:
    """Yield the figures of each channel."""
    for modality in scan.windows.spec.modalities:
        figures = scan.modalities[modality.name]
        continuous = is_continuous(scan.windows, figures)
        for number, channel in enumerate(modality.channels):
            present = ~np.isnan(figures.level[:, number])
            missing = figures.missing[:, number]
            low = high = mean = std = None
            if present.any():
                low, high = float(figures.lowest[number]), float(figures.highest[number])
                weights = 1 - missing[present]
                mean = float(np.average(figures.level[present, number], weights=weights))
                power = float(np.average(figures.power[present, number], weights=weights))
                std = float(np.sqrt(max(0.0, power - mean**2)))
            yield ChannelFacts(
                modality=modality.name,
                channel=channel,
                unit=modality.unit,
                rate_hz=modality.rate_hz,
                samples=modality.samples,
                low=low,
                high=high,
                mean=mean,
                std=std,
                missing={
                    split: float(missing[scan.windows.splits == place].mean())
                    for place, split in enumerate(SPLIT_NAMES)
                },
                flat=float(figures.flat[present, number].mean()) if present.any() else 0.0,
                at_limit=float(figures.at_limit[:, number].mean()),
                is_continuous=bool(continuous[number]),
            )
