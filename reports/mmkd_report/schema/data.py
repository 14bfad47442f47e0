"""The document of `mmkd-data report --json`: what is in a dataset, and what is to be doubted, before anybody trains.

Shares run from 0 to 1, values are in the unit of their channel, windows are counted from 0 inside their split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from mmkd_report.schema.reading import typed

FORMAT_VERSION = 1

SuspicionKind = Literal[
    "copies",
    "leak",
    "labels",
    "unit",
    "gaps",
    "left out",
    "dead channel",
    "stuck channel",
    "clipped channel",
    "balance",
    "drift",
    "origin",
]


class Suspicion(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that may be wrong.

    Attributes:
        is_grave: whether scores or students are wrong where it is true; else it is worth knowing.
        sentence: what was seen, with its figure.
        advice: what to do.
    """

    kind: SuspicionKind
    is_grave: bool
    sentence: str
    advice: str


class SplitFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One split; `classes` is empty of a regression, `largest_group` the share of its windows, None without groups."""

    split: str
    windows: int
    unlabelled: int
    groups: int
    largest_group: float | None
    classes: dict[str, int]


class ChannelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One channel over all windows.

    Attributes:
        missing: by split, share of the samples.
        flat: share of the windows in which it has one value throughout.
        at_limit: share of the samples that are its lowest or highest value three times in a row and more.
        is_continuous: whether most windows have many different values: only then flat and limit are judged.
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
    """A window to look at: one sample in `step` of each channel, None where missing."""

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
    """What extra-trees on window statistics tell of windows that they were not fitted on.

    Attributes:
        asked: `class`, `split`, `group` or the name of metadata.
        modality: the one they see; None sees all.
        score: balanced accuracy.
        low: of the 99 % interval, by resampling whole groups.
        guessing: balanced accuracy of a guess, one over the number of answers.
        windows: how many were asked.
        is_better: whether the whole interval is above `guessing`.
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
    """A channel over the campaign.

    Attributes:
        levels: mean of ten parts of equal many windows in order of time, of what the classes do not explain.
        shift: last fifth minus first, in standard deviations of a window's level.
        is_clear: whether that is above 1 and beyond four standard errors.
    """

    modality: str
    channel: str
    levels: tuple[float, ...]
    shift: float
    is_clear: bool


class LabelSuspect(msgspec.Struct, frozen=True, kw_only=True):
    """A window whose label a probe contradicts that never saw its group."""

    split: str
    window: int
    group: str
    label: str
    likely: str
    likely_probability: float
    label_probability: float


class WindowToLabel(msgspec.Struct, frozen=True, kw_only=True):
    """An unlabelled window that is worth a label; `start` and `end` are ISO 8601, UTC, None where nobody knows."""

    window: int
    group: str
    start: str | None
    end: str | None
    likely: str
    probability: float


class DataReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the page shows.

    Attributes:
        looked_at: windows that probes and comparisons saw, evenly chosen, where there are many.
        campaign: first and last start of a window; None without times.
        not_judged: what could not be judged, and why, a sentence each.
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
    suspicions: tuple[Suspicion, ...]
    not_judged: tuple[str, ...]
    splits: tuple[SplitFacts, ...]
    channels: tuple[ChannelFacts, ...]
    examples: tuple[ExampleWindow, ...]
    probes: tuple[ProbeFacts, ...]
    drift: tuple[DriftFacts, ...]
    label_suspects: tuple[LabelSuspect, ...]
    to_label: tuple[WindowToLabel, ...]


def read_data_report(document: Mapping[str, Any]) -> DataReport:
    """The typed form of a document of `mmkd-data report --json`.

    Raises:
        DocumentError: A format version that this release does not know, or a missing or mistyped value.
    """
    advice = "make it again with mmkd-data report"
    return typed(document, DataReport, name="data report", version=FORMAT_VERSION, advice=advice)
