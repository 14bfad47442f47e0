"""Claims: one owner at a time in any storage, and dead owners do not keep what they had."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.study import StudyDirection

from mmkd_edge.errors import UsageError
from mmkd_models.trials.claims import Claims, _owner, open_storage

KEYS = 12
RACE = f"""
import sys
from mmkd_models.trials.claims import Claims, open_storage
import optuna
optuna.logging.set_verbosity(optuna.logging.WARNING)
claims = Claims(open_storage(sys.argv[1]), "race")
sys.stdin.readline()
print(*(number for number in range({KEYS}) if claims.once(str(number))))
"""
HOLD = """
import sys, time
from mmkd_models.trials.claims import Claims, open_storage
with Claims(open_storage(sys.argv[1]), "study").hold("trial") as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["journal", "sqlite"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A storage of either kind."""
    return str(tmp_path / "study.journal") if request.param == "journal" else f"sqlite:///{tmp_path / 'study.db'}"


def start(code: str, where: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code, where], text=True, **pipes)


def test_a_key_has_one_owner_until_it_is_given_back(where: str) -> None:
    ours, theirs = (Claims(open_storage(where), "study") for _ in range(2))
    with ours.hold("trial") as mine:
        assert mine
        assert theirs.is_held("trial")
        with theirs.hold("trial") as other:
            assert not other
        with theirs.hold("another trial") as other:
            assert other
    assert not theirs.is_held("trial")
    with theirs.hold("trial") as other:
        assert other


def test_a_key_is_given_back_when_its_work_fails(where: str) -> None:
    claims = Claims(open_storage(where), "study")
    with pytest.raises(ZeroDivisionError), claims.hold("trial"):
        _ = 1 / 0
    with claims.hold("trial") as mine:
        assert mine


def test_scopes_do_not_meet(where: str) -> None:
    storage = open_storage(where)
    with Claims(storage, "one").hold("trial") as mine, Claims(storage, "two").hold("trial") as other:
        assert mine
        assert other


def test_processes_that_ask_at_once_get_each_key_once(where: str) -> None:
    open_storage(where)
    racers = [start(RACE, where) for _ in range(3)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [racer.communicate()[0].split() for racer in racers]
    assert sorted(int(number) for numbers in won for number in numbers) == list(range(KEYS))


def test_a_killed_process_loses_its_claim_at_once(where: str) -> None:
    claims = Claims(open_storage(where), "study")
    with start(HOLD, where) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert claims.is_held("trial")
        os.kill(process.pid, signal.SIGKILL)
        end = time.monotonic() + 10  # until the kernel has ended it
        while claims.is_held("trial") and time.monotonic() < end:
            time.sleep(0.01)
        with claims.hold("trial") as mine:
            assert mine


def test_a_process_killed_before_it_signed_its_claim_does_not_keep_it(where: str) -> None:
    storage = open_storage(where)
    storage.create_new_study([StudyDirection.MAXIMIZE], "study/claim/trial/0")  # and killed before it said who it is
    claims = Claims(storage, "study", unsigned_s=0.3)
    assert claims.is_held("trial")
    with claims.hold("trial") as mine:
        assert not mine
    time.sleep(0.35)
    with claims.hold("trial") as mine:
        assert mine
        assert claims.number("trial") == storage.get_study_id_from_name("study/claim/trial/1")


def test_who_signs_too_late_has_lost_its_claim(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, quick = Claims(open_storage(where), "study"), Claims(open_storage(where), "study", unsigned_s=0.0)
    sign = slow.storage.set_study_user_attr

    def late(*signature: Any) -> None:
        monkeypatch.undo()
        assert quick.is_held("trial")  # seen for the first time
        with quick.hold("trial") as mine:
            assert mine
            sign(*signature)

    monkeypatch.setattr(slow.storage, "set_study_user_attr", late)
    with slow.hold("trial") as mine:
        assert not mine


def test_who_took_one_for_dead_that_signs_after_all_withdraws(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(where)
    unsigned = storage.create_new_study([StudyDirection.MAXIMIZE], "study/claim/trial/0")
    quick = Claims(open_storage(where), "study", unsigned_s=0.0)
    create = quick.storage.create_new_study

    def signed_meanwhile(*asked: Any) -> int:
        found: int = create(*asked)
        storage.set_study_user_attr(unsigned, "owner", _owner())
        return found

    assert quick.is_held("trial")  # seen for the first time
    monkeypatch.setattr(quick.storage, "create_new_study", signed_meanwhile)
    with quick.hold("trial") as mine:
        assert not mine


def test_another_hosts_claim_ends_when_its_heart_stands_still(where: str) -> None:
    storage = open_storage(where)
    claims = Claims(storage, "study", stale_s=0.2)
    with claims.hold("trial"):
        held = storage.get_study_id_from_name("study/claim/trial/0")
        storage.set_study_user_attr(held, "owner", {"host": "elsewhere", "pid": 1, "started": "1"})
        assert claims.is_held("trial")
        storage.set_study_user_attr(held, "beat", 1)
        time.sleep(0.25)
        assert claims.is_held("trial")  # it has beaten since it was first seen
        time.sleep(0.25)
        assert not claims.is_held("trial")


def test_a_storage_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    where = f"sqlite:///{tmp_path / 'nowhere' / 'study.db'}"
    with pytest.raises(UsageError) as error:
        open_storage(where)
    assert str(error.value).startswith(
        f"--storage {where}: expected a journal file or a database URL such as sqlite:///study.db, cannot open it: "
    )
