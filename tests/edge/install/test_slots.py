"""What is installed on a device: one bundle answers, one is there to return to, and power may fail at any moment."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_edge import BundleError, EdgePredictor, GateError, UsageError
from mmkd_edge.install.slots import (
    check_slot,
    check_state,
    install,
    lock_slots,
    read_slots,
    rollback,
    start,
)
from tests.edge.install.conftest import HELD, conditions, returned, whole
from tests.edge.said import said

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # the child ends at once


def crash_at_start(state):
    child = os.fork()
    if child == 0:
        with start(state):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def whole_of(started):
    whole(started.path)


def fail_after_opening(state, reason="it does not fit"):
    with contextlib.suppress(GateError), start(state) as this_start:
        this_start.open(whole_of)
        raise GateError(reason)


def broken(_):
    raise GateError("it answers otherwise")


def answer(state):
    """What a service would get: the status of a prediction, and how the bundle came to answer."""
    with EdgePredictor.open(state, backend="ort") as predictor:
        return predictor.predict(np.zeros((20, 3))).status, predictor.info().sandbox_check


def test_what_is_installed_answers_and_the_one_before_stays(state, releases, put):
    for number in (1, 2):
        put(number)
        assert answer(state) == ("ok", HELD)
    slots = read_slots(state)
    assert conditions(slots) == [(2, "good"), (1, "good")]
    assert slots.current.path(state).read_bytes() == releases[2].read_bytes()
    put(3)
    assert conditions(read_slots(state)) == [(3, "new"), (2, "good")]
    assert len(list((state / "slots").iterdir())) == 2
    assert conditions(put(1, allow_downgrade=True)) == [(1, "new"), (2, "good")]  # 3 has not started well
    assert conditions(put(2, allow_downgrade=True)) == [(2, "new"), (1, "new")]


def test_what_does_not_pass_is_not_installed_and_what_is_installed_stays(state, releases, put):
    put(1)
    before = (state / "slots.json").read_bytes()
    for number in (1, 2):
        said(GateError, install, state, releases[number], prove=broken)
    assert (state / "slots.json").read_bytes() == before
    assert len(list((state / "slots").iterdir())) == 1
    assert answer(state)[0] == "ok"


def test_an_earlier_release_is_refused_unless_it_is_asked_for_after_a_rollback_too(state, releases, put):
    put(2)
    assert said(BundleError, put, 1) == (
        f"{releases[1]}: release 1 is earlier than 2, which was installed here; install a later one, or say "
        "--allow-downgrade"
    )
    put(3)
    assert conditions(rollback(state)) == [(2, "new"), (3, "rolled back")]
    for number in (1, 2):
        assert f"release {number} is earlier than 3" in said(BundleError, put, number)
    put(1, allow_downgrade=True)
    assert conditions(read_slots(state)) == [(1, "new"), (2, "new")]


def test_where_the_first_start_fails_the_one_before_answers(state, put):
    put(1)
    answer(state)
    put(2)
    slots = read_slots(state)
    path = slots.current.path(state)
    path.write_bytes(b"not a bundle")
    fault = f"{path}: expected a bundle written by mmkd-export, got something else"
    for _ in range(2):  # each start says so, until something is installed
        assert answer(state) == ("ok", returned(slots, fault))
        assert conditions(read_slots(state)) == [(1, "good"), (2, "failed")]
    assert conditions(put(2)) == [(2, "new"), (1, "good")]
    assert answer(state) == ("ok", HELD)


def test_where_the_first_start_did_not_end_the_one_before_answers(state, put):
    put(1)
    answer(state)
    put(2)
    crash_at_start(state)
    slots = read_slots(state)
    assert slots.starting
    assert answer(state) == ("ok", returned(slots, "its first start did not end"))
    assert conditions(read_slots(state)) == [(1, "good"), (2, "failed")]


def test_after_two_starts_that_crashed_the_one_before_answers_and_says_why(state, put):
    for number in (1, 2):
        put(number)
        answer(state)
    crash_at_start(state)
    assert answer(state) == ("ok", HELD)  # a good start ends the count
    crash_at_start(state)
    crash_at_start(state)
    slots = read_slots(state)
    for _ in range(2):
        assert answer(state) == ("ok", returned(slots, "its last 2 starts ended their process"))
        assert conditions(read_slots(state)) == [(1, "good"), (2, "failed")]


def test_starts_with_nothing_to_return_to_are_tried_again_and_told(state, put):
    put(1)
    answer(state)
    for _ in range(2):
        crash_at_start(state)
    assert answer(state) == ("ok", HELD)
    assert read_slots(state).current.reason == "its last 2 starts ended their process"
    put(1)
    read_slots(state).current.path(state).write_bytes(b"")
    for _ in range(2):
        assert "got an empty file" in said(BundleError, answer, state)
    assert conditions(read_slots(state)) == [(1, "failed")]
    assert said(UsageError, lambda: rollback(state)) == f"{state}: there is no earlier bundle to return to"


def test_two_starts_at_once_are_not_taken_for_a_failed_one(state, put):
    put(1)
    answer(state)
    put(2)
    with start(state) as first:
        assert answer(state) == ("ok", HELD)
        assert first.on_probation
    assert [condition for _, condition in conditions(read_slots(state))] == ["new", "good"]


def test_an_interrupted_first_start_says_nothing_of_the_bundle(state, put, monkeypatch):
    put(1)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mmkd_edge.opening.students.check_signed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            answer(state)
    assert not read_slots(state).starting
    assert answer(state)[0] == "ok"


def test_a_running_predictor_takes_what_was_installed_but_nothing_that_may_not_follow(state, put, kit, tmp_path):
    longer = msgspec.structs.replace(kit.modality, samples=21)
    parts = kit.parts(longer, model=kit.model(longer), golden=kit.golden(longer))
    foreign = parts.with_manifest(release=3).write(tmp_path / "foreign.edge")
    put(1)
    with EdgePredictor.open(state, backend="ort") as predictor:
        put(2)
        assert predictor.swap(state).bundle == str(read_slots(state).current.path(state))
        assert conditions(read_slots(state)) == [(2, "good"), (1, "good")]
        install(state, foreign, prove=whole)
        assert "swap: expected a bundle that takes and answers" in said(UsageError, predictor.swap, state)
    assert conditions(read_slots(state)) == [(2, "good"), (3, "failed")]


def test_a_swap_that_takes_too_long_is_refused_and_changes_nothing_later_and_the_next_one_takes_over(state, put):
    put(1)
    with EdgePredictor.open(state, backend="ort") as predictor:
        put(2)
        before = (state / "slots.json").read_bytes()
        with lock_slots(state, "change.lock"):  # which a start waits for
            assert said(BundleError, lambda: predictor.swap(state, limit_s=0.2)) == (
                f"{state}: swap: expected an end within 0.2 s, the limit of time for all of it, got none; the earlier "
                "bundle answers on; swap again when this machine is less busy, or with a higher limit_s"
            )
        for thread in threading.enumerate():
            if thread.name == "deadline":
                thread.join(20)
        assert (state / "slots.json").read_bytes() == before
        assert (predictor.bundle.manifest.release, predictor.health().swaps) == (1, 0)
        predictor.swap(state)
        assert (predictor.bundle.manifest.release, predictor.health().swaps) == (2, 1)
    assert conditions(read_slots(state)) == [(2, "good"), (1, "good")]


def test_a_damaged_record_of_the_slots_or_a_later_one_says_the_way_out_and_it_works(state, put):
    put(1)
    record = state / "slots.json"
    record.write_bytes(record.read_bytes().replace(b'"format_version": 1', b'"format_version": 2'))
    assert said(BundleError, put, 2) == (
        f"{record}: format_version: expected 1, got 2; remove this file and install a bundle again; "
        "the earlier bundle, and which releases are too early, are then forgotten"
    )
    record.unlink()
    assert conditions(put(2)) == [(2, "new")]


def test_another_bundle_under_the_name_of_an_installed_one_is_refused(state, releases, put):
    put(1)
    answer(state)
    path = read_slots(state).current.path(state)
    path.write_bytes(releases[2].read_bytes())
    told = f"{path}: it is another bundle than was installed; install it again"
    assert said(BundleError, answer, state) == told
    said(BundleError, check_slot, state, read_slots(state).current)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.chmod(0o777),
        lambda state: (state / "slots").chmod(0o777),
        lambda state: (state / "slots.json").chmod(0o666),
        lambda state: (state / "slots.json").write_text("{}"),
        lambda state: (state / "slots.json").unlink(),
        lambda state: state.rename(f"{state}2"),
    ],
)
def test_a_state_folder_that_cannot_be_trusted_is_refused(damage, state, put):
    put(1)
    damage(state)
    told = said((UsageError, BundleError), EdgePredictor.open, state, trust="installed")
    assert told.startswith(str(state))


def test_what_was_not_installed_or_is_no_folder_is_refused(state, bundle_path):
    told = f"{bundle_path}: trust='installed': expected the state folder of mmkd-edge install, got a file"
    assert said(UsageError, EdgePredictor.open, bundle_path, trust="installed") == told
    file, below = bundle_path, bundle_path / "state"
    assert said(UsageError, check_state, file) == f"{file}: expected a state folder, got something else"
    told = f"{state}: expected a state folder, found nothing there; mmkd-edge install makes one"
    assert said(UsageError, check_state, state) == told
    told = f"{below}: cannot look at this state folder: not a directory"
    assert said(UsageError, check_state, below).startswith(told)
    told = f"{below}: cannot make this state folder: not a directory"
    assert said(UsageError, install, below, file, prove=whole).startswith(told)


def test_a_state_folder_that_cannot_be_written_still_starts(state, put):
    put(1)
    if os.geteuid() == 0:  # root may write anywhere: a lock that is no file does as well
        (state / "start.lock").mkdir()
    else:
        state.chmod(0o555)
    try:
        assert answer(state)[0] == "ok"
    finally:
        state.chmod(0o755)


def test_power_may_fail_at_every_step(releases):
    script = ROOT / "benchmarks" / "checks" / "kills.py"
    done = subprocess.run(
        [sys.executable, script, releases[1], releases[2]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(" kills, 0 bad\n")
    assert int(done.stdout.splitlines()[-1].split()[0]) > 100


def test_a_bundle_that_failed_is_new_again_where_someone_returns_to_it(state, put):
    put(1, 2)
    fail_after_opening(state)
    assert conditions(read_slots(state)) == [(1, "new"), (2, "failed")]
    slots = rollback(state)
    assert (conditions(slots), slots.current.reason) == ([(2, "new"), (1, "new")], "")


def test_what_was_rolled_back_does_not_answer_again_unless_a_second_rollback_returns_to_it(state, put):
    for number in (1, 2):
        put(number)
        answer(state)
    assert conditions(rollback(state)) == [(1, "good"), (2, "rolled back")]
    path = read_slots(state).current.path(state)
    path.write_bytes(b"")
    assert said(BundleError, answer, state) == f"{path}: expected a bundle written by mmkd-export, got an empty file"
    assert conditions(read_slots(state)) == [(1, "failed"), (2, "rolled back")]
    assert conditions(rollback(state)) == [(2, "new"), (1, "rolled back")]
    assert answer(state) == ("ok", HELD)


@pytest.mark.parametrize("error", [None, GateError("it does not fit"), KeyboardInterrupt()])
def test_the_end_of_a_first_start_says_nothing_of_what_was_installed_meanwhile(error, state, put):
    put(1)
    with contextlib.suppress(GateError, KeyboardInterrupt), start(state) as this_start:
        this_start.open(lambda _: put(2))
        before = (state / "slots.json").read_bytes()
        if error is not None:
            raise error
    assert (state / "slots.json").read_bytes() == before


def test_a_start_that_cannot_be_recorded_goes_on(state, put, caplog):
    put(1)
    (state / "change.lock").unlink()
    (state / "change.lock").mkdir()  # no lock can be had
    with start(state) as this_start:
        this_start.open(whole_of)
    assert conditions(read_slots(state)) == [(1, "new")]
    assert len(caplog.messages) == 2
    assert caplog.messages[-1] == (
        f"{state}: cannot change this state folder: is a directory; name a file in it; this start goes on without a "
        "record of it"
    )


def test_on_a_full_disk_the_reserve_has_room_for_the_record(state, put, monkeypatch):
    put(1)

    def write(path, data, *, own=False):
        if (state / "reserve").exists() or path.name == "reserve":
            raise UsageError(f"{path}: cannot write it: no space left on device")
        path.write_bytes(data)

    monkeypatch.setattr("mmkd_edge.install.slots.write_file", write)
    with start(state) as this_start:
        this_start.open(whole_of)
    assert conditions(read_slots(state)) == [(1, "good")]
    assert not (state / "reserve").exists()
    monkeypatch.setattr("mmkd_edge.install.slots.write_file", lambda path, *_, **__: write(state / "reserve", b""))
    (state / "slots" / f"{read_slots(state).current.sha256}.edge").write_bytes(b"")
    with contextlib.suppress(BundleError), start(state) as this_start:
        this_start.open(whole_of)
    assert conditions(read_slots(state)) == [(1, "good")]  # there was no room for the record
