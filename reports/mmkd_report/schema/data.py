"""The document of `mmkd-data report --json`: contents of a dataset, and findings.

Fractions run from 0 to 1, values are in the unit of their channel, windows are counted from 0 inside their split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from mmkd_report.schema.reading import typed

FORMAT_VERSION = 1

FindingKind = Literal[
    "rule",
    "copies",
    "leak",
    "labels",
    "unit",
    "gaps",
    "left out",
    "dead channel",
    "stuck channel",
    "clipped channel",
    "glitch",
    "balance",
    "drift",
    "origin",
    "unused file",
]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is or may be wrong with a dataset.

    Attributes:
        level: an `error` makes the check fail, a `problem` makes scores or students wrong, a `note` is worth knowing.
        sentence: the evidence, with its figure.
        advice: how to fix it.
    """

    kind: FindingKind
    level: Literal["error", "problem", "note"]
    sentence: str
    advice: str

    @property
    def text(self) -> str:
        """Evidence and fix in one line."""
        return f"{self.sentence}; {self.advice}"


class SplitFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One split; `largest_group` is a fraction of its windows, None without groups."""

    split: str
    windows: int
    unlabelled: int
    groups: int
    largest_group: float | None
    classes: dict[str, int]


class ChannelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One channel over all windows.

    Attributes:
        missing: Fraction of the samples, by split.
        flat: Fraction of the windows with one value throughout.
        at_limit: Fraction of the samples that are its lowest or highest value three times in a row or more.
        is_continuous: Whether most windows have many values: only then are `flat` and `at_limit` judged.
    """

    modality: str
    channel: str
    unit: str
    rate_hz: float
    samples: int
    low: float | None
    high: float | None
    mean: float | None
    std: float | None
    missing: dict[str, float]
    flat: float
    at_limit: float
    is_continuous: bool


class ExampleWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A window to look at: one sample in `step` of each channel, None if missing."""

    modality: str
    label: str
    split: str
    window: int
    step: int
    duration_s: float
    missing: float
    channels: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


class ProbeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Balanced accuracy of extra-trees on window statistics, on windows that they were not fitted on.

    Attributes:
        asked: `class`, `split` or a key of the metadata.
        modality: The sensor they see; None for all.
        low: Lower end of the 99 % interval, by resampling whole groups.
        guessing: Chance: one over the number of answers.
        windows: Number of windows that judged.
        is_better: Whether the whole interval is above chance.
    """

    asked: str
    modality: str | None
    score: float
    low: float
    high: float
    guessing: float
    windows: int
    is_better: bool


class DriftFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A channel over the campaign, without the part that the classes explain.

    Attributes:
        levels: Mean of each tenth of the windows in order of time.
        shift: Last fifth minus first, in standard deviations of a window's level.
        is_clear: Whether the shift is above 1 and beyond four standard errors.
    """

    modality: str
    channel: str
    levels: tuple[float, ...]
    shift: float
    is_clear: bool


class LabelSuspect(msgspec.Struct, frozen=True, kw_only=True):
    """A window whose label is contradicted by a probe that never saw its group."""

    split: str
    window: int
    group: str
    label: str
    likely: str
    likely_probability: float
    label_probability: float


class WindowToLabel(msgspec.Struct, frozen=True, kw_only=True):
    """An unlabelled window that is worth a label; `start` and `end` are ISO 8601, UTC."""

    window: int
    group: str
    start: str | None
    end: str | None
    likely: str
    probability: float


class DataReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document.

    Attributes:
        looked_at: Windows that probes and comparisons used, evenly spaced.
        campaign: First and last start of a window; None without times.
        not_judged: What could not be judged, and why, a sentence each.
    """

    format_version: int = FORMAT_VERSION
    name: str
    sha256: str
    kind: str
    labels: tuple[str, ...]
    windows: int
    looked_at: int
    groups: int
    campaign: str | None
    findings: tuple[Finding, ...]
    not_judged: tuple[str, ...]
    splits: tuple[SplitFacts, ...]
    channels: tuple[ChannelFacts, ...]
    examples: tuple[ExampleWindow, ...]
    probes: tuple[ProbeFacts, ...]
    drift: tuple[DriftFacts, ...]
    label_suspects: tuple[LabelSuspect, ...]
    to_label: tuple[WindowToLabel, ...]


def read_data_report(document: Mapping[str, Any]) -> DataReport:
    """Return the typed form of a document of `mmkd-data report --json`; raise DocumentError as `typed`."""
    advice = "make it again with mmkd-data report"
    return typed(document, DataReport, name="data report", version=FORMAT_VERSION, advice=advice)
