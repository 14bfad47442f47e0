"""The document of `mmkd-data report --json`.

Fractions run from 0 to 1, values are in their channel's unit, windows count from 0 inside their split.
"""

from __future__ import annotations

from typing import Literal

import msgspec

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
    "balance",
    "origin",
    "unused file",
]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A problem, or possible problem, of a dataset."""

    kind: FindingKind
    level: Literal["error", "problem", "note"]  # fails the check; makes scores or students wrong; is worth knowing
    sentence: str  # the evidence, with its figure
    advice: str

    @property
    def text(self) -> str:
        """Evidence and fix."""
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
    """One channel over all windows."""

    modality: str
    channel: str
    unit: str
    rate_hz: float
    samples: int
    low: float | None
    high: float | None
    mean: float | None
    std: float | None
    missing: dict[str, float]  # fraction of the samples, by split
    flat: float  # fraction of the windows with a single value
    at_limit: float  # fraction of samples in runs of at least 3 at an extreme
    is_continuous: bool  # most windows have many values; otherwise `flat` and `at_limit` are not judged


class ExampleWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A window to show: every `step`-th sample per channel, None if missing."""

    modality: str
    label: str
    split: str
    window: int
    step: int
    duration_s: float
    missing: float
    channels: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


class LevelPicture(msgspec.Struct, frozen=True, kw_only=True):
    """A recording at another level beside the others: a window of each, and the RMS of every window, in a channel."""

    modality: str
    channel: str
    unit: str
    recording: str
    other: str  # a recording at the usual level
    duration_s: float  # of a window
    values: tuple[float | None, ...]  # of the recording's window with the median RMS; None if missing
    other_values: tuple[float | None, ...]
    rms: tuple[float, ...]  # of the recording's windows, in order
    others_low: float  # 5 % of the windows of all other recordings are below
    others_high: float  # 95 %


class ProbeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Balanced accuracy of extra-trees on window statistics, cross-fitted."""

    target: str  # `class`, `split` or a key of the metadata
    modality: str | None  # the sensor they see; None for all
    score: float
    low: float  # lower end of the 99 % interval, by resampling groups
    high: float
    chance: float  # one over the number of answers
    windows: int  # that judged
    is_better: bool  # whether the whole interval is above chance


class LabelSuspect(msgspec.Struct, frozen=True, kw_only=True):
    """A window whose label is contradicted by a probe that never saw its group."""

    split: str
    window: int
    group: str
    label: str
    likely: str
    likely_probability: float
    label_probability: float
    place: str = ""  # file and time, if they are known


class WindowToLabel(msgspec.Struct, frozen=True, kw_only=True):
    """An unlabelled window worth a label; `start` and `end` are ISO 8601, UTC."""

    window: int
    group: str
    start: str | None
    end: str | None
    likely: str
    probability: float


class DataReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    format_version: int = 1
    name: str
    sha256: str
    kind: str
    labels: tuple[str, ...]
    windows: int
    looked_at: int  # windows that probes and comparisons used, evenly spaced
    groups: int
    campaign: str | None  # first and last start of a window; None without times
    findings: tuple[Finding, ...]
    not_judged: tuple[str, ...]  # with the reason
    splits: tuple[SplitFacts, ...]
    channels: tuple[ChannelFacts, ...]
    examples: tuple[ExampleWindow, ...]
    levels: tuple[LevelPicture, ...] = ()
    probes: tuple[ProbeFacts, ...]
    label_suspects: tuple[LabelSuspect, ...]
    to_label: tuple[WindowToLabel, ...]
