"""The owner of a folder: a JSON file written before anything is trained into it, and compared later."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import CheckpointError

Owner = TypeVar("Owner", bound=msgspec.Struct)


def owner_of_folder(path: Path, ours: Owner, *, what: str, cure: str) -> Owner:
    """Return the owner in a file; write ours if there is none.

    Args:
        path: the file; its folder is made.
        what: content of the file, for the error: "the options of a comparison".
        cure: remedy for a damaged one: "delete the folder".

    Raises CheckpointError if the file is damaged.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, msgspec.json.format(msgspec.json.encode(ours), indent=1))
        return ours
    try:
        return msgspec.json.decode(path.read_bytes(), type=type(ours))
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path}: expected {what}, got a damaged file ({error}); {cure}") from error
