"""What is installed on a device: one bundle answers, one is there to return to, and power may fail at any moment."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_edge import BundleError, EdgePredictor, GateError, UsageError
from mmkd_edge.install.slots import (
    check_slot,
    check_state,
    confirm,
    fail,
    forget,
    install,
    read_slots,
    rollback,
    start,
)
from tests.edge.install.conftest import conditions, whole
from tests.edge.said import said

ROOT = Path(__file__).parents[3]


def crash_at_start(state):
    lines = "import os, pathlib, signal, sys", "from mmkd_edge.install.slots import start"
    code = "\n".join((*lines, "with start(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGSEGV)"))
    done = subprocess.run([sys.executable, "-c", code, state], check=False)
    assert done.returncode == -signal.SIGSEGV


def broken(_):
    raise GateError("it answers otherwise")


def answer(state):
    """What a service would get: the status of a prediction, and how the bundle came to answer."""
    with EdgePredictor.open(state, backend="ort") as predictor:
        return predictor.predict(np.zeros((20, 3))).status, predictor.info().sandbox_check


def test_what_is_installed_answers_and_the_one_before_stays(state, releases, put):
    for number in (1, 2):
        put(number)
        assert answer(state) == ("ok", "passed when the bundle was installed")
    slots = read_slots(state)
    assert conditions(slots) == [(2, "good"), (1, "good")]
    assert slots.current.path(state).read_bytes() == releases[2].read_bytes()
    put(3)
    assert conditions(read_slots(state)) == [(3, "new"), (2, "good")]
    assert len(list((state / "slots").iterdir())) == 2


def test_what_has_started_well_is_kept_to_return_to(state, put):
    put(1)
    answer(state)
    for number in (2, 3):
        put(number)
    assert conditions(read_slots(state)) == [(3, "new"), (1, "good")]
    put(1, allow_downgrade=True)
    assert conditions(read_slots(state)) == [(1, "new"), (3, "new")]


def test_what_does_not_pass_is_not_installed_and_what_is_installed_stays(state, releases, put):
    put(1)
    before = (state / "slots.json").read_bytes()
    for number in (1, 2):
        with pytest.raises(GateError):
            install(state, releases[number], prove=broken)
    assert (state / "slots.json").read_bytes() == before
    assert len(list((state / "slots").iterdir())) == 1
    assert answer(state)[0] == "ok"


def test_an_earlier_release_is_refused_unless_it_is_asked_for_after_a_rollback_too(state, releases, put):
    put(2)
    with pytest.raises(BundleError) as caught:
        put(1)
    assert str(caught.value) == (
        f"{releases[1]}: release 1 is earlier than 2, which was installed here; install a later one, or say "
        "--allow-downgrade"
    )
    assert caught.value.exit_code == 6
    put(3)
    assert conditions(rollback(state)) == [(2, "new"), (3, "new")]
    for number in (1, 2):
        with pytest.raises(BundleError, match=f"release {number} is earlier than 3"):
            put(number)
    put(1, allow_downgrade=True)
    assert conditions(read_slots(state)) == [(1, "new"), (2, "new")]


def test_where_the_first_start_fails_the_one_before_answers(state, put):
    put(1)
    answer(state)
    put(2)
    slots = read_slots(state)
    slots.current.path(state).write_bytes(b"not a bundle")
    status, told = answer(state)
    assert (status, conditions(read_slots(state))) == ("ok", [(1, "good"), (2, "failed")])
    one, two = slots.previous, slots.current
    assert told == (
        f"passed when the bundle was installed; returned to release 1 (made-up-acc, {one.sha256[:8]}), since "
        f"release 2 (made-up-acc, {two.sha256[:8]}) failed: {two.path(state)}: expected a bundle written by "
        "mmkd-export, got something else"
    )
    assert answer(state) == ("ok", "passed when the bundle was installed")


def test_where_the_first_start_did_not_end_the_one_before_answers(state, put):
    put(1)
    answer(state)
    put(2)
    crash_at_start(state)
    assert read_slots(state).starting
    status, told = answer(state)
    assert status == "ok"
    assert told.endswith("failed: its first start did not end")
    assert conditions(read_slots(state)) == [(1, "good"), (2, "failed")]


def test_after_two_starts_that_crashed_the_one_before_answers_and_says_why(state, put):
    for number in (1, 2):
        put(number)
        answer(state)
    crash_at_start(state)
    assert answer(state) == ("ok", "passed when the bundle was installed")  # a good start ends the count
    crash_at_start(state)
    crash_at_start(state)
    one, two = read_slots(state).previous, read_slots(state).current
    told = (
        f"passed when the bundle was installed; returned to release 1 (made-up-acc, {one.sha256[:8]}), since "
        f"release 2 (made-up-acc, {two.sha256[:8]}) failed: its last 2 starts ended their process"
    )
    assert answer(state) == ("ok", told)
    assert conditions(read_slots(state)) == [(1, "good"), (2, "failed")]
    assert answer(state) == ("ok", "passed when the bundle was installed")


def test_starts_with_nothing_to_return_to_are_tried_again_and_told(state, put):
    put(1)
    answer(state)
    for _ in range(2):
        crash_at_start(state)
    assert answer(state) == ("ok", "passed when the bundle was installed")
    assert read_slots(state).current.reason == "its last 2 starts ended their process"
    put(1)
    read_slots(state).current.path(state).write_bytes(b"")
    for _ in range(2):
        with pytest.raises(BundleError, match="got an empty file"):
            answer(state)
    assert conditions(read_slots(state)) == [(1, "failed")]
    assert said(UsageError, lambda: rollback(state)) == f"{state}: there is no earlier bundle to return to"


def test_two_starts_at_once_are_not_taken_for_a_failed_one(state, put):
    put(1)
    answer(state)
    put(2)
    with start(state) as first:
        assert answer(state) == ("ok", "passed when the bundle was installed")
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


def test_what_may_not_follow_a_running_bundle_has_not_started_well(state, put, kit, tmp_path):
    longer = msgspec.structs.replace(kit.modality, samples=21)
    parts = kit.parts(longer, model=kit.model(longer), golden=kit.golden(longer))
    foreign = parts.with_manifest(release=2).write(tmp_path / "foreign.edge")
    put(1)
    with EdgePredictor.open(state, backend="ort") as predictor:
        install(state, foreign, prove=whole)
        with pytest.raises(UsageError, match="swap: expected a bundle that takes and answers"):
            predictor.swap(state)
    assert conditions(read_slots(state)) == [(1, "good"), (2, "failed")]


def test_a_damaged_record_of_the_slots_or_a_later_one_says_the_way_out_and_it_works(state, put):
    put(1)
    record = state / "slots.json"
    way_out = (
        "; remove this file and install a bundle again; the earlier bundle, and which releases are too early, are then "
        "forgotten"
    )
    record.write_bytes(record.read_bytes().replace(b'"format_version": 1', b'"format_version": 2'))
    with pytest.raises(BundleError, match="format_version: expected 1, got 2; remove this file and install a bundle"):
        read_slots(state)
    record.write_text("{")
    told = said(BundleError, lambda: put(2))
    assert told.startswith(f"{record}: ")
    assert told.endswith(way_out)
    record.unlink()
    assert conditions(put(2)) == [(2, "new")]


def test_another_bundle_under_the_name_of_an_installed_one_is_refused(state, releases, put):
    put(1)
    answer(state)
    path = read_slots(state).current.path(state)
    path.write_bytes(releases[2].read_bytes())
    assert (
        said(BundleError, lambda: answer(state)) == f"{path}: it is another bundle than was installed; install it again"
    )
    with pytest.raises(BundleError):
        check_slot(state, read_slots(state).current)


def test_a_running_predictor_takes_what_was_installed_and_returns_by_itself(state, put):
    put(1)
    with EdgePredictor.open(state, backend="ort") as predictor:
        put(2)
        assert predictor.swap(state).bundle == str(read_slots(state).current.path(state))
        assert conditions(read_slots(state)) == [(2, "good"), (1, "good")]


@pytest.mark.parametrize("damage", ["others", "slots", "file", "text", "absent", "empty"])
def test_a_state_folder_that_cannot_be_trusted_is_refused(damage, state, put):
    put(1)
    if damage == "others":
        state.chmod(0o777)
    elif damage == "slots":
        (state / "slots").chmod(0o777)
    elif damage == "file":
        (state / "slots.json").chmod(0o666)
    elif damage == "text":
        (state / "slots.json").write_text("{}")
    elif damage == "absent":
        state = state / "nowhere"
    else:
        (state / "slots.json").unlink()
    assert said((UsageError, BundleError), lambda: EdgePredictor.open(state, trust="installed")).startswith(str(state))


def test_a_bundle_that_was_not_installed_is_refused_where_only_such_are_asked_for(bundle_path):
    assert said(UsageError, lambda: EdgePredictor.open(bundle_path, trust="installed")) == (
        f"{bundle_path}: trust='installed': expected the state folder of mmkd-edge install, got a file"
    )


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


def test_what_is_no_folder_is_no_state_folder(state, releases):
    file, below = releases[1], releases[1] / "state"
    assert said(UsageError, lambda: check_state(file)) == f"{file}: expected a state folder, got something else"
    assert said(UsageError, lambda: check_state(state)) == (
        f"{state}: expected a state folder, found nothing there; mmkd-edge install makes one"
    )
    told = said(UsageError, lambda: check_state(below))
    assert told.startswith(f"{below}: cannot look at this state folder: not a directory")
    told = said(UsageError, lambda: install(below, file, prove=whole))
    assert told.startswith(f"{below}: cannot make this state folder: not a directory")


def test_a_bundle_that_failed_is_new_again_where_someone_returns_to_it(state, put):
    put(1, 2)
    with start(state) as started:
        assert fail(state, started, "it does not fit") is not None
    assert conditions(read_slots(state)) == [(1, "new"), (2, "failed")]
    slots = rollback(state)
    assert (conditions(slots), slots.current.reason) == ([(2, "new"), (1, "new")], "")


@pytest.mark.parametrize("end", [confirm, forget, lambda state, started: fail(state, started, "it does not fit")])
def test_the_end_of_a_first_start_says_nothing_of_what_was_installed_meanwhile(end, state, put):
    put(1)
    with start(state) as started:
        put(2)
        before = (state / "slots.json").read_bytes()
        assert end(state, started) is None
    assert (state / "slots.json").read_bytes() == before


def test_a_start_that_cannot_be_recorded_goes_on(state, put, caplog):
    put(1)
    (state / "change.lock").unlink()
    (state / "change.lock").mkdir()  # no lock can be had
    with start(state) as started:
        confirm(state, started)
        fail(state, msgspec.structs.replace(started, sha256="0" * 64), "it is another one")
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
    with start(state) as started:
        confirm(state, started)
    assert conditions(read_slots(state)) == [(1, "good")]
    assert not (state / "reserve").exists()
    monkeypatch.setattr("mmkd_edge.install.slots.write_file", lambda path, *_, **__: write(state / "reserve", b""))
    assert fail(state, started, "it does not fit") is None
    assert conditions(read_slots(state)) == [(1, "good")]  # there was no room for the record
