"""The fields of a CycloneDX 1.6 bill of materials (ECMA-424) in `mmkd-inspect --sbom`.

Without time and serial number, so that equal bundles and machines give equal bytes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

ComponentType = Literal["application", "library", "machine-learning-model", "data", "file"]


class Hash(msgspec.Struct, frozen=True, kw_only=True):
    """A hexadecimal digest."""

    alg: str
    content: str


class NamedLicence(msgspec.Struct, frozen=True, kw_only=True):
    """A licence by name or SPDX identifier."""

    name: str


class Licence(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `licenses`."""

    license: NamedLicence


class Component(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of a bundle, or a tool that makes or runs it."""

    type: ComponentType
    ref: str = msgspec.field(name="bom-ref")  # its name in `dependencies`
    name: str
    version: str = ""
    scope: Literal["required", "optional"] | None = None  # whether a bundle needs it to run here; absent for its parts
    hashes: tuple[Hash, ...] = ()
    licenses: tuple[Licence, ...] = ()
    purl: str = ""  # origin of a library (package URL)


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """The tools that made the bundle."""

    components: tuple[Component, ...]


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle and its tools."""

    tools: Tools
    component: Component


class Dependency(msgspec.Struct, frozen=True, kw_only=True):
    """What a component needs."""

    ref: str
    depends_on: tuple[str, ...] = msgspec.field(name="dependsOn")


class BillOfMaterials(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    bom_format: Literal["CycloneDX"] = msgspec.field(default="CycloneDX", name="bomFormat")
    spec_version: Literal["1.6"] = msgspec.field(default="1.6", name="specVersion")
    version: int = 1
    metadata: Metadata
    components: tuple[Component, ...]
    dependencies: tuple[Dependency, ...]
