"""What confidence is worth: calibration error, log loss, coverage and its interval, by hand and by plain loops."""

import math

import msgspec
import numpy as np
import pytest

from mmkd_edge.bundle.manifest import Confidence
from mmkd_edge.predict.confidence import label_set, least_probability
from mmkd_models.evaluation.confidence import (
    confidence_facts,
    coverage_cells,
    fraction_interval,
    reliability,
    reliability_text,
)
from mmkd_models.metrics.likelihood import probabilities_of

FOUR = Confidence(temperature=2.0, true_probabilities=(0.2, 0.4, 0.6, 0.8))


def test_calibration_errors_and_intervals_of_shares_by_hand():
    # Two windows answered with 0.9, one of them wrong: a gap of 0.4. Two with 0.6, both right: a gap of 0.4 as well,
    # on the other side. One with exactly 1, right: none.
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.6, 0.4], [1.0, 0.0]])
    found = reliability(probabilities, np.array([0, 0, 0, 0, 0]))
    assert found.calibration_error == pytest.approx((2 * 0.4 + 2 * 0.4) / 5)
    expected = -(math.log(0.9) + math.log(0.1) + 2 * math.log(0.6)) / 5
    assert found.log_loss == pytest.approx(expected)
    # 8 of 10: centre (0.8 + z2/20) / (1 + z2/10) with z2 = 3.8415.
    low, high = fraction_interval(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert fraction_interval(10, 10) == (pytest.approx(0.7225, abs=1e-4), pytest.approx(1.0))
    assert fraction_interval(0, 10)[0] == 0.0
    shares = np.full((3, 2), 0.5, dtype=np.float32)
    assert confidence_facts(FOUR, shares, shares, np.array([-1, -1, -1])) is None


def test_coverage_is_what_label_sets_do_window_by_window():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(40, 3)).astype(np.float32) * 2
    probabilities = probabilities_of(logits / 2, kind="classification").astype(np.float32)
    labels = rng.integers(-1, 3, size=40)
    facts = confidence_facts(FOUR, logits, probabilities, labels, error_levels=(0.6, 0.25, 0.1))
    known = [row for row in range(40) if labels[row] >= 0]
    assert (facts.temperature, facts.calibrated_by, facts.windows) == (2.0, 4, len(known))
    assert [one.error_level for one in facts.coverages] == [0.25, 0.6]  # four windows cannot support 0.1
    for coverage in facts.coverages:
        least = least_probability(FOUR, coverage.error_level)
        assert least is not None
        sets = {row: label_set(probabilities[row].tolist(), "abc", least=least) for row in known}
        right = {row: "abc"[labels[row]] in sets[row] for row in known}
        single = [row for row in known if len(sets[row]) == 1]
        assert coverage.least_probability == least
        assert coverage.covered == sum(right.values())
        assert coverage.coverage == pytest.approx(sum(right.values()) / len(known))
        assert coverage.mean_set_size == pytest.approx(sum(map(len, sets.values())) / len(known))
        assert coverage.single_fraction == pytest.approx(len(single) / len(known))
        assert coverage.single_accuracy == pytest.approx(sum(right[row] for row in single) / len(single))
    assert facts.before == reliability(probabilities_of(logits[known], kind="classification"), labels[known])
    assert facts.after == reliability(probabilities[known], labels[known])


def test_the_words_give_the_figures():
    probabilities = np.array([[0.7, 0.3], [0.7, 0.3], [0.5, 0.5], [0.1, 0.9]], dtype=np.float32)
    labels = np.array([0, 1, 1, 1])
    facts = confidence_facts(FOUR, np.log(probabilities), probabilities, labels, error_levels=(0.5,))
    (coverage,) = facts.coverages
    # At 0.5 the second smallest of 0.2, 0.4, 0.6, 0.8 counts: sets {a}, {a}, {a, b}, {b}.
    assert coverage_cells(coverage) == ("0.5", "75.0%", "30.1% to 95.4%", "1.25", "75.0%", "66.7%")
    # The gaps of the bins: 2 x |0.5 - 0.7|, |0 - 0.5| (the first of two equal ones is answered), |1 - 0.9|.
    assert reliability_text(facts) == (
        "temperature 2.00 from 4 windows; on 4 others the calibration error is 0.250 before and 0.250 after, the log "
        "loss 0.590 and 0.590"
    )
    assert reliability_text(msgspec.structs.replace(facts, temperature=1.0)) == (
        "probabilities are not corrected (softmax temperature 1); on 4 windows the calibration error is 0.250, the log "
        "loss 0.590"
    )
