"""Who works on what: claims in the storage that several processes or hosts share.

A claim is the creation of a name that may exist once: an Optuna study without trials, since every storage of Optuna
refuses a second study of the same name, whoever asks first. A claim lives as long as its owner: a dead process of this
host is seen at once, one of another host when its heartbeat has stood still for `STALE_S`. A claim is made first and
signed second; one that nobody has signed within `UNSIGNED_S` is that of a process killed between the two.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmkd_edge.errors import UsageError, first_line

if TYPE_CHECKING:
    from optuna.storages import BaseStorage  # pragma: no cover
    from optuna.storages.journal import JournalFileSymlinkLock  # pragma: no cover

BEAT_S = 15.0
STALE_S = 180.0
UNSIGNED_S = 10.0
_URL_MARK = "://"


def open_storage(where: str) -> BaseStorage:
    """Opens Optuna's storage: a database URL (`sqlite:///study.db`, `postgresql://...`), or the path of a journal file.

    Raises:
        UsageError: the URL cannot be opened.
    """
    from optuna.exceptions import OptunaError
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        if _URL_MARK in where:
            return RDBStorage(where, engine_kwargs=_sqlite_options() if "sqlite" in where else None)
        Path(where).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(where, cast("JournalFileSymlinkLock", _KernelLock(f"{where}.lock"))))
    except (ImportError, OSError, ValueError, OptunaError) as error:
        raise _no_storage(where, error) from error
    except Exception as error:  # SQLAlchemy's own errors have no base that can be named without importing it
        if type(error).__module__.partition(".")[0] != "sqlalchemy":
            raise
        raise _no_storage(where, error) from error


def _sqlite_options() -> dict[str, Any]:
    """Waits for others' locks, and closes every connection after use: a pool leaves its last ones open for good."""
    from sqlalchemy.pool import NullPool

    return {"connect_args": {"timeout": 60}, "poolclass": NullPool}


def _no_storage(where: str, error: Exception) -> UsageError:
    return UsageError(
        f"--storage {where}: expected a journal file or a database URL such as sqlite:///study.db, cannot open it: "
        f"{first_line(error)}; correct it"
    )


class _KernelLock:
    """Guards a journal as Optuna's own locks do, but by the kernel: when its owner is killed, it is free at once.

    Optuna's locks are files, and one that a killed process has left is waited for half a minute.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self) -> bool:
        """Waits until nobody else has the lock, and takes it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            os.close(descriptor)
            raise UsageError(
                f"{self._path}: expected a file system with locks, got: {(error.strerror or '').lower()}; "
                "give --storage a database URL such as sqlite:///study.db"
            ) from error
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Gives the lock back."""
        os.close(self._descriptor)


class Claims:
    """The claims of one process in one storage.

    Args:
        storage: what all processes share.
        scope: what all names begin with.
        stale_s: how long a heartbeat of another host may stand still.
        unsigned_s: how long a claim may be without the name of its owner.
    """

    def __init__(
        self, storage: BaseStorage, scope: str, *, stale_s: float = STALE_S, unsigned_s: float = UNSIGNED_S
    ) -> None:
        self.storage = storage
        self._scope = scope
        self._stale_s = stale_s
        self._unsigned_s = unsigned_s
        self._seen: dict[int, tuple[object, float]] = {}  # claim -> last heartbeat, and when it was first seen

    @contextmanager
    def hold(self, key: str) -> Iterator[bool]:
        """Gives whether this process has the key now; another may have it again when the block has ended."""
        claim = self._take(key)
        if claim is None:
            yield False
            return
        with self._beating(claim):
            yield True

    def once(self, key: str) -> bool:
        """Gives True to the first that asks, and never again."""
        return self._create(f"{self._scope}/once/{key}") is not None

    def is_held(self, key: str) -> bool:
        """Gives whether anyone alive has the key."""
        _, claim = self._last(key)
        return claim is not None and self._is_alive(claim)

    def number(self, key: str) -> int:
        """Gives a number that is larger for a claim that was made later; -1 where nobody has asked for the key."""
        _, claim = self._last(key)
        return -1 if claim is None else claim

    def _take(self, key: str) -> int | None:
        attempt, claim = self._last(key)
        if claim is not None and self._is_alive(claim):
            return None
        ours = self._create(self._name(key, attempt + 1))
        if ours is None:
            return None
        # Who signs late may have been taken for dead by another: whichever of the two looks last withdraws.
        if self._find(self._name(key, attempt + 2)) is None and (claim is None or not self._is_alive(claim)):
            return ours
        self.storage.set_study_user_attr(ours, "released", True)
        return None

    def _name(self, key: str, attempt: int) -> str:
        return f"{self._scope}/claim/{key}/{attempt}"

    def _last(self, key: str) -> tuple[int, int | None]:
        """Number and id of the last attempt; -1 and None where nobody asked yet."""
        attempt, claim = -1, None
        while (found := self._find(self._name(key, attempt + 1))) is not None:
            attempt, claim = attempt + 1, found
        return attempt, claim

    def _find(self, name: str) -> int | None:
        try:
            return self.storage.get_study_id_from_name(name)
        except KeyError:
            return None

    def _create(self, name: str) -> int | None:
        from optuna.exceptions import DuplicatedStudyError
        from optuna.study import StudyDirection

        try:
            claim = self.storage.create_new_study([StudyDirection.MAXIMIZE], name)
        except DuplicatedStudyError:
            return None
        self.storage.set_study_user_attr(claim, "owner", _owner())
        return claim

    def _is_alive(self, claim: int) -> bool:
        facts = self.storage.get_study_user_attrs(claim)
        if facts.get("released"):
            return False
        owner = facts.get("owner")
        if owner is not None and owner["host"] == _host():
            return bool(owner["started"] == _started(owner["pid"]))
        beat = facts.get("beat", owner)
        last, since = self._seen.get(claim, (None, -1.0))
        if since < 0 or last != beat:
            self._seen[claim] = (beat, time.monotonic())
            return True
        return time.monotonic() - since < (self._unsigned_s if owner is None else self._stale_s)

    @contextmanager
    def _beating(self, claim: int) -> Iterator[None]:
        end = threading.Event()

        def beat() -> None:
            number = 0
            while not end.wait(BEAT_S):
                number += 1
                self.storage.set_study_user_attr(claim, "beat", number)

        thread = threading.Thread(target=beat, name="mmkd-study heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()
            self.storage.set_study_user_attr(claim, "released", True)


def _owner() -> dict[str, object]:
    pid = os.getpid()
    return {"host": _host(), "pid": pid, "started": _started(pid)}


def _host() -> str:
    """This host and its boot: after a restart, process numbers begin anew."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()} {boot}"


def _started(pid: int) -> str | None:
    """When a process of this host began, in the kernel's own clock; None where there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _answers(pid) if not Path("/proc/self/stat").exists() else None
    return None if fields[0] in ("Z", "X") else fields[19]  # proc(5): state, and field 22, starttime


def _answers(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"
