"""Documents of figures become typed ones: what the reader of every page starts with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from mmkd_report.errors import DocumentError

Document = TypeVar("Document")


CORRECT_IT = "correct the value, or leave it out where it is optional"


def typed(
    document: Mapping[str, Any],
    kind: type[Document],
    *,
    name: str,
    version: int,
    inside: str | None = None,
    advice: str = CORRECT_IT,
) -> Document:
    """The typed form of a document.

    Args:
        document: as JSON values.
        kind: what it has to be.
        name: of the document, for errors: "demo".
        version: the format version that this release knows.
        inside: the key of the part that holds the version; None is the document itself.
        advice: what to do where a value is missing or mistyped.

    Raises:
        DocumentError: A format version that this release does not know, or a missing or mistyped value.
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
