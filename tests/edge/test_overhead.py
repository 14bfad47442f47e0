"""What `predict` costs beyond the engine. Slow: it wants a quiet machine. `mmkd-bench` measures it on a device."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmkd_edge import EdgePredictor, ModalitySpec, prepare
from mmkd_edge.backends.ort import OrtBackend

ROUNDS = 4000
LIMIT_US = 15.0


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0, 10])
def test_predict_adds_less_than_15_microseconds_to_the_bare_session(kit: Any, tmp_path: Path, missing: int) -> None:
    acc = ModalitySpec(name="acc", channels=("x", "y", "z"), rate_hz=50.0, samples=200, range=(-100.0, 100.0))
    path = kit.parts(acc, model=kit.model(acc), golden=kit.golden(acc)).write(tmp_path / "student.edge")
    window = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    window[:missing] = np.nan
    values, present = prepare(window, acc)
    feeds = {"acc": values.copy(), "acc_present": present}
    bare_ns, full_ns = [], []
    with EdgePredictor.open(path) as predictor:
        assert isinstance(predictor.backend, OrtBackend)
        session = predictor.backend._session
        outputs = ["logits", "probabilities"]
        for _ in range(ROUNDS):
            start = time.perf_counter_ns()
            session.run(outputs, feeds)
            between = time.perf_counter_ns()
            predictor.predict(window)
            end = time.perf_counter_ns()
            bare_ns.append(between - start)
            full_ns.append(end - between)
    # Paired and interleaved: whatever else the machine does meets both alike.
    overhead_us = float(np.median(np.array(full_ns) - np.array(bare_ns))) / 1e3
    assert 0 < overhead_us < LIMIT_US
