"""Mapped arrays whose file is cut short while it is in use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge.bundle.arrays import ArraysError, check_whole, let_go, map_array


def test_a_file_that_is_cut_short_is_told_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(9_000, dtype=np.float32).reshape(3, 1000, 3))
    array = map_array(path)
    views = (array, np.asarray(array), np.asarray(array).reshape(-1)[5:], array[1:])
    for view in views:
        check_whole(view)
    os.truncate(path, 4096)  # 128 bytes of header, 36,000 of values
    for view in views:
        with pytest.raises(ArraysError) as caught:
            check_whole(view)
        assert str(caught.value).endswith("the file was cut short while it was in use: 36128 bytes became 4096")


def test_a_file_that_is_replaced_stays_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.ones(9_000, dtype=np.float32))
    array = map_array(path)
    (tmp_path / "b.npy").write_bytes(b"")
    (tmp_path / "b.npy").replace(path)
    check_whole(array)
    assert float(array.sum()) == 9_000


def test_what_is_not_mapped_is_whole() -> None:
    check_whole(np.ones(3)[1:])


def resident_bytes(path: Path) -> int:
    """What of a mapped file counts as this process's own memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [number for number, line in enumerate(lines) if line.endswith(str(path))]
    return sum(1024 * int(lines[number + 1 :][_rss(lines[number + 1 :])].split()[1]) for number in starts)


def _rss(lines: list[str]) -> int:
    return next(number for number, line in enumerate(lines) if line.startswith("Rss:"))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's account of memory")
def test_pages_that_were_read_are_given_back_and_say_the_same_when_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.ones(1 << 20, dtype=np.float32))
    array = map_array(path)
    assert float(array.sum()) == 1 << 20
    let_go(array, least_bytes=1 << 30)  # smaller than that: not worth the call
    assert resident_bytes(path) >= 4 << 20
    let_go(np.asarray(array)[5:])
    assert resident_bytes(path) == 0
    assert float(array.sum()) == 1 << 20


def test_what_was_changed_in_memory_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.ones(4096, dtype=np.float32))
    private = np.load(path, mmap_mode="c")
    private[:] = 2.0
    let_go(private)
    assert float(private.sum()) == 2 * 4096
    let_go(np.ones(3))
