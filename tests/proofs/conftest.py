"""The tests of proofs train on the dataset of ten machines that the tests of the training side have."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_FILE = Path(__file__).parents[1] / "models" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("models_conftest", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
_shared = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_shared)

machines, one_thread = _shared.machines, _shared.one_thread
