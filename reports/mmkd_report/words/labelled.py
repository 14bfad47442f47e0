"""What was labelled, in words: a share of the windows, or whole groups; and what a share gives away."""

from __future__ import annotations

from mmkd_report.documents.figures import LabelLeak, LabelledGroups, Measure, Split
from mmkd_report.words.formats import share
from mmkd_report.words.measures import told


def of_groups(labelled: LabelledGroups) -> str:
    """`2 of 6 groups`, or `2 of 5 to 6 groups` where folds have not the same."""
    fewest, most = min(labelled.of), max(labelled.of)
    among = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"{labelled.labelled} of {among} groups"


def labelled_title(label_share: float | None, groups: LabelledGroups | None) -> str:
    """`10% labelled` or `2 of 6 groups labelled`, for a title; empty where nobody says."""
    if groups is not None:
        return f"{of_groups(groups)} labelled"
    return "" if label_share is None else f"{label_share:.0%} labelled"


def what_is_labelled(groups: LabelledGroups) -> str:
    """The sentence that says which labels were seen."""
    return (
        f"Labels of {of_groups(groups)} to train on are seen, chosen by the seed, and none of the others; "
        "validation windows are all labelled."
    )


def leak_sentence(leak: LabelLeak | None, label_share: float | None, measure: Measure, *, split: Split | None) -> str:
    """The sentence on a share of labels that leaks through time; empty where it does not, or nobody looked."""
    if leak is None or not leak.leaks or label_share is None:
        return ""
    scored, guessed = told(leak.figure.mean, measure), told(leak.guessing.figure, measure)
    tell = f"tell {scored} of the unlabelled ones"
    if measure.name != "accuracy":
        tell = f"reach {measure.words} {scored} on the unlabelled ones"
    what = f"labels of neighbouring windows {tell} without any sensor"
    has_groups = split is None or split.by == "groups"
    cure = "Label whole groups instead" if has_groups else "Write groups.npy, and label whole groups instead"
    return (
        f"A random {share(label_share)} of labels leaks through time: {what} (guessing: {guessed}). "
        f"{cure} (--labelled-groups)."
    )
