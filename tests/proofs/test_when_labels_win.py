"""What three rules ship, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from proofs.when_labels_win import Contest, Contestant, table


def contestant(likelihoods: list[float], *, score: float, test: float) -> Contestant:
    return Contestant(score=score, standard_error=0.02, likelihoods=tuple(likelihoods), test=test)


def contest(alone: list[float], *, fold: int = 0, test: float = 50.0) -> Contest:
    """Labels alone validate better; how surely depends on their likelihoods in two groups of two windows."""
    return Contest(
        fold=fold,
        taught=contestant([-1.0] * 4, score=0.6, test=60.0),
        alone=contestant(alone, score=0.7, test=test),
        groups=(0, 0, 1, 1),
    )


@pytest.mark.parametrize(
    ("alone", "surely"),
    [
        # Sums of the groups are 0.4 and 0.4 above the taught ones: no spread between groups.
        ([-0.8, -0.8, -0.8, -0.8], "+0.0"),
        # Sums of 2 and -0.8: the mean is 0.3 a window, the standard error 1.4 x sqrt(2) x sqrt(2) / 4 = 0.7.
        ([0.0, 0.0, -1.4, -1.4], "+10.0"),
    ],
)
def test_labels_alone_are_shipped_only_where_groups_agree(alone: list[float], surely: str) -> None:
    head, _, always, better, sure = table({"machines acc": [contest(alone, fold=3)]}).splitlines()
    assert head.startswith("| rule | machines acc | mean over sets |")
    assert always == "| taught, always | +10.0 | +10.0 | 0 of 1 | none |"
    assert better == "| what validation prefers | +0.0 | +0.0 | 0 of 1 | machines acc, fold 3 (-10.0) |"
    where = "machines acc, fold 3 (-10.0)" if surely == "+0.0" else "none"
    assert sure == f"| labels alone only where surely | {surely} | {surely} | 0 of 1 | {where} |"


def test_a_fold_is_harmed_where_what_ships_is_below_labels_alone() -> None:
    folds = [contest([0.0, 0.0, -1.4, -1.4], test=test) for test in (60.4, 60.6)]
    *_, better, sure = table({"machines acc": folds}).splitlines()
    assert "| 0 of 2 |" in better
    assert f"| {np.mean([-0.4, -0.6]):+.1f} |" in sure
    assert "| 1 of 2 |" in sure
