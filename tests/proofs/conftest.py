"""Two small real bundles, of one sensor and one task: what the proofs look at in these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

BEFORE = Path(__file__).parents[1] / "before"


@pytest.fixture(scope="session")
def bundle() -> Path:
    return BEFORE / "student.edge"


@pytest.fixture(scope="session")
def other_bundle() -> Path:
    return BEFORE / "causal.edge"
