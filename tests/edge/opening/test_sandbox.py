"""The first opening of a bundle on a machine: its graphs are read, and a process of its own opens it first."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper

from mmkd_app.commands import edge
from mmkd_edge import BackendError, BundleError, EdgePredictor, UnavailableError, apart
from mmkd_edge.install.slots import install
from mmkd_edge.opening import sandbox
from mmkd_edge.opening.deadline import Deadline
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.opening.sandbox import passed_before, remember_passed
from mmkd_edge.opening.students import open_students
from tests.edge.said import said

FAILED = "the sandbox check of backend 'ort' failed: "
WRITES = """
import os
print("hello")
os.write(2, b"hello")
try:
    open({!r}, "w").write("x")
except OSError:
    pass
class checker:
    check_model = staticmethod(lambda *a, **k: None)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def started(monkeypatch):
    processes = []
    popen = subprocess.Popen

    def counted(command, **options):
        processes.append(command[0])
        return popen(command, **options)

    monkeypatch.setattr(subprocess, "Popen", counted)
    return processes


def check_of(path, **options):
    with EdgePredictor.open(path, backend="ort", **options) as predictor:
        return predictor.info().sandbox_check


def in_the_sandbox(code, tmp_path, monkeypatch):
    """Have the process of a trial run this where it would look for onnx; this process has imported its own before."""
    (tmp_path / "first" / "onnx").mkdir(parents=True)
    (tmp_path / "first" / "onnx" / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "first")


def refused(path, call=check_of, *arguments):
    told = said(BackendError, call, path, *arguments)
    start, end = f"{path}: {FAILED}", "; do not use this bundle with it"
    assert (told.startswith(start), told.endswith(end)) == (True, True)
    return told[len(start) : -len(end)]


def test_a_bundle_that_is_known_here_starts_no_process_and_pays_for_none(bundle_path, started):
    assert check_of(bundle_path) == "passed now"
    assert check_of(bundle_path) == "passed at an earlier start"
    assert check_of(bundle_path, selftest=False) == "passed at an earlier start"
    assert started == [sys.executable]
    code = (
        "import sys\n"
        "from mmkd_edge import EdgePredictor\n"
        "EdgePredictor.open(sys.argv[1], backend='ort').close()\n"
        "print([name for name in ('subprocess', 'selectors') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, bundle_path], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_what_opened_without_answering_or_in_another_version_must_still_answer(cache, bundle_path, started):
    assert check_of(bundle_path, selftest=False) == "passed now"
    assert check_of(bundle_path, selftest=False) == "passed at an earlier start"
    assert check_of(bundle_path) == "passed now"
    assert len(started) == 2
    (verdict,) = (cache / "mmkd-edge" / "verdicts").glob("*.json")
    verdict.write_text(verdict.read_text().replace("onnxruntime ", "onnxruntime 0."))
    assert check_of(bundle_path) == "passed now"
    assert len(started) == 3


def test_installed_bundles_need_no_process(bundle_path, tmp_path, started):
    install(tmp_path / "state", bundle_path, prove=lambda _: None)
    assert check_of(tmp_path / "state") == "passed when the bundle was installed"
    assert started == []


@pytest.mark.parametrize(
    ("code", "limit_s", "told"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 60.0, "it crashed: SIGSEGV"),
        ("import time; time.sleep(60)", 0.5, "it takes too long"),
    ],
)
def test_however_the_sandbox_process_ends_this_one_goes_on(code, limit_s, told, bundle_path, tmp_path, monkeypatch):
    in_the_sandbox(code, tmp_path, monkeypatch)
    monkeypatch.setattr(sandbox, "CONFIG_S", limit_s)
    assert refused(bundle_path) == told


def test_memory_and_processor_time_are_bounded(bundle_path, tmp_path, monkeypatch):
    in_the_sandbox("bytearray(1 << 32)", tmp_path, monkeypatch)
    assert said(BackendError, lambda: check_of(bundle_path)) == "backend 'ort': it takes too much memory"
    (tmp_path / "first" / "onnx" / "__init__.py").write_text("while True: pass")
    monkeypatch.setattr(sandbox, "CONFIG_S", 0.0)  # what the system allows; this process would wait for longer
    assert refused(bundle_path) == "it takes too long"


def test_a_check_writes_no_file_and_says_nothing(bundle_path, tmp_path, monkeypatch, capfd):
    place = tmp_path / "written"
    in_the_sandbox(WRITES.format(str(place)), tmp_path, monkeypatch)
    assert check_of(bundle_path) == "passed now"
    assert place.read_bytes() == b""
    assert capfd.readouterr() == ("", "")


def test_one_config_that_ends_its_process_leaves_the_others_their_check(bundle_path, tmp_path, monkeypatch):
    (tmp_path / "first" / "openvino").mkdir(parents=True)
    (tmp_path / "first" / "openvino" / "__init__.py").write_text("import os; os.abort()")
    monkeypatch.syspath_prepend(tmp_path / "first")
    monkeypatch.delitem(sys.modules, "openvino")
    with EdgePredictor.open(bundle_path) as predictor:
        info = predictor.info()
    assert (info.backend, info.sandbox_check) == ("ort", "passed now")
    assert info.rejected[0] == (
        f"{bundle_path}: the sandbox check of backend 'openvino' failed: it crashed: SIGABRT; do not use this bundle "
        "with it"
    )


def looping(kit):
    model = onnx.load_from_string(kit.model(kit.modality))
    model.graph.node.append(helper.make_node("Loop", ["acc"], []))
    return kit.parts(kit.modality, model=model.SerializeToString())


def with_a_tflite(kit):
    parts = kit.parts(kit.modality)
    data, (onnx_artifact,) = b"\x00\x00\x00\x00ELSE", parts.manifest.models[0].artifacts
    stored = msgspec.structs.asdict(kit.file_entry("acc/model.fp32.tflite", data))
    tflite = msgspec.structs.replace(onnx_artifact, format="tflite", opset=3, **stored)
    return replace(parts.with_model(artifacts=(onnx_artifact, tflite)), members={**parts.members, tflite.file: data})


NO_ENGINE = "no engine is given this: the graph has the"


@pytest.mark.parametrize(
    ("hostile", "fault"),
    [
        (looping, f"onnx': {NO_ENGINE} operator 'Loop'; expected one that students are made of"),
        (with_a_tflite, f"tflite': {NO_ENGINE} mark b'ELSE'; expected b'TFL3'"),
    ],
)
def test_a_graph_that_is_refused_starts_no_process_and_replaces_nothing(
    hostile, fault, kit, bundle_path, tmp_path, started, ran
):
    path = hostile(kit).write(tmp_path / "hostile.edge")
    assert said(BundleError, lambda: check_of(path)) == f"{path}: 'acc/model.fp32.{fault}; export the bundle again"
    assert started == []
    code, _, err = ran(edge.main, "mmkd-edge", "install", path, tmp_path / "state", "--backend", "native")
    assert (code, f"{path}: 'acc/model.fp32.{fault}" in err, (tmp_path / "state").exists()) == (6, True, False)
    with EdgePredictor.open(bundle_path, backend="ort") as predictor:
        said(BundleError, predictor.swap, path)
        assert predictor.predict(np.zeros((20, 3))).status == "ok"


def test_all_students_of_a_bundle_share_one_limit_of_time(kit, tmp_path, monkeypatch, started):
    names = [f"acc{number}" for number in range(12)]
    parts = [kit.parts(msgspec.structs.replace(kit.modality, name=name), name=name) for name in names]
    many = parts[0].with_manifest(models=tuple(one.manifest.models[0] for one in parts))
    members = {name: data for one in parts for name, data in one.members.items()}
    path = replace(many, members=members).write(tmp_path / "slow.edge")
    slow = "import time\nclass checker:\n    check_model = staticmethod(lambda *a, **k: time.sleep(1))"
    in_the_sandbox(slow, tmp_path, monkeypatch)
    for limit_s in (2.0, 0.0):  # without time left no process is started
        opening = partial(open_students, options=OpenOptions(backend="ort"), deadline=Deadline(limit_s))
        assert refused(path, opening) == "all students of the bundle together take too long"
    assert len(started) == 1


def test_an_installation_that_takes_too_long_installs_nothing_and_says_the_limit(
    bundle_path, tmp_path, monkeypatch, ran
):
    in_the_sandbox("import time; time.sleep(60)", tmp_path, monkeypatch)
    words = ["install", bundle_path, tmp_path / "state", "--backend", "ort", "--limit"]
    code, out, err = ran(edge.main, "mmkd-edge", *words, "0.5")
    told = (
        f"{bundle_path}: install: expected an end within 0.5 s, the limit of time for all of it, got none; nothing was "
        "installed; install it again when this machine is less busy, or with a higher --limit"
    )
    assert (code, out, err) == (6, "", f"mmkd-edge: {told}\n")
    assert not (tmp_path / "state" / "slots.json").exists()
    code, _, err = ran(edge.main, "mmkd-edge", *words, "0")
    assert (code, err) == (2, "mmkd-edge: --limit: expected seconds above 0, got 0.0\n")


def test_an_invalid_graph_is_told_by_onnx_itself(kit, tmp_path):
    model = onnx.load_from_string(kit.model(kit.modality))
    model.graph.node[3].attribute.append(helper.make_attribute("colour", 1))
    path = kit.parts(kit.modality, model=model.SerializeToString()).write(tmp_path / "bad.edge")
    told = said(BundleError, check_of, path)
    assert re.search(r"'acc/model\.fp32\.onnx': not valid ONNX: .*colour.*; export the bundle again$", told, re.DOTALL)


def test_without_a_folder_of_ones_own_the_check_runs_at_each_start(bundle_path, tmp_path, monkeypatch, started):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert check_of(bundle_path).startswith("passed now and at each start, since it cannot be remembered: ")
    assert len(started) == 2


def test_a_program_without_an_interpreter_that_starts_is_told_so(bundle_path, monkeypatch):
    lacks = "a sandbox check needs a Python interpreter, and this program has none of its own"
    ended = "the process of a sandbox check does not start: it ended with exit code 1"
    for name, value, told in (
        ("executable", "/no/such/python", "a sandbox check cannot start a process: no such file or directory"),
        ("executable", "/bin/false", f"{ended}; {sandbox._ADVICE}"),
        ("frozen", True, f"{lacks}; {sandbox._ADVICE}"),
    ):
        monkeypatch.setattr(sys, name, value, raising=False)
        assert said(UnavailableError, check_of, bundle_path) == told


def test_the_file_that_was_verified_is_the_one_that_is_checked(kit, bundle_path, tmp_path, monkeypatch):
    other = kit.parts(kit.modality, name="other").write(tmp_path / "other.edge")
    start = apart.start_apart

    def exchanged(function, request):
        bundle_path.write_bytes(other.read_bytes())
        return start(function, request)

    monkeypatch.setattr(apart, "start_apart", exchanged)
    told = said(BundleError, check_of, bundle_path)
    assert told == f"{bundle_path}: the file was exchanged while it was opened; open it again"


SHA256 = "a" * 64


def test_what_has_passed_is_known_later_the_latest_last_and_not_for_ever(cache):
    assert passed_before(SHA256) == ()
    assert remember_passed(SHA256, ("one", "two")) == remember_passed(SHA256, ("one",)) == ""
    assert passed_before(SHA256) == ("two", "one")
    assert passed_before("b" * 64) == ()
    remember_passed(SHA256, tuple(map(str, range(64))))
    assert passed_before(SHA256) == tuple(map(str, range(64)))


def changed(**change):
    return lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | change))


@pytest.mark.parametrize(
    "damage",
    [
        changed(format_version=1),
        changed(bundle_sha256="b" * 64),
        changed(surprise=1),
        lambda file: file.write_text("{"),
        lambda file: file.chmod(0o666),
        lambda file: (file.unlink(), os.mkfifo(file)),
    ],
)
def test_a_verdict_that_is_not_ours_says_nothing(cache, damage):
    remember_passed(SHA256, ("one",))
    (file,) = (cache / "mmkd-edge" / "verdicts").iterdir()
    damage(file)
    assert passed_before(SHA256) == ()


def test_a_folder_that_others_can_write_or_that_cannot_be_is_neither_read_nor_written(cache):
    remember_passed(SHA256, ("one",))
    folder = cache / "mmkd-edge" / "verdicts"
    folder.chmod(0o770)
    assert passed_before(SHA256) == ()
    assert remember_passed(SHA256, ("two",)) == f"{folder}: others can write it; give it to this user alone: chmod 700"
    folder.chmod(0o700)
    assert passed_before(SHA256) == ("one",)
    cache.rename(f"{cache}2")
    cache.write_text("a file")
    told = f"{folder}: cannot make this folder: not a directory; set XDG_CACHE_HOME to another"
    assert (remember_passed(SHA256, ("one",)), passed_before(SHA256)) == (told, ())
