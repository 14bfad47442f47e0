"""Two small real bundles, and the dataset of ten machines of the training side."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FILES = Path(__file__).parents[1] / "files"
_FILE = Path(__file__).parents[1] / "models" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("models_conftest", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
_shared = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_shared)

machines, one_thread = _shared.machines, _shared.one_thread


@pytest.fixture(scope="session")
def bundle() -> Path:
    return FILES / "student.edge"


@pytest.fixture(scope="session")
def other_bundle() -> Path:
    return FILES / "causal.edge"
