"""Bills of materials in CycloneDX 1.6 (ECMA-424), without time and serial number: equal files have equal bills."""

from __future__ import annotations

import csv
import re
import zipfile
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from email import message_from_bytes
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from mmkd_edge.backends.base import BACKENDS
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.files import new_sha256
from mmkd_edge.bundle.manifest import member_files, release_number
from mmkd_edge.errors import ArtifactError, os_reason

_REQUIRED = ("mmkd-edge", "numpy", "msgspec")
_CLASSIFIER = "License :: "
_TYPES = {".npz": "data"} | dict.fromkeys((".onnx", ".tflite", ".native"), "machine-learning-model")
_MAX_NAME_LENGTH = 100  # some distributions put the licence text here
# Sources of others in the native engine: name, version, licence and package URL.
_VENDORED = {
    "mmkd_edge/native/third_party/jsmn.h": ("jsmn", "1.1.0", "MIT", "pkg:github/zserge/jsmn@v1.1.0"),
    "mmkd_edge/native/third_party/monocypher.c": (
        "monocypher", "4.0.3", "BSD-2-Clause OR CC0-1.0", "pkg:github/LoupVaillant/Monocypher@4.0.3",
    ),
}  # fmt: skip


def make_bill(path: Path) -> dict[str, Any]:
    """Verify a bundle and return its bill."""
    with Bundle.open(path) as bundle:
        manifest, sha256 = bundle.manifest, bundle.sha256
    version = {"version": str(release_number(manifest))}
    model = _component("machine-learning-model", f"bundle:{sha256}", manifest.model_id, **version)
    whole = model | _hash_and_licence(sha256, manifest.licence)
    members = [
        _component(_TYPES.get(Path(entry.file).suffix, "file"), f"file:{entry.file}", entry.file)
        | _hash_and_licence(entry.sha256, "")
        for entry in member_files(manifest)
    ]
    makers = [
        _component("library", f"maker:{name}@{version}", name, version=version)
        for name, version in sorted(manifest.tools.items())
    ]
    return _document(whole, [*members, *_libraries()], makers)


def make_wheel_bill(path: Path) -> dict[str, Any]:
    """Verify a wheel by its RECORD and return its bill: files, sources of others, and required distributions."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
            facts = message_from_bytes(archive.read(names["METADATA"]))
            rows = list(csv.reader(archive.read(names["RECORD"]).decode().splitlines()))
            digests = {name: new_sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
        sha256 = new_sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read it: {os_reason(error)}") from error
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: expected a wheel, got another or a damaged file; build it again") from error
    recorded = {
        name: urlsafe_b64decode(f"{digest.partition('=')[2]}=").hex() if digest else digests.get(name, "")
        for name, digest, _ in rows
    }
    if recorded != digests:
        changed = sorted(name for name in recorded | digests if recorded.get(name) != digests.get(name))
        raise ArtifactError(f"{path}: {changed[0]} is not as its RECORD has it; build it again")
    name, version = str(facts["Name"]), str(facts["Version"])
    whole = _component("library", f"wheel:{sha256}", name, version=version)
    whole |= _hash_and_licence(sha256, str(facts["License-Expression"] or "")) | {"purl": f"pkg:pypi/{name}@{version}"}
    files = [
        _component("file", f"file:{file}", file) | _hash_and_licence(digest, "")
        for file, digest in sorted(digests.items())
    ]
    vendored = [
        _component("library", purl, library, version=release)
        | _hash_and_licence(digests[file], licence)
        | {"purl": purl}
        for file, (library, release, licence, purl) in _VENDORED.items()
        if file in digests
    ]
    needs = [text for text in facts.get_all("Requires-Dist") or [] if not text.startswith(f"{name}[")]
    return _document(whole, [*files, *vendored, *map(_requirement, sorted(needs))], [])


def _requirement(text: str) -> dict[str, Any]:
    name = re.split(r"[^\w.-]", text)[0]
    scope, properties = "optional" if "extra ==" in text else "required", [{"name": "requirement", "value": text}]
    purl = f"pkg:pypi/{name.lower()}"
    return _component("library", f"requirement:{text}", name, scope=scope, purl=purl, properties=properties)


def _component(kind: str, reference: str, name: str, **facts: Any) -> dict[str, Any]:
    return {"type": kind, "bom-ref": reference, "name": name, **facts}


def _document(whole: dict[str, Any], components: list[dict[str, Any]], makers: list[dict[str, Any]]) -> dict[str, Any]:
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
        scope = "required" if name in _REQUIRED else "optional"
        yield (
            _component("library", f"library:{name}@{version}", name, version=version, scope=scope)
            | _hash_and_licence("", expressions[0] if expressions else names or first[:_MAX_NAME_LENGTH])
            | {"purl": f"pkg:pypi/{name}@{version}"}
        )
