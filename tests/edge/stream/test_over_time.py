"""A stream's label is that of all its answers, weighed as the student's validation recordings chose."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkd_edge import EdgePredictor, ModalitySpec
from mmkd_edge.bundle.manifest import HopRule, OverTime
from mmkd_edge.stream.over_time import AnswerFilter, nearest_rule, next_belief, weights_of
from mmkd_edge.testing import FakeBackend, fake_entry

ACC = ModalitySpec(name="acc", channels=("x",), rate_hz=10.0, samples=20)
LABELS = ("a", "b")


def rule(hop_fraction=0.5, dwell_s=10.0, exponent=0.5):
    delays = {"delay": (2.0, 4.0), "single_delay": (1.0, 3.0)}
    return HopRule(hop_fraction=hop_fraction, dwell_s=dwell_s, exponent=exponent, gain_points=2.0, **delays)


def over_time(*rules, prior=(0.5, 0.5)):
    return OverTime(prior=prior, rules=rules or (rule(),), changes=8)


def predictor(rules, labels=LABELS):
    """A student whose probability of the second label is the window's last value."""
    entry = msgspec.structs.replace(fake_entry(modality=ACC, labels=labels), over_time=rules)

    def answer(feeds):
        last = float(feeds["acc"][0, -1, 0])
        return [1 - last, last]

    return EdgePredictor.with_backend(entry, FakeBackend(answer, inputs=entry.inputs, outputs=entry.outputs))


def stream_of(chances, *, rules, hop=10, **options):
    """The predictions of full windows whose last values are these chances of label b."""
    rows = np.repeat(np.asarray(chances, dtype=np.float32), hop)
    stream = predictor(rules).stream(hop=hop, **options)
    start = np.full(20 - hop, chances[0], dtype=np.float32)
    return [each for each in stream.push(np.concatenate([start, rows])) if each.status != "warming_up"]


def test_a_label_is_followed_as_computed_by_hand():
    found = stream_of([0.8, 0.4, 0.1, 0.1], rules=over_time(prior=(0.4, 0.6)))
    stay, belief, expected = math.exp(-1.0 / 10.0), 0.5, []
    for number, chance in enumerate(float(np.float32(c)) for c in (0.8, 0.4, 0.1, 0.1)):
        kept = stay * belief + (1 - stay) / 2 if number else 0.5
        b, a = kept * math.sqrt(chance / 0.6), (1 - kept) * math.sqrt((1 - chance) / 0.4)
        belief = b / (a + b)
        expected.append(belief)
    of_label = [each.probability if each.label == "b" else 1 - each.probability for each in found]
    assert of_label == pytest.approx(expected, abs=1e-6)
    assert [(each.label, each.index) for each in found] == [("b", 1), ("b", 1), ("a", 0), ("a", 0)]
    assert [round(float(each.probabilities[1]), 6) for each in found] == [0.8, 0.4, 0.1, 0.1]


def test_single_answers_are_given_on_request_and_without_rules():
    chances = [0.9, 0.4, 0.9]
    assert [each.label for each in stream_of(chances, rules=over_time())] == ["b", "b", "b"]
    for options in ({"rules": over_time(), "over_time": False}, {"rules": None}):
        found = stream_of(chances, **options)
        assert [each.label for each in found] == ["b", "a", "b"]
        assert [each.probability for each in found] == pytest.approx([0.9, 0.6, 0.9])


def test_a_long_silence_a_reset_and_a_new_time_line_forget():
    stream = predictor(over_time()).stream(hop=10)
    high, low = np.full(40, 0.9), np.full(10, 0.4)
    times = np.arange(40) / 10
    assert stream.push(high, times)[-1].label == "b"
    assert stream.push(low, 4.0 + np.arange(10) / 10)[-1].label == "b"
    new_line = stream.push(np.full(20, 0.4), 900.0 + np.arange(20) / 10)
    assert [each.status for each in new_line][-1] == "ok"
    assert (new_line[-1].label, new_line[-1].probability) == ("a", pytest.approx(0.5505, abs=1e-4))
    stream.reset()
    assert stream.push(np.concatenate([np.full(10, 0.9), low]))[-1].label == "a"


def test_a_window_without_an_answer_keeps_the_belief_which_fades():
    stream = predictor(over_time()).stream(hop=10)
    stream.push(np.full(40, 0.9))
    (missing,) = stream.push(np.full(10, np.nan))[-1:]
    assert missing.status == "degraded"  # half of it is there: it counts
    gone = stream.push(np.full(10, np.nan))[-1]
    assert (gone.status, gone.index) == ("invalid", -1)
    before = stream._filter._belief.copy()
    stream.push(np.full(10, np.nan))
    assert stream._filter._belief.tolist() == before.tolist()
    back = stream.push(np.full(10, 0.5))[-1]  # three hops after the last that counted
    kept = math.exp(-0.3) * before[back.index] + (1 - math.exp(-0.3)) / 2
    assert back.probability == pytest.approx(kept)


def test_another_bundles_rules_begin_anew():
    rules = [over_time()]
    followed = AnswerFilter(lambda: rules[-1], hop=10, modality=ACC)
    likely, unlikely = (predictor(None).predict(np.full((20, 1), chance)) for chance in (0.9, 0.4))
    assert followed.follow(likely, LABELS, count=20).label == "b"
    assert followed.follow(unlikely, LABELS, count=30).label == "b"
    rules.append(over_time(rule(dwell_s=20.0)))
    assert followed.follow(unlikely, LABELS, count=40).label == "a"
    rules.append(None)
    assert followed.follow(likely, LABELS, count=50) is likely


def test_the_rule_of_the_nearest_hop_holds_and_overlap_counts_less():
    rules = over_time(rule(0.125), rule(0.5), rule(1.0))
    found = [nearest_rule(rules, fraction).hop_fraction for fraction in (0.01, 0.2, 0.3, 0.6, 0.8, 4.0)]
    assert found == [0.125, 0.125, 0.5, 0.5, 1.0, 1.0]
    stay, exponent = weights_of(rule(0.5), np.array([0.5, 1.0, 3.0]), window_s=2.0)
    np.testing.assert_allclose(stay, np.exp([-0.05, -0.1, -0.3]))
    np.testing.assert_allclose(exponent, [0.25, 0.5, 0.5])


@given(st.integers(0, 2**31))
def test_a_belief_is_a_distribution_and_a_waiting_one_tends_to_equal(seed):
    rng = np.random.default_rng(seed)
    belief, answer = rng.dirichlet(np.ones(4), size=(2, 3))
    prior = rng.uniform(0.1, 1.0, size=4)
    following = next_belief(belief, answer, prior, stay=np.full((3, 1), 0.7), exponent=np.full((3, 1), 0.5))
    assert following.sum(-1) == pytest.approx(np.ones(3))
    one = next_belief(belief[1], answer[1], prior, stay=np.float64(0.7), exponent=np.float64(0.5))
    np.testing.assert_allclose(one, following[1])
    # Two steps without evidence are one step of both times.
    none = np.ones(4) / 4
    steps = next_belief(belief[0], none, none, stay=np.float64(0.6), exponent=np.float64(1.0))
    steps = next_belief(steps, none, none, stay=np.float64(0.5), exponent=np.float64(1.0))
    np.testing.assert_allclose(steps, next_belief(belief[0], none, none, stay=np.float64(0.3), exponent=np.float64(1)))
    ruled_out = next_belief(belief[0], np.array([1.0, 0, 0, 0]), none, stay=np.float64(0.5), exponent=np.float64(4.0))
    assert np.isfinite(ruled_out).all()
