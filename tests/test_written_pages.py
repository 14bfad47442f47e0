"""The pages that scripts write, of errors and of JSON documents, are those of the code."""

import json
import re
import runpy
from pathlib import Path

from mmkd_edge.errors import MmkdError

DOCS = Path(__file__).parents[1] / "docs"


def script(name):
    return runpy.run_path(str(DOCS / "site" / f"{name}.py"))


def test_the_index_of_errors_is_up_to_date_and_has_every_error_and_every_exit_code_that_one_has():
    def below(error):
        return [error, *(found for child in error.__subclasses__() for found in below(child))]

    page = script("errors")["page"]()
    assert (DOCS / "errors.md").read_text(encoding="utf-8") == page, "run: python docs/site/errors.py"
    ours = [error for error in below(MmkdError) if error.__module__.startswith("mmkd_")]
    assert len(ours) >= 15
    for error in ours:
        assert f"`{error.__module__}.{error.__name__}` | {error.exit_code} |" in page  # type: ignore[attr-defined]
        assert f"\n| {error.exit_code} | " in page  # type: ignore[attr-defined]
    raised = dict(re.findall(r"\.(\w+)` \| \d+ \| .* \| (.*) \|", page))
    assert raised["BundleError"] == "`mmkd_edge`, `mmkd_export`"
    assert raised["SignatureError"] == "`mmkd_edge`"


def test_the_page_of_documents_is_up_to_date_with_the_schema_of_each_whose_references_lead_somewhere():
    documents, page = script("documents"), (DOCS / "documents.md").read_text(encoding="utf-8")
    assert page == documents["page_of_documents"](), "run python docs/site/documents.py"
    schemas = documents["schemas"]()
    read = {"DatasetSpec", "ImportRecipe", "RunSpec", "ResultRecord", "AlarmRecord", "StateRecord"}
    assert set(schemas) == {*re.findall(r"^`[\w.]+\.(\w+)`$", page, flags=re.MULTILINE), *read}
    for name, schema in schemas.items():
        text = json.dumps(schema)  # nothing but JSON is in it
        assert set(re.findall(r'"#/\$defs/(\w+)"', text)) == set(schema["$defs"]), name
    rule = schemas["Manifest"]["$defs"]["Artifact"]
    assert rule["properties"]["precision"] == {"enum": ["fp16", "fp32", "int8"]}
    assert schemas["AlarmRecord"]["$defs"]["AlarmRecord"]["properties"]["kind"] == {"enum": ["alarm"]}
