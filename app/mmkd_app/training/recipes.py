"""Results of `mmkd-data import recipe.toml`, and the draft of `mmkd-data recipe`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmkd_app.cli.progress import progress_lines, show_fraction
from mmkd_app.cli.show import say
from mmkd_documents.data import SplitFacts
from mmkd_edge.errors import UsageError
from mmkd_edge.machine import require_modules
from mmkd_edge.spec import task_text
from mmkd_models.data.checking.findings import count_splits
from mmkd_models.data.checking.related import list_first
from mmkd_models.data.dataset import make_windows
from mmkd_models.data.importing.clock import SECOND_NS
from mmkd_models.data.importing.patterns import with_parts
from mmkd_models.data.importing.window_labels import labelled_intervals
from mmkd_models.data.normal_running import has_judging_groups, normal_problem
from mmkd_models.data.windows import Windows

if TYPE_CHECKING:
    from mmkd_models.data.importing.clock import ClockFacts
    from mmkd_models.data.importing.from_recipe import RecipeReport
    from mmkd_models.data.importing.source import ImportedSensor

_MEGABYTE = 1e6
_MAX_NAMED = 3
_PATTERN = re.compile(r"[*?{}]")
_LIKE = 0.7  # similarity (difflib) from which a name may be a typo


def run_recipe(file: Path, out: Path | None, *, outside: Sequence[Path] = (), max_gb: float | None = None) -> list[str]:
    """Import by a recipe, or try it without `out`; return the lines to print."""
    for folder in outside:
        if not folder.is_dir():
            raise UsageError(f"--allow-outside {folder}: expected a folder, found none there; check the path")
    if max_gb is not None and not 0 < max_gb < float("inf"):
        raise UsageError(f"--max-gb {max_gb:g}: expected a number above 0; give the disk space in GB")
    most_bytes = None if max_gb is None else round(max_gb * 1e9)
    require_modules(("polars",), by="mmkd-data import of a recipe", extra="import")
    from mmkd_models.data.importing.from_recipe import import_recipe
    from mmkd_models.data.importing.recipe import read_recipe

    recipe = read_recipe(file)
    with progress_lines() as lines:
        show = show_fraction(lines, shows_end=False)

        def tell(done: int, total: int) -> None:
            show(f"reading {file}: {done / _MEGABYTE:.0f} of {total / _MEGABYTE:.0f} MB", done, total)

        report = import_recipe(recipe, file.parent, out, outside=outside, most_bytes=most_bytes, tell=tell, note=say)
    return [*clock_lines(report), *window_lines(report)]


def clock_lines(report: RecipeReport) -> list[str]:
    """Describe the clock and the losses of each sensor."""
    lines, lost = list[str](), list[str]()
    for sensor in report.sensors:
        clocks = [clock for clock in report.clocks if clock.sensor == sensor.name]
        text = f"{sensor.name}: {report.files[sensor.name]} files, {' '.join(sensor.columns)}, {sensor.rate_hz:g} Hz"
        if clocks:
            jitter = max(clocks, key=lambda clock: clock.jitter_p99_ms)
            drift = max(clocks, key=lambda clock: abs(clock.drift_ppm))
            gap = max(clocks, key=lambda clock: clock.longest_gap_s)
            text += (
                f"; jitter p99 up to {jitter.jitter_p99_ms:.2f} ms ({jitter.recording}), drift up to"
                f" {round(drift.drift_ppm)} ppm ({drift.recording}), gaps {sum(clock.gaps for clock in clocks)}"
            )
            text += f", the longest {gap.longest_gap_s:.3g} s ({gap.recording})" if gap.gaps else ""
            repeated = max(clocks, key=lambda clock: clock.repeated)
            count = sum(clock.repeated for clock in clocks)
            text += f", repeated frames {count} (most in {repeated.recording})" if count else ""
            if any(clock.missing for clock in clocks):
                lost.append(_missing_rows(sensor, clocks))
        lines.append(text)
        commas, count = report.decimal_commas.get(sensor.name, ()), report.files[sensor.name]
        if 0 < len(commas) < count:
            lost.append(
                f"decimal commas are read in {len(commas)} of {count} files of {sensor.name}: {list_first(commas)}"
            )
    return [*lines, *dict.fromkeys(lost)]  # once for the sensors of one file


def _missing_rows(sensor: ImportedSensor, clocks: Sequence[ClockFacts]) -> str:
    most = max(clocks, key=lambda clock: clock.missing / max(1, clock.missing + clock.samples))
    longest = max(clocks, key=lambda clock: clock.longest_gap_s)
    count, gaps = sum(clock.missing for clock in clocks), sum(clock.gaps for clock in clocks)
    fraction, source = most.missing / (most.missing + most.samples), sensor.source
    text = f"missing rows: {count:,} in {source.files} (up to {fraction:.1%}, in {most.recording})"
    if source.max_gap_s is not None and not gaps:
        return f"{text}; all are interpolated (max_gap_s = {source.max_gap_s:g})"
    longest_text = f"the longest gap has {longest.longest_gap_s:.3g} s, in {longest.recording}"
    if others := [clock.recording for clock in clocks if clock.longest_gap_s and clock is not longest]:
        longest_text += f"; others are in {list_first(others)}"
    if source.max_gap_s is not None:
        above = f"NaN in {gaps:,} {'gap' if gaps == 1 else 'gaps'} above max_gap_s = {source.max_gap_s:g}"
        cure = "leave the file out (exclude, below version = 1) if they are many"
        return f"warning: {text}; windows have {above} ({longest_text}); {cure}"
    limit_s = max(clock.short_gap_s for clock in clocks)
    if not limit_s:
        return f"warning: {text}; windows have NaN there ({longest_text}), as all are too long to interpolate"
    digits = 2 - math.floor(math.log10(limit_s))
    limit_s = math.ceil(limit_s * 10**digits - 1e-6) / 10**digits
    which = "them" if limit_s >= longest.longest_gap_s else f"those up to {limit_s:g} s"
    return (
        f"warning: {text}; windows have NaN there ({longest_text}); to interpolate {which}, set max_gap_s ="
        f" {limit_s:g} under [[source]], or leave the file out (exclude, below version = 1)"
    )


def window_lines(report: RecipeReport) -> list[str]:
    """Describe the windows of each class and split, and those left out."""
    spec, task = report.dataset.spec, report.dataset.spec.task
    windows = make_windows(spec, report.dataset.arrays)
    splits = list(count_splits(windows))
    counts = ", ".join(f"{facts.split} {facts.windows}" for facts in splits)
    lines = [
        f"{spec.name}: {len(windows)} windows of {len(report.recordings)} recordings ({counts})",
        *_label_counts(windows, splits),
        *(f"left out: {count} windows {reason}" for reason, count in (spec.left_out or {}).items()),
        *_missing_data(report),
        *_short_files(report),
        *_missing_labels(report),
    ]
    column, are_numbers = report.recipe.labels.column, all(name.replace(".", "").isdecimal() for name in task.labels)
    if task.kind == "classification" and column and are_numbers:
        new = ", ".join(f'"{name}" = "NAME"' for name in task.labels[:_MAX_NAMED])
        lines.append(f"labels are numbers; to name them, set rename = {{{new}}} under [labels]")
    if windows.times is None:
        lines.append("no times: a source counts from its start; give 'start' or times since 1970 to have them")
    if task.kind == "normal":
        lines += _judging_lines(windows)
    doubtful, warnings = doubtful_classes(report, windows)
    for facts in splits[1:]:
        missing = [name for name in task.labels if not facts.classes.get(name, 0) and name not in doubtful]
        if facts.unlabelled == facts.windows:
            lines.append(f"{facts.split} has no label; mmkd-adapt takes it, commands that need labels refuse it")
        elif missing and task.kind not in ("regression", "normal"):
            names = ", ".join(missing)
            lines.append(f"warning: {facts.split} has no window of {names}; choose other groups or another 'seed'")
    warnings += [
        f"the target {column!r} is also a channel of {sensor.name}, which a model can copy; leave it out of 'channels'"
        for sensor in report.sensors
        if task.kind == "regression" and column and column in sensor.columns.values()
    ]
    return [*lines, *(f"warning: {text}" for text in warnings)]


def _judging_lines(windows: Windows) -> Iterator[str]:
    """Yield whether normal running suffices to train on, and what its false alarms are measured on."""
    normal = windows.subset((windows.splits == 0) & (windows.labels == 0))
    if problem := normal_problem(normal):
        yield f"warning: mmkd-train will refuse it: {problem}"
    elif not has_judging_groups(normal):
        yield (
            "false alarms are judged on blocks of time of this recording: they say nothing of another machine or day;"
            " record several, and name them in 'split.group'"
        )


def _label_counts(windows: Windows, splits: Sequence[SplitFacts]) -> Iterator[str]:
    task = windows.spec.task
    if task.kind != "regression":
        for name in task.labels:
            yield f"  {name}: " + ", ".join(f"{facts.split} {facts.classes[name]}" for facts in splits)
        return
    for number, facts in enumerate(splits):
        known = windows.labels[windows.labelled & (windows.splits == number)]
        text = f"{known.min():.4g} to {known.max():.4g}, mean {known.mean():.4g}" if len(known) else "no label"
        yield f"  {task_text(task)}, {facts.split}: {text}"


def _missing_data(report: RecipeReport) -> Iterator[str]:
    """Yield warnings of files without a counterpart, sensors that share no time, and channels without a value."""
    cover, recordings = report.recipe.windows.cover, report.recordings
    absent: dict[tuple[str, str], list[str]] = {}
    for recording, sensor in product(recordings, report.sensors):
        if sensor.name in recording.absent:
            file = with_parts(sensor.source.files, recording.parts)
            absent.setdefault((file, recording.name), []).append(sensor.name)
    for (file, present), sensors in absent.items():
        fate = f"without {' and '.join(sensors)}, its windows are {'left out' if cover == 'all' else 'NaN there'}"
        yield f"warning: missing file: {file} ({present} is there); {fate} (cover = '{cover}')"
    apart = [recording.name for recording in recordings if cover == "all" and recording.shares_no_time]
    if apart:
        yield f"warning: no windows: the sensors of {list_first(apart)} share no time; correct their times"
    for channel in dict.fromkeys(channel for recording in recordings for channel in recording.empty):
        files = list_first([recording.name for recording in recordings if channel in recording.empty])
        cure = "it is missing (NaN) there, unless you leave the recordings out (exclude, below version = 1)"
        yield f"warning: no value: channel {channel} in {files}; {cure}"


def _short_files(report: RecipeReport) -> Iterator[str]:
    """Yield warnings of files that cost windows, as they begin later or end earlier than other sensors; worst first."""
    hop_ns, short = report.recipe.windows.hop_s * SECOND_NS, list[tuple[float, str]]()
    period_ns = {sensor.name: SECOND_NS / sensor.rate_hz for sensor in report.sensors}
    for recording in report.recordings if report.recipe.windows.cover == "all" else ():
        if recording.shares_no_time:  # which has a warning of its own
            continue
        firsts = {name: float(first) for name, (first, _) in recording.spans.items() if name in period_ns}
        lasts = {name: recording.spans[name][1] + period_ns[name] for name in firsts}
        earliest, latest = min(firsts, key=firsts.__getitem__), max(lasts, key=lasts.__getitem__)
        for name, verb, other, times, lost_ns in (
            *((name, "begins", earliest, firsts, firsts[name] - firsts[earliest]) for name in firsts),
            *((name, "ends", latest, lasts, lasts[latest] - lasts[name]) for name in lasts),
        ):
            if lost_ns >= hop_ns:
                own, its = (recording.time_text(round(times[key])) for key in (name, other))
                file = recording.files.get(name, recording.name)
                short.append((lost_ns, f"{file} {verb} at {own}, {other} at {its}"))
    short.sort(key=lambda pair: -pair[0])
    cure = "copy the file again, or set cover = 'any' under [windows] to keep the windows without it"
    yield from (f"warning: {text}; {cure}" for _, text in short[:_MAX_NAMED])
    if len(short) > _MAX_NAMED:
        yield f"{len(short) - _MAX_NAMED} more files are shorter than others of their recording"


def _missing_labels(report: RecipeReport) -> Iterator[str]:
    """Yield a warning if some recordings have no label."""
    rule = report.recipe.labels
    if rule.task == "regression" and rule.column:
        return
    without = [recording for recording in report.recordings if not labelled_intervals(recording, rule)]
    if 0 < len(without) < len(report.recordings):
        paths = dict.fromkeys(with_parts(rule.files, recording.parts) for recording in without)
        missing = [path for path in paths if path != rule.files and not _PATTERN.search(path)]
        missing = [path for path in missing if not (report.folder / path).exists()]
        files = f" (missing file: {list_first(missing)})" if missing else ""
        fate = "kept without one" if rule.unlabelled == "keep" else "left out (unlabelled = 'drop')"
        yield f"warning: no label: {list_first([recording.name for recording in without])}{files}; windows are {fate}"


def doubtful_classes(report: RecipeReport, windows: Windows) -> tuple[list[str], list[str]]:
    """Return classes that one group alone has or that look like a typo, and a warning for each."""
    names, warnings, doubtful = windows.spec.task.labels, list[str](), list[str]()
    if windows.spec.task.kind != "classification" or windows.episodes is None:
        return doubtful, warnings
    files = [sorted({*windows.episodes[windows.labels == number].tolist()}) for number in range(len(names))]
    for number, name in enumerate(names):
        place, count = report.recordings[files[number][0]].name if files[number] else "", len(files[number])
        for other, its_files in zip(names, files, strict=True):
            first, second = name.casefold(), other.casefold()
            is_like = name != other and SequenceMatcher(None, first, second).ratio() >= _LIKE
            is_part = first != second and (first in second or second in first)  # normal, abnormal
            is_numbered = re.sub(r"\d", "", name) == re.sub(r"\d", "", other)
            if count == 1 and len(its_files) > 1 and is_like and not is_part and not is_numbered:
                warnings.append(
                    f"{name!r}, in {place} alone, looks like {other!r}; if it is a typo, correct it, or set"
                    f' rename = {{"{name}" = "{other}"}} under [labels]'
                )
                doubtful.append(name)
                break
        else:
            groups = np.unique(windows.groups[windows.labels == number]).tolist()
            if windows.has_groups and len(groups) == 1:
                doubtful.append(name)
                warnings.append(
                    f"{name!r} is in group {groups[0]} alone ({place}{' and others' if count > 1 else ''}), so that"
                    " only one split can have it; record it in more groups, or leave 'split.group' out to split by"
                    " time: the same group is then in training and test, and scores do not hold for a new one"
                )
    return doubtful, warnings
