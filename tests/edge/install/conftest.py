"""A state folder, and bundles to install in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mmkd_edge import Bundle
from mmkd_edge.install.slots import Slots, install


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def releases(kit: Any, tmp_path: Path) -> dict[int, Path]:
    """The same student in releases 1 to 3."""
    parts, paths = kit.parts(kit.modality), {}
    for number in (1, 2, 3):
        manifest = msgspec.structs.replace(parts.manifest, release=number)
        paths[number] = type(parts)(manifest=manifest, members=parts.members).write(tmp_path / f"{number}.edge")
    return paths


@pytest.fixture
def put(state: Path, releases: dict[int, Path]) -> Callable[..., Slots]:
    """Installs releases, in order, each of which is whole."""

    def install_all(*numbers: int, **options: Any) -> Slots:
        for number in numbers:
            slots = install(state, releases[number], prove=lambda path: Bundle.open(path).close(), **options)
        return slots

    return install_all
