"""Lede and facts that several pages share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mmkd_app import words
from mmkd_documents.figures import LabelledGroups, Split


def lede(
    name: str,
    *,
    kind: str,
    labels: Sequence[str],
    groups: int | None,
    split: Split | None,
    label_fraction: float | None,
    labelled_groups: LabelledGroups | None,
) -> Iterator[str]:
    """Yield sentences about the dataset, its task, split and labels."""
    yield f"{name}."
    if labels:
        task = words.count_noun(len(labels), "class", "classes")
        if kind != "classification":
            several = f"{words.count_noun(len(labels), 'label')}, each on or off"
            task = f"The number {words.join_words(labels)}" if kind == "regression" else several
            task = "Normal running alone" if kind == "normal" else task
        yield task + (f", {words.count_noun(groups, 'group')}." if groups else ".")
    if split is not None:
        yield f"Judged on {split.judged_on}."
    if labelled_groups is not None:
        labelled = words.labelled_groups_text(labelled_groups)
        yield f"Training uses the labels of {labelled}, chosen by the seed; all validation windows are labelled."
    elif label_fraction is not None and label_fraction < 1:
        yield f"Training uses {words.short_percent(label_fraction)} of the labels, the same for every model."


def facts(mapping: Mapping[str, object] | None) -> list[tuple[str, str]]:
    """Return names as words and values as text, without empty ones."""
    return [(name.replace("_", " "), _fact(value)) for name, value in (mapping or {}).items() if _is_fact(value)]


def _is_fact(value: object) -> bool:
    return value is not None and value not in ("", [], (), {})


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(inner)}" for name, inner in value.items() if _is_fact(inner))
    if isinstance(value, list | tuple):
        return ", ".join(_fact(inner) for inner in value if _is_fact(inner))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return words.plain(value) if isinstance(value, float) else str(value)
