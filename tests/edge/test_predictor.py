import contextlib
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from mmkd_edge import (
    BackendError,
    BundleError,
    EdgePredictor,
    GateError,
    InputError,
    ModalitySpec,
    OpenOptions,
    Reference,
    UsageError,
    check_window,
    interpret,
    prepare,
)
from mmkd_edge.backends.base import BACKENDS
from mmkd_edge.bundle.reference import write_reference
from mmkd_edge.testing import FakeBackend, fake_predictor
from tests.edge.conftest import WEIGHTS
from tests.edge.said import said

pytestmark = pytest.mark.usefixtures("quick_openings")

TEMP = ModalitySpec(name="temp", channels=("a", "b", "c"), rate_hz=4.0, samples=8, normalise="per_group")
REFERENCE = Reference(modality="temp", mean=(36.0, 20.0, 5.0), std=(0.5, 2.0, 1.0))


@pytest.fixture
def predictor(bundle_path):
    with EdgePredictor.open(bundle_path) as opened:
        yield opened


def windows(count=5, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 20, 3)).astype(np.float32)


def test_a_window_is_answered_and_neither_a_wrong_one_nor_a_single_batch(kit, predictor):
    window = windows(1)[0]
    prediction = predictor.predict(window)
    _, expected = kit.answer(window)
    # float32 against float64: see the test of the backend.
    np.testing.assert_allclose(prediction.probabilities, expected, atol=2e-6)
    assert prediction.label == ("rest", "raise", "turn")[int(expected.argmax())]
    assert (prediction.status, prediction.modality) == ("ok", "acc")
    told = "modality 'acc': expected shape (T, C)=(20, 3), got (3, 20); transpose it"
    assert said(InputError, lambda: predictor.predict(window.T)) == told
    told = "unknown modality 'vib': this model takes 'acc'; pass {'acc': array} or the bare array"
    assert said(InputError, lambda: predictor.predict({"vib": window})) == told
    np.testing.assert_array_equal(predictor.predict(window).probabilities, prediction.probabilities)
    for given, kind in ((window, "ndarray"), (3, "int"), (np.float32(3.0), "float32"), (np.zeros(()), "ndarray")):
        assert said(InputError, predictor.predict_batch, given) == (
            f"predict_batch: expected an array (N, T, C) or a list of windows, got {kind}; "
            "predict takes a single window"
        )


def test_a_batch_is_answered_window_by_window_after_all_were_checked(predictor, kit):
    batch = windows(4)
    batch[2, 0] = np.nan
    singly = [predictor.predict(window).probabilities for window in batch]
    mappings = [{"acc": window} for window in batch]
    for given in (batch, {"acc": batch}, list(batch), mappings, iter(batch), batch.tolist()):
        answers = predictor.predict_batch(given)
        np.testing.assert_array_equal([answer.probabilities for answer in answers], singly)
    assert predictor.predict_batch(batch.astype(np.float64))[2].missing_fraction == 0.05
    entry = kit.parts(kit.modality).manifest.models[0]
    backend = FakeBackend([1.0, 0.0, 0.0])
    predictor = EdgePredictor.with_backend(entry, backend)
    given = [*windows(2), np.zeros((19, 3))]
    told = "window 2: modality 'acc': expected shape (T, C)=(20, 3), got (19, 3); a window is 20 samples, 2 s at 10 Hz"
    assert said(InputError, lambda: predictor.predict_batch(given)) == told
    assert backend.feeds == []


def test_what_was_opened_can_be_read(kit, bundle_path, predictor):
    info = predictor.info()
    artifact = kit.parts(kit.modality).manifest.models[0].artifacts[0]
    assert (info.model_id, info.model, info.modality) == ("made-up-acc", "acc", "acc")
    assert info.labels == ("rest", "raise", "turn")
    assert (info.backend, info.precision, info.threads, info.parameters) == ("ort", "fp32", 1, 12)
    assert info.backend_version.startswith("onnxruntime ")
    assert (info.reason, info.profile) == ("no profile of this bundle on this machine; onnxruntime is installed", "")
    assert (info.artifact, info.artifact_sha256) == ("acc/model.fp32.onnx", artifact.sha256)
    assert (info.bundle, info.bundle_sha256) == (str(bundle_path), predictor.bundle.sha256)
    assert (info.versions["numpy"], set(info.versions)) == (np.__version__, {"mmkd-edge", "numpy", "python"})
    assert (predictor.backend.name, predictor.modality, predictor.task.labels) == ("ort", kit.modality, info.labels)
    assert predictor.entry == kit.parts(kit.modality).manifest.models[0]
    assert repr(predictor) == "EdgePredictor('acc', backend='ort', open)"


THREADS = "threads: expected a whole number from 1 to 256"


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        *(({"threads": count}, f"{THREADS}, got {count!r}") for count in (0, -1, 257, 1.0, True, "2")),
        (
            {"backend": "cuda"},
            f"backend: expected one of {', '.join(map(repr, ('auto', *BACKENDS)))}, got 'cuda'; choose one of them",
        ),
        ({"precision": "fp8"}, "precision: expected 'auto', 'fp32', 'fp16' or 'int8', got 'fp8'; choose one of them"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(bundle_path, options, fault):
    assert said(UsageError, lambda: EdgePredictor.open(bundle_path, **options)) == fault


def test_the_path_of_a_bundle_belongs_to_open():
    assert said(UsageError, EdgePredictor, "student.edge") == (
        "EdgePredictor: expected opened students, got str; open a bundle with EdgePredictor.open(PATH)"
    )


def test_a_graph_that_is_not_the_manifests_or_answers_nan_is_refused(kit, tmp_path):
    longer = msgspec.structs.replace(kit.modality, samples=21)
    path = kit.parts(kit.modality, model=kit.model(longer)).write(tmp_path / "student.edge")
    assert said(BundleError, lambda: EdgePredictor.open(path)) == (
        f"{path}: 'acc/model.fp32.onnx': expected the inputs acc float32 (1, 20, 3), acc_present float32 (1, 20, 3), "
        "got acc float32 (1, 21, 3), acc_present float32 (1, 21, 3); export the bundle again"
    )
    model = kit.model(kit.modality, weights=np.full((3, 3), np.nan, dtype=np.float32))
    path = kit.parts(kit.modality, model=model).write(tmp_path / "nan.edge")
    assert said(BackendError, lambda: EdgePredictor.open(path, backend="ort")) == (
        "backend 'ort': expected finite logits float32 (1, 3) for a window of zeros, "
        "got float32 (1, 3): [nan, nan, nan]; export the bundle again"
    )


def test_a_failed_opening_gives_the_file_back(kit, bundle_path, tmp_path):
    bad = kit.parts(kit.modality, model=kit.unrunnable(kit.modality)).write(tmp_path / "bad.edge")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counting descriptors, not files
    for _ in range(2):
        said(UsageError, EdgePredictor.open, bundle_path, precision="fp16")
        said(BackendError, EdgePredictor.open, bad)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_closed_predictor_says_so(bundle_path):
    with EdgePredictor.open(bundle_path) as predictor:
        pass
    predictor.close()
    for call in (
        lambda: predictor.predict(windows(1)[0]),
        lambda: predictor.predict_batch(windows(2)),
        predictor.selftest,
    ):
        assert said(UsageError, call) == "the predictor is closed; open the bundle again"
    assert predictor.info().model == "acc"
    assert repr(predictor) == "EdgePredictor('acc', backend='ort', closed)"


def test_nan_and_other_answers_fail_the_self_test(predictor, kit, bundle_path):
    result = predictor.selftest()
    assert (result.windows, result.tolerance, result.label_agreement) == (4, 1e-5, 1.0)
    assert 0 <= result.max_abs_error < 1e-6
    with EdgePredictor.open(bundle_path) as predictor:
        current = predictor._active.current
        predictor._active.current = current.with_backend(current.opened[0], FakeBackend([np.nan, 0.5, 0.5]))
        assert "got a difference of nan" in said(GateError, predictor.selftest)
    told = "self-test: this predictor was made without a bundle and has no golden windows"
    assert said(UsageError, fake_predictor([1.0, 0.0], modality=kit.modality, labels=("a", "b")).selftest) == told


def test_a_device_that_computes_something_else_fails_the_self_test(kit, tmp_path):
    path = kit.parts(kit.modality, model=kit.model(kit.modality, weights=2 * WEIGHTS)).write(tmp_path / "student.edge")
    golden = kit.golden(kit.modality)
    doubled = [np.abs(kit.answer(2 * window)[0] - kit.answer(window)[0]).max() for window in golden.windows]
    with EdgePredictor.open(path, selftest=False) as predictor:
        text = said(GateError, predictor.selftest)
        version = predictor.backend.version
    prefix, suffix = text.split("got a difference of ")
    worst = int(np.argmax(doubled))
    assert prefix == (f"{path}: self-test: golden window {worst}: expected the stored answer within 1e-05, ")
    assert float(suffix.split(";")[0]) == pytest.approx(max(doubled), rel=1e-4)
    told = f"{version} computes another result here than at export: do not use it on this device"
    assert suffix.split("; ")[1] == told


def test_half_precision_may_be_added_up_in_half_precision(kit, tmp_path):
    """As engines on ARM64 and GPUs do, and onnxruntime on x86-64, where exports are judged, does not."""
    golden = kit.golden(kit.modality)
    bound = 0.0125 * max(1.0, float(np.abs(golden.logits).max()))
    for share, passes in ((0.9, True), (1.1, False)):
        shifted = msgspec.structs.replace(golden, logits=golden.logits + np.float32(share * bound))
        parts = kit.parts(kit.modality, golden=shifted)
        (fp32,) = parts.manifest.models[0].artifacts
        fp16 = msgspec.structs.replace(fp32, precision="fp16", file="acc/model.fp16.onnx")
        members = {**parts.members, fp16.file: parts.members[fp32.file]}
        both = replace(parts.with_model(artifacts=(fp32, fp16)), members=members)
        path = both.write(tmp_path / "student.edge")
        with EdgePredictor.open(path, precision="fp16", selftest=False) as predictor:
            if passes:
                assert predictor.selftest().tolerance == pytest.approx(bound, rel=0.02)
            else:
                assert "got a difference of" in said(GateError, predictor.selftest)
        with EdgePredictor.open(path, precision="fp32", selftest=False) as predictor:
            assert "within 1e-05" in said(GateError, predictor.selftest)


@pytest.fixture
def temp_bundle(kit, tmp_path):
    parts = kit.parts(TEMP, model=kit.model(TEMP), golden=kit.golden(TEMP), name="temp")
    return parts.write(tmp_path / "temp.edge")


def test_without_a_reference_raw_values_are_refused_with_advice_and_with_one_normalised(kit, temp_bundle, tmp_path):
    with EdgePredictor.open(temp_bundle) as predictor:
        assert predictor.selftest().windows == 4
        window = np.zeros((8, 3))
        for call in (lambda: predictor.predict(window), lambda: predictor.predict_batch([window])):
            assert said(InputError, call) == (
                "modality 'temp' is normalised per group and raw values need the group's statistics; "
                "run mmkd-data reference DATA --modality temp -o FILE on its first windows "
                "and open the bundle with EdgePredictor.open(..., reference=FILE)"
            )
    write_reference(tmp_path / "temp.json", REFERENCE)
    raw = np.random.default_rng(1).normal((36, 20, 5), (0.5, 2, 1), size=(8, 3)).astype(np.float32)
    raw[3, 1] = np.nan
    scores = (raw - np.array([36, 20, 5])) / np.array([0.5, 2, 1])
    for given in (tmp_path / "temp.json", str(tmp_path / "temp.json"), REFERENCE):
        with EdgePredictor.open(temp_bundle, reference=given) as predictor:
            assert predictor.reference == REFERENCE
            prediction = predictor.predict(raw)
            np.testing.assert_allclose(prediction.probabilities, kit.answer(scores)[1], atol=2e-6)
            assert prediction.missing_fraction == 1 / 24
            assert predictor.selftest().windows == 4


def test_about_a_reference_values_that_no_sensor_gives_are_missing(kit, temp_bundle):
    with EdgePredictor.open(temp_bundle, reference=REFERENCE) as predictor:
        # 20 -+ 1000 * 2, the widest channel, in two digits outwards
        assert predictor.modality.range == (-2000.0, 2100.0)
        raw = np.tile(np.array(REFERENCE.mean), (8, 1))
        assert predictor.predict(raw).status == "ok"
        assert predictor.predict(np.full((8, 3), 1e38)).status == "invalid"
        raw[:, 0] = 1e30
        assert (predictor.predict(raw).status, predictor.predict(raw).missing_fraction) == ("degraded", 1 / 3)
        assert predictor.selftest().windows == 4
    declared = msgspec.structs.replace(TEMP, range=(-5.0, 5.0))
    parts = kit.parts(declared, model=kit.model(declared), golden=kit.golden(declared), name="temp")
    with EdgePredictor.open(parts.write(temp_bundle.with_name("own.edge")), reference=REFERENCE) as predictor:
        assert predictor.modality.range == (-5.0, 5.0)


def test_a_reference_for_another_modality_is_refused(bundle_path, temp_bundle, tmp_path):
    path = tmp_path / "eda.json"
    write_reference(path, Reference(modality="eda", mean=(1.0,), std=(1.0,)))
    told = f"{path}: expected a reference of modality 'temp', got one of 'eda'"
    assert said(UsageError, EdgePredictor.open, temp_bundle, reference=path) == told
    told = "modality 'acc' takes raw values and no reference; open the bundle without one"
    assert said(UsageError, EdgePredictor.open, bundle_path, reference=REFERENCE) == told


def test_closing_under_load_gives_answers_or_clear_errors(bundle_path):
    predictor = EdgePredictor.open(bundle_path)
    started = threading.Barrier(5)

    def ask():
        started.wait()
        with contextlib.suppress(UsageError, BackendError):
            while True:
                predictor.predict(windows(1)[0])

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask) for _ in range(4)]
        started.wait()
        predictor.close()
    assert [one.result() for one in asked] == [None] * 4


def test_no_socket_is_opened_and_nothing_is_printed(bundle_path, monkeypatch, capfd):
    monkeypatch.setattr(socket, "socket", None)  # making one would be an error
    with EdgePredictor.open(bundle_path) as predictor:
        predictor.predict(windows(1)[0])
        predictor.selftest()
        predictor.info()
    assert capfd.readouterr() == ("", "")


def test_whatever_the_window_the_answer_is_that_of_the_four_steps(predictor):
    plain = windows(1)[0]
    missing, infinite, huge, read_only = plain.copy(), plain.copy(), plain * np.float32(1e30), plain.copy()
    missing[3:9, 1] = np.nan
    infinite[2, 0] = -np.inf
    read_only.flags.writeable = False
    wide = np.zeros((40, 6), dtype=np.float32)
    wide[::2, ::2] = plain
    same = (
        plain,
        {"acc": plain},
        read_only,
        np.frombuffer(b"\0" + plain.tobytes(), dtype=np.float32, offset=1).reshape(20, 3),  # unaligned
        wide[::2, ::2],
        np.asfortranarray(plain),
        plain[::-1].copy()[::-1],
        plain.astype(">f4"),
        plain.astype(np.float64),
        plain.tolist(),
    )
    expected = predictor.predict(plain).probabilities
    backend, modality = predictor.backend, predictor.modality
    for number, given in enumerate((*same, missing, infinite, huge)):
        found = predictor.predict(given)
        values, present = prepare(check_window(given, modality), modality)
        _, probabilities = backend.run({"acc": values, "acc_present": present})
        wanted = interpret(probabilities, present, modality=modality, task=predictor.task)
        np.testing.assert_array_equal(found.probabilities, wanted.probabilities)
        if number < len(same):
            np.testing.assert_array_equal(found.probabilities, expected)
        for field in ("label", "index", "probability", "status", "missing_fraction", "modality"):
            assert getattr(found, field) == getattr(wanted, field)


def test_a_bundle_opens_with_its_options_in_one_value_that_survives_json(bundle_path):
    options = OpenOptions(backend="ort", threads=1, observe_every=4, policy="abstain")
    assert msgspec.json.decode(msgspec.json.encode(options), type=OpenOptions) == options
    with (
        EdgePredictor.open_with(bundle_path, options) as one,
        EdgePredictor.open(bundle_path, backend="ort", threads=1, observe_every=4, policy="abstain") as other,
    ):
        infos = [msgspec.structs.replace(each.info(), sandbox_check="", selftest="") for each in (one, other)]
    assert infos[0] == infos[1]
    assert said(UsageError, lambda: OpenOptions(threads=0)) == "threads: expected a whole number from 1 to 256, got 0"
