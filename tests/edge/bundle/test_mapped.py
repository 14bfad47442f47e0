"""Mapped arrays whose file is cut short while it is in use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge.bundle.arrays import ArraysError, check_whole, map_array


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
