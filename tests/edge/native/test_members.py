"""Interval features and trees of the native engine, compared with NumPy; files are written by hand."""

import struct
import time
from functools import cache

import numpy as np
import pytest

from mmkd_edge.errors import BackendError
from mmkd_edge.native import ISAS, NativeModel
from mmkd_export.graph.native_from_student import int8_weights, intervals_tensors, pack_tensors, pad_rows, trees_tensors
from tests.edge.native.test_native import changed, model_or_skip
from tests.edge.said import said

pytestmark = pytest.mark.usefixtures("native_engine")

WINDOWS = 12
CLASSIFICATION, MULTI_LABEL, REGRESSION = 0, 1, 2


def windows_of(samples, channels):
    """Random walks with gaps, a lost channel, a constant, ties, extremes and nothing at all."""
    rng = np.random.default_rng(samples + channels)
    values = rng.normal(size=(WINDOWS, samples, channels)).cumsum(axis=1).astype(np.float32)
    present = np.ones_like(values)
    present[1, samples // 4 : samples // 2] = 0
    present[2, :, 0] = 0
    present[3] = 0
    present[4] = rng.random((samples, channels)) > 0.5
    values[5] = 1.25
    values[6] = np.round(values[6])
    values[7, ::3] = 1e6
    return values * present, present


def scale_of(channels):
    rng = np.random.default_rng(3)
    return rng.normal(size=channels).astype(np.float32), rng.uniform(0.2, 1.0, channels).astype(np.float32)


def basis_of(samples, bins):
    angle = 2 * np.pi * np.outer(np.arange(samples), np.arange(1, bins + 1)) / samples
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1) / np.sqrt(samples)


@cache
def expected_features(samples, channels, depth, bins):
    """What the engine must compute of `windows_of`, slowly, in float64."""
    windows = zip(*windows_of(samples, channels), strict=True)
    return np.array([features_of(*window, depth=depth, bins=bins) for window in windows])


def features_of(window, present, *, depth, bins):
    mean, scale = scale_of(window.shape[1])
    features = []
    for channel in range(window.shape[1]):
        there = present[:, channel] > 0
        scaled = np.clip((window[:, channel] - mean[channel]) * scale[channel], -8, 8).astype(np.float64)
        middle = scaled[there].mean() if there.any() else 0.0
        one = np.where(there, scaled, middle)
        for view in (one, np.diff(one)):
            read = view[len(view) - (len(view) >> depth << depth) :]
            for level in range(depth + 1):
                for part in np.split(read, 2**level):
                    time = np.arange(len(part)) - (len(part) - 1) / 2
                    slope = (time * (part - part.mean())).sum() / max((time**2).sum(), 1)
                    features += [part.mean(), part.std(), slope, *np.quantile(part, [0, 0.25, 0.5, 0.75, 1])]
        spectrum = np.abs(np.fft.rfft(one - one.mean()))[1 : bins + 1] ** 2 / len(one)
        features += list(np.log(spectrum + 1e-6))
    return np.array(features)


def tensor_sizes(data):
    """The numbers of 32 bits of each tensor of a native file, by name."""
    rows = [struct.unpack_from("<24s4I", data, 16 + 56 * n) for n in range(struct.unpack_from("<I", data, 8)[0])]
    return {name.rstrip(b"\0").decode(): rows * columns for name, kind, _, rows, columns in rows if kind < 2}


def interval_tensors(samples, channels, *, depth, bins, feature_mean=0.0, feature_scale=1.0):
    features = channels * (16 * (2 ** (depth + 1) - 1) + bins)
    normalised = (np.broadcast_to(number, features) for number in (feature_mean, feature_scale))
    return dict(intervals_tensors(*scale_of(channels), basis_of(samples, bins), *normalised, depth=depth))


def file_of(samples, channels, members, head, bias, *, task=CLASSIFICATION):
    flags = 3 if "f.sizes" in members else int("i.sizes" in members)
    return pack_tensors(
        {
            "sizes": np.array(
                [[samples, channels, len(bias), task, 0, "c.sizes" in members, 0, flags]], dtype=np.int32
            ),
            "modality": np.frombuffer(b"acc".ljust(256, b"\0"), dtype=np.uint8)[None],
            "scales": np.array([[0.8, 3.0, 0.5]], dtype=np.float32),
            **members,
            "head.w": pad_rows(head.astype(np.float32)),
            "head.b": pad_rows(bias[None].astype(np.float32)),
        }
    )


def logits_of(data, isa, values, present):
    model = model_or_skip(data, isa)
    return np.concatenate([model.run(values[row : row + 1], present[row : row + 1])[0] for row in range(len(values))])


def features_in_c(samples, channels, isa, *, depth, bins):
    """The engine's features themselves: 32 times the thirty-second part, which is not clamped."""
    members = interval_tensors(samples, channels, depth=depth, bins=bins, feature_scale=1 / 32)
    features = members["i.feature_mean"].size
    data = file_of(samples, channels, members, 32 * np.eye(features), np.zeros(features), task=MULTI_LABEL)
    return logits_of(data, isa, *windows_of(samples, channels))


@pytest.mark.parametrize("isa", ISAS[1:])
@pytest.mark.parametrize(
    ("samples", "channels", "depth", "bins"),
    [(200, 3, 4, 32), (8, 1, 0, 4), (67, 2, 3, 32), (17, 20, 1, 8), (9, 1, 3, 4)],
)
def test_interval_features_are_those_of_numpy(samples, channels, depth, bins, isa):
    got = features_in_c(samples, channels, isa, depth=depth, bins=bins)
    expected = expected_features(samples, channels, depth, bins)
    per_series = got.shape[1] // channels
    is_bin = np.arange(got.shape[1]) % per_series >= per_series - bins
    np.testing.assert_allclose(got[:, ~is_bin], expected[:, ~is_bin], atol=1e-5, rtol=1e-6)
    # a logarithm turns the last bits of a power near zero into more than its own
    np.testing.assert_allclose(np.exp(got[:, is_bin]), np.exp(expected[:, is_bin]), atol=1e-5, rtol=1e-4)


def grow(rng, features, trees, outputs):
    """Random trees in the arrays of the training side; thresholds are features of windows, so that some are equal."""
    roots, feature, threshold, left, right, leaves = [], [], [], [], [], []

    def add(depth):
        node = len(feature)
        for array in (feature, threshold, left, right):
            array.append(0)
        if depth == 0 or rng.random() < 0.2:
            feature[node], left[node] = -1, len(leaves)
            leaves.append(rng.integers(0, 2**15, outputs) if outputs == 1 else rng.dirichlet(np.ones(outputs)))
            return node
        feature[node] = int(rng.integers(features.shape[1]))
        threshold[node] = float(features[rng.integers(len(features)), feature[node]])
        left[node] = add(depth - 1)
        right[node] = add(depth - 1)
        return node

    for _ in range(trees):
        roots.append(add(7))
    return {
        "roots": np.array(roots),
        "feature": np.array(feature),
        "threshold": np.array(threshold, dtype=np.float32),
        "left": np.array(left),
        "right": np.array(right),
        "leaves": np.array(leaves, dtype=np.float32).reshape(-1, outputs),
    }


def votes_of(trees, features):
    votes = np.zeros((len(features), trees["leaves"].shape[1]))
    for row, window in enumerate(features):
        for root in trees["roots"]:
            node = root
            while trees["feature"][node] >= 0:
                is_left = window[trees["feature"][node]] <= trees["threshold"][node]
                node = trees["left" if is_left else "right"][node]
            votes[row] += trees["leaves"][trees["left"][node]]
    return votes


@pytest.mark.parametrize("isa", ISAS[1:])
def test_every_tree_ends_in_the_leaf_where_it_ends_on_the_same_features(isa):
    features = features_in_c(67, 2, isa, depth=3, bins=32)
    trees = grow(np.random.default_rng(5), features, 60, 1)
    members = {**interval_tensors(67, 2, depth=3, bins=32), **dict(trees_tensors(**trees, scale=1.0))}
    data = file_of(67, 2, members, np.zeros((features.shape[1], 1)), np.zeros(1), task=REGRESSION)
    logits = logits_of(data, isa, *windows_of(67, 2))
    # sums of whole numbers below 2**24 are exact in float32: one other leaf would change one
    np.testing.assert_array_equal(np.rint(logits * 60), votes_of(trees, features))


@pytest.mark.parametrize("isa", ISAS[1:])
@pytest.mark.parametrize("task", [CLASSIFICATION, MULTI_LABEL, REGRESSION])
def test_head_and_trees_answer_together(task, isa):
    outputs = 1 if task == REGRESSION else 4
    rng = np.random.default_rng(6)
    features = features_in_c(67, 2, isa, depth=3, bins=32)
    trees = grow(rng, features, 20, outputs)
    if outputs == 1:
        trees["leaves"] /= 2**15
    mean, scale = features.mean(0), 4 / (features.std(0) + 0.1)
    members = interval_tensors(67, 2, depth=3, bins=32, feature_mean=mean, feature_scale=scale)
    members |= dict(trees_tensors(**trees, scale=0.7))
    head, bias = rng.normal(scale=0.05, size=(features.shape[1], outputs)), rng.normal(size=outputs)
    data = file_of(67, 2, members, head, bias, task=task)
    votes, trees_count = votes_of(trees, features), 20
    parts = {
        CLASSIFICATION: np.log((votes + 1 / outputs) / (trees_count + 1)),
        MULTI_LABEL: np.log((votes + 0.5) / (trees_count - votes + 0.5)),
        REGRESSION: votes / trees_count,
    }
    expected = np.clip((features - mean) * scale, -8, 8) @ head + bias + 0.7 * parts[task]
    values, present = windows_of(67, 2)
    model = model_or_skip(data, isa)
    answers = [model.run(values[row : row + 1], present[row : row + 1]) for row in range(WINDOWS)]
    np.testing.assert_allclose(np.concatenate([each[0] for each in answers]), expected, atol=1e-4)
    sharp = 0.8 * expected
    weights = np.exp(sharp)
    answer = {
        CLASSIFICATION: weights / weights.sum(1, keepdims=True),
        MULTI_LABEL: weights / (1 + weights),
        REGRESSION: 3.0 + 0.5 * sharp,
    }
    np.testing.assert_allclose(np.concatenate([each[1] for each in answers]), answer[task], atol=1e-4)
    small = logits_of(int8_weights(data), isa, values, present)
    np.testing.assert_allclose(small, expected, atol=0.03 * np.abs(expected).max())


@pytest.fixture(scope="module")
def forest():
    members = interval_tensors(33, 2, depth=2, bins=8)
    features = members["i.feature_mean"].size
    members |= dict(
        trees_tensors(
            np.array([0, 7, 10]),
            np.array([0, 5, -1, -1, 239, -1, -1, 3, -1, -1, -1]),
            np.array([0.5, 0.0, 0, 0, 1.5, 0, 0, -0.5, 0, 0, 0]),
            np.array([1, 2, 0, 1, 5, 1, 2, 8, 2, 0, 1]),
            np.array([4, 3, 0, 0, 6, 0, 0, 9, 0, 0, 0]),
            np.eye(3),
            scale=0.5,
        )
    )
    np.testing.assert_array_equal(members["f.sizes"], [[3, 4, 3]])
    np.testing.assert_array_equal(members["f.roots"], [[0, 3, -2]])
    np.testing.assert_array_equal(
        members["f.nodes"][:, [0, 2, 3]], [[0, 1, 2], [5, -1, -2], [239, -2, -3], [3, -3, -1]]
    )
    np.testing.assert_array_equal(members["f.leaves"], np.eye(3))
    return file_of(33, 2, members, np.random.default_rng(9).normal(size=(features, 3)), np.zeros(3))


@pytest.mark.parametrize(
    ("name", "word", "value", "message"),
    [
        ("sizes", 7, 2, "sizes: expected a member, found none"),
        ("sizes", 7, 4, "sizes: is out of its range"),
        ("sizes", 7, 0, "sizes: expected a member, found none"),
        ("i.sizes", 0, 5, "depth: is out of its range"),
        ("i.sizes", 0, 3, "i.sizes: is out of its range"),
        ("i.sizes", 1, 0, "bins: is out of its range"),
        ("i.sizes", 1, 9, "i.sizes: is out of its range"),
        ("i.sizes", 2, 239, "i.sizes: is out of its range"),
        ("i.mean", 1, 0x7FC00000, "i.mean: expected finite numbers"),
        ("f.sizes", 0, 1025, "trees: is out of its range"),
        ("f.sizes", 1, 2**18 + 1, "nodes: is out of its range"),
        ("f.sizes", 2, 0, "leaves: is out of its range"),
        ("f.scale", 0, 0x7F800000, "f.scale: expected finite numbers"),
        ("f.roots", 0, 1, "f.nodes: is out of its range"),
        ("f.roots", 1, 0, "f.nodes: is out of its range"),
        ("f.roots", 1, -1, "f.nodes: expected every node once"),
        ("f.roots", 2, -4, "f.nodes: is out of its range"),
        ("f.nodes", 0, 240, "f.nodes: is out of its range"),
        ("f.nodes", 0, -1, "f.nodes: is out of its range"),
        ("f.nodes", 1, 0x7FC00000, "f.nodes: expected finite numbers"),
        ("f.nodes", 2, 0, "f.nodes: is out of its range"),
        ("f.nodes", 2, -1, "f.nodes: is out of its range"),
        ("f.nodes", 3, 1, "f.nodes: is out of its range"),
        ("f.nodes", 3, -(2**31), "f.nodes: is out of its range"),
    ],
)
def test_a_number_out_of_its_range_is_refused(forest, name, word, value, message):
    told = f"backend 'native' cannot open the artifact: {message}"
    assert said(BackendError, NativeModel, changed(forest, name, word, value)) == told


def chain(depth, side):
    """A chain of nodes, each with a leaf on the other side."""
    nodes = np.arange(2 * depth + 1)
    is_inner = nodes < depth
    other = "left" if side == "right" else "right"
    follow = {side: np.where(nodes < depth - 1, nodes + 1, 2 * depth), other: depth + nodes}
    left, right = (np.where(is_inner, follow[name], 0) for name in ("left", "right"))
    members = interval_tensors(8, 1, depth=0, bins=4)
    feature, threshold = np.where(is_inner, 0, -1), np.zeros(len(nodes))
    members |= dict(trees_tensors(np.array([0]), feature, threshold, left, right, np.zeros((1, 1)), scale=1.0))
    return file_of(8, 1, members, np.zeros((20, 1)), np.zeros(1), task=REGRESSION)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_walk_of_more_than_64_nodes_is_refused(side):
    assert NativeModel(chain(64, side)).shape == (8, 1)
    told = "backend 'native' cannot open the artifact: f.nodes: is out of its range"
    assert said(BackendError, NativeModel, chain(65, side)) == told


def test_altered_files_are_refused_or_answered_and_nothing_crashes(forest):
    values, present = windows_of(33, 2)
    rng = np.random.default_rng(0)
    words = {name: count for name, count in tensor_sizes(forest).items() if name[:2] in ("i.", "f.") or name == "sizes"}
    opened = 0
    for _ in range(400):
        altered = forest
        for _ in range(rng.integers(1, 3)):
            name = rng.choice(list(words))
            value = int(rng.choice([-1, 0, 1, 2, 7, 2**30, -(2**31), int(rng.integers(-400, 400))]))
            altered = changed(altered, name, int(rng.integers(words[name])), value)
        try:
            model = NativeModel(altered)
        except BackendError:
            continue
        opened += 1
        assert [part.shape for part in model.run(values[:1], present[:1])] == [(1, 3)] * 2
    assert 0 < opened < 400


def convolutions_of(kernels, listed, *, features=1):
    """A file of so many kernels, each of all listed channels of a window (200, 3)."""
    rows = [[1, 1, number * features, features, 0, 4, 8, 0, listed] for number in range(kernels)]
    one = np.ones((1, kernels * features), dtype=np.float32)
    members = {
        "c.sizes": np.array([[kernels, kernels * features, 1, listed]], dtype=np.int32),
        "c.kernel": np.array(rows, dtype=np.int32),
        "c.channel": np.zeros((1, listed), dtype=np.int32),
        **dict.fromkeys(("c.mean", "c.scale"), np.ones((1, 3), dtype=np.float32)),
        **dict.fromkeys(("c.slope", "c.offset", "c.feature_mean", "c.feature_scale"), one),
    }
    return file_of(200, 3, members, np.ones((kernels * features, 2)), np.zeros(2))


def test_a_model_that_would_compute_for_hours_is_refused_before_it_runs():
    values, present = windows_of(200, 3)
    assert NativeModel(convolutions_of(500, 3)).run(values[:1], present[:1])[0].shape == (1, 2)
    refusal = "backend 'native' cannot open the artifact: file: needs more than 17 thousand million operations a window"
    begun = time.monotonic()
    assert said(BackendError, NativeModel, convolutions_of(20_000, 20_000)) == refusal
    assert time.monotonic() - begun < 2.0
    begun = time.monotonic()  # the most that a file may ask for
    assert NativeModel(convolutions_of(500, 20_000)).run(values[:1], present[:1])[0].shape == (1, 2)
    assert time.monotonic() - begun < 20.0


def test_tensors_that_share_their_bytes_are_refused():
    data = convolutions_of(500, 20_000)
    at, shared = (data.index(name) + 48 for name in (b"head.w\0", b"c.channel\0"))
    (end,) = struct.unpack_from("<Q", data, at)
    data = data[:at] + data[shared : shared + 8] + data[at + 8 : end]
    refusal = "backend 'native' cannot open the artifact: head.w: shares its bytes with other tensors"
    assert said(BackendError, NativeModel, data) == refusal
