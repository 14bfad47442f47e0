"""Derived sensors: what their texts mean, and that a window is derived as in training wherever it is."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import scipy.signal

from mmkd_edge import InputError, ModalitySpec, check_window
from mmkd_edge.bundle.manifest import Manifest
from mmkd_edge.bundle.manifest_json import decode_manifest, encode_manifest
from mmkd_edge.derive import (
    bytes_per_second,
    derivation_fault,
    derive,
    derive_batch,
    derived_modality,
    samples_per_second,
)
from mmkd_edge.errors import ManifestError, UsageError
from mmkd_edge.frames import mask_missing, missing_frames
from mmkd_edge.testing import fake_predictor
from tests.edge.said import said

ACC = ModalitySpec(name="acc", channels=("ax", "ay", "az"), rate_hz=100.0, samples=400)
RANGED = msgspec.structs.replace(ACC, range=(-20.0, 20.0))
MIC = ModalitySpec(name="mic", kind="audio", channels=("left",), rate_hz=16000.0, samples=1600)
CAM = ModalitySpec(name="cam", kind="video", channels=("gray",), rate_hz=10.0, samples=6, height=4, width=6)
SENSORS = (RANGED, MIC, CAM)
TEXTS = ["acc@12Hz", "acc@25Hz,8bit", "acc@2s", "acc[ax,az]@1.5s,12.5Hz,5per1s,-4.5..4.5", "mic@8kHz", "mic@50ms,8bit"]

BAD_PART = "expected parts such as 25Hz, 2s, 8bit, -20..20, 10per2s, 5fps or 64x48, got {}; correct it"


def derived(text, *sensors):
    return derived_modality(text, sensors or SENSORS)


def noise(modality, *, gaps=False, windows=5):
    rng = np.random.default_rng(3)
    values = rng.normal(0, 0.3, (windows, *modality.shape)).astype(np.float32)
    if gaps:
        values[rng.uniform(size=values.shape) < 0.2] = np.nan
        values[1, 40:90] = np.nan
    return values


@pytest.mark.parametrize(
    ("text", "name", "shape", "rate_hz", "sent", "canonical"),
    [
        ("acc@25Hz,8bit", "acc__25Hz_8bit", (100, 3), 25.0, 75.0, None),
        ("acc@8bit,25Hz", "acc__25Hz_8bit", (100, 3), 25.0, 75.0, "acc@25Hz,8bit"),
        ("acc@2000ms", "acc__2s", (200, 3), 100.0, 600.0, "acc@2s"),
        ("acc[az,ax]", "acc__c0c2", (400, 2), 100.0, 400.0, "acc[ax,az]"),
        ("acc@12Hz,-4.5..4.5", "acc__12Hz_m4p5to4p5", (48, 3), 12.0, 72.0, None),
        ("acc@10per2s,4bit", "acc__10per2s_4bit", (400, 3), 100.0, 100 * (10 / 200) * 3 / 2, None),
        ("mic@8kHz", "mic__8000Hz", (800, 1), 8000.0, 16000.0, "mic@8000Hz"),
        ("cam@5fps,3x2", "cam__5fps_3x2", (3, 2, 3, 1), 5.0, 5.0 * 6, None),
    ],
)
def test_a_text_says_windows_rate_and_bytes_and_its_name_says_the_text(text, name, shape, rate_hz, sent, canonical):
    modality = derived(text)
    assert (modality.name, modality.shape, modality.rate_hz) == (name, shape, rate_hz)
    assert (modality.title, bytes_per_second(modality)) == (canonical or text, sent)
    assert derived_modality(name, SENSORS) == modality  # the name of graphs and files leads back
    assert derived_modality(name, [modality]) is None  # nothing is derived twice
    assert msgspec.json.decode(msgspec.json.encode(modality), type=ModalitySpec) == modality
    assert derivation_fault(modality) is None


def test_names_are_no_texts_and_bits_need_a_range():
    assert (bytes_per_second(ACC), samples_per_second(ACC), bytes_per_second(CAM)) == (600.0, 100.0, 240.0)
    assert samples_per_second(derived("acc@10per2s")) == 5.0
    for name in ("acc", "gyro@25Hz", "acc_25Hz", "acc__left", "acc__c3"):
        assert derived_modality(name, SENSORS) is None
    other = msgspec.structs.replace(ACC, name="acc__left")
    assert derived("acc__left@25Hz", ACC, other).name == "acc__left__25Hz"
    assert said(UsageError, lambda: derived("acc@8bit", ACC)) == (
        "derived sensor 'acc@8bit': expected a range for 8 bits to divide, got none; add \"range\" to the dataset's "
        "'acc', or one here, as in acc@8bit,-20..20"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acc@200Hz", "expected a rate up to the recorded 100 Hz, got 200 Hz; lower it"),
        ("mic@1Hz", "expected the recorded 16000 Hz divided by up to 1600, got 1 Hz; raise it"),
        ("acc@8s", "expected a window up to the recorded 4 s, got 8 s; shorten it"),
        ("acc@0.2s,5Hz", "expected a window of 2 samples or more, got 1; raise the rate, or lengthen it"),
        ("acc[ax,qx]", "expected channels of ax, ay, az, each once, got qx; correct them"),
        ("acc[ax,ax]", "expected channels of ax, ay, az, each once, got ax, ax; correct them"),
        ("acc@32bit", "expected 1 to 24 bits, got 32; correct them"),
        ("acc@-40..40", "expected a range LOW..HIGH within the recorded -20 to 20, got -40..40; correct it"),
        ("acc@9per90ms", BAD_PART.format("'9per90ms'")),
        ("acc@9per0.09s", "expected bursts of fewer samples than their period has, got 9 of 9 samples; lengthen it"),
        ("acc@25Hz,fast", BAD_PART.format("'fast'")),
        ("acc@", BAD_PART.format("''")),
        ("acc@25Hz,50Hz", "expected one rate, got 25Hz and 50Hz; leave one out"),
        ("acc@64x48", "expected no size of series, got 64x48; leave it out"),
        ("cam@8bit", "expected no bits of video, got 8bit; leave it out"),
        ("cam[gray]", "expected no channels of video, got gray; correct them"),
        ("cam@8x4", "expected frames up to the recorded 6x4, got 8x4; shrink them"),
    ],
)
def test_what_the_recorded_sensor_does_not_have_is_refused(text, message):
    assert said(UsageError, lambda: derived(text)) == f"derived sensor {text!r}: {message}"


def test_the_filter_is_scipys_and_a_batch_has_the_bits_of_single_windows():
    for text, up, down in (("acc@25Hz", 1, 4), ("acc@12Hz", 3, 25), ("mic@8kHz", 1, 2)):
        source = MIC if text.startswith("mic") else ACC
        modality = derived(text, source)
        assert modality.derived
        half = 10 * max(up, down)
        expected = scipy.signal.firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", 5.0)) * up
        np.testing.assert_allclose(np.frombuffer(modality.derived.taps, dtype="<f4"), expected, atol=1e-7)
        window = noise(source, windows=1)[0]
        resampled = scipy.signal.resample_poly(window.astype(np.float64), up, down, axis=0)
        edge = half // down + 1  # further in, every weight is inside the window
        np.testing.assert_allclose(derive(window, modality)[edge:-edge], resampled[edge:-edge], atol=1e-5)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("gaps", [False, True])
def test_training_and_runtime_derive_the_same(text, gaps):
    modality = derived(text)
    assert modality.derived
    windows = noise(modality.derived.source, gaps=gaps)
    batch = derive_batch(windows, modality)
    assert batch.shape[1:] == modality.shape
    for window, expected in zip(windows, batch, strict=True):
        for same in (window, {modality.derived.source.name: window}):
            np.testing.assert_array_equal(check_window(same, modality), expected)  # to the bit
        newest = window[len(window) - modality.recorded.samples :]
        np.testing.assert_array_equal(check_window({modality.recorded.name: newest}, modality), expected)
        np.testing.assert_array_equal(check_window({modality.name: expected}, modality), expected)  # as it is


def test_edges_ranges_and_averages_by_hand():
    modality = derived("acc@25Hz", ACC)
    constant = np.full((1, 400, 3), 7.5, dtype=np.float32)
    np.testing.assert_array_equal(derive_batch(constant, modality), np.full((1, 100, 3), 7.5))
    assert modality.derived
    taps = np.frombuffer(modality.derived.taps, dtype="<f4").astype(np.float64)
    window = noise(ACC, windows=1)[0]
    window[9:12, 0] = np.nan
    window[100:181, 1] = np.nan  # as long as the filter: nothing is left of sample 35, at 140
    result = derive(window, modality)
    # The first result lies on the first sample: it has the filter's middle and its later half.
    weights, values = taps[40:], np.asarray(window[:41, 2], dtype=np.float64)
    assert result[0, 2] == pytest.approx(weights @ values / weights.sum(), rel=1e-6)
    known = np.r_[0:9, 12:81]  # of sample 10, at 40
    expected = taps[known] @ window[known, 0].astype(np.float64) / taps[known].sum()
    assert result[10, 0] == pytest.approx(expected, rel=1e-6)
    assert np.flatnonzero(np.isnan(result[:, 1])).tolist() == list(range(25, 46))
    assert not np.isnan(result[:, [0, 2]]).any()
    small = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=10.0, samples=6, range=(-3.0, 3.0))
    window = np.array([[0, 9], [-3, 9], [-1.1, 9], [0.9, 9], [np.nan, 9], [3, 9]], dtype=np.float32)
    np.testing.assert_array_equal(derive(window, derived("acc[x]@2bit", small))[:, 0], [1, -3, -1, 1, np.nan, 3])
    clipped = derive(window, derived("acc[x]@-1..1", small))[:, 0]
    np.testing.assert_array_equal(clipped, np.array([0, -1, -1, 0.9, np.nan, 1], dtype=np.float32))
    np.testing.assert_array_equal(derive(window, derived("acc[x]@0.3s", small))[:, 0], window[3:, 0])
    bursts = derive(window, derived("acc[x]@1per0.3s", small))[:, 0]
    np.testing.assert_array_equal(bursts, np.array([0, np.nan, np.nan, 0.9, np.nan, np.nan], dtype=np.float32))
    frames = np.zeros((6, 4, 6, 1), dtype=np.uint8)
    frames[2, :2, :2, 0] = [[1, 2], [3, 4]]  # mean 2.5, which goes up
    frames[4, :2, :2, 0] = [[255, 255], [255, 254]]
    result = derive(mask_missing(frames, np.arange(6) == 0), derived("cam@5fps,3x2"))
    assert (result.shape, result.dtype) == ((3, 2, 3, 1), np.uint8)
    assert result.mask[:, 0, 0, 0].tolist() == [True, False, False]
    assert [result.data[frame, 0, 0, 0] for frame in (1, 2)] == [3, 255]
    assert derive(frames, derived("cam@4x3"))[2, 0, 0, 0] == round((1 + 2 / 2 + 3 / 3 + 4 / 6) / (1.5 * 4 / 3))


def test_a_stream_of_the_recorded_sensor_or_of_the_cheap_one():
    modality = derived("acc@2s,25Hz,8bit")
    assert modality.derived
    with fake_predictor(modality=modality, labels=("a", "b"), answer=(0.7, 0.3)) as predictor:
        windows = []
        recorded = predictor.stream(hop=100, modality="acc", on_window=lambda window, _: windows.append(window))
        samples = noise(RANGED, windows=1)[0]
        times = np.arange(400) / 100
        answers = recorded.push(samples, times, now_s=4.0)
        assert [answer.status for answer in answers] == ["warming_up", "ok", "ok", "ok"]
        assert {answer.modality for answer in answers[1:]} == {modality.name}
        np.testing.assert_array_equal(windows[1], samples[100:300])
        cheap = predictor.stream(hop=50)
        assert [answer.status for answer in cheap.push(derive(samples, modality), np.arange(50) / 25)] == ["ok"]
        wrong = predictor.stream(hop=50)
        answers = wrong.push(samples[:200], times[:200])
        assert answers[-1].reason == "samples come at 100 Hz, expected 25 Hz"
        assert said(InputError, lambda: predictor.predict(samples[:150])) == (
            "modality 'acc__2s_25Hz_8bit': expected shape (T, C)=(50, 3), got (150, 3); "
            "a window is 50 samples, 2 s at 25 Hz"
        )
        assert predictor.predict({"acc": None}).reason == "modality 'acc__2s_25Hz_8bit' is absent"


GYRO = msgspec.structs.replace(ACC, name="gyro", channels=("gx",))
CHEAP = "'acc__25Hz', windows (100, 3) at 25 Hz of ax, ay, az,"
SAMPLES = f"derived sensor 'acc@25Hz': expected {CHEAP} of 400 samples, got {CHEAP} of 200 samples"
BOTH = "'acc_and_gyro', windows (400, 4) at 100 Hz of ax, ay, az"


@pytest.mark.parametrize(
    ("text", "path", "value", "message"),
    [
        ("acc@25Hz", "derived.text", "acc@50Hz", "derived sensor 'acc@50Hz': expected 41 finite coefficients, got 81"),
        ("acc@25Hz", "derived.samples", 200, SAMPLES),
        ("acc@25Hz", "derived.taps", "AAAA", "derived sensor 'acc@25Hz': expected 81 finite coefficients, got 0"),
        ("acc+gyro", "parts.1.channels", ["z"], f"joined sensor 'acc+gyro': expected {BOTH}, z, got {BOTH}, gx"),
    ],
)
def test_a_manifest_that_contradicts_its_derivation_is_refused(text, path, value, message):
    modality = derived(text, ACC, GYRO)
    with fake_predictor(modality=modality, labels=("a", "b"), answer=(0.7, 0.3)) as predictor:
        entry = predictor.entry
    files = tuple(msgspec.structs.replace(entry.golden, file=name) for name in ("report.json", "README.md"))
    data = encode_manifest(Manifest(model_id="m", models=(entry,), tools={}, licence="", files=files))
    assert decode_manifest(data).models[0].modality == modality
    changed = msgspec.json.decode(data)
    first, *middle, last = path.split(".")
    place = changed["models"][0]["modality"][first]
    for key in middle:
        place = place[int(key)]
    place[last] = value
    refusal = said(ManifestError, decode_manifest, msgspec.json.encode(changed))
    assert refusal == f"manifest.json: models[0].modality.{first}: {message}; export the bundle again"


def test_a_camera_is_derived_from_a_list_of_frames_and_from_a_stream():
    modality = derived("cam@5fps,3x2")
    frames = np.random.default_rng(8).integers(0, 256, (6, 4, 6, 1), dtype=np.uint8)
    missing = np.arange(6) == 2
    expected = derive(mask_missing(frames, missing), modality)
    listed = [None if gone else frame for gone, frame in zip(missing, frames, strict=True)]
    for window in (listed, mask_missing(frames, missing)):
        checked = check_window({"cam": window}, modality)
        np.testing.assert_array_equal(missing_frames(checked), [False, True, False])
        np.testing.assert_array_equal(checked.data[[0, 2]], expected.data[[0, 2]])
    with fake_predictor(modality=modality, labels=("a", "b"), answer=(0.7, 0.3)) as predictor:
        (answer,) = predictor.stream(hop=6, modality="cam").push(frames, np.arange(6) / 10)
        assert (answer.status, answer.modality) == ("ok", modality.name)
        assert predictor.predict(frames).status == "ok"
