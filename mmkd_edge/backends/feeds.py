"""An engine's own memory: filled with what a caller gives, and without an earlier answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAN = float("nan")


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


def erase(answers: Iterable[NDArray[Any]]) -> None:
    """Overwrite earlier answers with NaN, so that one that a call does not write cannot be taken for its answer."""
    for answer in answers:
        answer.fill(_NAN)
