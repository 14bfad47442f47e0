"""The temperature and the scores of an export: recovered from synthetic logits, and recomputed from its own windows."""

import math
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from mmkd_edge import Bundle, EdgePredictor, UsageError
from mmkd_edge.bundle.manifest import README_FILE
from mmkd_edge.predict.novelty import least_probability
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan, export_plan
from mmkd_export.student import MIN_WINDOWS, fit_temperature, judged_temperature
from mmkd_export.verify.answers import answers_from_student
from mmkd_export.verify.artifacts import fit_confidence
from mmkd_models.training.checkpoint import write_student
from tests.edge.said import said
from tests.export.students import make_student, write_windows


def shares_of(logits):
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def drawn(count, *, temperature, classes=5, seed=0):
    """Logits that are `temperature` times too large for the labels that were drawn with them."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.standard_normal((count, classes))
    labels = (shares_of(logits).cumsum(axis=1) < rng.random((count, 1))).sum(axis=1).clip(max=classes - 1)
    return (temperature * logits).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_overconfident_logits_is_found(temperature):
    # The standard error at 20,000 windows is about 1 %.
    assert fit_temperature(*drawn(20_000, temperature=temperature)) == pytest.approx(temperature, rel=0.04)


def test_temperatures_have_the_least_loss_and_need_wrong_and_labelled_windows():
    logits, labels = drawn(500, temperature=2.0)
    found = fit_temperature(logits, labels)
    unsure = 1 / 502
    targets = np.full((500, 5), unsure / 4)
    targets[np.arange(500), labels] = 1 - unsure

    def loss(temperature):
        return float(-(targets * np.log(shares_of(logits.astype(np.float64) / temperature))).sum())

    assert loss(found) <= min(loss(found * 1.01), loss(found / 1.01))
    labels = np.arange(64) % 4
    logits = np.where(np.arange(4) == labels[:, None], 8.0, 0.0).astype(np.float32)
    temperature = fit_temperature(logits, labels)
    # The best that 64 of 64 can say is 1 - 1 / 66.
    assert shares_of(logits / temperature).max() == pytest.approx(1 - 1 / 66, abs=1e-4)
    # Logits that say nothing are cooled no further than the bound.
    logits, labels = drawn(200, temperature=1.0)
    assert fit_temperature(logits, (labels + 1) % 5) <= 20.0
    logits, labels = drawn(MIN_WINDOWS, temperature=3.0)
    assert fit_temperature(logits, labels) != 1.0
    assert fit_temperature(logits[1:], labels[1:]) == 1.0
    labels[0] = -1
    assert fit_temperature(logits, labels) == 1.0


def test_a_temperature_is_kept_only_where_it_helps_the_judging_windows():
    (hot, hot_labels), (right, right_labels) = drawn(200, temperature=3.0), drawn(200, temperature=1.0, seed=1)
    labels, judge = np.concatenate([hot_labels, right_labels]), np.arange(400) >= 200
    assert fit_temperature(hot, hot_labels) > 2
    # Both halves overconfident: kept. The judging half calibrated already: it would only spoil it.
    both = np.concatenate([hot, 3 * right])
    assert judged_temperature(both, labels, judge) == fit_temperature(hot, hot_labels)
    assert judged_temperature(np.concatenate([hot, right]), labels, judge) == 1.0
    # No window that judges has a label: nothing shows that it helps.
    assert judged_temperature(both, np.where(judge, -1, labels), judge) == 1.0


def test_scores_rise_and_are_rounded_down():
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [0.123456789, 0.876543211]], dtype=np.float32)
    found = fit_confidence(probabilities, np.array([0, 0, 0]), temperature=1.5)
    assert found.temperature == 1.5
    assert found.true_probabilities == (0.1234567, 0.3, 0.8999999)  # float32(0.9) is 0.89999998


def test_fitted_on_the_same_windows_temperature_and_threshold_still_cover():
    rng, level, draws, covered = np.random.default_rng(0), 0.1, 600, 0.0
    for draw in range(draws):
        logits, labels = drawn(64 + 50, temperature=3.0, seed=int(rng.integers(1 << 30)) + draw)
        probabilities = shares_of(logits / fit_temperature(logits[:64], labels[:64])).astype(np.float32)
        least = least_probability(fit_confidence(probabilities[:64], labels[:64], temperature=1.0), level)
        covered += float((probabilities[np.arange(64, 114), labels[64:]] >= least).mean())
    # Of each draw the coverage varies by about 0.036 (Beta(59, 6)), and by 0.04 for its 50 windows.
    assert covered / draws >= 1 - level - 3 * math.hypot(0.036, 0.042) / math.sqrt(draws)


# ---- a bundle


@pytest.fixture(scope="module")
def wide():
    """A student with enough windows to fit a temperature."""
    return make_student(windows=96)


@pytest.fixture(scope="module")
def wide_file(wide, tmp_path_factory):
    path = tmp_path_factory.mktemp("wide") / "wide.ckpt"
    write_student(path, wide)
    return path


@pytest.fixture(scope="module")
def result(wide_file):
    return export(replace(export_plan(wide_file), accept_unjudged=True, precisions=("int8",)))


def opened(path):
    with Bundle.open(path) as bundle:
        entry = bundle.manifest.models[0]
        models = {artifact.precision: bundle.read(artifact.file) for artifact in entry.artifacts}
        return entry, bundle.golden(entry.name), models, bundle.read(README_FILE).decode()


def test_the_graph_divides_its_logits_by_the_temperature(result, wide):
    entry, golden, models, _ = opened(result.path)
    confidence = entry.artifacts[0].confidence
    assert confidence.temperature != 1.0
    raw = answers_from_student(wide, golden.windows)
    half = ~golden.judge
    assert confidence.temperature == fit_temperature(raw.logits[half], golden.labels[half])
    expected = shares_of(raw.logits.astype(np.float64) / confidence.temperature)
    np.testing.assert_allclose(golden.logits, raw.logits, atol=1e-6)  # the logits stay as they were
    np.testing.assert_allclose(golden.probabilities, expected, atol=1e-6)
    session = onnxruntime.InferenceSession(models["fp32"])
    present = np.isfinite(golden.windows[:1]).astype(np.float32)
    feeds = {"acc": np.nan_to_num(golden.windows[:1]), "acc_present": present}
    np.testing.assert_allclose(session.run(["probabilities"], feeds)[0], expected[:1], atol=1e-5)


def test_each_artifact_keeps_its_own_scores_of_the_windows_that_do_not_judge(result):
    entry, golden, _, _ = opened(result.path)
    fp32, int8 = (artifact.confidence for artifact in entry.artifacts)
    half = np.flatnonzero(~golden.judge)
    true = np.sort(golden.probabilities[half, golden.labels[half]])
    np.testing.assert_allclose(fp32.true_probabilities, true, atol=1e-5)
    assert len(int8.true_probabilities) == len(half) == 48
    assert int8.temperature == fp32.temperature
    assert int8.true_probabilities != fp32.true_probabilities


def test_the_report_measures_it_on_the_others(result):
    _, golden, _, card = opened(result.path)
    facts = result.report.artifacts[0].confidence
    assert (facts.calibrated_by, facts.windows) == (48, int(golden.judge.sum()))
    assert [one.error_level for one in facts.coverages] == [0.05, 0.1, 0.2]  # 48 windows cannot support 0.01
    true = golden.probabilities[golden.judge, golden.labels[golden.judge]]
    top = golden.probabilities[golden.judge].max(axis=1)
    for one in facts.coverages:
        covered = (true >= one.least_probability) | (true == top)
        assert one.coverage == pytest.approx(float(covered.mean()))
    assert "## Confidence" in card
    assert f"temperature {facts.temperature:.2f} from 48 windows; on 48 others the calibration error is" in card


def test_a_device_gives_label_sets_at_any_level(result):
    entry, golden, _, _ = opened(result.path)
    confidence = entry.artifacts[0].confidence
    for level in (0.03, 0.4):
        least = least_probability(confidence, level)
        with EdgePredictor.open(result.path, backend="ort", error_level=level) as predictor:
            found = predictor.predict_batch(golden.windows[:8])
        for prediction, shares in zip(found, golden.probabilities[:8], strict=True):
            possible = {label for label, share in zip(entry.task.labels, shares, strict=True) if share >= least}
            assert set(prediction.label_set) == (possible or {prediction.label})


def test_what_calibrates_never_judges(result, wide, wide_file, tmp_path):
    carried, golden = wide.carried, opened(result.path)[1]
    same = write_windows(tmp_path / "same", wide, carried.windows, carried.labels)
    half = write_windows(tmp_path / "half", wide, golden.windows[~golden.judge], golden.labels[~golden.judge])
    plan = ExportPlan(source=wide_file, output=tmp_path / "again.edge")
    assert export(replace(plan, evaluation=same)).report.windows.judging == 48  # of 96, those that calibrate left out
    assert said(UsageError, export, replace(plan, evaluation=half)) == (
        f"{half}: --eval: expected windows that do not calibrate, got 48 that all do; name others"
    )
    named = export(replace(plan, calibration=same)).report.artifacts[0].confidence
    # And of those that are named to calibrate, the judging ones.
    assert (named.calibrated_by, named.windows) == (48, 48)
