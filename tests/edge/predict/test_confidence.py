"""Label sets: their thresholds by hand, what exchangeable windows get, and how a predictor carries them."""

import math

import msgspec
import numpy as np
import pytest

from mmkd_edge import EdgePredictor, ModalitySpec, OpenOptions, UsageError
from mmkd_edge.bundle.manifest import Confidence
from mmkd_edge.predict.novelty import label_set, least_probability
from mmkd_edge.testing import fake_predictor
from tests.edge.said import said

pytestmark = pytest.mark.usefixtures("quick_openings")

ACC = ModalitySpec(name="acc", channels=("x", "y", "z"), rate_hz=10.0, samples=20)
LABELS = ("rest", "raise", "turn")
NINE = Confidence(temperature=1.0, true_probabilities=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9))


def confidence(*true):
    return Confidence(temperature=1.0, true_probabilities=true)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0.05, None),  # floor(10 x 0.05) = 0: nine windows cannot support it
        (0.1, 0.1),  # floor(10 x 0.1) = 1: the smallest
        (0.19, 0.1),
        (0.2, 0.2),
        (0.3, 0.3),  # 10 x 0.3 is 3 in decimal, and a little less or more in float64
        (0.7, 0.7),
        (0.99, 0.9),
    ],
)
def test_the_threshold_is_a_rank_among_the_calibration_windows(level, expected):
    assert least_probability(NINE, level) == expected


@pytest.mark.parametrize(("windows", "level"), [(19, 0.05), (64, 0.1), (128, 0.3)])
def test_exchangeable_windows_are_covered_as_often_as_promised(windows, level):
    rng, draws = np.random.default_rng(windows), 2000
    shares = rng.dirichlet(np.full(4, 0.4), size=(draws, windows + 1))  # (draws, N, K), the last window is the new one
    labels = (shares.cumsum(axis=2) < rng.random((draws, windows + 1, 1))).sum(axis=2).clip(max=3)
    true = np.take_along_axis(shares, labels[:, :, None], axis=2)[:, :, 0]
    reached, covered = 0, 0
    for known, new, row, label in zip(np.sort(true[:, :-1]), true[:, -1], shares[:, -1], labels[:, -1], strict=True):
        least = least_probability(confidence(*known.tolist()), level)
        reached += new >= least
        covered += "abcd"[label] in label_set(row.tolist(), "abcd", least=least)
    error = math.sqrt(level * (1 - level) / draws)
    assert covered / draws >= 1 - level - 3 * error
    # The rank of one among n + 1 exchangeable numbers is uniform: exactly this share reaches the threshold.
    expected = 1 - math.floor((windows + 1) * level + 1e-9) / (windows + 1)
    assert abs(reached / draws - expected) <= 3 * error
    assert covered >= reached


@pytest.mark.parametrize(
    ("probabilities", "least", "expected"),
    [
        ([0.25, 0.125, 0.625], 0.25, ("turn", "rest")),
        ([0.25, 0.125, 0.625], 0.125, ("turn", "rest", "raise")),
        ([0.25, 0.125, 0.625], 0.26, ("turn",)),
        ([0.25, 0.125, 0.625], 0.9, ("turn",)),  # never empty
        ([0.2, 0.4, 0.4], 0.3, ("raise", "turn")),  # equal ones keep the order of the labels
    ],
)
def test_a_set_holds_all_that_reach_the_threshold_the_most_probable_first(probabilities, least, expected):
    assert label_set(probabilities, LABELS, least=least) == expected


WINDOW = np.ones((20, 3), dtype=np.float32)


@pytest.mark.parametrize(
    ("answer", "least", "expected"),
    [
        ((0.125, 0.75, 0.125), 0.25, ("raise", ("raise",), False)),
        ((0.25, 0.125, 0.625), 0.25, ("turn", ("turn", "rest"), True)),
        ((0.25, 0.125, 0.625), None, ("turn", (), False)),
    ],
)
def test_only_several_possible_labels_are_an_abstention(answer, least, expected):
    predictor = fake_predictor(answer, modality=ACC, labels=LABELS, least_probability=least)
    prediction = predictor.predict(WINDOW)
    assert (prediction.label, prediction.label_set, prediction.abstained) == expected
    assert prediction.status == "ok"
    empty = predictor.predict(np.full((20, 3), np.nan))
    assert (empty.status, empty.label_set, empty.abstained) == ("invalid", (), True)


@pytest.mark.parametrize("level", [0, 1, 1.5, -0.1, True, "0.05", float("nan")])
@pytest.mark.parametrize("name", ["error_level", "unknown_level"])
def test_a_level_is_a_share(name, level, bundle_path):
    told = f"{name}: expected a fraction above 0 and below 1, or None; got {level!r}"
    assert said(UsageError, EdgePredictor.open, bundle_path, **{name: level}) == told


def calibrated(parts, *true):
    entry = parts.manifest.models[0]
    artifact = msgspec.structs.replace(entry.artifacts[0], confidence=confidence(*true))
    return parts.with_model(artifacts=(artifact,))


@pytest.fixture
def calibrated_path(kit, tmp_path):
    return calibrated(kit.parts(kit.modality), *NINE.true_probabilities).write(tmp_path / "calibrated.edge")


def test_an_opened_bundle_gives_the_sets_of_its_own_calibration(calibrated_path, kit):
    window = kit.golden(kit.modality).windows[0]
    _, shares = kit.answer(window)
    for level, least in ((0.1, 0.1), (0.3, 0.3), (0.5, 0.5)):
        with EdgePredictor.open(calibrated_path, error_level=level) as predictor:
            prediction = predictor.predict(window)
            assert predictor.info().least_probability == least
        possible = [label for label, share in zip(LABELS, shares, strict=True) if share >= least]
        expected = sorted(possible, key=lambda label: -shares[LABELS.index(label)]) or [prediction.label]
        assert prediction.label_set == tuple(expected)


def test_what_was_not_calibrated_for_a_level_is_refused(calibrated_path, bundle_path):
    labels = (
        "expected an artifact that was calibrated, got one that was exported without labelled windows; "
        "export the checkpoint again (with --calib DATA if it carries no windows), or open without error_level"
    )
    windows = (
        "expected 0.1 or more, because 9 windows calibrated it; choose a higher level, or export with more windows "
        "(--calib DATA)"
    )
    for path, fault in ((bundle_path, labels), (calibrated_path, windows)):
        told = f"{path}: 'acc/model.fp32.onnx': error_level=0.05: {fault}"
        assert said(UsageError, EdgePredictor.open, path, error_level=0.05) == told
    fake = fake_predictor([1, 0, 0], modality=ACC, labels=LABELS)
    told = f"model 'acc': error_level=0.1: {labels}"
    assert (
        said(UsageError, EdgePredictor.with_backend, fake.entry, fake.backend, options=OpenOptions(error_level=0.1))
        == told
    )


def test_a_swap_keeps_the_error_level_and_refuses_a_bundle_that_cannot(calibrated_path, bundle_path, kit, tmp_path):
    other = calibrated(kit.parts(kit.modality), *[0.5] * 9).write(tmp_path / "other.edge")
    with EdgePredictor.open(calibrated_path, error_level=0.1) as predictor:
        assert "expected an artifact that was calibrated" in said(UsageError, predictor.swap, bundle_path)
        assert predictor.info().least_probability == 0.1
        assert predictor.swap(other).least_probability == 0.5
        assert predictor.rollback().least_probability == 0.1
