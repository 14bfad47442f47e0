"""Parts of the documents of `mmkd-evaluate`."""

from __future__ import annotations

import msgspec

from mmkd_report.schema.figures import Split


class WindowGain(msgspec.Struct, frozen=True, kw_only=True):
    """Gain of one model over another on the same windows, in the metric's `gain_unit`."""

    points: float
    low: float | None = None  # 95 % interval; None with too few groups, or blocks without groups
    high: float | None = None


class SeenWindows(msgspec.Struct, frozen=True, kw_only=True):
    """Judging windows that trained or chose a model."""

    trained: int
    chosen: int  # validation windows that chose its weights
    fold: int | msgspec.UnsetType | None  # None: own split; unset: recognised by hashes, so `trained` may be low


class DataFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of an evaluation."""

    name: str
    sha256: str
    part: str  # the split, or the fold with these test windows
    windows: int  # labelled ones
    groups: int  # 0 if unknown
    split: Split | None = None  # how they were separated from training
    labels: tuple[str, ...]

    @property
    def apart(self) -> str:
        """Number of groups, or how windows without groups are split."""
        if self.split is not None and self.split.by != "groups":
            return self.split.judged_on
        return f"{self.groups} group{'' if self.groups == 1 else 's'}"
