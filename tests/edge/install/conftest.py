"""A state folder, and bundles to install in it."""

import pytest

from mmkd_edge import Bundle
from mmkd_edge.install.slots import install


def whole(path):
    """Prove a bundle by its hashes alone."""
    Bundle.open(path).close()


def conditions(slots):
    return [(slot.release, slot.condition) for slot in (slots.current, slots.previous) if slot is not None]


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def releases(kit, tmp_path):
    """The same student in releases 1 to 3."""
    parts = kit.parts(kit.modality)
    return {number: parts.with_manifest(release=number).write(tmp_path / f"{number}.edge") for number in (1, 2, 3)}


@pytest.fixture
def put(state, releases):
    """Installs releases, in order, each of which is whole."""

    def install_all(*numbers, **options):
        for number in numbers:
            slots = install(state, releases[number], prove=whole, **options)
        return slots

    return install_all
