"""`mmkd-bench tune`: which configs are tried, which gates refuse, what the profile says and what opens with it."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from threading import Timer

import msgspec
import numpy as np
import pytest

from mmkd_bench.in_turn import take_turns
from mmkd_bench.tune import BURST, MIN_ROUNDS, TuneJob, configs_for, require_score, score, time_configs, tune_bundle
from mmkd_edge import Bundle, EdgePredictor, GateError, ModalitySpec, UsageError, example_bundle
from mmkd_edge.bundle.bundle import golden_bytes, write_bundle
from mmkd_edge.bundle.golden import Golden
from mmkd_edge.bundle.manifest import FileEntry
from mmkd_edge.errors import BackendError
from mmkd_edge.opening.choice import decode_profile, find_profile
from mmkd_edge.predict.student import Config, make_student
from mmkd_edge.testing import FakeBackend, fake_entry
from tests.edge.said import said

PROGRAM = "from mmkd_app.commands.bench import main; main()"
PLAIN = Config(backend="ort", precision="fp32", threads=1, reason="tried")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def with_int8(tmp_path_factory):
    """The shipped student with its own fp32 graph named int8, and a tolerance that it keeps."""
    path = tmp_path_factory.mktemp("int8") / "student.edge"
    with Bundle.open(example_bundle()) as bundle:
        manifest = bundle.manifest
        entry = manifest.models[0]
        fp32 = entry.artifacts[0]
        members = {one.file: bundle.read(one.file) for one in (*manifest.files, entry.golden, fp32)}
    int8 = msgspec.structs.replace(
        fp32, file="acc/model.int8.onnx", precision="int8", parity=msgspec.structs.replace(fp32.parity, tolerance=0.1)
    )
    members[int8.file] = members[fp32.file]
    changed = msgspec.structs.replace(entry, artifacts=(fp32, int8))
    write_bundle(path, manifest=msgspec.structs.replace(manifest, models=(changed,)), members=members)
    return path


def tried(configs):
    return [(config.backend, config.precision, config.threads) for config in configs]


def test_every_artifact_is_tried_and_a_slower_one_has_a_larger_ratio(with_int8, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with Bundle.open(with_int8) as bundle:
        configs = tried(configs_for(bundle.manifest.models[0], (1, 3)))
    assert configs == [("ort", precision, threads) for precision in ("fp32", "int8") for threads in (1, 3)]
    slow = msgspec.structs.replace(PLAIN, threads=2)
    job = TuneJob(bundle=str(example_bundle()), configs={"acc": (PLAIN, slow)}, duration_s=0.4, max_drop_points=0.5)
    outcome = time_configs(job)
    first, second = outcome.trials
    assert first.ratio == 1.0
    # Rounded to the figures that are told: medians of the same calls.
    assert second.ratio == pytest.approx(second.p50_us / first.p50_us, rel=1e-6)
    assert first.calls == second.calls >= 16
    assert 0 < first.p50_us <= first.p99_us


def test_each_burst_leaves_its_first_call_out_and_rounds_change_their_order():
    calls = []
    lengths = take_turns(
        [lambda: calls.append("a"), lambda: calls.append("b")],
        duration_s=0.0,
        twice=True,
        burst=BURST,
        min_rounds=MIN_ROUNDS,
    )
    assert [len(one) for one in lengths] == [16, 16]
    assert "".join(calls) == "a" * 9 + "b" * 18 + "a" * 9


def engine_that_answers(shares, *, metric):
    modality = ModalitySpec(name="acc", channels=("x",), rate_hz=1.0, samples=2)
    entry = msgspec.structs.replace(fake_entry(modality=modality, labels=("a", "b")), validation_metric=metric)
    answers = iter(shares)
    return make_student(entry=entry, backend=FakeBackend(lambda _: next(answers)))


def test_score_is_the_share_of_hits_or_its_mean_over_classes():
    answers, labels = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])
    assert score(answers, labels, balanced=False) == pytest.approx(75)
    assert score(answers, labels, balanced=True) == pytest.approx(100 * (2 / 3 + 1) / 2)


def test_a_lower_precision_may_lose_one_window_and_no_more():
    sure = [[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 5
    array = np.array(sure, dtype=np.float32)
    golden = Golden(
        windows=np.zeros((10, 2, 1), dtype=np.float32), labels=np.repeat([0, 1], 5), logits=array, probabilities=array,
        judge=np.ones(10, dtype=bool), tolerance=1e-4,
    )  # fmt: skip
    one_wrong = [[0.0, 1.0], *sure[1:]]
    require_score(engine_that_answers(one_wrong, metric="accuracy"), golden, max_drop_points=0.5)
    two_wrong = [[0.0, 1.0], [0.0, 1.0], *sure[2:]]
    engine = engine_that_answers(two_wrong, metric="balanced_accuracy")
    assert said(GateError, require_score, engine, golden, max_drop_points=0.5) == (
        "loses 20.00 points of balanced_accuracy on 10 golden windows, more than the 10.00 that it may"
    )
    require_score(engine_that_answers(two_wrong, metric="accuracy"), golden, max_drop_points=20)


@pytest.mark.usefixtures("launched_here")
def test_an_artifact_that_answers_otherwise_here_is_never_timed(tmp_path):
    with Bundle.open(example_bundle()) as bundle:
        entry, manifest = bundle.manifest.models[0], bundle.manifest
        golden = bundle.golden("acc")
        members = {one.file: bundle.read(one.file) for one in (*manifest.files, entry.golden, *entry.artifacts)}
    members["acc/golden.npz"] = golden_bytes(msgspec.structs.replace(golden, logits=golden.logits + np.float32(1)))
    stored = members["acc/golden.npz"]
    other = FileEntry(file="acc/golden.npz", sha256=hashlib.sha256(stored).hexdigest(), size_bytes=len(stored))
    changed = msgspec.structs.replace(entry, golden=other)
    path = tmp_path / "other.edge"
    write_bundle(path, manifest=msgspec.structs.replace(manifest, models=(changed,)), members=members)
    job = TuneJob(bundle=str(path), configs={"acc": (PLAIN,)}, duration_s=0.1, max_drop_points=0.5)
    outcome = time_configs(job)
    assert outcome.trials == ()
    (refused,) = outcome.left_out
    assert (refused.backend, refused.precision) == ("ort", "fp32")
    assert refused.reason.startswith(f"{path}: self-test: golden window ")
    error = said(BackendError, tune_bundle, path, duration_s=0.1, threads=(1,))
    assert error.startswith(f"{path}: no config runs model 'acc' here: ")


def test_tensorrt_is_tried_in_every_precision_with_one_thread_and_timed_where_a_gpu_answers(
    with_int8, gpu_double, monkeypatch, tmp_path
):
    tensorrt = gpu_double.install(monkeypatch, tmp_path)
    with Bundle.open(with_int8) as bundle:
        entry = bundle.manifest.models[0]
    configs = tuple(config for config in configs_for(entry, (1, 2)) if config.backend == "trt")
    assert tried(configs) == [("trt", precision, 1) for precision in ("fp32", "int8")]
    job = TuneJob(bundle=str(with_int8), configs={entry.name: configs}, duration_s=0.1, max_drop_points=0.5)
    outcome = time_configs(job)
    assert [(trial.backend, trial.precision) for trial in outcome.trials] == [("trt", "fp32"), ("trt", "int8")]
    assert tensorrt.cuda.live == {}


def test_the_profile_is_written_shown_and_taken(with_int8, cache, mmkd_bench):
    before = mmkd_bench("tune", with_int8, "--show")
    assert (before.returncode, before.stdout) == (0, "no profile of this bundle on this machine\n")
    assert before.stderr == f"next: mmkd-bench tune {with_int8}\n"

    done = mmkd_bench("tune", with_int8, "--duration-s", 0.3, "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    (file,) = (cache / "mmkd-edge" / "profiles").iterdir()
    profile = decode_profile(file.read_bytes())
    assert json.loads(done.stdout) == json.loads(msgspec.json.encode(profile))
    assert done.stderr.splitlines()[-1] == f"wrote {file}; next: mmkd-bench run {with_int8}"
    assert {(one.backend, one.precision) for one in profile.trials} >= {("ort", "fp32"), ("ort", "int8")}

    with EdgePredictor.open(with_int8) as predictor:
        info = predictor.info()
    assert info.profile == str(file)
    assert info.reason.startswith(f"best of {len(profile.trials)} measured on this machine by mmkd-bench tune (")

    shown = mmkd_bench("tune", with_int8, "--show", "--json")
    document = json.loads(shown.stdout)
    assert (document["path"], document["reason"]) == (str(file), "")
    assert document["profile"] == json.loads(done.stdout)
    table = mmkd_bench("tune", with_int8, "--show").stdout.splitlines()
    rows = [line.split() for line in table if line.split()[:1] in (["ort"], ["openvino"], ["litert"])]
    assert rows[0][:3] == [info.backend, info.precision, str(info.threads)]  # what open took stands first
    assert len(rows) == len(profile.trials)


def test_ctrl_c_leaves_the_earlier_profile(cache):
    path = example_bundle()
    command = [sys.executable, "-c", PROGRAM, "tune", str(path), "--duration-s", "60", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stderr.readline()  # it measures
        time.sleep(1)
        killer = Timer(60, process.kill)
        killer.start()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        killer.cancel()
    assert (process.returncode, said) == (130, "mmkd-bench: interrupted\n")
    assert not list(cache.rglob("*.json"))
    with Bundle.open(path) as bundle:
        assert find_profile(bundle.sha256).profile is None


def test_impossible_settings_are_refused():
    def refusal(**settings):
        return said(UsageError, tune_bundle, example_bundle(), **settings)

    assert refusal(duration_s=0) == "--duration-s: expected seconds above 0 and up to 3600, got 0"
    assert refusal(max_drop_points=-1) == "--max-drop-points: expected 0 to 100, got -1"
    assert refusal(threads=(1, 0)) == "--threads: expected whole numbers from 1 to 256, got 1, 0"
