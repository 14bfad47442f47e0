"""A state folder, and bundles to install in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmkd_edge import Bundle
from mmkd_edge.install.slots import Slots, install

Put = Callable[..., Slots]


def whole(path: Path) -> None:
    """Prove a bundle by its hashes alone."""
    Bundle.open(path).close()


def conditions(slots: Slots) -> list[tuple[int, str]]:
    return [(slot.release, slot.condition) for slot in (slots.current, slots.previous) if slot is not None]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def releases(kit: Any, tmp_path: Path) -> dict[int, Path]:
    """The same student in releases 1 to 3."""
    parts = kit.parts(kit.modality)
    return {number: parts.with_manifest(release=number).write(tmp_path / f"{number}.edge") for number in (1, 2, 3)}


@pytest.fixture
def put(state: Path, releases: dict[int, Path]) -> Put:
    """Installs releases, in order, each of which is whole."""

    def install_all(*numbers: int, **options: Any) -> Slots:
        for number in numbers:
            slots = install(state, releases[number], prove=whole, **options)
        return slots

    return install_all
