"""A state folder, and bundles to install in it."""

import pytest

from mmkd_edge import Bundle
from mmkd_edge.install.slots import install

HELD = "passed when the bundle was installed"


def whole(path):
    Bundle.open(path).close()


def conditions(slots):
    return [(slot.release, slot.condition) for slot in (slots.current, slots.previous) if slot is not None]


def returned(slots, reason):
    """How the bundle before came to answer, where `slots` were on the disk when the current one failed."""
    return f"{HELD}; {why_returned(slots, reason)}"


def why_returned(slots, reason):
    one, two = slots.previous.sha256[:8], slots.current.sha256[:8]
    return f"returned to release 1 (made-up-acc, {one}), since release 2 (made-up-acc, {two}) failed: {reason}"


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def releases(kit, tmp_path):
    parts = kit.parts(kit.modality)
    return {number: parts.with_manifest(release=number).write(tmp_path / f"{number}.edge") for number in (1, 2, 3)}


@pytest.fixture
def put(state, releases):

    def install_all(*numbers, **options):
        for number in numbers:
            slots = install(state, releases[number], prove=whole, **options)
        return slots

    return install_all
