"""The last step of every export: the number of the release, the signatures, and the file.

Owns in which order that happens: a signature is over the manifest as it is written, number and all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from mmkd_edge.bundle.bundle import write_bundle
from mmkd_edge.bundle.files import new_sha256
from mmkd_edge.bundle.manifest import Manifest
from mmkd_edge.bundle.manifest_json import encode_manifest
from mmkd_edge.install.keys import sign
from mmkd_export.plan import Seal


def write_sealed(path: Path, *, manifest: Manifest, members: Mapping[str, bytes], seal: Seal) -> None:
    """Write a bundle with its number and its signatures, all or nothing.

    Raises:
        UsageError: a key cannot sign, or the file cannot be written.
        UnavailableError: cryptography is missing.
    """
    if seal.release is not None:
        manifest = msgspec.structs.replace(manifest, release=seal.release)
    signatures = None
    if seal.keys:
        signatures = sign(new_sha256(encode_manifest(manifest)).hexdigest(), seal.keys)
    write_bundle(path, manifest=manifest, members=members, signatures=signatures)
