"""A fair comparison of teacher, labels only, student and rivals per sensor, as in the demo.

All get the same grouped folds, visible labels, steps and seeds; without a race labels only choose their learning rate;
test windows are read once.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path

import msgspec

from mmkd_documents.figures import LabelledGroups, Split
from mmkd_documents.study import NONE
from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.windows import split_facts
from mmkd_models.distillation.recipe import Method, Recipe
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.evaluation.rivals import RIVALS, RivalName
from mmkd_models.evaluation.suites.missing import FRACTIONS, subsets_of, with_missing_samples, without_modalities
from mmkd_models.experiments.plan import (
    ANSWERS_FOLDER,
    STUDENT_CHECKPOINT,
    TEACHER_CHECKPOINT,
    Conditions,
    Entry,
    Folder,
    RunResult,
    Space,
    TeacherChoice,
    candidates,
    read_result,
    read_run,
    short_hash,
    spread_in_time,
    write_result,
)
from mmkd_models.experiments.runs import (
    Judged,
    Progress,
    Run,
    best_baseline,
    chosen_trials,
    grid_phases,
    judge_network,
    judge_rivals,
    list_trials,
    make_runs,
    teacher_run,
    trial_result,
)
from mmkd_models.experiments.workers import Workers
from mmkd_models.metrics.scores import measures_of
from mmkd_models.networks.config import MemberKind, Preset
from mmkd_models.training.checkpoint import read_student, read_teacher
from mmkd_models.training.inputs import LatencyLimit
from mmkd_models.training.predict import scores_of

_TAUGHT, _MISSING_FILE = "taught", "missing.json"


class ComparisonConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a comparison."""

    conditions: Conditions
    modalities: tuple[str, ...]
    teacher: Preset
    teacher_members: tuple[MemberKind, ...] = ("transformer",)
    student: Preset
    recipe: Recipe
    baseline_learning_rates: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SensorResult:
    """A sensor on a fold; a text is why a rival could not run."""

    baseline: Judged
    student: Judged
    rivals: dict[RivalName, Judged | str]


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """A fold with its window counts."""

    config: ComparisonConfig
    seed: int
    windows: dict[str, int]
    groups: int
    train_groups: int
    split: Split
    teacher: Judged
    spread_in_time: TestedNetwork | None = None
    students: dict[str, SensorResult]


def groups_labelled(folds: Sequence[FoldResult]) -> LabelledGroups | None:
    """Return how many whole groups are labelled, of those of each fold, if not windows."""
    groups = folds[0].config.conditions.labelled.groups
    return LabelledGroups(labelled=groups, of=tuple(fold.train_groups for fold in folds)) if groups else None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison in a folder."""

    dataset: Dataset
    config: ComparisonConfig
    out: Path
    rivals: tuple[RivalName, ...] = RIVALS
    limit: LatencyLimit | None = None

    @cached_property
    def teacher(self) -> TeacherChoice:
        """The teacher of all sensors."""
        members = self.config.teacher_members
        return TeacherChoice(
            modalities=tuple(spec.name for spec in self.dataset.spec.modalities),
            preset=self.config.teacher,
            committee=() if members == ("transformer",) else members,
        )

    @cached_property
    def folders(self) -> dict[str, Folder]:
        """Folders by sensor, which share teachers."""
        config, conditions = self.config, self.config.conditions
        is_one_rate = conditions.choose or (conditions.members and "transformer" not in conditions.members)
        space = Space(
            teachers=(self.teacher,),
            students=(config.student,),
            methods=(Method(name=NONE, recipe=None), Method(name=_TAUGHT, recipe=config.recipe)),
            learning_rates=(conditions.student_train.learning_rate,),
            baseline_learning_rates=() if is_one_rate else config.baseline_learning_rates,
        )
        return {
            name: Folder(
                out=self.out.absolute(),
                dataset=self.dataset,
                conditions=msgspec.structs.replace(
                    conditions, dataset_sha256=self.dataset.sha256, modality=name, labels_compete=conditions.choose
                ),
                space=space,
                embed_windows=True,
                limit=self.limit,
            )
            for name in config.modalities
        }

    @property
    def folder(self) -> Folder:
        """The first sensor's folder."""
        return self.folders[self.config.modalities[0]]

    def teacher_path(self, seed: int) -> Path:
        """Return a fold's teacher checkpoint."""
        return self.folder.teacher_folder(self.teacher, seed) / TEACHER_CHECKPOINT

    def baseline_path(self, modality: str, seed: int) -> Path:
        """Return the labels-only checkpoint."""
        return best_baseline(self.folders[modality], self.entry(_TAUGHT), seed)

    def student_path(self, modality: str, seed: int) -> Path:
        """Return the student's checkpoint."""
        folder = self.folders[modality]
        (trial,) = list_trials(folder, self.entry(_TAUGHT), [seed])
        return folder.trial_folder(trial) / STUDENT_CHECKPOINT

    def entry(self, method: str) -> Entry:
        """Return the entry of labels only (`none`) or of the student."""
        return Entry(student=self.config.student, method=method, teacher=None if method == NONE else self.teacher.name)

    @property
    def networks(self) -> int:
        """The number of networks that a fold judges: the teacher, and two for each sensor."""
        return 1 + 2 * len(self.folders)

    def phases(self, seeds: Sequence[int]) -> tuple[list[Run], ...]:
        """Return the missing runs; those of one phase can be made side by side."""
        teachers = [teacher_run(self.folder, self.teacher, seed) for seed in seeds]
        key, count = short_hash([self.config, self.dataset.sha256]), self.networks
        judging = [
            Run(
                title=f"seed {seed} judge {number + 1}/{count}",
                path=self.out / "folds" / f"seed{seed}-{key}-{number}",
                costs=(0.05 / count,),
                is_done=partial(_is_judged, self, seed, number),
                make=partial(_judge_network, self, seed, number),
            )
            for seed, number in product(seeds, range(count))
        ]
        phases: tuple[list[Run], ...] = (teachers, [], judging)
        for folder in self.folders.values():
            own = grid_phases(folder, candidates(folder.space), seeds, rivals=self.rivals)
            for phase, runs in zip(phases, own, strict=False):
                known = {run.path for run in phase}
                phase += [run for run in runs if run.path not in known]
        phases[0].sort(key=lambda run: -sum(run.costs))
        return phases


def compare(
    comparison: Comparison, seeds: Sequence[int], workers: Workers, *, progress: Progress | None = None
) -> list[FoldResult]:
    """Make the missing runs, and return the folds."""
    progress, phases = progress or Progress(), comparison.phases(seeds)
    progress.expect(phases)
    for phase in phases:
        make_runs(workers, phase, on_step=progress.on_step, on_end=progress.on_end)
        for folder, method in product(comparison.folders.values(), (NONE, _TAUGHT)):
            for trial in list_trials(folder, comparison.entry(method), seeds):
                ended = trial_result(folder, trial)
                if ended is not None and ended.reason:
                    raise UsageError(ended.reason)
    shutil.rmtree(comparison.out / ANSWERS_FOLDER, ignore_errors=True)
    return [_read_fold(comparison, seed) for seed in seeds]


def _is_judged(comparison: Comparison, seed: int, number: int) -> bool:
    networks = list(_networks(comparison, seed))
    return len(networks) == comparison.networks and (networks[number][0].parent / _MISSING_FILE).exists()


def _networks(comparison: Comparison, seed: int) -> Iterator[tuple[Path, RunResult]]:
    path = comparison.teacher_path(seed)
    teacher = read_run(path.parent)
    if teacher is not None:
        yield path, teacher
    for folder in comparison.folders.values():
        for method in (NONE, _TAUGHT):
            result = chosen_trials(folder, comparison.entry(method), [seed]).get(seed)
            if result is not None and result.trial is not None:
                yield folder.trial_folder(result.trial) / STUDENT_CHECKPOINT, result


def _judge_network(comparison: Comparison, seed: int, number: int, on_step: object = None) -> Judged:
    path, result = list(_networks(comparison, seed))[number]
    return Judged(
        result=result,
        test=judge_network(comparison.folders.get(result.conditions.modality, comparison.folder), result),
        missing=_missing_figures(comparison, path, result),
    )


def _read_fold(comparison: Comparison, seed: int) -> FoldResult:
    windows, fold = comparison.dataset.everything(), comparison.folder.fold(seed)
    train = fold.training.train
    teacher, *students = [_judge_network(comparison, seed, number) for number in range(comparison.networks)]
    by_sensor = dict(zip(comparison.folders, zip(students[::2], students[1::2], strict=True), strict=True))
    return FoldResult(
        config=comparison.config,
        seed=seed,
        windows={
            "train": len(train),
            "labelled": int(train.labelled.sum()),
            "valid": len(fold.training.valid),
            "test": len(fold.test),
        },
        groups=windows.group_count,
        train_groups=train.group_count,
        split=split_facts(windows),
        teacher=teacher,
        spread_in_time=spread_in_time(fold),
        students={
            name: SensorResult(
                baseline=baseline,
                student=student,
                rivals=judge_rivals(comparison.folders[name], comparison.rivals, seed),
            )
            for name, (baseline, student) in by_sensor.items()
        },
    )


def _missing_figures(comparison: Comparison, path: Path, result: RunResult) -> dict[str, float]:
    file = path.parent / _MISSING_FILE
    figures = read_result(file, dict[str, float])
    if figures is None:
        test = comparison.folder.fold(result.seed).test
        measure = measures_of(comparison.dataset.spec.task)[0].name
        if result.trial is None:
            teacher = read_teacher(path)
            network, names = teacher.network(), [spec.name for spec in teacher.modalities]
            figures = {}
            for subset in subsets_of(names):
                left = without_modalities(test, [name for name in names if name not in subset])
                figures["+".join(subset)] = scores_of(network, left, modality=None).metric(measure)
        else:
            own, student = result.conditions.modality, read_student(path).network()
            figures = {}
            for fraction in FRACTIONS:
                left = with_missing_samples(test, fraction, seed=result.seed)
                figures[f"{fraction:g}"] = scores_of(student, left, modality=own).metric(measure)
        write_result(file, figures)
    return figures
