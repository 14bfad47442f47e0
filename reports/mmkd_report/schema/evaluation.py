"""Parts of the documents of `mmkd-evaluate`: gains, the windows that judge, and those that a model knows."""

from __future__ import annotations

import msgspec

from mmkd_report.schema.figures import Split


class WindowGain(msgspec.Struct, frozen=True, kw_only=True):
    """Gain of one model over another on the same windows, in the metric's `gain_unit`.

    Attributes:
        low: lower end of the 95 % interval; None with too few groups, or blocks without groups.
    """

    points: float
    low: float | None = None
    high: float | None = None


class SeenWindows(msgspec.Struct, frozen=True, kw_only=True):
    """Judging windows that a model knows.

    Attributes:
        chosen: how many chose its weights, as validation windows.
        fold: that it was trained on; None for the dataset's own split, unset if hashes recognised the windows: then
            `trained` may be too low.
    """

    trained: int
    chosen: int
    fold: int | msgspec.UnsetType | None


class DataFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of an evaluation.

    Attributes:
        part: the split, or the fold whose test windows these are.
        windows: labelled ones.
        groups: 0 if unknown.
        split: how they were separated from training.
    """

    name: str
    sha256: str
    part: str
    windows: int
    groups: int
    split: Split | None = None
    labels: tuple[str, ...]

    @property
    def apart(self) -> str:
        """Their groups, or that they have none."""
        if self.split is not None and self.split.by != "groups":
            return self.split.judged_on
        return f"{self.groups} group{'' if self.groups == 1 else 's'}"
