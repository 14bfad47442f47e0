"""What a comparison is told and what it finds on one fold, as `fold.json` keeps it.

Owns the words of that file. Computes nothing.
"""

from __future__ import annotations

import msgspec

from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.labelled import Labelled
from mmkd_models.data.left_out import LeftOutDomains
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.evaluation.outcome import GroupConfusion, TestedNetwork
from mmkd_models.evaluation.rivals import QUICK_RIVALS, RivalName
from mmkd_models.metrics.classes import Scores
from mmkd_models.metrics.scores import AnyScores
from mmkd_models.networks.config import MemberKind, Preset, StudentKind
from mmkd_models.train_config import TrainConfig, Validation
from mmkd_report.schema.figures import Split


class ComparisonConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides a comparison but the fold.

    Attributes:
        label_share: share of the training windows whose labels anyone sees; 1 where whole groups are labelled.
        labelled_groups: how many whole groups show their labels; unset where a share does.
        self_training: train a second generation of the teacher on the unlabelled windows too.
        members: of the teacher, transformers first; of files of earlier releases a transformer alone.
        teacher_train: how the teacher is trained; its seed is the fold's.
        further_rivals: rivals beside the quick ones; unset where there are none.
        choose: whether a race chooses how each student is trained, labels alone among the ways; of files of earlier
            releases it did not.
        baseline_learning_rates: where there is no race, those the baseline may choose from, by validation.
        left_out: what each fold leaves out; unset where folds are dealt.
    """

    label_share: float
    labelled_groups: int | msgspec.UnsetType = msgspec.UNSET
    modalities: tuple[str, ...]
    teacher: Preset
    student: Preset
    self_training: bool
    teacher_train: TrainConfig
    student_train: TrainConfig
    baseline_learning_rates: tuple[float, ...]
    augment: AugmentConfig
    recipe: Recipe
    members: tuple[MemberKind, ...] = ("transformer",)
    further_rivals: tuple[RivalName, ...] | msgspec.UnsetType = msgspec.UNSET
    choose: bool = False
    left_out: LeftOutDomains | msgspec.UnsetType = msgspec.UNSET

    @property
    def untaught_rivals(self) -> tuple[RivalName, ...]:
        """Rivals that see labels alone."""
        return tuple(one for one in (*QUICK_RIVALS, *(self.further_rivals or ())) if one != "taught_rocket")

    @property
    def taught_rivals(self) -> tuple[RivalName, ...]:
        """Those that the teacher teaches too."""
        return ("taught_rocket",)

    @property
    def labelled(self) -> Labelled:
        """What is labelled."""
        return Labelled(share=self.label_share, groups=self.labelled_groups or None)


class GroupCount(msgspec.Struct, frozen=True, kw_only=True):
    """Right answers and windows of one group in the test split."""

    group: int | str
    right: int
    windows: int


class NetworkResult(msgspec.Struct, frozen=True, kw_only=True, rename={"class_scores": "scores"}):
    """A trained network on the test windows.

    Attributes:
        class_scores: of classes; in files `scores`. Unset of other kinds.
        by_group: of classes. Unset of other kinds.
        judged: of other kinds.
        learning_rate: peak, of its training.
        kind: of a student; unset of teachers, and in files of earlier releases, where it is a transformer.
        shipped: which way of training validation chose; unset where there was no race.
    """

    class_scores: Scores | msgspec.UnsetType = msgspec.UNSET
    by_group: tuple[GroupCount, ...] | msgspec.UnsetType = msgspec.UNSET
    judged: TestedNetwork | msgspec.UnsetType = msgspec.UNSET
    parameters: int
    learning_rate: float
    valid_score: float
    curve: tuple[Validation, ...]
    kind: StudentKind | msgspec.UnsetType = msgspec.UNSET
    shipped: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def scores(self) -> AnyScores:
        """The scores on all test windows."""
        return self.class_scores or self.test.scores

    @property
    def test(self) -> TestedNetwork:
        """What gains are counted from. Of classes it knows right and wrong, and so accuracy alone can be drawn."""
        if self.judged is not msgspec.UNSET:
            return self.judged
        counts = tuple(
            GroupConfusion(group=one.group, confusion=((one.right, one.windows - one.right), (0, 0)))
            for one in self.by_group or ()
        )
        return TestedNetwork(class_scores=self.class_scores, confusions=counts)


class FoldRival(msgspec.Struct, frozen=True, kw_only=True, rename={"class_scores": "scores"}):
    """A rival's scores, or the reason why there are none.

    Attributes:
        class_scores: of classes, in files `scores`, where there is no `judged`. None where there are none.
        judged: on the test windows; of classes unset in files of earlier releases.
        valid_score: what validation maximised, on the validation windows; None in files of earlier releases.
    """

    class_scores: Scores | None = None
    judged: TestedNetwork | msgspec.UnsetType = msgspec.UNSET
    valid_score: float | None = None
    reason: str = ""

    @property
    def scores(self) -> AnyScores | None:
        """The scores on all test windows."""
        return self.judged.scores if self.judged is not msgspec.UNSET else self.class_scores


class MissingCurve(msgspec.Struct, frozen=True, kw_only=True):
    """The first measure of the task, of classes accuracy, of student and baseline by share of missing samples."""

    shares: tuple[float, ...]
    student: tuple[float, ...]
    baseline: tuple[float, ...]


class ModalityResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one modality on one fold; rivals that were not run there are unset."""

    baseline: NetworkResult
    student: NetworkResult
    extra_trees: FoldRival
    mini_rocket: FoldRival
    rocket_and_trees: FoldRival | msgspec.UnsetType = msgspec.UNSET
    multi_rocket_hydra: FoldRival | msgspec.UnsetType = msgspec.UNSET
    taught_rocket: FoldRival | msgspec.UnsetType = msgspec.UNSET
    missing: MissingCurve


class FoldSubsetScore(msgspec.Struct, frozen=True, kw_only=True, rename={"figure": "accuracy"}):
    """The teacher when only these modalities are there: the first measure of the task; in files `accuracy`."""

    modalities: tuple[str, ...]
    figure: float


class FoldResult(msgspec.Struct, frozen=True, kw_only=True):
    """One fold of a comparison, as it stands in `fold.json`; `split` says how it was made, unset in early files.

    Attributes:
        train_groups: groups of the training windows; unset in files of earlier releases.
        spread_in_time: labels spread in time, on the hidden ones of the training windows; unset where a share hides
            none, where whole groups are labelled, and in files of earlier releases.
    """

    config: ComparisonConfig
    dataset_sha256: str
    seed: int
    windows: dict[str, int]
    groups: int
    train_groups: int | msgspec.UnsetType = msgspec.UNSET
    split: Split | msgspec.UnsetType = msgspec.UNSET
    teacher: NetworkResult
    teacher_subsets: tuple[FoldSubsetScore, ...]
    spread_in_time: TestedNetwork | msgspec.UnsetType = msgspec.UNSET
    students: dict[str, ModalityResult]
