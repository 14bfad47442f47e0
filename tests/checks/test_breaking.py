"""Injected engine failures cover every output, and a half-made ARM64 root is not taken as whole."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from checks.emulation import root
from checks.faulty_process import Breaking, OrtBackend

OUTPUTS = (np.ones((1, 3), np.float32), np.full((1, 3), 1 / 3, np.float32), np.ones((1, 1), np.float32))


@pytest.mark.parametrize("way", ["nothing", "a list", "NaN", "another shape"])
def test_an_engine_of_three_outputs_is_broken_in_every_way(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OrtBackend, "run", lambda backend, feeds: OUTPUTS)
    dice: Any = SimpleNamespace(random=lambda: 0.0, choice=lambda ways: way)
    given = Breaking(dice).run(None, {})  # type: ignore[arg-type]
    match way:
        case "nothing":
            assert given is None
        case "a list":
            assert given == [[[1.0, 1.0, 1.0]]]
        case "NaN":
            assert [one.shape for one in given] == [(1, 3), (1, 3), (1, 1)]
            assert all(np.isnan(one).all() for one in given)
        case "another shape":
            assert [one.shape for one in given] == [(1, 1), (1, 1), (1, 1)]


def test_a_root_that_was_begun_is_not_taken_as_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpacked(packages: int) -> Callable[..., None]:
        def unpack(folder: Path, **_: object) -> None:
            (folder / "usr/bin").mkdir(parents=True)
            (folder / "usr/bin/python3").touch()
            if packages < 2:
                raise subprocess.CalledProcessError(1, "dpkg")
            (folder / "usr/bin/more").touch()

        return unpack

    monkeypatch.setattr(root, "_unpack", unpacked(1))
    with pytest.raises(subprocess.CalledProcessError):
        root.make_root(tmp_path / "arm64", suite="trixie", mirror=None)
    monkeypatch.setattr(root, "_unpack", unpacked(2))
    made = root.make_root(tmp_path / "arm64", suite="trixie", mirror=None)
    assert (made.folder / "usr/bin/more").exists()
    assert not (tmp_path / "arm64.begun").exists()
