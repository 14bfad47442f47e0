"""Runs: a teacher, a student, the rivals of a sensor. Each is made once, and resumed where it was interrupted.

The test windows are read by `trial_outcome`, `teacher_outcome` and `judge_rivals` alone, which keep what they compute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch

from mmkd_edge.errors import UsageError
from mmkd_models.carried import carried_windows
from mmkd_models.data.windows import Windows
from mmkd_models.distillation.answers import BLOCKS
from mmkd_models.distillation.teachers import mixed_logits
from mmkd_models.evaluation.outcome import TestedNetwork, outcome_on
from mmkd_models.evaluation.rivals import Answers, Contestants, RivalName
from mmkd_models.experiments.folder import (
    ANSWERS_FOLDER,
    FORMAT_VERSION,
    STUDENT_CHECKPOINT,
    TEACHER_CHECKPOINT,
    TEST_FILE,
    Folder,
    claim,
    drop_resume_states,
    read_result,
    write_result,
)
from mmkd_models.experiments.plan import Candidate, Entry, TeacherChoice, Trial, hash_of, teacher_name
from mmkd_models.experiments.workers import Workers
from mmkd_models.losses.term import Goal
from mmkd_models.metrics.likelihood import probabilities_of
from mmkd_models.networks.config import student_config, teacher_config
from mmkd_models.train_config import OnStep, TrainingProgress
from mmkd_models.training.checkpoint import (
    StudentCheckpoint,
    TeacherFile,
    file_sha256,
    read_student,
    read_teacher,
    write_student,
    write_teacher,
)
from mmkd_models.training.committee import train_committee
from mmkd_models.training.predict import logits_of
from mmkd_models.training.students import labelled_race, labelled_student, mixings, taught_race, taught_student
from mmkd_models.training.trainings import keep_answers
from mmkd_report.schema.study import NONE

_DONE = "done"
TRIAL_FILE, TEACHER_FILE = "trial.json", "teacher.json"
_SEEDS_APART = 1000  # members of an ensemble start where no fold's seed does
_WAIT_S = 0.5

State = Literal["finished", "failed"]
Stage = Literal["teacher", "baseline", "rivals", "answers", "student", "taught", "judge"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Something that is made once; it can be pickled.

    Attributes:
        title: what a progress line calls it.
        path: the folder that is claimed while it is made.
        costs: of each training that reports steps; a teacher's first generation costs 1.
        is_done: whether its result is there.
    """

    stage: Stage
    title: str
    path: Path
    costs: tuple[float, ...]
    is_done: Callable[[], bool]
    make: Callable[[OnStep], object]


def make_runs(
    workers: Workers,
    runs: Sequence[Run],
    *,
    deadline: float | None = None,
    on_step: Callable[[Run, TrainingProgress], None] = lambda run, progress: None,
    on_end: Callable[[Run], None] = lambda run: None,
) -> None:
    """Make the runs that are not done, and wait for those that other commands make in the same folder.

    Args:
        deadline: when nothing new is begun, in seconds since the epoch.
    """
    while (waiting := [run for run in runs if not run.is_done()]) and not is_over(deadline):
        workers.run(make_claimed, _until(deadline, waiting), on_step=on_step, on_end=on_end)
        if not all(run.is_done() for run in waiting):
            time.sleep(_WAIT_S)


def make_claimed(run: Run, on_step: OnStep) -> None:
    """Make a run unless somebody else does or has."""
    with claim(run.path) as is_ours:
        if is_ours and not run.is_done():
            run.make(on_step)


def is_over(deadline: float | None) -> bool:
    """Whether the time is used up."""
    return deadline is not None and time.time() >= deadline


def _until(deadline: float | None, runs: Iterable[Run]) -> Iterator[Run]:
    for run in runs:
        if is_over(deadline):
            return
        yield run


class TeacherResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A finished teacher, with its score on validation."""

    format_version: int = FORMAT_VERSION
    teacher: TeacherChoice
    seed: int
    score: float
    duration_s: float
    parameters: int
    sha256: str


def teacher_run(folder: Folder, teacher: TeacherChoice, seed: int, *, figures_alone: bool = False) -> Run:
    """Return the run of a teacher of one member; if it teaches nobody, its figures are enough."""
    conditions = folder.conditions
    has_second = conditions.self_training and not conditions.labelled.is_all
    count = (teacher.committee or ("transformer",)).count("transformer")
    return Run(
        stage="teacher",
        title=f"seed {seed} teacher {teacher.name}",
        path=folder.of_teacher(teacher, seed),
        costs=((1.0, 1.33) if has_second else (1.0,)) * count,  # a second generation also asks the first; measured
        is_done=partial(_has_figures if figures_alone else is_teacher_here, folder, teacher, seed),
        make=partial(train_teacher, folder, teacher, seed),
    )


def train_teacher(folder: Folder, teacher: TeacherChoice, seed: int, on_step: OnStep) -> None:
    """Train a teacher of one member, or go on where its training was."""
    began, path, conditions = time.monotonic(), folder.of_teacher(teacher, seed), folder.conditions
    before = teacher_results(folder, teacher, seed)  # figures of another machine
    data, config = folder.fold(seed).training.with_modalities(teacher.modalities), teacher_config(teacher.preset)
    run = folder.training_run(conditions.teacher_train, path, seed + _SEEDS_APART * teacher.number, on_step)
    second = conditions.self_training
    members = teacher.committee or ("transformer",)
    trained = train_committee(data, config, run, members=members, self_training=second).checkpoint
    write_teacher(path / TEACHER_CHECKPOINT, trained)
    result = TeacherResult(
        teacher=teacher,
        seed=seed,
        score=trained.facts.score,
        duration_s=time.monotonic() - began,
        parameters=sum(parameter.numel() for parameter in trained.network().parameters()),
        sha256=file_sha256(path / TEACHER_CHECKPOINT),
    )
    if before is not None and before[0].sha256 != result.sha256:
        (path / TEST_FILE).unlink(missing_ok=True)  # the figures were of one with other last bits
    write_result(path / TEACHER_FILE, result)
    drop_resume_states(path)


def _has_figures(folder: Folder, teacher: TeacherChoice, seed: int) -> bool:
    return teacher_results(folder, teacher, seed) is not None


def teacher_results(folder: Folder, teacher: TeacherChoice, seed: int) -> tuple[TeacherResult, ...] | None:
    """The results of all members, or None if one of them is missing."""
    paths = [folder.of_teacher(member, seed) / TEACHER_FILE for member in teacher.members]
    results = [result for path in paths if (result := read_result(path, TeacherResult)) is not None]
    return tuple(results) if len(results) == len(paths) else None


def is_teacher_here(folder: Folder, teacher: TeacherChoice, seed: int) -> bool:
    """Whether every member is finished, with its checkpoint: results of another machine come without."""
    return teacher_results(folder, teacher, seed) is not None and all(
        (folder.of_teacher(member, seed) / TEACHER_CHECKPOINT).exists() for member in teacher.members
    )


def read_taught_by(folder: Folder, teacher: TeacherChoice, seed: int) -> tuple[TeacherFile, ...]:
    """The checkpoints of all members, in order."""
    paths = [folder.of_teacher(member, seed) / TEACHER_CHECKPOINT for member in teacher.members]
    return tuple(TeacherFile(checkpoint=read_teacher(path), sha256=file_sha256(path)) for path in paths)


def teacher_logits(folder: Folder, teacher: TeacherChoice, seed: int, windows: Windows) -> torch.Tensor:
    """What teaches answers to windows, (N, K): the mean of its networks' probabilities, as logits, or of numbers."""
    logits = []
    for one in read_taught_by(folder, teacher, seed):
        checkpoint = one.checkpoint
        own = windows.with_modalities([spec.name for spec in checkpoint.modalities])
        logits.append(torch.from_numpy(logits_of(checkpoint.network(), own, modality=None)))
    return mixed_logits(Goal(kind=windows.spec.task.kind), logits, temperature=1.0)


def teacher_outcome(folder: Folder, teacher: TeacherChoice, seed: int) -> TestedNetwork:
    """Judge what teaches on the test windows of its fold, once."""
    path = folder.of_teacher(teacher, seed) / TEST_FILE
    outcome = read_result(path, TestedNetwork)
    if outcome is None:
        test = folder.fold(seed).test
        outcome = outcome_on(test, teacher_logits(folder, teacher, seed, test).numpy())
        write_result(path, outcome)
    return outcome


class TrialResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a trial ended.

    Attributes:
        score: on validation, of the weights that were kept; None of a failed one.
        best_step: when they were reached.
        duration_s: of the training that finished it; a resumed one counts from where it was resumed.
        teacher_sha256: of the teacher's checkpoint; None if labels only taught.
    """

    format_version: int = FORMAT_VERSION
    trial: Trial
    state: State
    reason: str = ""
    score: float | None = None
    best_step: int | None = None
    duration_s: float
    parameters: int | None = None
    teacher_sha256: str | None = None
    student_sha256: str | None = None


def student_run(folder: Folder, trial: Trial) -> Run:
    """Return the run of a trial."""
    entry, conditions, rate = trial.candidate.entry, folder.conditions, trial.candidate.learning_rate
    name = "labels only" if entry.method == NONE else entry.method
    with_rate = f" {rate:g}" if len(folder.space.rates_of(entry)) > 1 else ""
    return Run(
        stage="baseline" if entry.teacher is None else "student",
        title=f"seed {trial.seed} {conditions.modality} {name} {entry.student}{with_rate}",
        path=folder.of_trial(trial),
        costs=(0.3,) * (len(mixings(conditions.augment)) if conditions.choose else 1),
        is_done=partial(_is_trained, folder, trial),
        make=partial(run_trial, folder, trial),
    )


def _is_trained(folder: Folder, trial: Trial) -> bool:
    return trial_result(folder, trial) is not None


def trial_result(folder: Folder, trial: Trial) -> TrialResult | None:
    """How a trial ended, or None if it has not."""
    return read_result(folder.of_trial(trial) / TRIAL_FILE, TrialResult)


def run_trial(folder: Folder, trial: Trial, on_step: OnStep) -> TrialResult:
    """Train a trial, or go on where its training was; return its result at once if there is one.

    A training that cannot be done (a loss that is no longer finite, say) is a result too: the trial failed.

    Raises:
        UsageError: the trial's teacher is not there.
    """
    ended = trial_result(folder, trial)
    if ended is not None:
        return ended
    name = trial.candidate.entry.teacher
    if name is not None and not is_teacher_here(folder, folder.space.teacher(name), trial.seed):
        raise UsageError(
            f"study {folder.out}: expected teacher {name} of seed {trial.seed}, found none; train it first"
        )
    began, path = time.monotonic(), folder.of_trial(trial)
    try:
        checkpoint = _train_student(folder, trial, path, on_step)
    except UsageError as error:
        return end_trial(folder, trial, state="failed", reason=str(error), duration_s=time.monotonic() - began)
    write_student(path / STUDENT_CHECKPOINT, checkpoint)
    return end_trial(
        folder,
        trial,
        state="finished",
        score=checkpoint.facts.score,
        best_step=checkpoint.facts.best_step,
        duration_s=time.monotonic() - began,
        parameters=sum(parameter.numel() for parameter in checkpoint.network().parameters()),
        teacher_sha256=checkpoint.facts.teacher_sha256,
        student_sha256=file_sha256(path / STUDENT_CHECKPOINT),
    )


def end_trial(folder: Folder, trial: Trial, *, state: State, duration_s: float, **facts: Any) -> TrialResult:
    """Write how a trial ended."""
    path = folder.of_trial(trial)
    result = TrialResult(trial=trial, state=state, duration_s=duration_s, **facts)
    write_result(path / TRIAL_FILE, result)
    drop_resume_states(path)
    return result


def _train_student(folder: Folder, trial: Trial, path: Path, on_step: OnStep) -> StudentCheckpoint:
    entry, conditions, modality = trial.candidate.entry, folder.conditions, folder.conditions.modality
    config, recipe = student_config(entry.student), folder.space.method(entry.method).recipe
    train = msgspec.structs.replace(conditions.student_train, learning_rate=trial.candidate.learning_rate)
    run = folder.training_run(train, path, trial.seed, on_step, embed_windows=folder.embed_windows)
    data = folder.fold(trial.seed).training
    if entry.teacher is None or recipe is None:
        return (labelled_race if conditions.choose else labelled_student)(data, modality, config, run)
    teachers = read_taught_by(folder, folder.space.teacher(entry.teacher), trial.seed)
    data = data.for_pair([spec.name for one in teachers for spec in one.checkpoint.modalities], modality)
    train_taught = taught_student
    if conditions.choose:
        rival = read_student(best_baseline(folder, entry, trial.seed)) if conditions.labels_compete else None
        train_taught = partial(taught_race, labelled=rival)
    return train_taught(data, modality, config, run, teachers=teachers, recipe=recipe)


def best_baseline(folder: Folder, entry: Entry, seed: int) -> Path:
    """The checkpoint of labels only of the entry's size that validates best. Raises UsageError if there is none."""
    baseline = Entry(student=entry.student, method=NONE, teacher=None)
    result = chosen_trials(folder, baseline, [seed]).get(seed)
    if result is None:
        reasons = (trial_result(folder, trial) for trial in trials_of(folder, baseline, [seed]))
        why = next((f": {result.reason}" for result in reasons if result is not None and result.reason), "")
        raise UsageError(
            f"{folder.conditions.modality}: expected labels only of seed {seed}, found none that is finished{why}"
        )
    return folder.of_trial(result.trial) / STUDENT_CHECKPOINT


def trials_of(folder: Folder, entry: Entry, seeds: Iterable[int]) -> tuple[Trial, ...]:
    """The trials of an entry: every learning rate on every seed."""
    return tuple(
        Trial(candidate=Candidate(entry=entry, learning_rate=rate), seed=seed)
        for seed in seeds
        for rate in folder.space.rates_of(entry)
    )


def chosen_trials(folder: Folder, entry: Entry, seeds: Iterable[int]) -> dict[int, TrialResult]:
    """For each seed on which the entry is finished, the learning rate that validates best; the first of equals."""
    best: dict[int, TrialResult] = {}
    for trial in trials_of(folder, entry, seeds):
        result = trial_result(folder, trial)
        if result is None or result.state != "finished" or result.score is None:
            continue
        if trial.seed not in best or result.score > (best[trial.seed].score or 0.0):
            best[trial.seed] = result
    return best


def student_of(folder: Folder, trial: Trial) -> StudentCheckpoint:
    """A finished trial's student with the validation windows that an export calibrates and compares with."""
    checkpoint = read_student(folder.of_trial(trial) / STUDENT_CHECKPOINT)
    valid = folder.fold(trial.seed).training.valid
    return replace(checkpoint, carried=carried_windows(valid, folder.conditions.modality, seed=trial.seed))


def trial_outcome(folder: Folder, trial: Trial) -> TestedNetwork:
    """Judge a finished trial on the test windows of its fold, once."""
    path = folder.of_trial(trial)
    outcome = read_result(path / TEST_FILE, TestedNetwork)
    if outcome is None:
        network, test = read_student(path / STUDENT_CHECKPOINT).network(), folder.fold(trial.seed).test
        outcome = outcome_on(test, logits_of(network, test, modality=folder.conditions.modality))
        write_result(path / TEST_FILE, outcome)
    return outcome


def _answers_run(folder: Folder, seed: int, block: int) -> Run:
    """What the folder's first teacher answers to a block of the batches that its students see."""
    own = folder.conditions
    key = hash_of([own.student_train, own.augment, teacher_name(own, folder.space.teachers[0], seed)])
    path = folder.out / ANSWERS_FOLDER / f"{key}-seed{seed}-{block}"
    return Run(
        stage="answers",
        title=f"seed {seed} answers {block + 1}/{BLOCKS}",
        path=path,
        costs=(0.32 / BLOCKS,) * (len(mixings(own.augment)) if own.choose else 1),
        is_done=(path / _DONE).exists,
        make=partial(_keep_answers, folder, seed, block, path),
    )


def _keep_answers(folder: Folder, seed: int, block: int, path: Path, on_step: OnStep) -> None:
    conditions = folder.conditions
    recipe = next(method.recipe for method in folder.space.methods if method.recipe is not None)
    teachers = read_taught_by(folder, folder.space.teachers[0], seed)
    run = folder.training_run(conditions.student_train, path, seed, on_step)
    for augment in mixings(conditions.augment) if conditions.choose else (conditions.augment,):
        own = replace(run, augment=augment)
        keep_answers(folder.fold(seed).training, own, block, teachers=teachers, recipe=recipe)
    (path / _DONE).touch()


class RivalResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rival on the test windows of a seed's fold, or the reason why there are no answers of it.

    Attributes:
        teacher: name of what taught it; empty if nobody did.
        valid_score: what validation maximises.
    """

    rival: RivalName
    seed: int
    test: TestedNetwork | None = None
    valid_score: float | None = None
    teacher: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        """What it is called, and by whom it is taught."""
        return f"{self.rival} {self.teacher}".rstrip()


def _rivals_run(folder: Folder, rivals: tuple[RivalName, ...], seed: int) -> Run:
    stage: Stage = "taught" if "taught_rocket" in rivals else "rivals"
    path = rival_file(folder, rivals[0], seed).with_suffix("")
    return Run(
        stage=stage,
        title=f"seed {seed} {folder.conditions.modality} {stage}",
        path=path,
        costs=(0.05,),
        is_done=partial(_are_judged, folder, rivals, seed, path),
        make=partial(_judge_once, folder, rivals, seed, path),
    )


def _are_judged(folder: Folder, rivals: tuple[RivalName, ...], seed: int, path: Path) -> bool:
    return (path / _DONE).exists() or all(rival_file(folder, rival, seed).exists() for rival in rivals)


def _judge_once(folder: Folder, rivals: tuple[RivalName, ...], seed: int, path: Path, on_step: OnStep) -> None:
    judge_rivals(folder, rivals, seed)
    (path / _DONE).touch()  # what cannot be run here is not tried by every worker


def rival_file(folder: Folder, rival: RivalName, seed: int) -> Path:
    """Where a rival's result is kept."""
    teacher = _teacher_of_rivals(folder) if rival == "taught_rocket" else None
    own = folder.conditions
    decides = {
        "dataset": own.dataset_sha256,
        "labelled": own.labelled,
        "left_out": own.left_out,
        "metric": own.student_train.metric,
        "teacher": teacher and teacher_name(own, teacher, seed),
    }
    return folder.out / "rivals" / f"{own.modality}-{rival}-seed{seed}-{hash_of(decides)}.json"


def judge_rivals(folder: Folder, rivals: Sequence[RivalName], seed: int) -> tuple[RivalResult, ...]:
    """Train and judge rivals on the student's sensor and labels, once.

    The taught one learns from the first teacher that is a single network, or several that answer together, and here.
    A rival that cannot be run here is not kept, so that it is tried again where it can.
    """
    known = {rival: read_result(rival_file(folder, rival, seed), RivalResult) for rival in rivals}
    if all(known.values()):
        return tuple(result for result in known.values() if result is not None)
    fold, conditions, teacher = folder.fold(seed), folder.conditions, _teacher_of_rivals(folder)

    def teach(windows: Windows) -> Answers:
        assert teacher is not None
        logits = teacher_logits(folder, teacher, seed, windows).double().numpy()
        kind = windows.spec.task.kind
        return logits if kind == "regression" else probabilities_of(logits, kind=kind)

    contestants = Contestants(
        train=fold.training.train,
        parts=(fold.training.valid, fold.test),
        modality=conditions.modality,
        seed=seed,
        metric=conditions.student_train.metric,
        teach=teach if teacher is not None and is_teacher_here(folder, teacher, seed) else None,
    )
    results = []
    for rival, kept in known.items():
        result = kept
        if result is None:
            name = teacher.name if rival == "taught_rocket" and teacher is not None else ""
            judged = contestants.judged(rival)
            if isinstance(judged, str):
                result = RivalResult(rival=rival, seed=seed, teacher=name, reason=judged)
            else:
                valid, test = judged
                score = valid.scores.metric(conditions.student_train.metric)
                result = RivalResult(rival=rival, seed=seed, teacher=name, test=test, valid_score=score)
                write_result(rival_file(folder, rival, seed), result)
        results.append(result)
    return tuple(results)


def _teacher_of_rivals(folder: Folder) -> TeacherChoice | None:
    return next(iter(folder.space.teachers), None)


def teacher_runs(folder: Folder, teachers: Iterable[TeacherChoice], seeds: Iterable[int]) -> list[Run]:
    """The runs of all members of these teachers, each once."""
    members = dict.fromkeys(member for teacher in teachers for member in teacher.members)
    return [teacher_run(folder, member, seed) for seed in seeds for member in members]


def grid_phases(
    folder: Folder,
    chosen: Sequence[Candidate],
    seeds: Sequence[int],
    *,
    rivals: Sequence[RivalName],
    ask_before: bool = False,
) -> tuple[list[Run], ...]:
    """The phases of a grid: the runs of each can be made side by side, those of later ones after it.

    Args:
        ask_before: let the teacher answer the batches of its students once for all, where a recipe uses outputs alone.
    """
    alone = [Trial(candidate=one, seed=seed) for one in chosen for seed in seeds if one.entry.teacher is None]
    taught = [Trial(candidate=one, seed=seed) for one in chosen for seed in seeds if one.entry.teacher is not None]
    waiting = [trial for trial in taught if not _is_trained(folder, trial)]
    names = {trial.candidate.entry.teacher for trial in waiting}
    untaught = tuple(rival for rival in rivals if rival != "taught_rocket")
    first = teacher_runs(folder, [one for one in folder.space.teachers if one.name in names], seeds)
    first += [student_run(folder, trial) for trial in alone]
    first += [_rivals_run(folder, untaught, seed) for seed in seeds if untaught]
    later = [student_run(folder, trial) for trial in taught]
    later += [_rivals_run(folder, ("taught_rocket",), seed) for seed in seeds if "taught_rocket" in rivals]
    answers = []
    terms = [term for one in folder.space.methods if one.recipe is not None for term in one.recipe.terms]
    if ask_before and not any(term.compares_layers() for term in terms):
        missing = dict.fromkeys(trial.seed for trial in waiting)
        answers = [_answers_run(folder, seed, block) for seed in missing for block in range(BLOCKS)]
    return first, answers, later
