"""The contest of a first opening: who takes part, who wins, what is remembered, and what it never touches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from mmkd_edge import Bundle, EdgePredictor, Golden, UnavailableError
from mmkd_edge.backends.base import BackendName
from mmkd_edge.backends.ort import import_onnxruntime
from mmkd_edge.machine import this_machine
from mmkd_edge.opening.contest import hold_contest
from mmkd_edge.predict.engine import Engine, engine_of
from mmkd_edge.predict.profile import (
    ExecutionProfile,
    MeasuredWay,
    UnmeasuredWay,
    decode_profile,
    library_versions,
    profile_path,
)
from mmkd_edge.predict.profile import write_profile as keep
from mmkd_edge.predict.setup import Setup
from mmkd_edge.testing import FakeBackend

ANSWER = (0.25, 0.25, 0.5)
NO_PROFILE = "no profile of this bundle on this machine"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(kit: Any, tmp_path: Path) -> Iterator[Bundle]:
    """A bundle whose student was always sure of the same thing at export."""
    shares = np.tile(np.array(ANSWER, dtype=np.float32), (4, 1))
    golden: Golden = msgspec.structs.replace(kit.golden(kit.modality), logits=np.log(shares), probabilities=shares)
    with Bundle.open(kit.parts(kit.modality, golden=golden).write(tmp_path / "sure.edge")) as opened:
        yield opened


def setup(backend: BackendName) -> Setup:
    return Setup(backend=backend, precision="fp32", threads=1, reason="")


def runner(bundle: Bundle, backend: BackendName, *, takes_s: float = 0.0, answer: Any = ANSWER) -> Engine:
    def answered(_feeds: object) -> Any:
        time.sleep(takes_s)
        return answer

    entry = bundle.manifest.models[0]
    return engine_of(entry=entry, backend=FakeBackend(answered), artifact=entry.artifacts[0], setup=setup(backend))


def closed(engine: Engine) -> bool:
    assert isinstance(engine.backend, FakeBackend)
    return engine.backend.closed


def contest(bundle: Bundle, first: Engine, *others: Engine, first_s: float = 0.1, **options: Any) -> Any:
    known = {engine.setup.backend: engine for engine in others if engine.setup}

    def opened(way: Setup) -> Engine:
        return known[way.backend]

    ways = [setup(name) for name in known]
    return hold_contest(bundle, first, ways, opened=opened, first_s=first_s, limit_s=0.3, **options)


def test_the_fastest_of_equal_answers_wins_and_the_others_are_closed(bundle: Bundle) -> None:
    first, fast = runner(bundle, "openvino", takes_s=0.004), runner(bundle, "litert")
    slow = runner(bundle, "ort", takes_s=0.03)
    outcome = contest(bundle, first, fast, slow, first_s=0.1)
    assert outcome.engine is fast
    assert (closed(first), closed(fast), closed(slow)) == (True, False, True)
    assert [trial.backend for trial in outcome.trials] == ["openvino", "litert", "ort"]
    assert outcome.trials[0].ratio == 1.0
    assert outcome.trials[1].ratio < 0.9 < 1.1 < outcome.trials[2].ratio
    assert (outcome.left_out, outcome.untried) == ((), ())


def test_new_trials_join_the_earlier_ones_through_the_first(bundle: Bundle) -> None:
    outcome = contest(bundle, runner(bundle, "openvino", takes_s=0.002), runner(bundle, "litert"), ratio=0.5)
    assert outcome.trials[0].ratio == 0.5
    assert outcome.trials[1].ratio == pytest.approx(0.5 * outcome.trials[1].p50_us / outcome.trials[0].p50_us)


def test_another_answer_is_left_out_however_fast(bundle: Bundle) -> None:
    first, wrong = runner(bundle, "ort", takes_s=0.002), runner(bundle, "litert", answer=(0.25, 0.5, 0.25))
    outcome = contest(bundle, first, wrong)
    assert outcome.engine is first
    assert closed(wrong)
    assert [trial.backend for trial in outcome.trials] == ["ort"]
    # The logits differ by log 2, the probabilities by a quarter.
    reason = (
        f"{bundle.path}: self-test: golden window 0: expected the stored answer within 1e-05, got a difference of "
        "0.693147; fake 1 computes another result here than at export: do not use it on this device"
    )
    assert outcome.left_out == (UnmeasuredWay(model="acc", backend="litert", precision="fp32", reason=reason),)


def test_the_first_gives_way_where_its_own_answers_are_others(bundle: Bundle) -> None:
    wrong, right = runner(bundle, "openvino", answer=(0.5, 0.25, 0.25)), runner(bundle, "ort", takes_s=0.002)
    outcome = contest(bundle, wrong, right)
    assert outcome.engine is right
    assert closed(wrong)
    assert [one.backend for one in outcome.left_out] == ["openvino"]


def test_what_does_not_open_is_left_out_with_its_reason(bundle: Bundle) -> None:
    def refuse(_way: Setup) -> Engine:
        raise UnavailableError("backend 'litert' is not here")

    first = runner(bundle, "ort")
    outcome = hold_contest(bundle, first, [setup("litert")], opened=refuse, first_s=0.07, limit_s=0.3)
    assert outcome.engine is first
    assert not closed(first)
    assert [(one.backend, one.reason) for one in outcome.left_out] == [("litert", "backend 'litert' is not here")]


def test_a_backend_that_is_not_expected_to_fit_is_not_begun(bundle: Bundle) -> None:
    def never(way: Setup) -> Engine:
        raise AssertionError(way.backend)

    # onnxruntime took ten times what it takes on a PC: LiteRT is expected to take 0.4 s, OpenVINO 2.7 s.
    first, ways = runner(bundle, "ort"), [setup("openvino"), setup("litert")]
    outcome = hold_contest(bundle, first, ways, opened=never, first_s=0.7, limit_s=0.3)
    assert outcome.engine is first
    assert (outcome.trials, outcome.left_out) == ((), ())
    assert outcome.untried == (
        "no time for 'litert', which may take 400 ms to open",
        "no time for 'openvino', which may take 2700 ms to open",
    )


# Opening a bundle.


def trial(**changes: Any) -> MeasuredWay:
    fields: dict[str, Any] = {"model": "acc", "backend": "ort", "precision": "fp32", "threads": 1, "ratio": 1.0}
    return MeasuredWay(**{**fields, "p50_us": 80.0, "p99_us": 90.0, "calls": 100, **changes})


def profile_of(path: Path, *trials: MeasuredWay, **changes: Any) -> ExecutionProfile:
    with Bundle.open(path) as bundle:
        sha256 = bundle.sha256
    fields: dict[str, Any] = {"bundle_sha256": sha256, "machine": this_machine(), "libraries": {}, "trials": trials}
    return ExecutionProfile(**{**fields, "created_utc": "2026-01-02T03:04:05+00:00", "origin": "contest", **changes})


def info_of(path: Path, **options: Any) -> Any:
    with EdgePredictor.open(path, **options) as predictor:
        return predictor.info()


def test_one_backend_needs_no_contest(bundle_path: Path, cache: Path) -> None:
    assert info_of(bundle_path).reason == f"{NO_PROFILE}; onnxruntime is installed"
    assert not (cache / "mmkd-edge" / "profiles").exists()


def test_a_contest_compares_backends_alone(bundle_path: Path) -> None:
    stored = keep(profile_of(bundle_path, trial(), trial(threads=2, ratio=0.1, p50_us=8.0)))
    assert stored.name.endswith(".contest.json")
    info = info_of(bundle_path)
    assert (info.threads, info.reason) == (1, "fastest of 1 in the contest of an earlier opening (2026-01-02): 80 us")
    assert info.profile == str(stored)
    assert info_of(bundle_path, threads=2).threads == 2
    assert info_of(bundle_path, threads=3).reason == (
        "the profile has no measurement of what was asked for; run mmkd-bench tune; onnxruntime is installed"
    )


def test_what_tuning_measured_comes_before_a_contest(bundle_path: Path) -> None:
    keep(profile_of(bundle_path, trial()))
    keep(profile_of(bundle_path, trial(threads=2), origin="tune"))
    assert info_of(bundle_path).threads == 2


def test_a_profile_of_tuning_that_does_not_apply_is_told_beside_the_contest(bundle_path: Path) -> None:
    keep(profile_of(bundle_path, trial()))
    keep(profile_of(bundle_path, trial(threads=2), origin="tune", libraries={"no-such-engine": "1.0"}))
    info = info_of(bundle_path)
    assert info.threads == 1
    assert info.reason == (
        "fastest of 1 in the contest of an earlier opening (2026-01-02): 80 us; the profile was measured with "
        "no-such-engine 1.0, which is not installed any more; run mmkd-bench tune again"
    )


class TestTwoBackends:
    """OpenVINO and ONNX Runtime, as installed."""

    @pytest.fixture(autouse=True)
    def openvino_absent(self) -> None:
        """It is present here, and imported, so that a contest has time for both on a busy machine too."""
        pytest.importorskip("openvino", reason="needs pip install 'mmkd-edge[openvino]'")
        import_onnxruntime()

    def test_the_first_opening_settles_it_and_the_next_remember(self, bundle_path: Path) -> None:
        first = info_of(bundle_path)
        with Bundle.open(bundle_path) as bundle:
            path = profile_path(bundle.sha256, this_machine(), "contest")
        profile = decode_profile(path.read_bytes())
        assert [(one.backend, one.threads) for one in profile.trials] == [("openvino", 1), ("ort", 1)]
        assert set(profile.libraries) == {"onnxruntime", "openvino"}
        ranked = sorted(profile.trials, key=lambda one: one.p50_us)
        times = ", ".join(f"{one.backend} {one.p50_us:.0f} us" for one in ranked)
        assert first.reason.startswith(f"{NO_PROFILE}; ")
        assert first.reason.endswith(f" is installed; settled by a contest: {times}; remembered in {path}")
        assert (first.backend, first.profile) == (ranked[0].backend, str(path))
        again, when = info_of(bundle_path), profile.created_utc[:10]
        assert again.backend == first.backend
        told = f"fastest of 2 in the contest of an earlier opening ({when}): {ranked[0].p50_us:.0f} us"
        assert again.reason == told
        assert path.read_bytes() == msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n"

    @pytest.mark.parametrize("options", [{"contest": False}, {"backend": "openvino"}, {"backend": "ort"}])
    def test_it_is_off_by_argument_and_for_a_backend_that_is_named(
        self, bundle_path: Path, cache: Path, options: dict[str, Any]
    ) -> None:
        info = info_of(bundle_path, **options)
        assert info.backend == options.get("backend", "openvino")
        assert "contest" not in info.reason
        assert not (cache / "mmkd-edge" / "profiles").exists()

    def test_without_a_place_it_is_not_remembered_and_says_so(self, bundle_path: Path, cache: Path) -> None:
        cache.write_text("a file")
        info = info_of(bundle_path)
        folder = cache / "mmkd-edge" / "profiles"
        assert "; settled by a contest: " in info.reason
        assert info.reason.endswith(
            f"; not remembered: {folder}: cannot make this folder: not a directory; set XDG_CACHE_HOME to another"
        )
        assert info.profile == ""

    def test_a_backend_that_was_installed_later_takes_part_in_the_next_opening(self, bundle_path: Path) -> None:
        versions = library_versions(("openvino",))
        path = keep(profile_of(bundle_path, trial(backend="openvino", ratio=0.5), libraries=versions))
        info = info_of(bundle_path)
        profile = decode_profile(path.read_bytes())
        assert {one.backend for one in profile.trials} == {"ort", "openvino"}
        assert next(one.ratio for one in profile.trials if one.backend == "openvino") == 0.5
        assert info.reason.endswith(f"; remembered in {path}")

    def test_openings_at_the_same_time_leave_one_whole_profile(self, bundle_path: Path, cache: Path) -> None:
        with ThreadPoolExecutor(3) as pool:
            infos = list(pool.map(info_of, [bundle_path] * 3))
        assert all(info.profile for info in infos)
        (path,) = (cache / "mmkd-edge" / "profiles").iterdir()
        assert len(decode_profile(path.read_bytes()).trials) == 2

    def test_a_profile_of_tuning_is_never_contested(self, bundle_path: Path, cache: Path) -> None:
        path = keep(profile_of(bundle_path, trial(), origin="tune"))
        before = path.read_bytes()
        assert info_of(bundle_path).backend == "ort"
        assert [(file.name, file.read_bytes()) for file in path.parent.iterdir()] == [(path.name, before)]
