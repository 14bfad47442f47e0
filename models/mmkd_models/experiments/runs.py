"""Runs of networks and rivals, each made once; only `judge_network` and `judge_rivals` read the test windows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_documents.study import NONE
from mmkd_edge.errors import UsageError
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.outcome import TestedNetwork, outcome_on
from mmkd_models.evaluation.rivals import RivalName, Rivals
from mmkd_models.experiments.folder import (
    RESULT_FILE,
    STUDENT_CHECKPOINT,
    TEACHER_CHECKPOINT,
    TEST_FILE,
    Folder,
    RunResult,
    claim,
    read_result,
    read_run,
    write_result,
    write_run,
)
from mmkd_models.experiments.plan import Candidate, Entry, TeacherChoice, Trial
from mmkd_models.experiments.workers import Workers
from mmkd_models.metrics.likelihood import probabilities_of
from mmkd_models.networks.config import MEMBERS, student_config, teacher_config
from mmkd_models.networks.student import count_values
from mmkd_models.train_config import OnStep, Show, TrainingProgress, terms_in_words
from mmkd_models.training.checkpoint import (
    StudentCheckpoint,
    TeacherFile,
    file_sha256,
    read_student,
    read_teacher,
    read_teacher_file,
    write_student,
    write_teacher,
)
from mmkd_models.training.committee import train_committee
from mmkd_models.training.inputs import TrainingRequest
from mmkd_models.training.predict import logits_of
from mmkd_models.training.students import train_student

_WAIT_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A finished run and its answers on test windows."""

    result: RunResult
    test: TestedNetwork
    # The first measure by remaining modalities, or by the missing fraction of samples
    missing: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training or judging made once; `costs` has one value per training."""

    title: str
    path: Path
    costs: tuple[float, ...]
    is_done: Callable[[], bool]
    make: Callable[[OnStep], object]


@dataclass
class Progress:
    """Progress of runs by cost."""

    show: Show = lambda line, so_far_s, left_s, is_end: None
    ended: Callable[[Run], None] = lambda run: None
    clock: Callable[[], float] = time.monotonic
    _began_s: float | None = None
    _left: float = 0.0
    _worked: float = 0.0
    _done: dict[Path, tuple[int, float]] = field(default_factory=dict)

    def expect(self, phases: Sequence[Sequence[Run]]) -> None:
        """Set the runs still to be made."""
        self._began_s = self.clock() if self._began_s is None else self._began_s
        self._left = sum(sum(run.costs) for phase in phases for run in phase if not run.is_done())

    def on_step(self, run: Run, progress: TrainingProgress) -> None:
        """Show the step of a run; steps before its first report are earlier work."""
        trainings, is_end = self._done.get(run.path, (0, 0.0))[0], progress.step == progress.steps
        training = run.costs[min(trainings, len(run.costs) - 1)]
        cost = min(sum(run.costs), sum(run.costs[:trainings]) + training * progress.step / progress.steps)
        self._advance(run, trainings + is_end, cost, is_work=run.path in self._done)
        self._show(f"{run.title}: step {progress.step}/{progress.steps} {terms_in_words(progress)}".rstrip(), is_end)

    def on_end(self, run: Run) -> None:
        """Count a run as made."""
        is_silent = run.path not in self._done
        self._advance(run, len(run.costs), sum(run.costs), is_work=True)
        if is_silent:
            self._show(f"{run.title}: done", True)
        self.ended(run)

    def left_s(self) -> float | None:
        """Return the seconds left, or None before the first run."""
        if self._began_s is None or not self._worked:
            return None
        return max(0.0, self._left) * (self.clock() - self._began_s) / self._worked

    def _advance(self, run: Run, trainings: int, cost: float, *, is_work: bool) -> None:
        more = cost - self._done.get(run.path, (0, 0.0))[1]
        self._left -= more
        self._worked += more * is_work
        self._done[run.path] = trainings, cost

    def _show(self, line: str, is_end: bool) -> None:
        began = self.clock() if self._began_s is None else self._began_s
        self.show(line, self.clock() - began, self.left_s(), is_end)


def make_runs(
    workers: Workers,
    runs: Sequence[Run],
    *,
    deadline: float | None = None,
    on_step: Callable[[Run, TrainingProgress], None] = lambda run, progress: None,
    on_end: Callable[[Run], None] = lambda run: None,
) -> None:
    """Make missing runs before the deadline, and wait for those of other commands."""
    while (waiting := [run for run in runs if not run.is_done()]) and not is_over(deadline):
        workers.run(make_claimed, until(deadline, waiting), on_step=on_step, on_end=on_end)
        if not all(run.is_done() for run in waiting):
            time.sleep(_WAIT_S)


def make_claimed(run: Run, on_step: OnStep) -> None:
    """Make a run unless another process does or has."""
    with claim(run.path) as is_ours:
        if is_ours and not run.is_done():
            run.make(on_step)


def is_over(deadline: float | None) -> bool:
    """Return whether the time is used up."""
    return deadline is not None and time.time() >= deadline


def until(deadline: float | None, runs: Iterable[Run]) -> Iterator[Run]:
    """Yield runs until the deadline."""
    for run in runs:
        if is_over(deadline):
            return
        yield run


def teacher_run(folder: Folder, teacher: TeacherChoice, seed: int) -> Run:
    """Return the run of a teacher."""
    path = folder.teacher_folder(teacher, seed)
    return Run(
        title=f"seed {seed} teacher {teacher.name}",
        path=path,
        costs=(1.0,) * (teacher.committee or ("transformer",)).count("transformer"),
        is_done=(path / RESULT_FILE).exists,
        make=partial(_train_teacher, folder, teacher, seed),
    )


def _train_teacher(folder: Folder, teacher: TeacherChoice, seed: int, on_step: OnStep) -> None:
    path, conditions = folder.teacher_folder(teacher, seed), folder.conditions
    data, config = folder.fold(seed).training.with_modalities(teacher.modalities), teacher_config(teacher.preset)
    run = replace(folder.training_run(conditions.teacher_train, path, seed, on_step), embed_windows=False)
    trained = train_committee(data, config, run, members=teacher.committee or ("transformer",))
    file = path / TEACHER_CHECKPOINT
    write_teacher(file, trained)
    result = RunResult(
        conditions=conditions,
        teacher=teacher,
        seed=seed,
        score=trained.facts.score,
        learning_rate=trained.facts.training.learning_rate,
        parameters=count_values(trained.transformer()),
        sha256=file_sha256(file),
    )
    write_run(path, result)


def student_run(folder: Folder, trial: Trial) -> Run:
    """Return the run of a trial."""
    entry, conditions, path = trial.candidate.entry, folder.conditions, folder.trial_folder(trial)
    name = "labels only" if entry.method == NONE else entry.method
    with_rate = f" {trial.candidate.learning_rate:g}" if len(folder.space.learning_rates_for(entry)) > 1 else ""
    return Run(
        title=f"seed {trial.seed} {conditions.modality} {name} {entry.student}{with_rate}",
        path=path,
        costs=(0.3,),
        is_done=(path / RESULT_FILE).exists,
        make=partial(run_trial, folder, trial),
    )


def trial_result(folder: Folder, trial: Trial) -> RunResult | None:
    """Return a trial's result, or None if it has none yet."""
    return read_run(folder.trial_folder(trial))


def run_trial(folder: Folder, trial: Trial, on_step: OnStep) -> None:
    """Train or resume a trial; the reason is its result if impossible."""
    path, entry = folder.trial_folder(trial), trial.candidate.entry
    choice = None if entry.teacher is None else folder.space.teacher(entry.teacher)
    rate = trial.candidate.learning_rate
    result = RunResult(conditions=folder.conditions, seed=trial.seed, trial=trial, teacher=choice, learning_rate=rate)
    teacher = None
    if choice is not None:
        teacher = read_teacher_file(folder.teacher_folder(choice, trial.seed) / TEACHER_CHECKPOINT)
    try:
        checkpoint = _train_student(folder, trial, teacher, on_step)
    except UsageError as error:
        write_run(path, msgspec.structs.replace(result, reason=str(error)))
        return
    write_student(path / STUDENT_CHECKPOINT, checkpoint)
    facts = checkpoint.facts
    finished = msgspec.structs.replace(
        result,
        score=facts.score,
        learning_rate=facts.training.learning_rate,
        parameters=count_values(checkpoint.network()),
        members=checkpoint.config.members,
        shipped=facts.shipped or "",
        sha256=file_sha256(path / STUDENT_CHECKPOINT),
    )
    write_run(path, finished)


def _train_student(folder: Folder, trial: Trial, teacher: TeacherFile | None, on_step: OnStep) -> StudentCheckpoint:
    entry, conditions, modality = trial.candidate.entry, folder.conditions, folder.conditions.modality
    members, recipe = conditions.members or None, folder.space.method(entry.method).recipe
    config = student_config(entry.student, members=(not conditions.choose and members) or ("transformer",))
    train = msgspec.structs.replace(conditions.student_train, learning_rate=trial.candidate.learning_rate)
    run = folder.training_run(train, folder.trial_folder(trial), trial.seed, on_step)
    training, baseline = TrainingRequest(folder.fold(trial.seed).training, modality, config, run), None
    if teacher is not None and recipe is not None:
        data = training.data.for_pair([spec.name for spec in teacher.checkpoint.modalities], modality)
        training = replace(training, data=data, teachers=[teacher], recipe=recipe)
        if conditions.choose and conditions.labels_compete:
            baseline = read_student(best_baseline(folder, entry, trial.seed))
    if conditions.choose:
        compete = baseline is not None
        training = replace(training, candidates=members or MEMBERS, limit=folder.limit, labels_compete=compete)
    return train_student(training, baseline=baseline)


def best_baseline(folder: Folder, entry: Entry, seed: int) -> Path:
    """Return the best-validated labels-only checkpoint of the entry's size."""
    baseline = Entry(student=entry.student, method=NONE, teacher=None)
    result = chosen_trials(folder, baseline, [seed]).get(seed)
    if result is None or result.trial is None:
        reasons = (trial_result(folder, trial) for trial in list_trials(folder, baseline, [seed]))
        why = next((f": {result.reason}" for result in reasons if result is not None and result.reason), "")
        raise UsageError(
            f"{folder.conditions.modality}: expected labels only of seed {seed}, found none that is finished{why}"
        )
    return folder.trial_folder(result.trial) / STUDENT_CHECKPOINT


def list_trials(folder: Folder, entry: Entry, seeds: Iterable[int]) -> tuple[Trial, ...]:
    """Return an entry's trials: every learning rate on every seed."""
    return tuple(
        Trial(candidate=Candidate(entry=entry, learning_rate=rate), seed=seed)
        for seed in seeds
        for rate in folder.space.learning_rates_for(entry)
    )


def chosen_trials(folder: Folder, entry: Entry, seeds: Iterable[int]) -> dict[int, RunResult]:
    """Return by seed the finished learning rate that validates best, the first of equals."""
    best: dict[int, RunResult] = {}
    for trial in list_trials(folder, entry, seeds):
        result = trial_result(folder, trial)
        if result is None or result.score is None:
            continue
        if trial.seed not in best or result.score > (best[trial.seed].score or 0.0):
            best[trial.seed] = result
    return best


def judge_network(folder: Folder, result: RunResult) -> TestedNetwork:
    """Judge a finished teacher or student on its test windows, once."""
    path, modality = folder.run_folder(result), None if result.trial is None else folder.conditions.modality
    tested = read_result(path / TEST_FILE, TestedNetwork)
    if tested is None:
        test = folder.fold(result.seed).test
        if modality is None:
            logits = _teacher_logits(path / TEACHER_CHECKPOINT, test)
        else:
            logits = logits_of(read_student(path / STUDENT_CHECKPOINT).network(), test, modality=modality)
        tested = outcome_on(test, logits)
        write_result(path / TEST_FILE, tested)
    return tested


def _teacher_logits(path: Path, windows: Windows) -> NDArray[np.float32]:
    teacher = read_teacher(path)
    own = windows.with_modalities([spec.name for spec in teacher.modalities])
    return logits_of(teacher.network(), own, modality=None)


def _rivals_run(folder: Folder, rivals: tuple[RivalName, ...], seed: int) -> Run:
    name = "taught" if "distilled_rocket" in rivals else "rivals"
    return Run(
        title=f"seed {seed} {folder.conditions.modality} {name}",
        path=folder.rival_folder(rivals[0], seed),
        costs=(0.05,),
        is_done=partial(_are_judged, folder, rivals, seed),
        make=partial(_judge_rivals, folder, rivals, seed),
    )


def _are_judged(folder: Folder, rivals: Sequence[RivalName], seed: int) -> bool:
    return all((folder.rival_folder(rival, seed) / RESULT_FILE).exists() for rival in rivals)


def judge_rivals(folder: Folder, rivals: Sequence[RivalName], seed: int) -> dict[RivalName, Judged | str]:
    """Train and judge rivals on the student's sensor and labels, once; a text is a reason against one."""
    if not _are_judged(folder, rivals, seed):
        _judge_rivals(folder, rivals, seed, lambda progress: None)
    judged: dict[RivalName, Judged | str] = {}
    for rival in rivals:
        path = folder.rival_folder(rival, seed)
        result, test = read_run(path), read_result(path / TEST_FILE, TestedNetwork)
        assert result is not None  # it was judged
        judged[rival] = result.reason if test is None else Judged(result=result, test=test)
    return judged


def _judge_rivals(folder: Folder, rivals: Sequence[RivalName], seed: int, on_step: OnStep) -> None:
    fold, conditions, teacher = folder.fold(seed), folder.conditions, folder.space.teachers[0]
    file = folder.teacher_folder(teacher, seed) / TEACHER_CHECKPOINT

    def teach(windows: Windows) -> NDArray[np.float64]:
        logits, kind = _teacher_logits(file, windows).astype(np.float64), windows.spec.task.kind
        return logits if kind == "regression" else probabilities_of(logits, kind=kind)

    fitted = Rivals(
        train=fold.training.train,
        parts=(fold.training.valid, fold.test),
        modality=conditions.modality,
        seed=seed,
        metric=conditions.student_train.metric,
        teach=teach if file.exists() else None,
    )
    for rival in rivals:
        path = folder.rival_folder(rival, seed)
        if read_run(path) is not None:
            continue
        taught_by = teacher if rival == "distilled_rocket" else None
        result = RunResult(conditions=conditions, seed=seed, rival=rival, teacher=taught_by)
        judged = fitted.judge(rival)
        if isinstance(judged, str):
            write_run(path, msgspec.structs.replace(result, reason=judged))
            continue
        valid, test = judged
        write_result(path / TEST_FILE, test)
        write_run(path, msgspec.structs.replace(result, score=valid.scores.metric(conditions.student_train.metric)))


def grid_phases(
    folder: Folder,
    chosen: Sequence[Candidate],
    seeds: Sequence[int],
    *,
    rivals: Sequence[RivalName],
) -> tuple[list[Run], list[Run]]:
    """Return the phases of a grid: what needs no teacher of it, and what does."""
    trials = [Trial(candidate=candidate, seed=seed) for candidate in chosen for seed in seeds]
    baselines = [trial for trial in trials if trial.candidate.entry.teacher is None]
    taught = [trial for trial in trials if trial.candidate.entry.teacher is not None]
    waiting = [trial for trial in taught if trial_result(folder, trial) is None]
    names = {trial.candidate.entry.teacher for trial in waiting}
    teachers = [teacher for teacher in folder.space.teachers if teacher.name in names]
    untaught = tuple(rival for rival in rivals if rival != "distilled_rocket")
    first = [teacher_run(folder, teacher, seed) for seed in seeds for teacher in teachers]
    first += [student_run(folder, trial) for trial in baselines]
    first += [_rivals_run(folder, untaught, seed) for seed in seeds if untaught]
    later = [student_run(folder, trial) for trial in taught]
    later += [_rivals_run(folder, ("distilled_rocket",), seed) for seed in seeds if "distilled_rocket" in rivals]
    return first, later
