"""The document of `mmkd-adapt --json`: the methods that were tried, their gains and losses, and the one written.

Fractions run from 0 to 1, gains and losses are percentage points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from mmkd_report.schema.reading import typed

FORMAT_VERSION = 1

EstimateKind = Literal["labels", "agreement", "weighted"]
"""Closeness of the probabilities to the labels of new windows, to a teacher's, or to the labels of old windows that are
weighted by their likeness to new ones. Closeness is 1 minus half the squared distance of the two: 1 if they are equal,
0 if both are sure of different classes."""


class DomainFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The number of windows to train with and to judge with; `sha256` is None for carried windows."""

    name: str
    sha256: str | None
    learn: int
    judge: int


class MethodResult(msgspec.Struct, frozen=True, kw_only=True):
    """One method, compared with the unchanged student.

    Attributes:
        estimate: on the new domain, as `EstimateKind` says.
        standard_error_points: of the gain, by a jackknife over groups or blocks of neighbouring windows.
        old_score: the student's metric on the old domain.
        vanished: classes that are hardly answered any more.
        refusals: reasons against writing it.
        shares: fraction of each class among its answers to new windows.
        share: of the distance from the unchanged student to what was learnt, if all of it forgets too much.
    """

    method: str
    estimate: float
    gain_points: float
    standard_error_points: float
    old_score: float
    forgotten_points: float
    forgotten_error_points: float
    vanished: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    share: float = 1.0
    seconds: float

    @property
    def name(self) -> str:
        """The method, and how far it went if not all the way."""
        return self.method if self.share == 1.0 else f"{self.method}, {self.share:.0%} of the way"


class AdaptationDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `mmkd-adapt`.

    Attributes:
        estimate: of the unchanged student, as is `old_score`.
        chosen: the method that was, or with `--dry-run` would be, written; None if none passes.
        labels: the number that was used.
        shares: fraction of each class among the unchanged student's answers to new windows.
        right_shares: the same for the reference answers; empty without any.
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
    methods: tuple[MethodResult, ...]
    chosen: str | None
    written: str | None
    labels: int = 0
    classes: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    right_shares: tuple[float, ...] = ()

    @property
    def chosen_method(self) -> MethodResult | None:
        """The result of the chosen method."""
        return next((result for result in self.methods if result.method == self.chosen), None)


def read_adaptation(document: Mapping[str, Any]) -> AdaptationDocument:
    """Return the typed form of a document of `mmkd-adapt --json`; raise DocumentError if it breaks its contract."""
    advice = "make it again with mmkd-adapt"
    return typed(document, AdaptationDocument, name="adaptation", version=FORMAT_VERSION, advice=advice)
