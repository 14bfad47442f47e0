"""The first opening of a bundle asks it a few golden windows; later ones remember what came."""

import time

import msgspec
import numpy as np
import pytest

from mmkd_edge import Bundle, EdgePredictor, GateError
from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.install.slots import install
from mmkd_edge.opening.selftest import run_selftests
from tests.edge.said import said

pytestmark = pytest.mark.usefixtures("quick_openings")


@pytest.fixture(autouse=True)
def _nothing_has_passed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def asked(monkeypatch):
    runs = []
    run = OrtBackend.run

    def counted(self, feeds):
        runs.append(1)
        return run(self, feeds)

    monkeypatch.setattr(OrtBackend, "run", counted)
    return runs


@pytest.fixture
def rolled(kit, tmp_path):
    """A bundle whose hashes are right and whose head's weights are rolled: each class has another's name."""
    weights = np.array([[-1.0, 1.0, 0.0], [0.5, 0.0, 2.0], [1.0, 0.5, -1.0]], dtype=np.float32)
    return kit.parts(kit.modality, model=kit.model(kit.modality, weights=weights)).write(tmp_path / "rolled.edge")


def opened(path, **options):
    with EdgePredictor.open(path, backend="ort", **options) as predictor:
        return predictor.info().selftest


def test_a_single_window_of_many_that_is_answered_otherwise_is_found(kit, tmp_path):
    four, names = kit.golden(kit.modality), ("windows", "labels", "logits", "probabilities", "judge")
    golden = msgspec.structs.replace(four, **{name: np.concatenate([getattr(four, name)] * 25) for name in names})
    golden.logits[57, 0] += 1.0
    path = kit.parts(kit.modality, golden=golden).write(tmp_path / "one.edge")
    assert said(GateError, lambda: opened(path)).startswith(
        f"{path}: self-test: golden window 57: expected the stored answer within "
    )


def test_golden_windows_that_take_minutes_are_answered_as_far_as_their_time_allows(kit, tmp_path, monkeypatch):
    four, names = kit.golden(kit.modality), ("windows", "labels", "logits", "probabilities", "judge")
    golden = msgspec.structs.replace(four, **{name: np.concatenate([getattr(four, name)] * 400) for name in names})
    path = kit.parts(kit.modality, golden=golden).write(tmp_path / "slow.edge")
    run = OrtBackend.run
    with EdgePredictor.open(path, backend="ort", selftest=False) as predictor, Bundle.open(path) as bundle:
        students = predictor._active.current.opened
        assert run_selftests(students, bundle).windows == 1600
        monkeypatch.setattr(OrtBackend, "run", lambda self, feeds: time.sleep(0.05) or run(self, feeds))
        begun_s = time.monotonic()
        assert 1 < run_selftests(students, bundle, limit_s=1.5).windows <= 30
    assert time.monotonic() - begun_s < 5.0  # all of them take 80 s


def test_a_bundle_whose_weights_were_rolled_never_opens(rolled, tmp_path):
    for _ in range(2):  # a failure is not remembered as anything else
        told = said(GateError, opened, rolled)
        assert told.startswith(f"{rolled}: self-test: golden window 0: expected the stored answer within ")
    said(GateError, EdgePredictor.open, rolled)
    assert list((tmp_path / "cache").rglob("*.json")) == []
    assert opened(rolled, selftest=False) == ""


def test_what_has_passed_is_not_asked_again(bundle_path, asked):
    assert opened(bundle_path) == "passed now"
    assert len(asked) == 14 + 5  # the sandbox check warms up and asks; this start then only warms up
    assert opened(bundle_path) == "passed at an earlier start"
    assert len(asked) == 14 + 5 + 5
    assert opened(bundle_path, threads=2) == "passed now"  # another way to run it is asked
    assert opened(bundle_path) == opened(bundle_path, threads=2) == "passed at an earlier start"


def test_what_no_trial_has_asked_is_asked_here(bundle_path, tmp_path, asked):
    install(tmp_path / "state", bundle_path, prove=lambda _: None)
    assert opened(tmp_path / "state") == "passed now"
    assert len(asked) == 14
    assert opened(tmp_path / "state") == "passed at an earlier start"
    assert len(asked) == 14 + 5
