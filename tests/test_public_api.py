"""What each package calls public is what it shows, and it is documented."""

from __future__ import annotations

import importlib
import inspect
import types

import pytest

PACKAGES = ["mmkd_edge", "mmkd_export", "mmkd_bench", "mmkd_models", "mmkd_report"]


def shown(module: types.ModuleType) -> set[str]:
    """Names that a user sees in a module: neither private, nor a module, nor what only type checkers read."""
    return {
        name
        for name, value in ((name, getattr(module, name)) for name in dir(module))
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and name not in ("annotations", "TYPE_CHECKING")
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_all_names_exactly_what_is_public(package: str) -> None:
    module = importlib.import_module(package)
    assert sorted(getattr(module, "__all__", [])) == sorted(shown(module))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__doc__
    undocumented = [
        name
        for name in getattr(module, "__all__", [])
        if (inspect.isclass(getattr(module, name)) or inspect.isfunction(getattr(module, name)))
        and not inspect.getdoc(getattr(module, name))
    ]
    assert undocumented == []
