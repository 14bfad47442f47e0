"""The index of errors is that of the code."""

from __future__ import annotations

from mmkd_edge.errors import MmkdError
from proofs.error_index import PAGE, page, raised_in


def test_the_index_is_up_to_date() -> None:
    text = page()
    assert PAGE.read_text(encoding="utf-8") == text, "run: python benchmarks/proofs/error_index.py"


def test_the_index_has_every_error_and_every_exit_code_that_one_has() -> None:
    text = page()

    def below(error: type[Exception]) -> list[type[Exception]]:
        return [error, *(found for child in error.__subclasses__() for found in below(child))]

    ours = [error for error in below(MmkdError) if error.__module__.startswith("mmkd_")]
    assert len(ours) >= 16
    for error in ours:
        assert f"`{error.__module__}.{error.__name__}` | {error.exit_code} |" in text  # type: ignore[attr-defined]
        assert f"\n| {error.exit_code} | " in text  # type: ignore[attr-defined]


def test_packages_are_those_whose_code_raises() -> None:
    found = raised_in()
    assert {"mmkd_edge", "mmkd_export"} <= set(found["BundleError"])
    assert found["ForkedError"] == ["mmkd_edge"]
