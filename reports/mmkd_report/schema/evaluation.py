"""The documents of `mmkd-evaluate --json`: of a checkpoint, of a bundle, and of a task that is not one of classes.

Owns the reading and checking of the first, which has a page. Unknown keys are left alone, so that the documents may
grow. Fractions run from 0 to 1, gains of shares are percentage points.
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
    """What a model is better by than another on the same windows.

    Attributes:
        points: ours minus theirs, in the metric's `gain_unit`: percentage points of a share.
        low: lower end of the 95 % interval; None where there are too few groups, or blocks where there are no groups.
    """

    points: float
    low: float | None = None
    high: float | None = None


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """How the model does under one condition.

    Attributes:
        against: scores of the other one; None without one.
        gain: model minus other, of the chosen metric; None without another one.
        guessing: in the chosen metric.
    """

    scores: ClassScores
    against: ClassScores | None = None
    gain: WindowGain | None = None
    guessing: Guessing | None = None


class SubsetJudgement(Judgement, frozen=True, kw_only=True):
    """With these modalities of a teacher alone."""

    modalities: tuple[str, ...]


class ShareJudgement(Judgement, frozen=True, kw_only=True):
    """With this share of the samples of every window missing, 0 to 1."""

    share: float


class SeenWindows(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the windows that judge a model it knows.

    Attributes:
        chosen: how many chose its weights, as validation windows.
        fold: whose windows it was trained on; None for the dataset's own split, unset where hashes of what trained it
            tell: then `trained` may be more.
    """

    trained: int
    chosen: int
    fold: int | msgspec.UnsetType | None


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was judged.

    Attributes:
        dataset_sha256: of what it was trained on.
        span_dropout: share of its training windows that lost a span.
        channel_dropout: share of its training windows' channels that were hidden.
        modality_dropout: share of its training windows that lost a modality; 0 for a student.
        seen: what it knows of the windows that judge it; None where it is of another dataset or nobody knows.
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
    """What a model was judged on.

    Attributes:
        sha256: of the dataset's content.
        part: the split, or the fold whose test windows these are.
        windows: how many with a label.
        groups: people, machines or sessions that they come from; 0 where nobody says.
        split: how they were set apart from those that trained; None in early documents.
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
        """What is said of them in brackets: their groups, or that they have none."""
        if self.split is not None and self.split.by != "groups":
            return self.split.judged_on
        return f"{self.groups} group{'' if self.groups == 1 else 's'}"


class EvaluationDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One model judged on classes, beside another where there is one.

    Attributes:
        metric: that gains are of.
        seed: of which samples went missing, and of the intervals.
        complete: with everything there.
        subsets: of a teacher's modalities, the largest first.
        samples: while each sample is missing with a probability.
        bursts: while one span of every window is missing.
        cautions: what has to be said of the scores, a sentence each.
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
        """What gains and guessing are told in."""
        return next(one for one in OF_CLASSES if one.name == self.metric)


class ArtifactEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact of a bundle on the windows.

    Attributes:
        confidence: what its calibration is worth; None where it has none.
        guessing: in balanced accuracy.
    """

    file: str
    backend: str
    scores: ClassScores
    reliability: Reliability
    confidence: ConfidenceFacts | None
    guessing: Guessing


class BundleEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle judged on classes, artifact by artifact of all its students, in the bundle's order.

    A bundle does not say which fold trained it, so that a caution is due.
    """

    format_version: int = FORMAT_VERSION
    bundle: str
    sha256: str
    model_id: str
    data: DataFacts
    artifacts: tuple[ArtifactEvaluation, ...]
    cautions: tuple[str, ...] = ()


class MeasureGain(msgspec.Struct, frozen=True, kw_only=True):
    """What the first model is better by in one measure, in its `unit`; without an interval where groups are few."""

    gain: float
    low: float | None
    high: float | None
    unit: str


class KindEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One or two models judged on several labels or on numbers: everything by the path of the model, gains by measure.

    `scores` are every figure of the kind; `gains` are there where two models were compared.
    """

    data: DataFacts
    seen: dict[str, SeenWindows | None]
    cautions: tuple[str, ...]
    kind: str
    scores: dict[str, Any]
    guessing: dict[str, dict[str, Guessing]]
    gains: dict[str, MeasureGain] | msgspec.UnsetType = msgspec.UNSET


def read_evaluation(document: Mapping[str, Any]) -> EvaluationDocument:
    """The typed form of a document of `mmkd-evaluate --json` of a checkpoint, judged on classes.

    Raises:
        DocumentError: A format version that this release does not know, or a missing or mistyped value.
    """
    advice = "make it again with mmkd-evaluate"
    found = typed(document, EvaluationDocument, name="evaluation", version=FORMAT_VERSION, advice=advice)
    if found.metric not in ClassScores.__struct_fields__:
        known = ", ".join(ClassScores.__struct_fields__)
        raise DocumentError(f"evaluation document: metric: expected one of {known}, got {found.metric!r}; correct it")
    return found
