import errno
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmkd_edge import Bundle, UsageError
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
        with pytest.raises(UsageError) as caught:
            write_file(path, b"new")
    assert str(caught.value) == (
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
        with pytest.raises(OSError, match="others can write it") as error:
            read_own_file(path, max_bytes=3)
        assert error.value.errno == errno.EPERM
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is no regular file"):
        read_own_file(tmp_path / "pipe", max_bytes=10)


def test_a_link_stays_a_link(tmp_path):
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


def test_a_writer_killed_at_any_moment_leaves_a_whole_bundle(kit, tmp_path):
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


def test_a_user_can_correct_a_path_and_a_full_disk_and_nothing_else():
    assert is_path_error(OSError(errno.EACCES, "no", "file"))
    assert not is_path_error(OSError(errno.EACCES, "no"))  # a socket, for one
    assert is_path_error(OSError(errno.ENOSPC, "no"))
    assert not is_path_error(OSError(errno.EIO, "no", "file"))


def test_without_a_home_directory_the_variable_is_named(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert said(UsageError, lambda: cache_folder("profiles")) == (
        "profiles lie in the user's cache folder, and this user has no home directory; set XDG_CACHE_HOME"
    )
