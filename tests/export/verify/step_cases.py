"""What the tests of step graphs share: a small causal student's shape, recordings, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_edge import Prediction
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from mmkd_models.training.checkpoint import StudentCheckpoint
from tests.models.networks.stepping import answers_along

ACC = ModalitySpec(name="acc", channels=("x", "y"), unit="g", rate_hz=50.0, samples=38, range=(-8.0, 8.0))
ENCODER = EncoderConfig(width=16, heads=2, depth=1, spectrum_bands=4, most_tokens=10)
CONFIG = StudentConfig(preset="toy", encoder=ENCODER, causal=True)
STRIDE, LENGTH = 4, 10
# float32 sums in another order; measured below 1e-6.
TOLERANCE = 1e-5


def recording(samples: int, *, seed: int = 0, gap: slice | None = None) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(samples, 2)).astype(np.float32)
    rows += np.sin(np.arange(samples) / 30, dtype=np.float32)[:, None]
    rows[5:7, 0] = np.nan
    if gap is not None:
        rows[gap] = np.nan
    return rows


def one_pass(checkpoint: StudentCheckpoint, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities (N, K) at the ends of blocks that are aligned as a stream's: a window's end is a block's."""
    lead = np.full((-ACC.samples % STRIDE, 2), np.nan, dtype=np.float32)
    whole = np.concatenate([lead, rows])
    values, present = prepare_batch(whole[None, : len(whole) // STRIDE * STRIDE], ACC)
    logits = answers_along(checkpoint.network(), torch.from_numpy(values), torch.from_numpy(present))
    return torch.softmax(logits[0], dim=-1).numpy()


def shares_of(predictions: Sequence[Prediction]) -> NDArray[np.float32]:
    return np.stack([p.probabilities for p in predictions if p.status != "warming_up"])


def said(predictions: Sequence[Prediction]) -> list[tuple[object, ...]]:
    return [(p.status, p.reason, p.index, p.missing_fraction, p.probabilities.tobytes()) for p in predictions]
