from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_bench import capacity
from mmkd_bench.capacity import Question, measure_load
from mmkd_bench.measuring.opening import Choice
from mmkd_edge import EdgePredictor
from mmkd_report.documents.bench_others import CapacityReport
from proofs import agreement, direct_load, verdict


def test_the_slow_build_answers_as_the_other(bundle: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow.edge"
    verdict.slowed_bundle(bundle, slow, 25)
    window = np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32)
    with EdgePredictor.open(bundle) as one, EdgePredictor.open(slow) as other:
        np.testing.assert_array_equal(one.predict(window).probabilities, other.predict(window).probabilities)
        assert other.entry.artifacts[0].size_bytes > one.entry.artifacts[0].size_bytes


def test_the_summary_counts_both_kinds_of_verdict(tmp_path: Path) -> None:
    log = tmp_path / "verdicts.jsonl"
    equal = {"failed": False, "verdict": "equal", "p90_judged": True, "p50": [0.01, -0.02, 0.03]}
    slower = {"failed": True, "verdict": "slower", "p90_judged": False, "p50": [0.15, 0.12, 0.18]}
    entries = [
        {"same": equal, "slow": slower, "others_share": 0.5},
        {"same": {**slower, "p50": [-0.04, -0.05, -0.01]}, "slow": slower, "others_share": 1.5},
    ]
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert verdict.summary(log) == (
        "1 of 2 comparisons of one build with itself passed; 2 of 2 slowed builds were caught; "
        "p50 of one build moved by 2.5% at the median and 4.0% at most; "
        "other processes used 100% of a core at the median; "
        "p90 was judged as well in 1 comparisons of one build"
    )


def test_the_agreement_with_a_plain_loop_is_measured(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "STRETCHES", 2)
    monkeypatch.setattr(agreement, "RUNS", 50)
    monkeypatch.setattr(agreement, "SECONDS", 0.02)
    model, feeds = agreement.model_and_feeds(bundle)
    ratios = agreement.onnxruntime_ratios(model, feeds)
    assert len(ratios) == 2
    assert all(0.1 < ratio < 10 for ratio in ratios)  # a few calls on a shared machine: only that it measures
    assert agreement.line("x", [1.0, 1.2]) == "x: 1.100 at the median, 1.000 to 1.200, 2 pairs"


def test_the_answer_of_capacity_is_held_against_direct_loads(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "MAX_CONFIRM_S", 0.2)
    answer = measure_load(Choice(bundle=str(bundle)), Question(rate_hz=20.0, deadline_ms=5000.0, launches=1), 3)
    asked: list[int] = []

    def direct(choice: Choice, question: Question, streams: int) -> CapacityReport:
        asked.append(streams)
        return msgspec.structs.replace(answer, streams=streams if streams < 10 else 0)

    monkeypatch.setattr(direct_load, "measure_capacity", lambda *_: msgspec.structs.replace(answer, streams=10))
    monkeypatch.setattr(direct_load, "measure_load", direct)
    lines: list[str] = []
    agreed = direct_load.agreement(Choice(bundle=str(bundle)), Question(rate_hz=20.0), repeats=2, tell=lines.append)
    assert (agreed, asked) == (2, [9, 11, 9, 11])
    assert lines[1].startswith("  90%, 9 streams: carried (in ")  # how often depends on what else runs
    assert lines[2].startswith("  110%, 11 streams: not carried (in ")
