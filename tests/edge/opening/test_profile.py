"""Profiles: what is taken from one, what is left alone and why, and what is chosen without one."""

import os
import sys

import msgspec
import pytest

from mmkd_edge import BackendError, EdgePredictor, UnavailableError, UsageError
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.machine import Machine, this_machine
from mmkd_edge.opening.choice import (
    ExecutionProfile,
    MeasuredConfig,
    best_trial,
    decode_profile,
    find_profile,
    library_versions,
    profile_path,
    write_profile,
)
from tests.edge.said import said

pytestmark = pytest.mark.usefixtures("quick_openings")

NO_TRT = "backend 'trt': tensorrt is not installed"
NO_OPENVINO = "backend 'openvino': openvino is not installed; pip install 'mmkd-edge[openvino]'"
NO_PROFILE = "no profile of this bundle on this machine"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def trial(ratio=1.0, **changes):
    config = {"model": "acc", "backend": "ort", "precision": "fp32", "threads": 1}
    timing = {"p50_us": 80 * ratio, "p99_us": 100 * ratio, "ratio": ratio, "calls": 1000}
    return MeasuredConfig(**config | timing | changes)


def profile_of(path, *trials):
    with Bundle.open(path) as bundle:
        return ExecutionProfile(
            bundle_sha256=bundle.sha256,
            machine=this_machine(),
            created_utc="2026-01-02T03:04:05+00:00",
            libraries=library_versions(("ort",)),
            trials=trials,
        )


def opened(path, **options):
    with EdgePredictor.open(path, **options) as predictor:
        info = predictor.info()
        return info.backend, info.precision, info.threads, info.reason, info.profile


def test_lower_precision_and_threads_must_be_worth_it_and_what_was_asked_for_is_kept():
    plain = trial(1.0)
    assert best_trial([plain, trial(0.92, precision="int8")], model="acc") == plain
    assert best_trial([plain, trial(0.90, precision="int8")], model="acc") != plain
    assert best_trial([plain, trial(0.92, threads=2)], model="acc") == plain
    assert best_trial([plain, trial(0.90, threads=2)], model="acc") != plain
    assert best_trial([plain, trial(0.99, backend="openvino")], model="acc") != plain
    trials = [plain, trial(0.5, backend="openvino"), trial(0.3, backend="openvino", precision="int8")]
    assert best_trial(trials, model="acc") == trials[2]
    assert best_trial(trials, model="acc", precision="fp32") == trials[1]
    assert best_trial(trials, model="acc", backend="ort") == plain
    assert best_trial(trials, model="acc", threads=2) is None
    assert best_trial(trials, model="other") is None


def test_a_profile_lies_in_the_users_cache_folder(bundle_path, cache, monkeypatch, tmp_path):
    profile = profile_of(bundle_path, trial())
    path = write_profile(profile)
    machine = this_machine().key
    assert path == cache / "mmkd-edge" / "profiles" / f"{profile.bundle_sha256[:16]}-{machine}.json"
    assert decode_profile(path.read_bytes()) == profile
    assert find_profile(profile.bundle_sha256).profile == profile
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing half-written beside it
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert profile_path("ab" * 32, this_machine()).parent == tmp_path / ".cache" / "mmkd-edge" / "profiles"


def test_a_cache_folder_that_cannot_be_is_named(bundle_path, cache):
    cache.write_text("a file")
    told = said(UsageError, write_profile, profile_of(bundle_path, trial()))
    folder = cache / "mmkd-edge" / "profiles"
    assert told == f"{folder}: cannot make this folder: not a directory; set XDG_CACHE_HOME to another"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda data: data[:-20], "not a JSON document: "),
        (lambda data: data.replace(b'"threads": 1', b'"threads": 0'), "trials[0].threads: expected int >= 1"),
        (lambda data: data.replace(b'"ort"', b'"cuda"'), "trials[0].backend: invalid enum value 'cuda'"),
        (lambda data: data.replace(b'n": 1', b'n": 2'), "format_version: expected 1, got 2"),
        (lambda data: data + b" " * (1 << 20), "expected at most 1048576 bytes, got more"),
    ],
)
def test_a_damaged_profile_is_ignored_with_its_fault(bundle_path, change, fault):
    path = write_profile(profile_of(bundle_path, trial(threads=1)))
    path.write_bytes(change(path.read_bytes()))
    backend, _, _, reason, file = opened(bundle_path)
    assert (backend, file) == ("ort", "")
    assert reason.startswith(f"the profile {path} is damaged: {fault}")
    assert reason.endswith("; run mmkd-bench tune again; onnxruntime is installed")


def test_a_pipe_in_its_place_is_not_waited_for_and_what_others_can_write_is_not_read(bundle_path):
    path = write_profile(profile_of(bundle_path, trial()))
    path.chmod(0o666)
    told = f"the profile {path} cannot be read: {{}}; onnxruntime is installed"
    assert opened(bundle_path)[3] == told.format("others can write it")
    path.unlink()
    os.mkfifo(path)
    assert opened(bundle_path)[3] == told.format("it is no regular file")


def test_open_takes_the_profiles_choice_and_says_so_and_what_is_named_is_not_overruled(bundle_path):
    # The bundle lacks int8.
    trials = [trial(1.0), trial(0.5, threads=2), trial(0.2, precision="int8")]
    path = write_profile(profile_of(bundle_path, *trials[:2]))
    reason = "best of 2 measured on this machine by mmkd-bench tune (2026-01-02): {} us"
    assert opened(bundle_path) == ("ort", "fp32", 2, reason.format(40), str(path))
    assert opened(bundle_path, backend="ort") == ("ort", "fp32", 2, reason.format(40), str(path))
    assert opened(bundle_path, threads=1)[2:] == (1, reason.format(80), str(path))
    assert opened(bundle_path, threads=3)[2:] == (
        3,
        "the profile has no measurement of what was requested; run mmkd-bench tune again; onnxruntime is installed",
        "",
    )
    assert opened(bundle_path, backend="ort", precision="fp32", threads=1) == ("ort", "fp32", 1, "as requested", "")
    write_profile(profile_of(bundle_path, *trials))
    assert opened(bundle_path)[1] == "fp32"


def test_a_profile_of_another_machine_bundle_or_engine_is_ignored(kit, bundle_path, tmp_path):
    def reason(path, profile):
        write_profile(profile)
        _, _, threads, why, _ = opened(path)
        assert threads == 1
        return why.removesuffix("; onnxruntime is installed")

    elsewhere = Machine(cpu="A faster one", board=None, architecture="x86_64", cores=64)
    other = kit.parts(kit.modality, name="other").write(tmp_path / "other.edge")
    fast = profile_of(bundle_path, trial(0.5, threads=2))
    again = "run mmkd-bench tune again"
    described = f"another machine, A faster one (x86_64), 64 cores; {again} here"
    moved = msgspec.structs.replace(fast, machine=elsewhere)
    assert reason(bundle_path, moved) == NO_PROFILE
    own = profile_path(fast.bundle_sha256, this_machine())
    own.write_bytes(profile_path(fast.bundle_sha256, elsewhere).read_bytes())  # copied by hand
    assert opened(bundle_path)[3] == f"the profile was measured on {described}; onnxruntime is installed"
    assert reason(other, fast) == NO_PROFILE
    own.rename(profile_path(profile_of(other).bundle_sha256, this_machine()))
    assert opened(other)[3] == f"the profile was measured of another bundle; {again}; onnxruntime is installed"
    installed = library_versions(("ort",))["onnxruntime"]
    told = f"the profile was measured with onnxruntime 1.0.0, which is {installed} now; {again}"
    assert reason(bundle_path, msgspec.structs.replace(fast, libraries={"onnxruntime": "1.0.0"})) == told
    told = f"the profile was measured with no-such-engine 1.0.0, which is not installed any more; {again}"
    assert reason(bundle_path, msgspec.structs.replace(fast, libraries={"no-such-engine": "1.0.0"})) == told


def test_a_backend_that_cannot_open_gives_way_to_the_next_with_its_reason(bundle_path):
    write_profile(profile_of(bundle_path, trial(0.5, backend="openvino")))  # absent in these tests
    said(UnavailableError, EdgePredictor.open, bundle_path, backend="openvino")  # what was asked for is never replaced
    with EdgePredictor.open(bundle_path) as predictor:
        info = predictor.info()
    assert (info.backend, info.profile, info.reason) == ("ort", "", "onnxruntime is installed")
    assert info.rejected == (
        "backend 'openvino' needs openvino, which is not installed; install it with pip install 'mmkd-edge[openvino]'",
        NO_TRT,
        NO_OPENVINO,
    )


def test_where_no_backend_opens_a_student_the_error_says_why_each_was_rejected(kit, bundle_path, tmp_path, monkeypatch):
    absent = f"{NO_TRT}; {NO_OPENVINO}"
    path = kit.parts(kit.modality, model=kit.unrunnable(kit.modality)).write(tmp_path / "bad.edge")
    told = said(BackendError, EdgePredictor.open, path, backend="ort")
    assert told.startswith("backend 'ort' (onnxruntime ")
    lacks = f"{path}: no backend can run model 'acc' here: {told}; {absent}"
    assert said(BackendError, EdgePredictor.open, path) == lacks
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert said(UnavailableError, lambda: EdgePredictor.open(bundle_path)) == (
        f"{bundle_path}: no backend can run model 'acc' here: {absent}; "
        "backend 'ort': onnxruntime is not installed; pip install 'mmkd-edge[ort]'"
    )
