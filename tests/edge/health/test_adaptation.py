"""When adapting a student is due: the rule, the estimate, and what a predictor and `mmkd-run` say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mmkd_edge import EdgePredictor, example_bundle
from mmkd_edge.health.drift import AdaptationAdvice, AnswerConfidence, Drift, advise_adaptation
from mmkd_models.data import open_dataset, shipped_dataset

FINE = Drift(verdict="as_trained", reason="inside the spread between the training's 6 people")


def test_the_estimate_is_the_expected_probability_of_the_true_label() -> None:
    sure = AnswerConfidence(0.9)
    for _ in range(199):
        sure.add(np.array([0.5, 0.5], dtype=np.float32))
    assert sure.change() is None  # too few answers
    sure.add(np.array([0.5, 0.5], dtype=np.float32))
    assert sure.change() == pytest.approx(0.5 - 0.9)  # 0.5 * 0.5 + 0.5 * 0.5
    for _ in range(40_000):
        sure.add(np.array([0.0, 1.0], dtype=np.float32))
    assert sure.change() == pytest.approx(1.0 - 0.9, abs=1e-3)  # what is long past fades
    assert AnswerConfidence(None).change() is None


@pytest.mark.parametrize(
    ("drift", "change", "expected"),
    [
        (FINE, None, AdaptationAdvice(due=False, reason="", accuracy_change=None)),
        (FINE, -0.09, AdaptationAdvice(due=False, reason="", accuracy_change=-0.09)),
        (
            FINE,
            -0.12,
            AdaptationAdvice(
                due=True,
                reason="accuracy is estimated 12 points below that of the calibration windows",
                accuracy_change=-0.12,
            ),
        ),
        (
            Drift(verdict="drifting", reason="ax times 3", causes=("gain",), channels=("ax",)),
            0.0,
            AdaptationAdvice(due=True, reason="inputs drift: ax times 3", accuracy_change=0.0),
        ),
        (
            Drift(verdict="drifting", reason="ax: no signal, or next to none", causes=("dead",), channels=("ax",)),
            -0.5,
            AdaptationAdvice(
                due=False, reason="mend the sensor first: ax: no signal, or next to none", accuracy_change=-0.5
            ),
        ),
        (
            Drift(verdict="shifted", reason="ax times 1.1", causes=("gain",), channels=("ax",)),
            0.0,
            AdaptationAdvice(due=False, reason="", accuracy_change=0.0),
        ),
    ],
)
def test_the_rule(drift: Drift, change: float | None, expected: AdaptationAdvice) -> None:
    assert advise_adaptation(drift, change) == expected


@pytest.fixture(scope="module")
def windows() -> NDArray[np.float32]:
    """240 windows (N, T, C) of a person whom the shipped student never saw."""
    data = open_dataset(shipped_dataset()).everything()
    with EdgePredictor.open(example_bundle(), backend="ort") as predictor:
        modality = predictor.modality
    rows = data.rows[(data.splits == 2) & (data.groups == 1)][:240]
    found: NDArray[np.float32] = data.source.gather(data.spec.modality(modality.name), rows, shift_s=None)
    return found


def test_a_student_that_grows_unsure_of_a_person_is_due_and_says_by_how_much(windows: NDArray[np.float32]) -> None:
    with EdgePredictor.open(example_bundle(), backend="ort") as predictor:
        predictor.predict_batch(windows)
        assert predictor.health().adaptation_due == ()
    with EdgePredictor.open(example_bundle(), backend="ort") as predictor:
        predictor.predict_batch(windows * np.float32(9.81))  # someone changed g to m/s^2
        health = predictor.health()
    change = health.models[0].adaptation.accuracy_change
    assert change is not None
    assert change < -0.2
    assert health.adaptation_due == (
        f"acc: accuracy is estimated {-100 * change:.0f} points below that of the calibration windows",
    )


def test_mmkd_run_says_once_that_adaptation_is_due(windows: NDArray[np.float32], tmp_path: Path) -> None:
    with EdgePredictor.open(example_bundle(), backend="ort") as predictor:
        channels = predictor.modality.channels
    lines = [",".join(channels), *(",".join(map(str, row)) for row in windows.reshape(-1, len(channels)).tolist())]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    mapped = [part for name in channels for part in ("--map", f"{name}={name}*9.81")]
    done = subprocess.run(
        [sys.executable, "-c", "from mmkd_station.commands.run import main; main()", example_bundle(), "--source",
         f"csv:{tmp_path}/log.csv", "--backend", "ort", "--hop", "200", "--sink", f"jsonl:{tmp_path}/r.jsonl", *mapped],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [one for one in map(json.loads, (tmp_path / "r.jsonl").read_text().splitlines()) if one["kind"] == "state"]
    assert [one["state"] for one in said] == ["started", "adaptation_due", "stopped"]
    assert said[1]["reason"].startswith("accuracy is estimated ")
    line = next(line for line in done.stdout.splitlines() if "adaptation is due" in line)
    assert line == f"  adaptation is due: {said[1]['reason']}; record it anew, and see mmkd-adapt"
