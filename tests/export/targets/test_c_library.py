"""The native engine answers as the graph, and in C as in Python: conditions, reasons, streams; and clear errors."""

import ctypes
import hashlib
import json
import math
import os
import random
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from checks.mutants import with_model
from checks.mutations import mutated_bytes
from checks.verdicts import KINDS, Mutants, c_refusal, compare, write_rehashed
from mmkd_edge import Bundle, EdgePredictor, MmkdError, SensorChecks, check_window, example_bundle
from mmkd_edge.bundle.bundle import write_bundle
from mmkd_edge.bundle.golden import golden_bytes
from mmkd_edge.bundle.manifest import HopRule, OverTime, member_files
from mmkd_edge.bundle.manifest_json import encode_manifest
from mmkd_edge.bundle.reference import Commissioned, Reference, check_reference, read_reference, write_reference
from mmkd_edge.derive import derived_modality
from mmkd_edge.errors import BackendError, BundleError, UnavailableError, UsageError
from mmkd_edge.install.keys import make_keys
from mmkd_edge.native import ABI
from mmkd_edge.native.build import FOLDER, LIBRARY, SOURCES
from mmkd_edge.predict.commissioning import machine_reference
from mmkd_edge.predict.student import commissioned_entry
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.packing.contents import join_bundles
from mmkd_export.pipeline import export, export_several
from mmkd_export.plan import ExportPlan, Seal, export_plan
from mmkd_export.preflight import check_plan
from mmkd_export.targets.table import with_defaults
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from mmkd_models.training.checkpoint import write_student
from tests.edge.bundle.test_manifest import BROKEN, changed
from tests.edge.said import said
from tests.export.students import export_student, make_normal_student, make_student
from tests.export.test_novelty import with_seen

ACC = ModalitySpec(name="acc", channels=("x", "y'", "z\u00e4"), rate_hz=50.0, samples=61, range=(-6.5, 6.5), unit="g")
WHOLE = EncoderConfig(width=16, heads=2, depth=2, most_tokens=8, dropout=0.0, movement=True)
_RULE = {"gain_points": 1.0, "delay": (2.0, 4.0), "single_delay": (1.0, 3.0)}
FILTERED = OverTime(
    prior=(0.4, 0.3, 0.2, 0.1),
    rules=(
        HopRule(hop_fraction=0.3, dwell_s=0.5, exponent=2.0, **_RULE),
        HopRule(hop_fraction=1.0, dwell_s=9.0, exponent=0.1, **_RULE),
    ),
    changes=9,
)
CAUSAL = EncoderConfig(width=16, heads=2, depth=2, most_tokens=8, dropout=0.0)
NATIVE = ("native",)
CONDITIONS = ("ok", "degraded", "unknown", "stale", "warming_up", "invalid")
ROOT = Path(__file__).parents[3]
EXAMPLES, FUZZED = ROOT / "examples" / "c", ROOT / "benchmarks" / "checks" / "fuzzing" / "native.c"
OK, DAMAGED, NO_FILE, MISUSE, UNTRUSTED, DIFFERS = 0, 1, 4, 5, 6, 7


class Options(ctypes.Structure):
    _fields_ = (
        ("student", ctypes.c_int32),
        ("unknown_level", ctypes.c_double),
        ("error_level", ctypes.c_double),
        ("stale_s", ctypes.c_double),
        ("hop", ctypes.c_int32),
        ("gap_s", ctypes.c_double),
        ("reference_mean", ctypes.POINTER(ctypes.c_double)),
        ("reference_std", ctypes.POINTER(ctypes.c_double)),
        ("flat", ctypes.c_int32),
        ("stuck_s", ctypes.c_double),
        ("recorded", ctypes.c_int32),
        ("single_answers", ctypes.c_int32),
    )


class Answer(ctypes.Structure):
    _fields_ = (
        ("condition", ctypes.c_int32),
        ("index", ctypes.c_int32),
        ("label", ctypes.c_char_p),
        ("probability", ctypes.c_double),
        ("probabilities", ctypes.POINTER(ctypes.c_float)),
        ("value", ctypes.c_double),
        ("novelty", ctypes.c_double),
        ("missing_fraction", ctypes.c_double),
        ("input_age_s", ctypes.c_double),
        ("set", ctypes.POINTER(ctypes.c_int32)),
        ("set_size", ctypes.c_int32),
        ("reason", ctypes.c_char_p),
        ("modality", ctypes.c_char_p),
    )


class Window(ctypes.Structure):
    _fields_ = (
        ("values", ctypes.c_void_p),
        ("samples", ctypes.c_int32),
        ("channels", ctypes.c_int32),
        ("age_s", ctypes.c_double),
    )


class Program:
    """What a C program would do with one student of a bundle."""

    def __init__(self, path, commissioned=None, **options):
        self.library = ctypes.CDLL(str(LIBRARY))
        self.bundle, self.predictor, error = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.create_string_buffer(400)
        status = self.library.mmkd_open_file(str(path).encode(), ctypes.byref(self.bundle), error, 400)
        self.error = error.value.decode()
        self.labels: list[str] = []
        if status == OK:
            self.library.mmkd_label.restype = ctypes.c_char_p
            self.labels = [self.library.mmkd_label(self.bundle, 0, index).decode() for index in range(4)]
            given = Options(**options)
            place = ctypes.byref(self.predictor)
            file = str(commissioned).encode()
            status = self.library.mmkd_commission_file(self.bundle, 0, file, error, 400) if commissioned else OK
            if status == OK:
                status = self.library.mmkd_predictor_open(self.bundle, ctypes.byref(given), place, error, 400)
            self.error = error.value.decode()
        self.status = status

    @property
    def refusal(self):
        return self.status, self.error

    def predict(self, window, age_s=math.nan):
        answer = Answer()
        array = np.ascontiguousarray(window, dtype=np.float32)
        self.status = self.library.mmkd_predict(
            self.predictor,
            array.ctypes.data_as(ctypes.c_void_p),
            *array.shape,
            ctypes.c_double(age_s),
            ctypes.byref(answer),
        )
        return self._plain(answer)

    def push(self, rows, times=None, now_s=math.nan):
        answers: list[dict[str, Any]] = []
        receive = ctypes.CFUNCTYPE(None, ctypes.POINTER(Answer), ctypes.c_void_p)(
            lambda answer, _: answers.append(self._plain(answer.contents))
        )
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        moments = None if times is None else np.ascontiguousarray(times, dtype=np.float64)
        self.status = self.library.mmkd_push(
            self.predictor,
            rows.ctypes.data_as(ctypes.c_void_p),
            len(rows),
            None if moments is None else moments.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_double(now_s),
            receive,
            None,
        )
        return answers

    def _plain(self, answer):
        count = len([label for label in self.labels if label])
        return {
            "status": CONDITIONS[answer.condition],
            "index": answer.index,
            "label": answer.label.decode(),
            "probability": answer.probability,
            "probabilities": answer.probabilities[:count] if answer.probabilities else [],
            "value": answer.value,
            "novelty": answer.novelty,
            "missing": answer.missing_fraction,
            "age": answer.input_age_s,
            "set": [self.labels[answer.set[number]] for number in range(answer.set_size)],
            "reason": answer.reason.decode(),
            "modality": answer.modality.decode(),
        }

    def close(self):
        self.library.mmkd_predictor_close(self.predictor)
        self.library.mmkd_close(self.bundle)


pytestmark = pytest.mark.usefixtures("native_engine")


@pytest.fixture
def program():
    programs: list[Program] = []

    def open_program(path, **options):
        programs.append(Program(path, **options))
        return programs[-1]

    yield open_program
    for opened in programs:
        opened.close()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder, paths = tmp_path_factory.mktemp("c"), {}
    for name, encoder in (("windows", WHOLE), ("causal", CAUSAL)):
        config = StudentConfig(preset="toy", encoder=encoder, causal=name == "causal")
        student = with_seen(make_student(modality=ACC, windows=24, config=config))
        facts = msgspec.structs.replace(student.facts, over_time=FILTERED)
        student = replace(student, facts=facts)
        paths[name] = export_student(folder, student, name=name, targets=NATIVE).path
    return paths


def assert_same(got, expected):
    names = ("status", "label", "index", "reason", "modality")
    assert [got[name] for name in names] == [getattr(expected, name) for name in names]
    assert got["missing"] == pytest.approx(expected.missing_fraction, abs=1e-12)
    assert got["probability"] == pytest.approx(expected.probability, abs=1e-5)
    if expected.index >= 0:
        np.testing.assert_allclose(got["probabilities"], expected.probabilities, atol=1e-5)
    assert math.isnan(got["novelty"]) if expected.novelty is None else got["novelty"] == expected.novelty
    age = expected.input_age_s
    assert math.isnan(got["age"]) if age is None else got["age"] == pytest.approx(age, abs=1e-9)


@pytest.mark.parametrize("name", ["windows", "causal"])
def test_every_window_is_answered_as_in_python(bundles, program, name):
    windows = np.random.default_rng(3).normal(size=(12, 61, 3)).astype(np.float32)
    windows[1, :20] = np.nan
    windows[2, :, 1] = np.nan
    windows[3] = np.nan
    windows[4, 5:9, 2] = 9.0
    windows[4, 10, 0] = -np.inf
    windows[5, :, :2] = np.nan
    windows[6] *= 1e-3
    windows[7, 3, 0] = np.nan
    statuses = set()
    for levels in ({"unknown_level": 0.2, "error_level": 0.3, "stale_s": 2.0}, {}):
        native = program(bundles[name], **levels)
        with EdgePredictor.open(bundles[name], backend="native", **levels) as predictor:
            for number, window in enumerate(windows):
                age = (None, 1.0, 3.25, -4.0)[number % 4]
                expected = predictor.predict(window, input_age_s=age)
                got = native.predict(window, math.nan if age is None else age)
                assert_same(got, expected)
                assert got["set"] == list(expected.label_set)
                statuses.add(got["status"])
    assert statuses == {"ok", "degraded", "unknown", "stale", "invalid"}


@pytest.mark.parametrize("name", ["windows", "causal"])
def test_python_answers_by_the_engine_first_and_as_by_the_graph(bundles, name):
    rng = np.random.default_rng(3)
    windows, rows = rng.normal(size=(8, 61, 3)).astype(np.float32), rng.normal(size=(400, 3)).astype(np.float32)
    windows[1, :20] = np.nan
    times = np.arange(400) / 50.0
    with EdgePredictor.open(bundles[name], backend="ort") as graph, EdgePredictor.open(bundles[name]) as native:
        assert (native.backend.name, native.info().precision) == ("native", "fp32")
        streams = [predictor.stream(hop=8) for predictor in (graph, native)]
        cuts = [slice(at, at + 50) for at in range(0, 400, 50)]
        followed = [[each for cut in cuts for each in stream.push(rows[cut], times[cut])] for stream in streams]
        assert len(followed[0]) > 40
        pairs = [(graph.predict(window), native.predict(window)) for window in windows]
        for expected, got in (*pairs, *zip(*followed, strict=True)):
            assert (got.label, got.status) == (expected.label, expected.status)
            assert got.novelty == (expected.novelty and pytest.approx(expected.novelty))
            np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=1e-4)
        assert said(BackendError, native.backend.run, {"acc": np.zeros((1, 61, 3))}) == (
            "input 'acc': expected float32 (1, 61, 3), got float64 (1, 61, 3)"
        )
    assert said(UsageError, EdgePredictor.open, bundles[name], backend="native", threads=2) == (
        "threads 2: the backend 'native' computes in one thread; leave threads out"
    )


def test_what_the_engine_cannot_have_is_refused_or_left_out(tmp_path, monkeypatch):
    source, output = tmp_path / "mic.ckpt", tmp_path / "mic.edge"
    mic = ModalitySpec(name="mic", kind="audio", channels=("mono",), rate_hz=1000.0, samples=500)
    write_student(source, make_student(modality=mic, windows=12))
    plan, reason = ExportPlan(source=source, output=output, targets=("native",)), "the native engine takes series"
    assert said(UsageError, export, plan) == f"modality 'mic': {reason}, got audio"
    assert not output.exists()
    (left_out,) = export(with_defaults(export_plan(source))).report.left_out
    assert (left_out.format, left_out.reason) == ("native", f"modality 'mic': {reason}, got audio")
    write_student(source, make_student(modality=ACC, windows=12))
    monkeypatch.setattr("pathlib.Path.is_file", lambda path: path.name != LIBRARY.name and path.exists())
    assert said(UnavailableError, check_plan, plan) == (
        "--target native: the native engine was not built: no C compiler was found; install one and reinstall mmkd-edge"
    )


@pytest.mark.parametrize("name", ["windows", "causal"])
@pytest.mark.parametrize("timed", [False, True])
def test_a_stream_is_answered_as_in_python(bundles, program, name, timed):
    check_stream(bundles[name], program, timed=timed, single=False)


def test_single_answers_of_a_stream_are_those_of_its_windows(bundles, program):
    single = check_stream(bundles["windows"], program, timed=False, single=True)
    filtered = check_stream(bundles["windows"], program, timed=False, single=False)
    assert [answer["label"] for answer in single] != [answer["label"] for answer in filtered]
    assert all(a["probability"] == max(a["probabilities"]) for a in single if a["index"] >= 0)


def check_stream(path, program, *, timed, single):
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(700, 3)).astype(np.float32)
    rows[100:104] = np.nan
    rows[120, 1] = 40.0
    times = np.arange(700) / 50.0 + rng.normal(scale=0.002, size=700)
    times[200:] += 0.3  # a gap
    times[260] = times[259]  # a duplicate, a late one, a stray
    times[270], times[280] = times[265], 9e5
    times[400:] += 100.0  # the clock was set
    times[560:] = times[560] + np.arange(140) / 20.0  # too slow
    native = program(path, hop=16, stale_s=3.0, single_answers=int(single))
    with EdgePredictor.open(path, backend="native", stale_s=3.0) as predictor:
        stream, expected, got = predictor.stream(hop=16, over_time=not single), [], []
        for start in range(0, 700, 35):
            part = slice(start, start + 35)
            now = times[part][-1] + (5.0 if start == 315 else 0.1)
            moments = (times[part], now) if timed else (None, math.nan)
            expected += stream.push(rows[part], moments[0], now_s=now if timed else None)
            got += native.push(rows[part], *moments)
    assert len(got) == len(expected) > 20
    for mine, theirs in zip(got, expected, strict=True):
        assert_same(mine, theirs)
    found = {answer["status"] for answer in got}
    assert found >= ({"warming_up", "degraded", "stale"} if timed else {"warming_up", "degraded"})
    if timed:
        assert any(answer["reason"].startswith("the time line began anew: ") for answer in got)
        assert any("samples come at 20 Hz, expected 50 Hz" in answer["reason"] for answer in got)
    assert native.push(rows[:1], None if timed else times[:1]) == []
    assert native.status == MISUSE
    native.library.mmkd_reset(native.predictor)
    assert_same(native.push(rows[:77])[0], first_prediction(path, rows[:77]))
    return got


@pytest.mark.parametrize("checks", [{"flat": True}, {"stuck_s": 0.3}, {"flat": True, "stuck_s": 0.1}], ids=str)
def test_sensors_that_fail_are_found_as_in_python(bundles, program, checks):
    windows = np.random.default_rng(11).normal(size=(7, 61, 3)).astype(np.float32)
    windows[1, :, 1] = 0.25
    windows[2] = 1.5
    windows[3, 10:40, 0] = windows[3, 10, 0]
    windows[4, 20:35, 1:] = np.nan
    windows[5, :, 0], windows[5, 5:25, 2] = 0.1, np.nan
    native = program(bundles["windows"], stale_s=2.0, **checks)
    statuses = set()
    options = {"backend": "native", "stale_s": 2.0, "checks": SensorChecks(**checks)}
    with EdgePredictor.open(bundles["windows"], **options) as predictor:
        for number, window in enumerate(windows):
            age = 5.0 if number == 5 else 0.0
            expected = predictor.predict(window, input_age_s=age)
            assert_same(native.predict(window, age), expected)
            statuses.add(expected.status)
    assert statuses >= ({"ok", "degraded", "stale", "invalid"} if "flat" in checks else {"ok", "degraded", "stale"})
    message = "stuck_s: expected more than one sample and at most one window of 'acc', 0.02 to 1.22 s; got 9"
    assert program(bundles["windows"], stuck_s=9.0).refusal == (MISUSE, message)


def test_the_next_student_answers_if_the_best_ones_sensor_is_dead(bundles, tmp_path):
    gyro = ModalitySpec(name="gyro", channels=("p", "q"), rate_hz=25.0, samples=30)
    write_student(tmp_path / "gyro.ckpt", make_student(modality=gyro, windows=24))
    sources = (bundles["windows"].with_suffix(".ckpt"), tmp_path / "gyro.ckpt")
    plans = [ExportPlan(source=source, output=tmp_path / "both.edge", targets=("native",)) for source in sources]
    export_several(plans, output=tmp_path / "both.edge")
    rng = np.random.default_rng(12)
    acc, turns = (rng.normal(size=shape).astype(np.float32) for shape in ((61, 3), (30, 2)))
    dead, half = np.full_like(acc, np.nan), turns.copy()
    half[:10] = np.nan
    first, second = Program(tmp_path / "both.edge"), Program(tmp_path / "both.edge", student=1)
    predictors, answer = (ctypes.c_void_p * 2)(first.predictor, second.predictor), Answer()
    with EdgePredictor.open(tmp_path / "both.edge", backend="native") as predictor:
        for arrays in ((acc, turns), (dead, turns), (None, half), (dead, None), (None, np.full_like(turns, np.nan))):
            kept = [None if array is None else array.ctypes.data_as(ctypes.c_void_p) for array in arrays]
            shapes = [(0, 0) if array is None else array.shape for array in arrays]
            windows = (Window * 2)(*(Window(at, *shape, math.nan) for at, shape in zip(kept, shapes, strict=True)))
            assert first.library.mmkd_predict_first(predictors, windows, 2, ctypes.byref(answer)) == OK
            assert_same(first._plain(answer), predictor.predict(dict(zip(("acc", "gyro"), arrays, strict=True))))
    first.close()
    second.close()


def test_a_bundle_that_no_given_key_has_signed_is_refused(bundles, tmp_path):
    keys = {name: make_keys(tmp_path / name)[0] for name in ("own", "other")}
    signed, changed = tmp_path / "signed.edge", tmp_path / "changed.edge"
    join_bundles([bundles["windows"]], signed, seal=Seal(release=1, keys=(tmp_path / "own",)))
    join_bundles([bundles["windows"]], changed, seal=Seal(release=2, keys=(tmp_path / "own",)))
    with zipfile.ZipFile(signed) as archive:
        signature = archive.read("signature.json")
    data = changed.read_bytes()
    with zipfile.ZipFile(changed) as archive:
        data = data.replace(archive.read("signature.json"), signature)  # of the other manifest
    changed.write_bytes(data[:-64] + hashlib.sha256(data[: -(22 + 81)]).hexdigest().encode())
    library, bundle, error = ctypes.CDLL(str(LIBRARY)), ctypes.c_void_p(), ctypes.create_string_buffer(400)

    def opened(path, *names):
        given = b"".join(bytes.fromhex(keys[name].ed25519) for name in names)
        place = ctypes.byref(bundle)
        error.value = b""
        status = library.mmkd_open_file_signed(str(path).encode(), given, len(names), place, error, 400)
        library.mmkd_close(bundle)
        return status, error.value.decode()

    assert opened(signed, "other", "own") == (OK, "")
    own, end = keys["own"].key_id, "; have it signed by one that counts"
    start = "no given key has signed the bundle: key"
    assert opened(signed, "other") == (UNTRUSTED, f"{start} {own} is not among them{end}")
    assert opened(changed, "own") == (UNTRUSTED, f"{start} {own} has signed something else{end}")
    unsigned = "the bundle is not signed, and one of the given keys must have; export it with --sign"
    assert opened(bundles["windows"], "own") == (UNTRUSTED, unsigned)
    no_keys = "keys: expected at least one public key, got none; pass the keys that may sign, or call mmkd_open for "
    assert opened(signed) == (UNTRUSTED, f"{no_keys}unsigned bundles")
    data, place = signed.read_bytes(), ctypes.byref(bundle)
    assert library.mmkd_open_signed(data, len(data), None, 1, place, error, 400) == UNTRUSTED
    assert (bundle.value, error.value.decode()) == (None, f"{no_keys}unsigned bundles")


def test_golden_windows_show_whether_this_processor_answers_as_at_export(bundles, tmp_path):
    library, error, largest = ctypes.CDLL(str(LIBRARY)), ctypes.create_string_buffer(400), ctypes.c_double()

    def tested(path):
        error.value = b""
        return library.mmkd_selftest_file(str(path).encode(), ctypes.byref(largest), error, 400), error.value.decode()

    for path in bundles.values():
        assert tested(path) == (OK, "")
        assert 0 < largest.value < 1e-4
    changed, path = tmp_path / "changed.edge", bundles["windows"]

    def rolled(model):
        at = struct.unpack_from("<Q", model, model.index(b"head.w\0") + 48)[0]
        return model[:at] + struct.pack("<f", 40.0) + model[at + 4 :]

    manifest, members = with_model(path, "native", rolled)
    write_bundle(changed, manifest=manifest, members=members)
    status, message = tested(changed)
    assert status == DIFFERS
    assert message.startswith("student 'acc': golden window 0: expected the stored answer within 1e-04, got a d")
    manifest, members = with_model(path, "native", bytes)
    entry, damaged = manifest.models[0], "acc/golden.npz: expected golden windows; export the bundle again"
    with Bundle.open(path) as bundle:
        golden = bundle.golden("acc")
    for name, value in (("logits", np.nan), ("probabilities", np.inf), ("novelty", np.nan), ("tolerance", 1.0)):
        spoilt = np.array(getattr(golden, name))
        spoilt[(0,) * spoilt.ndim] = value
        wrong = float(spoilt) if name == "tolerance" else spoilt
        data = golden_bytes(msgspec.structs.replace(golden, **{name: wrong}))
        facts = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        fresh = msgspec.structs.replace(entry, golden=msgspec.structs.replace(entry.golden, **facts))
        other = msgspec.structs.replace(manifest, models=(fresh,))
        write_bundle(changed, manifest=other, members=members | {"acc/golden.npz": data})
        assert tested(changed) == (DAMAGED, damaged)
        with Bundle.open(changed) as bundle, pytest.raises(BundleError):
            bundle.golden("acc")


@pytest.mark.parametrize("flag", ["-O1", "-DMMKD_PLAIN_SHA256"])
def test_sha256_is_the_same_with_and_without_the_processors_instructions(tmp_path, flag):
    engine = [FOLDER / name for name in SOURCES if name.endswith(".c") and ("verify" in name or "monocypher" in name)]
    source, program = Path(__file__).with_name("sha256.c"), tmp_path / "hash"
    subprocess.run(["cc", "-std=c99", flag, f"-I{FOLDER / 'src'}", source, *engine, "-o", program], check=True)
    data = bytes(number * 7 % 256 for number in range(1000))
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [hashlib.sha256(data[:size]).hexdigest() for size in range(0, 1000, 9)]


def first_prediction(path, rows):
    with EdgePredictor.open(path, backend="native") as predictor:
        return predictor.stream(hop=16).push(rows)[0]


def test_a_machine_of_its_own_is_standardised_by_its_reference(program, tmp_path):
    modality = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=50.0, samples=40, normalise="per_group")
    path = export_student(tmp_path, make_student(modality=modality, windows=24), targets=NATIVE).path
    mean, std = (20.0, -3.0), (2.0, 0.25)
    window = (np.random.default_rng(2).normal(size=(40, 2)) * std + mean).astype(np.float32)
    window[3, 0], window[9, 1] = np.nan, 9e9
    pointers = [(ctypes.c_double * 2)(*values) for values in (mean, std)]
    native = program(path, reference_mean=pointers[0], reference_std=pointers[1])
    reference = Reference(modality=modality.name, mean=mean, std=std)
    with EdgePredictor.open(path, backend="native", reference=reference) as predictor:
        assert_same(native.predict(window), predictor.predict(window))
    refusal = "modality 'acc' is normalised per group: expected reference_mean and reference_std"
    assert program(path).refusal == (MISUSE, refusal)


@pytest.fixture(scope="module")
def derived(tmp_path_factory):
    modality = derived_modality("acc[x,z\u00e4]@1s,25Hz,8bit", [ACC])
    student = make_student(
        modality=modality, windows=24, config=StudentConfig(preset="toy", encoder=CAUSAL, causal=True)
    )
    path = export_student(tmp_path_factory.mktemp("derived"), with_seen(student), name="cheap", targets=NATIVE).path
    return modality, path


def recorded_rows(count):
    rows = np.random.default_rng(6).normal(0, 2, (count, 3)).astype(np.float32)
    rows[10:30, 0], rows[40, 2], rows[45, 0] = np.nan, 40.0, np.inf
    return rows


def test_a_derived_sensors_windows_come_as_they_are_or_recorded(bundles, derived, program):
    modality, path = derived
    cheap, native, rows = program(path), program(path, recorded=1), recorded_rows(244)
    with EdgePredictor.open(path, backend="native") as predictor:
        for window in rows.reshape(4, 61, 3):
            expected = predictor.predict({"acc": window})
            assert_same(cheap.predict(check_window({"acc": window}, modality)), expected)
            assert_same(native.predict(window), expected)
            assert_same(native.predict(window[11:]), expected)  # the newest second
    for opened, shape, name, wrong in (
        (cheap, (25, 2), modality.name, rows[:61]),
        (native, (50, 3), "acc", rows[:51]),
        (native, (50, 3), "acc", rows[:50, :2]),
    ):
        said = opened.predict(wrong)["reason"]
        assert said == f"modality '{name}': expected shape (T, C)={shape}, got {wrong.shape}"
        assert opened.status == MISUSE
    refused = program(bundles["windows"], recorded=1)
    assert (refused.status, refused.error) == (
        MISUSE,
        "recorded: expected a student of a derived sensor, got 'acc'",
    )


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_derived_sensors_stream_is_the_cheap_ones_or_the_recorded_ones(derived, program, timed, recorded):
    modality, path = derived
    rows, rate_hz = (recorded_rows(300), 50.0) if recorded else (recorded_rows(300)[:, :2], 25.0)
    times = np.arange(300) / rate_hz
    times[150:] += 0.3  # a gap, then another clock
    times[220:] += 100.0
    hop = 7 if recorded else 8
    native = program(path, hop=hop, recorded=int(recorded))
    with EdgePredictor.open(path, backend="native") as predictor:
        stream = predictor.stream(hop=hop, modality="acc" if recorded else modality.name)
        expected = stream.push(rows, times if timed else None, now_s=times[-1] if timed else None)
    got = native.push(rows, *((times, times[-1]) if timed else ()))
    assert len(got) == len(expected) > 30
    for mine, theirs in zip(got, expected, strict=True):
        assert_same(mine, theirs)


@pytest.mark.parametrize(
    "task",
    [
        TaskSpec(kind="regression", labels=("wear",), unit="mm", range=(0.0, 2.0)),
        TaskSpec(kind="multi_label", labels=("hot", "worn", "loud"), threshold=0.4),
    ],
    ids=lambda task: task.kind,
)
def test_numbers_and_several_labels(program, tmp_path, task):
    path = export_student(tmp_path, make_student(modality=ACC, task=task, windows=24), targets=NATIVE).path
    windows = np.random.default_rng(4).normal(size=(6, 61, 3), scale=2).astype(np.float32)
    native = program(path)
    with EdgePredictor.open(path, backend="native") as predictor:
        for window in windows:
            got, expected = native.predict(window), predictor.predict(window)
            assert (got["label"], got["status"], got["set"]) == (expected.label, expected.status, list(expected.labels))
            assert math.isnan(got["value"]) if expected.value is None else got["value"] == pytest.approx(expected.value)


@pytest.fixture(scope="module")
def normal(tmp_path_factory):
    """A student of normal running, and its bundle."""
    student = make_normal_student(modality=ACC)
    return student, export_student(tmp_path_factory.mktemp("normal"), student, targets=NATIVE).path


@pytest.mark.parametrize("unknown_level", [0.0, 0.3])
def test_a_window_unlike_normal_data_is_unknown(program, normal, unknown_level):
    path = normal[1]
    native = program(path, unknown_level=unknown_level)
    with EdgePredictor.open(path, backend="native", unknown_level=unknown_level or None) as predictor:
        for window in [*predictor.bundle.golden("acc").windows[:20], np.full((61, 3), np.nan), np.zeros((61, 3))]:
            got, expected = native.predict(window), predictor.predict(window)
            for name in ("label", "index", "status", "reason"):
                assert got[name] == getattr(expected, name)
            assert math.isnan(got["value"]) if expected.score is None else got["value"] == expected.score
            assert math.isnan(got["novelty"]) if expected.p_value is None else got["novelty"] == expected.p_value
    assert native.library.mmkd_selftest_file(str(path).encode(), None, None, 0) == OK
    assert program(path, unknown_level=0.03).error == (
        "unknown_level: expected at least 0.04, because 24 groups calibrated it"
    )


def test_the_level_of_normal_data_without_groups_holds_too(program, tmp_path):
    path = export_student(tmp_path, make_normal_student(modality=ACC, groups=0), targets=NATIVE).path
    native, loud = program(path), np.random.default_rng(4).normal(size=(61, 3), scale=9).astype(np.float32)
    with EdgePredictor.open(path, backend="native") as predictor:
        for window in (predictor.bundle.golden("acc").windows[0], loud):
            got, expected = native.predict(window), predictor.predict(window)
            assert (got["status"], got["label"], got["reason"]) == (expected.status, expected.label, expected.reason)
    assert expected.status == "unknown"
    assert program(path, unknown_level=0.001).error == (
        "unknown_level: expected at least 0.0041, because 240 windows calibrated it"
    )


SIDECARS = 200
"""Mutants that Python and C are compared with."""


def altered_sidecars(data):
    """Yield a sidecar with each value replaced, left out and named twice, and what is no JSON."""
    document = json.loads(data)
    yield from (data, data + b"x", data[:-2], b"\xef\xbb\xbf" + data, data.replace(b"csv:log", b"\xff"), b"[1]")
    yield from (
        data.replace(b"csv:log", text) for text in (rb"\ud800", rb"\ud83d\ude00", rb"\x41", b"\t", "ä".encode())
    )
    yield data.replace(b"4.0", b"04.0").replace(b"0.5", b"NaN")
    yield data.replace(b"[", b"[,", 1)
    values = (None, True, -1, 0, 1, 1.0, 0.5, 10**16, 1e308, "", "x", [], [1.0], [2.0, 1.0], [0.0], {}, math.nan)
    for place in ((), ("normal",), ("commissioned",)):
        for key in [*inside(document, place), "more"]:
            for value in values:
                changed = json.loads(data)
                inside(changed, place)[key] = value
                yield json.dumps(changed).encode()
            changed = json.loads(data)
            inside(changed, place).pop(key, None)
            yield json.dumps(changed).encode()
            yield data.replace(f'"{key}":'.encode(), f'"{key}": 1, "{key}":'.encode(), 1)


def inside(document, place):
    for key in place:
        document = document[key]
    return document


def mutated_sidecars(data, *, count):
    for number in range(count):
        yield mutated_bytes(data, random.Random(number))


def is_taken_by_python(entry, file):
    try:
        reference = read_reference(file)
        check_reference(reference, entry.modality)
        commissioned_entry(entry, reference)
    except MmkdError:
        return False
    return True


def test_the_scores_of_one_machine_take_the_place_of_the_bundles(bundles, program, normal, tmp_path):
    file, (student, path) = tmp_path / "press.json", normal
    windows = 1.4 * np.nan_to_num(student.carried.windows)
    with EdgePredictor.open(path, backend="native") as predictor:
        entry, scores = predictor.entry, [one.score for one in predictor.predict_batch(windows[::2])]
        before = [one.status for one in predictor.predict_batch(windows)]
    facts = {"model_id": "m", "source": "csv:log", "ended_utc": "2026-11-30T00:00:00Z", "minutes": 4.0, "unlike": 0.5}
    facts["judgement"] = "passed"
    machine = Commissioned(student_sha256=entry.golden.sha256, **facts)
    write_reference(file, machine_reference(entry, scores, period_s=2.0, commissioned=machine))
    native = program(path, commissioned=file)
    with EdgePredictor.open(path, backend="native", reference=file) as predictor:
        expected = predictor.predict_batch(windows)
    for window, one in zip(windows, expected, strict=True):
        answer = native.predict(window)
        assert (answer["status"], answer["novelty"], answer["reason"]) == (one.status, one.p_value, one.reason)
    assert [one.status for one in expected].count("unknown") < before.count("unknown")
    other, another = tmp_path / "other.json", msgspec.structs.replace(machine, student_sha256="5" * 64)
    write_reference(other, machine_reference(entry, scores, period_s=2.0, commissioned=another))
    refusal = (
        "expected normal running of one machine, recorded with this student; run mmkd-edge commission with this bundle"
    )
    mutant = tmp_path / "mutant.json"
    call = (native.bundle, 0, str(mutant).encode(), None, 0)
    opened = Counter(
        (is_taken_by_python(entry, mutant), native.library.mmkd_commission_file(*call) == OK)
        for data in (*altered_sidecars(file.read_bytes()), *mutated_sidecars(file.read_bytes(), count=SIDECARS))
        if mutant.write_bytes(data)
    )
    assert (opened[True, False], opened[False, True]) == (0, 0)
    assert opened[False, False] > 150
    assert opened[True, True] > 20
    absent = tmp_path / "none.json"
    unreadable = "expected a reference (.json) that can be read, got: No such file or directory"
    for bundle, wrong, status in ((path, other, MISUSE), (path, path, DAMAGED), (bundles["windows"], file, MISUSE)):
        assert program(bundle, commissioned=wrong).refusal == (status, refusal)
    assert program(path, commissioned=absent).refusal == (NO_FILE, f"{absent}: {unreadable}")


def test_what_python_refuses_in_a_manifest_c_refuses_too(bundles, tmp_path):
    path, tried = tmp_path / "broken.edge", 0
    with Bundle.open(bundles["causal"]) as bundle:
        manifest = bundle.manifest
        members = {entry.file: bundle.read(entry.file) for entry in member_files(manifest)}
    document = json.loads(encode_manifest(manifest))
    for place, value, _ in BROKEN:
        try:
            broken = json.dumps(changed(document, place, value)).encode()
        except (KeyError, TypeError, IndexError):
            continue  # this bundle lacks that part
        write_rehashed(path, broken, manifest, members)
        assert (place, compare(path)) == (place, "both refuse")
        tried += 1
    assert tried > 45
    escaped = json.dumps(document).replace('"licence"', r'"licenc\u0065"').encode()
    write_rehashed(path, escaped, manifest, members)
    assert compare(path) == "both refuse"
    write_rehashed(path, json.dumps(changed(document, ".modality.rate_hz", 0)).encode(), manifest, members)
    assert c_refusal(path) == "manifest.json: rate_hz: expected another value; export the bundle again"


@pytest.mark.parametrize("kind", KINDS)
def test_python_and_c_open_the_same_mutants(bundles, derived, normal, tmp_path, kind):
    path = {"sidecar": normal[1], "derivation": derived[1]}.get(kind, bundles["causal"])
    mutants = Mutants(path, kind, tmp_path)
    found = Counter(mutants.compare(random.Random(f"{kind} {number}")) for number in range(100))
    assert [outcome for outcome in found if outcome.startswith("BAD")] == []
    assert min(found["both open"], found["both refuse"]) > 0


def test_wrong_files_and_arguments_say_what_is_wrong(bundles, program, tmp_path):
    data = bundles["windows"].read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    nothing, empty, text, half, bad, fifo = (
        tmp_path / f"{name}.edge" for name in ("nothing", "empty", "text", "half", "bad", "fifo")
    )
    os.mkfifo(fifo)
    empty.touch()
    text.write_bytes(b"no bundle at all" * 20)
    half.write_bytes(data[: len(data) // 2])
    bad.write_bytes(flipped)
    cases = {
        nothing: (NO_FILE, f"{nothing}: expected a bundle (.edge) that can be read, got: No such file or directory"),
        empty: (NO_FILE, f"{empty}: expected a bundle (.edge) that can be read, got: an empty or too large file"),
        fifo: (NO_FILE, f"{fifo}: expected a bundle (.edge) that can be read, got: a folder, FIFO or device"),
        tmp_path: (NO_FILE, f"{tmp_path}: expected a bundle (.edge) that can be read, got: a folder, FIFO or device"),
        text: (DAMAGED, "expected a bundle (.edge), or it was cut off; copy it again"),
        half: (DAMAGED, "expected a bundle (.edge), or it was cut off; copy it again"),
        bad: (DAMAGED, "the bundle is damaged: its SHA-256 does not match its content; copy it again"),
    }
    for path, expected in cases.items():
        assert program(path).refusal == expected
    options = {
        "student: expected 0 to 0, got 3": {"student": 3},
        "hop: expected 1 to 16777216 samples, got -1": {"hop": -1},
        "gap_s: expected at most 64 windows of 'acc', 78.08 s, got 1e+12": {"gap_s": 1e12},
        "gap_s: expected at most 64 windows of 'acc', 78.08 s, got nan": {"gap_s": math.nan},
        "unknown_level: expected at least 0.04, because 24 windows calibrated it": {"unknown_level": 0.01},
        "error_level: expected at least 0.077, because 12 windows calibrated it": {"error_level": 0.01},
    }
    for message, option in options.items():
        assert program(bundles["windows"], **option).refusal == (MISUSE, message)
    step = program(bundles["causal"], hop=3)
    assert step.error == "hop: expected a multiple of 8, the samples of one step of this causal student, got 3"
    native = program(bundles["windows"])
    assert native.predict(np.zeros((3, 61)))["reason"] == "modality 'acc': expected shape (T, C)=(61, 3), got (3, 61)"
    assert native.status == MISUSE
    answer = Answer()
    assert native.library.mmkd_predict(native.predictor, None, 61, 3, ctypes.c_double(), ctypes.byref(answer)) == MISUSE
    absent = "modality 'acc': expected a window, got NULL; of an absent sensor use mmkd_predict_first"
    assert (answer.reason.decode(), answer.index) == (absent, -1)
    assert native.library.mmkd_push(native.predictor, None, 5, None, ctypes.c_double(), None, None) == MISUSE


def test_the_longest_gap_is_bridged_in_bounded_time(bundles, program):
    rows, times = np.zeros((4, 3)), np.array([0.0, 0.02, 78.1, 1e11])
    native = program(bundles["windows"], hop=61, gap_s=78.08)
    with EdgePredictor.open(bundles["windows"], backend="native") as predictor:
        expected = predictor.stream(hop=61, gap_s=78.08).push(rows, times)
        assert said(UsageError, predictor.stream, hop=61, gap_s=1e12) == (
            "gap_s: expected at most 64 windows of 'acc', 78.08 s, got 1e+12"
        )
    begun = time.monotonic()
    got = native.push(rows, times)
    assert time.monotonic() - begun < 2.0
    assert len(got) == len(expected) == 64
    for mine, theirs in zip(got, expected, strict=True):
        assert_same(mine, theirs)


def compiled(source, program, *flags, compiler="cc"):
    if shutil.which(compiler) is None or shutil.which("pkg-config") is None:
        pytest.skip(f"needs {compiler} and pkg-config")
    environment = {**os.environ, "PKG_CONFIG_PATH": str(FOLDER)}
    links = subprocess.check_output(["pkg-config", "--cflags", "--libs", "mmkd"], env=environment, text=True).split()
    subprocess.run([compiler, str(source), *flags, *links, "-o", str(program)], check=True)
    return program


def test_the_example_in_c_follows_samples_from_a_file(bundles, derived, tmp_path):
    program = compiled(EXAMPLES / "follow.c", tmp_path / "follow", "-Wall", "-Wextra", "-Werror")
    rows = np.random.default_rng(6).normal(size=(130, 3)).round(3).astype(np.float32)
    text = "\n".join(",".join(f"{value:g}" for value in row) for row in rows).replace("\n", "\n,,\n", 1)
    done = subprocess.run([program, bundles["windows"]], input=text, capture_output=True, text=True, check=True)
    with_gap = np.insert(rows, 1, np.nan, axis=0)
    with EdgePredictor.open(bundles["windows"], backend="native") as predictor:
        expected = predictor.stream(hop=61).push(with_gap)
    assert done.stdout.splitlines() == [
        f"{answer.status} {answer.label} {answer.probability:.3f} {answer.reason}" for answer in expected
    ]
    cheap = subprocess.run([program, derived[1], "recorded"], input=text, capture_output=True, text=True, check=True)
    with EdgePredictor.open(derived[1], backend="native") as predictor:
        expected = predictor.stream(hop=50, modality="acc").push(with_gap)
    assert cheap.stdout.splitlines() == [
        f"{answer.status} {answer.label} {answer.probability:.3f} {answer.reason}" for answer in expected
    ]
    for recorded, channels in (((), "x, y', zä"), (("recorded",), "the channels of acc")):
        bundle = derived[1] if recorded else bundles["windows"]
        for line in ("x,y,z", "12:00:03,1,2,3", "0.25,1,2,3", "1,2", "1;2;3", "\ufeff1,2,3"):
            wrong = {"input": f"1,,nan\r\n{line}\r\n1,2,3\n", "capture_output": True, "encoding": "utf-8"}
            refused = subprocess.run([program, bundle, *recorded], check=False, **wrong)
            expected = f"line 2: expected 3 numbers, {channels}, got '{line}'; leave out headers and columns of times\n"
            assert (refused.stdout, refused.stderr, refused.returncode) == ("", expected, 2)
    refused = subprocess.run([program, tmp_path / "none.edge"], input="", capture_output=True, text=True, check=False)
    assert refused.returncode == 6
    expected = "expected a bundle (.edge) that can be read, got: No such file or directory"
    assert refused.stderr == f"{tmp_path}/none.edge: {expected}\n"


def test_only_the_kernels_compile_with_fast_arithmetic():
    sources = (name for name in SOURCES if name.startswith("src/") and name.endswith(".c"))
    compile_fast = ["cc", "-std=c99", "-ffast-math", "-fsyntax-only", "-DMMKD_W=4", "-DMMKD_NAME=compute"]
    refused = {}
    for name in sources:
        done = subprocess.run([*compile_fast, FOLDER / name], capture_output=True, text=True, check=False)
        refused[name] = "compile compute.c alone with -ffast-math: elsewhere NaN stands" in done.stderr
    assert refused == {
        f"src/{name}.c": name != "compute" for name in ("model", "compute", "bundle", "verify", "predict")
    }
    assert f"\nVersion: {ABI}\n" in (FOLDER / "mmkd.pc").read_text()


def test_a_program_with_the_engine_linked_in_takes_less_than_3_mb(tmp_path):
    archive, program = tmp_path / "libmmkd.a", tmp_path / "follow"
    gcc = "sh -c 'exec cc \"$@\" -Werror -O1' sh"  # a third of the time of -O3; GCC warns where it optimises
    subprocess.run([sys.executable, FOLDER / "build.py", archive], env={**os.environ, "CC": gcc}, check=True)
    links = ["-static", f"-I{FOLDER / 'include'}", archive, "-lm"]
    subprocess.run(["cc", "-O1", EXAMPLES / "follow.c", *links, "-o", program], check=True)
    with subprocess.Popen([program, example_bundle()], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        running.stdin.write(b"0.1,0.2,0.9\n" * 8000)  # more than the pipe holds: the first are answered
        running.stdin.flush()
        memory = Path(f"/proc/{running.pid}/status").read_text()
        answers = running.communicate()[0].splitlines()
    with EdgePredictor.open(example_bundle(), backend="native") as predictor:
        expected = predictor.predict(np.tile(np.float32([0.1, 0.2, 0.9]), (200, 1)))
    assert answers == [f"ok {expected.label} {expected.probability:.3f} ".encode()] * 40
    peak_kb = int(memory.partition("VmHWM:")[2].split()[0])
    assert 1000 < peak_kb < 3 * 1024


@pytest.mark.parametrize("name", ["mic", "cam"])
def test_sound_and_video_are_refused_with_what_answers_for_them(program, name):
    assert program(ROOT / "tests" / "files" / "litert" / f"{name}.edge").error == (
        f"student '{name}': the C library answers for series alone; for sound and video use mmkd-edge in Python with "
        "ort, openvino, litert or trt, or mmkd-run"
    )


@pytest.mark.parametrize(("name", "compiler"), [("windows.cpp", "c++"), ("window.rs", "rustc")])
def test_the_examples_in_other_languages_answer_as_python_does(bundles, tmp_path, name, compiler):
    zeros = np.zeros((61, 3), dtype=np.float32)
    if compiler == "rustc":
        if shutil.which(compiler) is None or subprocess.run([compiler, "--version"], capture_output=True).returncode:
            pytest.skip("needs rustc, and of rustup's proxy a toolchain behind it")
        links = ["-L", str(FOLDER), "-C", "link-arg=-l:libmmkd.so.1", "-C", f"link-arg=-Wl,-rpath,{FOLDER}"]
        command = [compiler, str(EXAMPLES / name), "-o", str(tmp_path / "program"), *links]
        subprocess.run(command, check=True, capture_output=True)
    else:
        compiled(EXAMPLES / name, tmp_path / "program", "-std=c++11", "-Wall", "-Wextra", "-Werror", compiler=compiler)
    command = [str(tmp_path / "program"), str(bundles["windows"])]
    done = subprocess.run(command, input=zeros.tobytes(), capture_output=True, check=True)
    with EdgePredictor.open(bundles["windows"], backend="native") as predictor:
        answer = predictor.predict(zeros)
    status = "" if compiler == "rustc" else f"{answer.status} "
    assert done.stdout.decode() == f"{status}{answer.label} {answer.probability:.6f}\n"


@pytest.mark.slow
def test_damaged_models_and_bundles_break_nothing_under_sanitizers(bundles, derived, tmp_path):
    objects: list[str] = []
    defines = [f"-DMMKD_{name}" for name in ("ONE_ISA", "FILES")]
    flags = ["-g", "-O0", *defines, "-fsanitize=address,undefined", "-Wno-psabi"]
    for file in (*(FOLDER / name for name in SOURCES if name.endswith(".c")), FUZZED):
        objects.append(str(tmp_path / f"{file.stem}_{file.parent.name}.o"))
        command = ["cc", "-std=c99", *flags, "-fno-sanitize-recover=all", "-c", str(file), "-o", objects[-1]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "sanitize" in done.stderr:
            pytest.skip(f"this compiler has no sanitizers: {done.stderr}")
        assert done.returncode == 0, done.stderr
    link = ["cc", "-fsanitize=address,undefined", *objects, "-lm", "-o", tmp_path / "files"]
    linked = subprocess.run(link, capture_output=True, text=True, check=False)
    if "asan" in linked.stderr:
        pytest.skip(f"this compiler has no sanitizers: {linked.stderr}")
    assert linked.returncode == 0, linked.stderr
    dice, seeds = random.Random(5), [(FUZZED.with_name("seeds") / "trees.native").read_bytes()]
    for path in (*bundles.values(), derived[1]):
        with zipfile.ZipFile(path) as archive:
            seeds += [path.read_bytes(), *(archive.read(name) for name in archive.namelist() if "native" in name)]
    files = []
    for number in range(60):
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(0, 3)):
            at = dice.randrange(len(data))
            data[at : at + 4] = dice.choice([b"\xff\xff\xff\x7f", b"\0\0\0\0", dice.randbytes(4), b"9999", b""])
        files.append(tmp_path / f"{number}.bin")
        files[-1].write_bytes(data)
    environment = {**os.environ, "ASAN_OPTIONS": "allocator_may_return_null=1"}
    done = subprocess.run([tmp_path / "files", *files], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_cmake_finds_the_library(tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(follow C)\nfind_package(mmkd REQUIRED)\n"
        f"add_executable(follow {EXAMPLES / 'follow.c'})\ntarget_link_libraries(follow mmkd::mmkd m)\n"
    )
    subprocess.run(["cmake", "-S", tmp_path, "-B", tmp_path / "b", f"-Dmmkd_DIR={FOLDER}"], check=True)
    subprocess.run(["cmake", "--build", tmp_path / "b"], check=True)
    done = subprocess.run([tmp_path / "b" / "follow"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "usage: follow BUNDLE [recorded] < SAMPLES.csv\n")
