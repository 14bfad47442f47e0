"""A fair comparison of teacher, labels only, student and rivals for every sensor: the plan of the demo.

What is fair: grouped folds; the same visible labels for everyone; labels only run the student's race with the same
steps and seed (without a race they have the student's architecture and augmentation, and their own choice of learning
rate by validation); the test windows are read once, by finished models.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.labelled import Labelled
from mmkd_models.data.left_out import LeftOutDomains
from mmkd_models.data.windows import split_facts
from mmkd_models.distillation.methods import Method
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.evaluation.rivals import QUICK_RIVALS, RivalName
from mmkd_models.evaluation.suites.missing import FRACTIONS, subsets_of, with_missing_samples, without_modalities
from mmkd_models.experiments.folder import (
    ANSWERS_FOLDER,
    STUDENT_CHECKPOINT,
    TEACHER_CHECKPOINT,
    Folder,
    read_result,
    spread_in_time,
    write_result,
)
from mmkd_models.experiments.plan import Conditions, Entry, Space, TeacherChoice, Trial, candidates, hash_of
from mmkd_models.experiments.progress import Progress
from mmkd_models.experiments.runs import (
    RivalResult,
    Run,
    best_baseline,
    chosen_trials,
    grid_phases,
    judge_rivals,
    make_runs,
    teacher_outcome,
    teacher_runs,
    trial_outcome,
    trial_result,
    trials_of,
)
from mmkd_models.experiments.workers import Workers
from mmkd_models.metrics.measures import measures_of
from mmkd_models.networks.config import MemberKind, Preset, StudentKind
from mmkd_models.networks.student import values_of
from mmkd_models.train_config import OnStep, TrainConfig, Validation
from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherCheckpoint, read_student, read_teacher
from mmkd_models.training.predict import scores_of
from mmkd_report.schema.figures import Split
from mmkd_report.schema.study import NONE

_TAUGHT = "taught"


class ComparisonConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides a comparison but the fold.

    Attributes:
        self_training: train a second generation of the teacher on the unlabelled windows too.
        members: of the teacher, transformers first.
        teacher_train: its seed is the fold's.
        further_rivals: rivals beside the quick ones.
        choose: a race chooses how each student is trained, labels only among the forms.
        baseline_learning_rates: without a race, those that labels only may choose from.
        left_out: what each fold leaves out; None deals folds by groups.
    """

    labelled: Labelled
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
    further_rivals: tuple[RivalName, ...] = ()
    choose: bool = False
    left_out: LeftOutDomains | None = None

    @property
    def rivals(self) -> tuple[RivalName, ...]:
        """All rivals."""
        return (*QUICK_RIVALS, *self.further_rivals)


class NetworkResult(msgspec.Struct, frozen=True, kw_only=True):
    """A trained network on the test windows.

    Attributes:
        learning_rate: peak, of its training.
        kind: of a student.
        shipped: which form validation chose in a race.
    """

    test: TestedNetwork
    parameters: int
    learning_rate: float
    valid_score: float
    curve: tuple[Validation, ...]
    kind: StudentKind | None = None
    shipped: str = ""


class MissingCurve(msgspec.Struct, frozen=True, kw_only=True):
    """The first measure of the task, of student and labels only, by fraction of missing samples."""

    shares: tuple[float, ...]
    student: tuple[float, ...]
    baseline: tuple[float, ...]


class ModalityResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one modality on one fold."""

    baseline: NetworkResult
    student: NetworkResult
    rivals: dict[RivalName, RivalResult]
    missing: MissingCurve


class FoldSubsetScore(msgspec.Struct, frozen=True, kw_only=True):
    """The first measure of the task of the teacher if only these modalities are there."""

    modalities: tuple[str, ...]
    figure: float


class FoldResult(msgspec.Struct, frozen=True, kw_only=True):
    """One fold of a comparison.

    Attributes:
        train_groups: groups of the training windows.
        spread_in_time: labels spread in time, on the hidden ones of the training windows.
    """

    config: ComparisonConfig
    dataset_sha256: str
    seed: int
    windows: dict[str, int]
    groups: int
    train_groups: int
    split: Split
    teacher: NetworkResult
    teacher_subsets: tuple[FoldSubsetScore, ...]
    spread_in_time: TestedNetwork | None = None
    students: dict[str, ModalityResult]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison in a folder: what is trained, and where it lies."""

    dataset: Dataset
    config: ComparisonConfig
    out: Path

    @cached_property
    def teacher(self) -> TeacherChoice:
        """What teaches."""
        members = self.config.members
        return TeacherChoice(
            modalities=tuple(spec.name for spec in self.dataset.spec.modalities),
            preset=self.config.teacher,
            committee=() if members == ("transformer",) else members,
        )

    @cached_property
    def folders(self) -> dict[str, Folder]:
        """By sensor; all of them share the teachers."""
        config = self.config
        rate = config.student_train.learning_rate
        space = Space(
            teachers=(self.teacher,),
            students=(config.student,),
            methods=(Method(name=NONE, recipe=None), Method(name=_TAUGHT, recipe=config.recipe)),
            learning_rates=(rate,),
            baseline_learning_rates=() if config.choose else config.baseline_learning_rates,
        )
        return {
            name: Folder(
                out=self.out.absolute(),
                dataset=self.dataset,
                conditions=Conditions(
                    dataset_sha256=self.dataset.sha256,
                    modality=name,
                    labelled=config.labelled,
                    self_training=config.self_training,
                    teacher_train=config.teacher_train,
                    student_train=config.student_train,
                    augment=config.augment,
                    choose=config.choose,
                    labels_compete=config.choose,
                    left_out=config.left_out,
                ),
                space=space,
                embed_windows=True,
            )
            for name in config.modalities
        }

    @property
    def folder(self) -> Folder:
        """That of the first sensor: what all share is the same in every one."""
        return self.folders[self.config.modalities[0]]

    def teacher_path(self, seed: int) -> Path:
        """The checkpoint of a fold's teacher."""
        return self.folder.of_teacher(self.teacher, seed) / TEACHER_CHECKPOINT

    def baseline_path(self, modality: str, seed: int) -> Path:
        """The checkpoint of labels only. Raises UsageError if it is not trained."""
        return best_baseline(self.folders[modality], self.entry(_TAUGHT), seed)

    def student_path(self, modality: str, seed: int) -> Path:
        """The checkpoint of the student."""
        folder = self.folders[modality]
        (trial,) = trials_of(folder, self.entry(_TAUGHT), [seed])
        return folder.of_trial(trial) / STUDENT_CHECKPOINT

    def result_path(self, seed: int) -> Path:
        """Where the result of a fold is kept."""
        decides = [self.config, self.dataset.sha256, split_facts(self.dataset.everything())]
        return self.out / "folds" / f"seed{seed}-{hash_of(decides)}.json"

    def phases(self, seeds: Sequence[int]) -> tuple[list[Run], ...]:
        """What the folds lack; the runs of each phase can be made side by side, the longest first."""
        teachers = teacher_runs(self.folder, [self.teacher], seeds)
        judging = [_judge_run(self, seed) for seed in seeds]
        phases: tuple[list[Run], ...] = (teachers, [], [], judging)
        for folder in self.folders.values():
            chosen = candidates(folder.space)
            own = grid_phases(folder, chosen, seeds, rivals=self.config.rivals, ask_before=True)
            for phase, runs in zip(phases, own, strict=False):
                known = {run.path for run in phase}
                phase += [run for run in runs if run.path not in known]
        phases[0].sort(key=lambda run: -sum(run.costs))
        return phases

    def entry(self, method: str) -> Entry:
        """Labels only (`none`), or what is taught."""
        return Entry(student=self.config.student, method=method, teacher=None if method == NONE else self.teacher.name)


def _judge_run(comparison: Comparison, seed: int) -> Run:
    path = comparison.result_path(seed)
    return Run(
        stage="judge",
        title=f"seed {seed} judge",
        path=path.with_suffix(""),
        costs=(0.05,),
        is_done=path.exists,
        make=partial(_judge_fold, comparison, seed),
    )


def compare(
    comparison: Comparison, seeds: Sequence[int], workers: Workers, *, progress: Progress | None = None
) -> list[FoldResult]:
    """Make what the folds lack and return them; what is finished in the folder is read.

    Raises:
        UsageError: a training cannot be done.
        CheckpointError: a file in the folder is damaged.
        MmkdError: a worker died.
    """
    progress = progress or Progress()
    phases = [] if all(_result(comparison, seed) for seed in seeds) else comparison.phases(seeds)
    progress.expect(phases)
    for phase in phases:
        make_runs(workers, phase, on_step=progress.on_step, on_end=progress.on_end)
        _raise_failures(comparison, seeds)
    shutil.rmtree(comparison.out / ANSWERS_FOLDER, ignore_errors=True)
    return [result for seed in seeds if (result := _result(comparison, seed)) is not None]


def _raise_failures(comparison: Comparison, seeds: Sequence[int]) -> None:
    for folder in comparison.folders.values():
        for candidate, seed in product(candidates(folder.space), seeds):
            ended = trial_result(folder, Trial(candidate=candidate, seed=seed))
            if ended is not None and ended.state == "failed":
                raise UsageError(ended.reason)


def _result(comparison: Comparison, seed: int) -> FoldResult | None:
    return read_result(comparison.result_path(seed), FoldResult)


def _judge_fold(comparison: Comparison, seed: int, on_step: OnStep) -> None:
    config, folder = comparison.config, comparison.folder
    windows, fold = comparison.dataset.everything(), folder.fold(seed)
    train, test = fold.training.train, fold.test
    teacher = read_teacher(comparison.teacher_path(seed))
    network, names = teacher.network(), [spec.name for spec in teacher.modalities]
    first = measures_of(comparison.dataset.spec.task)[0].name
    result = FoldResult(
        config=config,
        dataset_sha256=comparison.dataset.sha256,
        seed=seed,
        windows={
            "train": len(train),
            "labelled": int(train.labelled.sum()),
            "valid": len(fold.training.valid),
            "test": len(test),
        },
        groups=windows.group_count,
        train_groups=train.group_count,
        split=split_facts(windows),
        teacher=_network_result(teacher, teacher_outcome(folder, comparison.teacher, seed)),
        teacher_subsets=tuple(
            FoldSubsetScore(modalities=subset, figure=scores_of(network, left, modality=None).metric(first))
            for subset in subsets_of(names)
            for left in [without_modalities(test, [name for name in names if name not in subset])]
        ),
        spread_in_time=spread_in_time(fold),
        students={name: _judge_modality(comparison, name, seed, first) for name in config.modalities},
    )
    write_result(comparison.result_path(seed), result)


def _judge_modality(comparison: Comparison, name: str, seed: int, measure: str) -> ModalityResult:
    folder, test = comparison.folders[name], comparison.folder.fold(seed).test
    results, missing = {}, {}
    conditions = [with_missing_samples(test, fraction, seed=seed) for fraction in FRACTIONS]
    for who, method in (("baseline", NONE), ("student", _TAUGHT)):
        result = chosen_trials(folder, comparison.entry(method), [seed])[seed]
        checkpoint = read_student(folder.of_trial(result.trial) / STUDENT_CHECKPOINT)
        results[who] = _network_result(checkpoint, trial_outcome(folder, result.trial))
        network = checkpoint.network()
        missing[who] = tuple(scores_of(network, part, modality=name).metric(measure) for part in conditions)
    return ModalityResult(
        baseline=results["baseline"],
        student=results["student"],
        rivals={result.rival: result for result in judge_rivals(folder, comparison.config.rivals, seed)},
        missing=MissingCurve(shares=FRACTIONS, student=missing["student"], baseline=missing["baseline"]),
    )


def _network_result(checkpoint: StudentCheckpoint | TeacherCheckpoint, test: TestedNetwork) -> NetworkResult:
    facts = checkpoint.facts
    return NetworkResult(
        test=test,
        parameters=values_of(
            checkpoint.transformer() if isinstance(checkpoint, TeacherCheckpoint) else checkpoint.network()
        ),
        learning_rate=facts.training.learning_rate,
        valid_score=facts.score,
        curve=facts.curve,
        kind=checkpoint.config.kind if isinstance(checkpoint, StudentCheckpoint) else None,
        shipped=facts.shipped or "",
    )
