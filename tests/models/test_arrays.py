"""Files of arrays: what comes back, and what a damaged or hostile one is told as."""

import os
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mmkd_models.arrays import ArraysError, check_whole, let_go, map_array, read_npz
from tests.edge.said import said


def test_arrays_come_back_as_written_and_what_is_changed_in_memory_stays(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "one.npy", values)
    np.savez_compressed(tmp_path / "two.npz", a=values, b=np.zeros((0, 3)))
    np.testing.assert_array_equal(map_array(tmp_path / "one.npy"), values)
    found = read_npz(tmp_path / "two.npz")
    np.testing.assert_array_equal(found["a"], values)
    assert found["b"].shape == (0, 3)
    np.save(tmp_path / "a.npy", np.ones(4096, dtype=np.float32))
    private = np.load(tmp_path / "a.npy", mmap_mode="c")
    private[:] = 2.0
    let_go(private)
    assert float(private.sum()) == 2 * 4096
    let_go(np.ones(3))


# What numpy 2 raised for some of these: TokenError, OverflowError, RecursionError, NotImplementedError, MemoryError.
HEADERS = [
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999999,), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9223372036854775807), }",
    b"(" * 9000,
    b"{'descr': [('a', '<f4', (2**62,))], 'fortran_order': False, 'shape': (), }",
    b"\xff\xfe",
    b"",
]


def test_a_header_that_is_none_is_one_error(tmp_path):
    for header in HEADERS:
        data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        (tmp_path / "one.npy").write_bytes(data)
        said(ArraysError, map_array, tmp_path / "one.npy")
        with zipfile.ZipFile(tmp_path / "two.npz", "w") as archive:
            archive.writestr("a.npy", data)
        said(ArraysError, read_npz, tmp_path / "two.npz")


def test_an_archive_that_unpacks_to_gigabytes_is_refused_before_it_does(tmp_path, monkeypatch):
    monkeypatch.setattr("mmkd_models.arrays.MAX_UNPACKED_BYTES", 1 << 26)  # a sixteenth, made in less time
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.npy", "w") as file,
    ):
        for _ in range(8):
            file.write(bytes(1 << 24))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert said(ArraysError, lambda: read_npz(path)) == (
        f"{path.stat().st_size} bytes unpack to {8 << 24}, more than 20 times as many; "
        "save it with numpy.savez, which does not compress"
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_an_archive_is_no_single_array_and_pickles_are_not_run(tmp_path):
    np.savez(tmp_path / "one.npz", a=np.zeros(2), b=np.array([{}], dtype=object))
    assert said(ArraysError, lambda: map_array(tmp_path / "one.npz")) == "an archive of several arrays"
    refusal = said(ArraysError, lambda: read_npz(tmp_path / "one.npz"))
    assert refusal == "Object arrays cannot be loaded when allow_pickle=False"


def test_a_file_that_is_cut_short_is_told_before_it_is_read_and_one_that_is_replaced_stays(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(9_000, dtype=np.float32).reshape(3, 1000, 3))
    array = map_array(path)
    views = (array, np.asarray(array), np.asarray(array).reshape(-1)[5:], array[1:])
    (tmp_path / "b.npy").write_bytes(b"")
    path.rename(tmp_path / "c.npy")
    (tmp_path / "b.npy").replace(path)
    for view in (*views, np.ones(3)[1:]):  # the last is not mapped
        check_whole(view)
    assert float(array[2, 999, 2]) == 8_999
    os.truncate(tmp_path / "c.npy", 4096)  # 128 bytes of header, 36,000 of values
    for view in views:
        told = said(ArraysError, check_whole, view)
        assert told.endswith("the file was cut short while it was in use: 36128 bytes became 4096")


def resident_bytes(path):
    """What of a mapped file counts as this process's own memory."""
    maps = Path("/proc/self/smaps").read_text().split(f" {path}\n")[1:]
    return sum(1024 * int(text.partition("Rss:")[2].split()[0]) for text in maps)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's account of memory")
def test_pages_that_were_read_are_given_back_and_say_the_same_when_read_again(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.ones(1 << 20, dtype=np.float32))
    array = map_array(path)
    assert float(array.sum()) == 1 << 20
    let_go(array, least_bytes=1 << 30)  # smaller than that: not worth the call
    assert resident_bytes(path) >= 4 << 20
    let_go(np.asarray(array)[5:])
    assert resident_bytes(path) == 0
    assert float(array.sum()) == 1 << 20
