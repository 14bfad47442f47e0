"""A checkpoint that a training would replace: of the same data and settings, or else refused with what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_models.networks.config import StudentConfig, TeacherConfig
from mmkd_models.tensors import documents_of
from mmkd_models.training.checkpoint import Provenance

_CURE = "choose another name, or add --force to replace it"
_OUTCOMES = {
    "group_reference",
    "hybrid",
    "dataset",
    "dataset_sha256",
    "licence",
    "score",
    "best_step",
    "curve",
    "prior_tau",
    "shipped",
    "race",
    "beaten_teachers_sha256",
    "training_hashes",
    "versions",
}
_MOST_TOLD = 3
_LONGEST = 80


def check_replaced(
    output: Path,
    *,
    kind: str,
    modalities: Sequence[str],
    config: StudentConfig | TeacherConfig,
    facts: Provenance,
    teachers: int = 1,
    start_sha256: str | None = None,
    members: Sequence[str] = (),
    choose: bool = False,
) -> None:
    """Refuses to replace a file that is something else than an earlier result of the same training.

    Args:
        kind: student, teacher or teacher-set.
        facts: what is known of it before the training.
        teachers: how many a teacher-set has.
        start_sha256: of the student that practises INT8.
        members: of a committee; a single one is none.
        choose: whether validation will choose among several ways of training.

    Raises UsageError where the file holds something else, or is of other data or settings.
    """
    if not output.exists():
        return
    found = documents_of(output)
    if kind not in found:
        what = next((f"a {other} checkpoint, not a {kind} one" for other in found), "no checkpoint of mmkd-edge")
        raise UsageError(f"{output}: exists, and is {what}; {_CURE}")
    earlier = _earlier(found[kind], type(config))
    if earlier is None:
        raise UsageError(f"{output}: exists, and another version of mmkd-edge made it; {_CURE}")
    ours = _traits(facts, config, modalities, teachers, start_sha256, members if len(members) > 1 else (), choose)
    left_open = _left_open(earlier)
    changes = [
        _change(name, str(earlier.get(name)), str(ours.get(name)))
        for name in {**ours, **earlier}
        if earlier.get(name) != ours.get(name) and name.split(".")[0] not in left_open and name not in left_open
    ]
    if changes:
        more = f" and {len(changes) - _MOST_TOLD} more" if len(changes) > _MOST_TOLD else ""
        told = ", ".join(changes[:_MOST_TOLD])
        raise UsageError(f"{output}: exists, and was trained otherwise: {told}{more}; {_CURE}")


def _earlier(document: bytes, config: type[StudentConfig | TeacherConfig]) -> dict[str, Any] | None:
    """The traits of a checkpoint by its metadata; None where another version wrote it."""
    try:
        found = msgspec.json.decode(document)
        several = found["facts"] if isinstance(found["facts"], list) else [found["facts"]]
        facts = msgspec.convert(several[0], Provenance)
        specs = found["modalities"] if "modalities" in found else [found["modality"]]
        return _traits(
            facts,
            msgspec.convert(found["config"], config),
            [spec["name"] for spec in specs],
            len(several),
            (found.get("int8") or {}).get("student_sha256"),
            # Nobody asks for those of a single sensor: validation does.
            [one["kind"] for one in (found.get("committee") or {}).get("members", ()) if "modality" not in one],
            bool(facts.race),
        )
    except (msgspec.MsgspecError, KeyError, TypeError, IndexError):
        return None


def _traits(
    facts: Provenance,
    config: StudentConfig | TeacherConfig,
    modalities: Sequence[str],
    teachers: int,
    start_sha256: str | None,
    members: Sequence[str],
    choose: bool,
) -> dict[str, Any]:
    """What decides a result, flat, in the order in which a difference is told."""
    settings = {name: value for name, value in msgspec.to_builtins(facts).items() if name not in _OUTCOMES}
    return {
        "dataset": f"{facts.dataset} ({facts.dataset_sha256[:12]}...)",
        "modalities": ", ".join(modalities),
        "teachers": teachers,
        "start": start_sha256,
        "members": ", ".join(members) or "transformer",
        "choose": choose,
        **dict(_flat(_asked(config, facts))),
        **dict(_flat(settings)),
    }


def _asked(config: StudentConfig | TeacherConfig, facts: Provenance) -> dict[str, Any]:
    """The configuration as it was asked for: without the features that training drew, and a hybrid's kind."""
    asked: dict[str, Any] = msgspec.to_builtins(config)
    asked.pop("rocket", None)
    return asked | ({"kind": "hybrid"} if facts.hybrid else {})


def _left_open(earlier: Mapping[str, Any]) -> set[str]:
    """What a checkpoint does not tell of how it was asked for: validation chose it where others were trained too.

    Features have no recipe, labels alone no teacher, and windows that are not mixed may have been mixed in a rival.
    """
    found = set[str]()
    if (earlier["choose"] or earlier.get("kind") == "hybrid") and earlier.get("recipe", 0) is None:
        found |= {"recipe"}
    if earlier["choose"]:
        found |= {"kind"}
        found |= set() if earlier.get("augment.mixup") else {"augment.mixup"}
        found |= set() if earlier.get("teacher_sha256") else {"teacher_sha256", "further_teachers_sha256"}
    return found


def _flat(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _change(name: str, before: str, now: str) -> str:
    return f"{name} {before} is {now} now" if len(before + now) <= _LONGEST else f"{name} is another now"
