"""Files of arrays that are damaged or were made to harm: one error, before memory is taken."""

from __future__ import annotations

import contextlib
import io
import random
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge.bundle.arrays import ArraysError, map_array, read_npy, read_npz
from tests.edge.said import said


def test_arrays_come_back_as_they_were_written(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "one.npy", values)
    np.savez_compressed(tmp_path / "two.npz", a=values, b=np.zeros((0, 3)))
    np.testing.assert_array_equal(map_array(tmp_path / "one.npy"), values)
    found = read_npz(tmp_path / "two.npz")
    np.testing.assert_array_equal(found["a"], values)
    assert found["b"].shape == (0, 3)
    for one in (values, np.asfortranarray(values), values.astype(">i2"), np.float64(3)):
        file = io.BytesIO()
        np.save(file, one)
        np.testing.assert_array_equal(read_npy(file.getvalue()), one, strict=True)


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


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_a_header_that_is_none_is_one_error(tmp_path: Path, header: bytes) -> None:
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "one.npy").write_bytes(data)
    with pytest.raises(ArraysError):
        map_array(tmp_path / "one.npy")
    with pytest.raises(ArraysError):
        read_npy(data)
    with zipfile.ZipFile(tmp_path / "two.npz", "w") as archive:
        archive.writestr("a.npy", data)
    with pytest.raises(ArraysError):
        read_npz(tmp_path / "two.npz")


def test_damaged_files_are_one_error_or_arrays(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "sound.npz", a=np.arange(30.0), b=np.array(["x", "y"]))
    np.save(tmp_path / "sound.npy", np.arange(30.0))
    chance = random.Random(0)
    for name, read in (("sound.npz", read_npz), ("sound.npy", map_array)):
        sound = (tmp_path / name).read_bytes()
        for _ in range(300):
            data = bytearray(sound)
            for _ in range(chance.randint(1, 8)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            (tmp_path / "bad").write_bytes(data[: chance.randint(0, 2 * len(data))])
            with contextlib.suppress(ArraysError):
                read(tmp_path / "bad")


def test_an_archive_that_unpacks_to_gigabytes_is_refused_before_it_does(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    zeros = bytes(1 << 24)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.npy", "w") as file,
    ):
        for _ in range(65):
            file.write(zeros)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert said(ArraysError, lambda: read_npz(path)) == (
        f"{path.stat().st_size} bytes unpack to {65 << 24}, more than 20 times as many; "
        "save it with numpy.savez, which does not compress"
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_an_archive_is_no_single_array_and_pickles_are_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", a=np.zeros(2), b=np.array([{}], dtype=object))
    assert said(ArraysError, lambda: map_array(tmp_path / "one.npz")) == "an archive of several arrays"
    assert (
        said(ArraysError, lambda: read_npz(tmp_path / "one.npz"))
        == "Object arrays cannot be loaded when allow_pickle=False"
    )
