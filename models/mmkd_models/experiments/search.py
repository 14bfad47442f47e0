"""A study's search for the best mean validation score, by Optuna (TPE, Bergstra et al., NeurIPS 2011)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from mmkd_documents.study import NONE
from mmkd_models.experiments.folder import Folder
from mmkd_models.experiments.plan import Candidate, Entry, Search, Trial, candidates
from mmkd_models.experiments.runs import Run, student_run, trial_result

_REPEATS = 10  # known proposals in a row, before a candidate is drawn among the others
_SIZES = ("tiny", "small", "medium", "base")


def search_scores(folder: Folder, candidate: Candidate, seeds: Sequence[int]) -> tuple[float, ...] | None:
    """Return the validation scores, or None unless all are finished."""
    results = [trial_result(folder, Trial(candidate=candidate, seed=seed)) for seed in seeds]
    scores = [result.score for result in results if result is not None and result.score is not None]
    return tuple(scores) if len(scores) == len(seeds) else None


def finalists(folder: Folder, impossible: Sequence[Entry], seeds: Sequence[int], *, most: int) -> tuple[Candidate, ...]:
    """Return the best entries and their labels-only baselines, each with its best learning rate."""
    best: dict[Entry, tuple[float, Candidate]] = {}
    for candidate in candidates(folder.space, impossible):
        scores = search_scores(folder, candidate, seeds)
        if scores is not None and (candidate.entry not in best or np.mean(scores) > best[candidate.entry][0]):
            best[candidate.entry] = float(np.mean(scores)), candidate

    def rank(pair: tuple[float, Candidate]) -> tuple[float, int, str]:
        entry = pair[1].entry
        return -pair[0], _SIZES.index(entry.student), entry.method

    ranked = [candidate for _, candidate in sorted(best.values(), key=rank)]
    chosen = [candidate for candidate in ranked if candidate.entry.method != NONE][:most]
    sizes = {candidate.entry.student for candidate in chosen}
    baselines = [
        candidate for candidate in ranked if candidate.entry.method == NONE and candidate.entry.student in sizes
    ]
    return (*baselines, *chosen)


def planned_runs(folder: Folder, impossible: Sequence[Entry], search: Search) -> list[Run]:
    """Return as many runs as the search may take, to tell its time."""
    distilled = distilled_candidates(folder, impossible)[: search.trials]
    return [student_run(folder, Trial(candidate=each, seed=seed)) for each in distilled for seed in search.seeds]


def proposals(folder: Folder, impossible: Sequence[Entry], search: Search) -> Iterator[Run]:
    """Yield the runs of the search; finished candidates count."""
    distilled, begun, seeds = distilled_candidates(folder, impossible), set[Candidate](), search.seeds
    while True:
        taken = begun | {
            candidate
            for candidate in distilled
            if all(trial_result(folder, Trial(candidate=candidate, seed=seed)) for seed in seeds)
        }
        if len(taken) >= min(search.trials, len(distilled)):
            return
        candidate = _propose(folder, impossible, seeds, taken)
        begun.add(candidate)
        yield from (student_run(folder, Trial(candidate=candidate, seed=seed)) for seed in seeds)


def distilled_candidates(folder: Folder, impossible: Sequence[Entry]) -> tuple[Candidate, ...]:
    """Return the candidates without labels only."""
    return tuple(candidate for candidate in candidates(folder.space, impossible) if candidate.entry.method != NONE)


def _propose(folder: Folder, impossible: Sequence[Entry], seeds: Sequence[int], taken: set[Candidate]) -> Candidate:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=len(taken)))
    space, everything = folder.space, distilled_candidates(folder, impossible)
    values: dict[str, Sequence[str | float]] = {
        "student": space.students,
        "method": [method.name for method in space.methods if method.name != NONE],
        "teacher": [teacher.name for teacher in space.teachers],
        "learning_rate": space.learning_rates,
    }
    choices: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.CategoricalDistribution(options) for name, options in values.items()
    }
    for candidate in everything:
        scores = search_scores(folder, candidate, seeds)
        if scores is not None:
            params = msgspec.structs.asdict(candidate.entry) | {"learning_rate": candidate.learning_rate}
            mean = float(np.mean(scores))
            study.add_trial(optuna.trial.create_trial(params=params, distributions=choices, value=mean))
    free = [candidate for candidate in everything if candidate not in taken]
    for _ in range(_REPEATS):
        trial = study.ask(choices)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)  # what comes of it is read from the folder
        params = dict(trial.params)
        rate = params.pop("learning_rate")
        candidate = Candidate(entry=msgspec.convert(params, Entry), learning_rate=rate)
        if candidate in free:
            return candidate
    return free[int(np.random.default_rng(len(free)).integers(len(free)))]
