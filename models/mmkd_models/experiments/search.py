"""The search of a study: Optuna proposes candidates (TPE) and gives up hopeless ones early (median pruning).

Sources: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011 (TPE); Golovin et al., "Google
Vizier", KDD 2017 (median stopping). What a candidate scores is the mean of its trials' validation scores on the
search's seeds; the test windows are not read. Optuna's study lives in memory and is read from the folder each time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mmkd_models.experiments.folder import Folder
from mmkd_models.experiments.plan import Candidate, Entry, Trial, candidates
from mmkd_models.experiments.runs import Run, TrialResult, end_trial, run_trial, trial_result
from mmkd_models.train_config import OnStep, TrainingProgress
from mmkd_report.schema.study import NONE

if TYPE_CHECKING:
    import optuna  # pragma: no cover

_STARTUP_TRIALS = 5
_WARMUP = 1 / 3  # of the validations of a trial
_REPEATS = 10  # proposals that were tried already, in a row, before one is drawn among those that were not


def scores_of(folder: Folder, candidate: Candidate, seeds: Sequence[int]) -> tuple[float, ...] | None:
    """The validation scores on these seeds, or None unless all are finished."""
    results = [trial_result(folder, Trial(candidate=candidate, seed=seed)) for seed in seeds]
    scores = [one.score for one in results if one is not None and one.state == "finished" and one.score is not None]
    return tuple(scores) if len(scores) == len(seeds) else None


def best_candidates(
    folder: Folder, impossible: Sequence[Entry], seeds: Sequence[int]
) -> tuple[tuple[Candidate, float], ...]:
    """Every entry that is finished on these seeds with its best learning rate and mean score, the best first."""
    best: dict[Entry, tuple[Candidate, float]] = {}
    for candidate in candidates(folder.space, impossible):
        scores = scores_of(folder, candidate, seeds)
        if scores is None:
            continue
        mean = float(np.mean(scores))
        if candidate.entry not in best or mean > best[candidate.entry][1]:
            best[candidate.entry] = (candidate, mean)
    sizes = {preset: number for number, preset in enumerate(("tiny", "small", "medium", "base"))}
    return tuple(sorted(best.values(), key=lambda one: (-one[1], sizes[one[0].entry.student], one[0].entry.method)))


def finalists(folder: Folder, impossible: Sequence[Entry], seeds: Sequence[int], *, most: int) -> tuple[Candidate, ...]:
    """Labels only in the finalists' sizes and the best entries of a search, each with its best learning rate."""
    ranked = [candidate for candidate, _ in best_candidates(folder, impossible, seeds)]
    chosen = [candidate for candidate in ranked if candidate.entry.method != NONE][:most]
    sizes = {candidate.entry.student for candidate in chosen}
    baselines = [one for one in ranked if one.entry.method == NONE and one.entry.student in sizes]
    return (*baselines, *chosen)


def search_run(folder: Folder, impossible: tuple[Entry, ...], seeds: tuple[int, ...], candidate: Candidate) -> Run:
    """Return the run of a candidate on the search's seeds, one after the other, until it ends or is given up."""
    entry = candidate.entry
    return Run(
        stage="search",
        title=f"search {folder.conditions.modality} {entry.method} {entry.student} {candidate.learning_rate:g}",
        path=folder.of_trial(Trial(candidate=candidate, seed=seeds[0])),
        costs=(0.3,) * len(seeds),
        is_done=partial(_has_ended, folder, candidate, seeds),
        make=partial(_try_candidate, folder, impossible, seeds, candidate),
    )


def _has_ended(folder: Folder, candidate: Candidate, seeds: Sequence[int]) -> bool:
    results = _results(folder, candidate, seeds)
    return len(results) == len(seeds) or any(one.state != "finished" for one in results)


def _try_candidate(
    folder: Folder, impossible: Sequence[Entry], seeds: Sequence[int], candidate: Candidate, on_step: OnStep
) -> None:
    """Train its trials. A race is never given up: it has several trainings, whose steps cannot be compared."""
    import optuna

    train = folder.conditions.student_train
    proposal = study_of(folder, impossible, seeds).ask()
    scores: list[float] = []
    for number, seed in enumerate(seeds):
        began, best = time.monotonic(), list[float]()
        trial = Trial(candidate=candidate, seed=seed)

        def watch(progress: TrainingProgress, number: int = number, best: list[float] = best) -> None:
            on_step(progress)
            is_validated = progress.step % train.eval_every == 0 or progress.step == progress.steps
            if folder.conditions.choose or not is_validated or progress.best_score is None:
                return
            best.append(progress.best_score)
            step = number * _validations(folder) + -(-progress.step // train.eval_every)
            proposal.report(float(np.mean([*scores, progress.best_score])), step)
            if proposal.should_prune():
                raise optuna.TrialPruned

        try:
            result = run_trial(folder, trial, on_step=watch)
        except optuna.TrialPruned:
            duration_s = time.monotonic() - began
            end_trial(folder, trial, state="pruned", score=best[-1], curve=tuple(best), duration_s=duration_s)
            return
        if result.score is None:
            return
        scores.append(result.score)


def proposals(folder: Folder, impossible: tuple[Entry, ...], seeds: tuple[int, ...], *, trials: int) -> Iterator[Run]:
    """Yield what the search tries next, until so many candidates were tried or none is left.

    Candidates that ended in the folder before, or by another command, count.
    """
    distilled, begun = _distilled(folder, impossible), set[Candidate]()
    while True:
        taken = begun | {candidate for candidate in distilled if _has_ended(folder, candidate, seeds)}
        if len(taken) >= min(trials, len(distilled)):
            return
        candidate = _propose(folder, impossible, seeds, taken)
        begun.add(candidate)
        yield search_run(folder, impossible, seeds, candidate)


def study_of(
    folder: Folder, impossible: Sequence[Entry], seeds: Sequence[int], *, sampler_seed: int = 0
) -> optuna.Study:
    """Optuna's study in memory, with every candidate that ended in the folder."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warmup = round(_WARMUP * _validations(folder))
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=sampler_seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=warmup),
    )
    for candidate in _distilled(folder, impossible):
        results = _results(folder, candidate, seeds)
        pruned = any(one.state == "pruned" for one in results)
        if any(one.state == "failed" for one in results) or not (pruned or len(results) == len(seeds)):
            continue
        scores = [one.score for one in results if one.score is not None]
        values = {
            number * _validations(folder) + at: float(np.mean([*scores[:number], score]))
            for number, one in enumerate(results)
            for at, score in enumerate(one.curve, start=1)
        }
        state = optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                params=msgspec.structs.asdict(candidate.entry) | {"learning_rate": candidate.learning_rate},
                distributions=_distributions(folder),
                value=None if pruned else float(np.mean(scores)),
                intermediate_values=values,
            )
        )
    return study


def _propose(folder: Folder, impossible: Sequence[Entry], seeds: Sequence[int], taken: set[Candidate]) -> Candidate:
    import optuna

    free = [one for one in _distilled(folder, impossible) if one not in taken]
    study = study_of(folder, impossible, seeds, sampler_seed=len(taken))
    for _ in range(_REPEATS):
        trial = study.ask(_distributions(folder))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)  # what comes of it is read from the folder
        params = dict(trial.params)
        rate = params.pop("learning_rate")
        candidate = Candidate(entry=msgspec.convert(params, Entry), learning_rate=rate)
        if candidate in free:
            return candidate
    return free[int(np.random.default_rng(len(free)).integers(len(free)))]


def _distributions(folder: Folder) -> dict[str, optuna.distributions.BaseDistribution]:
    import optuna

    space = folder.space
    choices: dict[str, Sequence[str | float]] = {
        "student": space.students,
        "method": [method.name for method in space.methods if method.name != NONE],
        "teacher": [teacher.name for teacher in space.teachers],
        "learning_rate": space.learning_rates,
    }
    return {name: optuna.distributions.CategoricalDistribution(values) for name, values in choices.items()}


def _distilled(folder: Folder, impossible: Sequence[Entry]) -> tuple[Candidate, ...]:
    return tuple(one for one in candidates(folder.space, impossible) if one.entry.method != NONE)


def _results(folder: Folder, candidate: Candidate, seeds: Sequence[int]) -> list[TrialResult]:
    results = [trial_result(folder, Trial(candidate=candidate, seed=seed)) for seed in seeds]
    return [one for one in results if one is not None]


def _validations(folder: Folder) -> int:
    train = folder.conditions.student_train
    return -(-train.steps // train.eval_every)
