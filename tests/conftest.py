"""What holds for every test."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

# A run in the background may inherit an ignored SIGINT, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_profiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What was tuned on this machine must not decide how tests run, in their processes either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
