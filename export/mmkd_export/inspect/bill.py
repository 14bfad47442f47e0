"""Bill of materials of a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

from mmkd_edge.backends.base import BACKENDS
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import member_files, release_number
from mmkd_report.schema.bill import (
    BillOfMaterials,
    Component,
    ComponentType,
    Dependency,
    Hash,
    Licence,
    Metadata,
    NamedLicence,
    Tools,
)

_REQUIRED = ("mmkd-edge", "numpy", "msgspec")
_CLASSIFIER = "License :: "
_TYPES: dict[str, ComponentType] = {
    ".onnx": "machine-learning-model",
    ".tflite": "machine-learning-model",
    ".native": "machine-learning-model",
    ".npz": "data",
}
_MAX_NAME_LENGTH = 100  # some distributions put the licence text here


def make_bill(path: Path) -> BillOfMaterials:
    """Verify a bundle and return its bill."""
    with Bundle.open(path) as bundle:
        manifest, sha256 = bundle.manifest, bundle.sha256
    whole = Component(
        type="machine-learning-model",
        ref=f"bundle:{sha256}",
        name=manifest.model_id,
        version=str(release_number(manifest)),
        hashes=(Hash(alg="SHA-256", content=sha256),),
        licenses=_licences(manifest.licence),
    )
    members = tuple(
        Component(
            type=_TYPES.get(Path(entry.file).suffix, "file"),
            ref=f"file:{entry.file}",
            name=entry.file,
            hashes=(Hash(alg="SHA-256", content=entry.sha256),),
        )
        for entry in member_files(manifest)
    )
    makers = tuple(
        Component(type="library", ref=f"maker:{name}@{version}", name=name, version=version)
        for name, version in sorted(manifest.tools.items())
    )
    components = (*members, *_libraries())
    return BillOfMaterials(
        metadata=Metadata(tools=Tools(components=makers), component=whole),
        components=components,
        dependencies=(Dependency(ref=whole.ref, depends_on=tuple(one.ref for one in components)),),
    )


def _libraries() -> Iterator[Component]:
    engines = dict.fromkeys(row.library()[1] for row in BACKENDS.values() if not row.is_own)
    for name in (*_REQUIRED, *engines):
        try:
            facts = metadata(name)
        except PackageNotFoundError:
            continue
        version = facts["Version"]
        yield Component(
            type="library",
            ref=f"library:{name}@{version}",
            name=name,
            version=version,
            scope="required" if name in _REQUIRED else "optional",
            licenses=_licences(_find_licence(facts)),
            purl=f"pkg:pypi/{name}@{version}",
        )


def _find_licence(facts: PackageMetadata) -> str:
    classifiers = [one for one in facts.get_all("Classifier") or [] if one.startswith(_CLASSIFIER)]
    names = "; ".join(one.rpartition(" :: ")[2] for one in classifiers)
    expressions, texts = facts.get_all("License-Expression") or [], facts.get_all("License") or []
    first = texts[0].strip().partition("\n")[0] if texts else ""
    return expressions[0] if expressions else names or first[:_MAX_NAME_LENGTH]


def _licences(text: str) -> tuple[Licence, ...]:
    return (Licence(license=NamedLicence(name=text)),) if text else ()
