from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmkd_edge.predict.preprocess import prepare
from mmkd_export.graph.calibration import BINS, Magnitudes, add_values, clipping_range, tensor_magnitudes
from mmkd_models.training.checkpoint import StudentCheckpoint

EMPTY = Magnitudes(counts=np.zeros(BINS, dtype=np.int64), top=0.0, largest=0.0)


def _magnitudes(*batches: np.ndarray) -> Magnitudes:
    found = EMPTY
    for batch in batches:
        found = add_values(found, batch.astype(np.float32))
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=6
    )
)
def test_counts_are_those_of_a_histogram_over_everything(batches: list[np.ndarray]):
    found = _magnitudes(*batches)
    everything = np.abs(np.concatenate(batches).astype(np.float64))
    assert found.largest == everything.max()
    assert found.counts.sum() == len(everything)
    if found.top > 0:
        edges = np.arange(BINS + 1) * (found.top / BINS)
        for value in everything:  # every value is in the bin that counts it, give or take one for values on an edge
            near = slice(max(0, int(value / found.top * BINS) - 1), int(value / found.top * BINS) + 2)
            assert found.counts[near].sum() > 0
        assert edges[-1] >= everything.max()


def test_memory_does_not_grow_with_windows():
    rng = np.random.default_rng(0)
    found = EMPTY
    for scale in (1e-3, 1.0, 1e3, 1e6):
        found = add_values(found, (scale * rng.standard_normal(1000)).astype(np.float32))
    assert found.counts.shape == (BINS,)
    assert found.counts.sum() == 4000


def test_minmax_is_the_largest_magnitude():
    assert clipping_range(_magnitudes(np.array([-3.0, 2.0, 0.5])), "minmax") == 3.0


def test_a_percentile_ignores_one_glitch_in_a_million():
    values = np.linspace(0, 1, 100_000)
    found = _magnitudes(values, np.array([50.0]))
    assert clipping_range(found, "minmax") == 50.0
    # Two bins of a histogram to 64 (the top doubles from 1 until it holds 50) are 1/16 wide together.
    assert clipping_range(found, "percentile") == pytest.approx(1.0, abs=1 / 16)


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_a_tensor_that_is_always_zero_has_a_range(method: str):
    assert clipping_range(_magnitudes(np.zeros(10)), method) == 1.0


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-100, 100, width=32)))
def test_no_method_leaves_the_range_of_the_values(values: np.ndarray):
    found = _magnitudes(values)
    for method in ("minmax", "percentile"):
        top = clipping_range(found, method)
        assert 0 < top <= max(found.largest, 1.0)


def test_a_graphs_tensors_are_measured_over_windows(student_graph: bytes, student: StudentCheckpoint):
    model = onnx.load_from_string(student_graph)
    before = model.SerializeToString()
    feeds = []
    for window in student.carried.windows[:4]:
        values, present = prepare(window, student.modality)
        feeds.append({"acc": values, "acc_present": present})
    found = tensor_magnitudes(model, ["logits", "probabilities"], feeds)
    assert found["probabilities"].counts.sum() == 4 * 4
    assert 0.25 <= found["probabilities"].largest <= 1
    assert model.SerializeToString() == before
