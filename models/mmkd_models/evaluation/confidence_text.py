"""Confidence in words and rows, for the terminal and the model card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mmkd_report.schema.confidence import ConfidenceFacts, LabelSetCoverage

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = (
    "error level",
    "true label in the set",
    "95 % interval",
    "labels in a set",
    "sets of one label",
    "right of these",
)

SAME_GROUPS = (
    "calibration and judging windows are of the same people, machines or sessions, and the intervals take windows as "
    "independent: new ones may be covered less; mmkd-evaluate BUNDLE DATA measures it on the test split"
)


def coverage_cells(coverage: LabelSetCoverage) -> tuple[str, ...]:
    """Return one row under `HEADINGS`."""
    single = coverage.single_accuracy
    return (
        f"{coverage.error_level:g}",
        f"{coverage.coverage:.1%}",
        f"{coverage.low:.1%} to {coverage.high:.1%}",
        f"{coverage.mean_set_size:.2f}",
        f"{coverage.single_share:.1%}",
        "-" if single is None else f"{single:.1%}",
    )


def coverage_table(coverages: Sequence[LabelSetCoverage]) -> Table:
    """Return the rows as a table for a terminal."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for coverage in coverages:
        table.add_row(*coverage_cells(coverage))
    return table


def reliability_text(facts: ConfidenceFacts) -> str:
    """Describe the effect of the temperature."""
    before, after = facts.before, facts.after
    if facts.temperature == 1.0:
        return (
            f"temperature 1.00 (none was fitted, or it did not help the judging windows); on {facts.windows} windows "
            f"the calibration error is {after.calibration_error:.3f}, the log loss {after.log_loss:.3f}"
        )
    return (
        f"temperature {facts.temperature:.2f} from {facts.calibrated_by} windows; on {facts.windows} others the "
        f"calibration error is {before.calibration_error:.3f} before and {after.calibration_error:.3f} after, the log "
        f"loss {before.log_loss:.3f} and {after.log_loss:.3f}"
    )


def groups_text(coverages: Sequence[LabelSetCoverage]) -> Iterator[str]:
    """Yield, for each error level, the group with the lowest coverage."""
    for coverage in coverages:
        if len(coverage.by_group) > 1:
            worst = min(coverage.by_group, key=lambda group: coverage.by_group[group])
            yield (
                f"error level {coverage.error_level:g}: of {len(coverage.by_group)} groups, group {worst} is covered "
                f"least, {coverage.by_group[worst]:.1%}"
            )
