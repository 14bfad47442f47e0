"""The rule by which validation chooses, by hand."""

from __future__ import annotations

from mmkd_models.training.judging.rule import Standing, preferred


def standing(score: float, likelihood: float) -> Standing:
    return Standing(score=score, standard_error=0.05, log_likelihood=likelihood)


def test_of_those_within_a_standard_error_the_likeliest_is_preferred() -> None:
    far, best = standing(0.70, -0.1), standing(0.80, -0.6)
    assert preferred([far, standing(0.76, -0.4), best]) == 1
    assert preferred([far, standing(0.74, -0.4), best]) == 2
