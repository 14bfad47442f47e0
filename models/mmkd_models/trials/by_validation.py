"""Choices of a study, by validation alone: the rate of an entry, the finalists of a search, the one that is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mmkd_models.trials.folder import StudyFolder
from mmkd_models.trials.space import Candidate, Entry, Space, Trial, candidates
from mmkd_models.trials.students import TrialResult, trial_result
from mmkd_report.schema.study import NONE


def baseline_candidates(space: Space) -> tuple[Candidate, ...]:
    """Gives labels alone: every student size with every learning rate."""
    return tuple(candidate for candidate in candidates(space) if candidate.entry.method == NONE)


def scores_of_candidate(folder: StudyFolder, candidate: Candidate, seeds: Sequence[int]) -> tuple[float, ...] | None:
    """Gives the validation scores on these seeds, or None unless all are finished."""
    results = [trial_result(folder, Trial(candidate=candidate, seed=seed)) for seed in seeds]
    scores = [result.score for result in results if result is not None and result.state == "finished"]
    known = tuple(score for score in scores if score is not None)
    return known if len(known) == len(seeds) else None


def best_candidates(
    folder: StudyFolder, impossible: Sequence[Entry], seeds: Sequence[int]
) -> tuple[tuple[Candidate, float], ...]:
    """Gives every entry that is finished on these seeds with its best learning rate and mean score, the best first."""
    best: dict[Entry, tuple[Candidate, float]] = {}
    for candidate in candidates(folder.space, impossible):
        scores = scores_of_candidate(folder, candidate, seeds)
        if scores is None:
            continue
        mean = float(np.mean(scores))
        if candidate.entry not in best or mean > best[candidate.entry][1]:
            best[candidate.entry] = (candidate, mean)
    sizes = {preset: number for number, preset in enumerate(("tiny", "small", "medium", "base"))}
    return tuple(sorted(best.values(), key=lambda one: (-one[1], sizes[one[0].entry.student], one[0].entry.method)))


def finalist_candidates(
    folder: StudyFolder, *, impossible: Sequence[Entry], seeds: Sequence[int], most: int
) -> tuple[Candidate, ...]:
    """Gives the best entries of a search and labels alone in their student sizes, each with its best learning rate."""
    ranked = [candidate for candidate, _ in best_candidates(folder, impossible, seeds)]
    finalists = [candidate for candidate in ranked if candidate.entry.method != NONE][:most]
    sizes = {candidate.entry.student for candidate in finalists}
    baselines = [one for one in ranked if one.entry.method == NONE and one.entry.student in sizes]
    return (*baselines, *finalists)


def chosen_trials(folder: StudyFolder, entry: Entry, seeds: Sequence[int]) -> dict[int, TrialResult]:
    """Gives, for each seed on which the entry is finished, the learning rate that validates best there."""
    found: dict[int, TrialResult] = {}
    for seed in seeds:
        for rate in folder.space.rates_of(entry):
            trial = Trial(candidate=Candidate(entry=entry, learning_rate=rate), seed=seed)
            result = trial_result(folder, trial)
            if result is None or result.state != "finished":
                continue
            if seed not in found or _score(result) > _score(found[seed]):
                found[seed] = result
    return found


def best_seed(results: Mapping[int, TrialResult]) -> int:
    """Gives the seed whose student validates best; the first of equals."""
    return max(sorted(results), key=lambda seed: _score(results[seed]))


def _score(result: TrialResult) -> float:
    if result.score is None:
        raise AssertionError("a finished trial has a score")
    return result.score
