"""The index of errors is that of the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from mmkd_edge.errors import MmkdError


@pytest.fixture(scope="module")
def errors() -> ModuleType:
    file = Path(__file__).parents[1] / "docs" / "site" / "errors.py"
    spec = importlib.util.spec_from_file_location("errors", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_index_is_up_to_date(errors: ModuleType) -> None:
    text = errors.page()
    assert errors.PAGE.read_text(encoding="utf-8") == text, "run: python docs/site/errors.py"


def test_the_index_has_every_error_and_every_exit_code_that_one_has(errors: ModuleType) -> None:
    text = errors.page()

    def below(error: type[Exception]) -> list[type[Exception]]:
        return [error, *(found for child in error.__subclasses__() for found in below(child))]

    ours = [error for error in below(MmkdError) if error.__module__.startswith("mmkd_")]
    assert len(ours) >= 15
    for error in ours:
        assert f"`{error.__module__}.{error.__name__}` | {error.exit_code} |" in text  # type: ignore[attr-defined]
        assert f"\n| {error.exit_code} | " in text  # type: ignore[attr-defined]


def test_packages_are_those_whose_code_raises(errors: ModuleType) -> None:
    found = errors.raised_in()
    assert {"mmkd_edge", "mmkd_export"} <= set(found["BundleError"])
    assert found["SignatureError"] == ["mmkd_edge"]
