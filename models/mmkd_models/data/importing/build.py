"""A dataset directory from recordings on grids."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_documents.data import Finding
from mmkd_edge.errors import DatasetError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import spec
from mmkd_models.data.checking.related import Overlaps, find_overlaps, label_conflicts
from mmkd_models.data.checking.scan import scan_windows
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing import window_labels
from mmkd_models.data.importing.clock import SECOND_NS, UNITS, Interval, Times
from mmkd_models.data.importing.grids import GridRecording, Grids, sample_count, sums_before
from mmkd_models.data.importing.keys import FACTS_RATIO, MAX_WRITTEN_BYTES, WINDOW_FACTS_BYTES, refuse_more
from mmkd_models.data.importing.recipe import TARGET, ImportRecipe, LabelRule
from mmkd_models.data.importing.source import ImportedSensor
from mmkd_models.data.labels import find_strata
from mmkd_models.data.windows import (
    CutWindows,
    Rows,
    Windows,
    first_sample,
    latest_start_s,
    raw_blocks,
    window_starts_s,
)
from mmkd_models.data.writer import store_windows, write_windows

GROUP = ".group"
"""Key of a window's group among its facts."""
_LOG = logging.getLogger(__name__)
_SHARING = "sharing samples with another split or group"
_TOUCH_NS = 1000  # roundings
_HARDLY = 1e-6  # of a sample
_MIN_SAMPLES = 2  # of the fastest sensor in a window
_WHOLE = 1 - 1e-6  # of a window: one value from its start to its end, roundings aside


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """Windows (W,) of one recording in order of time; `starts_s` counts from its grids' origin."""

    recording: GridRecording
    starts_s: npt.NDArray[np.float64]
    answers: window_labels.Answers
    facts: Mapping[str, npt.NDArray[np.object_]]
    left_out: Counter[str]


def build_dataset(
    path: Path, recordings: Iterable[GridRecording], grids: Grids, recipe: ImportRecipe, *, scratch: Path
) -> tuple[Dataset, list[GridRecording]]:
    """Make a dataset directory, one recording at a time. Raise DatasetError if recordings break a rule."""
    facts, rule = recipe.dataset, recipe.windows
    modalities = [sensor.modality(rule.length_s) for sensor in grids.sensors if sensor.name != TARGET]
    problems = [(modality, [*spec.kind_problems(modality), spec.size_problem(modality)]) for modality in modalities]
    spec.refuse("windows", [f"{modality.name!r}: {text}" for modality, texts in problems for text in texts if text])
    spec.refuse("'dataset.derived'", list(spec.derived_problems(facts.derived, modalities)))
    spec.refuse("'windows.length_s'", list(_sampling_problem(grids.sensors, rule.length_s)))
    _refuse_copies(recipe, modalities)
    bytes_each, count = sum(map(spec.window_bytes, modalities)), 0
    cuts = list[Cut]()
    for recording in recordings:
        most = int(max(0.0, _latest_start_s(recording, modalities)) / rule.hop_s) + 2
        if rule.at == "intervals":
            most = len(recording.labels) + sum(map(len, recording.runs.values()))
        total, facts_bytes = count + most, max(MAX_WRITTEN_BYTES, grids.most_bytes // FACTS_RATIO)
        for size_bytes, most_bytes, use in (
            (grids.size_bytes + total * bytes_each, grids.most_bytes, "to write"),
            (total * WINDOW_FACTS_BYTES, facts_bytes, "in memory"),
        ):
            refuse_more(
                size_bytes,
                most_bytes,
                where=recording.name,
                what=f"windows every {rule.hop_s:g} s",
                cure="lengthen 'windows.stride_s'",
                use=use,
            )
        cuts.append(cut(recording, grids, modalities, recipe))
        count += len(cuts[-1].starts_s)
    done = [part.recording for part in cuts]
    window_labels.check_labels(done, recipe.labels)
    left_out = sum((part.left_out for part in cuts), Counter[str]())
    if not count:
        cure = _cure(done, modalities, recipe)
        raise DatasetError(f"'windows': expected windows, got none{_reasons_text(left_out)}; {cure}")
    source = _join_cuts(cuts, grids, modalities, hop_s=rule.hop_s)
    plan = _plan_windows(facts.name or path.name, cuts, source, modalities, recipe)
    plan = _drop_leaks(plan.subset(np.argsort(plan.splits, kind="stable")), source, recipe, left_out)
    parts: dict[str, Windows] = {
        name: plan.subset(plan.splits == number) for number, name in enumerate(spec.SPLIT_NAMES)
    }
    for name in (name for name, part in parts.items() if not len(part)):
        other = "choose another 'seed', or name groups in 'valid' and 'test'"
        cure = other if recipe.split.groups else "shorten 'length_s'"
        raise DatasetError(
            f"'split': expected windows in every split, got none in {name}{_reasons_text(left_out)}; {cure}"
        )
    files = {item.name: tuple(part.files.get(item.name, part.name) for part in done) for item in modalities}
    described = msgspec.structs.replace(
        plan.spec,
        source=facts.source,
        licence=facts.licence,
        derived=facts.derived or None,
        left_out=dict(left_out) or None,
        episode_files={name: own for name, own in files.items() if own != plan.spec.episodes} or None,
    )
    splits = {name: _split_arrays(part, recipe, scratch, name) for name, part in parts.items()}
    return write_windows(path, described, splits), done


def _sampling_problem(sensors: Sequence[ImportedSensor], length_s: float) -> Iterator[str]:
    fastest = max((sensor for sensor in sensors if sensor.name != TARGET), key=lambda sensor: sensor.rate_hz)
    if fastest.rate_hz * length_s < _MIN_SAMPLES:
        unit = fastest.source.time_unit
        finer = UNITS[UNITS.index(unit) + 1] if unit in UNITS[:-1] else ""
        yield (
            f"expected {_MIN_SAMPLES} samples or more in a window, got {fastest.rate_hz * length_s:.3g}:"
            f" {fastest.name} has {fastest.rate_hz:.3g} Hz by its times; lengthen it"
            + (f", or set time_unit = {finer!r} if its times are in {finer}" if finer else "")
        )


def _refuse_copies(recipe: ImportRecipe, modalities: Sequence[ModalitySpec]) -> None:
    """Refuse a stride of less than a sample: windows would be copies."""
    least_s = 1 / max(modality.rate_hz for modality in modalities)
    if recipe.windows.at == "stride" and recipe.windows.hop_s < least_s * (1 - _HARDLY):
        raise DatasetError(
            f"'windows.stride_s': expected {least_s:.4g} s or more, a sample of the fastest sensor, got"
            f" {recipe.windows.hop_s:g}; lengthen it"
        )


def _latest_start_s(recording: GridRecording, modalities: Sequence[ModalitySpec]) -> float:
    return latest_start_s([recording.lengths[modality.name] for modality in modalities], modalities)


def _lost_text(cuts: Sequence[Cut]) -> str:
    """Return why recordings have no window, where some have none."""
    lost = [part.left_out for part in cuts if not len(part.starts_s)]
    text = _reasons_text(sum(lost, Counter[str]()))
    return (
        f"; {len(lost)} of {len(cuts)} recordings have no window{text}: correct their times or labels" if lost else ""
    )


def _reasons_text(left_out: Counter[str]) -> str:
    reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.items() if number)
    return f" ({reasons})" if reasons else ""


def _join_cuts(cuts: Sequence[Cut], grids: Grids, modalities: Sequence[ModalitySpec], *, hop_s: float) -> CutWindows:
    samples, present = grids.map_arrays()
    cut_from, names = [part.recording for part in cuts], [modality.name for modality in modalities]
    return CutWindows(
        samples=samples,
        present=present,
        scale={},
        offsets={name: np.array([cut.first[name] for cut in cut_from], dtype=np.int64) for name in names},
        lengths={name: np.array([cut.lengths[name] for cut in cut_from], dtype=np.int64) for name in names},
        recording=np.repeat(np.arange(len(cuts)), [len(part.starts_s) for part in cuts]),
        start_s=np.concatenate([part.starts_s for part in cuts]),
        latest_start_s=np.array([_latest_start_s(cut, modalities) for cut in cut_from]),
        hop_s=hop_s,
    )


def _plan_windows(
    name: str, cuts: Sequence[Cut], source: CutWindows, modalities: Sequence[ModalitySpec], recipe: ImportRecipe
) -> Windows:
    """Return all windows with their labels, facts, times and splits."""
    task, labels = window_labels.encode_answers([answer for part in cuts for answer in part.answers], recipe.labels)
    metadata = {
        fact: np.array([value for part in cuts for value in part.facts[fact]], dtype=np.str_) for fact in cuts[0].facts
    }
    recordings = [part.recording for part in cuts]
    names = tuple(recording.name for recording in recordings)
    rule, strata, folds = recipe.split, find_strata(labels), None
    if rule.column:
        splits = window_labels.split_by_column(metadata[rule.column], [names[row] for row in source.recording], rule)
    elif rule.group:
        splits, folds = window_labels.split_by_group(metadata[GROUP], strata, rule, lost=_lost_text(cuts))
    else:
        splits = window_labels.split_by_time(source.recording, strata, rule)
    is_utc = all(recording.is_utc for recording in recordings)
    origins_s = np.array([recording.origin_ns for recording in recordings], dtype=np.float64) / SECOND_NS
    starts_s = origins_s[source.recording] + source.start_s
    return Windows(
        spec=spec.DatasetSpec(name=name, task=task, modalities=tuple(modalities), splits={}, episodes=names),
        labels=labels,
        groups=source.recording,
        has_groups=False,
        splits=splits,
        folds=folds,
        source=source,
        rows=np.arange(len(labels)),
        metadata=metadata,
        episodes=source.recording,
        times=starts_s if is_utc else None,
        starts=None if is_utc else starts_s,
    )


def _split_arrays(
    windows: Windows, recipe: ImportRecipe, scratch: Path, split: str
) -> dict[str, AnyArray | dict[str, AnyArray]]:
    arrays: dict[str, AnyArray | dict[str, AnyArray]] = {"labels": windows.labels, "episodes": windows.groups}
    for key in ("times", "starts", "folds"):
        if (values := getattr(windows, key)) is not None:
            arrays[key] = values
    if recipe.split.group:
        arrays["groups"] = windows.metadata[GROUP]
    for modality in windows.spec.modalities:
        file, blocks = scratch / f"{split}-{modality.name}.npy", raw_blocks(windows, modality)
        arrays[modality.name] = store_windows(file, modality, blocks, count=len(windows), counts=True)
    if recipe.windows.metadata:
        arrays["metadata"] = {fact: windows.metadata[fact] for fact in recipe.windows.metadata}
    return arrays


def _cure(recordings: Sequence[GridRecording], modalities: Sequence[ModalitySpec], recipe: ImportRecipe) -> str:
    rule, length_s = recipe.labels, recipe.windows.length_s
    durations_s = [min(recording.lengths[item.name] / item.rate_hz for item in modalities) for recording in recordings]
    apart = [recording for recording in recordings if recording.shares_no_time]
    if len(apart) == len(recordings):
        spans = ", ".join(
            f"{name} from {apart[0].time_text(first)} to {apart[0].time_text(last)}"
            for name, (first, last) in apart[0].spans.items()
            if name != TARGET
        )
        return (
            f"the sensors of {apart[0].name} share no time: {spans}; correct 'timezone' or 'offset_s' under [[source]],"
            " or set cover = 'any'"
        )
    source = next((key for key in ("path", "column", "files", "table") if getattr(rule, key)), "")
    is_target = rule.task == "regression" and rule.column
    if (
        source
        and not is_target
        and not any(window_labels.labelled_intervals(recording, rule) for recording in recordings)
    ):
        return f"no recording has a label: look at 'labels.{source}', {getattr(rule, source)!r}"
    if max(durations_s) < length_s:
        name = recordings[int(np.argmax(durations_s))].name
        return (
            f"'length_s' is {length_s:g} s, and the longest recording, {name}, has {max(durations_s):.4g} s; shorten it"
        )
    for recording, duration_s in zip(recordings, durations_s, strict=True):
        samples = (recording.origin_ns, recording.origin_ns + round(duration_s * SECOND_NS))
        starts, ends = ([getattr(label, key) for label in recording.labels] for key in ("start_ns", "end_ns"))
        if starts and (max(ends) <= samples[0] or min(starts) >= samples[1]):
            times = [recording.time_text(time_ns) for time_ns in (min(starts), max(ends), *samples)]
            return (
                f"the labels of {recording.name} are from {times[0]} to {times[1]}, its samples from {times[2]} to"
                f" {times[3]}; correct 'timezone', or set offset_s, perhaps to"
                f" {rule.offset_s + (samples[0] - min(starts)) / SECOND_NS:.6g}, under [labels]"
            )
    return "look at the times of sensors and labels"


def _drop_leaks(plan: Windows, source: CutWindows, recipe: ImportRecipe, left_out: Counter[str]) -> Windows:
    def drop(plan: Windows, reason: str, is_wrong: npt.NDArray[np.bool_]) -> Windows:
        left_out.update({reason: int(is_wrong.sum())} if is_wrong.any() else {})
        return plan.subset(~is_wrong)

    starts_s = source.start_s[plan.rows]
    stays = window_labels.far_apart(
        plan.splits, plan.groups, starts_s, least_s=recipe.windows.length_s + recipe.split.gap_s
    )
    plan = drop(plan, "between splits", ~stays)
    needs_label = (plan.splits > 0) & np.isin(plan.splits, np.unique(plan.splits[plan.labelled]))
    plan = drop(plan, "without a label in valid or test", needs_label & ~plan.labelled)
    conflicts: list[Finding] | None = None
    while recipe.split.drop_copies:  # again, as a window may have copies in several recordings
        overlaps = find_overlaps(plan).with_equal(plan, scan_windows(plan).digests)
        conflicts = list(label_conflicts(plan, overlaps)) if conflicts is None else conflicts
        first, second = overlaps.first, overlaps.second
        groups = plan.metadata.get(GROUP, plan.splits)
        is_leak = (plan.splits[first] != plan.splits[second]) | (groups[first] != groups[second])
        # Test keeps its windows, then valid; in one split the recording that comes first.
        ranks = plan.splits * len(source.latest_start_s) - plan.groups
        is_first_lower = (ranks[first] < ranks[second])[is_leak]
        if not is_leak.any():
            break
        pairs = np.stack([first, second])[:, is_leak]
        begins = first_sample(source.start_s[plan.rows[pairs]], overlaps.modality.rate_hz)
        begins[0] += overlaps.shift[is_leak]
        before, after = _like_around(source, overlaps, plan.groups[pairs], begins, is_leak)
        lower = np.where(is_first_lower, pairs[0], pairs[1])
        begin = np.where(is_first_lower, begins[0], begins[1]) - before
        count = before + overlaps.modality.samples - overlaps.shift[is_leak] + after
        plan = drop(plan, _SHARING, _touch(plan, source, lower, begin, count, overlaps.modality.rate_hz))
    for finding in conflicts or ():
        _LOG.warning("warning: %s", finding.text)
    return plan


def _like_around(
    source: CutWindows, overlaps: Overlaps, recordings: Rows, begins: Rows, is_pair: npt.NDArray[np.bool_]
) -> tuple[Rows, Rows]:
    """Return how many samples (P,) before and after the shared ones are equal too; `recordings`, `begins`: (2, P)."""
    name, most = overlaps.modality.name, overlaps.modality.samples
    counts = (most - overlaps.shift)[is_pair]
    around = np.zeros((2, len(counts)), dtype=np.int64)
    for pair, count in enumerate(counts.tolist()):
        grids = []
        for recording, begin in zip(recordings[:, pair].tolist(), begins[:, pair].tolist(), strict=True):
            offset, length = int(source.offsets[name][recording]), int(source.lengths[name][recording])
            grid = source.samples[name][offset : offset + length]
            grids.append((grid[max(0, begin - most) : begin][::-1], grid[begin + count : begin + count + most]))
        for side, (first, second) in enumerate(zip(*grids, strict=True)):
            length = min(len(first), len(second))
            same = (first[:length] == second[:length]) | (
                (first[:length] != first[:length]) & (second[:length] != second[:length])
            )
            around[side, pair] = np.append(same.all(axis=tuple(range(1, same.ndim))), False).argmin()
    return around[0], around[1]


def _touch(
    plan: Windows, source: CutWindows, rows: Rows, begin: Rows, count: Rows, rate_hz: float
) -> npt.NDArray[np.bool_]:
    """Return which windows (N,) overlap a section of their recording that a window in `rows` of their split shares."""
    touches = np.zeros(len(plan), dtype=bool)
    begin_ns, end_ns = (np.rint(places * (SECOND_NS / rate_hz)).astype(np.int64) for places in (begin, begin + count))
    starts_ns = np.rint(source.start_s[plan.rows] * SECOND_NS).astype(np.int64)
    window_s = max(modality.duration_s for modality in plan.spec.modalities)
    for split, recording in set(zip(plan.splits[rows].tolist(), plan.groups[rows].tolist(), strict=True)):
        here = np.flatnonzero((plan.splits == split) & (plan.groups == recording))
        pairs = np.flatnonzero((plan.splits[rows] == split) & (plan.groups[rows] == recording))
        sections = [Interval(start_ns=int(begin_ns[pair]), end_ns=int(end_ns[pair]), value="") for pair in pairs]
        touches[here] = window_labels.covered_ns(sections, starts_ns[here], round(window_s * SECOND_NS)) > _TOUCH_NS
    return touches


def cut(recording: GridRecording, grids: Grids, modalities: Sequence[ModalitySpec], recipe: ImportRecipe) -> Cut:
    """Plan the windows of a recording. Raise DatasetError if labels overlap or are unknown, or a group is missing."""
    length_ns = round(recipe.windows.length_s * SECOND_NS)
    starts_s, answers, left_out = _place_windows(recording, grids, modalities, recipe)
    starts_ns = _times_ns(recording, starts_s)
    names = dict.fromkeys(name for name in (*recipe.windows.metadata, recipe.split.column) if name)
    facts = {name: _fact(recording, name, starts_ns, length_ns) for name in names}
    if groups := recipe.split.groups:
        facts[GROUP] = _join_facts(recording, groups, starts_ns, length_ns)
        missing = np.flatnonzero(_join_facts(recording, groups, starts_ns, 2) == "")
        if len(missing):
            when = recording.time_text(int(starts_ns[missing[0]]), "milliseconds")
            raise DatasetError(
                f"{recording.name}: expected a value of {recipe.split.group_text}, the group, for every window, got"
                f" none at {when} ({len(missing)} such); fill it in, or choose another 'split.group'"
            )
    samples, present = grids.map_arrays()
    arrays = samples | present  # of cameras which frames there are
    has_value = {item.name: _has_value(recording, arrays[item.name], item, starts_s) for item in modalities}
    reasons = {"without any value": ~np.any(list(has_value.values()), axis=0)}
    if recipe.windows.cover == "all":
        reasons |= {f"without a value of {name}": ~there for name, there in has_value.items()}
    if groups:
        reasons[f"with more than one {' and '.join(groups)}"] = facts[GROUP] == ""
    if recipe.labels.unlabelled == "drop":
        reasons |= _find_unlabelled(recording, recipe.labels, answers, starts_ns, length_ns)
    keep = np.ones(len(starts_s), dtype=bool)
    for reason, mask in reasons.items():
        left_out[reason] += int((keep & mask).sum())
        keep &= ~mask
    facts = {name: values[keep] for name, values in facts.items()}
    return Cut(recording=recording, starts_s=starts_s[keep], answers=answers[keep], facts=facts, left_out=left_out)


def _times_ns(recording: GridRecording, starts_s: npt.NDArray[np.float64]) -> Times:
    return recording.origin_ns + np.rint(starts_s * SECOND_NS).astype(np.int64)


def _place_windows(
    recording: GridRecording, grids: Grids, modalities: Sequence[ModalitySpec], recipe: ImportRecipe
) -> tuple[npt.NDArray[np.float64], window_labels.Answers, Counter[str]]:
    """Return starts (W,) in seconds, labels (W,), and how many windows have no place, by reason."""
    rule, labels = recipe.windows, recipe.labels
    lengths = [recording.lengths[modality.name] for modality in modalities]
    if rule.at == "intervals":
        intervals = window_labels.labelled_intervals(recording, labels)
        starts_s, answers = _centre_windows(intervals, lengths, modalities, recording.origin_ns, rule.length_s)
        answers = window_labels.as_numbers(answers) if labels.task == "regression" else answers
        return starts_s, answers, Counter({"beyond the recording": len(intervals) - len(starts_s)})
    starts_s = np.array(window_starts_s(lengths, modalities, hop_s=rule.hop_s), dtype=np.float64)
    starts_ns, length_ns = _times_ns(recording, starts_s), round(rule.length_s * SECOND_NS)
    answers = window_labels.window_answers(recording, grids, labels, starts_ns, length_ns)
    if rule.cover == "any":
        return starts_s, answers, Counter()
    spans = [(modality, recording.spans[modality.name]) for modality in modalities if modality.name in recording.spans]
    own = [(modality, sample_count(last_ns - first_ns, modality.rate_hz)) for modality, (first_ns, last_ns) in spans]
    most = max((len(window_starts_s([count], [modality], hop_s=rule.hop_s)) for modality, count in own), default=0)
    return starts_s, answers, Counter({"outside the time that all sensors share": max(0, most - len(starts_s))})


def _has_value(
    recording: GridRecording, grid: AnyArray, modality: ModalitySpec, starts_s: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    begin, length = recording.first[modality.name], recording.lengths[modality.name]
    first = first_sample(starts_s, modality.rate_hz)
    before, after = sums_before(
        grid[begin : begin + length],
        np.stack([first, first + modality.samples]),
        lambda block: block == 1 if block.ndim == 1 else (~np.isnan(block)).any(axis=1),
    )
    return np.asarray(after > before)


def _find_unlabelled(
    recording: GridRecording, rule: LabelRule, answers: window_labels.Answers, starts_ns: Times, length_ns: int
) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which windows (W,) have no label, by reason."""
    without = np.array([answer is None for answer in answers], dtype=bool)
    if rule.task not in ("classification", "normal"):
        return {"without a label": without}
    covered = window_labels.covered_ns(window_labels.labelled_intervals(recording, rule), starts_ns, length_ns)
    is_covered = covered >= rule.purity * length_ns - _TOUCH_NS
    across = f"across a change of label (less than {100 * rule.purity:g} % one label: 'purity')"
    return {"without a label": without & ~is_covered, across: without & is_covered}


def _centre_windows(
    intervals: Sequence[Interval],
    lengths: Sequence[int],
    modalities: Sequence[ModalitySpec],
    origin_ns: int,
    length_s: float,
) -> tuple[npt.NDArray[np.float64], window_labels.Answers]:
    """Return starts (W,) in seconds and labels (W,) of a window in the middle of each interval, if it fits."""
    end_s = min(length / modality.rate_hz for length, modality in zip(lengths, modalities, strict=True))
    slowest_hz = min(modality.rate_hz for modality in modalities)
    latest_s = latest_start_s(lengths, modalities)
    starts, labels = [], []
    for interval in intervals:
        begin_s, stop_s = (interval.start_ns - origin_ns) / SECOND_NS, (interval.end_ns - origin_ns) / SECOND_NS
        if stop_s <= 0 or begin_s >= end_s:
            raise DatasetError(
                f"{interval.place}: expected an interval inside the recording, where all sensors last {end_s:.4g} s,"
                f" got {begin_s:g} to {stop_s:g} s from its start; correct the line, or 'time_unit'; where a sensor"
                " stopped, cover = 'any'"
            )
        middle_s = (begin_s + stop_s) / 2
        # On a sample of the slowest sensor, so that all sensors begin together.
        best_s = round((middle_s - length_s / 2) * slowest_hz) / slowest_hz
        start_s = min(max(best_s, 0.0), np.floor(latest_s * slowest_hz + _HARDLY) / slowest_hz)
        if latest_s >= 0 and start_s <= middle_s <= start_s + length_s:
            starts.append(start_s)
            labels.append(interval.value)
    return np.array(starts, dtype=np.float64), np.array(labels, dtype=object)


def _join_facts(
    recording: GridRecording, names: Sequence[str], starts_ns: Times, length_ns: int
) -> npt.NDArray[np.object_]:
    first, *others = (_fact(recording, name, starts_ns, length_ns) for name in names)
    for values in others:
        first = np.where((first == "") | (values == ""), "", first + "/" + values)
    return first


def _fact(recording: GridRecording, name: str, starts_ns: Times, length_ns: int) -> npt.NDArray[np.object_]:
    if name in recording.parts:
        return np.full(len(starts_ns), recording.parts[name], dtype=object)
    runs = [run for run in recording.runs.get(name, ()) if run.value]
    return window_labels.majority(runs, starts_ns, length_ns, purity=_WHOLE)
