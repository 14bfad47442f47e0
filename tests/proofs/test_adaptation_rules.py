"""Which pairs a rule lets pass, and that no source is judged by a rule that it helped to choose."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from mmkd_report.documents.adaptation import WayJudgement
from proofs.adaptation_rules import RULES, SHARES, Evidence, JudgedPair, Step, _gains, _left_out, rule_tables, step_arm

JUDGEMENT = WayJudgement(
    way="teacher",
    estimate=0.9,
    gain_points=4.0,
    standard_error_points=2.0,
    old_score=0.8,
    forgotten_points=1.5,
    forgotten_error_points=0.6,
    seconds=0.0,
)


def evidence(**changes: object) -> Evidence:
    judgement = msgspec.structs.replace(JUDGEMENT, **changes)
    steps = [
        Step(share=share, judgement=judgement, agreement_points=3.0, agreement_error=2.5, truth_points=-1.0)
        for share in SHARES
    ]
    return Evidence(surer_points=1.0, witnesses=0, closer_points=-2.0, steps=steps)


def passing(found: Evidence) -> set[str]:
    return {name for name, rule in RULES.items() if rule(found, found.steps[0])}


def test_a_rule_passes_what_rises_by_more_than_its_standard_errors() -> None:
    # 4 points are 2 standard errors of closeness, 3 points are 1.2 of agreement.
    risen = {"no gate", "closer by 0", "closer by 1", "closer by 1.645", "agrees by 0", "agrees by 1", "confidence"}
    assert passing(evidence()) == risen
    assert passing(evidence(forgotten_points=1.7)) == {"no gate"}
    assert passing(evidence(vanished=("a",))) == {"no gate"}


def pair(source: str, gain: float) -> JudgedPair:
    gains = {step_arm(share): share * gain for share in SHARES}
    return JudgedPair(source=source, evidence=evidence(), gains=gains)


def test_a_source_is_judged_by_the_rule_that_the_others_choose() -> None:
    pairs = [pair("a", 0.1), pair("b", -0.2)]
    gains, choices = _left_out(pairs)
    # Without b nothing is harmed and the whole way gains most; without a only what passes nothing harms nobody.
    assert choices["b"] == ("no gate", len(SHARES) - 1)
    assert choices["a"] is not None
    assert choices["a"][0] not in passing(evidence())
    assert gains.tolist() == pytest.approx([0.0, -0.2])


def test_the_table_counts_passes_gains_and_harm() -> None:
    lines = list(rule_tables([pair("a", 0.1), pair("b", -0.2)]))
    line = next(line for line in lines if line.startswith("| no gate |"))
    assert line == "| no gate | 2, -1.2, 1 | 2, -2.5, 1 | 2, -3.8, 1 | 2, -5.0, 1 |"
    assert lines[-1] == "\nchosen without the source: gain -10.0, harmed 1 of 2"


def test_a_window_that_is_newly_right_counts_a_hundred_points() -> None:
    assert _gains(np.array([0, 1, 1]), np.array([1, 1, 0]), np.array([1, 1, 1])).tolist() == [100.0, 0.0, -100.0]
