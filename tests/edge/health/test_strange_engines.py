"""Engines that give what no student gives, and exceptions that are not theirs."""

from types import SimpleNamespace

import numpy as np
import pytest

from mmkd_edge import BackendError, EdgePredictor, ModalitySpec
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.testing import fake_entry
from tests.edge.said import said

ACC = ModalitySpec(name="acc", channels=("x", "y", "z"), rate_hz=10.0, samples=20)
ROW = np.array([[0.25, 0.75]], dtype=np.float32)


WINDOW = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


def model(answer, **options):
    facts = {"name": "strange", "version": "strange 1", "threads": 1, "inputs": (), "outputs": ()}
    backend = SimpleNamespace(run=lambda feeds: answer, close=lambda: None, **facts)
    return EdgePredictor.with_backend(
        fake_entry(modality=ACC, labels=("a", "b")), backend, options=OpenOptions(**options)
    )


PAIR, SHARES = "logits float32 (1, 2), probabilities float32 (1, 2)", "probabilities float32 (1, 2)"
STRANGE = [
    (None, f"expected {PAIR}, got NoneType"),
    (7, f"expected {PAIR}, got int"),
    (ROW, f"expected {PAIR}, got float32 (1, 2)"),
    ((ROW,), f"expected {PAIR}, got tuple of 1"),
    ((ROW, None), f"expected {SHARES}, got NoneType"),
    ((ROW, [[0.25, 0.75]]), f"expected {SHARES}, got list of 1"),
    ((ROW, ROW[0]), f"expected {SHARES}, got float32 (2,)"),
    ((ROW, ROW[:, :1]), f"expected {SHARES}, got float32 (1, 1)"),
    ((ROW, np.zeros((0, 2), np.float32)), f"expected {SHARES}, got float32 (0, 2)"),
    ((ROW, np.array(0.5, dtype=np.float32)), f"expected {SHARES}, got float32 ()"),
    ((ROW, np.array([["a", "b"]])), f"expected {SHARES}, got <U1 (1, 2)"),
]


@pytest.mark.parametrize(("answer", "reason"), STRANGE)
def test_an_engine_that_gives_something_else_has_failed(answer, reason):
    prediction = model(answer).predict(WINDOW)
    assert (prediction.status, prediction.label, prediction.reason) == ("invalid", "", f"the engine failed: {reason}")
    assert said(BackendError, model(answer, policy="raise").predict, WINDOW) == reason
