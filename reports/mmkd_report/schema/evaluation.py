"""The documents of `mmkd-evaluate --json` without a suite: of a checkpoint, of a bundle, and of other kinds of tasks.

Fractions run from 0 to 1, gains of fractions are percentage points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mmkd_report.errors import DocumentError
from mmkd_report.schema.confidence import ConfidenceFacts, Reliability
from mmkd_report.schema.figures import OF_CLASSES, ClassScores, Guessing, Measure, Split
from mmkd_report.schema.reading import typed

FORMAT_VERSION = 1


class WindowGain(msgspec.Struct, frozen=True, kw_only=True):
    """Gain of one model over another on the same windows, in the metric's `gain_unit`.

    Attributes:
        low: lower end of the 95 % interval; None with too few groups, or blocks without groups.
    """

    points: float
    low: float | None = None
    high: float | None = None


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """Scores under one condition.

    Attributes:
        against: scores of the other model.
        gain: of the chosen metric.
        guessing: in the chosen metric.
    """

    scores: ClassScores
    against: ClassScores | None = None
    gain: WindowGain | None = None
    guessing: Guessing | None = None


class SubsetJudgement(Judgement, frozen=True, kw_only=True):
    """Scores with only these modalities of a teacher."""

    modalities: tuple[str, ...]


class ShareJudgement(Judgement, frozen=True, kw_only=True):
    """Scores with this fraction of the samples of every window missing."""

    share: float


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


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was judged.

    Attributes:
        dataset_sha256: of its training dataset.
        span_dropout: fraction of its training windows that lost a span.
        channel_dropout: fraction of its training channels that were hidden.
        modality_dropout: fraction of its training windows that lost a modality; 0 for a student.
        seen: None if it is of another dataset, or unknown.
    """

    path: str
    sha256: str
    kind: str
    modalities: tuple[str, ...]
    parameters: int
    dataset_sha256: str
    distilled: bool
    span_dropout: float
    channel_dropout: float
    modality_dropout: float = 0.0
    seen: SeenWindows | None = None


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


class EvaluationDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A model judged on classes, alone or compared with another.

    Attributes:
        metric: of the gains.
        seed: of missing samples and intervals.
        complete: with nothing missing.
        subsets: of a teacher's modalities, the largest first.
        samples: with each sample missing with a probability.
        bursts: with one span of every window missing.
        cautions: limits of the scores, a sentence each.
    """

    format_version: int = FORMAT_VERSION
    model: ModelFacts
    against: ModelFacts | None = None
    data: DataFacts
    metric: str
    seed: int
    complete: Judgement
    subsets: tuple[SubsetJudgement, ...] = ()
    samples: tuple[ShareJudgement, ...] = ()
    bursts: tuple[ShareJudgement, ...] = ()
    cautions: tuple[str, ...] = ()

    @property
    def has_failures(self) -> bool:
        """Whether anything was hidden from the model."""
        return bool(self.subsets or self.samples or self.bursts)

    @property
    def measure(self) -> Measure:
        """The figure of gains and chance."""
        return next(one for one in OF_CLASSES if one.name == self.metric)


class ArtifactEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact of a bundle; `guessing` is in balanced accuracy."""

    file: str
    backend: str
    scores: ClassScores
    reliability: Reliability
    confidence: ConfidenceFacts | None
    guessing: Guessing


class BundleEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle judged on classes, artifact by artifact, in the bundle's order."""

    format_version: int = FORMAT_VERSION
    bundle: str
    sha256: str
    model_id: str
    data: DataFacts
    artifacts: tuple[ArtifactEvaluation, ...]
    cautions: tuple[str, ...] = ()


class MeasureGain(msgspec.Struct, frozen=True, kw_only=True):
    """Gain of the first model in one measure; without an interval if groups are few."""

    gain: float
    low: float | None
    high: float | None
    unit: str


class KindEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One or two models judged on several labels or on numbers: by model path, gains by measure."""

    data: DataFacts
    seen: dict[str, SeenWindows | None]
    cautions: tuple[str, ...]
    kind: str
    scores: dict[str, Any]
    guessing: dict[str, dict[str, Guessing]]
    gains: dict[str, MeasureGain] | msgspec.UnsetType = msgspec.UNSET


def read_evaluation(document: Mapping[str, Any]) -> EvaluationDocument:
    """Return the typed form of a document of `mmkd-evaluate --json` on classes; raise DocumentError as `typed`."""
    advice = "make it again with mmkd-evaluate"
    found = typed(document, EvaluationDocument, name="evaluation", version=FORMAT_VERSION, advice=advice)
    if found.metric not in ClassScores.__struct_fields__:
        known = ", ".join(ClassScores.__struct_fields__)
        raise DocumentError(f"evaluation document: metric: expected one of {known}, got {found.metric!r}; correct it")
    return found
