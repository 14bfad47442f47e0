"""A bill of materials in CycloneDX 1.6 (ECMA-424), as far as `mmkd-inspect --sbom` fills it.

Owns the schema alone. Names are those of the standard; what is not known is absent. There is no time and no serial
number in it: the same bundle on the same machine gives the same bytes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

ComponentType = Literal["application", "library", "machine-learning-model", "data", "file"]


class Hash(msgspec.Struct, frozen=True, kw_only=True):
    """A digest in hexadecimal."""

    alg: str
    content: str


class NamedLicence(msgspec.Struct, frozen=True, kw_only=True):
    """A licence by its name; SPDX identifiers are names too."""

    name: str


class Licence(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `licenses`."""

    license: NamedLicence


class Component(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a bundle is made of, or what makes or runs it.

    Attributes:
        ref: what `dependencies` call it.
        purl: where a library comes from (package URL).
        scope: whether a bundle needs it to run here; absent for what it is made of.
    """

    type: ComponentType
    ref: str = msgspec.field(name="bom-ref")
    name: str
    version: str = ""
    scope: Literal["required", "optional"] | None = None
    hashes: tuple[Hash, ...] = ()
    licenses: tuple[Licence, ...] = ()
    purl: str = ""


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What made the bundle."""

    components: tuple[Component, ...]


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What the bill is of, and what made that."""

    tools: Tools
    component: Component


class Dependency(msgspec.Struct, frozen=True, kw_only=True):
    """What something needs."""

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
