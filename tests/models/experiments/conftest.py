"""Comparisons with rivals that need no half minute to be compiled."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick_rocket(quick_rocket):
    with quick_rocket():
        yield
