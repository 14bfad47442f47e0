"""The cache of engines, with engines that TensorRT-RTX builds from the shipped student; it needs no GPU for that.

Nothing here runs an engine: `load` stands for TensorRT, and keeps what it is given.
"""

import hashlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from mmkd_edge import BackendError, UnavailableError
from mmkd_edge.backends.trt.build import MAX_ENGINES, BuiltPlan, DeviceFacts, EngineFacts, load_engine
from mmkd_edge.backends.trt.needs import load_library
from tests.edge.said import said

PRESENT = ("tensorrt", "tensorrt_rtx")
VERSIONS = {"compute_capability": "8.7", "cuda_runtime": 12060, "cuda_driver": 12060}
ORIN = DeviceFacts(name="Orin (nvgpu)", multiprocessors=8, memory_bytes=8 << 30, **VERSIONS)


def facts_of(model, **changes):
    library = {"library": "tensorrt", "library_version": "10.3.0", "architecture": "aarch64", "device": ORIN}
    return EngineFacts(onnx_sha256=hashlib.sha256(model).hexdigest(), **library | changes)


class Shop:
    def __init__(self, folder):
        self.folder, self.plan = folder, b"plan"
        self.built = 0
        self.loaded: list[bytes] = []
        self.refused: list[bytes] = []

    def origin(self, facts):
        return load_engine(facts, load=self._load, build=self._build, folder=self.folder)[1]

    def _build(self):
        self.built += 1
        return BuiltPlan(plan=self.plan, layers="", log="INFO: built\n", timing_cache=b"")

    def _load(self, plan):
        self.loaded.append(plan)
        if plan in self.refused:
            raise BackendError("TensorRT does not load the engine: no reason")
        return plan


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path / "engines")


FACTS = facts_of(b"model")
NEW = "built at this start: none was in the cache"


def the(folder, suffix):
    (path,) = folder.glob(f"*{suffix}")
    return path


def test_a_built_engine_is_kept_with_sidecar_and_log_for_this_user_alone(shop):
    assert shop.origin(FACTS) == NEW
    assert the(shop.folder, ".engine").read_bytes() == b"plan"
    assert the(shop.folder, ".log").read_text() == "INFO: built\n"
    sidecar = msgspec.json.decode(the(shop.folder, ".json").read_bytes())
    assert sidecar["engine_sha256"] == hashlib.sha256(b"plan").hexdigest()
    assert sidecar["facts"]["device"]["name"] == "Orin (nvgpu)"
    assert shop.folder.stat().st_mode & 0o777 == 0o700
    assert shop.origin(FACTS) == f"from the cache: {the(shop.folder, '.engine')}"
    assert (shop.built, shop.loaded) == (1, [b"plan", b"plan"])


@pytest.mark.parametrize(
    "changes",
    [
        {"library_version": "10.4.0"},
        {"library": "tensorrt_rtx"},
        {"tf32": True},
        {"device": msgspec.structs.replace(ORIN, cuda_driver=13000)},
        {"device": msgspec.structs.replace(ORIN, cuda_runtime=13000)},
        {"device": msgspec.structs.replace(ORIN, compute_capability="8.6")},
        {"device": msgspec.structs.replace(ORIN, name="Other")},
        {"device": msgspec.structs.replace(ORIN, multiprocessors=16)},
    ],
    ids=str,
)
def test_another_key_is_another_engine(shop, changes):
    shop.origin(FACTS)
    assert shop.origin(facts_of(b"model", **changes)) == NEW
    assert shop.built == 2
    assert shop.origin(FACTS).startswith("from the cache: ")  # both are kept


def test_a_damaged_engine_never_reaches_tensorrt(shop):
    shop.origin(FACTS)
    for damaged in (b"plbn", b"pla", b"plan and more", b""):
        the(shop.folder, ".engine").write_bytes(damaged)
        fault = "the one in the cache is damaged: its SHA-256 is not that of its sidecar"
        assert shop.origin(FACTS) == f"built at this start: {fault}"
    assert (set(shop.loaded), shop.built) == ({b"plan"}, 5)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: text.replace(b"10.3.0", b"10.2.0"), "the one in the cache was built for something else"),
        (lambda text: text[:-20], "the sidecar of the one in the cache is damaged: Input data was truncated"),
        (lambda text: b"{}", "the sidecar of the one in the cache is damaged: Object missing required field `facts`"),
    ],
)
def test_a_sidecar_that_says_something_else_is_not_believed(shop, damage, why):
    shop.origin(FACTS)
    sidecar = the(shop.folder, ".json")
    sidecar.write_bytes(damage(sidecar.read_bytes()))
    assert why in shop.origin(FACTS)
    assert (shop.built, len(shop.loaded)) == (2, 2)
    assert shop.origin(FACTS).startswith("from the cache: ")


def test_an_engine_that_does_not_load_any_more_is_built_again(shop):
    shop.origin(FACTS)
    shop.refused, shop.plan = [b"plan"], b"new plan"
    fault = "the one in the cache does not load: TensorRT does not load the engine: no reason"
    assert shop.origin(FACTS) == f"built at this start: {fault}"
    assert the(shop.folder, ".engine").read_bytes() == b"new plan"


def test_a_folder_that_others_can_write_to_is_not_used(shop):
    shop.folder.mkdir()
    shop.folder.chmod(0o770)
    fault = f"{shop.folder}: others can write it; give it to this user alone: chmod 700"
    assert shop.origin(FACTS) == f"built at this start and not kept: {fault}"
    assert list(shop.folder.iterdir()) == []


def test_without_a_place_for_it_the_engine_is_built_at_every_start(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    shop = Shop(tmp_path / "file" / "engines")
    fault = f"{shop.folder}: cannot make this folder: not a directory; set XDG_CACHE_HOME to another"
    assert shop.origin(FACTS) == f"built at this start and not kept: {fault}"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_engine(FACTS, load=lambda plan: plan, build=shop._build)
    assert the(tmp_path / "cache/mmkd-edge/engines", ".engine").read_bytes() == b"plan"


def test_the_engines_that_were_used_last_are_kept(shop):
    shop.origin(FACTS)
    for number in range(MAX_ENGINES - 1):
        shop.origin(facts_of(b"%d" % number))
    first, second = (facts.onnx_sha256[:16] for facts in (FACTS, facts_of(b"0")))
    for age, prefix in enumerate((second, first)):  # the oldest two
        (engine,) = shop.folder.glob(f"{prefix}*.engine")
        os.utime(engine, ns=(age, age))
    shop.origin(FACTS)  # used again
    shop.origin(facts_of(b"one more"))
    left = {path.name[:16] for path in shop.folder.glob("*.engine")}
    assert (len(left), first in left, list(shop.folder.glob(f"{second}*"))) == (MAX_ENGINES, True, [])


def test_predictors_that_start_together_build_one_engine(shop):
    # Each opens the lock itself, so that threads stand for processes.
    building, go_on = threading.Event(), threading.Event()
    build = shop._build

    def slow():
        building.set()
        go_on.wait(timeout=60)
        return build()

    shop._build = slow
    with ThreadPoolExecutor(4) as pool:
        origins = [pool.submit(shop.origin, FACTS) for _ in range(4)]
        assert building.wait(timeout=60)
        go_on.set()
    begins = sorted(origin.result().partition(":")[0] for origin in origins)
    assert (shop.built, begins) == (1, ["built at this start", *["from the cache"] * 3])


def test_the_backend_takes_tensorrt_rtx_where_there_is_no_tensorrt_and_says_that_no_gpu_answers():
    pytest.importorskip("tensorrt_rtx", reason="needs pip install 'mmkd-edge[trt-rtx]'")
    from mmkd_edge.backends.base import BACKENDS, why_absent
    from mmkd_edge.backends.trt.needs import installed_library

    if installed_library() == "tensorrt" or not why_absent("trt"):
        pytest.skip("this machine has TensorRT or a GPU")
    assert BACKENDS["trt"].library() == ("tensorrt_rtx", "tensorrt-rtx-cu13")
    assert why_absent("trt").endswith("an NVIDIA GPU with its driver (libcuda.so.1 does not load)")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (None, "tensorrt is not installed on this machine (it comes with JetPack)"),
        ("import nowhere_to_be_found", "tensorrt does not load: No module named 'nowhere_to_be_found'"),
        ("raise ImportError('libnvinfer.so.10')", "tensorrt does not load: libnvinfer.so.10; mmkd-doctor has advice"),
    ],
)
def test_a_library_that_does_not_load_says_why(code, told, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)] if code else [])
    if code:
        (tmp_path / "tensorrt.py").write_text(code)
    assert said(UnavailableError, lambda: load_library("tensorrt")) == told
