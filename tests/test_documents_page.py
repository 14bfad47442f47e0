"""The page of JSON documents is that of the code."""

import json
import re
import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_is_up_to_date():
    made = runpy.run_path(str(DOCS / "site" / "documents.py"))["page_of_documents"]()
    assert (DOCS / "documents.md").read_text(encoding="utf-8") == made, "run python docs/site/documents.py"


def test_the_site_has_the_schema_of_every_document_and_every_reference_in_it_leads_somewhere():
    schemas = runpy.run_path(str(DOCS / "site" / "documents.py"))["schemas"]()
    named = set(
        re.findall(r"^`[\w.]+\.(\w+)`$", (DOCS / "documents.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    )
    read = {"DatasetSpec", "ImportRecipe", "RunSpec", "ResultRecord", "AlarmRecord", "StateRecord"}
    assert set(schemas) == named | read
    for name, schema in schemas.items():
        text = json.dumps(schema)  # nothing but JSON is in it
        assert set(re.findall(r'"#/\$defs/(\w+)"', text)) == set(schema["$defs"]), name
    rule = schemas["Manifest"]["$defs"]["Artifact"]
    assert rule["properties"]["precision"] == {"enum": ["fp16", "fp32", "int8"]}
    assert schemas["AlarmRecord"]["$defs"]["AlarmRecord"]["properties"]["kind"] == {"enum": ["alarm"]}


def test_every_field_of_a_nested_part_is_named():
    page = (DOCS / "documents.md").read_text(encoding="utf-8")
    assert "| Percentile | `quantile`, `value_us`, `upper_us`, `floor` |" in page
