"""What a bundle has passed on this machine: kept where this user alone can write, and doubted wherever else."""

import json
import os

import pytest

from mmkd_edge.opening.sandbox import passed_before, remember_passed

SHA256 = "a" * 64


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_has_passed_is_known_later_the_latest_last_and_not_for_ever(cache):
    assert passed_before(SHA256) == ()
    assert remember_passed(SHA256, ("one", "two")) == ""
    assert remember_passed(SHA256, ("one",)) == ""
    assert passed_before(SHA256) == ("two", "one")
    assert passed_before("b" * 64) == ()
    remember_passed(SHA256, tuple(map(str, range(64))))
    assert passed_before(SHA256) == tuple(map(str, range(64)))


def changed(**change):
    return lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | change))


@pytest.mark.parametrize(
    "damage",
    [
        changed(format_version=1),
        changed(bundle_sha256="b" * 64),
        changed(surprise=1),
        lambda file: file.write_text("{"),
        lambda file: file.chmod(0o666),
        lambda file: (file.unlink(), os.mkfifo(file)),
    ],
)
def test_a_verdict_that_is_not_ours_says_nothing(cache, damage):
    remember_passed(SHA256, ("one",))
    (file,) = (cache / "mmkd-edge" / "verdicts").iterdir()
    damage(file)
    assert passed_before(SHA256) == ()


def test_a_folder_that_others_can_write_is_neither_read_nor_written(cache):
    remember_passed(SHA256, ("one",))
    folder = cache / "mmkd-edge" / "verdicts"
    folder.chmod(0o770)
    assert passed_before(SHA256) == ()
    assert remember_passed(SHA256, ("two",)) == f"{folder}: others can write it; give it to this user alone: chmod 700"
    folder.chmod(0o700)
    assert passed_before(SHA256) == ("one",)


def test_where_nothing_can_be_kept_the_reason_is_given(cache, monkeypatch):
    cache.write_text("a file")
    assert remember_passed(SHA256, ("one",)) == (
        f"{cache}/mmkd-edge/verdicts: cannot make this folder: not a directory; set XDG_CACHE_HOME to another"
    )
    assert passed_before(SHA256) == ()
