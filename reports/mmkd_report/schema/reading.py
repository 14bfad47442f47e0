"""Typed documents, or errors that name the place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from mmkd_report.errors import DocumentError

Document = TypeVar("Document")


def convert_document(
    document: Mapping[str, Any],
    kind: type[Document],
    *,
    name: str,
    version: int,
    inside: str | None = None,
    advice: str = "correct the value, or leave it out where it is optional",
) -> Document:
    """Return typed JSON values; `inside` is the key of the part that holds the version, if not the whole.

    Raises DocumentError for another format version, or a missing or mistyped value.
    """
    part = document if inside is None else document.get(inside)
    found = part.get("format_version") if isinstance(part, Mapping) else None
    if found != version:
        key = "format_version" if inside is None else f"{inside}.format_version"
        raise DocumentError(
            f"{name} document: expected {key} {version}, got {found!r}; "
            "make the page with the release that made the document"
        )
    try:
        return msgspec.convert(dict(document), kind)
    except msgspec.ValidationError as error:
        raise DocumentError(f"{name} document: {error}; {advice}") from error
