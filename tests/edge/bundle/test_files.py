"""Files that are written whole."""

import errno
import os
from pathlib import Path

import pytest

from mmkd_edge import UsageError
from mmkd_edge.bundle import files
from mmkd_edge.bundle.files import cache_folder, is_path_error, read_own_file, write_file
from tests.edge.said import said


def failing(error):
    def fail(*arguments, **options):
        raise OSError(error, os.strerror(error)) if isinstance(error, int) else error

    return fail


@pytest.mark.parametrize(
    ("owner", "call", "error", "reason"),
    [
        (os, "open", errno.EACCES, "permission denied; choose a path that this user may use"),
        (os, "fsync", errno.ENOSPC, "no space left on device; free some space, or choose another folder"),
        (os, "fsync", errno.EIO, "input/output error"),
        (Path, "replace", errno.EROFS, "read-only file system; choose another folder"),
        (os, "fsync", KeyboardInterrupt, ""),
    ],
)
def test_a_failing_call_leaves_the_earlier_file_and_nothing_else(tmp_path, monkeypatch, owner, call, error, reason):
    path = tmp_path / "a"
    write_file(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(owner, call, failing(error))
        told = said(UsageError if reason else KeyboardInterrupt, lambda: write_file(path, b"new"))
    assert told == (reason and f"{path}: cannot write it: {reason}; an earlier file is left as it was")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("lacks", ["", "link", "O_TMPFILE"])
def test_a_file_is_written_whole_and_keeps_its_permissions(tmp_path, monkeypatch, lacks):
    path = tmp_path / "a"
    if lacks == "link":
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
    elif lacks:
        monkeypatch.delattr(os, "O_TMPFILE")
    write_file(path, b"old")
    path.chmod(0o600)
    write_file(path, b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o7777) == (b"new", 0o600)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_flushed_is_told_as_what_it_is(tmp_path, monkeypatch):
    path = tmp_path / "a"
    write_file(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(files, "flush_folder", failing(errno.EIO))
        told = said(UsageError, write_file, path, b"new")
    assert told == (
        f"{path}: the new file is in its place, but a power cut may still bring the earlier one back: the folder "
        "cannot be flushed: input/output error"
    )
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("earlier", [None, 0o666, 0o640])
def test_a_file_of_ones_own_is_written_by_nobody_else_and_read_again(tmp_path, monkeypatch, nameless, earlier):
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


def test_a_file_that_others_can_write_or_a_pipe_is_not_ones_own(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"new")
    for mode in (0o620, 0o602):
        path.chmod(mode)
        assert said(PermissionError, read_own_file, path, max_bytes=3).endswith("others can write it")
    os.mkfifo(tmp_path / "pipe")
    assert said(OSError, read_own_file, tmp_path / "pipe", max_bytes=10).endswith("it is no regular file")


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "versions").mkdir()
    target, link = tmp_path / "versions" / "1", tmp_path / "current"
    target.write_bytes(b"old")
    link.symlink_to(Path("versions") / "1")
    write_file(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert len(list(tmp_path.rglob("*"))) == 3


def test_a_user_can_correct_a_path_and_a_full_disk_and_nothing_else():
    assert is_path_error(OSError(errno.EACCES, "no", "file"))
    assert not is_path_error(OSError(errno.EACCES, "no"))  # a socket, for one
    assert is_path_error(OSError(errno.ENOSPC, "no"))
    assert not is_path_error(OSError(errno.EIO, "no", "file"))


def test_without_a_home_directory_the_variable_is_named(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", failing(RuntimeError("Could not determine home directory.")))
    told = "profiles lie in the user's cache folder, and this user has no home directory; set XDG_CACHE_HOME"
    assert said(UsageError, lambda: cache_folder("profiles")) == told
