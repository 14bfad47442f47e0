"""A bundle's bill of materials in CycloneDX 1.6 (ECMA-424), without time and serial number: equal for equal bundles."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from mmkd_edge.backends.base import BACKENDS
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import member_files, release_number

_REQUIRED = ("mmkd-edge", "numpy", "msgspec")
_CLASSIFIER = "License :: "
_TYPES = {".npz": "data"} | dict.fromkeys((".onnx", ".tflite", ".native"), "machine-learning-model")
_MAX_NAME_LENGTH = 100  # some distributions put the licence text here


def make_bill(path: Path) -> dict[str, Any]:
    """Verify a bundle and return its bill."""
    with Bundle.open(path) as bundle:
        manifest, sha256 = bundle.manifest, bundle.sha256
    whole = {
        "type": "machine-learning-model",
        "bom-ref": f"bundle:{sha256}",
        "name": manifest.model_id,
        "version": str(release_number(manifest)),
        **_hash_and_licence(sha256, manifest.licence),
    }
    members = [
        {
            "type": _TYPES.get(Path(entry.file).suffix, "file"),
            "bom-ref": f"file:{entry.file}",
            "name": entry.file,
            **_hash_and_licence(entry.sha256, ""),
        }
        for entry in member_files(manifest)
    ]
    makers = [
        {"type": "library", "bom-ref": f"maker:{name}@{version}", "name": name, "version": version}
        for name, version in sorted(manifest.tools.items())
    ]
    components = [*members, *_libraries()]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"tools": {"components": makers}, "component": whole},
        "components": components,
        "dependencies": [{"ref": whole["bom-ref"], "dependsOn": [part["bom-ref"] for part in components]}],
    }


def _hash_and_licence(sha256: str, licence: str) -> dict[str, Any]:
    hashes = {"hashes": [{"alg": "SHA-256", "content": sha256}]} if sha256 else {}
    return hashes | ({"licenses": [{"license": {"name": licence}}]} if licence else {})


def _libraries() -> Iterator[dict[str, Any]]:
    engines = dict.fromkeys(row.library()[1] for row in BACKENDS.values() if not row.is_own)
    for name in (*_REQUIRED, *engines):
        try:
            facts = metadata(name)
        except PackageNotFoundError:
            continue
        version = facts["Version"]
        classifiers = [text for text in facts.get_all("Classifier") or [] if text.startswith(_CLASSIFIER)]
        names = "; ".join(text.rpartition(" :: ")[2] for text in classifiers)
        expressions, texts = facts.get_all("License-Expression") or [], facts.get_all("License") or []
        first = texts[0].strip().partition("\n")[0] if texts else ""
        yield {
            "type": "library",
            "bom-ref": f"library:{name}@{version}",
            "name": name,
            "version": version,
            "scope": "required" if name in _REQUIRED else "optional",
            **_hash_and_licence("", expressions[0] if expressions else names or first[:_MAX_NAME_LENGTH]),
            "purl": f"pkg:pypi/{name}@{version}",
        }
