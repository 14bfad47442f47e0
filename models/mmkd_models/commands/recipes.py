"""Results of `mmkd-data import recipe.toml`, and the draft of `mmkd-data recipe`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from mmkd_edge.cli.run import require_modules
from mmkd_edge.cli.show import say
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import task_text
from mmkd_models.data.spec import SPLIT_NAMES
from mmkd_models.train_config import progress_lines, show_fraction

if TYPE_CHECKING:
    from mmkd_models.data.importing.from_recipe import RecipeReport

_MEGABYTE = 1e6


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
    return [*clock_lines(report), *_offset_lines(report), *window_lines(report)]


def draft(folder: Path, beside: Path) -> str:
    """Return a recipe's text, with patterns relative to `beside`."""
    require_modules(("polars",), by="mmkd-data recipe", extra="import")
    from mmkd_models.data.importing.draft import draft_recipe

    inside = folder.resolve()
    if not inside.is_relative_to(beside.resolve()):
        raise UsageError(
            f"{beside}: expected the folder of the logs or one above it, got another; write the recipe there"
        )
    return draft_recipe(folder, prefix=inside.relative_to(beside.resolve()).as_posix())


def clock_lines(report: RecipeReport) -> list[str]:
    """Describe each sensor: files, rate, jitter, drift, gaps and the worst recording."""
    lines = []
    for sensor in report.sensors:
        clocks = [clock for clock in report.clocks if clock.sensor == sensor.name]
        text = f"{sensor.name}: {report.files[sensor.name]} files, {' '.join(sensor.channels)}, {sensor.rate_hz:g} Hz"
        if clocks:
            jitter = max(clocks, key=lambda clock: clock.jitter_p99_ms)
            drift = max(clocks, key=lambda clock: abs(clock.drift_ppm))
            gap = max(clocks, key=lambda clock: clock.longest_gap_s)
            text += (
                f"; jitter p99 up to {jitter.jitter_p99_ms:.2f} ms ({jitter.recording}), drift up to"
                f" {drift.drift_ppm:.0f} ppm ({drift.recording}), gaps {sum(clock.gaps for clock in clocks)}"
            )
            text += f", the longest {gap.longest_gap_s:.3g} s ({gap.recording})" if gap.gaps else ""
            repeated = max(clocks, key=lambda clock: clock.repeated)
            count = sum(clock.repeated for clock in clocks)
            text += f", repeated frames {count} (most in {repeated.recording})" if count else ""
        lines.append(text)
    return lines


def _offset_lines(report: RecipeReport) -> list[str]:
    lines = []
    for sensor in report.sensors:
        proposals = [proposal for proposal in report.proposals if proposal.sensor == sensor.name]
        if not proposals:
            continue
        offsets = [proposal.offset_s for proposal in proposals]
        least = min(proposals, key=lambda proposal: proposal.agreement - proposal.next_best)
        lines.append(
            f"{sensor.name}: compared with {proposals[0].reference}, {len(proposals)} recordings suggest offset_s ="
            f" {median(offsets):.2f} ({min(offsets):.2f} to {max(offsets):.2f}; least certain in {least.recording}:"
            f" {least.agreement:.2f}, the next best {least.next_best:.2f}); nothing was moved: write it into the"
            " recipe if it is right"
        )
    return lines


def window_lines(report: RecipeReport) -> list[str]:
    """Describe the windows of each class and split, and those left out."""
    built = report.built
    spec, task = built.dataset.spec, built.dataset.spec.task
    counts = ", ".join(f"{split} {spec.splits[split]}" for split in SPLIT_NAMES)
    lines = [f"{spec.name}: {sum(spec.splits.values())} windows of {built.recordings} recordings ({counts})"]
    for name in task.labels if task.kind != "regression" else ():
        lines.append(f"  {name}: " + ", ".join(f"{split} {built.classes[split][name]}" for split in SPLIT_NAMES))
    for split, target in built.targets.items():
        text = f"{target[0]:.4g} to {target[2]:.4g}, mean {target[1]:.4g}" if target else "no label"
        lines.append(f"  {task_text(task)}, {split}: {text}")
    lines += [f"left out: {count} windows {reason}" for reason, count in built.left_out.items()]
    fate = "its windows are left out (cover = 'all')" if built.cover == "all" else "its windows are NaN there"
    lines += [f"absent: {text}; {fate}" for text in built.absent]
    if not built.has_times:
        lines.append("no times: a source counts from its start; give 'start' or times since 1970 to have them")
    for split in SPLIT_NAMES[1:]:
        classes = built.classes[split]
        missing = [name for name, count in classes.items() if not count]
        is_unlabelled = not built.targets[split] if built.targets else len(missing) == len(classes)
        if is_unlabelled and task.kind != "multi_label":
            lines.append(f"{split} has no label; mmkd-adapt takes it, commands that need labels refuse it")
        elif missing:
            lines.append(
                f"warning: {split} has no window of {', '.join(missing)}; choose other groups or another 'seed'"
            )
    return lines
