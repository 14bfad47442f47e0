"""The document of `mmkd-adapt --json`: which ways were tried, what they gain and cost, and which one was written.

Fractions run from 0 to 1, gains and losses are percentage points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from mmkd_report.schema.reading import typed

FORMAT_VERSION = 1

EstimateKind = Literal["labels", "agreement", "weighted"]
"""How close probabilities are to the labels of new windows; to a teacher's; or to the labels of old windows, each of
which counts as much as it looks like a new one. Closeness is 1 less half the squared distance of the two: 1 where they
are the same, 0 where both are sure of different classes. Documents of earlier releases count equal answers."""


class DomainFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Which windows stood for a domain.

    Attributes:
        sha256: of the dataset; None of the windows that the student carries.
        learn: how many taught.
        judge: how many judged.
    """

    name: str
    sha256: str | None
    learn: int
    judge: int


class WayJudgement(msgspec.Struct, frozen=True, kw_only=True):
    """One way to adapt, judged beside the student as it is.

    Attributes:
        estimate: of the new domain's judging windows, as `EstimateKind` says.
        gain_points: estimate over that of the student as it is.
        standard_error_points: of the gain, groups or blocks of neighbouring windows left out in turn.
        old_score: the student's metric on the old domain's judging windows.
        forgotten_points: what the old domain loses.
        forgotten_error_points: standard error of that; None in documents of earlier releases.
        vanished: classes that are hardly ever answered any more.
        refusals: why it may not be written, a sentence each; empty where it may.
        shares: of each class among its answers to new windows that judge; empty in documents of earlier releases.
        share: of the way from the student as it is to what was learnt, where all of it forgets too much.
    """

    way: str
    estimate: float
    gain_points: float
    standard_error_points: float
    old_score: float
    forgotten_points: float
    forgotten_error_points: float | None = None
    vanished: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    share: float = 1.0
    seconds: float

    @property
    def name(self) -> str:
        """Gives the way, and how much of it where not all."""
        return self.way if self.share == 1.0 else f"{self.way}, {self.share:.0%} of the way"


class AdaptationDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What `mmkd-adapt` did.

    Attributes:
        student_sha256: of the student as it was.
        estimated_by: what an estimate is.
        estimate: of the student as it is.
        old_score: of the student as it is, in `metric`.
        chosen: the way that was, or with `--dry-run` would be, written; None where none may.
        written: the file; None where none was written.
        labels: how many labels were seen.
        classes: of the student, as `shares` counts them.
        shares: of each class among the answers of the student as it is to new windows that judge.
        right_shares: the same of what is taken for right there; empty where nobody says.
    """

    format_version: int = FORMAT_VERSION
    student_sha256: str
    teacher_sha256: str | None
    modality: str
    metric: str
    new: DomainFacts
    old: DomainFacts
    estimated_by: EstimateKind
    estimate: float
    old_score: float
    max_forget_points: float
    ways: tuple[WayJudgement, ...]
    chosen: str | None
    written: str | None
    labels: int = 0
    classes: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    right_shares: tuple[float, ...] = ()

    @property
    def chosen_way(self) -> WayJudgement | None:
        """Gives what is said of the way that was chosen; None where none may be written."""
        return next((one for one in self.ways if one.way == self.chosen), None)


def read_adaptation(document: Mapping[str, Any]) -> AdaptationDocument:
    """The typed form of a document of `mmkd-adapt --json`; raises DocumentError where it breaks its contract."""
    advice = "make it again with mmkd-adapt"
    return typed(document, AdaptationDocument, name="adaptation", version=FORMAT_VERSION, advice=advice)
