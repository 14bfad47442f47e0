"""An experiment: a plan on a dataset in a folder. `run` makes what is missing and returns the table of results.

All models get the same grouped folds, visible labels, steps and seeds; test windows are read once.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from pathlib import Path

import msgspec

from mmkd_documents.figures import LabelledGroups, Split
from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.spec import DatasetSpec
from mmkd_models.data.windows import split_facts
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.evaluation.rivals import RivalName
from mmkd_models.evaluation.suites.missing import FRACTIONS, subsets_of, with_missing_samples, without_modalities
from mmkd_models.experiments.folder import (
    ANSWERS_FOLDER,
    STUDENT_CHECKPOINT,
    TEACHER_CHECKPOINT,
    Folder,
    RunResult,
    read_result,
    read_run,
    spread_in_time,
    write_result,
)
from mmkd_models.experiments.plan import Candidate, Entry, ExperimentPlan, candidates, entries, short_hash
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
    make_claimed,
    make_runs,
    teacher_run,
    trial_result,
    until,
)
from mmkd_models.experiments.search import finalists, planned_runs, proposals
from mmkd_models.experiments.workers import Workers, torch_threads
from mmkd_models.metrics.scores import measures_of
from mmkd_models.training.checkpoint import read_student, read_teacher
from mmkd_models.training.inputs import LatencyLimit
from mmkd_models.training.predict import scores_of

_MISSING_FILE = "missing.json"
_SEARCH_TIME = 0.5  # of the budget; the rest trains finalists


@dataclass(frozen=True, kw_only=True)
class FoldFacts:
    """The windows of a fold."""

    windows: Mapping[str, int]
    groups: int
    train_groups: int
    split: Split
    spread_in_time: TestedNetwork | None = None


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """Judged models by sensor, then by what they are, then by seed; a text is why a rival could not run."""

    plan: ExperimentPlan
    spec: DatasetSpec
    sha256: str
    folds: Mapping[int, FoldFacts]
    teachers: Mapping[str, Mapping[int, Judged]]
    students: Mapping[str, Mapping[Entry, Mapping[int, Judged]]]
    rivals: Mapping[str, Mapping[RivalName, Mapping[int, Judged | str]]] = field(default_factory=dict)

    def teacher(self) -> list[Judged]:
        """Return the first teacher by seed."""
        return list(self.teachers[self.plan.teacher.name].values())

    def student(self, sensor: str) -> list[Judged]:
        """Return the distilled student of a comparison by seed."""
        return list(self.students[sensor][self.plan.student].values())

    def baseline(self, sensor: str) -> list[Judged]:
        """Return labels only of a comparison by seed."""
        return list(self.students[sensor][self.plan.baseline].values())

    @property
    def split(self) -> Split:
        """How test windows are apart from others."""
        return next(iter(self.folds.values())).split

    @property
    def labelled_groups(self) -> LabelledGroups | None:
        """How many whole groups are labelled, of those of each fold, if not windows."""
        groups = self.plan.conditions.labelled.groups
        of = tuple(fold.train_groups for fold in self.folds.values())
        return LabelledGroups(labelled=groups, of=of) if groups else None

    @property
    def label_fraction(self) -> float | None:
        """The fraction of windows with a label; None if whole groups are labelled."""
        labelled = self.plan.conditions.labelled
        return None if labelled.groups else labelled.fraction


def tests_of(judged: Sequence[Judged]) -> list[TestedNetwork]:
    """Return answers on test windows."""
    return [one.test for one in judged]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A plan in a folder; `limit` holds for a choice of students, `impossible` is left out."""

    dataset: Dataset
    plan: ExperimentPlan
    out: Path
    limit: LatencyLimit | None = None
    impossible: tuple[Entry, ...] = ()

    @cached_property
    def folders(self) -> dict[str, Folder]:
        """Folders by sensor, which share teachers."""
        return {
            name: Folder(
                out=self.out.absolute(),
                dataset=self.dataset,
                conditions=msgspec.structs.replace(
                    self.plan.conditions, dataset_sha256=self.dataset.sha256, modality=name
                ),
                space=self.plan.space,
                embed_windows=self.plan.delivers,
                limit=self.limit,
            )
            for name in self.plan.sensors
        }

    @property
    def folder(self) -> Folder:
        """The first sensor's folder."""
        return self.folders[self.plan.sensors[0]]

    def teacher_path(self, seed: int) -> Path:
        """Return a fold's first teacher."""
        return self.folder.teacher_folder(self.plan.teacher, seed) / TEACHER_CHECKPOINT

    def baseline_path(self, sensor: str, seed: int) -> Path:
        """Return the labels-only checkpoint."""
        return best_baseline(self.folders[sensor], self.plan.baseline, seed)

    def student_path(self, sensor: str, seed: int) -> Path:
        """Return the distilled student's checkpoint."""
        folder = self.folders[sensor]
        (trial,) = list_trials(folder, self.plan.student, [seed])
        return folder.trial_folder(trial) / STUDENT_CHECKPOINT

    def all_candidates(self) -> tuple[Candidate, ...]:
        """Return every candidate that can be trained."""
        return candidates(self.plan.space, self.impossible)

    def chosen_candidates(self) -> tuple[Candidate, ...]:
        """Return the best candidates of the search so far, or all."""
        search = self.plan.search
        if search is None:
            return self.all_candidates()
        return finalists(self.folder, self.impossible, search.seeds, most=search.finalists)

    def table_entries(self) -> tuple[Entry, ...]:
        """Return the entries of the table."""
        if self.plan.search is None:
            return entries(self.plan.space, self.impossible)
        return tuple(candidate.entry for candidate in self.chosen_candidates())

    def phases(self) -> list[list[Run]]:
        """Return the runs on the plan's seeds; those of one phase can be made side by side."""
        seeds = self.plan.seeds
        if self.plan.delivers:
            return self._phases(seeds)
        return [phase for seed in seeds for phase in self._phases([seed])[:2]]  # early results can be compared

    def _phases(self, seeds: Sequence[int]) -> list[list[Run]]:
        teachers = [teacher_run(self.folder, self.plan.teacher, seed) for seed in seeds if self.plan.delivers]
        phases, chosen = [teachers, [], self._judging(seeds)], self.chosen_candidates()
        for folder in self.folders.values():
            for phase, runs in zip(phases, grid_phases(folder, chosen, seeds, rivals=self.plan.rivals), strict=False):
                known = {run.path for run in phase}
                phase += [run for run in runs if run.path not in known]
        phases[0].sort(key=lambda run: -sum(run.costs))
        return phases

    def _judging(self, seeds: Sequence[int]) -> list[Run]:
        """Return the judging of a comparison's networks: the teacher, and two for each sensor."""
        key, count = (
            short_hash([self.plan.conditions, self.plan.sensors, self.plan.space, self.dataset.sha256]),
            self._networks,
        )
        return [
            Run(
                title=f"seed {seed} judge {number + 1}/{count}",
                path=self.out / "folds" / f"seed{seed}-{key}-{number}",
                costs=(0.05 / count,),
                is_done=partial(_is_judged, self, seed, number),
                make=partial(_judge_finished, self, seed, number),
            )
            for seed, number in product(seeds, range(count))
        ]

    @property
    def _networks(self) -> int:
        return 1 + 2 * len(self.plan.sensors)

    def finished_networks(self, seed: int) -> Iterator[tuple[Path, RunResult]]:
        """Yield the finished teacher, and labels only and student of each sensor, with their checkpoints."""
        path = self.teacher_path(seed)
        teacher = read_run(path.parent)
        if teacher is not None:
            yield path, teacher
        for folder in self.folders.values():
            for entry in (self.plan.baseline, self.plan.student):
                result = chosen_trials(folder, entry, [seed]).get(seed)
                if result is not None and result.trial is not None:
                    yield folder.trial_folder(result.trial) / STUDENT_CHECKPOINT, result


def run(experiment: Experiment, *, progress: Progress | None = None) -> ResultTable:
    """Make the missing runs within the budget, and return what is finished. Raise UsageError for what cannot be."""
    train(experiment, progress=progress)
    with torch_threads():
        return read_table(experiment)


def train(experiment: Experiment, *, progress: Progress | None = None) -> None:
    """Make the missing runs within the budget."""
    plan, began_s, progress = experiment.plan, time.time(), progress or Progress()

    def deadline(fraction: float = 1.0) -> float | None:
        return None if plan.budget_hours is None else began_s + 3600 * plan.budget_hours * fraction

    def make(phases: Sequence[Sequence[Run]], planned: Sequence[Run] = ()) -> None:
        progress.expect([*phases, planned])
        for phase in phases:
            make_runs(workers, phase, deadline=deadline(), on_step=progress.on_step, on_end=progress.on_end)
            if plan.delivers:
                _refuse_failed(experiment)

    with Workers(plan.workers, executor=plan.executor) as workers:
        if plan.search is not None:
            folder, search = experiment.folder, plan.search
            first, _ = grid_phases(folder, experiment.all_candidates(), search.seeds, rivals=())
            make([first], planned_runs(folder, experiment.impossible, search))
            proposed = until(deadline(_SEARCH_TIME), proposals(folder, experiment.impossible, search))
            workers.run(make_claimed, proposed, on_step=progress.on_step, on_end=progress.on_end)
        make(experiment.phases())
    if plan.delivers:
        shutil.rmtree(experiment.out / ANSWERS_FOLDER, ignore_errors=True)


def _refuse_failed(experiment: Experiment) -> None:
    plan = experiment.plan
    for folder, entry in product(experiment.folders.values(), (plan.baseline, plan.student)):
        for trial in list_trials(folder, entry, plan.seeds):
            ended = trial_result(folder, trial)
            if ended is not None and ended.reason:
                raise UsageError(ended.reason)


def _is_judged(experiment: Experiment, seed: int, number: int) -> bool:
    networks = list(experiment.finished_networks(seed))
    return len(networks) == experiment._networks and (networks[number][0].parent / _MISSING_FILE).exists()


def _judge_finished(experiment: Experiment, seed: int, number: int, on_step: object = None) -> None:
    _, result = list(experiment.finished_networks(seed))[number]
    _judge(experiment, experiment.folders.get(result.conditions.modality, experiment.folder), result)


def read_table(experiment: Experiment) -> ResultTable:
    """Judge what is finished on the plan's seeds, once, and return it."""
    plan, dataset = experiment.plan, experiment.dataset
    students, rivals = (
        dict[str, dict[Entry, dict[int, Judged]]](),
        dict[str, dict[RivalName, dict[int, Judged | str]]](),
    )
    for sensor, folder in experiment.folders.items():
        finished = {entry: chosen_trials(folder, entry, plan.seeds) for entry in experiment.table_entries()}
        students[sensor] = {
            entry: {seed: _judge(experiment, folder, result) for seed, result in results.items()}
            for entry, results in finished.items()
            if results
        }
        seeds = sorted({seed for judged in students[sensor].values() for seed in judged})
        judged = {seed: judge_rivals(folder, plan.rivals, seed) for seed in seeds}
        rivals[sensor] = {rival: {seed: judged[seed][rival] for seed in seeds} for rival in plan.rivals}
    teachers = dict[str, dict[int, Judged]]()
    for teacher in plan.space.teachers:
        taught = {
            seed
            for rows in students.values()
            for entry, row in rows.items()
            for seed in row
            if entry.teacher == teacher.name
        }
        results = {seed: read_run(experiment.folder.teacher_folder(teacher, seed)) for seed in sorted(taught)}
        teachers[teacher.name] = {
            seed: _judge(experiment, experiment.folder, result)
            for seed, result in results.items()
            if result is not None
        }
    return ResultTable(
        plan=plan,
        spec=dataset.spec,
        sha256=dataset.sha256,
        folds={seed: _fold_facts(experiment, seed) for seed in plan.seeds},
        teachers=teachers,
        students=students,
        rivals=rivals,
    )


def _judge(experiment: Experiment, folder: Folder, result: RunResult) -> Judged:
    missing = _missing_figures(experiment, folder, result) if experiment.plan.delivers else {}
    return Judged(result=result, test=judge_network(folder, result), missing=missing)


def _fold_facts(experiment: Experiment, seed: int) -> FoldFacts:
    windows, fold = experiment.dataset.everything(), experiment.folder.fold(seed)
    train = fold.training.train
    return FoldFacts(
        windows={
            "train": len(train),
            "labelled": int(train.labelled.sum()),
            "valid": len(fold.training.valid),
            "test": len(fold.test),
        },
        groups=windows.group_count,
        train_groups=train.group_count,
        split=split_facts(windows),
        spread_in_time=spread_in_time(fold),
    )


def _missing_figures(experiment: Experiment, folder: Folder, result: RunResult) -> dict[str, float]:
    """Return the first measure by remaining modalities of a teacher, by missing samples of a student."""
    path = folder.run_folder(result)
    figures = read_result(path / _MISSING_FILE, dict[str, float])
    if figures is None:
        test, measure = folder.fold(result.seed).test, measures_of(experiment.dataset.spec.task)[0].name
        if result.trial is None:
            teacher = read_teacher(path / TEACHER_CHECKPOINT)
            network, names = teacher.network(), [spec.name for spec in teacher.modalities]
            figures = {}
            for subset in subsets_of(names):
                left = without_modalities(test, [name for name in names if name not in subset])
                figures["+".join(subset)] = scores_of(network, left, modality=None).metric(measure)
        else:
            own, student = result.conditions.modality, read_student(path / STUDENT_CHECKPOINT).network()
            figures = {}
            for fraction in FRACTIONS:
                left = with_missing_samples(test, fraction, seed=result.seed)
                figures[f"{fraction:g}"] = scores_of(student, left, modality=own).metric(measure)
        write_result(path / _MISSING_FILE, figures)
    return figures
