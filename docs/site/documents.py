"""Write docs/documents.md: the fields of every JSON document that a command prints or writes.

python docs/site/documents.py
python docs/site/documents.py build/docs/pages/schemas    # instead the JSON Schema of each, for the site
"""

from __future__ import annotations

import importlib
import sys
import typing
from pathlib import Path

import msgspec
from msgspec import json

PAGE = Path(__file__).parents[1] / "documents.md"
DOCUMENTS = {
    "mmkd-bench run": "mmkd_documents.bench.BenchReport",
    "mmkd-bench compare": "mmkd_documents.bench.Comparison",
    "mmkd-bench compare, two models": "mmkd_documents.bench.PairReport",
    "mmkd-bench compare --rivals": "mmkd_documents.bench.RivalsReport",
    "mmkd-bench overhead": "mmkd_documents.bench.OverheadReport",
    "mmkd-bench capacity": "mmkd_documents.bench.CapacityReport",
    "mmkd-demo": "mmkd_documents.demo.DemoDocument",
    "mmkd-study": "mmkd_documents.study.StudyDocument",
    "mmkd-data report": "mmkd_documents.data.DataReport",
    "mmkd-evaluate": "mmkd_documents.judging.JudgingDocument",
    "mmkd-evaluate --sensors": "mmkd_documents.judging.SensorsDocument",
    "mmkd-evaluate --sensors --vary": "mmkd_documents.variants.VariantsDocument",
    "mmkd-adapt": "mmkd_documents.adaptation.AdaptationDocument",
    "mmkd-export": "mmkd_documents.export.ExportDocument",
    "mmkd-edge status": "mmkd_edge.install.status.DeviceStatus",
    "mmkd-run --shadow": "mmkd_edge.shadow.ShadowReport",
    "mmkd-inspect fleet": "mmkd_edge.install.status.Fleet",
    "manifest.json of a bundle": "mmkd_edge.bundle.manifest.Manifest",
}
# What commands read, and records; their pages describe them.
READ = (
    "mmkd_models.data.spec.DatasetSpec",
    "mmkd_models.data.importing.recipe.ImportRecipe",
    "mmkd_station.spec.RunSpec",
    "mmkd_station.records.ResultRecord",
    "mmkd_station.records.AlarmRecord",
    "mmkd_station.records.StateRecord",
)
HEAD = """# Fields of every JSON document

Made by `python docs/site/documents.py`. Numbers carry their unit in their name; fractions run from 0 to 1; null means
not measured. A reader refuses a `format_version` that it does not know.
`make docs` writes the JSON Schema of each to `schemas/NAME.json` of the site.
"""


def main() -> None:
    """Write the page, or the schemas into a folder."""
    if len(sys.argv) == 1:
        PAGE.write_text(page_of_documents(), encoding="utf-8")
        return
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (folder / f"{name}.json").write_bytes(json.format(json.encode(schema), indent=1))


def schemas() -> dict[str, dict[str, typing.Any]]:
    """Return the JSON Schema of every document, by the name of its struct."""
    found = {}
    for name in (*DOCUMENTS.values(), *READ):
        struct = _struct(name)
        dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": struct.__name__}
        found[struct.__name__] = {**dialect, **json.schema(struct)}
    return found


def _struct(name: str) -> type[msgspec.Struct]:
    module, _, struct = name.rpartition(".")
    kind: type[msgspec.Struct] = getattr(importlib.import_module(module), struct)
    return kind


def page_of_documents() -> str:
    """Return the page as Markdown."""
    parts = [HEAD]
    for title, name in DOCUMENTS.items():
        root = _struct(name)
        parts += [f"\n## {title}\n", f"`{name}`\n", "| part | fields |", "|---|---|"]
        for part in _structs(root):
            fields = ", ".join(f"`{field.encode_name}`" for field in msgspec.structs.fields(part))
            parts.append(f"| {part.__name__} | {fields} |")
    return "\n".join(parts) + "\n"


def _structs(root: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """Return a struct and all that its fields mention, in the order of first mention."""
    found = [root]
    for struct in found:
        waiting: list[typing.Any] = list(typing.get_type_hints(struct, include_extras=True).values())
        while waiting:
            kind = waiting.pop(0)
            waiting += typing.get_args(kind)
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in found:
                found.append(kind)
    return found


if __name__ == "__main__":
    main()
