"""The index of errors is that of the code."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

from mmkd_edge.errors import MmkdError

ERRORS = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "docs" / "site" / "errors.py")))
PAGE = ERRORS.PAGE.read_text(encoding="utf-8")


def test_the_index_is_up_to_date():
    assert ERRORS.page() == PAGE, "run: python docs/site/errors.py"


def test_the_index_has_every_error_and_every_exit_code_that_one_has():
    def below(error):
        return [error, *(found for child in error.__subclasses__() for found in below(child))]

    ours = [error for error in below(MmkdError) if error.__module__.startswith("mmkd_")]
    assert len(ours) >= 15
    for error in ours:
        assert f"`{error.__module__}.{error.__name__}` | {error.exit_code} |" in PAGE  # type: ignore[attr-defined]
        assert f"\n| {error.exit_code} | " in PAGE  # type: ignore[attr-defined]


def test_packages_are_those_whose_code_raises():
    raised = dict(re.findall(r"\.(\w+)` \| \d+ \| .* \| (.*) \|", PAGE))
    assert raised["BundleError"] == "`mmkd_edge`, `mmkd_export`"
    assert raised["SignatureError"] == "`mmkd_edge`"
