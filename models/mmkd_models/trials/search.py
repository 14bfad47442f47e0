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

from mmkd_models.train_config import Progress
from mmkd_models.trials.choice import baseline_candidates, scores_of_candidate
from mmkd_models.trials.plan import NONE, Candidate, Entry, Trial, candidate_key, candidates
from mmkd_models.trials.teachers import teacher_results
from mmkd_models.trials.trials import TrialResult, end_trial, run_trial, trial_result
from mmkd_models.trials.workers import WAIT_S, Bench, share, teacher_jobs

if TYPE_CHECKING:
    import optuna  # pragma: no cover

_STARTUP_TRIALS = 5
_WARMUP_SHARE = 1 / 3
_REPEATS = 10  # proposals that were tried already, in a row, before one is drawn among those that were not
_CANDIDATE = "candidate"


def search(bench: Bench, number: int) -> None:
    """Tries candidates until enough were tried, none is left or time is used up, and waits for the other workers'."""
    study = open_study(bench, number)
    _tell_finished(bench, study)
    while not is_enough(bench):
        if not _next(bench, study, number):
            break
    while any(_is_running(bench, candidate) for candidate in _distilled(bench)) and not bench.is_over:
        bench.tick(None)
        time.sleep(WAIT_S)
    _tell_finished(bench, study)


def open_study(bench: Bench, number: int) -> optuna.Study:
    """Opens Optuna's study of this order; another space or other conditions are another study in the same storage."""
    import optuna

    order = bench.order
    name = f"{order.conditions.modality}-{_space_key(bench)}"
    evaluations = -(-order.conditions.student_train.steps // order.conditions.student_train.eval_every)
    return optuna.create_study(
        storage=bench.claims.storage,
        study_name=name,
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=number),
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=round(_WARMUP_SHARE * evaluations)
        ),
    )


def is_enough(bench: Bench) -> bool:
    """Whether the search has tried, or is trying, as many candidates as it may, or has to leave time for finalists."""
    tried = [one for one in _distilled(bench) if _has_ended(bench, one) or _is_running(bench, one)]
    deadline = bench.order.deadline
    is_late = deadline is not None and time.time() + _finalists_s(bench) >= deadline
    return len(tried) >= bench.order.trials or is_late


def _distilled(bench: Bench) -> tuple[Candidate, ...]:
    found = candidates(bench.order.space, bench.order.impossible)
    return tuple(candidate for candidate in found if candidate.entry.method != NONE)


def _finalists_s(bench: Bench) -> float:
    """How long the finalists will take, from the trainings so far."""
    order = bench.order
    trials = [
        trial_result(bench.folder, trial) for one in baseline_candidates(order.space) for trial in _trials(bench, one)
    ]
    seconds = [result.duration_s for result in trials if result is not None and result.state == "finished"]
    teachers = [
        teacher_results(bench.folder, teacher, seed) for teacher in order.space.teachers for seed in order.search_seeds
    ]
    teaching = [sum(one.duration_s for one in results) for results in teachers if results is not None]
    each = float(np.mean(seconds)) if seconds else 0.0
    each_teacher = float(np.mean(teaching)) if teaching else each
    entries = order.finalists + min(order.finalists, len(order.space.students))
    taught = min(order.finalists, len(order.space.teachers))
    return len(order.seeds) * (each * entries + each_teacher * taught) / order.workers


def _trials(bench: Bench, candidate: Candidate) -> list[Trial]:
    return [Trial(candidate=candidate, seed=seed) for seed in bench.order.search_seeds]


def _key(bench: Bench, candidate: Candidate) -> str:
    return candidate_key(bench.order.conditions, bench.order.space, candidate, bench.order.search_seeds)


def _space_key(bench: Bench) -> str:
    """A hash of all that Optuna's study depends on: every candidate, whatever it consists of."""
    keys = [_key(bench, candidate) for candidate in candidates(bench.order.space, bench.order.impossible)]
    return hashlib.sha256(msgspec.json.encode(keys)).hexdigest()[:10]


def _has_ended(bench: Bench, candidate: Candidate) -> bool:
    results = [trial_result(bench.folder, trial) for trial in _trials(bench, candidate)]
    given_up = any(result is not None and result.state != "finished" for result in results)
    return given_up or all(result is not None for result in results)


def _is_running(bench: Bench, candidate: Candidate) -> bool:
    return not _has_ended(bench, candidate) and bench.claims.is_held(_key(bench, candidate))


def _next(bench: Bench, study: optuna.Study, number: int) -> bool:
    """Tries one more candidate; gives False where none is left that nobody tries."""
    for _ in range(_REPEATS):
        proposal = study.ask()
        candidate = _proposed(bench, proposal)
        if candidate is not None and _try(bench, study, proposal, candidate):
            return True
    free = [one for one in _distilled(bench) if not _has_ended(bench, one) and not _is_running(bench, one)]
    if not free:
        return False
    drawn = free[int(np.random.default_rng([number, len(free)]).integers(len(free)))]
    study.enqueue_trial(_parameters(drawn))
    proposal = study.ask()
    candidate = _proposed(bench, proposal)
    if candidate is not None:
        _try(bench, study, proposal, candidate)
    return True


def _proposed(bench: Bench, proposal: optuna.Trial) -> Candidate | None:
    """The candidate that Optuna proposes; None, and the proposal is closed, where it cannot be trained."""
    choices = _choices(bench)
    values = {name: proposal.suggest_categorical(name, values) for name, values in choices.items()}
    entry = msgspec.convert({name: values[name] for name in ("student", "method", "teacher")}, Entry)
    if entry in bench.order.impossible:
        _close(proposal, "impossible")
        return None
    return Candidate(entry=entry, learning_rate=float(values["learning_rate"]))


def _choices(bench: Bench) -> dict[str, list[Any]]:
    space = bench.order.space
    return {
        "student": list(space.students),
        "method": [method.name for method in space.methods if method.name != NONE],
        "teacher": [teacher.name for teacher in space.teachers],
        "learning_rate": list(space.learning_rates),
    }


def distributions(bench: Bench) -> dict[str, optuna.distributions.BaseDistribution]:
    """Gives what Optuna chooses among."""
    import optuna

    return {name: optuna.distributions.CategoricalDistribution(values) for name, values in _choices(bench).items()}


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


def _try(bench: Bench, study: optuna.Study, proposal: optuna.Trial, candidate: Candidate) -> bool:
    """Trains a candidate unless somebody has or does."""
    key = _key(bench, candidate)
    with bench.claims.hold(key) as mine:
        if not mine or _has_ended(bench, candidate):
            _close(proposal, "tried already")
            return False
        if _is_one_too_many(bench, candidate):
            _close(proposal, "enough were tried")
            return True
        proposal.set_user_attr(_CANDIDATE, key)
        _run(bench, study, proposal, candidate)
        return True


def _is_one_too_many(bench: Bench, candidate: Candidate) -> bool:
    """Whether others have taken, a moment before, the last candidates that may be tried."""
    own = bench.claims.number(_key(bench, candidate))
    earlier = [
        other
        for other in _distilled(bench)
        if _has_ended(bench, other) or (_is_running(bench, other) and bench.claims.number(_key(bench, other)) < own)
    ]
    return len(earlier) >= bench.order.trials


def _run(bench: Bench, study: optuna.Study, proposal: optuna.Trial, candidate: Candidate) -> None:
    """Trains a candidate on the search's seeds, one after the other, and tells Optuna how it ended."""
    import optuna

    scores: list[float] = []
    for trial in _trials(bench, candidate):
        result = _run_one(bench, proposal, trial, scores)
        if result is None or result.state == "failed":
            _close(proposal, "time used up" if result is None else result.reason)
            return
        if result.state == "pruned":
            study.tell(proposal, state=optuna.trial.TrialState.PRUNED)
            return
        scores.append(0.0 if result.score is None else result.score)
    if _is_first_to_tell(bench, candidate):
        study.tell(proposal, float(np.mean(scores)))
    else:
        _close(proposal, "told already")


def _run_one(bench: Bench, proposal: optuna.Trial, trial: Trial, scores: list[float]) -> TrialResult | None:
    """Trains one trial, or waits for whoever does; gives None where the time is used up before it begins."""
    space, name = bench.order.space, trial.candidate.entry.teacher
    if name is not None:
        share(bench, teacher_jobs(bench, [space.teacher(name)], trial.seed))
    while (result := trial_result(bench.folder, trial)) is None and not bench.is_over:
        with bench.claims.hold(bench.folder.of_trial(trial).name) as mine:
            if mine:
                return _pruned_or_finished(bench, proposal, trial, scores)
        bench.tick(None)
        time.sleep(WAIT_S)
    return result


def _pruned_or_finished(bench: Bench, proposal: optuna.Trial, trial: Trial, scores: list[float]) -> TrialResult:
    import optuna

    train, began = bench.order.conditions.student_train, time.monotonic()
    evaluations = -(-train.steps // train.eval_every)
    best: list[float] = []

    def watch(progress: Progress) -> None:
        bench.tick(progress)
        is_validated = progress.step % train.eval_every == 0 or progress.step == progress.steps
        if not is_validated or progress.best_score is None:
            return
        best.append(progress.best_score)
        step = len(scores) * evaluations + -(-progress.step // train.eval_every)
        proposal.report(float(np.mean([*scores, progress.best_score])), step)
        if proposal.should_prune():
            raise optuna.TrialPruned

    try:
        return run_trial(bench.folder, trial, on_step=watch)
    except optuna.TrialPruned:
        duration_s = time.monotonic() - began
        return end_trial(bench.folder, trial, state="pruned", score=best[-1], duration_s=duration_s)


def _tell_finished(bench: Bench, study: optuna.Study) -> None:
    """Tells Optuna of candidates whose process did not live to do so, and closes what dead processes left open."""
    import optuna

    for open_trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        key = open_trial.user_attrs.get(_CANDIDATE)
        if key is not None and not bench.claims.is_held(key):
            study.tell(open_trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
    for candidate in _distilled(bench):
        scores = scores_of_candidate(bench.folder, candidate, bench.order.search_seeds)
        if scores is None or _is_running(bench, candidate) or not _is_first_to_tell(bench, candidate):
            continue
        study.add_trial(
            optuna.trial.create_trial(
                params=_parameters(candidate),
                distributions=distributions(bench),
                value=float(np.mean(scores)),
                user_attrs={_CANDIDATE: _key(bench, candidate)},
            )
        )


def _is_first_to_tell(bench: Bench, candidate: Candidate) -> bool:
    return bench.claims.once(f"told/{_space_key(bench)}/{_key(bench, candidate)}")
