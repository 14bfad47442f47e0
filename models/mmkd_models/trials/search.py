"""The search of a study: Optuna proposes candidates (TPE) and gives up hopeless ones early (median pruning).

Sources: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011 (TPE); Golovin et al., "Google
Vizier", KDD 2017 (median stopping). What a candidate scores is the mean of its trials' validation scores on the
search's seeds; the test windows are not read.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mmkd_models.train_config import TrainingProgress
from mmkd_models.trials.by_validation import baseline_candidates, scores_of_candidate
from mmkd_models.trials.space import Candidate, Entry, Trial, candidate_key, candidates
from mmkd_models.trials.students import TrialResult, end_trial, run_trial, trial_result
from mmkd_models.trials.teachers import teacher_results
from mmkd_models.trials.worker import WAIT_S, Worker, share, teacher_trainings
from mmkd_report.schema.study import NONE

if TYPE_CHECKING:
    import optuna  # pragma: no cover

_STARTUP_TRIALS = 5
_WARMUP_SHARE = 1 / 3
_REPEATS = 10  # proposals that were tried already, in a row, before one is drawn among those that were not
_CANDIDATE = "candidate"


def search(worker: Worker, number: int) -> None:
    """Tries candidates until enough were tried, none is left or time is used up, and waits for the other workers'."""
    study = open_study(worker, number)
    _tell_finished(worker, study)
    while not is_enough(worker):
        if not _next(worker, study, number):
            break
    while any(_is_running(worker, candidate) for candidate in _distilled(worker)) and not worker.is_over:
        worker.tick(None)
        time.sleep(WAIT_S)
    _tell_finished(worker, study)


def open_study(worker: Worker, number: int) -> optuna.Study:
    """Opens Optuna's study of this order; another space or other conditions are another study in the same storage."""
    import optuna

    order = worker.order
    name = f"{order.conditions.modality}-{_space_key(worker)}"
    evaluations = -(-order.conditions.student_train.steps // order.conditions.student_train.eval_every)
    return optuna.create_study(
        storage=worker.claims.storage,
        study_name=name,
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=number),
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=round(_WARMUP_SHARE * evaluations)
        ),
    )


def is_enough(worker: Worker) -> bool:
    """Whether the search has tried, or is trying, as many candidates as it may, or has to leave time for finalists."""
    tried = [one for one in _distilled(worker) if _has_ended(worker, one) or _is_running(worker, one)]
    deadline = worker.order.deadline
    is_late = deadline is not None and time.time() + _finalists_s(worker) >= deadline
    return len(tried) >= worker.order.trials or is_late


def _distilled(worker: Worker) -> tuple[Candidate, ...]:
    found = candidates(worker.order.space, worker.order.impossible)
    return tuple(candidate for candidate in found if candidate.entry.method != NONE)


def _finalists_s(worker: Worker) -> float:
    """How long the finalists will take, from the trainings so far."""
    order = worker.order
    trials = [
        trial_result(worker.folder, trial) for one in baseline_candidates(order.space) for trial in _trials(worker, one)
    ]
    seconds = [result.duration_s for result in trials if result is not None and result.state == "finished"]
    teachers = [
        teacher_results(worker.folder, teacher, seed) for teacher in order.space.teachers for seed in order.search_seeds
    ]
    teaching = [sum(one.duration_s for one in results) for results in teachers if results is not None]
    each = float(np.mean(seconds)) if seconds else 0.0
    each_teacher = float(np.mean(teaching)) if teaching else each
    entries = order.finalists + min(order.finalists, len(order.space.students))
    taught = min(order.finalists, len(order.space.teachers))
    return len(order.seeds) * (each * entries + each_teacher * taught) / order.workers


def _trials(worker: Worker, candidate: Candidate) -> list[Trial]:
    return [Trial(candidate=candidate, seed=seed) for seed in worker.order.search_seeds]


def _key(worker: Worker, candidate: Candidate) -> str:
    return candidate_key(worker.order.conditions, worker.order.space, candidate, worker.order.search_seeds)


def _space_key(worker: Worker) -> str:
    """A hash of all that Optuna's study depends on: every candidate, whatever it consists of."""
    keys = [_key(worker, candidate) for candidate in candidates(worker.order.space, worker.order.impossible)]
    return hashlib.sha256(msgspec.json.encode(keys)).hexdigest()[:10]


def _has_ended(worker: Worker, candidate: Candidate) -> bool:
    results = [trial_result(worker.folder, trial) for trial in _trials(worker, candidate)]
    given_up = any(result is not None and result.state != "finished" for result in results)
    return given_up or all(result is not None for result in results)


def _is_running(worker: Worker, candidate: Candidate) -> bool:
    return not _has_ended(worker, candidate) and worker.claims.is_held(_key(worker, candidate))


def _next(worker: Worker, study: optuna.Study, number: int) -> bool:
    """Tries one more candidate; gives False where none is left that nobody tries."""
    for _ in range(_REPEATS):
        proposal = study.ask()
        candidate = _proposed(worker, proposal)
        if candidate is not None and _try(worker, study, proposal, candidate):
            return True
    free = [one for one in _distilled(worker) if not _has_ended(worker, one) and not _is_running(worker, one)]
    if not free:
        return False
    drawn = free[int(np.random.default_rng([number, len(free)]).integers(len(free)))]
    study.enqueue_trial(_parameters(drawn))
    proposal = study.ask()
    candidate = _proposed(worker, proposal)
    if candidate is not None:
        _try(worker, study, proposal, candidate)
    return True


def _proposed(worker: Worker, proposal: optuna.Trial) -> Candidate | None:
    """The candidate that Optuna proposes; None, and the proposal is closed, where it cannot be trained."""
    choices = _choices(worker)
    values = {name: proposal.suggest_categorical(name, values) for name, values in choices.items()}
    entry = msgspec.convert({name: values[name] for name in ("student", "method", "teacher")}, Entry)
    if entry in worker.order.impossible:
        _close(proposal, "impossible")
        return None
    return Candidate(entry=entry, learning_rate=float(values["learning_rate"]))


def _choices(worker: Worker) -> dict[str, list[Any]]:
    space = worker.order.space
    return {
        "student": list(space.students),
        "method": [method.name for method in space.methods if method.name != NONE],
        "teacher": [teacher.name for teacher in space.teachers],
        "learning_rate": list(space.learning_rates),
    }


def distributions(worker: Worker) -> dict[str, optuna.distributions.BaseDistribution]:
    """Gives what Optuna chooses among."""
    import optuna

    return {name: optuna.distributions.CategoricalDistribution(values) for name, values in _choices(worker).items()}


def _parameters(candidate: Candidate) -> dict[str, Any]:
    entry = candidate.entry
    return {
        "student": entry.student,
        "method": entry.method,
        "teacher": entry.teacher,
        "learning_rate": candidate.learning_rate,
    }


def _close(proposal: optuna.Trial, why: str) -> None:
    import optuna

    proposal.set_user_attr("closed", why)
    proposal.study.tell(proposal, state=optuna.trial.TrialState.FAIL)


def _try(worker: Worker, study: optuna.Study, proposal: optuna.Trial, candidate: Candidate) -> bool:
    """Trains a candidate unless somebody has or does."""
    key = _key(worker, candidate)
    with worker.claims.hold(key) as mine:
        if not mine or _has_ended(worker, candidate):
            _close(proposal, "tried already")
            return False
        if _is_one_too_many(worker, candidate):
            _close(proposal, "enough were tried")
            return True
        proposal.set_user_attr(_CANDIDATE, key)
        _run(worker, study, proposal, candidate)
        return True


def _is_one_too_many(worker: Worker, candidate: Candidate) -> bool:
    """Whether others have taken, a moment before, the last candidates that may be tried."""
    own = worker.claims.number(_key(worker, candidate))
    earlier = [
        other
        for other in _distilled(worker)
        if _has_ended(worker, other) or (_is_running(worker, other) and worker.claims.number(_key(worker, other)) < own)
    ]
    return len(earlier) >= worker.order.trials


def _run(worker: Worker, study: optuna.Study, proposal: optuna.Trial, candidate: Candidate) -> None:
    """Trains a candidate on the search's seeds, one after the other, and tells Optuna how it ended."""
    import optuna

    scores: list[float] = []
    for trial in _trials(worker, candidate):
        result = _run_one(worker, proposal, trial, scores)
        if result is None or result.state == "failed":
            _close(proposal, "time used up" if result is None else result.reason)
            return
        if result.state == "pruned":
            study.tell(proposal, state=optuna.trial.TrialState.PRUNED)
            return
        scores.append(0.0 if result.score is None else result.score)
    if _is_first_to_tell(worker, candidate):
        study.tell(proposal, float(np.mean(scores)))
    else:
        _close(proposal, "told already")


def _run_one(worker: Worker, proposal: optuna.Trial, trial: Trial, scores: list[float]) -> TrialResult | None:
    """Trains one trial, or waits for whoever does; gives None where the time is used up before it begins."""
    space, name = worker.order.space, trial.candidate.entry.teacher
    if name is not None:
        share(worker, teacher_trainings(worker, [space.teacher(name)], trial.seed))
    while (result := trial_result(worker.folder, trial)) is None and not worker.is_over:
        with worker.claims.hold(worker.folder.of_trial(trial).name) as mine:
            if mine:
                return _pruned_or_finished(worker, proposal, trial, scores)
        worker.tick(None)
        time.sleep(WAIT_S)
    return result


def _pruned_or_finished(worker: Worker, proposal: optuna.Trial, trial: Trial, scores: list[float]) -> TrialResult:
    import optuna

    conditions, began = worker.order.conditions, time.monotonic()
    train = conditions.student_train
    evaluations = -(-train.steps // train.eval_every)
    best: list[float] = []

    def watch(progress: TrainingProgress) -> None:
        worker.tick(progress)
        is_validated = progress.step % train.eval_every == 0 or progress.step == progress.steps
        if conditions.choose or not is_validated or progress.best_score is None:
            return  # a race consists of several trainings: no step of one is comparable to that of another
        best.append(progress.best_score)
        step = len(scores) * evaluations + -(-progress.step // train.eval_every)
        proposal.report(float(np.mean([*scores, progress.best_score])), step)
        if proposal.should_prune():
            raise optuna.TrialPruned

    try:
        return run_trial(worker.folder, trial, on_step=watch)
    except optuna.TrialPruned:
        duration_s = time.monotonic() - began
        return end_trial(worker.folder, trial, state="pruned", score=best[-1], duration_s=duration_s)


def _tell_finished(worker: Worker, study: optuna.Study) -> None:
    """Tells Optuna of candidates whose process did not live to do so, and closes what dead processes left open."""
    import optuna

    for open_trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        key = open_trial.user_attrs.get(_CANDIDATE)
        if key is not None and not worker.claims.is_held(key):
            study.tell(open_trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
    for candidate in _distilled(worker):
        scores = scores_of_candidate(worker.folder, candidate, worker.order.search_seeds)
        if scores is None or _is_running(worker, candidate) or not _is_first_to_tell(worker, candidate):
            continue
        study.add_trial(
            optuna.trial.create_trial(
                params=_parameters(candidate),
                distributions=distributions(worker),
                value=float(np.mean(scores)),
                user_attrs={_CANDIDATE: _key(worker, candidate)},
            )
        )


def _is_first_to_tell(worker: Worker, candidate: Candidate) -> bool:
    return worker.claims.once(f"told/{_space_key(worker)}/{_key(worker, candidate)}")
