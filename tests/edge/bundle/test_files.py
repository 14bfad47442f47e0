from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmkd_edge import Bundle, UsageError
from mmkd_edge.bundle import files
from mmkd_edge.bundle.files import cache_folder, is_of_a_path, read_own_file, write_file
from tests.edge.said import said


def failing(code: int) -> Callable[..., Any]:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"old")
    write_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("owner", "call", "code", "reason"),
    [
        (os, "open", errno.EACCES, "permission denied; choose a path that this user may use"),
        (os, "fsync", errno.ENOSPC, "no space left on device; free some space, or choose another folder"),
        (os, "fsync", errno.EIO, "input/output error"),
        (Path, "replace", errno.EROFS, "read-only file system; choose another folder"),
    ],
)
def test_a_failing_call_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, call: str, code: int, reason: str
) -> None:
    path = tmp_path / "a"
    write_file(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(owner, call, failing(code))
        with pytest.raises(UsageError) as caught:
            write_file(path, b"new")
    assert str(caught.value) == f"{path}: cannot write it: {reason}; an earlier file is left as it was"
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("call", ["link", "O_TMPFILE"])
def test_where_a_file_needs_a_name_from_the_start_it_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    if call == "link":
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
    else:
        monkeypatch.delattr(os, "O_TMPFILE")
    write_file(tmp_path / "a", b"old")
    write_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_interrupt_leaves_the_earlier_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_file(path, b"old")

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_flushed_is_told_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_file(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(files, "flush_folder", failing(errno.EIO))
        with pytest.raises(UsageError) as caught:
            write_file(path, b"new")
    assert str(caught.value) == (
        f"{path}: the new file is in its place, but a power cut may still bring the earlier one back: the folder "
        "cannot be flushed: input/output error"
    )
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("nameless", [True, False])
def test_a_file_that_is_written_again_keeps_its_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool
) -> None:
    if not nameless:
        monkeypatch.delattr(os, "O_TMPFILE")
    path = tmp_path / "a"
    write_file(path, b"old")
    path.chmod(0o600)
    write_file(path, b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o7777) == (b"new", 0o600)


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("earlier", [None, 0o666, 0o640])
def test_a_file_of_ones_own_is_written_by_nobody_else_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool, earlier: int | None
) -> None:
    if not nameless:
        monkeypatch.delattr(os, "O_TMPFILE")
    path, umask = tmp_path / "a", os.umask(0)
    try:
        if earlier is not None:
            path.write_bytes(b"old")
            path.chmod(earlier)
        write_file(path, b"new", own=True)
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == (0o640 if earlier == 0o640 else 0o644)
    assert read_own_file(path, max_bytes=3) == b"new"


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_a_group_or_others_can_write_is_not_ones_own(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"new")
    path.chmod(mode)
    with pytest.raises(OSError, match="others can write it") as error:
        read_own_file(path, max_bytes=3)
    assert error.value.errno == errno.EPERM


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    target, link = tmp_path / "versions" / "1", tmp_path / "current"
    target.write_bytes(b"old")
    link.symlink_to(Path("versions") / "1")
    write_file(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert len(list(tmp_path.rglob("*"))) == 3


WRITER = """
import sys
from pathlib import Path
from mmkd_edge.bundle.files import write_file
versions = [Path(name).read_bytes() for name in sys.argv[2:]]
print("ready", flush=True)
while True:
    for version in versions:
        write_file(Path(sys.argv[1]), version)
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_bundle(kit: Any, tmp_path: Path) -> None:
    # 4 MB of model: long enough that most kills fall into a write.
    versions = [kit.parts(kit.modality, model=bytes([kind]) * (4 << 20)).write(tmp_path / str(kind)) for kind in (1, 2)]
    target = tmp_path / "target" / "student.edge"
    target.parent.mkdir()
    target.write_bytes(versions[0].read_bytes())
    whole = {path.read_bytes() for path in versions}
    moments = random.Random(7)
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(target), *map(str, versions)], stdout=subprocess.PIPE
        )
        with writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(moments.uniform(0.0, 0.05))
            writer.kill()
        Bundle.open(target).close()
        # What a kill between naming and renaming leaves is whole too: nothing half-written lies about.
        assert {path.read_bytes() for path in target.parent.iterdir()} <= whole


def test_a_user_can_correct_a_path_and_a_full_disk_and_nothing_else() -> None:
    assert is_of_a_path(OSError(errno.EACCES, "no", "file"))
    assert not is_of_a_path(OSError(errno.EACCES, "no"))  # a socket, for one
    assert is_of_a_path(OSError(errno.ENOSPC, "no"))
    assert not is_of_a_path(OSError(errno.EIO, "no", "file"))


def test_a_file_of_ones_own_is_a_regular_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is no regular file"):
        read_own_file(tmp_path / "pipe", max_bytes=10)


def test_without_a_home_directory_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert said(UsageError, lambda: cache_folder("profiles")) == (
        "profiles lie in the user's cache folder, and this user has no home directory; set XDG_CACHE_HOME"
    )
