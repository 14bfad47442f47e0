"""Every command of the distribution: what it is called and, in a line, what it is for. Imports none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

DISTRIBUTION = "mmkd-edge"
ONE_NAME = "mmkd"

ABOUTS: Mapping[str, str] = MappingProxyType(
    {
        "mmkd-demo": "The whole chain on shipped recordings, or on yours: which one sensor is enough?",
        "mmkd-data": "Import, check and describe dataset directories.",
        "mmkd-train": "Train a teacher, or a student on labels alone.",
        "mmkd-distill": "Distil teachers into a student of one sensor.",
        "mmkd-study": "Find the best student of one sensor within limits.",
        "mmkd-evaluate": "Judge a teacher or a student, also with sensors missing.",
        "mmkd-adapt": "Adapt a student to a new machine, person or campaign.",
        "mmkd-export": "Export a student to one verified bundle.",
        "mmkd-run": "Answer for sensors day and night.",
        "mmkd-edge": "Keys for signatures, and the bundles installed on this device.",
        "mmkd-bench": "Latency, memory and energy on the machine that runs a bundle.",
        "mmkd-inspect": "Show what is inside a bundle, a checkpoint or an engine.",
        "mmkd-doctor": "Show what this machine can run, and what installs the rest.",
    }
)
"""In the order of the work: from recordings to a device."""


def installed_commands() -> dict[str, Callable[[], Callable[[], object]]]:
    """The commands that the installed distribution has, in the order of the table; each gives its `main` when called.

    Empty where it is not installed but lies on the path, as a copied folder does.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = {one.name: one.load for one in distribution(DISTRIBUTION).entry_points}
    except PackageNotFoundError:
        return {}
    return {name: found[name] for name in ABOUTS if name in found}


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that a mistyped one most resembles; None where none is near."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word.lower(), known, n=1)), None)
