"""The document of `mmkd-adapt --json`: fractions run from 0 to 1, gains and losses are percentage points."""

from __future__ import annotations

from typing import Literal

import msgspec

EstimateKind = Literal["labels", "agreement", "weighted"]
"""Closeness (1 minus half the squared distance) of the probabilities to the labels of new windows, to a teacher's, or
to the labels of old windows, weighted by their likeness to new ones."""


class DomainFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Windows to train and judge with; `sha256` is None for carried windows."""

    name: str
    sha256: str | None
    learn: int
    judge: int


class MethodResult(msgspec.Struct, frozen=True, kw_only=True):
    """A method, compared with the unchanged student."""

    method: str
    estimate: float  # on the new domain, see `EstimateKind`
    gain_points: float
    standard_error_points: float  # jackknife over groups, or blocks of neighbouring windows
    old_score: float  # the student's metric on the old domain
    forgotten_points: float
    forgotten_error_points: float
    vanished: tuple[str, ...] = ()  # classes that are hardly answered now
    refusals: tuple[str, ...] = ()  # reasons against writing it
    class_fractions: tuple[float, ...] = ()  # each class's fraction of its answers to new windows
    seconds: float


class AdaptationDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `mmkd-adapt`."""

    format_version: int = 1
    student_sha256: str
    teacher_sha256: str | None
    modality: str
    metric: str
    new: DomainFacts
    old: DomainFacts
    estimated_by: EstimateKind
    estimate: float  # unchanged student's, as is `old_score`
    old_score: float
    max_forget_points: float
    methods: tuple[MethodResult, ...]
    chosen: str | None  # written, or to be written without `--dry-run`; None if none passes
    written: str | None
    labels: int = 0
    classes: tuple[str, ...] = ()
    class_fractions: tuple[float, ...] = ()  # each class among the unchanged student's answers
    reference_fractions: tuple[float, ...] = ()  # empty without any

    @property
    def chosen_method(self) -> MethodResult | None:
        """The result of the chosen method."""
        return next((result for result in self.methods if result.method == self.chosen), None)
