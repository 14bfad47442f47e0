"""What `predict` costs beyond the engine. Slow: it wants a quiet machine. `mmkd-bench` measures it on a device."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from mmkd_edge import EdgePredictor, ModalitySpec, SensorChecks, prepare
from mmkd_edge.backends.ort import OrtBackend

ROUNDS = 4000
LIMIT_US = 15.0
CHECKED_LIMIT_US = 30.0


@pytest.mark.slow
@pytest.mark.parametrize("checks", [None, SensorChecks(flat=True, stuck_s=0.5)])
def test_predict_adds_little_to_the_bare_session(kit: Any, tmp_path: Path, checks: SensorChecks | None) -> None:
    acc = ModalitySpec(name="acc", channels=("x", "y", "z"), rate_hz=50.0, samples=200)
    path = kit.parts(acc, model=kit.model(acc), golden=kit.golden(acc)).write(tmp_path / "student.edge")
    window = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    values, present = prepare(window, acc)
    feeds = {"acc": values.copy(), "acc_present": present}
    bare_ns, full_ns = [], []
    with EdgePredictor.open(path, backend="ort", checks=checks, stale_s=1.0) as predictor:
        session = cast(OrtBackend, predictor.backend).session
        outputs = ["logits", "probabilities"]
        age_s = None if checks is None else 0.0
        for _ in range(ROUNDS):
            start = time.perf_counter_ns()
            session.run(outputs, feeds)
            between = time.perf_counter_ns()
            predictor.predict(window, input_age_s=age_s)
            end = time.perf_counter_ns()
            bare_ns.append(between - start)
            full_ns.append(end - between)
    # Paired and interleaved: whatever else the machine does meets both alike.
    overhead_us = float(np.median(np.array(full_ns) - np.array(bare_ns))) / 1e3
    assert overhead_us < (LIMIT_US if checks is None else CHECKED_LIMIT_US)
