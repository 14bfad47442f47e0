"""Filling an engine's own memory with what a caller gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fill(places: Mapping[str, NDArray[Any]], feeds: Mapping[str, NDArray[Any]]) -> None:
    """Copy the feeds in; NumPy alone would also take what only fits after a cast or a broadcast.

    Raises:
        ValueError: other inputs, another shape or another type than the engine has.
    """
    if feeds.keys() != places.keys():
        wanted, found = ", ".join(places), ", ".join(feeds)
        raise ValueError(f"expected the inputs {wanted}, got {found or 'nothing'}")
    for name, place in places.items():
        values = feeds[name]
        if values.shape != place.shape or values.dtype != place.dtype:
            raise ValueError(f"input {name!r}: expected {place.dtype} {place.shape}, got {values.dtype} {values.shape}")
        place[:] = values
