"""Engines that fail, bundles that are swapped under load, several students, and other processes."""

import contextlib
import gc
import multiprocessing
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

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
    SensorError,
    UsageError,
)
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.testing import FakeBackend, fake_entry
from tests.edge.said import said

pytestmark = pytest.mark.usefixtures("quick_openings")

ACC = ModalitySpec(name="acc", channels=("x", "y", "z"), rate_hz=10.0, samples=20)
HALF = np.array([[0.5, 0.0, -0.5], [0.0, 1.0, 0.25], [0.25, -0.5, 0.5]], dtype=np.float32)


def window(seed=0):
    return np.random.default_rng(seed).normal(size=(20, 3)).astype(np.float32)


def failing(after=0):
    """A backend that answers so many times and then fails forever."""
    answers = iter([[1.0, 0.0]] * after)

    def answer(feeds):
        for shares in answers:
            return shares
        raise RuntimeError("device lost")

    return FakeBackend(answer)


def model(backend, *, reopen=None, **options):
    entry = fake_entry(modality=ACC, labels=("a", "b"))
    return EdgePredictor.with_backend(entry, backend, reopen=reopen, options=OpenOptions(**options))


def test_an_engine_that_fails_is_opened_once_more_and_the_window_is_answered():
    bad, good = failing(after=1), FakeBackend([0.0, 1.0])
    predictor = model(bad, reopen=lambda: good)
    assert [predictor.predict(window()).label for _ in range(3)] == ["a", "b", "b"]
    assert bad.closed
    health = predictor.health()
    assert (health.backend_failures, health.reopens, health.predictions["ok"]) == (1, 1, 3)


def test_where_that_does_not_help_there_is_no_answer_and_no_second_attempt():
    others = [failing(), failing()]
    predictor = model(failing(), reopen=others.pop)
    found = [predictor.predict(window()) for _ in range(5)]
    told = ("invalid", "", "the engine failed: device lost", "engine")
    assert {(one.status, one.label, one.reason, one.failure) for one in found} == {told}
    health = predictor.health()
    assert (len(others), health.backend_failures, health.predictions["invalid"]) == (1, 6, 5)


@pytest.mark.parametrize("error", [BackendError("no such device"), OSError("no such device")])
def test_an_engine_that_cannot_be_opened_again_leaves_the_first_failure(error):
    def reopen():
        raise error

    prediction = model(failing(), reopen=reopen).predict(window())
    assert (prediction.status, prediction.reason) == ("invalid", "the engine failed: device lost")
    raising = model(failing(), reopen=reopen, policy="raise")
    assert said(BackendError, lambda: raising.predict(window())) == "the engine failed: device lost"


def test_reopening_by_hand_brings_an_engine_back():
    engines = iter([failing(), FakeBackend([0.0, 1.0])])
    predictor = model(failing(), reopen=lambda: next(engines))
    assert predictor.predict(window()).status == "invalid"
    predictor.reopen()
    assert predictor.predict(window()).label == "b"
    without = model(failing())
    for name, call in (("reopen", without.reopen), ("swap", lambda: without.swap("other.edge"))):
        told = f"{name}: this predictor was made without a bundle; open one with EdgePredictor.open"
        assert said(UsageError, call) == told


@pytest.mark.parametrize("call", [EdgePredictor.reopen, lambda predictor: predictor.predict(window())])
def test_an_engine_is_not_opened_again_once_the_predictor_is_closed(call):
    opened = []
    predictor = model(failing(), reopen=lambda: opened.append(FakeBackend([0.0, 1.0])) or opened[-1])
    lock = predictor._active._changing

    @contextlib.contextmanager
    def close_first():  # as a thread does that gets the lock sooner
        predictor._active._changing = lock
        predictor.close()
        yield

    predictor._active._changing = close_first()
    assert said(UsageError, call, predictor) == "the predictor is closed; open the bundle again"
    assert opened == []


def golden_of_half(kit, modality):
    golden = kit.golden(modality)
    means = np.where(np.isfinite(golden.windows), golden.windows, 0).mean(axis=1)
    logits = (means @ HALF + np.array([0.1, 0.0, -0.1], dtype=np.float32)).astype(np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return msgspec.structs.replace(golden, logits=logits, probabilities=shares.astype(np.float32))


@pytest.fixture
def other_path(kit, tmp_path):
    model, golden = kit.model(kit.modality, weights=HALF), golden_of_half(kit, kit.modality)
    return kit.parts(kit.modality, model=model, golden=golden).write(tmp_path / "other.edge")


@pytest.fixture
def predictor(bundle_path):
    with EdgePredictor.open(bundle_path) as opened:
        yield opened


def test_a_swap_lets_the_other_bundle_answer_and_a_rollback_the_first(predictor, other_path):
    before = predictor.predict(window()).probabilities
    assert predictor.swap(other_path).bundle == str(other_path)
    after = predictor.predict(window()).probabilities
    with EdgePredictor.open(other_path) as alone:
        np.testing.assert_array_equal(after, alone.predict(window()).probabilities)
    assert not np.array_equal(before, after)
    predictor.rollback()
    np.testing.assert_array_equal(predictor.predict(window()).probabilities, before)
    assert (predictor.health().swaps, predictor.health().rollbacks) == (1, 1)
    told = "rollback: there is no earlier bundle to return to; swap keeps the last one"
    assert said(UsageError, predictor.rollback) == told
    told = "a predictor cannot be sent to another process; send the bundle's path and open it there"
    assert said(UsageError, lambda: pickle.dumps(predictor)) == told
    told = "a stream cannot be sent to another process; send the samples, or open the bundle there"
    assert said(UsageError, lambda: pickle.dumps(predictor.stream(hop=1))) == told


def test_whatever_is_wrong_with_the_new_bundle_the_old_one_goes_on(kit, predictor, other_path, tmp_path):
    before = predictor.predict(window()).probabilities
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counting descriptors, not files
    damaged = tmp_path / "damaged.edge"
    damaged.write_bytes(other_path.read_bytes()[:-1] + b"x")
    said(BundleError, lambda: predictor.swap(damaged))
    said(UsageError, lambda: predictor.swap(tmp_path / "absent.edge"))
    wrong = kit.parts(kit.modality, model=kit.model(kit.modality, weights=HALF)).write(tmp_path / "wrong.edge")
    assert f"{wrong}: self-test: golden window" in said(GateError, lambda: predictor.swap(wrong))
    longer = msgspec.structs.replace(kit.modality, samples=21)
    foreign = kit.parts(longer, model=kit.model(longer), golden=kit.golden(longer)).write(tmp_path / "foreign.edge")
    assert said(UsageError, lambda: predictor.swap(foreign)) == (
        f"{foreign}: swap: expected a bundle that takes and answers "
        "'acc' (20 samples of x, y, z at 10 Hz) for rest, raise, turn, "
        "got 'acc' (21 samples of x, y, z at 10 Hz) for rest, raise, turn; open it with a predictor of its own"
    )
    np.testing.assert_array_equal(predictor.predict(window()).probabilities, before)
    assert predictor.health().swaps == 0
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


def test_an_earlier_release_takes_over_from_none(kit, other_path, tmp_path):
    def released(number):
        return kit.parts(kit.modality).with_manifest(release=number).write(tmp_path / f"{number}.edge")

    with EdgePredictor.open(released(3)) as predictor:
        for path, number in ((released(2), 2), (other_path, 0)):  # the other has no number
            assert said(UsageError, lambda path=path: predictor.swap(path)) == (
                f"{path}: swap: expected release 3 or later, got {number}; rollback() returns to the bundle before, "
                "and mmkd-edge install --allow-downgrade takes any"
            )
        assert predictor.swap(released(4)).bundle == str(tmp_path / "4.edge")
        predictor.rollback()
        assert predictor.info().bundle == str(tmp_path / "3.edge")


def test_a_new_engine_that_fails_gives_the_place_back(predictor, other_path):
    before = predictor.predict(window()).probabilities
    predictor.swap(other_path)
    current = predictor._active.current
    (student,) = current.opened
    broken = current.with_backend(student, failing())
    msgspec.structs.force_setattr(broken.opened[0], "reopen", None)
    predictor._active.current = broken
    np.testing.assert_array_equal(predictor.predict(window()).probabilities, before)
    health = predictor.health()
    assert (health.backend_failures, health.rollbacks, health.predictions["invalid"]) == (1, 1, 0)


def test_swaps_under_load_drop_nothing_and_answer_nothing_wrong(predictor, bundle_path, other_path):
    batch = [window(seed) for seed in range(8)]
    with EdgePredictor.open(other_path) as alone:
        right = [{model.predict(one).probabilities.tobytes() for model in (alone, predictor)} for one in batch]
    stop, wrong, answered = threading.Event(), [], [0] * 8

    def ask(number):
        while not stop.is_set():
            found = predictor.predict(batch[number])
            answered[number] += 1
            if found.status != "ok" or found.probabilities.tobytes() not in right[number]:
                wrong.append(found)

    gc.collect()  # what other tests left open
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(8)]
        try:
            for turn in range(6):
                predictor.swap(other_path if turn % 2 == 0 else bundle_path)
            while min(answered) == 0 and not any(one.done() for one in asked):
                time.sleep(0.001)
        finally:
            stop.set()
    assert [one.result() for one in asked] == [None] * 8
    assert wrong == []
    assert predictor.health().swaps == 6
    assert len(os.listdir("/proc/self/fd")) == descriptors + 1  # noqa: PTH208 - the earlier bundle


def test_after_a_swap_a_running_stream_keeps_to_the_range_of_who_answers(predictor, kit, tmp_path):
    """Between two samples of 15 and 1 lies 8, which no range of up to 10 would refuse."""
    ranged = msgspec.structs.replace(kit.modality, range=(-10.0, 10.0))
    path = kit.parts(ranged).write(tmp_path / "ranged.edge")
    samples = np.ones((kit.modality.samples + 1, 3), dtype=np.float32)
    samples[5] = 15.0
    times = np.arange(len(samples)) / kit.modality.rate_hz
    times[1:] -= 0.5 / kit.modality.rate_hz
    stream = predictor.stream(hop=kit.modality.samples)
    predictor.swap(path)
    found = stream.push(samples, times)
    with EdgePredictor.open(path, backend="ort") as alone:
        expected = alone.stream(hop=kit.modality.samples).push(samples, times)
    assert [one.missing_fraction for one in found] == [one.missing_fraction for one in expected]
    assert found[0].missing_fraction > 0


@pytest.fixture
def both_path(kit, tmp_path):
    gyro = ModalitySpec(name="gyro", channels=("u", "v", "w"), rate_hz=5.0, samples=10)
    first = kit.parts(kit.modality)
    second = kit.parts(gyro, model=kit.model(gyro, weights=HALF), golden=golden_of_half(kit, gyro), name="gyro")
    manifest = msgspec.structs.replace(first.manifest, models=(first.manifest.models[0], second.manifest.models[0]))
    parts = type(first)(manifest=manifest, members={**second.members, **first.members})
    return parts.write(tmp_path / "both.edge")


def test_several_students_want_a_mapping_of_which_the_first_that_lives_answers(both_path):
    acc, gyro = window(), np.random.default_rng(5).normal(size=(10, 3)).astype(np.float32)
    dead = np.full((20, 3), np.nan)
    with EdgePredictor.open(both_path) as predictor:
        assert [entry.name for entry in predictor.entries] == ["acc", "gyro"]
        assert predictor.predict({"acc": acc, "gyro": gyro}).modality == "acc"
        for given, why in (
            ({"acc": dead, "gyro": gyro}, "all values are missing"),
            ({"acc": None, "gyro": gyro}, "modality 'acc' is absent"),
            ({"gyro": gyro}, "modality 'acc' is absent"),
        ):
            prediction = predictor.predict(given)
            assert (prediction.modality, prediction.status, bool(prediction.label)) == ("gyro", "degraded", True)
            assert prediction.reason == f"'gyro' answers in place of acc: {why}"
        nobody = predictor.predict({})
        assert (nobody.status, nobody.label) == ("invalid", "")
        assert nobody.reason == "acc: modality 'acc' is absent; gyro: modality 'gyro' is absent"
        assert predictor.health().predictions == {
            "ok": 1, "warming_up": 0, "degraded": 3, "unknown": 0, "stale": 0, "invalid": 1
        }  # fmt: skip
        assert [p.modality for p in predictor.predict_batch([{"acc": acc}, {"gyro": gyro}])] == ["acc", "gyro"]
        told = "this bundle has students for 'acc', 'gyro': expected a mapping from modality to array, got ndarray"
        assert said(InputError, lambda: predictor.predict(window())) == told
        told = "unknown modality 'temp': this bundle has students for 'acc', 'gyro'"
        assert said(InputError, lambda: predictor.predict({"temp": window()})) == told
        assert said(InputError, lambda: predictor.predict_batch([{"acc": window().T}])).startswith("window 0: ")
    with EdgePredictor.open(both_path, policy="raise") as predictor:
        said(SensorError, lambda: predictor.predict({"acc": None}))


def ask_in_child(predictor, answers):
    answers.put((os.getpid(), said(UsageError, lambda: predictor.predict(window()))))


def test_a_selftest_during_swaps_asks_who_answers_then(predictor, bundle_path, monkeypatch):
    import mmkd_edge.predictor as module

    def interrupted(engines, bundle):
        monkeypatch.setattr(module, "run_selftests", original)
        for _ in range(2):  # the second one closes what this self-test holds
            predictor.swap(bundle_path)
        return original(engines, bundle)

    original = module.run_selftests
    monkeypatch.setattr(module, "run_selftests", interrupted)
    assert predictor.selftest().windows == 4


def open_in_child(path, answers):
    with EdgePredictor.open(path) as predictor:
        answers.put(predictor.predict(window()).probabilities.tobytes())


def in_children(*jobs):
    """What functions put into a queue, each in a child of a fork."""
    fork = multiprocessing.get_context("fork")
    answers, found = fork.SimpleQueue(), []
    for target, argument in jobs:
        child = fork.Process(target=target, args=(argument, answers))
        child.start()
        child.join(timeout=300)
        assert child.exitcode == 0
        found.append(answers.get())
    return found


# A child of a process with threads may hang where it waits for one of them; that it does not is what is tested.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_after_a_fork_is_told_to_open_its_own(predictor, bundle_path):
    expected = predictor.predict(window()).probabilities.tobytes()
    (number, text), asked = in_children((ask_in_child, predictor), (open_in_child, str(bundle_path)))
    assert text == (
        f"the predictor was opened in process {os.getpid()} and cannot be used in its child {number}; "
        "open the bundle in the process that asks"
    )
    assert asked == expected


def give_up_in_child(predictor, answers):
    refused = said(UsageError, lambda: predictor.swap("other.edge"))
    predictor.close()
    answers.put((refused, said(UsageError, lambda: predictor.predict(window()))))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_can_close_what_it_inherited_though_a_thread_of_its_parent_holds_the_lock(predictor):
    held, done = threading.Event(), threading.Event()

    def hold():
        with predictor._active._changing:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    ((refused, closed),) = in_children((give_up_in_child, predictor))
    assert "cannot be used in its child" in refused
    assert closed == "the predictor is closed; open the bundle again"
    done.set()
    thread.join()
    assert predictor.predict(window()).status == "ok"  # the parent's engine was not touched
