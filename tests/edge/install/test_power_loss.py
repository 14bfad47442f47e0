"""What a disk has after power was lost: everything that was flushed, and of the rest what it pleases.

A kill keeps what the kernel has; power that is lost does not. So an installation is recorded, call by call, and every
disk that could be left after each call is made and started from (Pillai et al., "All File Systems Are Not Created
Equal", OSDI 2014): names of a folder that was not flushed since are there or not, in the order in which they were
given; a file that was not flushed is empty.
"""

import contextlib
import errno
import itertools
import os
import stat
from pathlib import Path

import pytest

from mmkd_edge import MmkdError, UsageError
from mmkd_edge.install.slots import check_slot, install, read_slots, rollback
from tests.edge.install.conftest import whole

Names = dict[str, int]  # in a folder: of each name the inode
Disk = dict[str, bytes | None]  # of each path its content, None of a folder


class Recorder:
    """A folder and what a disk has of it, while calls of the file system go by.

    Attributes:
        disks: every disk that could have been left, after any call.
        last: those of them that could be left after the last call.
    """

    def __init__(self, root, monkeypatch):
        self.disks: list[Disk] = []
        self.last: list[Disk] = []
        self._root = root
        self._flushed: dict[int, bytes | None] = {}  # of each inode what was flushed; None of a folder
        self._names: dict[int, list[Names]] = {}  # of each folder's inode: as flushed, and after each change since
        self._look(flushed=True)
        for name in ("open", "link", "replace", "rename", "unlink", "mkdir", "close"):
            monkeypatch.setattr(os, name, self._watched(getattr(os, name)))
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _watched(self, call):
        def watched(*given, **named):
            done = call(*given, **named)
            self._look()
            return done

        return watched

    def _fsync(self, descriptor):
        facts = os.fstat(descriptor)
        if stat.S_ISDIR(facts.st_mode):
            self._names[facts.st_ino] = self._names[facts.st_ino][-1:]
        else:
            self._flushed[facts.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()
        self._look()

    def _look(self, *, flushed=False):
        """Note what has changed since the last call, and which disks there could be now."""
        for folder in (self._root, *(path for path in self._root.rglob("*") if path.is_dir())):
            now = {entry.name: entry.inode() for entry in os.scandir(folder)}
            known = self._names.setdefault(folder.stat().st_ino, [now if flushed else {}])
            if known[-1] != now:
                known.append(now)
            for entry in os.scandir(folder):
                content = None if entry.is_dir() else Path(entry.path).read_bytes() if flushed else b""
                self._flushed.setdefault(entry.inode(), content)
        folders = list(self._names)
        choices = itertools.product(*self._names.values())
        root = self._root.stat().st_ino
        self.last = [self._disk(root, dict(zip(folders, choice, strict=True)), "") for choice in choices]
        self.disks += self.last

    def _disk(self, folder, names, above):
        found = {}
        for name, inode in names[folder].items():
            found[above + name] = self._flushed[inode]
            if inode in names:
                found |= self._disk(inode, names, f"{above}{name}/")
        return found


def made(disk, folder):
    for name, content in disk.items():
        if content is None:
            (folder / name).mkdir(parents=True, exist_ok=True)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return folder / "state"


def current(state):
    """The release that answers, whole; None where nothing is installed."""
    try:
        slots = read_slots(state)
    except UsageError:
        return None
    check_slot(state, slots.current)
    return slots.current.release


def left(disks, tmp_path):
    for number, disk in enumerate({repr(disk): disk for disk in disks}.values()):
        yield current(made(disk, tmp_path / f"disk{number}"))


ACTIONS = {"first installation": ((), None, 1), "installation": ((1,), 1, 2), "rollback": ((1, 2), 2, 1)}


@pytest.mark.parametrize("action", ACTIONS)
def test_what_answered_or_what_should_answer_does_after_any_loss_of_power(action, releases, tmp_path, monkeypatch):
    root, state = tmp_path / "root", tmp_path / "root" / "state"
    root.mkdir()
    installed, before, after = ACTIONS[action]
    for number in installed:
        install(state, releases[number], prove=whole)
    with monkeypatch.context() as patch:
        recorder = Recorder(root, patch)
        rollback(state) if action == "rollback" else install(state, releases[after], prove=whole)
    assert set(left(recorder.disks, tmp_path)) == {before, after}
    assert set(left(recorder.last, tmp_path / "last")) == {after}


CALLS = ("open", "fsync", "link", "replace", "unlink", "mkdir", "listdir", "scandir", "write")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EMFILE])
def test_whichever_call_of_an_installation_fails_a_bundle_answers_and_the_error_is_typed(
    number, releases, tmp_path, monkeypatch
):
    for step in range(1, 200):
        state = tmp_path / f"state{step}"
        install(state, releases[1], prove=whole)
        done = 0

        def failing(call, step=step):
            def called(*given, **named):
                nonlocal done
                done += 1
                if done == step:
                    raise OSError(number, os.strerror(number))
                return call(*given, **named)

            return called

        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, failing(getattr(os, name)))
            with contextlib.suppress(MmkdError):
                install(state, releases[2], prove=whole)
        assert current(state) in (1, 2), step
        if done < step:
            assert step > 10
            return
    raise AssertionError("an installation has fewer calls")
