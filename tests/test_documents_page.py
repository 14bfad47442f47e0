"""The page of JSON documents is that of the code."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_is_up_to_date():
    made = runpy.run_path(str(DOCS / "site" / "documents.py"))["page_of_documents"]()
    assert (DOCS / "documents.md").read_text(encoding="utf-8") == made, "run python docs/site/documents.py"


def test_every_field_of_a_nested_part_is_named():
    page = (DOCS / "documents.md").read_text(encoding="utf-8")
    assert "| Percentile | `quantile`, `value_us`, `upper_us`, `floor` |" in page
